"""A connection that the kernel has accepted and that nobody has seen yet: a request.

By the time there is a descriptor the handshake is over, so that "no" is a reset or a FIN,
and silence can't be had.

One is made for each connection, so it costs as little as can be: addresses are made when
somebody asks, and the channel is a ``_socket.socket``. That is the C class below
`socket.socket`: the same methods at the same speed, without the Python layer, which costs
more to make than accept4 takes; and unlike a bare descriptor it can't be used after its
number was given to somebody else.
"""

from __future__ import annotations

import _socket
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final, cast

import trio

from trio_wsk._addresses import Address
from trio_wsk._readiness import Watch
from trio_wsk._transport import TransportRequest, next_serial_number

from ._tcp_info import congestion_window
from ._tuning import tune

if TYPE_CHECKING:
    from trio_wsk._addresses import _SocketAddress
    from trio_wsk._transport import Channel

    from ._places import Bound

__all__ = ["PortableRequest"]

# struct linger: on, for 0 seconds. Closing then drops what is unsent and sends RST.
_RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

_DRAIN_OCTETS: Final = 1 << 16
_DRAIN_READS: Final = 16
"""1 MiB in all: more than a receive buffer holds that nobody has read from (Linux: 128 KiB,
grown only for who reads), so the bound is met only by who sends faster than we drop."""

_INET: Final = (int(socket.AF_INET), int(socket.AF_INET6))


class PortableRequest(TransportRequest):
    """An accepted connection, waiting for its answer."""

    __slots__ = ("_bound", "_channel", "_local", "_peer", "_remote", "_was_reset", "serial_number")

    serial_number: int

    def __init__(self, bound: Bound, fd: int, peer: _SocketAddress) -> None:
        self._bound = bound
        self._channel = channel = _socket.socket(bound.family, bound.kind, bound.proto, fd)
        channel.settimeout(0)
        self._peer = peer
        self._local: Address | None = None
        self._remote: Address | None = None
        self._was_reset = False
        self.serial_number = next_serial_number()

    def __repr__(self) -> str:
        return f"<PortableRequest {self.serial_number} from {self.remote_address}>"

    @property
    def local_address(self) -> Address:
        """Where the peer connected to; for a Unix socket, its path.

        It is asked of the kernel the first time. If the connection has been closed on
        our side by then, it is the address that the listening socket is bound to.
        """
        if self._local is None:
            bound = self._bound
            if bound.family not in _INET:
                # The kernel would say the temporary name that the socket was bound to.
                self._local = bound.address
            else:
                try:
                    name = self._channel.getsockname()
                except OSError:
                    return bound.address
                self._local = Address.from_sockaddr(bound.family, name)
        return self._local

    @property
    def remote_address(self) -> Address:
        """Who wants to connect, as accept said: getpeername would fail after a reset."""
        if self._remote is None:
            self._remote = Address.from_sockaddr(self._bound.family, self._peer)
        return self._remote

    def accept(self) -> _socket.socket:
        """Return the connection, which is the caller's from now on."""
        return self._channel

    def reset(self) -> None:
        """Reset the connection.

        A Unix socket has no reset: its peer sees the end.
        """
        channel = self._channel
        _arrange_reset(channel)
        channel.close()

    def finish(self) -> None:
        """Send FIN, and drop what the peer has sent.

        Closing with unread input would send a reset instead, which makes the peer forget what
        it has received. Only what is here already is dropped: a peer that goes on sending
        gets its reset, after our FIN.
        """
        channel = self._channel
        try:
            channel.shutdown(socket.SHUT_WR)
            for _ in range(_DRAIN_READS):
                if not channel.recv(_DRAIN_OCTETS):
                    break
        except OSError:
            pass  # nothing is left to read, or the peer has gone
        channel.close()

    # silence() is the base class's, a reset: once the kernel has answered the handshake, only
    # the connection's owner could keep still, by keeping a descriptor for as long as the peer
    # pleases.

    def was_reset(self) -> bool:
        """Whether the kernel has noted an error for this connection.

        ECONNRESET, also with data still unread; EPIPE for a reset after the peer's FIN
        (``tcp_reset``, net/ipv4/tcp_input.c). A FIN, with data before it or not, is none.
        """
        # Asking for SO_ERROR clears it, so the answer is kept.
        if not self._was_reset:
            try:
                error = self._channel.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            except OSError:
                return True  # macOS, EINVAL: the kernel has let go of the connection
            self._was_reset = error != 0
        return self._was_reset

    def watch(self, channel: Channel) -> Watch:
        """Make the watch of this channel's descriptor."""
        return Watch(channel.fileno())

    def abort(self, channel: Channel) -> None:
        """Reset the connection, dropping what is not yet sent."""
        _arrange_reset(self._channel)
        channel.close()

    def ideal_send_backlog(self, channel: Channel) -> int:
        """Return the congestion window, where the kernel tells it."""
        window = congestion_window(self._channel)
        return super().ideal_send_backlog(channel) if window is None else window

    def public_socket(self, channel: Channel) -> tuple[Channel, trio.socket.SocketType]:
        """Move the descriptor into a `socket.socket`, and wrap that for Trio.

        The old channel is empty afterwards: a descriptor has one owner.
        """
        bound = self._bound
        owner = cast("_socket.socket", channel)
        public = socket.socket(bound.family, bound.kind, bound.proto, fileno=owner.detach())
        self._channel = public
        return public, trio.socket.from_stdlib_socket(public)

    def tune(self, channel: Channel) -> None:
        """Set TCP_NODELAY and TCP_NOTSENT_LOWAT, unless they were inherited."""
        if not self._bound.tuned:
            tune(cast("_socket.socket", channel))


def _arrange_reset(channel: _socket.socket) -> None:
    try:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    except OSError:
        pass  # the peer was faster (EINVAL on macOS), or it is closed already
