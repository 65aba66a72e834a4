"""
What the project wants to be measured by, drawn from all modes of one run.

A claim has two sides, one for handlers that are awaited (`serve`) and one for callbacks
(`serve_events`). Each has what must be reached and what is aimed at, where there is such a
thing; the others are there to be looked at. Nothing fails for a figure that is missed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from ._contenders import BY_NAME
from ._modes import ABORT, ALL, CPU, LAG_P99, MEMORY, RATE, Metric
from ._outcome import Outcome
from ._report import Spread, ratios, readings

SERVE_TCP: Final = "trio_serve_tcp"
STREAMS: Final = "uvloop_streams"
PROTOCOL: Final = "uvloop_protocol"
C: Final = "c_epoll"


class Kind(enum.Enum):
    """How a figure is made of what was read, and how it is printed."""

    TIMES_BETTER = "x"
    """How many times better than the other one's, in the same round; more is better."""
    TIMES_AS_MUCH = "x as much"
    """How many times as much as the other one needs; less is better."""
    MORE = "% more"
    """How much more than the other one needs, in percent; less is better."""
    MILLISECONDS = " ms"
    """What was read, as it is; less is better."""
    KIB = " KiB"
    """So is this."""

    @property
    def is_more_better(self) -> bool:
        """In which direction a goal is reached."""
        return self is Kind.TIMES_BETTER

    @property
    def is_a_reading(self) -> bool:
        """Whether nobody else's figure is needed."""
        return self in {Kind.MILLISECONDS, Kind.KIB}

    def of(self, times_better: float) -> float:
        """Turn a ratio in which more is better into a figure of this kind."""
        if self is Kind.TIMES_BETTER:
            return times_better
        return 1 / times_better if self is Kind.TIMES_AS_MUCH else 100 / times_better - 100


@attrs.frozen
class Side:
    """Whose figure it is, whom it is held against, and what is wanted of it."""

    contender: str
    must: float | None = None
    """The figure that has to be reached."""
    aim: float | None = None
    """The one to be proud of."""
    against: str = SERVE_TCP
    """For a figure that compares."""


@attrs.frozen
class Claim:
    """One line of the project's aims."""

    what: str
    mode: str
    metric: Metric
    awaited: Side | None = None
    events: Side | None = None
    kind: Kind = Kind.TIMES_BETTER

    @property
    def sides(self) -> tuple[Side, ...]:
        """Those that it has."""
        return tuple(side for side in (self.awaited, self.events) if side is not None)


@attrs.frozen
class Finding:
    """What one side of a claim was found to be."""

    claim: Claim
    side: Side
    measured: Spread | None
    """None: it was not."""

    @property
    def verdict(self) -> str:
        """Judge the median as it is printed; nothing where nothing is wanted or known."""
        must, aim = self.side.must, self.side.aim
        if self.measured is None or (must is None and aim is None):
            return ""
        if aim is not None and self._reaches(aim):
            return "aim reached"
        if must is None:
            return "aim missed"
        if self._reaches(must):
            return "reached"
        if self.claim.kind is Kind.MORE:
            return f"missed by {self.measured.median - must:.0f} points"
        return f"missed by {abs(self.measured.median / must - 1):.0%}"

    def _reaches(self, goal: float) -> bool:
        assert self.measured is not None
        median = round(self.measured.median, 2)
        return median >= goal if self.claim.kind.is_more_better else median <= goal

    def goal(self, goal: float | None) -> str:
        """Print what must be reached, or what is aimed at."""
        if goal is None:
            return ""
        kind = self.claim.kind
        return f"{'>=' if kind.is_more_better else '<='} {goal:g}{kind.value}"

    @property
    def figure(self) -> str:
        """Print the median and, beside it, from where to where."""
        if self.measured is None:
            return "not measured"
        median, least, greatest = attrs.astuple(self.measured)
        return f"{median:.2f}{self.claim.kind.value} ({least:.2f}-{greatest:.2f})"


def _serve(must: float | None = None, aim: float | None = None, against: str = SERVE_TCP) -> Side:
    return Side("wsk_serve", must, aim, against)


def _events(must: float | None = None, aim: float | None = None, against: str = SERVE_TCP) -> Side:
    return Side("wsk_events", must, aim, against)


CLAIMS: Final = (
    Claim("echo1: CPU, against trio.serve_tcp", "echo1", CPU, _serve(4, 6), _events(7, 9)),
    Claim("echo1: CPU, against uvloop streams", "echo1", CPU, _serve(1, None, STREAMS)),
    Claim(
        "echo1: CPU, against uvloop Protocol",
        "echo1",
        CPU,
        _serve(None, 1, PROTOCOL),
        _events(1.1, None, PROTOCOL),
    ),
    Claim(
        "echo1: CPU, against C",
        "echo1",
        CPU,
        _serve(None, None, C),
        _events(1.6, 1.3, C),
        Kind.TIMES_AS_MUCH,
    ),
    *(
        claim
        for how, awaited, events, ahead in (("fin", 5, 7.5, None), ("reset", 4.8, 7, 1.05))
        for what in (f"{how} last: CPU, against",)
        for mode in (f"{how}-last",)
        for claim in (
            Claim(f"{what} trio.serve_tcp", mode, CPU, _serve(awaited), _events(events)),
            Claim(
                f"{what} uvloop",
                mode,
                CPU,
                _serve(ahead and 1, None, STREAMS),
                _events(ahead, None, PROTOCOL),
            ),
            Claim(f"{what} trio.serve_tcp", mode, CPU, events=Side("wsk_events_disconnect", 5.5)),
            Claim(
                f"{what} close()",
                mode,
                CPU,
                events=Side("wsk_events_disconnect", 1.3, against="wsk_events"),
                kind=Kind.TIMES_AS_MUCH,
            ),
            Claim(
                f"{what} write_eof()",
                mode,
                CPU,
                events=Side("wsk_events_disconnect", against="uvloop_protocol_eof"),
            ),
        )
    ),
    *(
        Claim(f"{how} first: CPU, against trio.serve_tcp", f"{how}-first", CPU, _serve(), _events())
        for how in ("fin", "reset")
    ),
    Claim("connect-close: CPU, against trio.serve_tcp", "connect-close", CPU, _serve(), _events()),
    Claim("late: CPU, against trio.serve_tcp", "late", CPU, _serve(), _events()),
    Claim(
        "64 B on 100: CPU, against trio.serve_tcp",
        "pingpong",
        CPU,
        _serve(1.8, 2.6),
        _events(4, 5.5),
    ),
    Claim("64 B on one: rate, against trio.serve_tcp", "pingpong-one", RATE, _serve(1), _events(1)),
    Claim("64 KiB: CPU, against trio.serve_tcp", "bulk", CPU, _serve(1.25), _events(2)),
    *(
        Claim(
            f"{what} at once: CPU, against {BY_NAME[against].title}",
            mode,
            CPU,
            Side("wsk_lines", 1, against=against),
            Side("wsk_batches", 1, against=against),
        )
        for mode, what in (("lines1", "1 line"), ("lines16", "16 lines"))
        for against in ("asyncio_streams", "anyio_asyncio", "anyio_trio", STREAMS)
    ),
    Claim(
        "64 B over TLS: CPU, against asyncio",
        "tls",
        CPU,
        _serve(1, None, "asyncio_streams"),
        _events(1, None, "asyncio_protocol"),
    ),
    Claim(
        "64 B over TLS: CPU, against uvloop",
        "tls",
        CPU,
        _serve(None, None, STREAMS),
        _events(None, None, PROTOCOL),
    ),
    *(
        Claim(
            f"TLS, {how}, one request: CPU, against {against}",
            f"tls-{how}",
            CPU,
            _serve(must, None, f"{against}_streams"),
            _events(must if against == "asyncio" else None, None, f"{against}_protocol"),
        )
        for how, must in (("full", None), ("resumed", 1))
        for against in ("asyncio", "uvloop")
    ),
    Claim("burst: sooner than trio.serve_tcp", "burst", ALL, _serve(2.5, 4), _events(6)),
    Claim("burst: CPU, against trio.serve_tcp", "burst", CPU, _serve(), _events()),
    Claim("busy: accepts, against trio.serve_tcp", "busy", RATE, _serve(10), _events(25)),
    Claim(
        "2,000/s: CPU, against uvloop Protocol",
        "partial-2000",
        CPU,
        _serve(None, None, PROTOCOL),
        _events(None, None, PROTOCOL),
        Kind.TIMES_AS_MUCH,
    ),
    Claim(
        "10,000/s: CPU, against uvloop Protocol",
        "partial-10000",
        CPU,
        _serve(2, None, PROTOCOL),
        _events(1.4, 1, PROTOCOL),
        Kind.TIMES_AS_MUCH,
    ),
    Claim("lag of a sleeper, p99", "lag", LAG_P99, _serve(3), _events(3), Kind.MILLISECONDS),
    Claim("an idle connection", "idle", MEMORY, _serve(2.8), _events(0.6), Kind.KIB),
    Claim(
        "a pended inspection",
        "pended",
        MEMORY,
        Side("pended_wsk_async", 3.5),
        Side("pended_wsk_plain", 0.6),
        Kind.KIB,
    ),
    Claim(
        "a pended inspection's abort: CPU, against a task",
        "pended",
        ABORT,
        Side("pended_wsk_async", against="pended_trio_tasks"),
        Side("pended_wsk_plain", against="pended_trio_tasks"),
    ),
    Claim(
        "a sync inspector on every connection: CPU",
        "inspected",
        CPU,
        Side("wsk_serve_sync", 20, against="wsk_serve"),
        Side("wsk_events_sync", 25, against="wsk_events"),
        Kind.MORE,
    ),
    *(
        Claim(
            f"{what}: CPU, against no rule",
            "rules",
            CPU,
            Side(f"{program}_{rule}", must if program == "wsk" else None, against=without),
            kind=Kind.MORE,
        )
        for rule, what, must in (
            ("listed", "200,000 in a list", 10),
            ("limited", "a limit and a rate", 20),  # which are two rules
        )
        for program, without in (("wsk", "wsk_serve"), ("haproxy", "haproxy_none"))
    ),
    *(
        Claim(
            f"{what}: CPU, against {against}",
            "rules",
            CPU,
            Side(f"{program}_{rule}", against=f"{program}_{without}"),
            kind=Kind.MORE,
        )
        for rule, what, against in (
            ("proxied", "PROXY v2", "no header"),
            ("hello", "server names", "no rule"),
        )
        for program, without in (
            ("wsk", "serve" if rule == "proxied" else "hello_unread"),
            ("haproxy", "none" if rule == "proxied" else "unread"),
        )
    ),
    *(
        Claim(
            "turned away by a list: CPU, against serving",
            "rules",
            CPU,
            Side(f"{program}_denied", must, against=without),
            kind=Kind.TIMES_AS_MUCH,
        )
        for program, must, without in (("wsk", 0.6, "wsk_serve"), ("haproxy", None, "haproxy_none"))
    ),
    Claim(
        "two workers: rate, against one",
        "workers",
        RATE,
        Side("workers_own", 1.8, against="workers_one"),
    ),
    Claim(
        "two workers, one queue: rate, against one",
        "workers",
        RATE,
        Side("workers_shared", 1.8, against="workers_one"),
    ),
    Claim(
        "with an async inspector: CPU, against trio.serve_tcp",
        "inspected",
        CPU,
        Side("wsk_serve_async", 2.2),
        Side("wsk_events_async"),
    ),
)
"""The project's aims, with what else is worth a line."""


def findings(outcomes: Sequence[Outcome]) -> list[Finding]:
    """Find out about every side of every claim."""
    return [
        Finding(claim, side, _measured(outcomes, claim, side))
        for claim in CLAIMS
        for side in claim.sides
    ]


def _measured(outcomes: Sequence[Outcome], claim: Claim, side: Side) -> Spread | None:
    values = (
        value
        for outcome in outcomes
        if outcome.mode.name == claim.mode
        for value in _values(outcome, claim, side)
    )
    return Spread.of(values)


def _values(outcome: Outcome, claim: Claim, side: Side) -> Iterator[float]:
    """Yield one figure per round."""
    if claim.kind.is_a_reading:
        yield from readings(outcome.samples, claim.metric, side.contender).values()
        return
    for ratio in ratios(outcome.samples, claim.metric, side.contender, side.against):
        if ratio:  # else a clock saw nothing
            yield claim.kind.of(ratio)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Print the claims about which something was measured; nothing if there is none."""
    lines = [
        f"  {each.claim.what:<54} {BY_NAME[each.side.contender].title:<29}"
        f" {each.goal(each.side.must):<17} {each.goal(each.side.aim):<17}"
        f" {each.figure:<32} {each.verdict}".rstrip()
        for each in findings(outcomes)
        if each.measured is not None
    ]
    if not lines:
        return ""
    heading = f"  {'claim':<54} {'of':<29} {'must':<17} {'aim':<17} {'measured':<32} verdict"
    return "\n".join(("in short", heading, *lines))
