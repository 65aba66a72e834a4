"""
From samples to ratios to a table. Pure: no clock, no process, no file.

A ratio is the median, over the rounds, of what the mode's baseline needed divided by what
the contender needed *in the same round*; beside it stand the least and the greatest.
Absolute numbers on a shared machine drift by a factor of 1.4 from run to run, ratios
by a tenth. They are printed for colour only.

CPU per exchange is the robust number. A rate compares servers only where the server
was what limited it: below `FULL_UTILISATION` it waited, for the client or for a core.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

from ._contenders import Mode
from ._measure import Outcome, Sample

FULL_UTILISATION: Final = 0.9
"""Of its core: a server below waited for something other than itself."""

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
    rate_ratio: Spread | None
    """Exchanges per second, over the baseline's in the same round; more is better."""
    cpu_ratio: Spread | None
    """The baseline's CPU per exchange over its own, same round; more is better."""
    both_ratio: Spread | None
    """The same of the CPU of server and client together."""
    rate: float
    """Exchanges per second, median."""
    cpu_us: float
    """Microseconds of CPU per exchange, median."""
    both_cpu_us: float
    """The same, with the client's."""
    utilisation: float
    """Share of its core, median."""
    p50_ms: float
    """Milliseconds, median of the rounds' medians."""
    p99_ms: float
    """Milliseconds, median of the rounds' 99th percentiles."""
    notes: tuple[str, ...]
    """What to know before quoting the row."""


def rows(samples: Sequence[Sample], baseline: str) -> list[Row]:
    """One row per contender, the costliest first; without a baseline, no ratios."""
    by_contender: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_contender[sample.contender].append(sample)
    reference = {sample.round: sample for sample in by_contender.get(baseline, ())}
    result = [_row(own, reference) for own in by_contender.values()]
    return sorted(result, key=lambda row: row.cpu_us, reverse=True)


def _row(own: Sequence[Sample], reference: dict[int, Sample]) -> Row:
    pairs = [(s, reference[s.round]) for s in own if s.round in reference]

    def median(value: Callable[[Sample], float]) -> float:
        return statistics.median(value(sample) for sample in own)

    return Row(
        contender=own[0].contender,
        rounds=len(own),
        rate_ratio=Spread.of(s.rate / base.rate for s, base in pairs),
        # A coarse clock may have seen nothing at all.
        cpu_ratio=Spread.of(base.cpu_us / s.cpu_us for s, base in pairs if s.cpu_us),
        both_ratio=Spread.of(base.both_cpu_us / s.both_cpu_us for s, base in pairs),
        rate=median(lambda s: s.rate),
        cpu_us=median(lambda s: s.cpu_us),
        both_cpu_us=median(lambda s: s.both_cpu_us),
        utilisation=median(lambda s: s.utilisation),
        p50_ms=median(lambda s: s.latency_ms["p50"]),
        p99_ms=median(lambda s: s.latency_ms["p99"]),
        notes=tuple(_notes(own)),
    )


def _notes(own: Sequence[Sample]) -> Iterable[str]:
    utilisation = statistics.median(sample.utilisation for sample in own)
    waited = statistics.median(sample.waited for sample in own)
    if waited >= DISTURBED:
        yield f"core shared: waited {waited:.0%}"
    elif utilisation < FULL_UTILISATION:
        # Where the client had time left as well, somebody else took its core.
        client_busy = statistics.median(sample.client_busy for sample in own)
        yield f"{'client-limited' if client_busy > utilisation else 'disturbed'}: use xCPU"
    failed = sum(sample.errors for sample in own)
    if failed:
        first = next(sample.first_error for sample in own if sample.errors)
        yield f"{failed} errors ({first})"
    unfinished = sum(sample.unfinished for sample in own)
    if unfinished:
        yield f"{unfinished} unfinished"


def table(outcome: Outcome) -> str:
    """Print one mode; the last column says what to know before quoting a row."""
    mode = outcome.mode
    heading = (
        f"  {'contender':<22} {'xCPU':>6} {'(min-max)':<13}{_both_heading(mode)}"
        f" {'xrate':>6} {'(min-max)':<13}"
        f" {'util':>5} {'CPU us':>7} {mode.unit + '/s':>14} {'p50 ms':>7} {'p99 ms':>7}  note"
    )
    lines = [f"{mode.name}: {mode.description}; ratios to {mode.baseline}", heading]
    for row in rows(outcome.samples, mode.baseline):
        both = f" {row.both_ratio or '-'!s:<20}" if mode.counts_both else ""
        line = (
            f"  {row.contender:<22} {row.cpu_ratio or '-'!s:<20}{both}"
            f" {row.rate_ratio or '-'!s:<20} {row.utilisation:5.2f} {row.cpu_us:7.1f}"
            f" {row.rate:14.0f} {row.p50_ms:7.2f} {row.p99_ms:7.2f}"
            f"  {'; '.join(row.notes)}"
        )
        lines.append(line.rstrip())
    lines += [f"  {name:<22} SKIPPED: {why}" for name, why in outcome.failures.items()]
    lines += [f"  {name:<22} LEFT OUT: {why}" for name, why in outcome.left_out.items()]
    if mode.counts_both:
        lines.append(
            "  xboth: CPU of server and client together; who works for whom, `_measure` says"
        )
    return "\n".join(lines)


def _both_heading(mode: Mode) -> str:
    return f" {'xboth':>6} {'(min-max)':<13}" if mode.counts_both else ""
