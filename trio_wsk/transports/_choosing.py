"""The transport for the one place that a caller has named."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from trio_wsk._vocabulary.errors import InspectPointError, InvalidParameterError
from trio_wsk._vocabulary.verdict import InspectPoint

from ._adopting import close_given
from ._contract import Transport
from .linux.transport import LinuxTransport
from .portable import PortableTransport

if TYPE_CHECKING:
    import os
    import socket as stdlib_socket
    from collections.abc import Iterator, Mapping, Sequence

    import trio

__all__ = ["closing_if_wrong", "transport_at"]


@contextmanager
def closing_if_wrong(sockets: object, transport: object) -> Iterator[None]:
    """Close what a caller has given up to us, if another argument turns out to be wrong.

    For the time before a transport is made of it, which closes it from then on.
    """
    try:
        yield
    except BaseException:
        close_given(sockets)
        if transport is not None and not _what_it_lacks(transport):
            cast("Transport", transport).close()
        raise


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
    """Make the transport for the one place that was named, or say that there are more.

    Sockets, or a transport, are ours from here on: if this raises, they are closed.
    """
    is_before = inspect_point is InspectPoint.BEFORE_HANDSHAKE
    places = {"port": port, "path": path, "sockets": sockets, "transport": transport}
    with closing_if_wrong(sockets, transport):
        _check_place(places, tcp=tcp, mode=mode, backlog=backlog, is_before=is_before)
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
    return transport


def _check_place(
    places: Mapping[str, object],
    *,
    tcp: Mapping[str, object],
    mode: object,
    backlog: object,
    is_before: bool,
) -> None:
    """Say what is wrong if there is not one place, or if an option doesn't go with it."""
    named = [name for name, place in places.items() if place is not None]
    if len(named) != 1:
        what = " and ".join(f"{name}={places[name]!r}" for name in named)
        raise InvalidParameterError(
            "name one place to listen at: a port (8000), path=, sockets= or transport=;"
            f" {what or 'nothing'} is {'too much' if named else 'not enough'}"
        )
    (place,) = named
    idle = [name for name, value in tcp.items() if value] if place != "port" else []
    if mode is not None and place != "path":
        idle.append("mode")
    if backlog is not None and place == "transport":
        idle.append("backlog")
    if idle:
        raise InvalidParameterError(f"{place}= doesn't go with {', '.join(idle)}")
    if place == "path" and is_before:
        raise InspectPointError(
            f"path={places['path']!r} is a Unix socket's: it has no handshake to inspect before;"
            " inspect after it, or listen on a port"
        )
    if place == "transport":
        transport = places["transport"]
        lacks = _what_it_lacks(transport)
        if lacks:
            raise InvalidParameterError(
                f"transport= takes a Transport, such as PortableTransport.tcp(8000), not"
                f" {transport!r}, which {lacks}"
            )


def _what_it_lacks(transport: object) -> str:
    """Say what keeps something from having the shape of a transport; it need not be a subclass."""
    if isinstance(transport, type):
        return "is a class"
    missing = [
        name for name in sorted(Transport.__abstractmethods__) if not hasattr(transport, name)
    ]
    return f"has no {', '.join(missing)}" if missing else ""
