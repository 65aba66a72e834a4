"""Conditional accept over real sockets: rejections, and how a peer is told."""

from __future__ import annotations

import codecs
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.inspecting import ACCEPT, REJECT, inspecting
from tests.helpers.support import PATIENCE, fate_of, read_to_end, reset, until
from tests.helpers.undecided import UNREAD
from trio_wsk import CloseStyle, ConnectionRequest, Status, Verdict
from trio_wsk._connection import block as _block
from trio_wsk._connection import last_words as _last_words
from trio_wsk.observers import CallbackFailed, CloseStyleUnavailable, RequestRejected
from trio_wsk.transports._socket_request import can_be_silent

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import InspectAction

    Inspect = Callable[[ConnectionRequest], Any]

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"

# What resolves names needs this codec, and looks for it once. The ordinary user that some tests
# are for a while may not be allowed to read root's own Python.
codecs.lookup("idna")


@pytest.mark.parametrize("sent", [b"", UNREAD], ids=["quiet", "unread"])
@pytest.mark.parametrize(
    ("close", "read", "end"),
    [
        (CloseStyle.RESET, b"", "reset"),
        (CloseStyle.FIN, b"", "fin"),
        (b"421 busy\r\n", b"421 busy\r\n", "fin"),
    ],
    ids=["reset", "fin", "message"],
)
async def test_rejected_peer_reads(
    close: CloseStyle | bytes,
    read: bytes,
    end: str,
    sent: bytes,
    place: dict[str, Any],
    inspector: Callable[[Verdict], Inspect],
) -> None:
    """
    A reset, FIN, or the message and then FIN, also if it has sent what nobody has read.
    A Unix socket has no reset: there the peer reads the end, or an error.
    """
    async with inspecting(inspector(Verdict(REJECT, "over-quota", close)), **place) as desk:
        client = desk.client(sent)
        received = b""
        try:
            with trio.fail_after(PATIENCE):
                while data := await client.receive_some():
                    received += data
            fate = "fin"
        except trio.BrokenResourceError:
            fate = "reset"

        assert read == received
        if "path" not in place or close is not CloseStyle.RESET:
            assert end == fate
        assert {"over-quota": 1} == dict(desk.statistics().rejected)
        assert 0 == desk.statistics().close_fallbacks

    (record,) = desk.told(RequestRejected)
    style = CloseStyle.MESSAGE if isinstance(close, bytes) else close

    assert ("over-quota", style) == (record.reason, record.close)
    assert desk.asked[0].inspect_id == record.inspect_id
    assert desk.asked[0].remote_address == record.remote_address
    assert [] == desk.told(CloseStyleUnavailable)


async def test_plain_rejection_is_a_reset_that_is_counted_as_rejected(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """InspectAction.REJECT needs no more words."""
    async with inspecting(inspector(REJECT)) as desk:
        client, _ = await desk.ask()

        assert "reset" == await fate_of(client)
        assert {"rejected": 1} == dict(desk.statistics().rejected)
    (record,) = desk.told(RequestRejected)

    assert ("rejected", CloseStyle.RESET) == (record.reason, record.close)


async def test_nothing_follows_a_rejection(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """
    Neither a connection nor an abort: also not if an accept is queued, the peer leaves or
    somebody completes it once more.
    """
    async with inspecting(inspector(REJECT)) as desk:
        irp = desk.listening.queue_accept()
        client, request = await desk.ask(b"unread")
        await desk.when(lambda: desk.statistics().rejected)
        reset(client)
        await wait_all_tasks_blocked()

        assert Status.NOT_FOUND == desk.complete(request, ACCEPT)
        assert None is request.aborted
        assert Status.PENDING is irp.status
        assert [] == desk.told_abort


async def test_each_attempt_after_a_rejection_is_a_new_request() -> None:
    """A client that tries again is asked about again, under an id of its own."""
    answers = [REJECT, REJECT, ACCEPT]
    async with inspecting(lambda _: answers[len(desk.asked) - 1]) as desk:
        for _ in range(2):
            assert "reset" == await fate_of((await desk.ask())[0])
        await desk.parked()

        assert 3 == len({request.inspect_id for request in desk.asked})
        assert {"rejected": 2} == dict(desk.statistics().rejected)
        assert 1 == desk.statistics().approved


async def test_rejections_are_counted_by_reason_and_not_by_too_many() -> None:
    """Reasons beyond a few dozen are counted together, since they may be of a peer's making."""
    async with inspecting(lambda _: Verdict(REJECT, f"reason-{len(desk.asked)}")) as desk:
        for _ in range(70):
            await fate_of((await desk.ask())[0])
        counted = desk.statistics().rejected

        assert 65 == len(counted)
        assert 6 == counted["other"]
        assert 1 == counted["reason-1"]


async def test_message_is_read_though_the_peer_goes_on_sending(
    inspector: Callable[[Verdict], Inspect],
) -> None:
    """Its input is taken and dropped, so that no reset makes its kernel forget the message."""
    async with inspecting(inspector(Verdict(REJECT, close=b"go away\n"))) as desk:
        client = desk.client(UNREAD)
        with trio.fail_after(PATIENCE):
            for _ in range(20):
                await client.send_all(bytes(1 << 16))
        await client.send_eof()

        assert b"go away\n" == await read_to_end(client)


async def test_longest_message_arrives_whole(inspector: Callable[[Verdict], Inspect]) -> None:
    """What a verdict takes, a send buffer takes at once."""
    message = bytes(range(256)) * 16
    async with inspecting(inspector(Verdict(REJECT, close=message))) as desk:
        assert message == await read_to_end(desk.client())


@pytest.mark.parametrize("close", [CloseStyle.FIN, b"go away\n"], ids=["fin", "message"])
@pytest.mark.parametrize("sent", [b"", b"unread"])
async def test_peer_that_was_faster_than_its_rejection_troubles_nobody(
    sent: bytes, close: CloseStyle | bytes
) -> None:
    """A rejection of somebody who has gone is counted as one, and that is all."""

    def inspect(request: ConnectionRequest) -> Verdict:
        reset(client)
        return Verdict(REJECT, close=close)

    async with inspecting(inspect) as desk:
        client = desk.client(sent)
        await desk.when(lambda: desk.told(RequestRejected))
        await wait_all_tasks_blocked()

        assert {"rejected": 1} == dict(desk.statistics().rejected)
    assert [] == desk.told(CallbackFailed)


async def send_until_reset(client: trio.SocketStream) -> None:
    """Send to somebody who has gone, until that shows."""
    with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
        while True:
            await client.send_all(b"x")


async def test_peer_that_never_reads_its_message_is_reset_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has a little time to finish, and no more: it holds a descriptor."""
    monkeypatch.setattr(_last_words, "READING_SECONDS", 0.05)
    async with inspecting(Verdict(REJECT, close=b"go away\n")) as desk:
        client, _ = await desk.ask()

        assert b"go away\n" == await client.receive_some()
        assert b"" == await client.receive_some()

        # It does not finish, so that it is cut off: what it sends then is answered with a reset.
        await send_until_reset(client)


async def test_peers_that_read_their_message_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the one that has had the longest time is reset."""
    monkeypatch.setattr(_last_words, "READING_MOST", 2)
    monkeypatch.setattr(_last_words, "READING_SECONDS", 10 * PATIENCE)
    monkeypatch.setattr(_block, "SILENT_SECONDS", 10 * PATIENCE)
    monkeypatch.setattr(_block, "TOTAL_SECONDS", 10 * PATIENCE)
    async with inspecting(Verdict(REJECT, close=b"go away\n")) as desk:
        clients = [(await desk.ask())[0] for _ in range(3)]
        for client in clients[1:]:
            assert b"go away\n" == await read_to_end(client)
            await client.send_all(b"thanks")
            await client.send_eof()
        first = clients[0].socket  # who sends nothing: much of it would be reset, too
        await until(lambda: first.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


async def test_peers_that_read_their_message_do_not_hold_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leaving it resets them, whatever time they would have had: they had their chance."""
    monkeypatch.setattr(_last_words, "READING_SECONDS", 10 * PATIENCE)
    with trio.fail_after(PATIENCE):
        async with inspecting(Verdict(REJECT, close=b"go away\n")) as desk:
            client, _ = await desk.ask()

            assert b"go away\n" == await read_to_end(client)

            still_there = trio.SocketStream(client.socket.dup())  # the desk closes its clients
            await still_there.send_all(b"but")
        await send_until_reset(still_there)

    assert {"rejected": 1} == dict(desk.statistics().rejected)

    await still_there.aclose()


@pytest.mark.skipif(not can_be_silent(), reason="silence takes a privilege (CAP_NET_ADMIN)")
async def test_silence_is_not_heard(inspector: Callable[[Verdict], Inspect]) -> None:
    """With the privilege, the peer hears nothing; what it sends later is answered with a reset."""
    async with inspecting(inspector(Verdict(REJECT, close=CloseStyle.SILENT))) as desk:
        client, _ = await desk.ask(b"unread")
        await desk.when(lambda: desk.told(RequestRejected))
        await wait_all_tasks_blocked()

        with pytest.raises(trio.WouldBlock):
            receive_nowait(client)
        assert 0 == desk.statistics().close_fallbacks
        assert CloseStyle.SILENT is desk.told(RequestRejected)[0].close

        await client.send_all(b"are you there?")

        assert "reset" == await fate_of(client)


def receive_nowait(client: trio.SocketStream) -> bytes:
    """Receive what is there."""
    with socket.fromfd(client.socket.fileno(), client.socket.family, socket.SOCK_STREAM) as peer:
        peer.settimeout(0)
        try:
            return peer.recv(1 << 16)
        except BlockingIOError:
            raise trio.WouldBlock from None


async def test_style_that_cannot_be_had_falls_back_to_a_reset_and_says_so(
    inspector: Callable[[Verdict], Inspect], ordinary_user: None
) -> None:
    """Without the privilege silence is a reset; each is counted and recorded."""
    async with inspecting(inspector(Verdict(REJECT, "spam", CloseStyle.SILENT))) as desk:
        client, request = await desk.ask()

        assert "reset" == await fate_of(client)
        assert 1 == desk.statistics().close_fallbacks
        assert {"spam": 1} == dict(desk.statistics().rejected)
    (record,) = desk.told(CloseStyleUnavailable)

    assert (CloseStyle.SILENT, request.remote_address) == (record.close, record.remote_address)
    assert [CloseStyle.RESET] == [each.close for each in desk.told(RequestRejected)]


@pytest.mark.parametrize("place", ["Unix"], indirect=True)
async def test_silence_on_a_unix_socket_falls_back_for_everybody(place: dict[str, Any]) -> None:
    """No privilege helps there: the peer reads the end."""
    async with inspecting(Verdict(REJECT, close=CloseStyle.SILENT), **place) as desk:
        assert b"" == await read_to_end((await desk.ask())[0])
        assert 1 == desk.statistics().close_fallbacks
