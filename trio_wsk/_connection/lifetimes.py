"""Lifetimes: how long a connection may be open at all.

Behind a load balancer, connections that last for ever stay where they were made, and a server that
was added gets none of them. One that has had its time is told as by a drain, but alone: whoever
waits for a next request learns that there is none, and its client connects again.

Those that were made at the same moment must not all come again at the same moment, so each has up
to a tenth less than it may.

Source: ``MAX_CONNECTION_AGE`` of gRPC, which takes a tenth off or adds it.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final, final

from trio_wsk._engine.wheel import Wheel
from trio_wsk._vocabulary.end_reason import EndReason

from .state import RETIRED

if TYPE_CHECKING:
    from collections.abc import Callable

    from .block import Block
    from .connection import Connection

__all__ = ["JITTER", "Lifetimes"]

JITTER: Final = 0.1
"""How much of its time a connection may lose, at most."""


@final
class Lifetimes:
    """Ends the connections of one server that have had their time.

    Args:
      block: Where they live.
      seconds: How long a connection may be open, in seconds on Trio's clock, before it is told.
      grace: How much longer, before it is reset.
      tell: Tells a connection as a drain does.
    """

    def __init__(
        self,
        block: Block,
        seconds: float,
        grace: float,
        tell: Callable[[Connection], None],
    ) -> None:
        self._between = block.between
        self._seconds = seconds
        self._grace = grace
        self._tell = tell
        self._wheel: Wheel[Connection] = Wheel(block.call_at, self._is_over)
        block.between.has_lifetimes = True

    def begin(self, connection: Connection) -> None:
        """It is open from now on."""
        less = JITTER * random.random()  # noqa: S311 - chance, not secrecy
        self._wheel.start(connection, self._seconds * (1 - less))

    def forget(self, connection: Connection) -> None:
        """It has ended."""
        self._wheel.forget(connection)

    def _is_over(self, connection: Connection) -> None:
        """In the pump: tell a connection that its time is over, or reset it if it was told."""
        if connection._channel is None:
            return
        if connection._marks & RETIRED:
            connection._reset_by_server(EndReason.EXPIRED)
            return
        if not self._between.draining.is_set():
            self._tell(connection)
        self._between.retire(connection)
        if self._grace < math.inf:
            self._wheel.start(connection, self._grace)
