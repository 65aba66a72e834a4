"""The transport for the one place that a caller has named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_wsk._errors import InspectPointError, InvalidParameterError
from trio_wsk._transport import Transport
from trio_wsk._verdict import InspectPoint

from .linux.transport import LinuxTransport
from .portable import PortableTransport

if TYPE_CHECKING:
    import os
    import socket as stdlib_socket
    from collections.abc import Sequence

    import trio

__all__ = ["transport_at"]


def transport_at(
    *,
    port: int | None,
    path: str | bytes | os.PathLike[str] | None,
    sockets: Sequence[stdlib_socket.socket | trio.socket.SocketType | int] | None,
    transport: Transport | None,
    tcp: dict[str, Any],
    mode: int | None,
    backlog: int | None,
    inspect_point: InspectPoint,
) -> Transport:
    """Make the transport for the one place that was named, or say that there are more."""
    places = {"port": port, "path": path, "sockets": sockets, "transport": transport}
    named = [name for name, place in places.items() if place is not None]
    if len(named) != 1:
        what = " and ".join(f"{name}={places[name]!r}" for name in named)
        raise InvalidParameterError(
            "name one place to listen at: a port (8000), path=, sockets= or transport=;"
            f" {what or 'nothing'} is {'too much' if named else 'not enough'}"
        )
    idle = {name: value for name, value in tcp.items() if value} if port is None else {}
    if mode is not None and path is None:
        idle["mode"] = mode
    if backlog is not None and transport is not None:
        idle["backlog"] = backlog
    if idle:
        raise InvalidParameterError(f"{named[0]}= doesn't go with {', '.join(idle)}")
    is_before = inspect_point is InspectPoint.BEFORE_HANDSHAKE
    if path is not None and is_before:
        raise InspectPointError(
            f"path={path!r} is a Unix socket's: it has no handshake to inspect before; inspect"
            " after it, or listen on a port"
        )
    if port is not None:
        if is_before:
            return LinuxTransport.tcp(port, backlog=backlog, **tcp)
        return PortableTransport.tcp(port, backlog=backlog, **tcp)
    if path is not None:
        return PortableTransport.unix(path, mode=mode, backlog=backlog)
    if sockets is not None:
        kind = LinuxTransport if is_before else PortableTransport
        return kind.adopt(sockets, backlog=backlog)
    assert transport is not None
    _check_transport(transport)
    return transport


def _check_transport(transport: object) -> None:
    """Refuse what has not the shape of a transport; it need not be a subclass."""
    missing = [
        name for name in sorted(Transport.__abstractmethods__) if not hasattr(transport, name)
    ]
    if missing or isinstance(transport, type):
        lacks = f", which has no {', '.join(missing)}" if missing else ", which is a class"
        raise InvalidParameterError(
            f"transport= takes a Transport, such as PortableTransport.tcp(8000), not"
            f" {transport!r}{lacks}"
        )
