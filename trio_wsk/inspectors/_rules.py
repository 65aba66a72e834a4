"""`Rules`: the inspector that is made of rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.verdict import InspectAction, Verdict

from ._rule import (
    Counts,
    RuleStatistics,
    check_rule,
    checked_answer,
    checked_name,
    close_styles_of,
    is_answer,
    name_of,
    need_of,
    would_reject_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_wsk._inspection.request import ConnectionRequest

    from ._rule import Answer, Rule

__all__ = ["Rules"]


@final
class Rules:
    """An inspector made of rules, which are asked in order: the first answer ends it.

    As long as its rules are plain, so is this: a request costs the calls. Where one of them is
    async, what follows it is asked in the task of that.

    A rule that answers ACCEPT lets the request in, whatever comes after it: no limit that stands
    behind it counts that request. PEND is an answer like the others, and who completes it decides
    about the request. What a rule raises turns the request away (``inspector-failed``).

    Rules can stand among rules, to share them: with ``default=None``, for they would let everybody
    in otherwise.

    Args:
      rules: In the order in which they are asked.
      default: What is answered when no rule has had an objection.
      name: What it is counted by where it stands among other rules.

    Raises:
      InvalidParameterError: one is no rule, or the default no answer. (Yours.)
    """

    __slots__ = ("_asked", "_default", "close_styles", "name", "needs", "rules")

    def __init__(
        self, *rules: Rule, default: Answer = InspectAction.ACCEPT, name: str = "rules"
    ) -> None:
        for rule in rules:
            check_rule("Rules", rule)
        if not is_answer(default):
            raise InvalidParameterError(
                "default is an InspectAction, a Verdict, or None among other rules, not"
                f" {default!r}"
            )
        self.rules: Final[tuple[Rule, ...]] = rules
        """The rules, in order."""
        self.name: Final = checked_name(name)
        """What it is counted by among other rules."""
        self.needs: Final = need_of(*rules)
        """What the rules look at."""
        self.close_styles: Final = close_styles_of(*rules)
        """In which ways the rules turn peers away, as far as they say."""
        self._default = default
        self._asked = [(rule, Counts()) for rule in rules]

    def __repr__(self) -> str:
        return f"Rules({', '.join(map(name_of, self.rules))})"

    def __call__(self, request: ConnectionRequest) -> Answer | Awaitable[Answer]:
        """Ask the rules about a request; what this returns is to be awaited where a rule's is."""
        return self._ask(request, 0)

    def _ask(self, request: ConnectionRequest, position: int) -> Answer | Awaitable[Answer]:
        for rule, counts in self._asked[position:] if position else self._asked:
            position += 1
            try:
                answer: Any = rule(request)
                if answer is None:
                    continue
                if isinstance(answer, (InspectAction, Verdict)):
                    counts.note(answer)
                    return answer
                if not isinstance(answer, Awaitable):
                    checked_answer(rule, answer)  # which says that it is none
            except Exception:
                counts.failed += 1
                raise
            return self._await(request, answer, position)
        return self._default

    async def _await(
        self, request: ConnectionRequest, coming: Awaitable[Answer], position: int
    ) -> Answer:
        """Await what a rule has begun, and ask the rest."""
        rule, counts = self._asked[position - 1]
        try:
            answer = checked_answer(rule, await coming)
        except Exception:
            counts.failed += 1
            raise
        if answer is not None:
            counts.note(answer)
            return answer
        rest: Any = self._ask(request, position)
        rest_answer: Answer = rest if is_answer(rest) else await rest
        return rest_answer

    def statistics(self) -> Mapping[str, RuleStatistics]:
        """Return what each rule has answered since it was made, by its name.

        Of rules with one name the second is called ``name-2``, and so on.
        """
        given: Counter[str] = Counter()
        found: dict[str, RuleStatistics] = {}
        for rule, counts in self._asked:
            name = name_of(rule)
            given[name] += 1
            found[name if given[name] == 1 else f"{name}-{given[name]}"] = counts.picture(
                would_reject_of(rule)
            )
        return MappingProxyType(found)
