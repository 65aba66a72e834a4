"""What a rule is, what it may say of itself, and how its answers are counted.

Whatever can be called with a request is a rule. What it says of itself are attributes, and it may
have none of them:

* ``name``: what it is counted by; without one, that of its function or class.
* ``needs``: what it looks at, a `Need`. What needs octets is asked when the handshake is over.
* ``close_styles``: in which ways it turns peers away, so that opening a listening socket fails
  where one of them can't be had.
* ``counts_each``: that it has to be asked about every request, since it takes something for it or
  from it, such as a place; so `cached` is not for it.
* ``refuses``: whom it turns away by their address alone, as a tuple of `Refused`: all that it ever
  turns away of those who are listed there, so that the kernel may do it before anybody is asked.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, final

import attrs

from trio_wsk._vocabulary.arguments import check_function, shown
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.need import Need
from trio_wsk._vocabulary.statistics import REASONS
from trio_wsk._vocabulary.verdict import InspectAction, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_wsk._inspection.request import ConnectionRequest

    T = TypeVar("T", bound=Callable[..., object])

__all__ = [
    "Answer",
    "Counts",
    "Rule",
    "RuleStatistics",
    "check_rule",
    "checked_answer",
    "checked_name",
    "close_styles_of",
    "counts_each",
    "is_answer",
    "name_of",
    "need_of",
    "needs",
    "would_reject_of",
]

Answer: TypeAlias = InspectAction | Verdict | None
"""What a rule answers: None is no objection."""

Rule: TypeAlias = Callable[["ConnectionRequest"], Answer | Awaitable[Answer]]
"""What is asked about a request, plain or async."""


def needs(need: Need) -> Callable[[T], T]:
    r"""Make a decorator that says of a rule of yours what it looks at.

    ::

        @needs(Need.OCTETS)
        async def speaks_tls(request):
            return None if await request.peek(1) == b"\x16" else InspectAction.REJECT

    What needs octets is asked when the handshake is over, what needs no more before it, if that is
    where its listening socket inspects.

    Args:
      need: What it looks at, ``Need.SYN | Need.OCTETS`` for both.

    Raises:
      InvalidParameterError: it is no `Need`. (Yours.)
    """
    if not isinstance(need, Need):
        raise InvalidParameterError(f"needs takes a member of Need, not {need!r}")

    def mark(rule: T) -> T:
        rule.needs = need  # type: ignore[attr-defined]  # functions take any attribute
        return rule

    return mark


def check_rule(name: str, rule: object) -> None:
    """Refuse what is no rule.

    Raises:
      InvalidParameterError: it is none. (The caller's.)
    """
    if isinstance(rule, (InspectAction, Verdict)):
        raise InvalidParameterError(
            f"{name} takes rules, which are functions of a request, and {rule!r} is an answer;"
            f" write lambda request: {rule}"
        )
    if isinstance(rule, type):
        raise InvalidParameterError(
            f"{name} takes rules, and {rule.__name__} makes one: write {rule.__name__}(...)"
        )
    if isinstance(rule, (list, tuple)):
        raise InvalidParameterError(
            f"{name} takes rules one after the other, not {rule!r}: write all_of(*rules)"
        )
    check_function(name, rule)


def checked_name(name: object) -> str:
    """Return what a rule is to be counted by.

    Raises:
      InvalidParameterError: it is no text. (The caller's.)
    """
    if not isinstance(name, str) or not name:
        raise InvalidParameterError(f"name is a text to count by, such as 'guests', not {name!r}")
    return name


def name_of(rule: object) -> str:
    """Return what a rule is counted by."""
    name = getattr(rule, "name", None)
    if isinstance(name, str) and name:
        return name
    while isinstance(rule, functools.partial):
        rule = rule.func
    return str(getattr(rule, "__qualname__", type(rule).__name__))


def need_of(*rules: object) -> Need:
    """Return what these rules look at, together."""
    stated = (getattr(rule, "needs", Need.ADDRESSES) for rule in rules)
    return functools.reduce(operator.or_, stated, Need.ADDRESSES)


def close_styles_of(*rules: object) -> frozenset[Any]:
    """Return in which ways these rules turn peers away, as far as they say."""
    return frozenset().union(*(getattr(rule, "close_styles", ()) for rule in rules))


def counts_each(*rules: object) -> bool:
    """Whether one of these rules has to be asked about every request."""
    return any(getattr(rule, "counts_each", False) for rule in rules)


def would_reject_of(rule: object) -> Mapping[str, int]:
    """Return what a rule has counted in a dry run; nothing if it is in none."""
    counted: Mapping[str, int] = getattr(rule, "would_reject", {})
    return counted


def is_answer(answer: object) -> bool:
    """Whether this is an answer, and nothing to be awaited."""
    return answer is None or isinstance(answer, (InspectAction, Verdict))


def checked_answer(rule: object, answer: object) -> Answer:
    """Return what a rule has answered.

    Raises:
      TypeError: it is no answer. (The rule's author's.)
    """
    if answer is None or isinstance(answer, (InspectAction, Verdict)):
        return answer
    raise TypeError(
        f"the rule {name_of(rule)} answered {shown(answer)}: return None where it has no objection,"
        " InspectAction.ACCEPT, REJECT or PEND, or Verdict(InspectAction.REJECT, 'over-quota')"
    )


@attrs.frozen(kw_only=True)
class RuleStatistics:
    """What one rule has answered, other than that it has no objection."""

    accepted: int
    """How often it let a request in, whatever comes after it."""
    pended: int
    """How often it was to be decided later."""
    rejected: Mapping[str, int]
    """How often it turned one away, by reason; ``rejected`` where it gave none."""
    failed: int
    """How often it raised, or answered nonsense."""
    would_reject: Mapping[str, int]
    """In a `dry_run`: how often it would have turned one away, by reason."""
    waits: int
    """How often it was awaited, whatever came of that: an async rule keeps a request waiting."""
    waited: float
    """For how many seconds on Trio's clock, all of them together."""


@final
class Counts:
    """The running counts of one rule."""

    __slots__ = ("accepted", "failed", "pended", "rejected", "waited", "waits")

    def __init__(self) -> None:
        self.accepted = 0
        self.pended = 0
        self.failed = 0
        self.waits = 0
        self.waited = 0.0
        self.rejected: Counter[str] = Counter()

    def note(self, answer: InspectAction | Verdict) -> None:
        """Count an answer."""
        action, reason = (
            (answer.action, answer.reason) if isinstance(answer, Verdict) else (answer, "")
        )
        if action is InspectAction.REJECT:
            self.count_rejected(reason)
        elif action is InspectAction.ACCEPT:
            self.accepted += 1
        else:
            self.pended += 1

    def picture(self, would_reject: Mapping[str, int]) -> RuleStatistics:
        """Freeze the counts."""
        return RuleStatistics(
            accepted=self.accepted,
            pended=self.pended,
            rejected=MappingProxyType(dict(self.rejected)),
            failed=self.failed,
            would_reject=MappingProxyType(dict(would_reject)),
            waits=self.waits,
            waited=self.waited,
        )

    def note_wait(self, seconds: float) -> None:
        """Count that it was awaited."""
        self.waits += 1
        self.waited += seconds

    def count_rejected(self, reason: str) -> str:
        """Count a rejection; return what it was counted as."""
        reason = reason or "rejected"
        if reason not in self.rejected and len(self.rejected) >= REASONS:
            reason = "other"
        self.rejected[reason] += 1
        return reason
