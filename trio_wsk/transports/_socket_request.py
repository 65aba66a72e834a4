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
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

import trio

from trio_wsk._engine.epoll_readiness import ended_now
from trio_wsk._engine.readiness import ENDED, HUNG_UP, LOOK, LOOK_SECONDS, READ, Watch
from trio_wsk._vocabulary.addresses import Address
from trio_wsk._vocabulary.credentials import PeerCredentials

from ._contract import (
    PeerEnd,
    PeerFaultError,
    TransportRequest,
    next_serial_number,
)
from ._first_octets import look
from ._tcp_info import congestion_window, traffic
from ._tuning import tune

if TYPE_CHECKING:
    from trio_wsk._engine.readiness import Readiness
    from trio_wsk._vocabulary.addresses import SocketAddress

    from ._contract import Channel, RequestKeeper
    from ._places import Bound

__all__ = ["SocketRequest", "can_be_silent", "named"]

# struct linger: on, for 0 seconds. Closing then drops what is unsent and sends RST.
_RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

_DRAIN_OCTETS: Final = 1 << 16
_DRAIN_READS: Final = 16
"""1 MiB in all: more than a receive buffer holds that nobody has read from (Linux: 128 KiB,
grown only for who reads), so the bound is met only by who sends faster than we drop."""

_TCP_REPAIR: Final = 19
"""Linux, tcp(7) and Documentation of CRIU: in repair mode a connection is closed without a
word to its peer. `socket` has no name for it."""

_UCRED: Final = struct.Struct("=iII")
"""``struct ucred``: a process, a user, a group (unix(7))."""

_SCOPE_ID: Final = 3  # its place in the address of an IPv6 socket

_TCP: Final = (0, int(socket.IPPROTO_TCP))
"""The protocols of sockets of which all is TCP, if they are of `_INET`; of Multipath TCP, the
kernel tells about one of the paths."""

_INET: Final = (int(socket.AF_INET), int(socket.AF_INET6))


def named(bound: Bound, fd: int, peer: SocketAddress | None) -> SocketAddress:
    """Return the address of a peer of whom accept(2) has said nothing at first sight.

    Unix sockets have peers without a name. Elsewhere some kernels (macOS) give no address when the
    peer has gone: its connection is closed. Linux says ECONNABORTED then.

    Raises:
      PeerFaultError: there is none.
    """
    if bound.family not in _INET:
        return peer if isinstance(peer, (str, bytes)) else ""
    socket.close(fd)
    raise PeerFaultError(
        OSError(errno.ECONNABORTED, "the peer had gone when it was accepted: it has no address")
    )


class SocketRequest(TransportRequest):
    """An accepted connection, waiting for its answer."""

    __slots__ = (
        "_bound",
        "_channel",
        "_home",
        "_keeper",
        "_local",
        "_number",
        "_remote",
        "_told",
        "_was_reset",
    )

    is_watched_by_descriptor = True

    # Set by `watch_end`, and of no meaning before.
    _keeper: RequestKeeper
    _told: PeerEnd | None

    def __init__(self, bound: Bound, fd: int, peer: SocketAddress) -> None:
        self._bound = bound
        self._channel = channel = _socket.socket(bound.family, bound.kind, bound.proto, fd)
        channel.settimeout(0)
        self._remote: Address | SocketAddress = peer
        self._local: Address | None = None
        self._was_reset = False
        self._home: Readiness | Watch | None = None  # while it is watched
        self._number = 0

    def __repr__(self) -> str:
        return f"<SocketRequest {self.serial_number} from {self.remote_address}>"

    @property
    def serial_number(self) -> int:
        """This request's number, given when it is first asked for."""
        if not self._number:
            self._number = next_serial_number()
        return self._number

    @property
    def local_address(self) -> Address:
        """Where the peer connected to; for a Unix socket, its path.

        The kernel is asked the first time. If the connection has been closed on our side by then,
        this is the address that the listening socket is bound to.
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
        """Where the peer is at, as accept said: getpeername would fail after a reset."""
        remote = self._remote
        if not isinstance(remote, Address):
            remote = self._remote = Address.from_sockaddr(self._bound.family, remote)
        return remote

    @property
    def scope_id(self) -> int:
        """The interface that a link-local peer is on; 0 of any other. To ask makes no address."""
        remote = self._remote
        if isinstance(remote, Address):
            return remote.scope_id
        return cast("int", remote[_SCOPE_ID]) if len(remote) > _SCOPE_ID else 0

    def accept(self) -> _socket.socket:
        """Return the connection, which is the caller's from now on.

        The options of `_tuning` are set by then; as a rule they were inherited.
        """
        if not self._bound.tuned:
            tune(self._channel)
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
        try:
            readiness.tell(self._channel.fileno(), 0, self)
        except OSError:
            pass  # no memory for one more (ENOMEM, ENOSPC): it is found when somebody takes it
        else:
            self._home = readiness

    def unwatch_end(self) -> None:
        """Take the descriptor out of the kernel's set again; who waits to peek looks again."""
        home = self._home
        if home is not None:
            self._home = None
            if isinstance(home, Watch):
                home.close()
            else:
                home.tell_no_more(self._channel.fileno(), self)

    def on_edges(self, edges: int) -> None:
        """See whether the peer has left, and how."""
        if self._home is not None and edges & (ENDED | LOOK):
            end = self._end_of_peer(edges)
            # A look from time to time sees the same end each time.
            if end is not None and end is not self._told:
                self._told = end
                self._keeper.peer_ended(self, end)

    def _end_of_peer(self, edges: int) -> PeerEnd | None:
        if self.was_reset():
            return PeerEnd.RESET
        ended = ended_now(self._channel.fileno()) if edges & ENDED else 0
        if ended & HUNG_UP:
            return PeerEnd.CLOSED
        try:
            has_sent = bool(self._channel.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return None
        except OSError:
            return PeerEnd.RESET
        if not has_sent:
            return PeerEnd.FIN
        return PeerEnd.FIN_AFTER_DATA if ended else None

    def peek(self, count: int) -> tuple[bytes, bool]:
        """Look at what has come, all of it; see `_first_octets`."""
        if not self._bound.tuned:
            tune(self._channel)  # what is looked at is what will be received
        has_ended = self._home is not None and self._told is not None
        if self._was_reset:  # to ask for the error has taken it away
            raise PeerFaultError(OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))
        try:
            data = look(self._channel, count)
        except BlockingIOError:
            return b"", False
        except OSError as error:
            # Told once by the kernel, as in `was_reset`.
            self._was_reset = error.errno != errno.EBADMSG
            raise PeerFaultError(error) from error
        return data, has_ended or not data

    def consume(self, count: int) -> None:
        """Take octets that were looked at: in pieces, where a read stops at a mark."""
        try:
            while count:
                count -= len(self._channel.recv(count))
        except OSError as error:
            raise PeerFaultError(error) from error

    async def wait_for_more(self) -> None:
        """Wait for the next edge, or for a moment if there are none."""
        if self._home is not None and not isinstance(self._home, Watch):
            self._watch_fully(self._home)
        watch = self._home
        if isinstance(watch, Watch) and watch.home is not None:
            await watch.home.wait(watch, READ)
        else:
            await trio.sleep(LOOK_SECONDS)

    def _watch_fully(self, readiness: Readiness) -> None:
        """Be told of more than the end: somebody waits."""
        self.unwatch_end()
        watch = Watch(self._channel.fileno(), self)
        with suppress(OSError):  # no memory: a waiting task looks from time to time
            readiness.arm_end(watch)
        self._home = watch

    @property
    def short_read_is_all(self) -> bool:
        """Whether it is TCP: on a Unix socket a read stops behind a message with descriptors."""
        return self._bound.family in _INET

    def watch(self, channel: Channel) -> Watch:
        """Make the watch of this channel's descriptor."""
        return Watch(channel.fileno())

    def abort(self, channel: Channel) -> None:
        """Reset the connection, dropping what is not yet sent."""
        _arrange_reset(self._channel)
        channel.close()

    def peer_credentials(self) -> PeerCredentials | None:
        """Ask the kernel who the peer is: on Linux, on a Unix socket."""
        if self._bound.family in _INET or sys.platform != "linux":
            return None
        try:
            ucred = self._channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        except OSError:  # it is closed
            return None
        return PeerCredentials(*_UCRED.unpack(ucred))

    def traffic(self, channel: Channel) -> tuple[int, float] | None:  # noqa: ARG002 - there is one
        """Ask the kernel, where it is Linux's TCP: it counts what has passed, and knows when."""
        bound = self._bound
        is_tcp = bound.family in _INET and bound.proto in _TCP
        return traffic(self._channel) if is_tcp else None

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

    def private_channel(self, channel: Channel) -> _socket.socket:
        """Move the descriptor out of a public `socket.socket`."""
        if not isinstance(channel, socket.socket):
            return cast("_socket.socket", channel)
        bound = self._bound
        self._channel = _socket.socket(bound.family, bound.kind, bound.proto, channel.detach())
        self._channel.settimeout(0)
        return self._channel


def _arrange_reset(channel: _socket.socket) -> None:
    try:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    except OSError:
        pass  # the peer was faster (EINVAL on macOS), or it is closed already


def can_be_silent(family: int = socket.AF_INET, proto: int = 0) -> bool:
    """Whether this process may close such connections without a word.

    This takes Linux, CAP_NET_ADMIN, and TCP: a socket for Multipath TCP may have connections
    that know no repair mode. A listening socket knows it neither, so that another one of the
    same kind is tried.
    """
    if sys.platform != "linux":
        return False
    try:
        with socket.socket(family, socket.SOCK_STREAM, proto) as probe:
            probe.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    except OSError:
        return False
    return True
