"""Lists of addresses in DNS: who is on one is turned away, or let in all the same.

Source: RFC 5782.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, final

import attrs
import trio

from trio_wsk._vocabulary.addresses import Address
from trio_wsk._vocabulary.arguments import (
    checked_count,
    checked_seconds,
    is_time,
    whole_number,
)
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.verdict import CloseStyle, InspectAction, Verdict

from ._kept import Kept
from ._rule import checked_name, is_answer
from ._sources import MOST_SOURCES, check_networks

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from contextlib import ExitStack

    from trio_wsk._inspection.request import ConnectionRequest

    from ._dns_client import DnsAnswer, DnsClient
    from ._rule import Answer
    from ._sources import HasAddresses, Networks

    Host = IPv4Address | IPv6Address

__all__ = ["DnsListing", "DnsLists", "DnsZone"]

LISTED: Final = IPv4Network("127.0.0.0/8")
"""What a list answers with. A zone that has been given up may answer anything (RFC 5782, 3.4)."""

REFUSALS: Final = IPv4Network("127.255.255.0/24")
"""What Spamhaus and others answer whom they don't want to answer."""

LEAST_SECONDS: Final = 1.0
"""So long everything is kept: those who have waited for it have it, too, whatever its TTL is."""

FAILED_SECONDS: Final = 30.0
"""The longest that a failure is kept: a second at least, five minutes at most (RFC 9520, 3.2)."""

LONGEST_ZONE: Final = 189
"""So that a name has 253 characters with the 64 of an IPv6 address before it."""

_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_ZONE: Final = re.compile(rf"{_LABEL}(\.{_LABEL})+", re.IGNORECASE | re.ASCII)
_HIGHEST_PORT: Final = 0xFFFF


def _is_zone(name: object) -> bool:
    return isinstance(name, str) and len(name) <= LONGEST_ZONE and bool(_ZONE.fullmatch(name))


def _is_weight(weight: object) -> bool:
    if not isinstance(weight, (int, float)) or isinstance(weight, bool):
        return False
    return weight != 0 and math.isfinite(weight)


def _checked_zone(name: str) -> str:
    if not _is_zone(name):
        raise InvalidParameterError(
            f"a list is named by its zone, such as 'dnsbl.example.org', not {name!r}"
        )
    return name.lower()


def _checked_weight(weight: float) -> float:
    if not _is_weight(weight):
        raise InvalidParameterError(
            "weight is a number, more than 0 for a deny list and less than 0 for an allow list,"
            f" not {weight!r}"
        )
    return weight


def _checked_answers(answers: Networks) -> HasAddresses:
    return check_networks("answers", answers)


@attrs.frozen
class DnsZone:
    """A list in DNS, and how much it counts.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """

    name: str = attrs.field(converter=_checked_zone)
    """The zone under which the list stands, such as ``"dnsbl.example.org"``."""
    weight: float = attrs.field(default=1.0, converter=_checked_weight)
    """What is added to the score of who is listed: less than 0 for an allow list."""
    answers: HasAddresses = attrs.field(
        default=("127.0.0.0/8",), converter=_checked_answers, kw_only=True
    )
    """Which answers count, where a list says by its answer why, such as ``["127.0.0.2/31"]``.

    Others than 127.0.0.0/8 never do.
    """


@attrs.frozen
class DnsListing:
    """What lists in DNS say of a peer: a fact."""

    listed: Mapping[str, tuple[IPv4Address, ...]]
    """The zones that it is listed in, and the answers that count of each."""
    failed: tuple[str, ...]
    """The zones that had no answer in time, or refused one."""
    score: float
    """The sum of the weights of those that it is listed in."""


@final
class DnsLists:
    """A rule that turns away whom lists in DNS warn of: "DNSBL", "RBL".

    All lists are asked at once. The weights of those that the peer is listed in are added up, and
    it is turned away when the sum is ``threshold`` or more; an allow list has a weight below 0::

        DnsLists("zen.example.org", DnsZone("allowed.example.org", -5))

    What they say is in ``request.facts`` then, as a `DnsListing`. It is kept as long as each of
    them allows, one second at least, and 30 seconds at most when one has failed. Many requests of
    one address are one look-up. If the request that it is made for ends meanwhile, it is
    cancelled, and the next one asks.

    Nobody is asked about Unix peers and about addresses that are not global, such as 10.0.0.1 and
    ::1: there is no objection to them.

    A list fails by not answering in time, by an error such as SERVFAIL, or by answering
    127.255.255.x, which says that it does not answer you. Other answers outside of 127.0.0.0/8 are
    no listing. The reasons are ``dns-listed``, and ``dns-failed`` for who is turned away since
    lists have failed.

    It needs dnspython, which ``pip install 'trio-wsk[dns]'`` brings.

    Args:
      lists: Zones by name, with a weight of 1, or each as a `DnsZone`. Whoever keeps a list says
        who may ask it, and how often.
      threshold: The least score that is too much, more than 0.
      when_failed: How lists count that have failed: ``"pass"``, in the peer's favour, so that it is
        let on when one of them might have made the difference; ``"reject"``, against it.
      timeout: Seconds on Trio's clock for all lists together: less than ``inspect_timeout=``.
      nameservers: The IP addresses of whom to ask, of a resolver of your own, say; without it,
        those of ``/etc/resolv.conf``, which is read when this is made.
      port: The port of ``nameservers``.
      most: For how many addresses the answers are kept; beyond that, the oldest goes.
      reason: What is counted of those that are listed.
      close: How they are told; see `Verdict`.
      name: What the rule is counted by.

    Raises:
      InvalidParameterError: an argument is wrong, or the machine names no resolver. (Yours.)
      ImportError: there is no dnspython. (The installation's.)

    Source: RFC 5782, and RFC 2308 for how long it is kept that somebody is not listed.
    """

    __slots__ = (
        "_client",
        "_failed",
        "_failed_verdict",
        "_kept",
        "_passes_when_failed",
        "_timeout",
        "_verdict",
        "close_styles",
        "lists",
        "name",
        "threshold",
    )

    def __init__(
        self,
        *lists: str | DnsZone,
        threshold: float = 1.0,
        when_failed: Literal["reject", "pass"] = "pass",
        timeout: float = 3.0,
        nameservers: Sequence[str] = (),
        port: int = 53,
        most: int = MOST_SOURCES,
        reason: str = "dns-listed",
        close: CloseStyle | bytes = CloseStyle.RESET,
        name: str = "dns-lists",
    ) -> None:
        self.lists: Final = _checked_lists(lists)
        """The lists that are asked."""
        self.threshold: Final = _checked_threshold(threshold)
        """The least score that is too much."""
        self.name: Final = checked_name(name)
        """What the rule is counted by."""
        if when_failed not in ("reject", "pass"):
            raise InvalidParameterError(f"when_failed is 'reject' or 'pass', not {when_failed!r}")
        self._passes_when_failed = when_failed == "pass"
        self._timeout = checked_seconds("timeout", timeout)
        self._kept: Kept[Host, DnsListing] = Kept(checked_count("most", most, least=1))
        self._failed: Counter[str] = Counter()
        self._verdict = Verdict(InspectAction.REJECT, reason, close)
        self._failed_verdict = Verdict(InspectAction.REJECT, "dns-failed", close)
        self.close_styles: Final = frozenset({self._verdict.style})
        """How it turns peers away."""
        self._client = _client(_checked_nameservers(nameservers), _checked_port(port), timeout)

    def __repr__(self) -> str:
        return f"DnsLists({', '.join(each.name for each in self.lists)})"

    def __len__(self) -> int:
        """For how many addresses answers are kept; the time of some may be over."""
        return len(self._kept)

    @property
    def failed(self) -> Mapping[str, int]:
        """How often each list has failed, by zone."""
        return MappingProxyType(dict(self._failed))

    def __call__(self, request: ConnectionRequest) -> Answer | Awaitable[Answer]:
        """Ask about a request; what this returns is to be awaited where a list has to be asked."""
        host = request.remote_address.host
        if host is None or not host.is_global:
            return None
        known = self._kept.known(host)
        if known is not None:
            return self._answer(request, known[1])
        if self._kept.is_asked(host):
            return self._wait(request, host)
        return self._ask(request, host, self._kept.asking(host, request))

    async def _ask(self, request: ConnectionRequest, host: Host, asking: ExitStack) -> Answer:
        """Ask all lists, for all who come from there meanwhile."""
        with asking:
            answers = await self._look_up(host)
            listing = _listing(self.lists, answers)
            self._failed.update(listing.failed)
            self._kept.keep(host, listing, _seconds(listing, answers))
        return self._answer(request, listing)

    async def _wait(self, request: ConnectionRequest, host: Host) -> Answer:
        """Wait for what is asked for another request, and ask if nothing came of it."""
        await self._kept.wait_asked(host)
        answer: Any = self(request)
        waited: Answer = answer if is_answer(answer) else await answer
        return waited

    async def _look_up(self, host: Host) -> Mapping[str, DnsAnswer]:
        """Ask all lists at once; return what those say that answer in time, by zone."""
        answers: dict[str, DnsAnswer] = {}

        async def _ask_one(zone: str) -> None:
            answer = await self._client.ask(_question(host, zone))
            if answer is not None:
                answers[zone] = answer

        with trio.move_on_after(self._timeout):
            async with trio.open_nursery() as nursery:
                for each in self.lists:
                    nursery.start_soon(_ask_one, each.name)
        return answers

    def _answer(self, request: ConnectionRequest, listing: DnsListing) -> Answer:
        request.facts.add(listing)
        at_least, at_most = _range(self.lists, listing)
        if at_least >= self.threshold:
            return self._verdict
        if self._passes_when_failed or at_most < self.threshold:
            return None
        return self._failed_verdict


def _question(host: Host, zone: str) -> str:
    """Return the name under which a list has an address: RFC 5782, sections 2.1 and 2.4."""
    octets_or_nibbles, _, _ = host.reverse_pointer.rpartition(
        ".in-addr.arpa" if isinstance(host, IPv4Address) else ".ip6.arpa"
    )
    return f"{octets_or_nibbles}.{zone}."


def _listing(lists: Sequence[DnsZone], answers: Mapping[str, DnsAnswer]) -> DnsListing:
    """Say what the answers mean."""
    listed: dict[str, tuple[IPv4Address, ...]] = {}
    failed: list[str] = []
    score = 0.0
    for each in lists:
        answer = answers.get(each.name)
        if answer is None or any(address in REFUSALS for address in answer.addresses):
            failed.append(each.name)
            continue
        counting = tuple(address for address in answer.addresses if _counts(each, address))
        if counting:
            listed[each.name] = counting
            score += each.weight
    return DnsListing(MappingProxyType(listed), tuple(failed), score)


def _counts(zone: DnsZone, address: IPv4Address) -> bool:
    return address in LISTED and Address.tcp(address, 0) in zone.answers


def _range(lists: Sequence[DnsZone], listing: DnsListing) -> tuple[float, float]:
    """Return the least and the highest score that it may have, had all lists answered."""
    unknown = [each.weight for each in lists if each.name in listing.failed]
    return (
        listing.score + sum(weight for weight in unknown if weight < 0),
        listing.score + sum(weight for weight in unknown if weight > 0),
    )


def _seconds(listing: DnsListing, answers: Mapping[str, DnsAnswer]) -> float:
    """Return for how long it is kept."""
    allowed = [answer.ttl for answer in answers.values()]
    if listing.failed:
        allowed.append(FAILED_SECONDS)
    return max(LEAST_SECONDS, min(allowed))


def _client(nameservers: Sequence[str], port: int, timeout: float) -> DnsClient:
    from ._dns_client import DnsClient  # noqa: PLC0415 - only who has lists needs dnspython

    return DnsClient(nameservers, port, timeout)


def _checked_lists(lists: tuple[str | DnsZone, ...]) -> tuple[DnsZone, ...]:
    zones = tuple(each if isinstance(each, DnsZone) else DnsZone(each) for each in lists)
    if not zones or len({each.name for each in zones}) < len(zones):
        raise InvalidParameterError(
            "DnsLists takes one list or more, each once, such as DnsLists('dnsbl.example.org'),"
            f" not {lists!r}"
        )
    return zones


def _checked_threshold(threshold: float) -> float:
    if not is_time(threshold) or not 0 < threshold < math.inf:
        raise InvalidParameterError(f"threshold is a number, more than 0, not {threshold!r}")
    return threshold


def _checked_nameservers(nameservers: Sequence[str]) -> Sequence[str]:
    if isinstance(nameservers, (list, tuple)) and all(map(_is_ip, nameservers)):
        return nameservers
    raise InvalidParameterError(
        f"nameservers is a list of IP addresses, such as ['127.0.0.1'], not {nameservers!r}"
    )


def _is_ip(text: object) -> bool:
    try:
        ip_address(text)  # type: ignore[arg-type]  # what it can't be, it says
    except ValueError:
        return False
    return isinstance(text, str)


def _checked_port(port: int) -> int:
    if not whole_number(port) or not 0 < port <= _HIGHEST_PORT:
        raise InvalidParameterError(f"port is a number, 1 to {_HIGHEST_PORT}, not {port!r}")
    return port
