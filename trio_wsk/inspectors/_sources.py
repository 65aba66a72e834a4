"""Sources: who counts as one, by the network that an address is in."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

from trio_wsk._vocabulary.address_sets import AddressSet
from trio_wsk._vocabulary.addresses import IPV4_OCTETS, Address, ip_octets
from trio_wsk._vocabulary.arguments import whole_number
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.refused import NetworkList, RefusedSources, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_wsk._vocabulary.verdict import CloseStyle

__all__ = [
    "FORGOTTEN_AT_ONCE",
    "MOST_SOURCES",
    "HasAddresses",
    "Networks",
    "Source",
    "Sources",
    "check_networks",
    "check_when_full",
    "listed",
]

MOST_SOURCES: Final = 65536
"""How many sources are kept at once, as in OpenSSH (``PerSourcePenalties max-sources``): a few
megabytes, and so many can't be forged in the time that a rate is about without being noticed."""


class HasAddresses(Protocol):
    """What can say whether an address is in it."""

    def __contains__(self, address: Address, /) -> bool:
        """Whether it is."""


Networks: TypeAlias = (
    Collection[str | IPv4Address | IPv6Address | IPv4Network | IPv6Network] | HasAddresses
)
"""Networks as `AddressSet` takes them, such as ``["10.0.0.0/8", "192.0.2.1"]``; or whatever can say
whether an `Address` is in it: an `AddressSet`, a `NetworksFile`."""

FORGOTTEN_AT_ONCE: Final = 2
"""How many sources of which nothing has to be known any more are forgotten for each that comes: so
there are never many of them, and no request pays for more."""


def check_networks(name: str, networks: Networks) -> HasAddresses:
    """Return what says which addresses are meant: a set, or a file of networks.

    Raises:
      InvalidParameterError: it is none, and no list of networks. (The caller's.)
    """
    if isinstance(networks, (str, bytes)) or not hasattr(networks, "__contains__"):
        raise InvalidParameterError(
            f"{name} takes networks, such as ['10.0.0.0/8'], an AddressSet or a NetworksFile, not"
            f" {networks!r}"
        )
    if isinstance(networks, (list, tuple, set, frozenset)):
        try:
            return AddressSet(networks)
        except (TypeError, ValueError) as error:
            raise InvalidParameterError(f"{name}: {error}") from None
    return networks


def listed(networks: HasAddresses) -> NetworkList | None:
    """Return the list of these networks; None of what can only say who is in it."""
    if isinstance(networks, AddressSet):
        return NetworkList(networks)
    known = getattr(networks, "listed", None)
    return known if isinstance(known, NetworkList) else None


def check_when_full(when_full: object) -> None:
    """Refuse what does not say what becomes of a source for which a table has no room.

    Raises:
      InvalidParameterError: it is neither. (The caller's.)
    """
    if when_full not in ("reject", "pass"):
        raise InvalidParameterError(f"when_full is 'reject' or 'pass', not {when_full!r}")


@final
class Sources:
    """Says which source an address is of.

    Args:
      ipv4_prefix: How many bits of an IPv4 address count.
      ipv6_prefix: How many of an IPv6 address; one customer has a /64, or more.
      exempt: Networks that are none.

    Raises:
      InvalidParameterError: one of them can't be. (The caller's.)
    """

    def __init__(self, ipv4_prefix: int, ipv6_prefix: int, exempt: Networks) -> None:
        self._ipv4_rest = 32 - _checked_prefix("ipv4_prefix", ipv4_prefix, 32)
        self._ipv6_rest = 128 - _checked_prefix("ipv6_prefix", ipv6_prefix, 128)
        self._exempt = check_networks("exempt", exempt) if exempt != () else None

    def refused(
        self, close: CloseStyle, current: Callable[[], Iterable[tuple[Source, float]]]
    ) -> RefusedSources | None:
        """Say that some sources are refused; None if it can't be listed who is exempt."""
        exempt = listed(self._exempt if self._exempt is not None else AddressSet())
        if exempt is None:
            return None
        return RefusedSources(
            close=close,
            prefixes={4: 32 - self._ipv4_rest, 16: 128 - self._ipv6_rest},
            exempt=exempt,
            current=current,
        )

    def source_of(self, address: Address) -> Source | None:
        """Return the source; None for a Unix peer, and for who is exempt."""
        if not isinstance(address, Address):
            raise InvalidParameterError(f"{address!r} is no Address")
        octets = ip_octets(address)
        if octets is None or (self._exempt is not None and address in self._exempt):
            return None
        length = len(octets)
        rest = self._ipv4_rest if length == IPV4_OCTETS else self._ipv6_rest
        return length, int.from_bytes(octets, "big") >> rest

    def network_of(self, source: Source) -> IPv4Network | IPv6Network:
        """Return the network that a source is."""
        length, bits = source
        if length == IPV4_OCTETS:
            return IPv4Network((bits << self._ipv4_rest, 32 - self._ipv4_rest))
        return IPv6Network((bits << self._ipv6_rest, 128 - self._ipv6_rest))


def _checked_prefix(name: str, prefix: object, most: int) -> int:
    if not whole_number(prefix) or not 0 <= prefix <= most:
        raise InvalidParameterError(f"{name} is a number of bits, 0 to {most}, not {prefix!r}")
    return prefix
