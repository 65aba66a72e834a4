"""Whether a server answers, and when one that does not is tried again. Pure: the time is told."""

from __future__ import annotations

import math
from typing import Final, final

__all__ = ["Breaker"]

FIRST_WAIT: Final = 0.1
"""Seconds until the first try: a server that was only slow is back by then."""

LONGEST_WAIT: Final = 5.0
"""The most between two tries: a try costs a connection, and a line in the log of who makes it."""

STEADY_AFTER: Final = 10.0
"""Who has answered for so long begins anew with `FIRST_WAIT`; who comes and goes does not."""


@final
class Breaker:
    """Knows since when there is no answer, and when to try again."""

    __slots__ = ("_back_at", "_wait", "lost_at", "next_try")

    def __init__(self) -> None:
        self.lost_at: float | None = None
        """Since when there is no answer; None while there is."""
        self.next_try = -math.inf
        """When to try again, while there is none."""
        self._wait = 0.0
        self._back_at = -math.inf

    def failed(self, now: float) -> bool:
        """Take note that there was no answer; return whether that is news."""
        is_news = self.lost_at is None
        if is_news:
            self.lost_at = now
            if now - self._back_at >= STEADY_AFTER:
                self._wait = 0.0
        self._wait = min(max(2 * self._wait, FIRST_WAIT), LONGEST_WAIT)
        self.next_try = now + self._wait
        return is_news

    def answered(self, now: float) -> float | None:
        """Take note of an answer; return for how many seconds there was none, if that is news."""
        if self.lost_at is None:
            return None
        seconds = now - self.lost_at
        self.lost_at = None
        self._back_at = now
        return seconds
