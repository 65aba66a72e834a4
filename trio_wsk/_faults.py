"""Whose fault it is that a handler or a TLS handshake ended with an error.

A server has to tell three things apart: a crash of the handler, that the handler's own peer
has gone, and what concerns neither (cancellation, Ctrl-C). Decided here, acted on
in `_serving`.
"""

from __future__ import annotations

import ssl
import sys
from typing import TYPE_CHECKING

import trio

from ._errors import ConnectionBrokenError

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from ._connection import Connection

__all__ = ["is_peer_gone", "split_error", "why_no_handshake"]


def split_error(
    connection: Connection, error: BaseException
) -> tuple[BaseException | None, BaseException | None]:
    """Part what a handler raised into its crash and what has to go on.

    Cancellation, Ctrl-C and their like go on. That this connection's peer has gone is
    neither, also inside a group.
    """
    if not isinstance(error, BaseExceptionGroup):
        if not isinstance(error, Exception):
            return None, error
        return (None if is_peer_gone(connection, error) else error), None
    crash, rest = error.split(Exception)
    if crash is not None:
        _, crash = crash.split(
            lambda each: not isinstance(each, BaseExceptionGroup) and is_peer_gone(connection, each)
        )
    return crash, rest


def is_peer_gone(connection: Connection, error: BaseException) -> bool:
    """Whether an error says that this connection's own peer went away.

    A layer above (TLS, a protocol library) says so in its own words, raised from ours.
    """
    if not isinstance(error, (trio.BrokenResourceError, OSError)):
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionBrokenError) and cause.connection is connection:
            return True
        if _is_ragged_end(cause):
            return connection._peer_ended
        cause = cause.__cause__
    return False


def _is_ragged_end(error: BaseException) -> bool:
    """Whether TLS may be complaining that the connection ended without a close_notify."""
    return isinstance(error, ssl.SSLError)


def why_no_handshake(connection: Connection, error: Exception | None) -> str:
    """Name the reason why a handshake failed; None is that its time had run out."""
    if error is None:
        return "timeout"
    return "peer-left" if is_peer_gone(connection, error) else "protocol"
