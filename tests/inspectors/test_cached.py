"""`cached`: one look-up for all that come from one source in a while."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.helpers.inspecting import PEND, REJECT
from tests.helpers.ruling import IN, UNDECIDED, gate
from tests.inspectors.test_rules import Asked, way
from trio_wsk import ConnectionRequest, InvalidParameterError, Verdict
from trio_wsk.inspectors import (
    ConnectionLimit,
    ProxyProtocol,
    RateLimit,
    Rules,
    SourceLimit,
    SourceRateLimit,
    all_of,
    any_of,
    cached,
    dry_run,
    when,
)

__all__ = ["way"]

NO = Verdict(REJECT, "no")
A, B = "192.0.2.7", "192.0.2.8"


@pytest.mark.parametrize(("answer", "fate"), [(None, IN), (NO, "no")])
async def test_answer_is_kept_for_a_while(
    answer: Any, fate: str, way: Any, autojump_clock: trio.testing.MockClock
) -> None:
    """Within its time a source gets the same answer, and the rule is not asked."""
    rule = Asked(answer)
    async with gate(Rules(cached(way(rule), ttl=10))) as at:
        assert [fate] * 3 == await at.come_all(A, A, A)
        assert 1 == rule.count

        await trio.sleep(9)

        assert [fate, fate] == await at.come_all(A, B)
        assert 2 == rule.count

        await trio.sleep(1)

        assert [fate] == await at.come_all(A)
        assert 3 == rule.count


async def test_those_who_come_meanwhile_wait_for_one_answer() -> None:
    """While it is being asked about a source, no second look-up is made for it."""
    asked: list[ConnectionRequest] = []
    answer = trio.Event()

    async def look_up(request: ConnectionRequest) -> Verdict:
        asked.append(request)
        await answer.wait()
        return NO

    async with gate(Rules(cached(look_up, ttl=10))) as at:
        visitors = [await at.come(host) for host in (A, A, B, A)]

        assert 2 == len(asked)
        assert {UNDECIDED} == {each.fate for each in visitors}

        answer.set()
        await at.look()

        assert ["no"] * 4 == [each.fate for each in visitors]
        assert 2 == len(asked)


async def test_those_who_come_in_the_same_moment_wait_for_one_answer() -> None:
    """Also if the pump has taken both before the look-up has begun."""
    asked: list[ConnectionRequest] = []
    answer = trio.Event()

    async def look_up(request: ConnectionRequest) -> None:
        asked.append(request)
        await answer.wait()

    async with gate(Rules(cached(look_up, ttl=10))) as at:
        visitors = await at.come_together(A, B, A, A)

        assert 2 == len(asked)

        answer.set()
        await at.look()

        assert [IN] * 4 == [each.fate for each in visitors]


async def test_next_one_asks_if_the_first_has_left_and_its_look_up_has_not_ended() -> None:
    """A look-up that ignores its cancellation keeps nobody waiting, and its answer is kept."""
    asked: list[ConnectionRequest] = []
    first, second = trio.Event(), trio.Event()

    async def look_up(request: ConnectionRequest) -> Verdict:
        asked.append(request)
        with trio.CancelScope(shield=True):
            await (first if len(asked) == 1 else second).wait()
        return NO

    async with gate(Rules(cached(look_up, ttl=10))) as at:
        leaver, other = await at.come(A), await at.come(A)
        await leaver.leave()

        assert 2 == len(asked)

        second.set()
        await at.look()

        assert "no" == other.fate

        first.set()
        await at.look()

        assert ["no"] == await at.come_all(A)
        assert 2 == len(asked)


async def test_many_whose_look_ups_fail_ask_one_after_the_other() -> None:
    """However many wait, none of them is as many calls deep as there are."""
    deepest = 0

    async def look_up(_: ConnectionRequest) -> None:
        nonlocal deepest
        await trio.lowlevel.checkpoint()
        deepest = max(deepest, len(list(trio.lowlevel.current_task().iter_await_frames())))
        raise LookupError("nobody there")

    async with gate(Rules(cached(look_up, ttl=10))) as at:
        visitors = await at.come_together(*[A] * 50)

        assert {"inspector-failed"} == {each.fate for each in visitors}
        assert 20 > deepest


async def test_next_one_asks_if_the_first_has_left() -> None:
    """A look-up ends with the request that it was made for; those who wait get an answer still."""
    asked: list[ConnectionRequest] = []
    answer = trio.Event()

    async def look_up(request: ConnectionRequest) -> Verdict:
        asked.append(request)
        await answer.wait()
        return NO

    async with gate(Rules(cached(look_up, ttl=10))) as at:
        visitors = [await at.come(A) for _ in range(3)]
        await visitors[0].leave()

        assert 2 == len(asked)

        answer.set()
        await at.look()

        assert ["no", "no"] == [each.fate for each in visitors[1:]]
        assert 2 == len(asked)


async def test_what_is_no_answer_is_not_kept(way: Any) -> None:
    """PEND and errors are asked again."""
    pending = Asked(PEND)
    async with gate(Rules(cached(way(pending), ttl=10))) as at:
        assert [UNDECIDED] * 2 == await at.come_all(A, A)
        assert 2 == pending.count

    nonsense = Asked("nonsense")
    async with gate(Rules(cached(way(nonsense), ttl=10))) as at:
        assert ["inspector-failed"] * 2 == await at.come_all(A, A)
        assert 2 == nonsense.count


async def test_so_many_answers_are_kept() -> None:
    """Beyond that the one goes that was asked about first."""
    rule = Asked(None)
    async with gate(Rules(cached(rule, ttl=10, most=2))) as at:
        await at.come_all(*("192.0.2." + last for last in "123"))
        await at.come_all(*("192.0.2." + last for last in "32"))

        assert 3 == rule.count

        await at.come("192.0.2.1")

        assert 4 == rule.count


async def test_prefix_says_who_is_one_source() -> None:
    """Whole networks may share an answer."""
    rule = Asked(None)
    async with gate(Rules(cached(rule, ttl=10, ipv4_prefix=24))) as at:
        await at.come_all(A, B, "198.51.100.7")

        assert 2 == rule.count


@pytest.mark.parametrize(
    "rule",
    [
        ConnectionLimit(1),
        SourceLimit(1),
        RateLimit(1),
        SourceRateLimit(1),
        ProxyProtocol(required=["127.0.0.0/8"]),
    ],
    ids=lambda rule: rule.name,
)
def test_what_takes_something_for_each_request_is_not_to_be_kept(rule: Any) -> None:
    """Such a rule would be asked about one of many: it is refused, also inside another one."""
    other = Asked()
    inside = (
        when(lambda _: True, rule),
        dry_run(rule),
        any_of(other, rule),
        all_of(other, rule),
        Rules(other, rule),
    )
    for each in (rule, *inside):
        with pytest.raises(InvalidParameterError, match="has to be asked about every request"):
            cached(each, ttl=1)
    cached(all_of(other, other), ttl=1)
