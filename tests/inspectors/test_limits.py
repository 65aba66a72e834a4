"""Limits on how many are open at once, in all and by source: places are taken and given back."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.helpers.inspecting import ACCEPT, PEND, REJECT
from tests.helpers.ruling import IN, UNDECIDED, Gate, Visitor, gate
from trio_wsk import Address, InspectPoint, Verdict
from trio_wsk.inspectors import ConnectionLimit, Rules, SourceLimit

POINTS = pytest.mark.parametrize("point", list(InspectPoint), ids=lambda point: point.value)


@POINTS
async def test_so_many_are_let_in_at_once(point: InspectPoint) -> None:
    """Beyond the limit newcomers are turned away, until somebody has left."""
    limit = ConnectionLimit(2)
    async with gate(Rules(limit), point) as at:
        first, second, third = [await at.come() for _ in range(3)]

        assert [IN, IN, "too-many-connections"] == [first.fate, second.fate, third.fate]

        await second.leave()

        assert 1 == limit.open
        assert IN == (await at.come()).fate
        assert 2 == limit.open_most


async def test_place_is_free_when_the_call_that_ends_its_connection_returns() -> None:
    """Who closes a connection, or resets it, has given back what was taken for it."""
    in_all, by_source = ConnectionLimit(1), SourceLimit(1)
    async with gate(Rules(in_all, by_source)) as at:
        for end in ("close", "abort"):
            visitor = await at.come()

            assert visitor.connection is not None
            assert (1, 1) == (in_all.open, len(by_source))

            getattr(visitor.connection, end)()

            assert (0, 0) == (in_all.open, len(by_source))


@POINTS
async def test_so_many_are_let_in_from_one_source(point: InspectPoint) -> None:
    """Each source has a limit of its own."""
    limit = SourceLimit(1)
    async with gate(Rules(limit), point) as at:
        one = await at.come("192.0.2.7")

        assert "too-many-from-source" == (await at.come("192.0.2.7")).fate
        assert IN == (await at.come("192.0.2.8")).fate
        assert 2 == len(limit)

        await one.leave()

        assert 1 == len(limit)
        assert IN == (await at.come("192.0.2.7")).fate
        assert 1 == limit.open_from(Address.tcp("192.0.2.7", 1))
        assert 0 == limit.open_from(Address.tcp("192.0.2.9", 1))


@pytest.mark.parametrize(
    ("options", "same", "other"),
    [
        ({}, ["192.0.2.7", "192.0.2.7"], ["192.0.2.7", "192.0.2.6"]),
        ({"ipv4_prefix": 24}, ["192.0.2.7", "192.0.2.200"], ["192.0.2.7", "192.0.3.7"]),
        ({"ipv4_prefix": 31}, ["192.0.2.6", "192.0.2.7"], ["192.0.2.7", "192.0.2.8"]),
        ({"ipv4_prefix": 0}, ["192.0.2.6", "10.0.0.1"], ["10.0.0.1", "2001:db8::1"]),
        ({}, ["2001:db8::1", "2001:db8::ffff:1"], ["2001:db8::1", "2001:db8:0:1::1"]),
        ({"ipv6_prefix": 128}, ["2001:db8::1"] * 2, ["2001:db8::1", "2001:db8::2"]),
        ({}, ["::ffff:192.0.2.7", "192.0.2.7"], ["::ffff:192.0.2.7", "::c000:207"]),
    ],
)
def test_prefix_says_who_is_one_source(
    options: dict[str, Any], same: list[str], other: list[str]
) -> None:
    """So many bits of an address count, and a mapped one is the IPv4 address that it stands for."""
    sources = SourceLimit(1, **options)._sources  # noqa: SLF001 - shows nowhere else

    def of(host: str) -> object:
        return sources.source_of(Address.tcp(host, 1))

    assert of(same[0]) == of(same[1])
    assert of(other[0]) != of(other[1])


async def test_who_is_exempt_is_not_counted() -> None:
    """Networks that are exempt come as often as they like, and take no place."""
    limit = SourceLimit(0, exempt=["192.0.2.0/24"])
    async with gate(Rules(limit)) as at:
        assert [IN, IN, "too-many-from-source"] == await at.come_all(
            "192.0.2.7", "192.0.2.7", "198.51.100.7"
        )
        assert 0 == len(limit)


@pytest.mark.parametrize(("when_full", "fate"), [("reject", "too-many-from-source"), ("pass", IN)])
async def test_table_has_a_bound(when_full: Any, fate: str) -> None:
    """For one source more than there is room for it is chosen what happens, and it is counted."""
    limit = SourceLimit(2, most_sources=2, when_full=when_full)
    async with gate(Rules(limit)) as at:
        assert [IN, IN, fate, IN] == await at.come_all(*("192.0.2." + last for last in "1232"))
        assert 2 == len(limit)
        assert 1 == limit.overflowed


async def test_what_waits_for_its_verdict_has_a_place() -> None:
    """A place is taken from the verdict of the rule on, also while the next one pends."""
    limit = SourceLimit(1)
    async with gate(Rules(limit, lambda _: PEND)) as at:
        first = await at.come()

        assert [UNDECIDED, "too-many-from-source"] == [first.fate, (await at.come()).fate]

        await first.leave()

        assert UNDECIDED == (await at.come()).fate


async def test_who_is_turned_away_by_a_later_rule_gives_back() -> None:
    """A place that was taken for somebody who does not get in is free again."""
    limit = ConnectionLimit(1)
    async with gate(Rules(limit, lambda _: REJECT)) as at:
        assert ["rejected"] * 3 == await at.come_all(*["192.0.2.7"] * 3)
        assert 0 == limit.open


async def test_one_limit_is_shared_by_several_listening_sockets() -> None:
    """Who gives the same limit to two listening sockets has one limit."""
    limit = ConnectionLimit(1)
    async with gate(Rules(limit)) as one, gate(Rules(limit)) as other:
        visitor = await one.come()

        assert "too-many-connections" == (await other.come()).fate

        await visitor.leave()

        assert IN == (await other.come()).fate


async def test_reason_and_message_can_be_chosen() -> None:
    """A limit says to those that it turns away what it was told to say."""
    limit = ConnectionLimit(0, reason="closed-today", close=b"421 closed\r\n")
    async with gate(Rules(limit)) as at:
        visitor = await at.come()

        assert "closed-today" == visitor.fate
        assert b"421 closed\r\n" == await visitor.stream.receive_some()


class Lives(RuleBasedStateMachine):
    """Any order of arrivals, verdicts and ends: nobody has a place that is not there."""

    MOST = 2

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[str, Any]] = []

    @rule(host=st.integers(1, 3), answer=st.sampled_from([None, ACCEPT, REJECT, PEND]))
    def come(self, host: int, answer: Any) -> None:
        """Have one come, whom the last rule answers so."""
        self.steps.append(("come", (f"192.0.2.{host}", answer)))

    @rule(which=st.integers(0, 20))
    def leave(self, which: int) -> None:
        """Have one go."""
        self.steps.append(("leave", which))

    @rule(which=st.integers(0, 20), answer=st.sampled_from([ACCEPT, Verdict(REJECT, "later")]))
    def complete(self, which: int, answer: Any) -> None:
        """Decide about one that was pended."""
        self.steps.append(("complete", (which, answer)))

    @rule(seconds=st.sampled_from([1, 11]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.steps.append(("wait", seconds))

    def teardown(self) -> None:
        """Live through it."""
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(self._live, clock=clock)

    async def _live(self) -> None:
        in_all, by_source = ConnectionLimit(4), SourceLimit(self.MOST, most_sources=2)
        answers: list[Any] = []
        async with gate(Rules(in_all, by_source, lambda _: answers[-1])) as at:
            visitors: list[Visitor] = []
            for kind, how in self.steps:
                await self._step(at, visitors, answers, kind, how)
                await at.look()
                here = [each for each in visitors if each.fate in {IN, UNDECIDED}]
                self._check(in_all, by_source, here)
            for each in visitors:
                await each.leave()
        assert 0 == in_all.open
        assert 0 == len(by_source)

    async def _step(
        self, at: Gate, visitors: list[Visitor], answers: list[Any], kind: str, how: Any
    ) -> None:
        if kind == "come":
            answers.append(how[1])
            visitors.append(await at.come(how[0]))
        elif kind == "leave" and visitors:
            await visitors.pop(how % len(visitors)).leave()
        elif kind == "complete":
            pending = list(at.listening.pending_inspections)
            if pending:
                at.listening.inspect_complete(pending[how[0] % len(pending)], how[1])
        elif kind == "wait":
            await trio.sleep(how)

    def _check(self, in_all: ConnectionLimit, by_source: SourceLimit, here: list[Visitor]) -> None:
        counted = Counter(str(each.stream.local_address.host) for each in here)
        assert len(here) == in_all.open <= 4
        assert len(counted) == len(by_source) <= 2
        for each in here:
            address = each.stream.local_address
            assert counted[str(address.host)] == by_source.open_from(address) <= self.MOST

    @invariant()
    def nothing(self) -> None:
        """Is checked while it is lived."""


def test_permits_are_in_balance() -> None:
    """After any lives of requests every place is back, and none was there twice."""
    run_state_machine_as_test(
        Lives, settings=settings(max_examples=60, stateful_step_count=25, deadline=None)
    )
