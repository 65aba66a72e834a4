"""SYNs, and packets that are none, written field by field from the RFCs."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv6Address
from typing import Final

import attrs

from trio_wsk._vocabulary.addresses import Address
from trio_wsk.transports._syn import TcpOption

SYN: Final = 0x02
HOP_BY_HOP, TCP, UDP, ROUTING, ESP, DESTINATION = 0, 6, 17, 43, 50, 60
FRAGMENT: Final = 44
NOP: Final = TcpOption(1, b"")
END: Final = TcpOption(0, b"")

OF_LINUX: Final = (
    TcpOption(2, b"\xff\xd7"),
    TcpOption(4, b""),
    TcpOption(8, b"\x12\x34\x56\x78\0\0\0\0"),
    NOP,
    TcpOption(3, b"\x07"),
)
"""The options that Linux sends, in its order."""


CLIENT: Final = Address.tcp("192.0.2.1", 40000)
SERVER: Final = Address.tcp("192.0.2.2", 80)
MAPPED: Final = IPv6Address("::ffff:192.0.2.1").packed  # as no Address is


def octets_of(address: Address) -> bytes:
    """Return an address as a header has it."""
    assert address.host is not None
    return address.host.packed


@attrs.frozen(kw_only=True)
class Packet:
    """A packet to be written: everything that `Syn` reads, and what can be wrong with it."""

    source: Address = CLIENT
    destination: Address = SERVER
    hop_limit: int = 64
    dscp: int = 0
    ecn: int = 0
    flow_label: int = 0
    sequence_number: int = 1
    control_bits: int = SYN
    window: int = 65535
    options: tuple[TcpOption, ...] = ()
    option_octets: bytes | None = None
    data_offset: int | None = None
    payload: bytes = b""
    ip_options: bytes = b""
    fragment: int = 0
    protocol: int = TCP
    extensions: tuple[tuple[int, bytes], ...] = ()
    length: int | None = None
    version_and_length: int | None = None

    @property
    def tcp(self) -> bytes:
        """The TCP header and what follows it."""
        options = self.option_octets
        if options is None:
            options = b"".join(map(written, self.options))
            options += bytes(-len(options) % 4)
        offset = 5 + len(options) // 4 if self.data_offset is None else self.data_offset
        ports = struct.pack(">HH", self.source.port, self.destination.port)
        control = offset << 12 | self.control_bits
        rest = struct.pack(">IIHHHH", self.sequence_number, 0, control, self.window, 0, 0)
        return ports + rest + options + self.payload

    @property
    def octets(self) -> bytes:
        """The packet."""
        traffic_class = self.dscp << 2 | self.ecn
        addresses = octets_of(self.source) + octets_of(self.destination)
        if self.source.family == socket.AF_INET:
            ihl = 5 + len(self.ip_options) // 4
            first = 4 << 4 | ihl if self.version_and_length is None else self.version_and_length
            length = ihl * 4 + len(self.tcp) if self.length is None else self.length
            header = struct.pack(
                ">BBHHHBBH",
                first,
                traffic_class,
                length,
                0,
                self.fragment,
                self.hop_limit,
                self.protocol,
                0,
            )
            return header + addresses + self.ip_options + self.tcp
        kinds = [*(kind for kind, _ in self.extensions), self.protocol]
        extensions = b"".join(
            bytes([after]) + body
            for after, (_, body) in zip(kinds[1:], self.extensions, strict=True)
        )
        length = len(extensions) + len(self.tcp) if self.length is None else self.length
        first_word = 6 << 28 | traffic_class << 20 | self.flow_label
        header = struct.pack(">IHBB", first_word, length, kinds[0], self.hop_limit)
        return header + addresses + extensions + self.tcp


def written(option: TcpOption) -> bytes:
    """Write an option as a header has it."""
    if option.kind <= 1:
        return bytes([option.kind])
    return bytes([option.kind, len(option.data) + 2]) + option.data


def extension(kind: int, words: int = 0, *, segments_left: int = 0) -> tuple[int, bytes]:
    """Make an extension header of ``words + 1`` times eight octets, without its first one."""
    return kind, bytes([words, 4, segments_left]) + bytes(4 + words * 8)


IPV6: Final = Packet(
    source=Address.tcp("2001:db8::1", 40000), destination=Address.tcp("2001:db8::2", 80)
)
IPV4: Final = Packet()
