"""Idle connections: how long nothing has passed is asked at a deadline, and not noted on the way.

A clock that is read for each piece of data would cost every connection that has something to do,
for the sake of those that have not. So each is looked at when it could be due, and what has passed
meanwhile moves that. The kernel knows when the last octet passed (`TransportRequest.traffic`).
Where it does not, the connections' own counts are looked at once in a second, all in one go.

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

from trio_wsk._engine.wheel import MOST_PER_TURN, Wheel
from trio_wsk._vocabulary.end_reason import EndReason
from trio_wsk._vocabulary.errors import ConnectionBrokenError, SocketClosedError

from .state import LINGERING, OVER_IDLE, THE_BLOCKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Connection

__all__ = ["IdleEnds"]

LOOK_SECONDS: Final = 1.0
"""How long after its beginning a connection is looked at first, and how often those are of which
the system can't tell when something has passed."""

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
        self._call_at = call_at
        self._seconds = seconds
        self._enough = seconds - TOLERANCE
        self._wheel: Wheel[Connection] = Wheel(call_at, self._look)
        self._seen: dict[Connection, _Seen] = {}
        self._counted: dict[Connection, _Seen] = {}  # of which the system can't tell
        self._is_counting = False

    def watch(self, connection: Connection) -> None:
        """From now on, end it if it is idle."""
        self._seen[connection] = _Seen()
        self._wheel.start(connection, min(self._seconds, LOOK_SECONDS))

    def forget(self, connection: Connection) -> None:
        """It has ended."""
        self._wheel.forget(connection)
        self._seen.pop(connection, None)
        self._counted.pop(connection, None)

    # --- Where the system can tell -----------------------------------------------------

    def _look(self, connection: Connection) -> None:
        """In the pump: see how long nothing has passed on a connection, and end it if need be."""
        if _is_ending(connection):
            return
        channel, seen = connection._channel, self._seen[connection]
        assert channel is not None
        traffic = connection._request.traffic(channel)
        if traffic is None:
            self._counted[connection] = seen
            self._start_counting()
            return
        passed, ago = traffic
        passed += connection._octets_in + connection._octets_out
        now = trio.current_time()
        if passed != seen.passed:
            # If not, nothing has passed since the last look, and the time since is Trio's, whatever
            # another clock says: a clock of a test's, with sockets of the kernel's.
            seen.passed = passed
            seen.since = now - ago
        idle = now - seen.since
        if idle < self._enough:
            self._wheel.start(connection, self._seconds - idle)
        elif self._end(connection, seen):
            self._wheel.start(connection, self._seconds)

    # --- Where it can't ----------------------------------------------------------------

    def _start_counting(self) -> None:
        if not self._is_counting:
            self._is_counting = True
            self._count()

    def _count(self) -> None:
        """In the pump: look at the counts of all, in one go, and end who needs to be."""
        now = trio.current_time()
        since_when = now - self._enough
        due = []
        for connection, seen in self._counted.items():
            passed = connection._octets_in + connection._octets_out
            if passed != seen.passed:
                seen.passed = passed
                seen.since = now
            elif seen.since <= since_when:
                due.append((connection, seen))
        for connection, seen in due[:MOST_PER_TURN]:
            if _has_public_socket(connection):
                seen.since = now  # for all that is known
            elif _is_ending(connection) or not self._end(connection, seen):
                self._counted.pop(connection, None)
        self._is_counting = bool(self._counted)
        if self._is_counting:
            are_more = len(due) > MOST_PER_TURN
            self._call_at(now if are_more else now + LOOK_SECONDS, self._count)

    # --- The end -----------------------------------------------------------------------

    def _end(self, connection: Connection, seen: _Seen) -> bool:
        """End a connection that is idle, in good order if that goes; False if it is gone now."""
        if connection._sending or connection._unsent or connection._marks & OVER_IDLE:
            connection._marks |= OVER_IDLE
            connection._reset_by_server(EndReason.IDLE)
            return False
        seen.since = trio.current_time()
        connection._end_input()
        if connection._enabled & THE_BLOCKS:
            # If it is broken, or closed through its socket, the pump finds that out by itself.
            with suppress(ConnectionBrokenError, SocketClosedError):
                connection._disconnect(b"")
        return connection._channel is not None


def _is_ending(connection: Connection) -> bool:
    """Whether its end is bounded by itself, or has come, whatever its handler still does."""
    return connection._channel is None or bool(connection._marks & LINGERING)


def _has_public_socket(connection: Connection) -> bool:
    return connection._rare is not None and connection._rare.socket is not None
