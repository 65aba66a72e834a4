"""Rules made of other rules: one of several, one under a condition, one that is only tried."""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from typing import TYPE_CHECKING, Any, final

from trio_wsk._inspection import control
from trio_wsk._vocabulary.arguments import check_plain_function
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.records import RuleWouldReject
from trio_wsk._vocabulary.verdict import InspectAction, Verdict

from ._rule import (
    Counts,
    check_rule,
    checked_answer,
    close_styles_of,
    counts_each,
    is_answer,
    name_of,
    need_of,
    would_reject_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_wsk._inspection.request import ConnectionRequest

    from ._rule import Answer, Rule

    Condition = Callable[[ConnectionRequest], object]

__all__ = ["any_of", "dry_run", "unless", "when"]


def any_of(*rules: Rule) -> Rule:
    """Make a rule that objects only if all of these do.

    They are asked in order, until one has no objection, lets the request in, or pends it: that is
    the answer. If all turn the request away, the answer is that of the first.

    Raises:
      InvalidParameterError: there are less than two, or one is no rule. (Yours.)
    """
    if len(rules) < 2:  # noqa: PLR2004 - as it says
        raise InvalidParameterError("any_of takes two rules or more: any_of(from_vpn, has_token)")
    for rule in rules:
        check_rule("any_of", rule)
    return _AnyOf(rules)


def when(condition: Condition, rule: Rule) -> Rule:
    """Make a rule that is asked only about requests for which this condition is true.

    Args:
      condition: A plain function of the request, such as `from_networks` makes.
      rule: The rule.

    Raises:
      InvalidParameterError: one of them is none. (Yours.)
    """
    _check_condition("when", condition)
    check_rule("when", rule)
    return _When(condition, rule, wanted=True)


def unless(condition: Condition, rule: Rule) -> Rule:
    """Make a rule that is asked only about requests for which this condition is not true.

    See `when`.
    """
    _check_condition("unless", condition)
    check_rule("unless", rule)
    return _When(condition, rule, wanted=False)


def dry_run(rule: Rule) -> Rule:
    """Make a rule that is asked and counted, and changes nothing: to try one before it is enforced.

    It never has an objection, nor lets anybody in. What it would have turned away is counted by
    reason (`RuleStatistics.would_reject`) and told (`~trio_wsk.observers.RuleWouldReject`). What
    the rule raises is reported, and is no objection either. An async one is awaited all the same,
    as it would be when it is enforced; and what a rule does beside its answer, it does: a limit
    takes its places, and a `ProxyProtocol` takes its header, so that its addresses count.

    Raises:
      InvalidParameterError: it is no rule. (Yours.)
    """
    check_rule("dry_run", rule)
    return _DryRun(rule)


def _check_condition(name: str, condition: object) -> None:
    if isinstance(condition, (str, bytes, Collection)):
        raise InvalidParameterError(
            f"{name} takes a condition first, a function of the request, not {condition!r}; of"
            f" networks one is made by from_networks: {name}(from_networks([...]), rule)"
        )
    check_plain_function(name, condition)


@final
class _AnyOf:
    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.name = "any_of"
        self.needs = need_of(*rules)
        self.close_styles = close_styles_of(*rules)
        self.counts_each = counts_each(*rules)
        self._rules = rules

    def __repr__(self) -> str:
        return f"any_of({', '.join(map(name_of, self._rules))})"

    def __call__(self, request: ConnectionRequest) -> Answer | Awaitable[Answer]:
        return self._ask(request, 0, None)

    def _ask(
        self, request: ConnectionRequest, position: int, first: Answer
    ) -> Answer | Awaitable[Answer]:
        for rule in self._rules[position:]:
            position += 1
            answer: Any = rule(request)
            if isinstance(answer, Awaitable):
                return self._await(request, answer, position, first)
            if not _rejects(checked_answer(rule, answer)):
                return answer  # type: ignore[no-any-return]  # it is an answer
            first = first or answer
        return first

    async def _await(
        self,
        request: ConnectionRequest,
        coming: Awaitable[Answer],
        position: int,
        first: Answer,
    ) -> Answer:
        answer = checked_answer(self._rules[position - 1], await coming)
        if not _rejects(answer):
            return answer
        rest: Any = self._ask(request, position, first or answer)
        rest_answer: Answer = rest if is_answer(rest) else await rest
        return rest_answer


@final
class _When:
    def __init__(self, condition: Condition, rule: Rule, *, wanted: bool) -> None:
        self.name = name_of(rule)
        self.needs = need_of(rule, condition)
        self.close_styles = close_styles_of(rule)
        self.counts_each = counts_each(rule)
        self._condition = condition
        self._rule = rule
        self._wanted = wanted

    def __repr__(self) -> str:
        word = "when" if self._wanted else "unless"
        return f"{word}({name_of(self._condition)}, {self.name})"

    @property
    def would_reject(self) -> Mapping[str, int]:
        return would_reject_of(self._rule)

    def __call__(self, request: ConnectionRequest) -> Answer | Awaitable[Answer]:
        if bool(self._condition(request)) is self._wanted:
            return self._rule(request)
        return None


@final
class _DryRun:
    def __init__(self, rule: Rule) -> None:
        self.name = name_of(rule)
        self.needs = need_of(rule)
        self.counts_each = counts_each(rule)
        self._rule = rule
        self._counts = Counts()

    def __repr__(self) -> str:
        return f"dry_run({self.name})"

    @property
    def would_reject(self) -> Mapping[str, int]:
        return self._counts.rejected

    def __call__(self, request: ConnectionRequest) -> Answer | Awaitable[Answer]:
        try:
            answer: Any = self._rule(request)
            if isinstance(answer, Awaitable):
                return self._await(request, answer)
            self._note(request, answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            control.report(request, error)
        return None

    async def _await(self, request: ConnectionRequest, coming: Awaitable[Answer]) -> Answer:
        try:
            self._note(request, await coming)
        except Exception as error:  # noqa: BLE001 - as above
            control.report(request, error)
        return None  # noqa: ASYNC910 - an inspector's task needs none

    def _note(self, request: ConnectionRequest, answer: Answer) -> None:
        if _rejects(checked_answer(self._rule, answer)):
            reason = self._counts.count_rejected(
                answer.reason if isinstance(answer, Verdict) else ""
            )
            control.tell(request, RuleWouldReject, rule=self.name, reason=reason)


def _rejects(answer: Answer) -> bool:
    action = answer.action if isinstance(answer, Verdict) else answer
    return action is InspectAction.REJECT
