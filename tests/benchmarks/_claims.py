"""
What the project wants to be measured by, drawn from all modes of one run.

A claim has two figures, one for handlers that are awaited (`wsk_serve`) and one for
callbacks (`wsk_events`). Most are ratios, more being better; few stand for themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from ._modes import ABORT, ALL, CPU, LAG_P99, MEMORY, RATE, Metric
from ._outcome import Outcome
from ._report import Spread, median, ratio

SERVE_TCP: Final = "trio_serve_tcp"


@attrs.frozen
class Claim:
    """One line of the summary."""

    what: str
    mode: str
    metric: Metric
    against: str | None = SERVE_TCP
    """Whose figure it is a ratio to; None: the figure itself."""
    awaited: str | None = "wsk_serve"
    events: str | None = "wsk_events"
    """Which contenders' figures they are; None: there is none."""

    def figures(self, outcomes: Sequence[Outcome]) -> tuple[Spread | float | None, ...]:
        """The awaited one's and the events', so far as they were measured."""
        return tuple(self._figure(outcomes, own) for own in (self.awaited, self.events))

    def _figure(self, outcomes: Sequence[Outcome], own: str | None) -> Spread | float | None:
        for outcome in outcomes:
            if own is None or outcome.mode.name != self.mode:
                continue
            if self.against is None:
                return median(outcome.samples, self.metric, own)
            return ratio(outcome.samples, self.metric, own, self.against)
        return None


CLAIMS: Final = (
    Claim("echo1: CPU, against trio.serve_tcp", "echo1", CPU),
    Claim("echo1: CPU, against uvloop streams", "echo1", CPU, "uvloop_streams"),
    Claim("echo1: CPU, against uvloop Protocol", "echo1", CPU, "uvloop_protocol"),
    Claim("echo1: CPU, against C", "echo1", CPU, "c_epoll"),
    Claim("connect-close: CPU, against trio.serve_tcp", "connect-close", CPU),
    Claim("late: CPU, against trio.serve_tcp", "late", CPU),
    Claim("ping-pong, 100: CPU, against trio.serve_tcp", "pingpong", CPU),
    Claim("ping-pong, one: rate, against trio.serve_tcp", "pingpong-one", RATE),
    Claim("64 KiB: CPU, against trio.serve_tcp", "bulk", CPU),
    Claim("burst: how much sooner than trio.serve_tcp", "burst", ALL),
    Claim("busy: accepts, against trio.serve_tcp", "busy", RATE),
    Claim("2,000/s: CPU, against uvloop Protocol", "partial-2000", CPU, "uvloop_protocol"),
    Claim("10,000/s: CPU, against uvloop Protocol", "partial-10000", CPU, "uvloop_protocol"),
    Claim("lag of a sleeper: p99 ms", "lag", LAG_P99, None),
    Claim("idle connection: KiB", "idle", MEMORY, None),
    Claim(
        "pended inspection: KiB (async; sync)",
        "pended",
        MEMORY,
        None,
        "pended_wsk_async",
        "pended_wsk_plain",
    ),
    Claim(
        "pended inspection aborted: CPU, against Trio tasks (async; sync)",
        "pended",
        ABORT,
        "pended_trio_tasks",
        "pended_wsk_async",
        "pended_wsk_plain",
    ),
    Claim(
        "sync inspector: CPU, against serve with none",
        "inspected",
        CPU,
        "wsk_serve",
        "wsk_serve_sync",
        None,
    ),
    Claim(
        "sync inspector: CPU, against serve_events with none",
        "inspected",
        CPU,
        "wsk_events",
        None,
        "wsk_events_sync",
    ),
    Claim(
        "async inspector: CPU, against trio.serve_tcp with none",
        "inspected",
        CPU,
        SERVE_TCP,
        "wsk_serve_async",
        "wsk_events_async",
    ),
)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Print the claims about which something was measured; nothing if there is none."""
    lines = []
    for claim in CLAIMS:
        figures = claim.figures(outcomes)
        if any(figure is not None for figure in figures):
            cells = (f" {_cell(figure):<22}" for figure in figures)
            lines.append(f"  {claim.what:<66}{''.join(cells)}".rstrip())
    if not lines:
        return ""
    heading = f"  {'claim':<66} {'awaited':<22} events"
    return "\n".join(("in short; ratios, more is better, but for ms and KiB", heading, *lines))


def _cell(figure: Spread | float | None) -> str:
    return f"{figure:6.2f}" if isinstance(figure, float) else str(figure or "     -")
