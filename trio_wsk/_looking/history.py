"""`History`: what has happened between readings, in sum, and in the last minutes.

Counts begin at nothing again when a process is replaced; what it had counted before stays in the
sums. A process is another one if its number says so, or if anything that it has counted is less
than it was. One that gives no reading for a while is remembered, so that nothing of it is counted
twice when it gives the next.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final, final

import attrs

from .readings import TURNED_AWAY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .readings import Count, Place, Reading

__all__ = ["History", "Point", "Reason", "Row", "Waits"]

SPAN: Final = 300.0
"""How many seconds are kept: a reload, a burst, and what was before it are in sight."""

MOST_POINTS: Final = 600
"""How many points are kept at most, however often somebody asks."""

LATELY: Final = 10.0
"""Seconds over which rates of what is rare are said: what happens once in them shows."""

A_MINUTE: Final = 60.0
"""Seconds over which waits are said."""


@attrs.frozen(kw_only=True)
class Point:
    """What happened between two readings, and what was true at the second one."""

    at: float
    """When the second one was made."""
    seconds: float
    """How long after the first one; 0 for the first of all."""
    gained: Mapping[Count, float]
    """What was counted meanwhile, at all places together."""
    by_place: Mapping[Place, Mapping[Count, float]]
    """What was counted meanwhile, at each."""
    levels: Mapping[str, int]
    """What was true then, of all places together."""

    def rate(self, what: str) -> float | None:
        """Return how often that happened per second; None for the first of all."""
        if not self.seconds:
            return None
        return sum(count for (each, _), count in self.gained.items() if each == what) / self.seconds


@attrs.frozen(kw_only=True)
class Reason:
    """Why peers were turned away, or something failed."""

    what: str
    """One of `TURNED_AWAY`."""
    why: str
    total: float
    """How often: since the processes were started that answered first."""
    rate: float
    """How often per second lately."""


@attrs.frozen(kw_only=True)
class Row:
    """One place now."""

    place: Place
    reading: Reading
    accepted_rate: float
    """Connections per second lately."""


@attrs.frozen(kw_only=True)
class Waits:
    """How long a rule has kept requests waiting."""

    rule: str
    waits: int
    """How often in the last minute."""
    mean: float
    """How many seconds each time, in the last minute."""


@final
class History:
    """What has happened lately.

    Args:
      span: How many seconds of it are kept.
      most_points: How many points, at most.
    """

    def __init__(self, *, span: float = SPAN, most_points: int = MOST_POINTS) -> None:
        self._span = span
        self._points: deque[Point] = deque(maxlen=most_points)
        self._last: dict[Place, tuple[float, Reading]] = {}
        self._now: list[Place] = []
        self.silent: Sequence[int] = ()
        """The workers that gave no answer the last time."""
        self.totals: Final[Counter[Count]] = Counter()
        """All that was counted; it never goes back."""

    @property
    def points(self) -> Sequence[Point]:
        """The last minutes, the latest last."""
        return tuple(self._points)

    def add(
        self, at: float, readings: Mapping[Place, Reading], silent: Sequence[int] = ()
    ) -> Point:
        """Take readings that were made at one time.

        Args:
          at: When; later than the ones before.
          readings: Of all who have answered.
          silent: The workers that have not.

        Returns:
          What has happened since the ones before.
        """
        is_first = not self._points
        gained = {place: self._gained(place, each) for place, each in readings.items()}
        together: Counter[Count] = Counter()
        levels: Counter[str] = Counter()
        for place, reading in readings.items():
            together.update(gained[place])
            levels.update(reading.levels)
            self._last[place] = at, reading
        self.totals.update(together)
        point = Point(
            at=at,
            seconds=0.0 if is_first else at - self._points[-1].at,
            gained={} if is_first else together,
            by_place={} if is_first else gained,
            levels=levels,
        )
        self._points.append(point)
        self._now = sorted(readings)
        self.silent = silent
        self._forget(at - self._span)
        return point

    def _gained(self, place: Place, reading: Reading) -> Mapping[Count, float]:
        """Return what a place has counted since it was read last."""
        if place not in self._last:
            return _positive(reading.counts)
        _, last = self._last[place]
        grown = {key: count - last.counts.get(key, 0) for key, count in reading.counts.items()}
        lost = last.counts.keys() - reading.counts.keys()
        is_another = (
            reading.process != last.process
            or any(last.counts[key] > 0 for key in lost)
            or any(count < 0 for count in grown.values())
        )
        return _positive(reading.counts if is_another else grown)

    def _forget(self, before: float) -> None:
        while self._points[0].at < before:
            self._points.popleft()
        for place in [place for place, (at, _) in self._last.items() if at < before]:
            del self._last[place]

    # --- What is shown ---------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """Return each place that gave the latest readings."""
        return [
            Row(
                place=place,
                reading=self._last[place][1],
                accepted_rate=self._rate_at(place, ("accepted", "")),
            )
            for place in self._now
        ]

    def _rate_at(self, place: Place, key: Count) -> float:
        lately = list(self._since(LATELY))
        seconds = sum(each.seconds for each in lately)
        count = sum(each.by_place.get(place, {}).get(key, 0) for each in lately)
        return count / seconds if seconds else 0.0

    def reasons(self) -> list[Reason]:
        """Return why peers were turned away, what happens most now first."""
        lately: Counter[Count] = Counter()
        seconds = 0.0
        for each in self._since(LATELY):
            lately.update(each.gained)
            seconds += each.seconds
        found = [
            Reason(what=what, why=why, total=total, rate=lately[what, why] / (seconds or 1.0))
            for (what, why), total in self.totals.items()
            if what in TURNED_AWAY
        ]
        return sorted(found, key=lambda each: (-each.rate, -each.total, each.what, each.why))

    def waits(self) -> list[Waits]:
        """Return the rules that have had requests wait in the last minute, the slowest first."""
        lately: Counter[Count] = Counter()
        for each in self._since(A_MINUTE):
            lately.update(each.gained)
        found = [
            Waits(rule=rule, waits=int(waits), mean=lately["waited", rule] / waits)
            for (what, rule), waits in lately.items()
            if what == "waits"
        ]
        return sorted(found, key=lambda each: (-each.mean, each.rule))

    def _since(self, seconds: float) -> Iterator[Point]:
        """Go through what happened in the last seconds, the latest first."""
        for each in reversed(self._points):
            if each.at <= self._points[-1].at - seconds:
                return
            yield each


def _positive(counts: Mapping[Count, float]) -> dict[Count, float]:
    return {key: count for key, count in counts.items() if count > 0}
