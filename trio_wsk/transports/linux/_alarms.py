"""Alarms: when to look at which of many things, one alarm for each."""

from __future__ import annotations

import heapq
import math
from itertools import count
from typing import Final, Generic, Protocol, TypeVar, final

__all__ = ["Alarms"]

_FEW: Final = 64
"""So many alarms that were called off are not worth cleaning up after."""


class _Thing(Protocol):
    alarm: int
    """The number of its alarm; 0 while it has none."""


ThingT = TypeVar("ThingT", bound=_Thing)


@final
class Alarms(Generic[ThingT]):
    """The alarms of some things, which each keep the number of theirs.

    An alarm that was called off stays in the heap until its time has come, or until such alarms
    are more than half of the heap.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ThingT]] = []
        self._numbers = count(1)
        self._set = 0

    def set(self, thing: ThingT, when: float) -> None:
        """Have the alarm of a thing ring then, and not when it would have rung."""
        self.call_off(thing)
        thing.alarm = next(self._numbers)
        self._set += 1
        # Most ring later than those before them, and then this costs the same however many.
        heapq.heappush(self._heap, (when, thing.alarm, thing))

    def call_off(self, thing: ThingT) -> None:
        """Have the alarm of a thing not ring, if it has one."""
        if thing.alarm:
            thing.alarm = 0
            self._set -= 1
            heap = self._heap
            if len(heap) > _FEW + 2 * self._set:
                heap[:] = [each for each in heap if each[1] == each[2].alarm]
                heapq.heapify(heap)

    def ring(self, now: float) -> ThingT | None:
        """Return one thing whose time has come, which then has no alarm any more."""
        if self.next > now:
            return None
        _, _, thing = heapq.heappop(self._heap)
        thing.alarm = 0
        self._set -= 1
        return thing

    @property
    def next(self) -> float:
        """When the next alarm rings; infinity if none does."""
        heap = self._heap
        while heap and heap[0][1] != heap[0][2].alarm:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf
