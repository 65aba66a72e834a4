"""The TLS handshake of one connection, before anybody has it: done in the pump, step by step.

The connection's channel is replaced by one that speaks TLS, for good. Until the handshake is over
the edges come here; then the connection is given to whoever it is for, as it would be without TLS.
"""

from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING, Final, final

from trio_wsk._engine.readiness import READ, WRITE
from trio_wsk._vocabulary.errors import ConnectionBrokenError
from trio_wsk._vocabulary.status import Status
from trio_wsk.transports._tls_channel import TLSChannel
from trio_wsk.transports._tls_request import TLSRequest

from .state import FIN_RECEIVED

if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Connection

__all__ = ["Handshake"]


@final
class Handshake:
    """One connection's handshake.

    Args:
      connection: A new one, which is the block's until somebody gets it.
      context: A server's.
      https_compatible: Whether an end without close_notify is an end.
      ready: Called when `step` has something to do; also from inside calls, so it takes note.

    """

    __slots__ = ("_channel", "_ready", "connection", "failure", "is_due")

    def __init__(
        self,
        connection: Connection,
        context: ssl.SSLContext,
        *,
        https_compatible: bool,
        ready: Callable[[Handshake], object],
    ) -> None:
        self.connection: Final = connection
        """Whose it is."""
        self.failure: Exception | None = None
        """Why it has failed: an `ssl.SSLError`, or a `ConnectionBrokenError`."""
        self.is_due = False
        """For who calls `step`: whether that is to be done."""
        self._ready = ready
        watch = connection._watched()
        watch.sink = self
        self._channel = TLSChannel(
            connection._open_channel(),
            context,
            https_compatible=https_compatible,
            again=partial(connection._block.post, partial(watch.on_edges, READ)),
        )
        connection._channel = self._channel
        connection._request = TLSRequest(connection._request, self._channel)
        connection._block.event_driven.add(connection)

    def on_edges(self, edges: int) -> None:  # noqa: ARG002 - whatever it is, it is tried
        """Something has come, or there is room, or the peer has gone."""
        self._ready(self)

    def step(self) -> bool:
        """Do what can be done, bounded; return whether the handshake is over.

        If it is not over, the next step is due at once, or when ``ready`` says so; or there is none
        if it has failed (`failure`).
        """
        channel = self._channel
        try:
            is_over = channel.shake_hands()
        except BlockingIOError:
            self._hear_of(WRITE if channel.owes else READ)
        except (OSError, EOFError) as error:
            self.failure = self._why(error)
        else:
            if is_over:
                self.connection._listen_to_watch(self.connection._watched())
            else:
                self._ready(self)
            return is_over
        return False

    def _why(self, error: Exception) -> Exception:
        """Take note of what has become of the connection, and say it as a user knows it."""
        connection = self.connection
        if isinstance(error, ssl.SSLError):  # the connection is whole
            return error
        if isinstance(error, OSError):
            return connection._translated(error)
        connection._marks |= FIN_RECEIVED
        return ConnectionBrokenError(
            f"{connection.remote_address} has finished in the middle of a TLS handshake",
            status=Status.CONNECTION_DISCONNECTED,
            connection=connection,
        )

    def _hear_of(self, edges: int) -> None:
        connection = self.connection
        watch = connection._watched()
        try:
            connection._arm(watch.home or connection._block.readiness, watch, edges)
        except ConnectionBrokenError as error:
            self.failure = error
