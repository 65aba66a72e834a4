"""An accepted connection that waits for its answer: its addresses, and its first octets."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.blocking_peers import connected, fate_of, spin_until
from tests.helpers.portable_peers import Keeper, owning
from tests.helpers.requesting_peers import (
    connect,
    do_nothing,
    edges_or_not,
    owning_one,
    send,
    send_fin,
    unwatch,
)
from tests.helpers.resetting import close_with_reset
from tests.helpers.support import PATIENCE
from trio_wsk._engine.choice import HAVE_EPOLL
from trio_wsk._engine.epoll_readiness import EpollReadiness
from trio_wsk._engine.readiness import LOOK_SECONDS
from trio_wsk.transports import PeerEnd, PeerFaultError, PortableTransport
from trio_wsk.transports._contract import IDEAL_SEND_BACKLOG

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.portable_peers import Owner
    from trio_wsk._engine.readiness import Watch


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
        close_with_reset(peer)
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
        (close_with_reset, None),
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

        close_with_reset(peer)
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
            close_with_reset(peer)
        await keeper.is_told(PeerEnd.RESET)

        request.reset()


# --- Addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [do_nothing, close_with_reset, socket.socket.close])
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

        assert f"<SocketRequest {request.serial_number} from {host}:{port}>" == repr(request)

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
        assert "fin" == fate_of(peer)


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
