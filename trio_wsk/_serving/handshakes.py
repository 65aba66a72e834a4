"""The TLS handshakes of a server: who is shaking hands, until when, and what comes of it.

There is no task for any of them. A step is due when something has come for it, and costs as much
as signing does: so one is done in each turn of the pump, and what else goes on has its turn
before the next one. Nobody has a connection before it has shaken hands: no task of a handler's
waits for that, and no callback is told of it.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING, final

from trio_wsk._connection import control
from trio_wsk._connection.faults import why_no_handshake
from trio_wsk._connection.handshake import Handshake
from trio_wsk._engine.deadlines import Deadlines
from trio_wsk._vocabulary import records

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext

    from trio_wsk._connection.block import Block
    from trio_wsk._connection.connection import Connection

    from .connections import ServedConnections

__all__ = ["Handshakes"]


@final
class Handshakes:
    """The handshakes of one server.

    Args:
      context: A server's, with a certificate.
      handshake_timeout: Seconds on Trio's clock for each.
      https_compatible: Whether an end without close_notify is an end.
      block: The listening block that the connections live in.
      connections: The account of the server's connections.
      shaken: Is given each connection that has shaken hands.
    """

    delivers = True

    def __init__(
        self,
        context: SSLContext,
        *,
        handshake_timeout: float,
        https_compatible: bool,
        block: Block,
        connections: ServedConnections,
        shaken: Callable[[Connection], object],
    ) -> None:
        self.failures: Counter[str] = Counter()
        """How many have failed, by reason."""
        self._context = context
        self._https_compatible = https_compatible
        self._block = block
        self._connections = connections
        self._shaken = shaken
        self._due: deque[Handshake] = deque()
        self._deadlines: Deadlines[Connection] | None = None
        if handshake_timeout < math.inf:
            self._deadlines = Deadlines(block.call_at, handshake_timeout, self._failed)

    runs_callbacks = False
    """See `Taker`: a handshake begins in the pump's next turn."""

    def take(self, connection: Connection) -> bool:
        """Have a new connection shake hands."""
        self._connections.opened_to_shake_hands(connection)
        handshake = Handshake(
            connection,
            self._context,
            https_compatible=self._https_compatible,
            ready=self._note_due,
        )
        control.own(connection, self)
        control.shake_hands(connection)
        if self._deadlines is not None:
            self._deadlines.start(connection)
        self._note_due(handshake)
        return True

    def ended(self, connection: Connection) -> None:
        """Take note: it is closed, and has never shaken hands."""
        self._forget(connection)
        self._connections.ended(connection)

    def _forget(self, connection: Connection) -> None:
        if self._deadlines is not None:
            self._deadlines.forget(connection)

    def _note_due(self, handshake: Handshake) -> None:
        if not handshake.is_due:
            handshake.is_due = True
            self._due.append(handshake)
            if len(self._due) == 1:
                self._block.post(self._turn)

    def _turn(self) -> None:
        """In the pump: do one step of one handshake."""
        handshake = self._due[0]
        try:
            self._step(handshake)
        finally:
            self._due.popleft()
            if self._due:
                self._block.post(self._turn)

    def _step(self, handshake: Handshake) -> None:
        connection = handshake.connection
        handshake.is_due = False
        if connection.closed:
            return
        if handshake.step():
            self._forget(connection)
            control.shake_hands(connection, is_over=True)
            self._shaken(connection)
        elif handshake.failure is not None:
            self._failed(connection, handshake.failure)

    def _failed(self, connection: Connection, error: Exception | None = None) -> None:
        """Count a handshake that has failed, and end its connection. No error: it took too long."""
        reason = why_no_handshake(connection, error)
        self.failures[reason] += 1
        self._block.tell(
            records.HandshakeFailed,
            remote_address=connection.remote_address,
            reason=reason,
            error=error,
        )
        control.part(connection)
