"""An accepted connection that waits for its answer: what each answer is on the wire."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import socket
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers.blocking_peers import connected, fate_of
from tests.helpers.portable_peers import owning
from tests.helpers.requesting_peers import connect
from tests.helpers.resetting import close_with_reset
from tests.helpers.support import PATIENCE
from trio_wsk import CloseStyle
from trio_wsk.transports import PortableTransport
from trio_wsk.transports._socket_request import can_be_silent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.portable_peers import Owner
    from trio_wsk.transports._contract import Channel

MULTIPATH_TCP = getattr(socket, "IPPROTO_MPTCP", 262)  # whose name is missing in some builds
SO_RCVBUFFORCE = 33  # Linux; `socket` has no name for it
needs_silence = pytest.mark.skipif(not can_be_silent(), reason="silence takes CAP_NET_ADMIN")


def octets_waiting(channel: _socket.socket) -> int:
    """Count what has come and nobody has read."""
    answer = fcntl.ioctl(channel.fileno(), termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


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
            assert "fin" == fate_of(peer)


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

        assert "fin" == fate_of(peer)


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

        assert 0 == peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # no reset behind FIN
        assert "fin" == fate_of(peer)


@needs_silence  # whose capability a receive buffer of such a size takes, too
@pytest.mark.parametrize(("octets", "expected"), [(1 << 20, 0), ((1 << 20) + 1, errno.EPIPE)])
async def test_finish_drops_a_mebibyte_and_no_more(octets: int, expected: int) -> None:
    """
    A peer has its FIN alone if no more than 1 MiB of what it sent waits; of what is beyond that it
    hears by a reset, so that nobody keeps us reading by sending.
    """
    large = (socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
    transport = PortableTransport.tcp(0, host="0.0.0.0", socket_options=[large])  # noqa: S104
    async with owning(transport) as owner:
        with connect(owner) as peer:
            request = await owner.request()
            channel = request.accept()
            peer.sendall(bytes(octets))
            while octets > octets_waiting(channel):
                await trio.lowlevel.checkpoint()

            request.finish()

            # A reset behind FIN is no ECONNRESET; and on the loopback it is there when close ends.
            assert expected == peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            assert "fin" == fate_of(peer)


@pytest.mark.parametrize("answer", ["reset", "finish", "silence"])
@pytest.mark.parametrize("leave", [close_with_reset, socket.socket.close])
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

        assert "fin" == fate_of(peer)
