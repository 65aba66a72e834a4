"""Timers of the network in memory, on Trio's clock.

There is a task only while something is due. A timer that is called off is due no more: where
nothing else is, the task ends, and the autojump clock has nothing to jump to.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Timer", "Timers"]

_FEW: Final = 64
"""So many timers that were called off are not worth cleaning up after."""


class Timer:
    """One thing that is due, unless it is called off."""

    __slots__ = ("action", "order", "when")

    def __init__(self, when: float, order: int, action: Callable[[], object]) -> None:
        self.when: float = when
        self.order: int = order
        self.action: Callable[[], object] | None = action

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self.order) < (other.when, other.order)


class Timers:
    """Does things when they are due: in the order of their times, then of their making."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._order = count()
        self.due: int = 0
        """How many are."""
        self._has_task = False
        self._scope: trio.CancelScope | None = None

    def after(self, seconds: float, action: Callable[[], object]) -> Timer:
        """Have ``action`` done so many seconds from now. It must not raise."""
        return self.at(trio.current_time() + seconds, action)

    def at(self, when: float, action: Callable[[], object]) -> Timer:
        """Have ``action`` done at ``when``, on Trio's clock. It must not raise."""
        timer = Timer(when, next(self._order), action)
        heapq.heappush(self._heap, timer)
        self.due += 1
        if not self._has_task:
            trio.lowlevel.spawn_system_task(self._run, name="trio_wsk: network in memory")
            self._has_task = True
        elif self._heap[0] is timer and self._scope is not None:
            self._scope.deadline = timer.when
        return timer

    def call_off(self, timer: Timer) -> None:
        """Have it not done; nothing happens if it has been."""
        if timer.action is None:
            return
        timer.action = None
        self.due -= 1
        heap = self._heap
        if not self.due:
            heap.clear()
        elif len(heap) > _FEW + 2 * self.due:
            heap[:] = [each for each in heap if each.action is not None]
            heapq.heapify(heap)
        while heap and heap[0].action is None:
            heapq.heappop(heap)
        if self._scope is not None:
            if heap:
                self._scope.deadline = heap[0].when
            else:
                self._scope.cancel()

    async def _run(self) -> None:  # noqa: ASYNC910 - a task of its own
        try:
            while self.due:
                with trio.CancelScope(deadline=self._heap[0].when) as self._scope:
                    await trio.sleep_forever()
                self._scope = None
                self._do_what_is_due()
        finally:
            # Either nothing is due, or the run is ending and nothing will be.
            self._heap.clear()
            self.due = 0
            self._scope = None
            self._has_task = False

    def _do_what_is_due(self) -> None:
        heap = self._heap
        now = trio.current_time()
        while heap and heap[0].when <= now:
            timer = heapq.heappop(heap)
            action, timer.action = timer.action, None
            if action is not None:
                self.due -= 1
                action()
