"""A file of PROXY protocol headers and what they say, for this package and for others.

`python -m tests.protocols.proxy_vectors` writes it. The octets are made by
`tests.helpers.proxy_headers`, from the specification and without a line of the package.

Each entry has a ``name``, the ``header`` in hexadecimal digits, and what follows it on the wire
(``behind``), which is none of its business. Then it has either a ``reason`` for which it has to be
refused, or a ``command``, a ``transport``, ``source`` and ``destination`` (null without
addresses) and ``tlvs``, pairs of a type and a value in hexadecimal digits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import attrs

from tests.helpers.proxy_headers import (
    ALPN,
    AUTHORITY,
    CRC32C,
    LOCAL,
    NETNS,
    NOOP,
    PROXY,
    SIGNATURE,
    SSL,
    TCP4,
    TCP6,
    UDP4,
    UDP6,
    UNIQUE_ID,
    UNIX_DATAGRAM,
    UNIX_STREAM,
    UNSPEC,
    header,
    ipv4,
    ipv6,
    line,
    tlv,
    unix,
    with_checksum,
)

__all__ = ["FILE", "Vector", "vectors"]

FILE: Final = Path(__file__).with_suffix(".json")

V4: Final = ipv4("192.0.2.1", "198.51.100.2", 56324, 443)
V6: Final = ipv6("2001:db8::1", "2001:db8::2", 56324, 443)
SOURCE4, DESTINATION4 = "192.0.2.1:56324", "198.51.100.2:443"
SOURCE6, DESTINATION6 = "[2001:db8::1]:56324", "[2001:db8::2]:443"
FULL: Final = "ffff:" * 7 + "ffff"


@attrs.frozen
class Vector:
    """A header, and what it says or why it is refused."""

    name: str
    octets: bytes
    command: str | None = None
    transport: str | None = None
    source: str | None = None
    destination: str | None = None
    tlvs: list[list[Any]] = attrs.field(factory=list)
    reason: str | None = None
    behind: bytes = b"\r\nGET / HTTP/1.1\r\n\r\n"

    def entry(self) -> dict[str, Any]:
        """Return what the file has of it."""
        entry = {"name": self.name, "header": self.octets.hex(), "behind": self.behind.hex()}
        if self.reason is not None:
            return {**entry, "reason": self.reason}
        said = ("command", "transport", "source", "destination", "tlvs")
        return {**entry, **{each: getattr(self, each) for each in said}}


def read(name: str, octets: bytes, transport: str, *ends: str, tlvs: Any = ()) -> Vector:
    """Make a vector of a client's header that has to be read."""
    source, destination = ends or (None, None)
    said = [[kind, value.hex()] for kind, value in tlvs]
    return Vector(name, octets, "PROXY", transport, source, destination, said)


def refused(name: str, reason: str, octets: bytes) -> Vector:
    """Make a vector of a header that has to be refused."""
    return Vector(name, octets, reason=reason)


def vectors() -> list[Vector]:
    """Make all of them, in the order of the file."""
    return [*lines(), *wrong_lines(), *headers(), *headers_with_tlvs(), *wrong_headers()]


def lines() -> list[Vector]:
    """Make lines of version 1."""
    plain = line("TCP4", "192.0.2.1", "198.51.100.2", "56324", "443")
    mapped = line("TCP6", "::ffff:192.0.2.1", "::ffff:198.51.100.2", "56324", "443")
    strictly_mapped = line("TCP6", "::ffff:c000:201", "::ffff:c633:6402", "56324", "443")
    highest = "255.255.255.255"
    upper = line("TCP6", "2001:DB8::1", "2001:DB8:0:0:0:0:0:2", "56324", "443")
    ends4, ends6 = (SOURCE4, DESTINATION4), (SOURCE6, DESTINATION6)
    return [
        read("v1 TCP4", plain, "TCP4", *ends4),
        read(
            "v1 TCP4, shortest",
            line("TCP4", "0.0.0.0", "0.0.0.0", "0", "0"),  # noqa: S104 - nobody listens there
            "TCP4",
            *["0.0.0.0:0"] * 2,
        ),
        read(
            "v1 TCP4, longest",
            line("TCP4", highest, highest, "65535", "65535"),
            "TCP4",
            *[f"{highest}:65535"] * 2,
        ),
        read("v1 TCP6", line("TCP6", "2001:db8::1", "2001:db8::2", "56324", "443"), "TCP6", *ends6),
        read("v1 TCP6, upper case and zeros", upper, "TCP6", *ends6),
        read("v1 TCP6, shortest", line("TCP6", "::", "::", "0", "0"), "TCP6", *["[::]:0"] * 2),
        read(
            "v1 TCP6, longest",
            line("TCP6", FULL, FULL, "65535", "65535"),
            "TCP6",
            *[f"[{FULL}]:65535"] * 2,
        ),
        read("v1 TCP6, IPv4-mapped as inet_ntop writes it", mapped, "TCP6", *ends4),
        read("v1 TCP6, IPv4-mapped", strictly_mapped, "TCP6", *ends4),
        read("v1 UNKNOWN", line("UNKNOWN"), "UNSPEC"),
        read("v1 UNKNOWN, longest", line("UNKNOWN", FULL, FULL, "65535", "65535"), "UNSPEC"),
        read("v1 UNKNOWN, anything", line("UNKNOWN", "x\0\xff"), "UNSPEC"),
    ]


def wrong_lines() -> list[Vector]:
    """Make lines that are none."""
    ends = ("192.0.2.1", "198.51.100.2")
    wrong = {
        "only LF": b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n",
        "only CR": b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\rX",
        "two spaces": line("TCP4", "", *ends, "1", "2"),
        "space at the end": line("TCP4", *ends, "1", "2", ""),
        "leading zero in an address": line("TCP4", "192.0.02.1", ends[1], "1", "2"),
        "leading zero in a port": line("TCP4", *ends, "01", "2"),
        "port too high": line("TCP4", *ends, "1", "65536"),
        "families mixed": line("TCP6", *ends, "1", "2"),
        "address cut short": line("TCP4", "192.0.2", ends[1], "1", "2"),
        "two double colons": line("TCP6", "1::2::3", "::", "1", "2"),
        "scope": line("TCP6", "fe80::1%1", "::", "1", "2"),
        "name of a host": line("TCP4", "localhost", ends[1], "1", "2"),
        "UDP4": line("UDP4", *ends, "1", "2"),
        "lower case": line("tcp4", *ends, "1", "2"),
        "no ports": line("TCP4", *ends),
        "108 octets": line("UNKNOWN", "x" * 92),
    }
    return [refused(f"v1, {name}", "proxy-v1-malformed", octets) for name, octets in wrong.items()]


def headers() -> list[Vector]:
    """Make headers of version 2."""
    ends4, ends6 = (SOURCE4, DESTINATION4), (SOURCE6, DESTINATION6)
    paths = unix(b"/run/client.sock", b"\0server")
    mapped = ipv6("::ffff:192.0.2.1", "::ffff:198.51.100.2", 56324, 443)
    unix_ends = ("unix:/run/client.sock", "unix:@server")
    local = {
        "no block": header(LOCAL, UNSPEC),
        "a family that is ignored": header(LOCAL, 0xFF),
        "a block that is passed over": header(LOCAL, TCP4, V4),
    }
    return [
        read("v2 TCP4", header(PROXY, TCP4, V4), "TCP4", *ends4),
        read("v2 UDP4", header(PROXY, UDP4, V4), "UDP4", *ends4),
        read("v2 TCP6", header(PROXY, TCP6, V6), "TCP6", *ends6),
        read("v2 UDP6", header(PROXY, UDP6, V6), "UDP6", *ends6),
        read("v2 TCP6, IPv4-mapped", header(PROXY, TCP6, mapped), "TCP6", *ends4),
        read("v2 UNIX stream", header(PROXY, UNIX_STREAM, paths), "UNIX_STREAM", *unix_ends),
        read("v2 UNIX datagram", header(PROXY, UNIX_DATAGRAM, paths), "UNIX_DATAGRAM", *unix_ends),
        read(
            "v2 UNIX without names",
            header(PROXY, UNIX_STREAM, bytes(216)),
            "UNIX_STREAM",
            *["unix:"] * 2,
        ),
        read(
            "v2 UNIX, longest",
            header(PROXY, UNIX_STREAM, b"/" * 216),
            "UNIX_STREAM",
            *["unix:" + "/" * 108] * 2,
        ),
        read("v2 UNSPEC", header(PROXY, UNSPEC), "UNSPEC"),
        read("v2 UNSPEC, block that is passed over", header(PROXY, UNSPEC, b"\xff" * 9), "UNSPEC"),
        read("v2 AF_INET and UNSPEC", header(PROXY, 0x10, V4), "UNSPEC"),
        read("v2 UNSPEC and STREAM", header(PROXY, 0x01), "UNSPEC"),
        *(Vector(f"v2 LOCAL, {name}", octets, "LOCAL", "UNSPEC") for name, octets in local.items()),
    ]


def headers_with_tlvs() -> list[Vector]:
    """Make headers that say more than addresses."""
    ssl = b"\x07\0\0\0\0" + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"example.com")
    said = {
        "ALPN": (ALPN, b"h2"),
        "AUTHORITY": (AUTHORITY, "bücher.example".encode()),
        "NOOP": (NOOP, b"\0" * 5),
        "UNIQUE_ID": (UNIQUE_ID, bytes(range(128))),
        "SSL": (SSL, ssl),
        "SSL, without parts": (SSL, bytes(5)),
        "NETNS": (NETNS, b"blue"),
        "own": (0xE0, b"own"),
        "experimental": (0xF0, b""),
        "unknown": (0x99, b"\xff"),
    }
    ends = (SOURCE4, DESTINATION4)
    found = [
        read(f"v2 TCP4, {name}", header(PROXY, TCP4, V4 + tlv(*each)), "TCP4", *ends, tlvs=[each])
        for name, each in said.items()
    ]
    everything = b"".join(tlv(*each) for each in said.values())
    first = with_checksum(PROXY, TCP4, V4, everything)
    last = with_checksum(PROXY, TCP6, V6 + everything)
    at = first.index(tlv(CRC32C, b"")[:1] + b"\0\x04") + 3
    checksums = (CRC32C, first[at : at + 4]), (CRC32C, last[-4:])
    return [
        *found,
        read(
            "v2 TCP4, checksum first",
            first,
            "TCP4",
            *ends,
            tlvs=[checksums[0], *said.values()],
        ),
        read(
            "v2 TCP6, checksum last",
            last,
            "TCP6",
            SOURCE6,
            DESTINATION6,
            tlvs=[*said.values(), checksums[1]],
        ),
    ]


def wrong_headers() -> list[Vector]:
    """Make headers of version 2 that are none."""
    wrong = {
        "version 1": header(0x11, TCP4, V4),
        "version 3": header(0x31, TCP4, V4),
        "command 2": header(0x22, TCP4, V4),
        "family 4": header(PROXY, 0x41, V4),
        "protocol 3": header(PROXY, 0x13, V4),
        "IPv4, too short": header(PROXY, TCP4, V4[:-1]),
        "IPv6, too short": header(PROXY, TCP6, V6[:-1]),
        "UNIX, too short": header(PROXY, UNIX_STREAM, bytes(215)),
        "TLV, one octet": header(PROXY, TCP4, V4 + b"\x04"),
        "TLV, beyond the end": header(PROXY, TCP4, V4 + b"\x04\0\x01"),
        "CRC32C, three octets": header(PROXY, TCP4, V4 + tlv(CRC32C, bytes(3))),
        "two checksums": header(PROXY, TCP4, V4 + tlv(CRC32C, bytes(4)) * 2),
        "UNIQUE_ID, 129 octets": header(PROXY, TCP4, V4 + tlv(UNIQUE_ID, bytes(129))),
        "AUTHORITY, not UTF-8": header(PROXY, TCP4, V4 + tlv(AUTHORITY, b"\xff")),
        "SSL, four octets": header(PROXY, TCP4, V4 + tlv(SSL, bytes(4))),
        "SSL, part beyond the end": header(PROXY, TCP4, V4 + tlv(SSL, bytes(5) + b"\x21\0\x01")),
    }
    damaged = bytearray(with_checksum(PROXY, TCP4, V4))
    damaged[16] ^= 1
    return [
        *(refused(f"v2, {name}", "proxy-v2-malformed", octets) for name, octets in wrong.items()),
        refused("v2, checksum of another address", "proxy-checksum-wrong", bytes(damaged)),
        refused("v2, 4097 octets", "proxy-header-too-long", header(PROXY, TCP4, length=4081)),
        refused("no signature", "no-proxy-header", b"GET / HTTP/1.1\r\n"),
        refused("signature cut short", "no-proxy-header", SIGNATURE[:11] + b"\r" + V4),
    ]


def write() -> None:
    """Write the file."""
    entries = ",\n".join(f"  {json.dumps(vector.entry())}" for vector in vectors())
    FILE.write_text(f"[\n{entries}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    write()
