"""Sets of IP addresses, given as networks.

A set keeps prefixes by their length, and asks each length once: a set of ten thousand networks
answers as fast as a set of ten.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NoReturn, final

from .addresses import IPV4_OCTETS, MAPPED, Address, tcp_parts

__all__ = ["AddressSet"]


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

    __slots__ = ("_ipv4", "_ipv6", "_networks")

    def __init__(
        self,
        networks: Iterable[str | IPv4Address | IPv6Address | IPv4Network | IPv6Network] = (),
    ) -> None:
        if isinstance(networks, (str, bytes)) or not isinstance(networks, Iterable):
            raise TypeError(f"networks come in a list: write AddressSet([{networks!r}])")
        given = [_parse_network(network) for network in networks]
        ipv4 = ipaddress.collapse_addresses(n for n in given if isinstance(n, IPv4Network))
        ipv6 = ipaddress.collapse_addresses(n for n in given if isinstance(n, IPv6Network))
        self._networks: tuple[IPv4Network | IPv6Network, ...] = (*ipv4, *ipv6)
        self._ipv4 = _prefixes(n for n in self._networks if isinstance(n, IPv4Network))
        self._ipv6 = _prefixes(n for n in self._networks if isinstance(n, IPv6Network))

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("AddressSet is final: its equality knows no subclasses")

    def __contains__(
        self,
        item: Address | IPv4Address | IPv6Address | IPv4Network | IPv6Network | str,
    ) -> bool:
        if isinstance(item, Address):
            return not item.is_unix and self._has(tcp_parts(item)[0])
        if isinstance(item, (IPv4Address, IPv6Address)):
            return self._has(item.packed)
        network = _parse_network(item)
        return self._has(network.network_address.packed, _host_bits(network))

    def _has(self, octets: bytes, host_bits: int = 0) -> bool:
        """Look for a network of at least that size around the address."""
        octets = octets.removeprefix(MAPPED)
        value = int.from_bytes(octets, "big")
        for shift, prefixes in self._ipv4 if len(octets) == IPV4_OCTETS else self._ipv6:
            if shift >= host_bits and value >> shift in prefixes:
                return True
        return False

    def __iter__(self) -> Iterator[IPv4Network | IPv6Network]:
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)

    def __or__(self, other: AddressSet) -> AddressSet:
        if not isinstance(other, AddressSet):
            return NotImplemented
        return AddressSet([*self, *other])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AddressSet):
            return NotImplemented
        return self._networks == other._networks

    def __hash__(self) -> int:
        return hash(self._networks)

    def __repr__(self) -> str:
        return f"AddressSet({[_print_network(network) for network in self._networks]})"

    def __reduce__(self) -> tuple[object, ...]:
        return AddressSet, ([str(network) for network in self._networks],)


def _parse_network(
    item: str | IPv4Address | IPv6Address | IPv4Network | IPv6Network,
) -> IPv4Network | IPv6Network:
    """Read a network, or a single address as one; without scope id, and unmapped."""
    if isinstance(item, str):
        network = _parse_network_text(item)
    elif isinstance(item, (IPv4Address, IPv6Address)):
        network = ipaddress.ip_network(item.packed)
    elif isinstance(item, (IPv4Network, IPv6Network)):
        network = item
    else:
        raise TypeError(f"{item!r} is no text, nor an address or network of ipaddress")
    octets, length = network.network_address.packed, network.prefixlen
    if octets.startswith(MAPPED):  # then its prefix is longer than the mark is
        return IPv4Network((octets[len(MAPPED) :], length - 8 * len(MAPPED)))
    return network if isinstance(network, IPv4Network) else IPv6Network((octets, length))


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


def _prefixes(
    networks: Iterable[IPv4Network | IPv6Network],
) -> tuple[tuple[int, frozenset[int]], ...]:
    """Sort prefixes by length: pairs of how many bits follow, and the prefixes."""
    by_length: dict[int, set[int]] = {}
    for network in networks:
        shift = _host_bits(network)
        by_length.setdefault(shift, set()).add(int(network.network_address) >> shift)
    return tuple((shift, frozenset(prefixes)) for shift, prefixes in sorted(by_length.items()))
