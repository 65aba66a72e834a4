"""Rules that are used in one Trio run, and then in another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers.inspecting import REJECT
from tests.helpers.ruling import IN, gate
from trio_wsk import Address, Verdict
from trio_wsk.inspectors import Penalties, RateLimit, Rules, SourceRateLimit, cached

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk.inspectors import Answer, Rule

HOSTS = [f"192.0.2.{number}" for number in range(5)]


class Standing(trio.abc.Clock):
    """A clock on which it is always the same time."""

    def __init__(self, at: float) -> None:
        self._at = at

    def start_clock(self) -> None:
        """There is nothing to start."""

    def current_time(self) -> float:
        """Return the time."""
        return self._at

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long to wait for what never comes."""
        return max(0.0, deadline - self._at)


def penalties() -> Rule:
    """Make penalties that are full, and have everybody turned away."""
    rule = Penalties(most_sources=len(HOSTS), when_full="reject")

    def penalize(request: Any) -> Answer:
        answer = rule(request)
        rule.add(request, 60, "came")
        return answer

    return penalize


def look_up() -> Rule:
    """Make a look-up that has no objection to anybody when it is asked once more."""
    seen: set[object] = set()

    def ask(request: Any) -> Answer:
        host = request.remote_address.host
        answer = None if host in seen else Verdict(REJECT, "unknown")
        seen.add(host)
        return answer

    return cached(ask, ttl=60)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RateLimit(len(HOSTS), 60),
        lambda: SourceRateLimit(1, 60, most_sources=len(HOSTS), when_full="reject"),
        penalties,
        look_up,
    ],
    ids=["rate-limit", "source-rate-limit", "penalties", "cached"],
)
@pytest.mark.parametrize("later", [-500_000.0, -30.0, 500_000.0])
def test_times_of_one_run_mean_nothing_in_the_next(make: Callable[[], Rule], later: float) -> None:
    """Trio's clock begins anywhere: nobody is turned away for what was so by another one."""
    rules = Rules(make())

    async def come() -> list[str]:
        async with gate(rules) as at:
            return await at.come_all(*HOSTS)

    trio.run(come, clock=Standing(600_000.0))

    assert [IN] * len(HOSTS) == trio.run(come, clock=Standing(600_000.0 + later))


def test_penalties_of_one_run_are_over_in_the_next() -> None:
    """Whoever asks how many are left, with or without a request, is told none."""
    rule, address = Penalties(), Address.tcp(HOSTS[0], 1)

    async def penalize() -> float:
        rule.add(address, 60, "came")
        return rule.remaining(address)

    async def look() -> float:
        return rule.remaining(address)

    assert 60 == trio.run(penalize, clock=Standing(600_000.0))
    assert 0 == trio.run(look, clock=Standing(599_990.0))
