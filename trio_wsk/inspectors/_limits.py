"""Limits on how many connections are open at once: in all, and by source.

A place is taken when the rule has no objection, and given back when the request or its connection
has ended (`ConnectionRequest.at_end`). So what waits for its verdict counts, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, final

from trio_wsk._inspection import control
from trio_wsk._vocabulary.arguments import checked_count
from trio_wsk._vocabulary.verdict import CloseStyle, InspectAction, Verdict

from ._rule import checked_name
from ._sources import MOST_SOURCES, Sources, check_when_full

if TYPE_CHECKING:
    from trio_wsk._inspection.request import ConnectionRequest
    from trio_wsk._vocabulary.addresses import Address

    from ._rule import Answer
    from ._sources import Networks, Source

__all__ = ["ConnectionLimit", "SourceLimit"]


@final
class ConnectionLimit:
    """A rule that turns away who comes when so many are open.

    A server's ``max_connections`` has newcomers wait in the kernel's queue; this one tells them.
    Where several listening sockets are given one limit they share it.

    Args:
      most: How many may be open at once.
      reason: What is counted.
      close: How those are told that are too many; see `Verdict`.
      name: What the rule is counted by.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """

    __slots__ = ("_verdict", "close_styles", "most", "name", "open", "open_most")

    counts_each: Final = True
    """Each request takes a place."""

    def __init__(
        self,
        most: int,
        *,
        reason: str = "too-many-connections",
        close: CloseStyle | bytes = CloseStyle.RESET,
        name: str = "connection-limit",
    ) -> None:
        self.most: Final = checked_count("most", most, least=0)
        """How many may be open."""
        self.open: int = 0
        """How many are."""
        self.open_most: int = 0
        """How many were, at most."""
        self.name: Final = checked_name(name)
        """What the rule is counted by."""
        self._verdict = Verdict(InspectAction.REJECT, reason, close)
        self.close_styles: Final = frozenset({self._verdict.style})
        """How it turns peers away."""

    def __repr__(self) -> str:
        return f"<ConnectionLimit {self.name}: {self.open} of {self.most} open>"

    def __call__(self, request: ConnectionRequest) -> Answer:
        """Take a place for a request."""
        if self.open >= self.most:
            return self._verdict
        self._take()
        control.give_back(request, self._give_back)
        return None

    def _take(self) -> None:
        self.open += 1
        if self.open > self.open_most:  # noqa: PLR1730 - max() costs more, each time
            self.open_most = self.open

    def _give_back(self) -> None:
        self.open -= 1


@final
class SourceLimit:
    """A rule that turns away who comes from where so many have come from that are still here.

    Args:
      most: How many may be open at once from one source.
      ipv4_prefix: How many bits of an IPv4 address make the source.
      ipv6_prefix: How many of an IPv6 address do: 64 for a network that one host chooses its
        addresses from.
      exempt: Networks that are not counted: your own monitors, or a balancer in front.
      most_sources: How many sources there may be at once.
      when_full: What becomes of a source that would be one more: ``"reject"``, or ``"pass"``,
        uncounted.
      reason: What is counted.
      close: How those are told that are too many; see `Verdict`.
      name: What the rule is counted by.

    A Unix peer has no source, and is not counted. Where a `ProxyProtocol` that is asked later finds
    another source, the place is that one's from then on, even if it is one too many.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """

    __slots__ = (
        "_most_sources",
        "_open",
        "_passes_when_full",
        "_sources",
        "_verdict",
        "close_styles",
        "most",
        "name",
        "overflowed",
    )

    counts_each: Final = True
    """Each request takes a place."""

    def __init__(
        self,
        most: int,
        *,
        ipv4_prefix: int = 32,
        ipv6_prefix: int = 64,
        exempt: Networks = (),
        most_sources: int = MOST_SOURCES,
        when_full: Literal["reject", "pass"] = "reject",
        reason: str = "too-many-from-source",
        close: CloseStyle | bytes = CloseStyle.RESET,
        name: str = "source-limit",
    ) -> None:
        check_when_full(when_full)
        self.most: Final = checked_count("most", most, least=0)
        """How many may be open from one source."""
        self.overflowed: int = 0
        """How often there was no room for one source more."""
        self.name: Final = checked_name(name)
        """What the rule is counted by."""
        self._most_sources = checked_count("most_sources", most_sources, least=1)
        self._passes_when_full = when_full == "pass"
        self._sources = Sources(ipv4_prefix, ipv6_prefix, exempt)
        self._open: dict[Source, int] = {}
        self._verdict = Verdict(InspectAction.REJECT, reason, close)
        self.close_styles: Final = frozenset({self._verdict.style})
        """How it turns peers away."""

    def __repr__(self) -> str:
        return f"<SourceLimit {self.name}: {self.most} for each of {len(self)} sources>"

    def __len__(self) -> int:
        """How many sources have something open."""
        return len(self._open)

    def open_from(self, address: Address) -> int:
        """Return how many are open from the source that an address is of."""
        source = self._sources.source_of(address)
        return 0 if source is None else self._open.get(source, 0)

    def __call__(self, request: ConnectionRequest) -> Answer:
        """Take a place for a request."""
        source = self._sources.source_of(request.remote_address)
        if source is None:
            return None
        if self._open.get(source, 0) >= self.most:
            return self._verdict
        if self._take(source):
            control.give_back(request, _Place(self, source))
            return None
        return None if self._passes_when_full else self._verdict

    def _take(self, source: Source) -> bool:
        """Take a place, even if it is one too many; False if there is no room for the source."""
        count = self._open.get(source, 0)
        if not count and len(self._open) >= self._most_sources:
            self.overflowed += 1
            return False
        self._open[source] = count + 1
        return True

    def _move(self, source: Source, address: Address) -> Source | None:
        """Have a place be of the source of this address; return that, None if it isn't counted."""
        other = self._sources.source_of(address)
        self._give_back(source)
        return other if other is not None and self._take(other) else None

    def _give_back(self, source: Source) -> None:
        count = self._open[source]
        if count == 1:
            del self._open[source]
        else:
            self._open[source] = count - 1


@final
class _Place:
    """A place that was taken for a source, and moves when it turns out for whom it is."""

    __slots__ = ("_limit", "_source")

    def __init__(self, limit: SourceLimit, source: Source) -> None:
        self._limit = limit
        self._source: Source | None = source

    def move(self, address: Address) -> None:
        """See `Movable`."""
        if self._source is not None:
            self._source = self._limit._move(self._source, address)

    def __call__(self) -> None:
        """Give it back."""
        if self._source is not None:
            self._limit._give_back(self._source)
