"""Listening on sockets that somebody else has made: a service manager, a parent, a test.

Each has to be a stream socket that is bound; whether it listens already doesn't matter. All
are ours from the moment they are given, also when one of them turns out to be wrong:
then all are closed, so that nothing leaks, whosever fault it is.

A socket that listens already is not touched, except that it is made non-blocking. It may be
shared with other processes, whose socket options are their own business.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from trio_wsk._vocabulary.addresses import Address
from trio_wsk._vocabulary.arguments import whole_number
from trio_wsk._vocabulary.errors import BindError, InvalidParameterError

from ._places import Bound, Place, checked_backlog, close_all
from ._tuning import INHERITED, tune

if TYPE_CHECKING:
    from typing import TypeAlias

    Adoptable: TypeAlias = socket.socket | trio.socket.SocketType | int

__all__ = ["AdoptedPlace", "close_given"]

_FAMILIES = [
    getattr(socket, name) for name in ("AF_INET", "AF_INET6", "AF_UNIX") if hasattr(socket, name)
]


class AdoptedPlace(Place):
    """Sockets that exist."""

    def __init__(self, sockets: Sequence[Adoptable], *, backlog: int | None) -> None:
        self._sockets = _adopt(sockets)
        try:
            self._backlog = checked_backlog(backlog)
        except InvalidParameterError:
            self.close()
            raise

    @property
    def is_shared(self) -> bool:
        """Their maker may hold them still, and give them to the next process."""
        return True

    async def bind(self) -> Sequence[Bound]:
        """Make them non-blocking; they are bound already."""
        await trio.lowlevel.checkpoint()
        return [self._bound(sock) for sock in self._sockets]

    @staticmethod
    def _bound(sock: socket.socket) -> Bound:
        sock.settimeout(0)
        address = Address.from_sockaddr(sock.family, sock.getsockname())
        if address.is_unix or _is_listening(sock):
            return Bound(sock, address, tuned=False)
        tune(sock)
        return Bound(sock, address, tuned=INHERITED)

    def listen(self) -> None:
        """Set those listening that don't listen yet."""
        for sock in self._sockets:
            if not _is_listening(sock):
                try:
                    sock.listen(self._backlog)
                except OSError as error:
                    address = Address.from_sockaddr(sock.family, sock.getsockname())
                    raise BindError.from_oserror(error, str(address)) from error

    def close(self) -> None:
        """Close them. A Unix path stays, for its maker to remove."""
        close_all(self._sockets)


def close_given(sockets: object) -> None:
    """Close what was given to be adopted and never will be; of what is none, nothing."""
    given = sockets if isinstance(sockets, Sequence) else ()
    taken: list[socket.socket] = []
    for candidate in given:
        try:
            taken.append(_take(candidate, taken, "it"))
        except InvalidParameterError:
            pass  # closed, or no socket: the caller hears of another mistake
    close_all(taken)


def _adopt(sockets: object) -> list[socket.socket]:
    """Take the sockets over, all of them; if one is wrong, close them and say what is."""
    if isinstance(sockets, (str, bytes)) or not isinstance(sockets, Sequence) or not sockets:
        raise InvalidParameterError(
            f"sockets={sockets!r} is no list of sockets; write sockets=[sock]"
        )
    taken: list[socket.socket] = []
    complaint: InvalidParameterError | None = None
    for number, candidate in enumerate(sockets):
        name = f"sockets[{number}], which is {candidate!r},"
        try:
            sock = _take(candidate, taken, name)
            taken.append(sock)
            _check(sock, name)
        except InvalidParameterError as error:
            complaint = complaint or error
    if complaint is not None:
        close_all(taken)
        raise complaint
    return taken


def _take(candidate: object, taken: Sequence[socket.socket], name: str) -> socket.socket:
    """Return what holds the descriptor from now on, and nothing else does."""
    if isinstance(candidate, (socket.socket, trio.socket.SocketType)):
        fd = candidate.fileno()
    elif whole_number(candidate):
        fd = candidate
    else:
        raise InvalidParameterError(
            f"{name} is neither a socket nor the number of a descriptor; write sockets=[sock]"
        )
    if fd < 0:
        raise InvalidParameterError(f"{name} is closed")
    if any(fd == sock.fileno() for sock in taken):
        raise InvalidParameterError(f"{name} is in the list twice; give each socket once")
    if isinstance(candidate, socket.socket):
        return candidate
    if isinstance(candidate, trio.socket.SocketType):
        return socket.socket(fileno=candidate.detach())
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise InvalidParameterError(
            f"{name} is no descriptor of a socket: {error.strerror}"
        ) from error
    sock.set_inheritable(False)  # service managers hand them over open across exec
    return sock


def _check(sock: socket.socket, name: str) -> None:
    """Raise `InvalidParameterError` unless connections can come from this socket."""
    if type(sock) is not socket.socket:
        raise InvalidParameterError(
            f"{name} is more than a socket, and what it adds would be lost: give the plain "
            f"socket below it, and for TLS write serve(..., ssl_context=...)"
        )
    if sock.family not in _FAMILIES:
        raise InvalidParameterError(f"{name} is neither a TCP nor a Unix socket")
    if sock.type != socket.SOCK_STREAM:
        raise InvalidParameterError(
            f"{name} carries no stream of bytes; make it with "
            f"socket.socket(socket.{sock.family.name}, socket.SOCK_STREAM)"
        )
    if _is_listening(sock):
        return
    if _is_connected(sock):
        raise InvalidParameterError(
            f"{name} is connected; what is wanted is the socket that accepted it"
        )
    if not _is_bound(sock):
        raise InvalidParameterError(
            f"{name} is not bound; call its bind() first, or write port=8000 instead of sockets="
        )


def _is_listening(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False  # macOS can't tell; listening once more does no harm


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _is_bound(sock: socket.socket) -> bool:
    name = sock.getsockname()
    return bool(name[1] if isinstance(name, tuple) else name)
