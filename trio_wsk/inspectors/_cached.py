"""`cached`: what a rule has answered about a source is its answer for a while."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final, final

from trio_wsk._vocabulary.arguments import checked_count, checked_seconds
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.verdict import InspectAction, Verdict

from ._kept import Kept
from ._rule import (
    check_rule,
    checked_answer,
    close_styles_of,
    counts_each,
    is_answer,
    name_of,
    need_of,
)
from ._sources import MOST_SOURCES, Sources

if TYPE_CHECKING:
    from contextlib import ExitStack

    from trio_wsk._inspection.request import ConnectionRequest

    from ._rule import Answer, Rule
    from ._sources import Source

__all__ = ["cached"]


def cached(
    rule: Rule,
    *,
    ttl: float,
    most: int = MOST_SOURCES,
    ipv4_prefix: int = 32,
    ipv6_prefix: int = 128,
) -> Rule:
    """Make a rule that asks another one about each source once in a while: a look-up, say.

    While it is being asked about a source, further requests of that source wait for the same
    answer. If the request that it was asked about ends meanwhile, the next one asks.

    PEND is no answer to keep, nor is what the rule raises: the next request asks again. What the
    rule adds to ``request.facts`` is added for the request that it was asked about.

    Args:
      rule: The rule, whose answer depends on nothing but the address.
      ttl: Seconds on Trio's clock for which an answer is kept.
      most: How many are kept; beyond that, the one that was asked about first goes.
      ipv4_prefix: How many bits of an IPv4 address make the source.
      ipv6_prefix: How many of an IPv6 address do.

    A Unix peer has no source: the rule is asked each time.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """
    check_rule("cached", rule)
    if counts_each(rule):
        raise InvalidParameterError(
            f"cached takes a rule whose answer depends on nothing but the address, and {rule!r}"
            " has to be asked about every request: give it to Rules beside what is cached"
        )
    return _Cached(
        rule,
        checked_seconds("ttl", ttl),
        checked_count("most", most, least=1),
        Sources(ipv4_prefix, ipv6_prefix, ()),
    )


@final
class _Cached:
    def __init__(self, rule: Rule, ttl: float, most: int, sources: Sources) -> None:
        self.name: Final = name_of(rule)
        self.needs: Final = need_of(rule)
        self.close_styles: Final = close_styles_of(rule)
        self._rule = rule
        self._ttl = ttl
        self._sources = sources
        self._answers: Kept[Source, Answer] = Kept(most)

    def __repr__(self) -> str:
        return f"cached({self.name})"

    def __call__(self, request: ConnectionRequest) -> Answer | Awaitable[Answer]:
        source = self._sources.source_of(request.remote_address)
        if source is None:
            return self._rule(request)
        known = self._answers.known(source)
        if known is not None:
            return known[1]
        if self._answers.is_asked(source):
            return self._wait(request, source)
        answer: Any = self._rule(request)
        if isinstance(answer, Awaitable):
            return self._await(answer, source, self._answers.asking(source, request))
        return self._kept(source, answer)

    def _kept(self, source: Source, answer: Answer) -> Answer:
        checked_answer(self._rule, answer)
        action = answer.action if isinstance(answer, Verdict) else answer
        if action is not InspectAction.PEND:
            self._answers.keep(source, answer, self._ttl)
        return answer

    async def _await(self, coming: Awaitable[Answer], source: Source, asking: ExitStack) -> Answer:
        """Await an answer, for all who come from there meanwhile."""
        with asking:
            return self._kept(source, await coming)

    async def _wait(self, request: ConnectionRequest, source: Source) -> Answer:
        """Wait for the answer to another request, and ask if there is none."""
        await self._answers.wait_asked(source)
        answer: Any = self(request)
        waited: Answer = answer if is_answer(answer) else await answer
        return waited
