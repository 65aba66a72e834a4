"""`Rules`, the inspector that is made of rules, and `all_of`, the rule that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

import trio

from trio_wsk._inspection.two_stages import TwoStages
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.need import Need
from trio_wsk._vocabulary.verdict import InspectAction, Verdict

from ._rule import (
    Counts,
    RuleStatistics,
    check_rule,
    checked_answer,
    checked_name,
    close_styles_of,
    counts_each,
    is_answer,
    name_of,
    need_of,
    would_reject_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from trio_wsk._inspection.request import ConnectionRequest
    from trio_wsk._vocabulary.refused import Refused

    from ._rule import Answer, Rule

    Asked = tuple[Rule, Counts]

__all__ = ["Rules", "all_of"]


class Chain:
    """Rules that are asked in order, until one answers.

    Args:
      asked: The rules, and what each is counted in.
      default: What is answered if none has an objection.
    """

    __slots__ = ("_asked", "_default", "close_styles", "counts_each", "needs", "refuses", "rules")

    def __init__(self, asked: Sequence[Asked], default: Answer) -> None:
        rules = tuple(rule for rule, _ in asked)
        self.rules: Final[tuple[Rule, ...]] = rules
        """The rules, in order."""
        self.needs: Final = need_of(*rules)
        """What the rules look at."""
        self.close_styles: Final = close_styles_of(*rules)
        """In which ways the rules turn peers away, as far as they say."""
        self.counts_each: Final = counts_each(*rules)
        """Whether one of them has to be asked about every request."""
        self.refuses: Final[tuple[Refused, ...]] = tuple(_refused_first(rules))
        """Whom the first rules turn away by their address alone, up to one that does more."""
        self._default = default
        self._asked = asked

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

    def __call__(self, request: ConnectionRequest) -> Any:  # noqa: ANN401 - see `Rules`
        """Ask the rules about a request; what this returns is to be awaited where a rule's is."""
        return self._ask(request)

    def _ask(self, request: ConnectionRequest, position: int = 0) -> Answer | Awaitable[Answer]:
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
        began = trio.current_time()
        try:
            answer = checked_answer(rule, await coming)
        except Exception:
            counts.failed += 1
            raise
        finally:  # also of a wait that a deadline or a peer has ended: those are the long ones
            counts.note_wait(trio.current_time() - began)
        if answer is not None:
            counts.note(answer)
            return answer
        rest: Any = self._ask(request, position)
        rest_answer: Answer = rest if is_answer(rest) else await rest
        return rest_answer


def _refused_first(rules: Iterable[Rule]) -> Iterator[Refused]:
    """Return whom the first of these rules refuse.

    That ends with the first rule that does anything else: lets somebody in, counts, or only tries.
    What stands behind it must not be asked, or known, before.
    """
    for rule in _each(rules):
        refuses: tuple[Refused, ...] = getattr(rule, "refuses", ())
        if not refuses:
            return
        yield from refuses


def _each(rules: Iterable[Rule]) -> Iterator[Rule]:
    """Go through rules, and in the place of those made of others through these."""
    for rule in rules:
        if isinstance(rule, (Rules, _AllOf)):
            yield from _each(rule.rules)
        else:
            yield rule


@final
class Rules(Chain):
    """An inspector made of rules, which are asked in order: the first answer ends it.

    As long as its rules are plain, so is this: a request costs the calls. Where one of them is
    async, what follows it is asked in the task of that.

    Where it inspects before the handshake, it does so in two stages if one of them needs octets
    (`needs`): those before that one are asked before the handshake, that one and what follows it
    when it is over. So each is asked as early as the order lets it, and once; see
    :ref:`the order of stages <order-of-stages>`.

    A rule that answers ACCEPT lets the request in, whatever comes after it: no limit that stands
    behind it counts that request. PEND is an answer like the others, and who completes it decides
    about the request; in the first of two stages, whether the second is asked. What a rule raises
    turns the request away (``inspector-failed``).

    Args:
      rules: In the order in which they are asked.
      default: What is answered when no rule has had an objection.

    Raises:
      InvalidParameterError: one is no rule, or the default no answer. (Yours.)
    """

    __slots__ = ("stages",)

    def __init__(
        self, *rules: Rule, default: InspectAction | Verdict = InspectAction.ACCEPT
    ) -> None:
        for rule in rules:
            check_rule("Rules", rule)
        if any(isinstance(rule, Rules) for rule in rules[:-1]):
            raise InvalidParameterError(
                "Rules among other rules answers always, so that nobody asks those behind it:"
                " write all_of(...) in its place"
            )
        if not isinstance(default, (InspectAction, Verdict)):
            raise InvalidParameterError(
                f"default is an InspectAction or a Verdict, not {default!r}; rules that stand among"
                " other rules are all_of(...)"
            )
        asked = _counted(rules)
        super().__init__(asked, default)
        self.stages: Final = _stages(asked, default)
        """What is asked before the handshake, and what after it; None if nothing needs octets."""

    def __repr__(self) -> str:
        return f"Rules({', '.join(map(name_of, self.rules))})"

    def __call__(
        self, request: ConnectionRequest
    ) -> InspectAction | Verdict | Awaitable[InspectAction | Verdict]:
        """Ask the rules about a request; what this returns is to be awaited where a rule's is."""
        return self._ask(request)  # type: ignore[return-value]  # with that default, never None


def _counted(rules: Iterable[Rule]) -> list[Asked]:
    return [(rule, Counts()) for rule in rules]


def _stages(asked: Sequence[Asked], default: Answer) -> TwoStages | None:
    """Part the rules at the first one that needs octets.

    No rule is asked before one that stands in front of it, whatever it needs. That one may have to
    find out first who the peer is (`ProxyProtocol`), may let it in whatever comes after it, or take
    what the other gives back.
    """
    for position, (rule, _) in enumerate(asked):
        if Need.OCTETS in need_of(rule):
            return TwoStages(Chain(asked[:position], None), Chain(asked[position:], default))
    return None


def all_of(*rules: Rule, name: str = "all_of") -> Rule:
    """Make a rule of several, to share them or to put them under one condition.

    They are asked in order, and the first answer is its answer; it has no objection if none of them
    has one. It is asked as one rule, when all that they need is there. (`Rules` is an inspector,
    and lets everybody in then, whatever stands behind it.)

    Args:
      rules: In the order in which they are asked.
      name: What it is counted by.

    Raises:
      InvalidParameterError: one is no rule. (Yours.)
    """
    for rule in rules:
        check_rule("all_of", rule)
    return _AllOf(rules, checked_name(name))


@final
class _AllOf(Chain):
    __slots__ = ("name",)

    def __init__(self, rules: tuple[Rule, ...], name: str) -> None:
        super().__init__(_counted(rules), None)
        self.name: Final = name

    def __repr__(self) -> str:
        return f"all_of({', '.join(map(name_of, self.rules))})"

    @property
    def would_reject(self) -> Mapping[str, int]:
        together: Counter[str] = Counter()
        for rule in self.rules:
            together.update(would_reject_of(rule))
        return together
