"""PROXY protocol headers, written octet by octet from the specification, and nothing of ours."""

from __future__ import annotations

import socket
import struct
from typing import Final

import attrs
from hypothesis import strategies as st

from tests.helpers import strategies
from trio_wsk import Address

SIGNATURE: Final = bytes.fromhex("0D0A0D0A000D0A515549540A")
LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, UDP4, TCP6, UDP6, UNIX_STREAM, UNIX_DATAGRAM = 0, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32
ADDRESS_OCTETS: Final = {
    UNSPEC: 0,
    TCP4: 12,
    UDP4: 12,
    TCP6: 36,
    UDP6: 36,
    UNIX_STREAM: 216,
    UNIX_DATAGRAM: 216,
}
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS = 1, 2, 3, 4, 5, 0x20, 0x30


def line(*words: str) -> bytes:
    """Write a header of version 1."""
    return " ".join(["PROXY", *words]).encode("latin-1") + b"\r\n"


def tlv(kind: int, value: bytes) -> bytes:
    """Write one type, its length and its value."""
    return struct.pack(">BH", kind, len(value)) + value


def header(command: int, transport: int, block: bytes = b"", *, length: int | None = None) -> bytes:
    """Write a header of version 2, with another length than its own if that is asked for."""
    said = len(block) if length is None else length
    return SIGNATURE + struct.pack(">BBH", command, transport, said) + block


def ipv4(source: str, destination: str, source_port: int = 1, port: int = 2) -> bytes:
    """Write the addresses of IPv4."""
    hosts = socket.inet_aton(source) + socket.inet_aton(destination)
    return hosts + struct.pack(">HH", source_port, port)


def ipv6(source: str, destination: str, source_port: int = 1, port: int = 2) -> bytes:
    """Write the addresses of IPv6."""
    hosts = [socket.inet_pton(socket.AF_INET6, host) for host in (source, destination)]
    return b"".join(hosts) + struct.pack(">HH", source_port, port)


def unix(source: bytes, destination: bytes) -> bytes:
    """Write the addresses of Unix sockets."""
    return source.ljust(108, b"\0") + destination.ljust(108, b"\0")


def slow_crc32c(octets: bytes) -> int:
    """Compute the checksum as the definition has it: a division, bit by bit (RFC 4960, B)."""
    remainder = 0xFFFFFFFF
    for octet in octets:
        for place in range(8):
            low = (remainder ^ octet >> place) & 1
            remainder = remainder >> 1 ^ (0x82F63B78 if low else 0)
    return remainder ^ 0xFFFFFFFF


def with_checksum(command: int, transport: int, before: bytes, behind: bytes = b"") -> bytes:
    """Write a header of version 2 with its checksum between two parts of its block."""
    zeros = header(command, transport, before + tlv(CRC32C, bytes(4)) + behind)
    checksum = struct.pack(">I", slow_crc32c(zeros))
    return header(command, transport, before + tlv(CRC32C, checksum) + behind)


# --- Strategies ---------------------------------------------------------------------------------


@attrs.frozen
class Written:
    """A header, and what it says."""

    octets: bytes
    transport: str
    source: Address | None
    destination: Address | None
    tlvs: list[tuple[int, bytes]]


def text(host: strategies.IPAddress, *, upper: bool = False) -> str:
    """Write an address for version 1."""
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    written = socket.inet_ntop(family, host.packed)
    return written.upper() if upper else written


def hosts_of(*, is_ipv4: bool) -> st.SearchStrategy[strategies.IPAddress]:
    """IP addresses of one family."""
    return strategies.ipv4_hosts() if is_ipv4 else strategies.ipv6_hosts()


@st.composite
def lines(draw: st.DrawFn) -> Written:
    """Headers of version 1 with addresses."""
    name = draw(st.sampled_from(["TCP4", "TCP6"]))
    hosts = hosts_of(is_ipv4=name == "TCP4")
    source, destination = draw(hosts), draw(hosts)
    ports = draw(strategies.ports()), draw(strategies.ports())
    upper = draw(st.booleans())
    words = [text(each, upper=upper) for each in (source, destination)]
    return Written(
        line(name, *words, *map(str, ports)),
        name,
        Address.tcp(source, ports[0]),
        Address.tcp(destination, ports[1]),
        [],
    )


def tlvs() -> st.SearchStrategy[list[tuple[int, bytes]]]:
    """Types and values in good order, without a checksum."""
    names = st.text(st.characters(codec="utf-8"), max_size=40).map(str.encode)
    ascii_names = st.text(st.characters(max_codepoint=127), max_size=40).map(str.encode)
    ssl = st.builds(
        lambda client, verify, parts: struct.pack(">BI", client, verify) + b"".join(parts),
        st.integers(0, 255),
        st.integers(0, 2**32 - 1),
        st.lists(
            st.one_of(
                st.builds(tlv, st.sampled_from([0x21, 0x23, 0x24, 0x25, 0x26, 0x27]), ascii_names),
                st.builds(tlv, st.just(0x22), names),
                st.builds(tlv, st.sampled_from([0x28, 0x29, 0x01]), st.binary(max_size=40)),
            ),
            max_size=4,
        ),
    )
    known = [
        st.tuples(st.just(ALPN), st.binary(max_size=20)),
        st.tuples(st.just(AUTHORITY), names),
        st.tuples(st.just(NOOP), st.binary(max_size=20)),
        st.tuples(st.just(UNIQUE_ID), st.binary(max_size=128)),
        st.tuples(st.just(SSL), ssl),
        st.tuples(st.just(NETNS), ascii_names),
        st.tuples(st.integers(0xE0, 0xFF), st.binary(max_size=40)),
    ]
    return st.lists(st.one_of(known), max_size=6)


@st.composite
def headers(draw: st.DrawFn) -> Written:
    """Headers of version 2 for somebody, with addresses, TLVs and a checksum or none."""
    transport = draw(st.sampled_from(sorted(ADDRESS_OCTETS)))
    addresses, source, destination = b"", None, None
    if transport in {TCP4, UDP4, TCP6, UDP6}:
        hosts = hosts_of(is_ipv4=transport in {TCP4, UDP4})
        pair = draw(hosts), draw(hosts)
        ports = draw(strategies.ports()), draw(strategies.ports())
        addresses = b"".join(host.packed for host in pair) + struct.pack(">HH", *ports)
        source, destination = map(Address.tcp, pair, ports)
    elif transport in {UNIX_STREAM, UNIX_DATAGRAM}:
        paths = [draw(unix_paths()), draw(unix_paths())]
        addresses = unix(*paths)
        source, destination = map(Address.unix, paths)
    said = draw(tlvs())
    before = addresses + b"".join(tlv(kind, value) for kind, value in said)
    if draw(st.booleans()):
        octets = with_checksum(PROXY, transport, before)
        said = [*said, (CRC32C, octets[-4:])]
    else:
        octets = header(PROXY, transport, before)
    return Written(octets, NAMES[transport], source, destination, said)


NAMES: Final = {
    UNSPEC: "UNSPEC",
    TCP4: "TCP4",
    UDP4: "UDP4",
    TCP6: "TCP6",
    UDP6: "UDP6",
    UNIX_STREAM: "UNIX_STREAM",
    UNIX_DATAGRAM: "UNIX_DATAGRAM",
}


def unix_paths() -> st.SearchStrategy[bytes]:
    """Names of Unix sockets that can be told from the filling behind them."""
    names = st.just(b"") | strategies.unix_paths() | strategies.abstract_names()
    return names.map(lambda name: name.rstrip(b"\0"))
