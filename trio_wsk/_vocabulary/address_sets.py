"""Sets of IP addresses, given as networks.

A set keeps prefixes by their length, and asks each length once: a set of ten thousand networks
answers as fast as a set of ten. Inside, a network is a pair of numbers: its first address, and how
many bits follow its prefix; the objects of `ipaddress` take ten times as long to make.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, NoReturn, TypeAlias, final

from .addresses import IPV4_OCTETS, MAPPED, Address, ip_octets

__all__ = ["AddressSet", "ranges_of"]

Prefix: TypeAlias = "tuple[int, int]"
"""The first address of a network, as a number, and how many bits follow its prefix."""


@final
class AddressSet:
    """A set of IP addresses, given as networks; asking it costs the same however many.

    ::

        allowed = AddressSet(["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"])
        if request.remote_address not in allowed:
            return InspectAction.REJECT

    An IPv4-mapped IPv6 address counts as the IPv4 address that it stands for, on either
    side; so ``::/0`` is all of IPv6, and nothing of IPv4 however it arrived. Scope ids are
    ignored. A Unix address is in no set. A network is in the set when all of it is.

    Immutable and hashable. Iterating yields the fewest networks that say it, IPv4 first, then
    by address; sets are equal that yield the same ones, however they were made.

    Args:
      networks: ``"10.0.0.0/8"``, ``"192.0.2.1"`` for a single address, or `ipaddress` objects.

    Raises:
      ValueError: One of them is no network, or has bits set beyond its prefix; the
        message shows what was meant. (Yours.)
    """

    __slots__ = ("_by_length", "_ipv4", "_ipv6")

    def __init__(
        self,
        networks: Iterable[str | IPv4Address | IPv6Address | IPv4Network | IPv6Network] = (),
    ) -> None:
        if isinstance(networks, (str, bytes)) or not isinstance(networks, Iterable):
            raise TypeError(f"networks come in a list: write AddressSet([{networks!r}])")
        ipv4: set[Prefix] = set()
        ipv6: set[Prefix] = set()
        for network in networks:
            octets, host_bits = _read_network(network)
            given = ipv4 if len(octets) == IPV4_OCTETS else ipv6
            given.add((int.from_bytes(octets, "big"), host_bits))
        # The fewest that say it, in order, so that equal sets look the same.
        self._ipv4: Final = _collapsed(ipv4)
        self._ipv6: Final = _collapsed(ipv6)
        self._by_length: Final = (_by_length(self._ipv4), _by_length(self._ipv6))

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("AddressSet is final: its equality knows no subclasses")

    def __contains__(
        self,
        item: Address | IPv4Address | IPv6Address | IPv4Network | IPv6Network | str,
    ) -> bool:
        if isinstance(item, Address):
            octets = ip_octets(item)
            return octets is not None and self._has(octets)
        return self._has(*_read_network(item))

    def _has(self, octets: bytes, host_bits: int = 0) -> bool:
        """Look for a network of at least that size around the address."""
        value = int.from_bytes(octets, "big")
        for shift, prefixes in self._by_length[len(octets) != IPV4_OCTETS]:
            if shift >= host_bits and value >> shift in prefixes:
                return True
        return False

    def __iter__(self) -> Iterator[IPv4Network | IPv6Network]:
        for value, host_bits in self._ipv4:
            yield IPv4Network((value, 32 - host_bits))
        for value, host_bits in self._ipv6:
            yield IPv6Network((value, 128 - host_bits))

    def __len__(self) -> int:
        return len(self._ipv4) + len(self._ipv6)

    def __or__(self, other: AddressSet) -> AddressSet:
        if not isinstance(other, AddressSet):
            return NotImplemented
        return AddressSet([*self, *other])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AddressSet):
            return NotImplemented
        return (self._ipv4, self._ipv6) == (other._ipv4, other._ipv6)

    def __hash__(self) -> int:
        return hash((self._ipv4, self._ipv6))

    def __repr__(self) -> str:
        return f"AddressSet({[_print_network(network) for network in self]})"

    def __reduce__(self) -> tuple[object, ...]:
        return AddressSet, ([str(network) for network in self],)


def ranges_of(networks: AddressSet, octets: int) -> Iterator[tuple[int, int]]:
    """Return the fewest ranges of addresses that say the same, in order, as numbers.

    Args:
      networks: The set.
      octets: Of an address: 4 for those of IPv4, 16 for the others.

    Returns:
      The first address of each, and the first one after it.
    """
    prefixes = networks._ipv4 if octets == IPV4_OCTETS else networks._ipv6
    start = end = -1
    for value, host_bits in prefixes:
        if value != end:
            if end > start:
                yield start, end
            start = value
        end = value + (1 << host_bits)
    if end > start:
        yield start, end


def _read_network(
    item: str | IPv4Address | IPv6Address | IPv4Network | IPv6Network,
) -> tuple[bytes, int]:
    """Read a network, or a single address as one; without scope id, and unmapped.

    Returns:
      The octets of its first address, and how many bits follow its prefix.
    """
    if isinstance(item, str):
        octets, host_bits = _read_plain(item) or _octets_of(_parse_network_text(item))
    elif isinstance(item, (IPv4Address, IPv6Address)):
        octets, host_bits = item.packed, 0
    elif isinstance(item, (IPv4Network, IPv6Network)):
        octets, host_bits = _octets_of(item)
    else:
        raise TypeError(f"{item!r} is no text, nor an address or network of ipaddress")
    # If it is IPv4's, its prefix is longer than the mark is.
    return octets.removeprefix(MAPPED), host_bits


def _read_plain(text: str) -> tuple[bytes, int] | None:
    """Read a network as nearly all are written; None if it has to be looked at more closely."""
    host, _, length = text.partition("/")
    try:
        octets = (IPv6Address if ":" in host else IPv4Address)(host).packed
    except ValueError:
        return None
    bits = 8 * len(octets)
    if not length:
        return None if text.endswith("/") else (octets, 0)
    if not (length.isascii() and length.isdigit()) or int(length) > bits:
        return None
    host_bits = bits - int(length)
    has_more = int.from_bytes(octets, "big") & ((1 << host_bits) - 1)
    return None if has_more else (octets, host_bits)


def _octets_of(network: IPv4Network | IPv6Network) -> tuple[bytes, int]:
    return network.network_address.packed, _host_bits(network)


def _parse_network_text(text: str) -> IPv4Network | IPv6Network:
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        examples = "'10.0.0.0/8', '2001:db8::/32' or '192.0.2.1'"
        raise ValueError(f"{text!r} is no network; write one like {examples}") from None
    network = interface.network
    if interface.packed != network.network_address.packed:
        raise ValueError(
            f"{text!r} has bits set beyond its prefix: write {str(network)!r}, "
            f"or {str(interface.ip)!r} for the one address",
        )
    return network


def _print_network(network: IPv4Network | IPv6Network) -> str:
    return str(network if _host_bits(network) else network.network_address)


def _host_bits(network: IPv4Network | IPv6Network) -> int:
    return network.max_prefixlen - network.prefixlen


def _collapsed(prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """Return the fewest prefixes that say the same, in order."""
    fewest: list[Prefix] = []
    for value, host_bits in sorted(prefixes, key=_wider_first):
        if fewest and value >> fewest[-1][1] == fewest[-1][0] >> fewest[-1][1]:
            continue  # all of it is in that one
        fewest.append((value, host_bits))
        while len(fewest) > 1:
            (first, bits), (second, other_bits) = fewest[-2:]
            if bits != other_bits or (first ^ second) >> bits != 1:
                break  # they are no halves of one
            fewest[-2:] = [(first, bits + 1)]
    return tuple(fewest)


def _wider_first(prefix: Prefix) -> tuple[int, int]:
    value, host_bits = prefix
    return value, -host_bits


def _by_length(prefixes: Iterable[Prefix]) -> tuple[tuple[int, frozenset[int]], ...]:
    """Sort prefixes by length: pairs of how many bits follow, and the prefixes."""
    by_length: dict[int, set[int]] = {}
    for value, host_bits in prefixes:
        by_length.setdefault(host_bits, set()).add(value >> host_bits)
    return tuple((bits, frozenset(found)) for bits, found in sorted(by_length.items()))
