"""Rules made of other rules: any_of, when, unless, dry_run."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.helpers.inspecting import ACCEPT, PEND, REJECT
from tests.helpers.ruling import IN, UNDECIDED, gate
from tests.inspectors.test_rules import Asked, later, way
from trio_wsk import CloseStyle, ConnectionRequest, InvalidParameterError, Verdict
from trio_wsk.inspectors import (
    ConnectionLimit,
    Need,
    Rules,
    any_of,
    deny,
    dry_run,
    from_networks,
    needs,
    unless,
    when,
)
from trio_wsk.observers import CallbackFailed, RuleWouldReject

__all__ = ["way"]

NO = Verdict(REJECT, "no")
NEVER = Verdict(REJECT, "never", CloseStyle.FIN)


@pytest.mark.parametrize(
    ("answers", "expected", "asked"),
    [
        ([NO, None, NEVER], IN, [1, 1, 0]),
        ([None, NO], IN, [1, 0]),
        ([NO, ACCEPT], IN, [1, 1]),
        ([NO, NEVER], "no", [1, 1]),
        ([NO, REJECT, NEVER], "no", [1, 1, 1]),
        ([NO, PEND, None], UNDECIDED, [1, 1, 0]),
    ],
)
async def test_any_of_objects_only_if_all_do(
    answers: list[Any], expected: str, asked: list[int], way: Any
) -> None:
    """They are asked in order until one has no objection; else the first one's answer counts."""
    rules = [Asked(answer) for answer in answers]
    async with gate(Rules(any_of(*map(way, rules)))) as at:
        assert expected == (await at.come()).fate
        assert asked == [rule.count for rule in rules]


async def test_condition_says_who_is_asked(way: Any) -> None:
    """`when` asks about those for which it is true, `unless` about the others."""
    inside = from_networks(["192.0.2.0/24"])
    rules = Rules(when(inside, way(Asked(NO))), unless(inside, way(Asked(NEVER))))
    async with gate(rules) as at:
        assert ["no", "never"] == await at.come_all("192.0.2.7", "198.51.100.7")


async def test_who_is_trusted_is_let_in_whatever_comes_after_it() -> None:
    """A rule that lets in ends it: no limit behind it counts that request."""
    limit = ConnectionLimit(0)
    trusted = when(from_networks(["192.0.2.0/24"]), lambda _: ACCEPT)
    async with gate(Rules(trusted, limit)) as at:
        assert [IN, "too-many-connections"] == await at.come_all("192.0.2.7", "198.51.100.7")


# --- Dry runs ---------------------------------------------------------------------------------


async def test_dry_run_changes_nothing_and_counts(way: Any) -> None:
    """Who would be turned away is let in, counted by reason and told."""
    rules = Rules(dry_run(way(deny(["192.0.2.8"]))), dry_run(way(Asked(ACCEPT))), deny(["::/0"]))
    async with gate(rules) as at:
        assert [IN, IN] == await at.come_all("192.0.2.7", "192.0.2.8")

        first, second, _ = rules.statistics().values()
        assert {"denied": 1} == first.would_reject
        assert {} == first.rejected
        assert {} == second.would_reject
        (told,) = [each for each in at.records if isinstance(each, RuleWouldReject)]
        assert "192.0.2.8" == str(told.remote_address.host)
        assert "denied" == told.reason


async def test_dry_run_does_not_even_let_in() -> None:
    """That a rule would have let somebody in changes nothing either."""
    async with gate(Rules(dry_run(Asked(ACCEPT)), Asked(NO))) as at:
        assert "no" == (await at.come()).fate


@pytest.mark.parametrize("fault", ["raises", "nonsense"])
async def test_dry_run_that_fails_is_reported_and_changes_nothing(fault: str, way: Any) -> None:
    """A rule that is only tried can't turn anybody away by its faults."""

    def broken(_: ConnectionRequest) -> Any:
        if fault == "raises":
            raise ValueError("broken")
        return "nonsense"

    async with gate(Rules(dry_run(way(broken)))) as at:
        assert IN == (await at.come()).fate

        (failed,) = [each for each in at.records if isinstance(each, CallbackFailed)]
        assert "inspect" == failed.callback


async def test_dry_run_is_cancelled_with_its_request(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A cancellation goes on: it is no fault of the rule."""

    async def slow(_: ConnectionRequest) -> None:
        await trio.sleep_forever()

    async with gate(Rules(dry_run(slow))) as at:
        visitor = await at.come()
        with trio.testing.assert_checkpoints():
            await trio.sleep(20)
        await at.look()

        assert "timed-out" == visitor.fate
        assert [] == [each for each in at.records if isinstance(each, CallbackFailed)]


async def test_dry_run_under_a_condition_is_counted() -> None:
    """What a dry run has counted is found where it stands under a condition."""
    rules = Rules(when(lambda _: True, dry_run(Asked(NO, "tried"))))
    async with gate(rules) as at:
        await at.come()

        assert {"no": 1} == rules.statistics()["tried"].would_reject


# --- What they say of themselves --------------------------------------------------------------


def test_what_a_rule_says_of_itself_is_said_by_what_is_made_of_it() -> None:
    """Its name, what it needs, and how it turns peers away; but a dry run turns nobody away."""
    rule: Any = needs(Need.OCTETS)(Asked(NEVER, "mine"))
    rule.close_styles = {CloseStyle.FIN}
    made: list[Any] = [
        when(lambda _: True, rule),
        unless(lambda _: True, rule),
        any_of(rule, later(rule)),
        dry_run(rule),
    ]

    assert ["mine", "mine", "any_of", "mine"] == [each.name for each in made]
    assert [Need.OCTETS] * 4 == [each.needs for each in made]
    assert [{CloseStyle.FIN}] * 3 == [each.close_styles for each in made[:3]]
    assert not hasattr(made[3], "close_styles")
    assert "dry_run(mine)" == repr(made[3])
    assert "unless(<lambda>, mine)" == repr(made[1]).replace(
        "test_what_a_rule_says_of_itself_is_said_by_what_is_made_of_it.<locals>.", ""
    )


def test_any_of_one_is_a_mistake() -> None:
    """With less than two there is nothing to choose from."""
    with pytest.raises(InvalidParameterError, match="two rules or more"):
        any_of(Asked())
