"""What a server is opened with, and what is wrong with it: told at the call."""

from __future__ import annotations

import math
import ssl
from typing import TYPE_CHECKING, Final, cast

import attrs

from trio_wsk._listening.dispatch import ListenDispatch
from trio_wsk._vocabulary.arguments import (
    check_async_function,
    check_flag,
    checked_count,
    checked_seconds,
    is_time,
)
from trio_wsk._vocabulary.errors import InvalidParameterError

from .server_context import check_server_context
from .signals import checked_signals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from typing_extensions import Unpack

    from trio_wsk._connection.connection import Connection
    from trio_wsk._listening.options import (
        EventServerOptions,
        ListeningOptions,
        OnHandlerError,
        ServerOptions,
    )

    Handler = Callable[[Connection], Awaitable[object]]

__all__ = [
    "Handler",
    "Settings",
    "checked_grace",
    "settings_for_either",
    "settings_for_events",
    "settings_for_handler",
]

DEFAULT_GRACE: Final = 30.0
"""Seconds that open connections are given to finish when a server drains."""

DEFAULT_HANDSHAKE_TIMEOUT: Final = 30.0
"""Seconds for a TLS handshake: anyio's; hypercorn and asyncio give 60, Ranch 5."""


@attrs.frozen(kw_only=True)
class Settings:
    """The arguments of one server, checked."""

    handler: Handler | None = None
    """What connections are given to; None if callbacks get them."""
    ssl_context: ssl.SSLContext | None = None
    """What connections speak TLS with."""
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT
    """Seconds for a handshake."""
    https_compatible: bool = False
    """Whether TLS may end without close_notify."""
    on_handler_error: OnHandlerError = "report"
    """What becomes of a handler's crash."""
    max_connections: float
    """How many may be open at once; infinity is no limit."""
    idle_timeout: float
    """Seconds that nothing may pass on a connection; infinity is no limit."""
    max_lifetime: float
    """Seconds that a connection may be open before it is told to finish; infinity is no limit."""
    grace: float
    """Seconds of a drain that is given no others."""
    signals: tuple[int, ...]
    """What has the server drain, and then abort."""
    dispatch: ListenDispatch | None
    """The callbacks of the listening socket."""
    listening: ListeningOptions
    """The options of the listening socket."""


def settings_for_either(
    handler: Handler | ListenDispatch,
    call: str,
    **options: Unpack[ServerOptions],
) -> Settings:
    """Check the arguments of a server that calls a handler, or callbacks in its place.

    Args:
      handler: A handler, or a dispatch in its place.
      call: What was called.
      **options: The others.

    Raises:
      InvalidParameterError: one is wrong; the message says what is right. (The caller's.)
    """
    if not isinstance(handler, ListenDispatch):
        return settings_for_handler(handler, **options)
    if options.pop("dispatch", None) is not None:
        raise InvalidParameterError(
            f"{call} takes one ListenDispatch, in the place of the handler, not another"
            " one as dispatch="
        )
    if options.pop("on_handler_error", "report") != "report":
        raise InvalidParameterError(
            "on_handler_error= is of handlers, and there is none in a server of events; leave it"
            " out"
        )
    return settings_for_events(handler, **cast("EventServerOptions", options))


def settings_for_handler(
    handler: Handler,
    *,
    dispatch: ListenDispatch | None = None,
    ssl_context: ssl.SSLContext | None = None,
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
    https_compatible: bool = False,
    max_connections: int | None = None,
    idle_timeout: float = math.inf,
    max_lifetime: float = math.inf,
    grace: float = DEFAULT_GRACE,
    on_handler_error: OnHandlerError = "report",
    signals: Collection[int] = (),
    **listening: Unpack[ListeningOptions],
) -> Settings:
    """Check the arguments of a server that calls a handler.

    Raises:
      InvalidParameterError: one is wrong; the message says what is right. (The caller's.)
    """
    check_async_function("handler", handler)
    _check_ssl_context(ssl_context)
    check_flag("https_compatible", https_compatible)
    if on_handler_error not in ("report", "raise"):
        raise InvalidParameterError(
            f"on_handler_error is 'report' or 'raise', not {on_handler_error!r}"
        )
    limit = _checked_limit(max_connections)
    return Settings(
        handler=handler,
        ssl_context=ssl_context,
        handshake_timeout=_checked_handshake_timeout(handshake_timeout),
        https_compatible=https_compatible,
        on_handler_error=on_handler_error,
        max_connections=limit,
        idle_timeout=_checked_period("idle_timeout", idle_timeout),
        max_lifetime=_checked_period("max_lifetime", max_lifetime),
        grace=checked_grace(grace),
        signals=checked_signals(signals),
        dispatch=_checked_conditional(dispatch),
        listening=_within(limit, listening),
    )


def settings_for_events(
    dispatch: ListenDispatch,
    *,
    ssl_context: ssl.SSLContext | None = None,
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
    https_compatible: bool = False,
    max_connections: int | None = None,
    idle_timeout: float = math.inf,
    max_lifetime: float = math.inf,
    grace: float = DEFAULT_GRACE,
    signals: Collection[int] = (),
    **listening: Unpack[ListeningOptions],
) -> Settings:
    """Check the arguments of a server without handlers.

    Raises:
      InvalidParameterError: one is wrong; the message says what is right. (The caller's.)
    """
    given: object = dispatch  # by a caller without a type checker, perhaps
    if not isinstance(given, ListenDispatch) or given.accept is None:
        raise InvalidParameterError(
            "a server of events takes ListenDispatch(accept=...) with an accept callback,"
            f" not {dispatch!r}"
        )
    _check_ssl_context(ssl_context)
    check_flag("https_compatible", https_compatible)
    limit = _checked_limit(max_connections)
    return Settings(
        ssl_context=ssl_context,
        handshake_timeout=_checked_handshake_timeout(handshake_timeout),
        https_compatible=https_compatible,
        max_connections=limit,
        idle_timeout=_checked_period("idle_timeout", idle_timeout),
        max_lifetime=_checked_period("max_lifetime", max_lifetime),
        grace=checked_grace(grace),
        signals=checked_signals(signals),
        dispatch=dispatch,
        listening=_within(limit, listening),
    )


def checked_grace(grace: object) -> float:
    """Return a grace in seconds.

    Raises:
      InvalidParameterError: it is no time, or below zero. (The caller's.)
    """
    return checked_seconds("grace", grace, endless="as long as they take")


def _checked_period(name: str, seconds: object) -> float:
    """Return a time after which something is over, which may be never."""
    if is_time(seconds) and seconds > 0:
        return seconds
    raise InvalidParameterError(
        f"{name} is a time in seconds, more than 0, or math.inf for no limit, not {seconds!r};"
        f" write {name}=60.0"
    )


def _checked_handshake_timeout(seconds: object) -> float:
    return checked_seconds("handshake_timeout", seconds, endless="as long as it takes")


def _checked_limit(max_connections: int | None) -> float:
    if max_connections is None:
        return math.inf
    return checked_count(
        "max_connections", max_connections, least=1, or_none=", or None for no limit"
    )


def _within(limit: float, options: ListeningOptions) -> ListeningOptions:
    """Keep the listening socket within a limit of connections, if there is one.

    What is read ahead of a permit would be a connection beyond the limit.
    """
    return options if limit is math.inf else {**options, "max_parked": 0}


def _check_ssl_context(context: object) -> None:
    if context is None:
        return
    if not isinstance(context, ssl.SSLContext):
        raise InvalidParameterError(
            f"ssl_context is an ssl.SSLContext with a certificate, or None, not {context!r}"
        )
    check_server_context(context)


def _checked_conditional(dispatch: ListenDispatch | None) -> ListenDispatch | None:
    """Let a dispatch beside a handler have no callback that takes connections."""
    given: object = dispatch  # by a caller without a type checker, perhaps
    if given is not None and not (
        isinstance(given, ListenDispatch) and given.accept is None and given.drain is None
    ):
        raise InvalidParameterError(
            "beside a handler, dispatch takes ListenDispatch(inspect=..., abort=..., failed=...):"
            f" connections go to the handler, which sees connection.draining, not {dispatch!r}"
        )
    return dispatch
