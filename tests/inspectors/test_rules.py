"""`Rules`: rules are asked in order, and the first answer ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers.inspecting import ACCEPT, PEND, REJECT
from tests.helpers.ruling import IN, UNDECIDED, gate
from trio_wsk import (
    CloseStyle,
    ConnectionRequest,
    InspectAction,
    InspectPoint,
    InvalidParameterError,
    Verdict,
)
from trio_wsk.inspectors import (
    ConnectionLimit,
    Need,
    Penalties,
    RateLimit,
    Rules,
    RuleStatistics,
    SourceLimit,
    SourceRateLimit,
    all_of,
    deny,
    dry_run,
    needs,
)
from trio_wsk.observers import CallbackFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk.inspectors import Answer, Rule

NO = Verdict(REJECT, "no")
NEVER = Verdict(REJECT, "never")


class Asked:
    """A rule that notes that it was asked, and answers always the same."""

    def __init__(self, answer: Any = None, name: str = "asked") -> None:
        self.name = name
        self.count = 0
        self._answer = answer

    def __call__(self, _: ConnectionRequest) -> Any:
        """Answer."""
        self.count += 1
        return self._answer


def later(rule: Callable[[ConnectionRequest], Any]) -> Rule:
    """Make an async rule of a plain one."""

    async def ask_later(request: ConnectionRequest) -> Answer:
        await trio.lowlevel.checkpoint()
        answer: Answer = rule(request)
        return answer

    return ask_later


@pytest.fixture(params=["plain", "async"])
def way(request: pytest.FixtureRequest) -> Callable[[Any], Rule]:
    """How a rule answers."""
    ways: dict[str, Callable[[Any], Rule]] = {"plain": lambda rule: rule, "async": later}
    return ways[request.param]


@pytest.mark.parametrize(
    ("answers", "expected", "asked"),
    [
        ([], IN, []),
        ([None, None], IN, [1, 1]),
        ([None, NO, NEVER], "no", [1, 1, 0]),
        ([ACCEPT, NO], IN, [1, 0]),
        ([NO, ACCEPT], "no", [1, 0]),
        ([REJECT], "rejected", [1]),
        ([Verdict(ACCEPT), NO], IN, [1, 0]),
        ([None, PEND, NO], UNDECIDED, [1, 1, 0]),
    ],
)
async def test_first_answer_ends_it(
    answers: list[Any], expected: str, asked: list[int], way: Callable[[Any], Rule]
) -> None:
    """Rules are asked in order until one answers; if none does, the request is let in."""
    rules = [Asked(answer) for answer in answers]
    async with gate(Rules(*map(way, rules))) as at:
        assert expected == (await at.come()).fate
        assert asked == [rule.count for rule in rules]


async def test_plain_and_async_rules_stand_side_by_side() -> None:
    """Each is asked once, in order, whatever kind the ones before it are."""
    order: list[str] = []

    def note(what: str) -> Callable[[ConnectionRequest], None]:
        return lambda _: order.append(what)

    rules = Rules(note("1"), later(note("2")), note("3"), later(note("4")), note("5"))
    async with gate(rules) as at:
        assert IN == (await at.come()).fate
        assert ["1", "2", "3", "4", "5"] == order


async def test_plain_rules_need_no_task() -> None:
    """Rules that are plain answer at once, like a plain inspector."""
    answers: list[Any] = []
    rules = Rules(Asked(), Asked(NO))

    def inspect(request: ConnectionRequest) -> Any:
        answers.append(rules(request))
        return answers[-1]

    async with gate(inspect) as at:
        await at.come()

        assert [NO] == answers


async def test_default_is_answered_where_nobody_objects(way: Callable[[Any], Rule]) -> None:
    """What is answered then can be chosen: a closed door with exceptions."""
    async with gate(Rules(way(Asked()), default=Verdict(REJECT, "not-listed"))) as at:
        assert "not-listed" == (await at.come()).fate


async def test_rules_stand_among_rules(way: Callable[[Any], Rule]) -> None:
    """`all_of` has no objection by itself, so that the rules after it are asked."""
    shared = all_of(way(deny(["192.0.2.8"])), dry_run(deny(["192.0.2.7"])), name="shared")
    async with gate(Rules(shared, way(deny(["192.0.2.9"], reason="other")))) as at:
        assert [IN, "denied", "other"] == await at.come_all("192.0.2.7", "192.0.2.8", "192.0.2.9")
    assert {"denied": 1} == shared.would_reject  # type: ignore[attr-defined]  # for `Rules` to read


async def test_pended_request_is_decided_by_who_completes_it() -> None:
    """PEND of a rule is the inspector's: who completes it decides about the request."""
    async with gate(Rules(Asked(PEND), Asked(NO))) as at:
        first, second = await at.come(), await at.come()
        ids = list(at.listening.pending_inspections)
        at.listening.inspect_complete(ids[0], ACCEPT)
        at.listening.inspect_complete(ids[1], Verdict(REJECT, "in-the-end"))
        await at.look()

        assert [IN, "in-the-end"] == [first.fate, second.fate]


@pytest.mark.parametrize("nonsense", [True, 1, "no", object])
async def test_nonsense_turns_away_and_names_the_rule(
    nonsense: object, way: Callable[[Any], Rule]
) -> None:
    """A rule that answers nonsense fails, like an inspector, and the report names it."""
    rules = Rules(way(Asked(nonsense)))
    async with gate(rules) as at:
        assert "inspector-failed" == (await at.come()).fate

        (failed,) = [each for each in at.records if isinstance(each, CallbackFailed)]
        assert "the rule " in str(failed.error)
        assert 1 == next(iter(rules.statistics().values())).failed


async def test_rule_that_raises_turns_away(way: Callable[[Any], Rule]) -> None:
    """What a rule raises is a failure of the inspector, and the rules after it are not asked."""
    after = Asked()

    def broken(_: ConnectionRequest) -> None:
        raise ValueError("broken")

    rules = Rules(way(broken), after)
    async with gate(rules) as at:
        assert "inspector-failed" == (await at.come()).fate
        assert 0 == after.count
        assert 1 == next(iter(rules.statistics().values())).failed


# --- Counts -----------------------------------------------------------------------------------


async def test_answers_are_counted_by_rule_and_reason() -> None:
    """Each answer that ends it is counted, under the name of its rule."""
    rules = Rules(
        deny(["192.0.2.1"], name="list"),
        deny(["192.0.2.2"], reason="other", name="list"),
        lambda request: PEND if str(request.remote_address.host) == "192.0.2.3" else None,
        Asked(REJECT, "last"),
    )
    async with gate(rules) as at:
        await at.come_all(*(f"192.0.2.{number}" for number in (1, 2, 2, 3, 4)))

        counted = rules.statistics()
        assert ["list", "list-2", *counted][-2:] == list(counted)[-2:]
        assert {"denied": 1} == counted["list"].rejected
        assert {"other": 2} == counted["list-2"].rejected
        assert {"rejected": 1} == counted["last"].rejected
        assert [0, 0, 1, 0] == [each.pended for each in counted.values()]
        assert 0 == counted["last"].accepted


async def test_reasons_that_are_counted_are_bounded() -> None:
    """A rule that takes its reasons from peers does not fill the memory."""
    numbers = iter(range(100))
    rules = Rules(lambda _: Verdict(REJECT, f"reason-{next(numbers)}"))
    async with gate(rules) as at:
        for _ in range(70):
            await at.come()

        (counted,) = rules.statistics().values()
        assert 65 == len(counted.rejected)
        assert 6 == counted.rejected["other"]


def test_statistics_are_frozen() -> None:
    """What was counted can't be changed by who looks at it."""
    counted = Rules(Asked()).statistics()

    with pytest.raises(TypeError):
        counted["asked"] = counted["asked"]  # type: ignore[index]  # as it says
    with pytest.raises(TypeError):
        counted["asked"].rejected["x"] = 1  # type: ignore[index]  # as it says
    nothing = RuleStatistics(
        accepted=0, pended=0, rejected={}, failed=0, would_reject={}, waits=0, waited=0.0
    )
    assert nothing == counted["asked"]


async def test_waits_are_counted(autojump_clock: object) -> None:
    """
    Of an async rule it is known how often it was awaited and for how long in all, also if it has
    failed or was cancelled; a plain rule keeps nobody waiting.
    """

    async def slow(_: ConnectionRequest) -> Any:
        await trio.sleep(next(seconds))
        return next(answers)

    seconds, answers = iter([1.5, 2.5, 0.5, 600.0]), iter([None, REJECT, 7])
    rules = Rules(Asked(), slow)
    async with gate(rules) as at:
        for _ in range(4):
            await at.come()
        await trio.sleep(60)
        plain, awaited = rules.statistics().values()

    assert (4, 1.5 + 2.5 + 0.5 + 10.0) == (awaited.waits, awaited.waited)
    assert (0, 0.0) == (plain.waits, plain.waited)


# --- What rules say of themselves -------------------------------------------------------------


@needs(Need.OCTETS)
async def looks_at_octets(request: ConnectionRequest) -> InspectAction | None:
    """Look at the first octet."""
    return None if await request.peek(1) == b"x" else REJECT


async def test_octets_are_not_to_be_had_before_the_handshake() -> None:
    """What hides that it has two stages is refused where there are no octets, when opening."""
    rules = Rules(Asked(), looks_at_octets)

    @needs(rules.needs)
    def hides(request: ConnectionRequest) -> Any:
        return rules(request)

    assert Need.OCTETS is rules.needs
    with pytest.raises(InvalidParameterError, match="needs first octets"):
        async with gate(hides, InspectPoint.BEFORE_HANDSHAKE):
            raise AssertionError("it was opened")


async def test_syn_is_not_to_be_had_after_the_handshake() -> None:
    """So is one that needs the SYN, where that is over."""
    rule = needs(Need.SYN)(lambda request: None if request.syn is not None else REJECT)
    with pytest.raises(InvalidParameterError, match="needs the SYN"):
        async with gate(Rules(rule)):
            raise AssertionError("it was opened")
    async with gate(Rules(rule), InspectPoint.BEFORE_HANDSHAKE) as at:
        assert IN == (await at.come()).fate


async def test_close_styles_are_checked_when_opening() -> None:
    """A rule that turns peers away with a message is refused where there can be none."""
    rules = Rules(deny(["192.0.2.1"], close=b"go away"))

    assert {CloseStyle.MESSAGE} == rules.close_styles
    with pytest.raises(InvalidParameterError, match="turns peers away with"):
        async with gate(rules, InspectPoint.BEFORE_HANDSHAKE):
            raise AssertionError("it was opened")


@pytest.mark.parametrize("point", list(InspectPoint), ids=lambda point: point.value)
async def test_rules_work_at_both_points(point: InspectPoint) -> None:
    """Rules about addresses are asked before the handshake as after it."""
    async with gate(Rules(deny(["192.0.2.8"])), point) as at:
        assert [IN, "denied"] == await at.come_all("192.0.2.7", "192.0.2.8")


def test_rules_name_themselves() -> None:
    """Who prints rules sees which they are."""
    assert "all_of(deny, deny)" == repr(all_of(deny([]), deny([])))
    assert "Rules(deny, looks_at_octets)" == repr(Rules(deny([]), looks_at_octets))


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        (ConnectionLimit(3), "<ConnectionLimit connection-limit: 0 of 3 open>"),
        (SourceLimit(3, name="few"), "<SourceLimit few: 3 for each of 0 sources>"),
        (RateLimit(10, 60), "<RateLimit rate-limit: 0.166667 per second, 10 at once>"),
        (
            SourceRateLimit(2, burst=5),
            "<SourceRateLimit source-rate-limit: 2 per second, 5 at once for each of 0 sources>",
        ),
        (Penalties(), "<Penalties penalties: 0 sources, refused from 15 s>"),
    ],
)
def test_limits_say_what_they_limit(rule: object, shown: str) -> None:
    """Who prints a limit sees what it is, and how full."""
    assert shown == repr(rule)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ((SourceLimit,), r"write SourceLimit\(...\)"),
        (([deny([])],), r"write all_of\(\*rules\)"),
        ((Rules(), deny([])), r"write all_of\(...\) in its place"),
    ],
)
def test_what_would_ask_nobody_is_a_mistake(wrong: Any, says: str) -> None:
    """A class, a list, and rules that are never reached are refused, with what to write."""
    with pytest.raises(InvalidParameterError, match=says):
        Rules(*wrong)
