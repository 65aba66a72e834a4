"""Peers that are turned away with a message, and the time to read it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers.inspecting import Desk, Silent, inspecting
from tests.helpers.scarcity import open_descriptors
from tests.helpers.scripted import ScriptedRequest, ScriptedTransport
from tests.helpers.support import PATIENCE, connect, fate_of, read_to_end, reset, take_into, until
from trio_wsk import (
    CloseStyle,
    Connection,
    InspectAction,
    ListenDispatch,
    Verdict,
    open_listening_socket,
    open_server,
)
from trio_wsk._connection import last_words as _last_words
from trio_wsk._connection.last_words import READING_SECONDS
from trio_wsk.observers import (
    CloseStyleUnavailable,
    ConnectionAccepted,
    ConnectionEnded,
    RequestRejected,
    ServerStarted,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio_wsk import ConnectionRequest

pytestmark = pytest.mark.usefixtures("readiness")

BUSY = b"421 busy\r\n"
TOLD_BUSY = Verdict(InspectAction.REJECT, "busy", BUSY)

JUST = 0.001
"""A moment, on the virtual clock."""


async def rejected(desk: Desk, count: int = 1) -> None:
    """Wait until so many were turned away, and the pump has done what follows."""
    await desk.when(lambda: len(desk.told(RequestRejected)) >= count)
    await wait_all_tasks_blocked()


@pytest.fixture(params=["tcp", "unix"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Where to listen: on a port, or on a path."""
    return {"port": 0} if request.param == "tcp" else {"port": None, "path": tmp_path / "app.sock"}


async def connected(desk: Desk) -> trio.SocketStream:
    """Connect a client to either kind of place."""
    return await connect(desk.listening.local_addresses[0])


async def test_peer_reads_its_last_words_and_then_the_end(place: dict[str, Any]) -> None:
    """The message comes whole, followed by FIN and by nothing else."""
    async with inspecting(TOLD_BUSY, **place) as desk, await connected(desk) as client:
        assert BUSY == await read_to_end(client)


async def test_descriptor_is_given_back_when_the_peer_has_finished(place: dict[str, Any]) -> None:
    """Who has read its message and closes is waited for no longer."""
    async with inspecting(TOLD_BUSY, **place) as desk:
        await wait_all_tasks_blocked()
        before = open_descriptors()
        async with await connected(desk) as client:
            await read_to_end(client)

            assert before + 2 == open_descriptors()

        await until(lambda: before == open_descriptors())


async def test_peer_that_has_finished_before_is_told_all_the_same() -> None:
    """A half-closed peer still reads, and its descriptor is given back at once."""
    async with inspecting(TOLD_BUSY, abort_on_half_close=False) as desk:
        await wait_all_tasks_blocked()
        before = open_descriptors()
        async with await connected(desk) as client:
            await client.send_eof()

            assert BUSY == await read_to_end(client)

            await until(lambda: before + 1 == open_descriptors())


@pytest.mark.parametrize("leave", [reset, lambda client: client.socket.close()])
async def test_peer_that_leaves_without_reading_is_forgotten(
    leave: Callable[[trio.SocketStream], None],
) -> None:
    """Whoever goes before, during or after the message costs nothing further."""
    async with inspecting(TOLD_BUSY) as desk:
        await wait_all_tasks_blocked()
        before = open_descriptors()
        leave(desk.client())  # before anybody was asked
        client = desk.client()
        await rejected(desk)
        leave(client)
        await until(lambda: before == open_descriptors())
        counted = desk.statistics()

        assert {"busy": 2} == {**counted.rejected}
        assert {} == {**counted.aborted}


async def test_peer_that_stays_is_reset_when_its_time_is_over(autojump_clock: MockClock) -> None:
    """
    A peer that neither closes nor goes on has `READING_SECONDS` to read; then its descriptor is
    given back.
    """
    async with inspecting(TOLD_BUSY) as desk:
        await wait_all_tasks_blocked()
        before = open_descriptors()
        client = desk.client()
        await rejected(desk)
        await trio.sleep(READING_SECONDS - JUST)

        assert before + 2 == open_descriptors()

        await trio.sleep(2 * JUST)

        assert before + 1 == open_descriptors()
        assert BUSY == await client.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"Anybody there?")


async def test_each_peer_has_its_own_time(autojump_clock: MockClock) -> None:
    """The time begins with each one's message, not with the first one's."""
    async with inspecting(TOLD_BUSY) as desk:
        await wait_all_tasks_blocked()
        before = open_descriptors()
        left = []
        for count in range(1, 4):
            desk.client()
            await rejected(desk, count)
            await trio.sleep(READING_SECONDS / 4)
        await trio.sleep(JUST)
        for _ in range(4):
            left.append(open_descriptors() - before - 3)
            await trio.sleep(READING_SECONDS / 4)

        assert [3, 2, 1, 0] == left


async def test_there_may_be_only_so_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the peer that has had the longest goes; the others keep their words."""
    monkeypatch.setattr(_last_words, "READING_MOST", 2)
    async with inspecting(TOLD_BUSY) as desk:
        await wait_all_tasks_blocked()
        before = open_descriptors()
        clients = []
        for count in range(1, 5):
            clients.append(desk.client())
            await rejected(desk, count)

            assert before + count + min(count, 2) == open_descriptors()

        for client in clients[:2]:
            with pytest.raises(trio.BrokenResourceError):
                await client.send_all(b"Anybody there?")
        for client in clients[2:]:
            await client.send_all(b"Anybody there?")

            assert BUSY == await read_to_end(client)


async def test_what_the_peer_still_sends_is_thrown_away(place: dict[str, Any]) -> None:
    """More than any buffer holds can be sent, and the message is read all the same."""
    async with inspecting(TOLD_BUSY, **place) as desk, await connected(desk) as client:
        with trio.fail_after(PATIENCE):
            for _ in range(64):
                await client.send_all(bytes(1 << 16))
        await client.send_eof()

        assert BUSY == await read_to_end(client)


async def test_nobody_else_sees_the_connection() -> None:
    """It is neither delivered nor counted as one that was, and no callback is called with it."""
    seen: list[object] = []

    async def handle(connection: Connection) -> None:
        seen.append(connection)

    async with open_server(
        handle,
        0,
        host="127.0.0.1",
        inspect=lambda request: TOLD_BUSY,
        observers=[seen.append, Silent()],
    ) as server:
        async with await connect(server.local_addresses[0]) as client:
            assert BUSY == await read_to_end(client)

        counted = server.statistics()

        assert (0, 0, 0) == (counted.open_connections, counted.open_most, counted.served)
        assert 0 == sum(counted.listening.delivered.values())
        assert [ServerStarted, ConnectionAccepted, RequestRejected] == list(map(type, seen))


@pytest.mark.parametrize("way", ["drain", "abort"])
async def test_server_that_ends_tells_its_callbacks_nothing_of_them(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that drains counts none of them, and does not call ``drain`` with one."""
    monkeypatch.setattr(_last_words, "READING_SECONDS", 0.05)
    seen: list[Connection] = []
    dispatch = ListenDispatch(
        accept=take_into(seen), drain=seen.append, inspect=lambda request: TOLD_BUSY
    )
    records: list[object] = []
    async with open_server(
        dispatch, 0, host="127.0.0.1", observers=[records.append, Silent()]
    ) as server:
        client = await connect(server.local_addresses[0])
        await until(lambda: server.statistics().listening.rejected)
        await wait_all_tasks_blocked()
        if way == "drain":
            report = await server.drain(grace=30)

            assert (0, 0) == (report.finished, report.reset)
        else:
            server.abort()
        await client.aclose()

    assert [] == seen
    assert [] == [record for record in records if isinstance(record, ConnectionEnded)]


async def test_leaving_the_block_ends_them() -> None:
    """Nobody's last words outlive the block, and no descriptor does."""
    before = open_descriptors()
    async with open_listening_socket(
        0, host="127.0.0.1", inspect=lambda request: TOLD_BUSY, observers=[Silent()]
    ) as listening:
        client = await connect(listening.local_addresses[0])
        await until(lambda: listening.statistics().rejected)
        await wait_all_tasks_blocked()
    await client.aclose()

    assert before == open_descriptors()


async def test_closing_the_listening_socket_leaves_them_their_time(place: dict[str, Any]) -> None:
    """Who was told why before the listening socket was closed can still read it."""
    async with inspecting(TOLD_BUSY, **place) as desk:
        client = await connected(desk)
        await rejected(desk)
        await desk.listening.aclose()
        await wait_all_tasks_blocked()

        assert BUSY == await read_to_end(client)

        await client.aclose()


class Undecided(ScriptedTransport):
    """Says that it has FIN, and has no connection yet when it is told to send one."""

    def close_styles(self) -> frozenset[CloseStyle]:
        """Say so."""
        return frozenset({CloseStyle.RESET, CloseStyle.FIN})

    def arrive(self) -> ScriptedRequest:
        """A peer connects, whose handshake will take its time."""
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        request = ShakingHands(self, len(self.peers) + 1, theirs, ours)
        self.peers.append(request)
        self._append(request)
        return request


class ShakingHands(ScriptedRequest):
    """A peer whose connection is not there when it is approved."""

    def approve(self) -> bool:
        """Say so."""
        return False


async def test_peer_that_cannot_be_talked_to_is_reset() -> None:
    """A transport that has no connection to send the message on resets its peer, and says so."""
    transport = Undecided()
    silent = Silent()
    async with open_listening_socket(
        transport=transport, inspect=lambda request: TOLD_BUSY, observers=[silent]
    ) as listening:
        peer = transport.arrive()
        await wait_all_tasks_blocked()
        statistics = listening.statistics()

        assert "reset" == peer.answer
        assert ({"busy": 1}, 1) == (statistics.rejected, statistics.close_fallbacks)

    peer.leave()


async def test_style_is_recorded_as_it_was() -> None:
    """A rejection with a message says so in its record, and is no fallback."""
    async with inspecting(TOLD_BUSY) as desk:
        client = desk.client()
        await rejected(desk)
        (record,) = desk.told(RequestRejected)

        assert (CloseStyle.MESSAGE, "busy") == (record.close, record.reason)
        assert [] == desk.told(CloseStyleUnavailable)
        assert "fin" == await fate_of(client)


async def test_async_inspector_and_completion_have_last_words_too() -> None:
    """However late the verdict comes, the peer reads the message."""

    async def inspect(request: ConnectionRequest) -> Verdict | InspectAction:
        await trio.lowlevel.checkpoint()
        return TOLD_BUSY if await request.peek(1) == b"b" else InspectAction.PEND

    async with inspecting(inspect) as desk:
        client = desk.client(b"busy?")

        assert BUSY == await read_to_end(client)

        client, request = await desk.pended(b"pend")
        desk.complete(request, TOLD_BUSY)

        assert BUSY == await read_to_end(client)
