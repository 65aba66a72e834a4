"""Limits on how many requests come in a time: in all, and by source.

The generic cell rate algorithm: of each source there is one number, the time at which it will have
used up what it has asked for. That is a leaky bucket without a timer: what is past is forgotten by
itself.

Source: ITU-T I.371, annex A.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Literal, final

from trio_wsk._vocabulary.arguments import checked_count, is_time
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.verdict import CloseStyle, InspectAction, Verdict

from ._rule import checked_name
from ._sources import FORGOTTEN_AT_ONCE, MOST_SOURCES, Sources, check_when_full
from ._times import Times

if TYPE_CHECKING:
    from trio_wsk._inspection.request import ConnectionRequest

    from ._rule import Answer
    from ._sources import Networks, Source

__all__ = ["RateLimit", "SourceRateLimit"]


@final
class Rate:
    """A rate, and how much of it may be used up at once. Pure: the time is an argument.

    Args:
      count: How many.
      per: In how many seconds.
      burst: How many at once, after a while of nothing.

    Raises:
      InvalidParameterError: an argument is wrong. (The caller's.)
    """

    __slots__ = ("_interval", "_tolerance")

    def __init__(self, count: float, per: float, burst: int | None) -> None:
        if not is_time(count) or not 0 < count < math.inf:
            raise InvalidParameterError(f"count is a number, more than 0, not {count!r}")
        if not is_time(per) or not 0 < per < math.inf:
            raise InvalidParameterError(f"per is a time in seconds, more than 0, not {per!r}")
        if burst is None:
            burst = max(1, math.floor(count))
        checked_count("burst", burst, least=1)
        self._interval = per / count
        self._tolerance = (burst - 1) * self._interval

    def __str__(self) -> str:
        at_once = round(self._tolerance / self._interval) + 1
        return f"{1 / self._interval:g} per second, {at_once} at once"

    def after(self, used_up_until: float, now: float) -> float | None:
        """Return until when it is used up after one more, or None if it is too much."""
        start = max(used_up_until, now)
        # Rounded to a millionth: else what comes exactly in its time may be too early.
        if start - now > self._tolerance + self._interval * 1e-6:
            return None
        return start + self._interval


@final
class RateLimit:
    """A rule that turns away who comes when too many have come.

    Args:
      count: How many requests are let through.
      per: In how many seconds on Trio's clock.
      burst: How many at once, after a while without any; without it ``count``, rounded down.
      reason: What is counted.
      close: How those are told that are too many; see `Verdict`.
      name: What the rule is counted by.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """

    __slots__ = ("_rate", "_times", "_used_up_until", "_verdict", "close_styles", "name")

    counts_each: Final = True
    """Each request that is let through uses the rate up."""

    def __init__(
        self,
        count: float,
        per: float = 1.0,
        *,
        burst: int | None = None,
        reason: str = "too-fast",
        close: CloseStyle | bytes = CloseStyle.RESET,
        name: str = "rate-limit",
    ) -> None:
        self.name: Final = checked_name(name)
        """What the rule is counted by."""
        self._rate = Rate(count, per, burst)
        self._used_up_until = -math.inf
        self._times = Times(self._forget)
        self._verdict = Verdict(InspectAction.REJECT, reason, close)
        self.close_styles: Final = frozenset({self._verdict.style})
        """How it turns peers away."""

    def __repr__(self) -> str:
        return f"<RateLimit {self.name}: {self._rate}>"

    def __call__(self, request: ConnectionRequest) -> Answer:  # noqa: ARG002 - all count alike
        """Count a request."""
        now = self._times.now()
        used_up_until = self._rate.after(self._used_up_until, now)
        if used_up_until is None:
            return self._verdict
        self._used_up_until = used_up_until
        return None

    def _forget(self) -> None:
        self._used_up_until = -math.inf


@final
class SourceRateLimit:
    """A rule that turns away who comes from where too many have come from.

    Args:
      count: How many requests of one source are let through.
      per: In how many seconds on Trio's clock.
      burst: How many at once, after a while without any; without it ``count``, rounded down.
      ipv4_prefix: How many bits of an IPv4 address make the source.
      ipv6_prefix: How many of an IPv6 address do.
      exempt: Networks that are not counted.
      most_sources: How many sources are remembered.
      when_full: What becomes of a source for which there is no room: ``"pass"``, in the place of
        the one that has not come for longest, or ``"reject"``.
      reason: What is counted.
      close: How those are told that are too many; see `Verdict`.
      name: What the rule is counted by.

    Only requests that are let through use the rate up: who keeps asking is let in as often as who
    asks at the right time. A Unix peer has no source, and is not counted.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """

    __slots__ = (
        "_evicts",
        "_most_sources",
        "_rate",
        "_sources",
        "_times",
        "_used_up_until",
        "_verdict",
        "close_styles",
        "name",
        "overflowed",
    )

    counts_each: Final = True
    """Each request that is let through uses the rate up."""

    def __init__(
        self,
        count: float,
        per: float = 1.0,
        *,
        burst: int | None = None,
        ipv4_prefix: int = 32,
        ipv6_prefix: int = 64,
        exempt: Networks = (),
        most_sources: int = MOST_SOURCES,
        when_full: Literal["reject", "pass"] = "pass",
        reason: str = "source-too-fast",
        close: CloseStyle | bytes = CloseStyle.RESET,
        name: str = "source-rate-limit",
    ) -> None:
        check_when_full(when_full)
        self.name: Final = checked_name(name)
        """What the rule is counted by."""
        self.overflowed: int = 0
        """How often there was no room for one source more."""
        self._rate = Rate(count, per, burst)
        self._sources = Sources(ipv4_prefix, ipv6_prefix, exempt)
        self._most_sources = checked_count("most_sources", most_sources, least=1)
        self._evicts = when_full == "pass"
        self._used_up_until: OrderedDict[Source, float] = OrderedDict()  # who came last is last
        self._times = Times(self._used_up_until.clear)
        self._verdict = Verdict(InspectAction.REJECT, reason, close)
        self.close_styles: Final = frozenset({self._verdict.style})
        """How it turns peers away."""

    def __repr__(self) -> str:
        return f"<SourceRateLimit {self.name}: {self._rate} for each of {len(self)} sources>"

    def __len__(self) -> int:
        """How many sources are remembered."""
        return len(self._used_up_until)

    def __call__(self, request: ConnectionRequest) -> Answer:
        """Count a request."""
        source = self._sources.source_of(request.remote_address)
        if source is None:
            return None
        table = self._used_up_until
        now = self._times.now()
        known = table.get(source)
        if known is None:
            self._forget_the_past(now)
            if len(table) >= self._most_sources:
                self.overflowed += 1
                if not self._evicts:
                    return self._verdict
                table.popitem(last=False)
        used_up_until = self._rate.after(-math.inf if known is None else known, now)
        if used_up_until is None:
            return self._verdict
        table[source] = used_up_until
        if known is not None:
            table.move_to_end(source)
        return None

    def _forget_the_past(self, now: float) -> None:
        table = self._used_up_until
        for _ in range(min(FORGOTTEN_AT_ONCE, len(table))):
            source = next(iter(table))
            if table[source] > now:
                return
            del table[source]
