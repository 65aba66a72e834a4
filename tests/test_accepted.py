"""An accepted connection that waits for its answer."""

from __future__ import annotations

import fcntl
import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from trio_wsk._transport import IDEAL_SEND_BACKLOG
from trio_wsk.transports import PortableTransport

from .portable_peers import connected, fate_of, leave_with_reset, owning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trio_wsk._transport import Channel

    from .portable_peers import Owner


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
@pytest.mark.parametrize("answer", ["reset", "silence"])
async def test_reset_is_a_reset(answer: str, sent: bytes, owner: Owner) -> None:
    """
    The peer gets RST, whether or not it has sent something; silence, which a kernel that
    has answered the handshake can't keep, is the same.
    """
    with connect(owner) as peer:
        peer.sendall(sent)
        request = await owner.request()

        getattr(request, answer)()

        assert "reset" == fate_of(peer)


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
    """On a connection that has inherited its options, tune leaves the owner's choice alone."""
    nodelay = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
    with connect(owner):
        request = await owner.request()
        channel = request.accept()
        assert 1 == channel.getsockopt(*nodelay)
        channel.setsockopt(*nodelay, 0)

        request.tune(channel)

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
