"""Penalties: sources that have misbehaved are turned away for a while, as sshd does it.

Source: sshd_config(5), ``PerSourcePenalties``.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, final

from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.addresses import Address
from trio_wsk._vocabulary.arguments import checked_count, checked_seconds
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.refused import Refused
from trio_wsk._vocabulary.verdict import AbortReason, CloseStyle, InspectAction, Verdict

from ._rule import checked_name
from ._sources import FORGOTTEN_AT_ONCE, MOST_SOURCES, Sources, check_when_full
from ._times import Times

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from ipaddress import IPv4Network, IPv6Network

    from trio_wsk._connection.connection import Connection
    from trio_wsk._inspection.request import ConnectionRequest
    from trio_wsk._vocabulary.records import Record
    from trio_wsk.observers import Observer

    from ._rule import Answer
    from ._sources import Networks, Source

__all__ = ["Penalties"]


@final
class Penalties:
    """A rule that turns away who has misbehaved, and the table of who has.

    Penalties are seconds. They add up, and pass with time: a source that has 30 has 20 ten seconds
    later. It is turned away as long as it has more than ``threshold``, and being turned away adds
    none. They are those of one Trio run: the next begins without any. A handler penalizes with one
    call, after a failed login, say::

        penalties = Penalties(threshold=15)


        async def handler(connection):
            if not await has_logged_in(connection):
                penalties.add(connection, 5, "login-failed")

    Give the same object to several servers, and they share it.

    Args:
      threshold: Seconds of penalty that are no reason yet.
      most_seconds: How many a source may have: the longest time for which it is turned away.
      ipv4_prefix: How many bits of an IPv4 address make the source.
      ipv6_prefix: How many of an IPv6 address do.
      exempt: Networks that get no penalties.
      most_sources: How many sources may have one at once.
      when_full: What becomes of a source that misbehaves when there is no room: ``"pass"``, it
        gets none; or ``"reject"``, all sources that have no entry are turned away until there is.
      reason: What is counted.
      close: How those are told that are turned away; see `Verdict`.
      name: What the rule is counted by.

    A Unix peer has no source, and gets no penalties.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """

    __slots__ = (
        "_added",
        "_heard_by",
        "_most_sources",
        "_refused",
        "_rejects_when_full",
        "_sources",
        "_times",
        "_until",
        "_verdict",
        "close_styles",
        "most_seconds",
        "name",
        "overflowed",
        "reason",
        "refuses",
        "threshold",
    )

    def __init__(
        self,
        *,
        threshold: float = 15.0,
        most_seconds: float = 600.0,
        ipv4_prefix: int = 32,
        ipv6_prefix: int = 64,
        exempt: Networks = (),
        most_sources: int = MOST_SOURCES,
        when_full: Literal["reject", "pass"] = "pass",
        reason: str = "penalized",
        close: CloseStyle | bytes = CloseStyle.RESET,
        name: str = "penalties",
    ) -> None:
        check_when_full(when_full)
        self.threshold: Final = checked_seconds("threshold", threshold)
        """Seconds of penalty that are no reason yet."""
        self.most_seconds: Final = checked_seconds("most_seconds", most_seconds)
        """How many seconds a source may have."""
        if most_seconds <= threshold:
            raise InvalidParameterError(
                f"most_seconds is more than threshold, not {most_seconds!r} and {threshold!r}: else"
                " nobody would ever be turned away"
            )
        self.name: Final = checked_name(name)
        """What the rule is counted by."""
        self.reason: Final = reason
        """What is counted of those that it turns away."""
        self.overflowed: int = 0
        """How often there was no room for one source more."""
        self._sources = Sources(ipv4_prefix, ipv6_prefix, exempt)
        self._most_sources = checked_count("most_sources", most_sources, least=1)
        self._rejects_when_full = when_full == "reject"
        self._until: OrderedDict[Source, float] = OrderedDict()
        self._times = Times(self._until.clear)
        self._added: Counter[str] = Counter()
        self._heard_by: Callable[[Source, float | None], object] | None = None
        self._verdict = Verdict(InspectAction.REJECT, reason, close)
        self.close_styles: Final = frozenset({self._verdict.style})
        """How it turns peers away."""
        self._refused = self._sources.refused(self._verdict.style, self._current)
        self.refuses: Final[tuple[Refused, ...]] = () if self._refused is None else (self._refused,)
        """Whom it turns away, for the kernel."""

    def __repr__(self) -> str:
        return f"<Penalties {self.name}: {len(self)} sources, refused from {self.threshold:g} s>"

    def __len__(self) -> int:
        """How many sources are remembered; the penalties of some may be over."""
        return len(self._until)

    @property
    def added(self) -> Mapping[str, int]:
        """How many penalties were added, by reason."""
        return MappingProxyType(dict(self._added))

    def add(
        self, who: Connection | ConnectionRequest | Address, seconds: float, reason: str
    ) -> None:
        """Penalize a source.

        Args:
          who: A connection, a request, or an address of the source.
          seconds: On Trio's clock, added to what it has.
          reason: A short slug, counted in `added`: yours, not the peer's.

        Raises:
          InvalidParameterError: an argument is wrong. (Yours.)
        """
        checked_seconds("seconds", seconds)
        if not reason:
            raise InvalidParameterError("reason is a short slug to count by: 'login-failed'")
        Verdict(InspectAction.REJECT, reason)  # which checks it
        source = self._sources.source_of(_address_of(who))
        if source is None:
            return
        self._added[reason] += 1
        if self._heard_by is not None:
            self._heard_by(source, seconds)
        now = self._times.now()
        known = self._until.get(source)
        if known is None and not self._has_room(now):
            self.overflowed += 1
            return
        until = min(max(known or -math.inf, now) + seconds, now + self.most_seconds)
        self._until[source] = until
        self._until.move_to_end(source)
        if until - now > self.threshold:
            self._tell_kernel(source, until)

    def remaining(self, who: Connection | ConnectionRequest | Address) -> float:
        """Return how many seconds of penalty a source has now.

        Raises:
          InvalidParameterError: it is none of these. (Yours.)
        """
        source = self._sources.source_of(_address_of(who))
        return 0.0 if source is None else self._remaining(source)

    def penalized(self) -> dict[IPv4Network | IPv6Network, float]:
        """Return how many seconds each source has now, of those that have any."""
        now = self._times.now()
        left = ((source, until - now) for source, until in self._until.items())
        return {self._sources.network_of(each): seconds for each, seconds in left if seconds > 0}

    def forgive(self, who: Connection | ConnectionRequest | Address) -> None:
        """Take all penalties from a source: a login has succeeded, say.

        Raises:
          InvalidParameterError: it is none of these. (Yours.)
        """
        source = self._sources.source_of(_address_of(who))
        if source is None:
            return
        if self._until.pop(source, None) is not None:
            self._tell_kernel(source, -math.inf)
        if self._heard_by is not None:
            self._heard_by(source, None)

    def observer(
        self,
        *,
        rejected: float = 1.0,
        timed_out: float = 5.0,
        handshake_failed: float = 5.0,
    ) -> Observer:
        """Make an observer that penalizes by itself what a listening socket or a server tells.

        Give it to one that inspects after the handshake: before it anybody can forge an address,
        and have it penalized.

        Args:
          rejected: Seconds for a request that was turned away, unless by this rule.
          timed_out: Seconds for one that had no verdict in time: whose octets did not come, say.
          handshake_failed: Seconds for a TLS handshake that failed, unless the peer has left.

        Raises:
          InvalidParameterError: an argument is wrong. (Yours.)
        """
        return _PenaltyObserver(
            self,
            rejected=checked_seconds("rejected", rejected),
            timed_out=checked_seconds("timed_out", timed_out),
            handshake_failed=checked_seconds("handshake_failed", handshake_failed),
        )

    def __call__(self, request: ConnectionRequest) -> Answer:
        """Look whether a request comes from a source that has too many."""
        if not self._until:
            return None
        source = self._sources.source_of(request.remote_address)
        if source is None:
            return None
        now = self._times.now()
        until = self._until.get(source)
        if until is None:
            is_full = self._rejects_when_full and not self._has_room(now)
            return self._verdict if is_full else None
        return self._verdict if until - now > self.threshold else None

    def _remaining(self, source: Source) -> float:
        now = self._times.now()
        return max(0.0, self._until.get(source, -math.inf) - now)

    def _learn(self, source: Source, seconds: float) -> None:
        """Take note of how many seconds of penalty a source has, as others know."""
        now = self._times.now()
        if not seconds:
            self._until.pop(source, None)
            self._tell_kernel(source, -math.inf)
        elif source in self._until or self._has_room(now):
            self._until[source] = now + seconds
            self._tell_kernel(source, now + seconds)

    def _current(self) -> Iterator[tuple[Source, float]]:
        """Return who is turned away, and until when."""
        now = self._times.now()
        for source, until in self._until.items():
            if until - now > self.threshold:
                yield source, until - self.threshold

    def _tell_kernel(self, source: Source, until: float) -> None:
        if self._refused is not None:
            self._refused.tell(source, until - self.threshold)

    def _has_room(self, now: float) -> bool:
        """Whether there is room for one source more; forget a few whose penalties are over."""
        for _ in range(min(FORGOTTEN_AT_ONCE, len(self._until))):
            source = next(iter(self._until))
            if self._until[source] > now:
                self._until.move_to_end(source)  # the next time another one is looked at
            else:
                del self._until[source]
        return len(self._until) < self._most_sources


@final
class _PenaltyObserver:
    """Penalizes sources for what is told of them; `Penalties.observer` makes it."""

    def __init__(
        self, penalties: Penalties, *, rejected: float, timed_out: float, handshake_failed: float
    ) -> None:
        self._penalties = penalties
        self._rejected = rejected
        self._timed_out = timed_out
        self._handshake_failed = handshake_failed
        self.records: Collection[type[Record]] = frozenset(
            {records.RequestRejected, records.RequestAborted, records.HandshakeFailed}
        )
        """What it wants to hear of."""

    def __call__(self, record: Record) -> None:
        """Penalize who it is about."""
        add = self._penalties.add
        if isinstance(record, records.RequestRejected):
            if record.reason != self._penalties.reason:  # being penalized adds none
                add(record.remote_address, self._rejected, "rejected")
        elif isinstance(record, records.RequestAborted):
            if record.reason is AbortReason.TIMED_OUT:
                add(record.remote_address, self._timed_out, "timed-out")
        elif isinstance(record, records.HandshakeFailed) and record.reason != "peer-left":
            add(record.remote_address, self._handshake_failed, "handshake-failed")


def _address_of(who: object) -> Address:
    address = who if isinstance(who, Address) else getattr(who, "remote_address", None)
    if not isinstance(address, Address):
        raise InvalidParameterError(f"who is a connection, a request or an Address, not {who!r}")
    return address
