"""An accepted connection that waits for its answer."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.portable_peers import (
    PATIENCE,
    Keeper,
    connected,
    fate_of,
    leave_with_reset,
    owning,
)
from tests.helpers.scripted import spin_until
from tests.helpers.support import wait_in_task
from trio_wsk import CloseStyle
from trio_wsk._engine.readiness import HAVE_EPOLL, LOOK_SECONDS, EpollReadiness
from trio_wsk.transports import PeerEnd, PeerFaultError, PortableTransport
from trio_wsk.transports._contract import IDEAL_SEND_BACKLOG
from trio_wsk.transports._socket_request import can_be_silent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.helpers.portable_peers import Owner
    from trio_wsk._engine.readiness import Watch
    from trio_wsk.transports._contract import Channel
    from trio_wsk.transports._socket_request import PortableRequest

MULTIPATH_TCP = getattr(socket, "IPPROTO_MPTCP", 262)  # whose name is missing in some builds

edges_or_not = pytest.mark.parametrize(
    "edge_triggered",
    [
        pytest.param(
            True, marks=pytest.mark.skipif(not HAVE_EPOLL, reason="there is no epoll"), id="epoll"
        ),
        pytest.param(False, id="trio"),
    ],
)
needs_silence = pytest.mark.skipif(not can_be_silent(), reason="silence takes CAP_NET_ADMIN")


@pytest.fixture
async def owner() -> AsyncIterator[Owner]:
    """Own a transport that listens on all IPv4 addresses."""
    async with owning(PortableTransport.tcp(0, host="0.0.0.0")) as owner:  # noqa: S104
        yield owner


def connect(owner: Owner) -> socket.socket:
    """Connect to the owner's port on the loopback."""
    peer = socket.socket()
    peer.settimeout(10)
    peer.connect(("127.0.0.1", owner.address.port))
    return peer


# --- Answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"unread"])
async def test_reset_is_a_reset(sent: bytes, owner: Owner) -> None:
    """The peer gets RST, whether or not it has sent something."""
    with connect(owner) as peer:
        peer.sendall(sent)
        request = await owner.request()

        request.reset()

        assert "reset" == fate_of(peer)


@needs_silence
@pytest.mark.parametrize("sent", [b"", b"unread"])
async def test_silence_is_heard_only_by_who_speaks(sent: bytes, owner: Owner) -> None:
    """
    Who may, forgets the connection without a word, unread data or not; what the peer sends
    after that is answered by the kernel, which does not know it any more, with a reset.
    """
    with connect(owner) as peer:
        peer.sendall(sent)
        request = await owner.request()
        channel = request.accept()

        assert request.silence()
        assert -1 == channel.fileno()

        peer.setblocking(False)  # noqa: FBT003 - Python's
        with pytest.raises(BlockingIOError):
            peer.recv(1)
        peer.settimeout(PATIENCE)
        peer.sendall(b"Anybody there?")

        assert "reset" == fate_of(peer)


async def test_silence_of_who_may_not_is_a_reset(owner: Owner, ordinary_user: None) -> None:
    """Without the privilege the peer gets RST, and the answer says that it was heard."""
    with connect(owner) as peer:
        request = await owner.request()

        assert not request.silence()
        assert "reset" == fate_of(peer)


async def test_silence_on_a_unix_socket_is_an_end(tmp_path: Path) -> None:
    """There is no closing a Unix socket without a word, whoever asks."""
    async with owning(PortableTransport.unix(tmp_path / "app.sock")) as owner:
        with connected(owner.address) as peer:
            request = await owner.request()

            assert not request.silence()
            assert "end" == fate_of(peer)


async def test_transport_knows_whether_it_can_be_silent(owner: Owner, tmp_path: Path) -> None:
    """Silence is among the styles of a transport exactly if its requests can do it."""
    with connect(owner):
        may_be = (await owner.request()).silence()
    async with owning(PortableTransport.unix(tmp_path / "app.sock")) as unix:
        assert {CloseStyle.RESET, CloseStyle.FIN} == unix.transport.close_styles()

    assert may_be is can_be_silent()
    assert may_be is (CloseStyle.SILENT in owner.transport.close_styles())
    assert {CloseStyle.RESET, CloseStyle.FIN} <= owner.transport.close_styles()


def multipath_tcp() -> socket.socket:
    """Make a socket for Multipath TCP, or skip the test."""
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM, MULTIPATH_TCP)
    except OSError as error:
        pytest.skip(f"no Multipath TCP: {error.strerror}")


async def test_silence_is_not_promised_for_multipath_tcp() -> None:
    """
    A connection of Multipath TCP knows no repair mode, so silence is not among the styles of
    a transport that has adopted such a socket, and a request of it that is to be silenced is
    reset, and says so.
    """
    listening = multipath_tcp()
    listening.bind(("127.0.0.1", 0))
    async with owning(PortableTransport.adopt([listening])) as owner:
        with multipath_tcp() as peer:
            peer.connect(owner.address.sockaddr)
            request = await owner.request()

            assert {CloseStyle.RESET, CloseStyle.FIN} == owner.transport.close_styles()
            assert not request.silence()
            assert "reset" == fate_of(peer)


def test_ordinary_user_cannot_be_silent(ordinary_user: None) -> None:
    """Whether silence can be had is asked of the system, which may say no."""
    assert not can_be_silent()


async def test_finish_is_an_end_in_good_order(owner: Owner) -> None:
    """The peer gets FIN and nothing else."""
    with connect(owner) as peer:
        (await owner.request()).finish()

        assert "end" == fate_of(peer)


@pytest.mark.parametrize("octets", [1, 100_000])
async def test_finish_is_no_reset_although_input_is_unread(octets: int, owner: Owner) -> None:
    """What the peer has sent is dropped first, since closing on top of it would reset."""
    with connect(owner) as peer:
        peer.sendall(bytes(octets))
        request = await owner.request()
        channel = request.accept()
        while len(channel.recv(octets, socket.MSG_PEEK)) < min(octets, 50_000):
            await trio.lowlevel.checkpoint()

        request.finish()

        assert "end" == fate_of(peer)


@pytest.mark.parametrize("answer", ["reset", "finish", "silence"])
@pytest.mark.parametrize("leave", [leave_with_reset, socket.socket.close])
async def test_no_answer_raises_when_the_peer_has_gone(
    answer: str, leave: Callable[[socket.socket], None], owner: Owner
) -> None:
    """An answer to nobody is as good as any."""
    peer = connect(owner)
    request = await owner.request()
    channel = request.accept()
    leave(peer)
    await trio.lowlevel.wait_readable(channel)

    getattr(request, answer)()

    assert -1 == channel.fileno()


async def test_accepted_channel_is_non_blocking_and_not_for_children(owner: Owner) -> None:
    """Reading from it never waits, and it does not outlive an exec."""
    with connect(owner):
        request = await owner.request()
        channel = request.accept()

        with pytest.raises(BlockingIOError):
            channel.recv(1)
        assert fcntl.fcntl(channel, fcntl.F_GETFL) & os.O_NONBLOCK
        assert not os.get_inheritable(channel.fileno())

        channel.close()


def fill(channel: Channel) -> None:
    """Send until the kernel takes no more."""
    try:
        while True:
            channel.send(bytes(1 << 20))
    except BlockingIOError:
        pass


async def test_abort_drops_what_is_unsent_and_resets(owner: Owner) -> None:
    """A peer that does not read gets its reset at once, not after the data."""
    with connect(owner) as peer:
        request = await owner.request()
        channel = request.accept()
        fill(channel)

        request.abort(channel)

        assert -1 == channel.fileno()
        assert "reset" == fate_of(peer)


async def test_abort_of_a_closed_channel_is_nothing(owner: Owner) -> None:
    """Never raises, whoever was faster."""
    with connect(owner) as peer:
        request = await owner.request()
        channel = request.accept()
        channel.close()

        request.abort(channel)

        assert "end" == fate_of(peer)


# --- Whether the peer is there ------------------------------------------------------------------


def do_nothing(peer: socket.socket) -> None:
    """Stay."""


def send(peer: socket.socket) -> None:
    """Send something."""
    peer.sendall(b"data")


def send_fin(peer: socket.socket) -> None:
    """Finish sending."""
    peer.shutdown(socket.SHUT_WR)


REPORTED = {
    "alive": (False, [do_nothing]),
    "sent": (False, [send]),
    "fin": (False, [send_fin]),
    "data, fin": (False, [send, send_fin]),
    "closed": (False, [socket.socket.close]),
    "data, closed": (False, [send, socket.socket.close]),
    "reset": (True, [leave_with_reset]),
    "data, reset": (True, [send, leave_with_reset]),
    "fin, reset": (True, [send_fin, leave_with_reset]),
    "data, fin, reset": (True, [send, send_fin, leave_with_reset]),
}


@pytest.mark.parametrize(("gone", "deeds"), REPORTED.values(), ids=REPORTED)
@pytest.mark.parametrize("when", ["before accept", "after accept"])
async def test_only_a_reset_is_a_reset(
    *, when: str, gone: bool, deeds: list[Callable[[socket.socket], None]], owner: Owner
) -> None:
    """
    A reset is seen beside unread data and after a FIN; a FIN alone, or after data, is none.
    The answer is the same however often it is asked for, and reads nothing.
    """
    with connect(owner) as peer:
        if when == "before accept":
            for deed in deeds:
                deed(peer)
        request = await owner.request()
        channel = request.accept()
        if when == "after accept":
            for deed in deeds:
                deed(peer)
        # What the peer did last takes a moment to get here.
        expected = (gone, gone)
        with trio.move_on_after(10):
            if gone:
                while not request.was_reset():
                    await trio.lowlevel.checkpoint()
            elif deeds != [do_nothing]:
                await trio.lowlevel.wait_readable(channel)

        assert expected == (request.was_reset(), request.was_reset())
        if send in deeds:
            assert b"data" == channel.recv(10)

        request.reset()


async def test_connection_that_the_kernel_has_let_go_of_was_reset(owner: Owner) -> None:
    """If not even its error can be asked for, there is nobody to deliver."""
    with connect(owner):
        request = await owner.request()
        request.accept().close()

        assert request.was_reset()


# --- How the peer leaves ------------------------------------------------------------------------

REMAINS = None
TCP_ENDS = {
    "fin": ([send_fin], PeerEnd.FIN, PeerEnd.FIN),
    "closed": ([socket.socket.close], PeerEnd.FIN, PeerEnd.FIN),
    "data, fin": ([send, send_fin], PeerEnd.FIN_AFTER_DATA, REMAINS),
    "data, closed": ([send, socket.socket.close], PeerEnd.FIN_AFTER_DATA, REMAINS),
    "reset": ([leave_with_reset], PeerEnd.RESET, PeerEnd.RESET),
    "data, reset": ([send, leave_with_reset], PeerEnd.RESET, PeerEnd.RESET),
    "fin, reset": ([send_fin, leave_with_reset], PeerEnd.RESET, PeerEnd.RESET),
    "data, fin, reset": ([send, send_fin, leave_with_reset], PeerEnd.RESET, PeerEnd.RESET),
    "alive": ([do_nothing], REMAINS, REMAINS),
    "data": ([send], REMAINS, REMAINS),
}
"""What the peer does; how it is told by edges, and how by Trio's waits."""

UNIX_ENDS = {
    "fin": ([send_fin], PeerEnd.FIN, PeerEnd.FIN),
    "data, fin": ([send, send_fin], PeerEnd.FIN_AFTER_DATA, REMAINS),
    "closed": ([socket.socket.close], PeerEnd.CLOSED, PeerEnd.FIN),
    "data, closed": ([send, socket.socket.close], PeerEnd.CLOSED, REMAINS),
    "alive": ([do_nothing], REMAINS, REMAINS),
    "data": ([send], REMAINS, REMAINS),
}
"""The same on a Unix socket, which knows no reset, and tells a closed peer from a finished one."""

ENDS = [
    pytest.param(family, deeds, *told, id=f"{family}-{name}")
    for family, ends in {"v4": TCP_ENDS, "v6": TCP_ENDS, "unix": UNIX_ENDS}.items()
    for name, (deeds, *told) in ends.items()
]


@asynccontextmanager
async def owning_one(
    family: str, folder: Path, *, edge_triggered: bool = True
) -> AsyncIterator[tuple[Owner, PortableRequest, socket.socket]]:
    """Own a transport of this family that has one request, and have its peer."""
    if family == "unix":
        transport = PortableTransport.unix(folder / "app.sock")
    else:
        transport = PortableTransport.tcp(0, host={"v4": "127.0.0.1", "v6": "::1"}[family])
    async with owning(transport, edge_triggered=edge_triggered) as owner:
        with connected(owner.address) as peer:
            yield owner, await owner.request(), peer


@edges_or_not
@pytest.mark.parametrize(("family", "deeds", "by_edges", "by_looking"), ENDS)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_peer_that_leaves_is_told_how(
    *,
    when: str,
    family: str,
    deeds: list[Callable[[socket.socket], None]],
    by_edges: PeerEnd | None,
    by_looking: PeerEnd | None,
    edge_triggered: bool,
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """
    A watched request tells that its peer has left, and how, also behind unread data and also
    if that was true already, but not from inside `watch_end`; of one that is there it tells
    nothing. Trio's waits see no FIN behind data.
    """
    expected = by_edges if edge_triggered else by_looking
    keeper = Keeper()
    async with owning_one(family, tmp_path, edge_triggered=edge_triggered) as (
        owner,
        request,
        peer,
    ):
        if when == "after":
            keeper.watch(request, owner.readiness)
            await wait_all_tasks_blocked()
        for deed in deeds:
            deed(peer)
        if when == "before":
            keeper.watch(request, owner.readiness)
        if expected is None:
            await trio.sleep(3 * LOOK_SECONDS)  # on the virtual clock

            assert [] == keeper.told
        else:
            await keeper.is_told(expected)
            await trio.sleep(3 * LOOK_SECONDS)  # once is enough

            assert expected is keeper.told[-1]
        if send in deeds and expected is not PeerEnd.RESET:
            assert b"data" == request.accept().recv(10)
        request.reset()


@pytest.mark.parametrize("unread", [[], [send]])
@pytest.mark.parametrize(
    ("family", "further", "expected"),
    [
        ("v4", leave_with_reset, PeerEnd.RESET),
        ("v6", leave_with_reset, PeerEnd.RESET),
        ("unix", socket.socket.close, PeerEnd.CLOSED),
    ],
)
@pytest.mark.skipif(not HAVE_EPOLL, reason="there is no epoll")
async def test_peer_that_goes_further_is_told_again(
    family: str,
    further: Callable[[socket.socket], None],
    expected: PeerEnd,
    unread: list[Callable[[socket.socket], None]],
    tmp_path: Path,
) -> None:
    """A peer that has finished sending and then resets, or closes, is told once for each."""
    first = PeerEnd.FIN_AFTER_DATA if unread else PeerEnd.FIN
    keeper = Keeper()
    async with owning_one(family, tmp_path) as (owner, request, peer):
        keeper.watch(request, owner.readiness)
        for deed in [*unread, send_fin]:
            deed(peer)
        await keeper.is_told(first)
        further(peer)
        await keeper.is_told(expected)
        await wait_all_tasks_blocked()

        assert [first, expected] == keeper.told

        request.reset()


async def test_reset_after_fin_is_found_by_looking(autojump_clock: trio.testing.MockClock) -> None:
    """With Trio's waits, too, a peer that has finished and then resets is told for each."""
    keeper = Keeper()
    async with owning_one("v4", Path(), edge_triggered=False) as (owner, request, peer):
        keeper.watch(request, owner.readiness)
        send_fin(peer)
        await keeper.is_told(PeerEnd.FIN)
        began = trio.current_time()
        leave_with_reset(peer)
        await keeper.is_told(PeerEnd.RESET)

        assert trio.current_time() - began <= LOOK_SECONDS
        assert [PeerEnd.FIN, PeerEnd.RESET] == keeper.told

        request.reset()


async def test_reset_behind_data_is_found_soon(autojump_clock: trio.testing.MockClock) -> None:
    """Where no edge tells of it, a reset behind unread data is found at the next look."""
    keeper = Keeper()
    async with owning_one("v4", Path(), edge_triggered=False) as (owner, request, peer):
        keeper.watch(request, owner.readiness)
        send(peer)
        await trio.sleep(10.5 * LOOK_SECONDS)  # on the virtual clock

        assert [] == keeper.told

        began = trio.current_time()
        leave_with_reset(peer)
        await keeper.is_told(PeerEnd.RESET)

        assert trio.current_time() - began <= LOOK_SECONDS

        request.reset()


def unwatch(request: PortableRequest) -> None:
    """Watch no longer, said twice."""
    request.unwatch_end()
    request.unwatch_end()


@pytest.mark.skipif(not HAVE_EPOLL, reason="there is no epoll")
@pytest.mark.parametrize("sent", [b"", b"data"])
async def test_end_of_a_duplicated_descriptor_is_not_told_of_who_has_its_number(
    sent: bytes, tmp_path: Path
) -> None:
    """
    A descriptor that was duplicated and then closed behind our back stays in epoll under its
    number. When its peer closes, the request that has the number by then is told nothing: its
    own peer is there.
    """
    keeper = Keeper()
    async with owning_one("unix", tmp_path) as (owner, first, gone):
        Keeper().watch(first, owner.readiness)
        with connected(owner.address) as peer:
            number = first.accept().detach()
            duplicate = os.dup(number)
            os.close(number)
            second = await owner.request()

            assert number == second.accept().fileno()

            peer.sendall(sent)
            keeper.watch(second, owner.readiness)
            await wait_all_tasks_blocked()
            gone.close()
            await wait_all_tasks_blocked()

            assert [] == keeper.told

            peer.close()
            await keeper.is_told(PeerEnd.CLOSED)
            second.reset()
        os.close(duplicate)


@edges_or_not
@pytest.mark.parametrize("leave", [send_fin, leave_with_reset])
@pytest.mark.parametrize("first", [do_nothing, send])
async def test_request_that_is_not_watched_any_more_tells_nothing(
    *,
    first: Callable[[socket.socket], None],
    leave: Callable[[socket.socket], None],
    edge_triggered: bool,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """After `unwatch_end`, which may be said twice, the peer leaves unheard."""
    keeper = Keeper()
    async with owning_one("v4", Path(), edge_triggered=edge_triggered) as (owner, request, peer):
        first(peer)
        keeper.watch(request, owner.readiness)
        await wait_all_tasks_blocked()
        unwatch(request)
        leave(peer)
        await trio.sleep(3 * LOOK_SECONDS)  # on the virtual clock

        assert [] == keeper.told

        request.reset()


@edges_or_not
async def test_end_that_nobody_has_heard_yet_is_not_told_after_unwatching(
    *, edge_triggered: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """A peer that left before `unwatch_end`, but whom nobody was told of, is not told of after."""
    keeper = Keeper()
    async with owning_one("v4", Path(), edge_triggered=edge_triggered) as (owner, request, peer):
        keeper.watch(request, owner.readiness)
        await wait_all_tasks_blocked()
        leave_with_reset(peer)
        spin_until(request.was_reset)
        unwatch(request)
        await trio.sleep(3 * LOOK_SECONDS)  # on the virtual clock

        assert [] == keeper.told

        request.reset()


@edges_or_not
async def test_request_that_is_watched_again_tells_again(*, edge_triggered: bool) -> None:
    """Another keeper is told what was true before it came, and the first one no more."""
    first, second = Keeper(), Keeper()
    async with owning_one("v4", Path(), edge_triggered=edge_triggered) as (owner, request, peer):
        first.watch(request, owner.readiness)
        send_fin(peer)
        await first.is_told(PeerEnd.FIN)
        request.unwatch_end()
        second.watch(request, owner.readiness)
        await second.is_told(PeerEnd.FIN)
        leave_with_reset(peer)
        await second.is_told(PeerEnd.RESET)

        assert [PeerEnd.FIN] == first.told

        request.reset()


@edges_or_not
@pytest.mark.parametrize("answer", ["reset", "finish", "silence"])
async def test_answer_ends_the_watch(
    *, answer: str, edge_triggered: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """
    Any answer but yes unwatches: the peer's end is told to nobody, and who has the number of
    its descriptor next is not disturbed.
    """
    keeper, successor = Keeper(), Keeper()
    async with owning_one("v4", Path(), edge_triggered=edge_triggered) as (owner, request, peer):
        number = request.accept().fileno()
        keeper.watch(request, owner.readiness)
        await wait_all_tasks_blocked()
        getattr(request, answer)()
        peer.close()
        with connected(owner.address) as other:
            following = await owner.request()

            assert number in {following.accept().fileno(), other.fileno()}

            successor.watch(following, owner.readiness)
            send_fin(other)
            await successor.is_told(PeerEnd.FIN)
            following.reset()

    assert [] == keeper.told


@edges_or_not
async def test_accepted_request_tells_its_connection_and_not_its_keeper(
    *, edge_triggered: bool, tmp_path: Path
) -> None:
    """Once unwatched, the channel is waited for by another watch as if there had been none."""
    keeper = Keeper()
    async with owning_one("v4", tmp_path, edge_triggered=edge_triggered) as (owner, request, peer):
        keeper.watch(request, owner.readiness)
        await wait_all_tasks_blocked()
        request.unwatch_end()
        channel = request.accept()
        watch = request.watch(channel)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_in_task, owner.readiness, watch, 1)
            await wait_all_tasks_blocked()
            send(peer)

        assert b"data" == channel.recv(10)
        assert [] == keeper.told

        watch.close()
        channel.close()


# --- Its first octets ---------------------------------------------------------------------------


async def test_peek_leaves_what_it_sees(owner: Owner) -> None:
    """The first octets are seen, up to the count, any number of times, and stay."""
    with connect(owner) as peer:
        request = await owner.request()

        assert (b"", False) == request.peek(4)

        send(peer)
        await trio.lowlevel.wait_readable(request.accept())

        assert (b"da", False) == request.peek(2)
        assert (b"data", False) == request.peek(4)
        assert (b"data", False) == request.peek(100)
        assert b"data" == request.accept().recv(100)

        request.reset()


@pytest.mark.parametrize("sent", [b"", b"data"])
async def test_peek_knows_when_that_is_all(sent: bytes, owner: Owner) -> None:
    """Once a watched request has told of FIN, `peek` says that no more can come."""
    keeper = Keeper()
    with connect(owner) as peer:
        request = await owner.request()
        keeper.watch(request, owner.readiness)
        peer.sendall(sent)
        send_fin(peer)
        await keeper.is_told(PeerEnd.FIN_AFTER_DATA if sent else PeerEnd.FIN)

        assert (sent, True) == request.peek(100)
        assert (sent[:2], True) == request.peek(2)

        request.reset()


async def test_peek_sees_an_end_without_data_by_itself(owner: Owner) -> None:
    """FIN with nothing before it is seen though nobody watches."""
    with connect(owner) as peer:
        request = await owner.request()
        send_fin(peer)
        await trio.lowlevel.wait_readable(request.accept())

        assert (b"", True) == request.peek(100)

        request.reset()


@pytest.mark.parametrize("is_known", [False, True])
async def test_peek_at_a_broken_connection_is_the_peers_fault(
    *, is_known: bool, owner: Owner
) -> None:
    """A reset peer has no first octets; also if the reset was noticed before."""
    with connect(owner) as peer:
        request = await owner.request()
        leave_with_reset(peer)
        await trio.lowlevel.wait_readable(request.accept())
        if is_known:
            assert request.was_reset()

        with pytest.raises(PeerFaultError) as caught:
            request.peek(100)

        assert errno.ECONNRESET == caught.value.error.errno

        request.reset()


@edges_or_not
@pytest.mark.parametrize(
    ("deed", "expected"),
    [
        (send, (b"data", False)),
        (send_fin, (b"", True)),
        (leave_with_reset, None),
        (None, (b"", False)),
    ],
)
async def test_who_waits_for_more_is_woken_to_look_again(
    *,
    deed: Callable[[socket.socket], None] | None,
    expected: tuple[bytes, bool] | None,
    edge_triggered: bool,
) -> None:
    """Data, FIN, a reset and `unwatch_end` end the wait for more, and nothing else does."""
    keeper = Keeper()
    async with owning_one("v4", Path(), edge_triggered=edge_triggered) as (owner, request, peer):
        keeper.watch(request, owner.readiness)
        await wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(request.wait_for_more)
                await wait_all_tasks_blocked()

                assert 1 == len(nursery.child_tasks)

                if deed is None:
                    request.unwatch_end()
                else:
                    deed(peer)
        if expected is None:
            assert request.was_reset()
        else:
            assert expected == request.peek(100)

        request.reset()


@edges_or_not
async def test_who_waits_for_more_than_there_is_hears_of_each_part(*, edge_triggered: bool) -> None:
    """
    Every part that comes wakes who waits, although what came before lies unread; between
    them nobody spins.
    """
    keeper = Keeper()
    async with owning_one("v4", Path(), edge_triggered=edge_triggered) as (owner, request, peer):
        keeper.watch(request, owner.readiness)
        looks = 0

        async def wait_for(count: int) -> bytes:
            nonlocal looks
            while True:
                looks += 1
                data, _ = request.peek(count)
                if len(data) == count:
                    return data
                await request.wait_for_more()

        with trio.fail_after(PATIENCE):
            for count in range(1, 4):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait_for, count)
                    await wait_all_tasks_blocked()
                    peer.send(b"x")

        assert looks <= 3 * 3
        assert b"xxx" == await wait_for(3)

        request.reset()


async def test_wait_for_more_of_a_request_that_is_not_watched_takes_a_moment(
    owner: Owner, autojump_clock: trio.testing.MockClock
) -> None:
    """With nobody to wake it, it says "look again" after a moment, so that nobody spins."""
    with connect(owner):
        request = await owner.request()
        began = trio.current_time()
        with trio.testing.assert_checkpoints():
            await request.wait_for_more()

        assert began + LOOK_SECONDS == pytest.approx(trio.current_time())

        with trio.move_on_after(0) as scope:
            await request.wait_for_more()

        assert scope.cancelled_caught

        request.reset()


class Full(EpollReadiness):
    """One that takes no more: /proc/sys/fs/epoll/max_user_watches has been reached."""

    def arm_end(self, watch: Watch) -> None:
        """Fail as the kernel does."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.skipif(not HAVE_EPOLL, reason="there is no epoll")
async def test_request_that_cannot_be_watched_goes_on_without(
    owner: Owner, autojump_clock: trio.testing.MockClock
) -> None:
    """
    When the kernel takes no more watches nobody fails for it: the request is answered, unwatched
    and looked into as ever, and a reset is found by whoever asks.
    """
    keeper, full = Keeper(), Full()
    with connect(owner) as peer:
        request = await owner.request()
        keeper.watch(request, full)
        send(peer)
        await request.wait_for_more()

        assert (b"data", False) == request.peek(10)

        leave_with_reset(peer)
        spin_until(request.was_reset)
        await wait_all_tasks_blocked()

        assert [] == keeper.told

        unwatch(request)
        request.reset()
    full.close()


@edges_or_not
async def test_cancelled_wait_for_more_leaves_the_request_as_it_was(
    *, edge_triggered: bool
) -> None:
    """After a wait that was cancelled the next one is woken as ever, and the end is told."""
    keeper = Keeper()
    async with owning_one("v4", Path(), edge_triggered=edge_triggered) as (owner, request, peer):
        keeper.watch(request, owner.readiness)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.wait_for_more)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(request.wait_for_more)
                await wait_all_tasks_blocked()
                send(peer)
            leave_with_reset(peer)
        await keeper.is_told(PeerEnd.RESET)

        request.reset()


# --- Addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [do_nothing, leave_with_reset, socket.socket.close])
@pytest.mark.parametrize("when", ["before accept", "after accept"])
async def test_addresses_are_right_although_the_peer_has_gone(
    when: str, leave: Callable[[socket.socket], None], owner: Owner
) -> None:
    """Both ends are known whatever becomes of the connection."""
    with connect(owner) as peer:
        ends = peer.getpeername(), peer.getsockname()
        if when == "before accept":
            leave(peer)
        request = await owner.request()
        if when == "after accept":
            leave(peer)
            if leave is not do_nothing:
                await trio.lowlevel.wait_readable(request.accept())

        assert ends == (request.local_address.sockaddr, request.remote_address.sockaddr)

        request.reset()


async def test_addresses_stay_when_the_connection_is_closed_here(owner: Owner) -> None:
    """Asked before closing, both are exact; asked later, "local" is where we listen."""
    with connect(owner) as peer, connect(owner) as other:
        exact = peer.getpeername()
        asked, not_asked = await owner.request(), await owner.request()
        assert exact == asked.local_address.sockaddr

        asked.reset()
        not_asked.reset()

        assert exact == asked.local_address.sockaddr
        assert owner.address == not_asked.local_address
        assert {peer.getsockname(), other.getsockname()} == {
            asked.remote_address.sockaddr,
            not_asked.remote_address.sockaddr,
        }


async def test_unix_peer_has_the_name_that_it_gave_itself(tmp_path: Path) -> None:
    """Most Unix clients have no name; one that is bound is called by its path."""
    async with owning(PortableTransport.unix(tmp_path / "app.sock")) as owner:
        for name in ("", os.fspath(tmp_path / "client.sock")):
            with socket.socket(socket.AF_UNIX) as peer:
                if name:
                    peer.bind(name)
                peer.connect(os.fspath(tmp_path / "app.sock"))
                request = await owner.request()

                assert name == request.remote_address.path
                assert owner.address == request.local_address

                request.reset()


async def test_serial_numbers_are_never_used_again(owner: Owner) -> None:
    """Each request of each transport has a number of its own, and later ones are higher."""
    numbers = []
    async with owning(PortableTransport.tcp(0, host="127.0.0.1")) as other:
        for each in (owner, other, owner, other):
            with connect(each):
                request = await each.request()
                numbers.append(request.serial_number)
                request.reset()

    assert sorted(set(numbers)) == numbers


async def test_request_says_who_it_is(owner: Owner) -> None:
    """A request in a log or a debugger is told apart by number and peer."""
    with connect(owner) as peer:
        request = await owner.request()
        host, port = peer.getsockname()

        assert f"<PortableRequest {request.serial_number} from {host}:{port}>" == repr(request)

        request.reset()


# --- What a connection needs --------------------------------------------------------------------


async def test_watch_waits_for_the_channel(owner: Owner) -> None:
    """The watch is of the channel's descriptor, and at home nowhere yet."""
    with connect(owner):
        request = await owner.request()
        channel = request.accept()
        watch = request.watch(channel)

        assert (channel.fileno(), None) == (watch.fd, watch.home)

        channel.close()


async def test_public_socket_takes_the_descriptor_over(owner: Owner) -> None:
    """
    The public socket works, the channel to go on with is the same descriptor, and the
    old channel is empty: closing one closes all there is.
    """
    with connect(owner) as peer:
        request = await owner.request()
        old = request.accept()
        fd = old.fileno()

        channel, public = request.public_socket(old)

        assert (-1, fd, fd) == (old.fileno(), channel.fileno(), public.fileno())
        assert (socket.AF_INET, socket.SOCK_STREAM) == (public.family, public.type)
        assert peer.getsockname() == public.getpeername()
        await public.send(b"a")
        channel.send(b"b")
        assert b"ab" == peer.recv(2, socket.MSG_WAITALL)
        assert peer.getpeername() == request.local_address.sockaddr

        public.close()

        assert -1 == channel.fileno()
        assert "end" == fate_of(peer)


async def test_public_socket_can_be_aborted(owner: Owner) -> None:
    """Aborting resets, whoever holds the descriptor."""
    with connect(owner) as peer:
        request = await owner.request()
        channel, public = request.public_socket(request.accept())

        request.abort(channel)

        assert -1 == public.fileno()
        assert "reset" == fate_of(peer)


async def test_inherited_options_are_not_set_again(owner: Owner) -> None:
    """What a connection has inherited is left as it is: the owner may have chosen otherwise."""
    nodelay = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
    (listening,) = owner.transport.public_sockets()
    assert 1 == listening.getsockopt(*nodelay)
    listening.setsockopt(*nodelay, 0)
    with connect(owner):
        request = await owner.request()

        channel = request.accept()

        assert 0 == channel.getsockopt(*nodelay)
        channel.close()


async def test_ideal_send_backlog_is_the_congestion_window(owner: Owner) -> None:
    """A fresh TCP connection may have ten segments in flight."""
    with connect(owner):
        request = await owner.request()
        channel = request.accept()
        segment = channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)

        assert 10 * segment == request.ideal_send_backlog(channel)

        channel.close()


async def test_ideal_send_backlog_of_a_unix_socket_is_the_default(tmp_path: Path) -> None:
    """Where there is no congestion window there is a fixed amount."""
    async with owning(PortableTransport.unix(tmp_path / "app.sock")) as owner:
        with connected(owner.address):
            request = await owner.request()

            assert IDEAL_SEND_BACKLOG == request.ideal_send_backlog(request.accept())

            request.reset()
