"""
From samples to ratios to a table. Pure: no clock, no process, no file.

A ratio is the median, over the rounds, of what the mode's baseline needed divided by what
the contender needed *in the same round* (for a rate the other way round, so that more is always
better); beside it stand the least and the greatest. Absolute numbers on a shared machine
drift by a factor of 1.4 from run to run, ratios by a tenth. They are printed for colour only.

CPU per exchange is the robust number. A rate compares servers only where the server
was what limited it: below `FULL_UTILISATION` it waited, for the client or for a core.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from ._modes import CPU, RATE, Metric, Mode
from ._outcome import Outcome, Sample

FULL_UTILISATION: Final = 0.9
"""Of its core: a server below waited for something other than itself."""

SIGNS: Final = (
    (r"\bus\b", "\u00b5s"),
    (r">=", "\u2265"),
    (r"<=", "\u2264"),
    (r"(?<=\d)x\b", "\u00d7"),
    (r"(?<=\d)-(?=\d)", "\u2013"),
)
"""What ASCII lacks, for `with_signs`."""

DISTURBED: Final = 0.1
"""Share of the time waited for a core: somebody else works there."""


@attrs.frozen
class Spread:
    """One number per round, seen from afar."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """Summarise `values`; there is nothing to say about none."""
        values = sorted(values)
        if not values:
            return None
        return cls(statistics.median(values), values[0], values[-1])

    def __str__(self) -> str:
        """Print the median and, beside it, from where to where."""
        return f"{self.median:6.2f} ({self.least:.2f}-{self.greatest:.2f})"


@attrs.frozen
class Row:
    """One contender in one mode."""

    contender: str
    """Its name."""
    rounds: int
    """How many were measured."""
    ratios: Mapping[str, Spread | None]
    """To the baseline in the same round, by the names of the metrics that the mode compares."""
    medians: Mapping[str, float]
    """Of everything that was read, by its name."""
    notes: tuple[str, ...]
    """What to know before quoting the row."""


def rows(mode: Mode, samples: Sequence[Sample]) -> list[Row]:
    """One row per contender, the worst first."""
    result = [
        Row(
            contender=name,
            rounds=len(own),
            ratios={m.name: ratio(samples, m, name, mode.baseline) for m in mode.compared},
            medians=_medians(own),
            notes=tuple(_notes(mode, own)),
        )
        for name, own in _by_contender(samples).items()
    ]
    first = mode.compared[0]

    def badness(row: Row) -> float:
        value = row.medians[first.name]
        return value if first.is_cost else -value

    return sorted(result, key=badness, reverse=True)


def ratio(samples: Sequence[Sample], metric: Metric, own: str, base: str) -> Spread | None:
    """How many times better `own` is than `base`, over the rounds in which both were measured."""
    return Spread.of(ratios(samples, metric, own, base))


def ratios(samples: Sequence[Sample], metric: Metric, own: str, base: str) -> list[float]:
    """How many times better `own` is than `base`, in each round in which both were measured."""
    reference = readings(samples, metric, base)
    return [
        metric.ratio(value, reference[number])
        for number, value in readings(samples, metric, own).items()
        if number in reference
    ]


def readings(samples: Sequence[Sample], metric: Metric, own: str) -> dict[int, float]:
    """What was read of one contender, by round."""
    return {s.round: s.reading.values[metric.name] for s in samples if s.contender == own}


def _by_contender(samples: Sequence[Sample]) -> defaultdict[str, list[Sample]]:
    result: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        result[sample.contender].append(sample)
    return result


def _medians(own: Sequence[Sample]) -> dict[str, float]:
    names = own[0].reading.values
    return {
        name: statistics.median(sample.reading.values[name] for sample in own) for name in names
    }


def _notes(mode: Mode, own: Sequence[Sample]) -> Iterable[str]:
    medians = _medians(own)
    waited = medians.get("waited", 0.0)
    utilisation = medians.get("utilisation", 1.0)
    if waited >= DISTURBED:
        yield f"core shared: waited {waited:.0%}"
    elif RATE in mode.compared and utilisation < FULL_UTILISATION:
        # Where the client had time left as well, somebody else took its core.
        limited = medians["client_busy"] > utilisation
        advice = ": compare the CPU" if CPU in mode.compared else ""
        yield f"{'client-limited' if limited else 'disturbed'}{advice}"
    failed = sum(sample.reading.errors for sample in own)
    if failed:
        first = next(s.reading.first_error for s in own if s.reading.errors)
        yield f"{failed} errors ({first})"
    unfinished = sum(sample.reading.unfinished for sample in own)
    if unfinished:
        yield f"{unfinished} unfinished"


def with_signs(text: str) -> str:
    """Write a heading or a figure as a page does, where a terminal has ASCII."""
    for plain, sign in SIGNS:
        text = re.sub(plain, sign, text)
    return text


def figure(value: float) -> str:
    """Print three digits that count."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"


def table(outcome: Outcome) -> str:
    """Print one mode; the last column says what to know before quoting a row."""
    mode = outcome.mode
    heading = "".join(
        (
            f"  {'contender':<22}",
            *(f" {'x ' + metric.heading:<22}" for metric in mode.compared),
            *(f" {metric.heading:>12}" for metric in mode.metrics),
            f" {'util':>5}  note",
        )
    )
    lines = [f"{mode.name}: {mode.description}; ratios to {mode.baseline}", heading]
    for row in rows(mode, outcome.samples):
        utilisation = row.medians.get("utilisation")
        cells = (
            f"  {row.contender:<22}",
            *(f" {row.ratios[metric.name] or '-'!s:<22}" for metric in mode.compared),
            *(f" {figure(row.medians[metric.name]):>12}" for metric in mode.metrics),
            f" {'' if utilisation is None else f'{utilisation:.2f}':>5}",
            f"  {'; '.join(row.notes)}",
        )
        lines.append("".join(cells).rstrip())
    lines += [f"  {name:<22} SKIPPED: {why}" for name, why in outcome.failures.items()]
    lines += [f"  {name:<22} LEFT OUT: {why}" for name, why in outcome.left_out.items()]
    return "\n".join(lines)
