"""Hypothesis strategies that several tests share: a new kind of value gets its strategy here."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

from hypothesis import strategies as st

from trio_wsk._vocabulary.addresses import Address

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network

_LONGEST_UNIX_NAME = 107  # sun_path has 108 octets, and a path ends with a NUL (unix(7))


def mapped(host: IPv4Address) -> IPv6Address:
    """Write an IPv4 address as the IPv6 address that a socket for both families shows."""
    return IPv6Address(b"\0" * 10 + b"\xff\xff" + host.packed)


def network_around(host: IPAddress, length: int) -> IPNetwork:
    """Make the network with a prefix of that many bits that an address is in."""
    if isinstance(host, IPv4Address):
        return IPv4Network((host.packed, length), strict=False)
    return IPv6Network((host.packed, length), strict=False)


def ipv4_hosts() -> st.SearchStrategy[IPv4Address]:
    """IPv4 addresses, among them those with a meaning of their own."""
    return st.from_type(IPv4Address)


def ipv6_hosts() -> st.SearchStrategy[IPv6Address]:
    """IPv6 addresses, among them IPv4-mapped and link-local ones."""
    link_local = st.integers(0, 2**64 - 1).map(lambda low: IPv6Address(0xFE80 << 112 | low))
    return st.one_of(st.from_type(IPv6Address), ipv4_hosts().map(mapped), link_local)


def hosts() -> st.SearchStrategy[IPAddress]:
    """IP addresses of both families."""
    return st.one_of(ipv4_hosts(), ipv6_hosts())


def ports() -> st.SearchStrategy[int]:
    """TCP ports, 0 included."""
    return st.integers(0, 65535)


def scope_ids() -> st.SearchStrategy[int]:
    """Numbers of network interfaces; mostly 0, as in most addresses."""
    return st.just(0) | st.integers(0, 2**32 - 1)


def tcp_addresses() -> st.SearchStrategy[Address]:
    """Addresses of TCP sockets."""
    return st.one_of(
        st.builds(Address.tcp, ipv4_hosts(), ports()),
        st.builds(Address.tcp, ipv6_hosts(), ports(), scope_ids()),
    )


def unix_paths() -> st.SearchStrategy[bytes]:
    """Paths that a Unix socket can be bound to, most of them odd; none is empty."""
    octets = st.binary(min_size=1)
    text = st.text(min_size=1).map(lambda text: text.encode("utf-8", "replace"))
    troublesome = st.text(r"@\x0/: []%é" + "\n\x7f\u202e\u0301", min_size=1).map(str.encode)
    names = st.one_of(octets, text, troublesome)
    return names.map(lambda name: name.replace(b"\0", b"/")[:_LONGEST_UNIX_NAME])


def abstract_names() -> st.SearchStrategy[bytes]:
    """Names in Linux's abstract namespace, with the NUL that they begin with."""
    names = st.one_of(unix_paths(), st.binary(max_size=_LONGEST_UNIX_NAME))
    return names.map(lambda name: b"\0" + name)


def unix_addresses() -> st.SearchStrategy[Address]:
    """Addresses of Unix sockets: paths, abstract names, and none at all."""
    return st.one_of(st.just(b""), unix_paths(), abstract_names()).map(Address.unix)


def addresses() -> st.SearchStrategy[Address]:
    """Addresses of every kind."""
    return st.one_of(tcp_addresses(), unix_addresses())


def networks() -> st.SearchStrategy[IPNetwork]:
    """Networks of both families and every size, IPv4-mapped ones among them."""
    ipv4 = st.builds(network_around, ipv4_hosts(), st.integers(0, 32))
    ipv6 = st.builds(network_around, ipv6_hosts(), st.integers(0, 128))
    return st.one_of(ipv4, ipv6)


def hosts_near(network: IPNetwork) -> st.SearchStrategy[IPAddress]:
    """Addresses inside a network, at its edges and just beyond."""
    first, last = int(network.network_address), int(network.broadcast_address)
    highest = 2**network.max_prefixlen - 1
    edges = [first, last, max(first - 1, 0), min(last + 1, highest)]
    return (st.sampled_from(edges) | st.integers(first, last)).map(type(network.network_address))
