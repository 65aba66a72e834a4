"""Deadlines of any length for many things, told together: a timing wheel.

What is due within the same quarter of a second is done in one turn. So ten thousand things that
wait for a minute wake the process four times in a second at most, and not ten thousand times.

Source: G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels" (1987), on a table in
place of an array.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GRAIN", "MOST_PER_TURN", "Wheel"]

T = TypeVar("T")

GRAIN: Final = 0.25
"""How much later than it is due something may come, in seconds on Trio's clock; never earlier."""

MOST_PER_TURN: Final = 256
"""How many things are told before others have their turn."""


class Wheel(Generic[T]):
    """The deadlines of the things that have one.

    Args:
      call_at: Has something called at a time, in seconds on Trio's clock.
      expired: Called with each that has had its time. It has no deadline any more, and may be given
        another one from inside the call.
    """

    def __init__(
        self,
        call_at: Callable[[float, Callable[[], object]], object],
        expired: Callable[[T], object],
    ) -> None:
        self._call_at = call_at
        self._expired = expired
        self._slots: dict[int, dict[T, None]] = {}  # by when they are due; each has a timer
        self._slot_of: dict[T, int] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._slot_of)

    def start(self, thing: T, seconds: float) -> None:
        """Give it so much time from now on, whatever it had."""
        self.forget(thing)
        now = trio.current_time() / GRAIN
        number = max(math.ceil(now + seconds / GRAIN), math.floor(now) + 1)
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = {}
            self._call_at(number * GRAIN, partial(self._sweep, number))
        slot[thing] = None
        self._slot_of[thing] = number

    def forget(self, thing: T) -> None:
        """Take its deadline back, if it has one."""
        number = self._slot_of.pop(thing, None)
        if number is not None:
            del self._slots[number][thing]

    def _sweep(self, number: int) -> None:
        slot = self._slots[number]
        try:
            for thing in list(slot)[:MOST_PER_TURN]:
                if thing in slot:  # nobody has forgotten it meanwhile
                    self.forget(thing)
                    self._expired(thing)
        finally:
            if slot:
                self._call_at(trio.current_time(), partial(self._sweep, number))
            else:
                del self._slots[number]
