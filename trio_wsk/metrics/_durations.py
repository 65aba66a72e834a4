"""`Durations`: how long verdicts, queueing and connections have taken, as histograms."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Final, final

from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.arguments import is_time
from trio_wsk._vocabulary.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from trio_wsk._vocabulary.records import Record

__all__ = ["Durations", "Histogram", "histograms_of"]

SHORT: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
"""Up to the ten seconds that a verdict may take by default."""

LONG: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""What OpenTelemetry advises for the duration of connections (``kestrel.connection.duration``)."""


@final
class Histogram:
    """How many durations were how long.

    Args:
      name: What the family is called, behind the prefix and before the unit.
      help: What it says.
      bounds: Seconds up to which each bucket goes, in order.
    """

    __slots__ = ("_counts", "bounds", "help", "name", "seconds")

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:  # noqa: A002 - Prometheus calls it that
        self.name: Final = name
        self.help: Final = help
        self.bounds: Final = tuple(bounds)
        self.seconds = 0.0
        """All of them together."""
        self._counts = [0] * (len(self.bounds) + 1)

    def note(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self.bounds, seconds)] += 1
        self.seconds += seconds

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Go through the buckets: up to how many seconds, and how many were no longer."""
        so_far = 0
        for bound, count in zip((*self.bounds, math.inf), self._counts, strict=True):
            so_far += count
            yield bound, so_far


@final
class Durations:
    """An observer that counts how long things take; a `Collector` shows it.

    ::

        durations = Durations()
        async with open_server(handler, 7007, observers=[durations]) as server:
            collector.add("mail", server, durations)

    It has three histograms, each of seconds on Trio's clock. Each is there if it has buckets; what
    has none costs nothing.

    Args:
      verdict: From a request's arrival to its verdict, where an inspector is asked.
      queued: For which a connection was parked until somebody took it; those for which somebody
        waited are not counted. Up to how many seconds each bucket goes, in order; None for no
        histogram.
      connection: For which a server's connection was open.

    Raises:
      InvalidParameterError: these are no buckets. (Yours.)
    """

    def __init__(
        self,
        *,
        verdict: Sequence[float] | None = SHORT,
        queued: Sequence[float] | None = SHORT,
        connection: Sequence[float] | None = LONG,
    ) -> None:
        self._verdict = _histogram(
            "verdict", verdict, "verdict_duration", "From a request's arrival to its verdict."
        )
        self._queued = _histogram(
            "queued", queued, "queued_duration", "How long connections wait to be taken."
        )
        self._connection = _histogram(
            "connection", connection, "connection_duration", "How long connections are open."
        )
        self.records: Final[Collection[type[Record]]] = frozenset(self._wanted())
        """What it wants to hear of."""

    def _wanted(self) -> Iterator[type[Record]]:
        if self._verdict is not None:
            yield from (records.RequestApproved, records.RequestRejected)
        if self._queued is not None:
            yield records.ConnectionUnparked
        if self._connection is not None:
            yield records.ConnectionEnded

    def __call__(self, record: Record) -> None:
        """Count what a record says."""
        if isinstance(record, records.ConnectionEnded):
            _note(self._connection, record.at - record.opened_at)
        elif isinstance(record, records.ConnectionUnparked):
            _note(self._queued, record.at - record.parked_at)
        elif isinstance(record, (records.RequestApproved, records.RequestRejected)):
            _note(self._verdict, record.at - record.arrived_at)


def histograms_of(durations: Durations) -> list[Histogram]:
    """Return those that are there."""
    all_three = (durations._verdict, durations._queued, durations._connection)
    return [each for each in all_three if each is not None]


def _note(histogram: Histogram | None, seconds: float) -> None:
    if histogram is not None:
        histogram.note(seconds)


def _histogram(
    parameter: str, bounds: Sequence[float] | None, name: str, text: str
) -> Histogram | None:
    """Make a histogram, unless there is to be none."""
    if bounds is None:
        return None
    given: object = bounds  # by a caller without a type checker, perhaps
    seconds = list(given) if isinstance(given, Iterable) else []
    if not seconds or not _increase(seconds):
        raise InvalidParameterError(
            f"{parameter} is up to how many seconds each bucket goes, in order, or None for no"
            f" histogram, not {bounds!r}; write {parameter}=[0.01, 0.1, 1.0]"
        )
    return Histogram(name, text, seconds)


def _increase(bounds: Sequence[object]) -> bool:
    """Whether these are times with an end, each longer than the one before it."""
    times = [each for each in bounds if is_time(each) and each < math.inf]
    is_ordered = all(earlier < later for earlier, later in pairwise(times))
    return len(times) == len(bounds) and is_ordered
