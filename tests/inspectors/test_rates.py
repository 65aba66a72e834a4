"""Limits on how many come in a time: in all, and by source."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.ruling import IN, gate
from trio_wsk import InvalidParameterError
from trio_wsk.inspectors import RateLimit, Rules, SourceRateLimit
from trio_wsk.inspectors._rates import Rate

FAST = "too-fast"
SOURCE_FAST = "source-too-fast"


async def test_burst_and_then_the_rate(autojump_clock: trio.testing.MockClock) -> None:
    """So many come at once, then one each time that one more is free again."""
    async with gate(Rules(RateLimit(2, per=10))) as at:
        assert [IN, IN, FAST] == await at.come_all(*["192.0.2.7"] * 3)

        await trio.sleep(5)

        assert [IN, FAST] == await at.come_all("192.0.2.8", "192.0.2.9")

        await trio.sleep(100)

        assert [IN, IN, FAST] == await at.come_all(*["192.0.2.7"] * 3)


async def test_burst_can_be_chosen(autojump_clock: trio.testing.MockClock) -> None:
    """A slow rate may have a big burst, and a fast one none."""
    async with gate(Rules(RateLimit(1, per=60, burst=3))) as at:
        assert [IN, IN, IN, FAST] == await at.come_all(*["192.0.2.7"] * 4)
    async with gate(Rules(RateLimit(100, burst=1))) as at:
        assert [IN, FAST] == await at.come_all(*["192.0.2.7"] * 2)


async def test_each_source_has_its_own_rate(autojump_clock: trio.testing.MockClock) -> None:
    """One who comes too often keeps nobody else out."""
    async with gate(Rules(SourceRateLimit(1, per=10))) as at:
        assert [IN, SOURCE_FAST, IN] == await at.come_all("192.0.2.7", "192.0.2.7", "192.0.2.8")

        await trio.sleep(10)

        assert [IN, SOURCE_FAST] == await at.come_all("192.0.2.7", "192.0.2.7")


async def test_who_keeps_asking_is_let_in_at_the_rate(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Requests that are turned away use nothing up."""
    async with gate(Rules(SourceRateLimit(1, per=10))) as at:
        fates = []
        for _ in range(21):
            fates += await at.come_all("192.0.2.7")
            await trio.sleep(1)

        assert [0, 10, 20] == [second for second, fate in enumerate(fates) if fate == IN]


async def test_who_is_exempt_is_not_counted() -> None:
    """Networks that are exempt come as often as they like."""
    limit = SourceRateLimit(1, per=10, exempt=["192.0.2.0/24"])
    async with gate(Rules(limit)) as at:
        assert [IN] * 3 == await at.come_all(*["192.0.2.7"] * 3)
        assert 0 == len(limit)


@pytest.mark.parametrize(
    ("when_full", "fates"), [("pass", [IN, IN, IN, IN]), ("reject", [IN, IN, SOURCE_FAST, IN])]
)
async def test_table_has_a_bound(when_full: Any, fates: list[str]) -> None:
    """
    For one source more than there is room for the one goes that has not come for longest, or the
    newcomer is turned away; either is counted.
    """
    limit = SourceRateLimit(2, per=1000, most_sources=2, when_full=when_full)
    async with gate(Rules(limit)) as at:
        assert fates == await at.come_all(*("192.0.2." + last for last in "1232"))
        assert 2 == len(limit)
        assert 1 == limit.overflowed


async def test_sources_that_have_used_nothing_up_are_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """No timer is needed: who comes later makes room by looking at who came first."""
    limit = SourceRateLimit(1, per=10)
    async with gate(Rules(limit)) as at:
        await at.come_all(*(f"192.0.2.{last}" for last in range(1, 21)))

        assert 20 == len(limit)

        await trio.sleep(11)
        await at.come_all(*(f"192.0.2.{last}" for last in range(101, 111)))

        assert 10 == len(limit)
        assert 0 == limit.overflowed


# --- The algorithm ----------------------------------------------------------------------------


@given(
    gaps=st.lists(st.floats(0, 30), max_size=60),
    count=st.integers(1, 5),
    per=st.sampled_from([0.5, 1.0, 10.0]),
    burst=st.integers(1, 6),
)
def test_never_more_than_the_rate_allows(
    gaps: list[float], count: int, per: float, burst: int
) -> None:
    """In any span of time there are at most the burst, and as many more as the rate has in it."""
    rate = Rate(count, per, burst)
    let_in: list[float] = []
    now, used_up_until = 0.0, -math.inf
    for gap in gaps:
        now += gap
        after = rate.after(used_up_until, now)
        if after is not None:
            used_up_until = after
            let_in.append(now)
    for first, begin in enumerate(let_in):
        for last, end in enumerate(let_in[first:], first):
            allowed = burst + (end - begin) * count / per
            assert last - first + 1 <= allowed + 0.001


@given(count=st.integers(1, 50), per=st.floats(0.01, 1000), rounds=st.integers(1, 60))
def test_who_keeps_to_the_rate_is_always_let_in(count: int, per: float, rounds: int) -> None:
    """Coming at the rate itself is never too fast, however the sums are rounded."""
    rate = Rate(count, per, 1)
    used_up_until = -math.inf
    for number in range(rounds):
        after = rate.after(used_up_until, number * (per / count))

        assert after is not None

        used_up_until = after


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": math.inf}, {"per": 0}, {"burst": 0}])
def test_rate_of_nothing_is_a_mistake(wrong: dict[str, Any]) -> None:
    """A rate that would let nobody in, or everybody, is refused."""
    with pytest.raises(InvalidParameterError):
        RateLimit(**{"count": 1, **wrong})
