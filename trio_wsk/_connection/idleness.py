"""Idle connections: how long nothing has passed is asked at a deadline, and not noted on the way.

A clock that is read for each piece of data would cost every connection that has something to do,
for the sake of those that have not. So each is looked at when it could be due, and what has passed
meanwhile moves that. The kernel knows when the last octet passed (`TransportRequest.traffic`).
Where it does not, the connection's own counts are looked at once in a second.

The first look comes after a second, so that those that are over by then have cost nothing.

How one is ended that has a handler: what waits to receive hears of an end, as if the peer had
finished, and so the handler ends in its own way, and may still answer. Nobody waits for one that
has events, so it is ended as by `Connection.disconnect`. Either is reset where the peer takes
nothing, and when the same time has passed once more.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._engine.wheel import Wheel
from trio_wsk._vocabulary.end_reason import EndReason
from trio_wsk._vocabulary.errors import ConnectionBrokenError, SocketClosedError

from .state import LINGERING, OVER_IDLE, THE_BLOCKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Connection

__all__ = ["IdleEnds"]

LOOK_SECONDS: Final = 1.0
"""How long after its beginning a connection is looked at first, and how often one is of which the
system can't tell when something has passed."""

TOLERANCE: Final = 0.02
"""How much too early is near enough, in seconds: a tick of the kernel's clock at 100 Hz, and what
is lost where it is told in milliseconds."""


class _Seen:
    """What was seen of a connection when it was last looked at."""

    __slots__ = ("passed", "since")

    def __init__(self) -> None:
        self.passed = 0
        """How much had passed."""
        self.since = trio.current_time()
        """Since when nothing had, on Trio's clock."""


@final
class IdleEnds:
    """Ends the connections of one server on which nothing passes for too long.

    Args:
      call_at: Has something called at a time, in seconds on Trio's clock.
      seconds: How long is too long.
    """

    def __init__(
        self, call_at: Callable[[float, Callable[[], object]], object], seconds: float
    ) -> None:
        self._seconds = seconds
        self._wheel: Wheel[Connection] = Wheel(call_at, self._look)
        self._seen: dict[Connection, _Seen] = {}

    def watch(self, connection: Connection) -> None:
        """From now on, end it if it is idle."""
        self._seen[connection] = _Seen()
        self._wheel.start(connection, min(self._seconds, LOOK_SECONDS))

    def forget(self, connection: Connection) -> None:
        """It has ended."""
        self._wheel.forget(connection)
        self._seen.pop(connection, None)

    def _look(self, connection: Connection) -> None:
        """In the pump: see how long nothing has passed on a connection, and end it if need be."""
        if connection._channel is None or connection._marks & LINGERING:
            return  # its end is bounded by itself, or it is its handler's
        left, is_told = self._time_left(connection)
        if left > TOLERANCE:
            self._wheel.start(connection, left if is_told else min(left, LOOK_SECONDS))
        elif connection._sending or connection._unsent or connection._marks & OVER_IDLE:
            connection._marks |= OVER_IDLE
            connection._reset_by_server(EndReason.IDLE)
        else:
            seen = self._seen[connection]
            seen.since = trio.current_time()
            self._wheel.start(connection, self._seconds)
            _end(connection)

    def _time_left(self, connection: Connection) -> tuple[float, bool]:
        """Return how long it may still be idle, and whether the system tells when it is."""
        channel, seen = connection._channel, self._seen[connection]
        assert channel is not None
        now = trio.current_time()
        traffic = connection._request.traffic(channel)
        passed, ago = (0, 0.0) if traffic is None else traffic
        passed += connection._octets_in + connection._octets_out
        has_public_socket = connection._rare is not None and connection._rare.socket is not None
        if passed != seen.passed or (traffic is None and has_public_socket):
            # If nothing has passed since the last look, the time since is Trio's, whatever another
            # clock says: a clock of a test's, with sockets of the kernel's.
            seen.passed = passed
            seen.since = now - ago
        return seen.since + self._seconds - now, traffic is not None


def _end(connection: Connection) -> None:
    """End a connection that was idle for too long, in good order."""
    connection._end_input()
    if connection._enabled & THE_BLOCKS:
        # If it is broken, or closed through its socket, the pump finds that out by itself.
        with suppress(ConnectionBrokenError, SocketClosedError):
            connection._disconnect(b"")
