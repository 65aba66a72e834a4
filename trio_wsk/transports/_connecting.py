"""Connections that this side opens: TCP by name or address, and Unix sockets.

Trio connects, with Happy Eyeballs (RFC 8305). The result is what accept gives, so that all that is
above uses both in the same way.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Final

import attrs
import trio

from trio_wsk._vocabulary.addresses import Address
from trio_wsk._vocabulary.arguments import checked_seconds, whole_number
from trio_wsk._vocabulary.errors import ConnectError, InvalidParameterError

from ._places import Bound
from ._socket_request import SocketRequest

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HAPPY_EYEBALLS_DELAY", "Target", "target_of"]

HAPPY_EYEBALLS_DELAY: Final = 0.25
"""Seconds that one address has before the next one is tried beside it (RFC 8305, section 5)."""

_HIGHEST_PORT: Final = 0xFFFF


class OpenedRequest(SocketRequest):
    """A connection that this side has opened, in the shape of a request that was accepted."""

    __slots__ = ()

    is_opened_here = True


@attrs.frozen
class Target:
    """Whom to connect to, and how."""

    host: str | None = None
    port: int = 0
    path: str | bytes | None = None
    local_address: str | None = None
    happy_eyeballs_delay: float = HAPPY_EYEBALLS_DELAY

    def __str__(self) -> str:
        if self.host is None:
            assert self.path is not None
            return str(Address.unix(self.path))
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def connect(self) -> OpenedRequest:
        """Connect, and return what accept would have given.

        Always a checkpoint. If cancelled, there is no connection.

        Raises:
          ConnectError: nobody is there, the name is unknown, there is no way, or the peer has
            gone again.
          InvalidParameterError: the host is no name that can be looked up. (The caller's.)
        """
        try:
            stream = await self._open()
            try:
                return self._request_of(stream.socket)
            finally:
                stream.socket.close()  # which is empty, if all went well
        except OSError as error:
            raise ConnectError.from_oserror(_first_of(error), str(self)) from error
        except ValueError as error:  # UnicodeError: a label that is empty or too long
            raise InvalidParameterError(
                f"{self.host!r} is no name that can be looked up: {error}"
            ) from error

    def _request_of(self, public: trio.socket.SocketType) -> OpenedRequest:
        """Take the connected descriptor out of Trio's socket; nothing here awaits.

        Raises:
          OSError: ENOTCONN, the peer has reset already, and nobody knows its address any more.
        """
        # Of a Unix socket the kernel knows the name that it was bound to, and not the one it has.
        peer = public.getpeername() if self.path is None else self.path
        kind = (public.family, public.type, public.proto)
        sock = socket.socket(*kind, fileno=public.detach())
        bound = Bound(sock, Address.from_sockaddr(sock.family, sock.getsockname()), tuned=False)
        return OpenedRequest(bound, sock.detach(), peer)

    async def _open(self) -> trio.SocketStream:
        if self.host is None:
            assert self.path is not None
            return await trio.open_unix_socket(self.path)
        return await trio.open_tcp_stream(
            self.host,
            self.port,
            happy_eyeballs_delay=self.happy_eyeballs_delay,
            local_address=self.local_address,
        )


def target_of(
    host: str | None,
    port: int | None,
    *,
    path: str | bytes | os.PathLike[str] | None,
    local_address: str | None,
    happy_eyeballs_delay: float,
) -> Target:
    """Return whom to connect to, or say what is wrong about it.

    Raises:
      InvalidParameterError: it is no host and port, and no path. (The caller's.)
    """
    if path is not None:
        if host is not None or port is not None or local_address is not None:
            raise InvalidParameterError(
                "connect to one place: write connect('example.org', 80) or connect(path='/run/x')"
            )
        return Target(path=_checked_path(path))
    given: object = host  # by a caller without a type checker, perhaps
    # At a NUL the resolver would end, and look up what stands before it.
    if not isinstance(given, str) or not given or "\0" in given:
        raise InvalidParameterError(
            f"a host is a name or an address, as in connect('example.org', 80), not {host!r}"
        )
    if not whole_number(port) or not 1 <= port <= _HIGHEST_PORT:
        raise InvalidParameterError(f"a port is a number from 1 to {_HIGHEST_PORT}, not {port!r}")
    if local_address is not None and not isinstance(local_address, str):
        raise InvalidParameterError(
            f"local_address is an address of this machine, '192.0.2.1', not {local_address!r}"
        )
    delay = checked_seconds("happy_eyeballs_delay", happy_eyeballs_delay)
    return Target(host, port, local_address=local_address, happy_eyeballs_delay=delay)


def _checked_path(path: str | bytes | os.PathLike[str]) -> str | bytes:
    try:
        checked = os.fspath(path)
    except TypeError:
        raise InvalidParameterError(
            f"a path is the name of a Unix socket, '/run/x.sock', not {path!r}"
        ) from None
    nul = "\0" if isinstance(checked, str) else b"\0"
    if not checked or nul in checked[1:]:  # type: ignore[operator]  # both are of one type
        raise InvalidParameterError(f"a path is the name of a Unix socket, not {path!r}")
    return checked


def _first_of(error: OSError) -> OSError:
    """Return the first of the errors that several attempts have had; Trio's own has no number."""
    if error.errno is None and isinstance(error.__cause__, BaseExceptionGroup):
        return next(_os_errors(error.__cause__), error)
    return error


def _os_errors(group: BaseExceptionGroup) -> Iterator[OSError]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _os_errors(each)
        elif isinstance(each, OSError):
            yield each
