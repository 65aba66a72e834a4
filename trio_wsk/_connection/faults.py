"""Whose fault it is that a handler, an inspector or a TLS handshake ended with an error.

Three things have to be told apart: a crash of user code, that the handler's own peer has gone, and
what concerns neither (cancellation, Ctrl-C). Decided here, acted on in the rooms above: `_serving`
and `_inspection.inspector_tasks`.
"""

from __future__ import annotations

import math
import ssl
import sys
from traceback import walk_tb
from typing import TYPE_CHECKING

import trio

from trio_wsk._vocabulary.errors import (
    ConnectionBrokenError,
    EndOfStreamError,
    IncompleteReadError,
    NoSocketError,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .connection import Connection

__all__ = [
    "has_finished",
    "is_cancelled",
    "is_peer_gone",
    "split_error",
    "why_no_handshake",
    "without_peers_end",
]


_ENDS = (EndOfStreamError, IncompleteReadError)
"""What a `Reader` raises when the peer has finished."""


def split_error(
    error: BaseException, stray: str | None = None
) -> tuple[Exception | None, BaseException | None]:
    """Part what somebody's code raised into its crash and what has to go on.

    Cancellation, Ctrl-C and their like go on.

    Args:
      error: What it raised.
      stray: Why a cancellation in it is nobody's, which makes it a part of the crash; None if
        somebody has asked for it.
    """
    crash, rest = _split(error, Exception)
    assert crash is None or isinstance(crash, Exception)
    if stray is not None and rest is not None:
        cancelled, rest = _split(rest, trio.Cancelled)
        if cancelled is not None:
            nobodys = RuntimeError(stray)
            nobodys.__cause__ = cancelled
            crash = nobodys if crash is None else ExceptionGroup("and more", [crash, nobodys])
    return crash, rest


def is_cancelled() -> bool:
    """Whether somebody has cancelled the current task, and it has not left the scope yet."""
    return trio.current_effective_deadline() == -math.inf


def without_peers_end(connection: Connection, crash: Exception) -> Exception | None:
    """Take out of a crash what only says that this connection's peer has gone."""
    if not isinstance(crash, ExceptionGroup):
        return None if is_peer_gone(connection, crash) else crash
    return crash.split(
        lambda each: not isinstance(each, ExceptionGroup) and is_peer_gone(connection, each)
    )[1]


def has_finished(connection: Connection, error: BaseException) -> bool:
    """Whether an error says that this connection's peer has finished, and nothing else.

    It is not gone: what it was sent before, it may still be reading.
    """
    if isinstance(error, ExceptionGroup):
        return all(has_finished(connection, each) for each in error.exceptions)
    return isinstance(error, _ENDS) and error.connection is connection


def _split(
    error: BaseException, kind: type[BaseException]
) -> tuple[BaseException | None, BaseException | None]:
    """Part an error, or a group of them, into what is of a kind and the rest."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(kind)
    return (error, None) if isinstance(error, kind) else (None, error)


def is_peer_gone(connection: Connection, error: BaseException) -> bool:
    """Whether an error says that this connection's own peer went away, or broke TLS.

    A layer above (TLS, a protocol library) says so in its own words, raised from ours.
    """
    if not isinstance(error, (trio.BrokenResourceError, OSError, NoSocketError, *_ENDS)):
        return False
    return any(
        _is_of(connection, each)
        or (isinstance(each, ssl.SSLError) and _is_tls_of(connection, each))
        for each in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Go through an error and what it was raised from, each once: that may be a circle."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__


def _is_of(connection: Connection, error: BaseException) -> bool:
    """Whether an error is ours, and of this connection."""
    ours = (ConnectionBrokenError, *_ENDS)
    return isinstance(error, ours) and error.connection is connection


def _is_tls_of(connection: Connection, error: ssl.SSLError) -> bool:
    """Whether an error of TLS was raised by a stream over this connection.

    The error says nothing of where it comes from, but it has passed through that stream. A
    handler may have others: its own backend's, for one.
    """
    return any(
        _is_over(connection, frame.f_locals.get("self"))
        for frame, _ in walk_tb(error.__traceback__)
    )


def _is_over(connection: Connection, stream: object) -> bool:
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream is connection


def why_no_handshake(connection: Connection, error: Exception | None) -> str:
    """Name the reason why a handshake failed; None is that its time had run out."""
    if error is None:
        return "timeout"
    has_left = connection._peer_ended or any(_is_of(connection, each) for each in _causes(error))
    return "peer-left" if has_left else "protocol"
