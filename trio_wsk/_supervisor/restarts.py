"""When a worker that has crashed is started again, and when no more.

It has no clock and no process: times are arguments.
"""

from __future__ import annotations

from typing import Final, final

__all__ = ["Restarts"]

STEADY: Final = 30.0
"""Seconds of service after which a crash has nothing to do with the ones before."""

LONGEST: Final = 16.0
"""Seconds between two tries, at most: who has repaired something waits no longer for it."""

TRIES: Final = 8
"""How many crashes in a row are too many: with these waits that is after half a minute, in which
what a worker needs may have come back."""


@final
class Restarts:
    """The crashes of one worker, in a row."""

    def __init__(self) -> None:
        self.crashes = 0
        """How many there were since it was steady."""

    def crashed(self, served: float) -> float | None:
        """Return how many seconds to wait for the next try; None if there shall be none.

        The first try is at once: one crash is no reason for clients to wait.

        Args:
          served: For how many seconds the worker has served, 0 if it was never ready.
        """
        if served >= STEADY:
            self.crashes = 0
        self.crashes += 1
        if self.crashes >= TRIES:
            return None
        return min(0.5 * 2.0 ** (self.crashes - 2), LONGEST) if self.crashes > 1 else 0.0
