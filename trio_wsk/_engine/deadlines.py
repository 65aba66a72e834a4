"""Deadlines of one length for many things: who came first is due first, so one timer serves all.

A timer for each thing would keep it alive until its time has come, long after it has ended: of a
server whose connections each linger for seconds, every one of the last seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Deadlines"]

T = TypeVar("T")


class Deadlines(Generic[T]):
    """The deadlines of the things that have one.

    Args:
      call_at: Has something called at a time, in seconds on Trio's clock.
      seconds: How long each has.
      expired: Called with each that has had its time. It has no deadline any more.
    """

    def __init__(
        self,
        call_at: Callable[[float, Callable[[], object]], object],
        seconds: float,
        expired: Callable[[T], object],
    ) -> None:
        self._call_at = call_at
        self._seconds = seconds
        self._expired = expired
        self._ends: OrderedDict[T, float] = OrderedDict()
        self._is_timed = False

    def __len__(self) -> int:
        """How many there are."""
        return len(self._ends)

    def __contains__(self, thing: T) -> bool:
        """Whether it has a deadline."""
        return thing in self._ends

    def start(self, thing: T) -> None:
        """Give it all its time, from now on; also if it has had some."""
        end = trio.current_time() + self._seconds
        self._ends[thing] = end
        self._ends.move_to_end(thing)
        self._time(end)

    def forget(self, thing: T) -> None:
        """Take its deadline back, if it has one."""
        self._ends.pop(thing, None)

    def _time(self, end: float) -> None:
        if not self._is_timed:
            self._is_timed = True
            self._call_at(end, self._sweep)

    def _sweep(self) -> None:
        now = trio.current_time()
        try:
            while self._ends:
                thing, end = next(iter(self._ends.items()))
                if end > now:
                    break
                del self._ends[thing]
                self._expired(thing)
        finally:
            # Not before: `expired` may have started later ones, which must not set the timer.
            self._is_timed = False
            if self._ends:
                self._time(next(iter(self._ends.values())))
