"""Connection requests from listening sockets, by accept(2), on every system.

The kernel has answered the handshake before we see anything: a request here is a
connection that nobody has read from.

Accepting is what a busy server does most, so `PortableTransport.next_request` is short. It
takes from the listening sockets in turn, and asks each until the kernel says that it has no
more (EAGAIN); only then is the socket waited for. So "ready" is a deque of sockets that may
have something, every socket starts in it (an adopted one may have a queue already), and an
edge puts it back.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from trio_wsk._engine.readiness import READ, Watch
from trio_wsk._vocabulary.verdict import CloseStyle

from ._accept_errors import failure_of
from ._adopting import AdoptedPlace
from ._binding import TcpPlace
from ._contract import NoDescriptorsError, PeerFaultError, TransportFailedError
from ._socket_request import SocketRequest, named
from ._socket_transport import SocketTransport
from ._spare import SpareDescriptor
from ._tcp_info import queue_of
from ._unix import UnixPlace

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Sequence

    import trio

    from trio_wsk._engine.readiness import Readiness

    from ._places import Bound, Place

__all__: list[str] = []  # PortableTransport's home is trio_wsk.transports


class _Source:
    """One listening socket, and whether it may have something."""

    __slots__ = ("accept", "bound", "is_ready", "transport", "watch")

    def __init__(self, transport: PortableTransport, bound: Bound) -> None:
        self.transport = transport
        self.bound = bound
        self.accept = bound.accept
        self.watch = Watch(bound.socket.fileno(), self)
        self.is_ready = False

    def on_edges(self, edges: int) -> None:  # noqa: ARG002 - errors show in accept, too
        """Take note that there may be something."""
        if not self.is_ready:
            self.transport._has_become_ready(self)
            self.transport.edge()


class PortableTransport(SocketTransport):
    """TCP and Unix listening sockets, as every system has them.

    Make one with `tcp`, `unix` or `adopt`. What can be known to be wrong without asking the
    system is told there; the rest is told by ``bind`` and ``listen``, as `BindError`.

    Its requests are accepted connections: they are inspected after the handshake, which the
    kernel has answered by then.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._sources: list[_Source] = []
        self._ready: deque[_Source] = deque()
        self._readiness: Readiness
        self._spare = SpareDescriptor()
        self._keeps_spare = False

    @classmethod
    def tcp(
        cls,
        port: int,
        *,
        host: str | Sequence[str] | None = None,
        backlog: int | None = None,
        reuse_port: bool = False,
        socket_options: Sequence[tuple[int, int, int | bytes]] = (),
    ) -> PortableTransport:
        """Listen on a TCP port.

        Args:
          port: 0 takes any that is free, the same one on all addresses.
          host: A name or an IP address, or several; a link-local address with its
            interface, ``fe80::1%eth0``. None takes all addresses of this machine, IPv4 and
            IPv6. If a name stands for both and the machine has only one of them, that
            is enough.
          backlog: How many connections may wait in the kernel; without it, as many as the
            system allows.
          reuse_port: Share the port with other processes that say so too (SO_REUSEPORT); the
            kernel deals the connections out.
          socket_options: What ``setsockopt()`` is to be called with before the socket is bound,
            after our own options; those of IPPROTO_IPV6 on IPv6 sockets only.

        Raises:
          InvalidParameterError: An argument is wrong. (Yours.)
        """
        place = TcpPlace(
            port, host, backlog=backlog, reuse_port=reuse_port, socket_options=socket_options
        )
        return cls(place)

    @classmethod
    def unix(
        cls,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        *,
        mode: int | None = None,
        backlog: int | None = None,
    ) -> PortableTransport:
        r"""Listen on a Unix socket.

        The path appears when the socket listens, and goes when it is closed, unless somebody
        else has put theirs there. A socket that a crashed server has left is
        replaced. One that somebody listens on is not, and no other file ever is.

        Args:
          path: The socket's file, or ``"\0name"`` in Linux's abstract namespace.
          mode: The file's permissions, such as ``0o660``: who may write, may connect. Without
            it, what the umask gives.
          backlog: How many connections may wait in the kernel; without it, as many as the
            system allows.

        Raises:
          InvalidParameterError: An argument is wrong, or the path too long. (Yours.)
        """
        return cls(UnixPlace(path, mode=mode, backlog=backlog))

    @classmethod
    def adopt(
        cls,
        sockets: Sequence[socket.socket | trio.socket.SocketType | int],
        *,
        backlog: int | None = None,
    ) -> PortableTransport:
        """Listen on sockets that exist, bound or listening already.

        They are the transport's from here on, whatever happens: it closes them, at once if it
        raises. A Trio socket is empty afterwards. Unix paths are not removed.

        Args:
          sockets: Sockets, Trio sockets, or numbers of descriptors, such as `listen_fds` gives.
          backlog: How many connections may wait in the kernel, for those that don't
            listen yet.

        Raises:
          InvalidParameterError: One is no bound stream socket; the message says which. (Yours.)
        """
        return cls(AdoptedPlace(sockets, backlog=backlog))

    def listen(self, readiness: Readiness) -> None:
        """From now on requests appear.

        Raises:
          BindError: Somebody else was faster, between bind and here.
        """
        self._start_listening()
        self._readiness = readiness
        self._sources = [_Source(self, each) for each in self._bound]
        try:
            for source in self._sources:
                self._has_become_ready(source)
                readiness.arm(source.watch, READ)
        except BaseException:
            self.close()
            raise

    def close_styles(self) -> frozenset[CloseStyle]:
        """Return those of `close_styles_when_established`: here each request is."""
        return self.close_styles_when_established()

    def _has_become_ready(self, source: _Source) -> None:
        source.is_ready = True
        self._ready.append(source)

    def next_request(self) -> SocketRequest | None:
        """Accept a connection from the next socket that has one."""
        ready = self._ready
        while ready:
            source = ready[0]
            try:
                fd, peer = source.accept()
            except BlockingIOError:
                ready.popleft()
                source.is_ready = False
                # For an edge-triggered readiness this is one comparison.
                self._readiness.arm(source.watch, READ)
            except OSError as error:
                ready.rotate(-1)
                raise failure_of(error) from error
            else:
                if len(ready) > 1:
                    ready.rotate(-1)
                if not peer or type(peer[0]) is int:
                    peer = named(source.bound, fd, peer)
                return SocketRequest(source.bound, fd, peer)
        return None

    def has_more(self) -> bool:
        """Whether a socket has not said yet that it has no more."""
        return bool(self._ready)

    def look(self) -> None:
        """Have each socket asked: the kernel knows of connections before epoll is asked of them."""
        for source in self._sources:
            if not source.is_ready:
                self._has_become_ready(source)

    def keep_spare(self) -> bool:
        """Set a descriptor aside for `shed`; False if there is none to be had."""
        self._keeps_spare = True
        return self._spare.keep()

    def shed(self) -> bool:
        """Reset the oldest waiting connection, in the room of the descriptor set aside.

        Returns:
          False if nothing could be shed: nobody waits, or there is no spare, because
          `keep_spare` was not called or another thread has taken its place.
        """
        if not self._keeps_spare or not self._spare.keep():
            return False
        self._spare.give_up()
        try:
            request = self.next_request()
            if request is not None:
                request.reset()
        except (PeerFaultError, NoDescriptorsError, TransportFailedError):
            return False  # the next accept will say so, where something can be done about it
        else:
            return request is not None
        finally:
            self._spare.keep()

    def queue_depth(self) -> tuple[int, int] | None:
        """How many connections wait in the kernel, and how many may: Linux, TCP; else None."""
        if not self._is_listening:
            return None
        depths = [queue_of(bound.socket) for bound in self._bound]
        known = [depth for depth in depths if depth is not None]
        if not known or len(known) < len(depths):
            return None
        return sum(waiting for waiting, _ in known), sum(maximum for _, maximum in known)

    def close(self) -> None:
        """Stop listening; the kernel resets what it has queued. Never raises, idempotent."""
        self._ready.clear()
        for source in self._sources:
            source.watch.close()
        super().close()
        self._spare.give_up()
        self._keeps_spare = False
