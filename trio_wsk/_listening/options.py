"""The options of the functions that listen, by name: for who passes them on.

::

    async def serve_echo(port: int, **options: Unpack[ServerOptions]) -> None:
        await trio_wsk.serve(echo, port, **options)

``Unpack`` is in `typing` since Python 3.11, and in ``typing_extensions`` before.

Source: PEP 692.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

if TYPE_CHECKING:
    import os
    import socket
    import ssl
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

    import trio

    from trio_wsk._inspection.request import ConnectionRequest
    from trio_wsk._intake.intake import NoDescriptorsPolicy
    from trio_wsk._vocabulary.verdict import (
        InspectAction,
        InspectPoint,
        Overflow,
        OverflowPolicy,
        Verdict,
    )
    from trio_wsk.observers import Observer
    from trio_wsk.transports._contract import Transport

    from .dispatch import ListenDispatch

    Answer = InspectAction | Verdict

__all__ = [
    "EventServerOptions",
    "ListeningOptions",
    "OnHandlerError",
    "ServerOptions",
    "check_options",
]

OnHandlerError = Literal["report", "raise"]


class ListeningOptions(TypedDict, total=False):
    """The options of `open_listening_socket`, which all that listen have.

    ``port`` and ``dispatch`` are not among them: give those by themselves.
    """

    host: str | Sequence[str] | None
    path: str | bytes | os.PathLike[str] | None
    mode: int | None
    sockets: Sequence[socket.socket | trio.socket.SocketType | int] | None
    transport: Transport | None
    backlog: int | None
    reuse_port: bool
    socket_options: Sequence[tuple[int, int, int | bytes]]
    context: object
    inspect: Callable[[ConnectionRequest], Answer | Awaitable[Answer]] | None
    inspect_point: InspectPoint
    inspect_timeout: float | None
    max_pending: int
    max_parked: int
    overflow: Overflow | OverflowPolicy
    abort_on_half_close: bool | None
    on_no_descriptors: NoDescriptorsPolicy
    observers: Iterable[Observer]


class EventServerOptions(ListeningOptions, total=False):
    """The options of `serve_events`, and of `open_server` with a `ListenDispatch`."""

    ssl_context: ssl.SSLContext | None
    handshake_timeout: float
    https_compatible: bool
    max_connections: int | None
    idle_timeout: float
    max_lifetime: float
    grace: float
    signals: Collection[int]


class ServerOptions(EventServerOptions, total=False):
    """The options of `serve`, and of `open_server` with a handler."""

    dispatch: ListenDispatch | None
    on_handler_error: OnHandlerError


_OTHERS: Final = frozenset({"dispatch", "port"})
"""Parameters that may be meant as well."""

_CALLBACKS: Final = frozenset({"abort", "accept", "drain", "failed"})
"""Slots of a `ListenDispatch` that are no options."""

_ELSEWHERE: Final = {"limit": "max_connections", "ssl": "ssl_context"}
"""What it is called in asyncio and its like."""

_ALIKE: Final = 0.7
"""From how much likeness on one name is taken for another: `timeout` is no `inspect_timeout`."""


def check_options(call: str, options: Collection[str]) -> None:
    """Refuse options that don't exist, in the name of who was called.

    Args:
      call: Its name.
      options: The names that were given, but those of its own parameters.

    Raises:
      TypeError: one is unknown; the message says what may have been meant. (The caller's.)
    """
    known = _EVENT_SERVER if call == "serve_events" else _SERVER
    for name in options:
        if name not in known:
            raise TypeError(
                f"{call}() got an unexpected keyword argument {name!r}{_hint(call, name)}"
            )


def _hint(call: str, name: str) -> str:
    ours = _ELSEWHERE.get(name, name)
    if name == "on_handler_error" and call == "serve_events":
        return f": that needs a task for each connection; write serve(handler, ..., {name}=...)"
    if name in _CALLBACKS:
        return f": it is a callback; write dispatch=ListenDispatch({name}=...)"
    known = _EVENT_SERVER if call == "serve_events" else _SERVER
    meant = get_close_matches(ours, sorted(known | _OTHERS), 1, _ALIKE)
    return f"; did you mean {meant[0]!r}?" if meant else ""


def _names(options: Any) -> frozenset[str]:  # noqa: ANN401 - a TypedDict class has no type
    names: frozenset[str] = options.__optional_keys__
    return names


_EVENT_SERVER: Final = _names(EventServerOptions)
_SERVER: Final = _names(ServerOptions)
