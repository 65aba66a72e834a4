"""
How late a task wakes that sleeps for 1 ms again and again, while its loop serves.

Who wants to know writes ``start`` to the program's standard input, a line, and later ``tell``.
The answer is a line of JSON: how many times it woke in between, and how much later than
asked. At other times it sleeps for longer: a dozen programs that wake a thousand times a
second would be felt by the one that is measured.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

SLEEP_SECONDS: Final = 0.001

UNWATCHED_SECONDS: Final = 0.05
"""Nobody feels twenty times a second, and of a window of a second it takes a twentieth."""


class Lags:
    """How late it woke, each time; a thread that does nothing else answers the questions."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self.is_watched = False
        threading.Thread(target=self._answer, daemon=True).start()

    def note(self, seconds: float) -> None:
        """It woke so late."""
        self._seconds.append(seconds)

    def _answer(self) -> None:
        for line in sys.stdin:
            # Neither side takes a lock: what is noted in between is in one list or the other.
            taken, self._seconds = self._seconds, []
            self.is_watched = line == "start\n"
            if not self.is_watched:
                print(json.dumps(summary(taken)), flush=True)


def summary(lags: list[float]) -> dict[str, float]:
    """Tell the median and the 99th percentile, in milliseconds."""
    ordered = sorted(lags) or [0.0]
    last = len(ordered) - 1
    return {
        "lag_count": len(lags),
        "lag_p50_ms": ordered[round(last * 0.5)] * 1e3,
        "lag_p99_ms": ordered[round(last * 0.99)] * 1e3,
    }


async def sleep_for_ever(sleep: Callable[[float], Awaitable[object]]) -> NoReturn:
    """Sleep, note how late it woke, sleep again."""
    lags = Lags()
    while True:
        while not lags.is_watched:
            await sleep(UNWATCHED_SECONDS)
        begun = time.perf_counter()
        await sleep(SLEEP_SECONDS)
        lags.note(max(0.0, time.perf_counter() - begun - SLEEP_SECONDS))
