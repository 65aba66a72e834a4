"""A connection that the kernel has accepted and that nobody has seen yet: a request.

By the time there is a descriptor the handshake is over, so that "no" is a reset or a FIN;
silence takes privileges (`can_be_silent`).

One is made for each connection, so it costs as little as can be: addresses are made when
somebody asks, and the channel is a ``_socket.socket``. That is the C class below
`socket.socket`: the same methods at the same speed, without the Python layer, which costs
more to make than accept4 takes; and unlike a bare descriptor it can't be used after its
number was given to somebody else.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final, cast

import trio

from trio_wsk._addresses import Address
from trio_wsk._readiness import ENDED, HUNG_UP, LOOK, LOOK_SECONDS, READ, Watch
from trio_wsk._transport import PeerEnd, PeerFaultError, TransportRequest, next_serial_number

from ._tcp_info import congestion_window
from ._tuning import tune

if TYPE_CHECKING:
    from trio_wsk._addresses import _SocketAddress
    from trio_wsk._readiness import Readiness
    from trio_wsk._transport import Channel, RequestKeeper

    from ._places import Bound

__all__ = ["PortableRequest", "can_be_silent"]

# struct linger: on, for 0 seconds. Closing then drops what is unsent and sends RST.
_RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

_DRAIN_OCTETS: Final = 1 << 16
_DRAIN_READS: Final = 16
"""1 MiB in all: more than a receive buffer holds that nobody has read from (Linux: 128 KiB,
grown only for who reads), so the bound is met only by who sends faster than we drop."""

_TCP_REPAIR: Final = 19
"""Linux, tcp(7) and Documentation of CRIU: in repair mode a connection is closed without a
word to its peer. `socket` has no name for it."""

_INET: Final = (int(socket.AF_INET), int(socket.AF_INET6))


class PortableRequest(TransportRequest):
    """An accepted connection, waiting for its answer."""

    __slots__ = (
        "_bound",
        "_channel",
        "_keeper",
        "_local",
        "_peer",
        "_remote",
        "_told",
        "_was_reset",
        "_watch",
        "serial_number",
    )

    serial_number: int

    def __init__(self, bound: Bound, fd: int, peer: _SocketAddress) -> None:
        self._bound = bound
        self._channel = channel = _socket.socket(bound.family, bound.kind, bound.proto, fd)
        channel.settimeout(0)
        self._peer = peer
        self._local: Address | None = None
        self._remote: Address | None = None
        self._was_reset = False
        self._told: PeerEnd | None = None
        self._keeper: RequestKeeper | None = None
        self._watch: Watch | None = None
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
        self.unwatch_end()
        channel = self._channel
        _arrange_reset(channel)
        channel.close()

    def finish(self) -> None:
        """Send FIN, and drop what the peer has sent.

        Closing with unread input would send a reset instead, which makes the peer forget what
        it has received. Only what is here already is dropped: a peer that goes on sending
        gets its reset, after our FIN.
        """
        self.unwatch_end()
        channel = self._channel
        try:
            channel.shutdown(socket.SHUT_WR)
            for _ in range(_DRAIN_READS):
                if not channel.recv(_DRAIN_OCTETS):
                    break
        except OSError:
            pass  # nothing is left to read, or the peer has gone
        channel.close()

    def silence(self) -> bool:
        """Forget the connection without a word, if the system lets us; else reset it.

        The peer believes that it is connected until it sends something: to that the kernel,
        which does not know it any more, answers with a reset.
        """
        self.unwatch_end()
        try:
            self._channel.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        except OSError:
            self.reset()
            return False
        self._channel.close()
        return True

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

    def watch_end(self, readiness: Readiness, keeper: RequestKeeper) -> None:
        """Have the kernel tell when the peer leaves, data or no data (EPOLLRDHUP, edge-triggered).

        With Trio's own waits, which see no end behind unread data, a reset behind it is found
        by looking from time to time, and a FIN behind it is not found.
        """
        self._keeper = keeper
        self._told = None
        watch = Watch(self._channel.fileno(), self)
        try:
            readiness.arm_end(watch)
        except OSError:
            pass  # no memory for one more (ENOMEM, ENOSPC): it is found when somebody takes it
        else:
            self._watch = watch

    def unwatch_end(self) -> None:
        """Take the descriptor out of the kernel's set again; who waits to peek looks again."""
        if self._watch is not None:
            self._watch.close()
            self._watch = self._keeper = None

    def on_edges(self, edges: int) -> None:
        """See whether the peer has left, and how."""
        keeper = self._keeper
        if keeper is not None and edges & (ENDED | LOOK):
            end = self._end_of_peer(edges)
            # Whoever looks from time to time sees the same end each time.
            if end is not None and end is not self._told:
                self._told = end
                keeper.peer_ended(self, end)

    def _end_of_peer(self, edges: int) -> PeerEnd | None:
        if self.was_reset():
            return PeerEnd.RESET
        if edges & HUNG_UP:
            return PeerEnd.CLOSED
        try:
            has_sent = bool(self._channel.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return None
        except OSError:
            return PeerEnd.RESET
        if not has_sent:
            return PeerEnd.FIN
        return PeerEnd.FIN_AFTER_DATA if edges & ENDED else None

    def peek(self, count: int) -> tuple[bytes, bool]:
        """Look at what has come (MSG_PEEK)."""
        has_ended = self._watch is not None and self._watch.ended
        if self._was_reset:  # whoever asked for the error has taken it away
            raise PeerFaultError(OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))
        try:
            data = self._channel.recv(count, socket.MSG_PEEK)
        except BlockingIOError:
            return b"", False
        except OSError as error:
            raise PeerFaultError(error) from error
        return data, has_ended or not data

    async def wait_for_more(self) -> None:
        """Wait for the next edge, or for a moment if there are none."""
        watch = self._watch
        if watch is None or watch.home is None:
            await trio.sleep(LOOK_SECONDS)
        else:
            await watch.home.wait(watch, READ)

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


def can_be_silent() -> bool:
    """Whether this process may close TCP connections without a word (CAP_NET_ADMIN on Linux)."""
    if sys.platform != "linux":
        return False
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        except OSError:
            return False
    return True
