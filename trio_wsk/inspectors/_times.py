"""Whose times a rule has kept.

Trio's clock begins anywhere, anew in each run: what one run has said of a source means nothing in
the next, and could shut it out for days.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Times"]


@final
class Times:
    """The clock by which a rule has kept times.

    Args:
      forget: Has the rule forget them: called when there is another clock.
    """

    __slots__ = ("_clock", "_forget")

    def __init__(self, forget: Callable[[], object]) -> None:
        self._clock: trio.abc.Clock | None = None
        self._forget = forget

    def now(self) -> float:
        """Return the time, by the clock of this run; by it, the rule has no others left."""
        clock = trio.lowlevel.current_clock()
        if clock is not self._clock:
            self._forget()
            self._clock = clock
        return clock.current_time()
