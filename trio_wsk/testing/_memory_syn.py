"""The SYN of a client in memory, written as a real one, for inspectors that judge by it."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

from trio_wsk.transports._syn import Syn, parse

if TYPE_CHECKING:
    from trio_wsk._vocabulary.addresses import Address

__all__ = ["syn_of"]

_IPV4: Final = struct.Struct("!BxHxxxxBBxx")  # version and length, total length, TTL, protocol
_IPV6: Final = struct.Struct("!IHBB")  # version, payload length, next header, hop limit
_TCP: Final = struct.Struct("!HHIxxxxBBHxxxx")  # ports, number, header length, flags, window
_HOP_LIMIT: Final = 64
_SYN: Final = 0x02


def syn_of(source: Address, destination: Address, isn: int, window: int) -> Syn:
    """Return the SYN that asks for this connection. There are no options in memory."""
    octets, theirs = source.host, destination.host
    assert octets is not None  # hosts in memory have addresses
    assert theirs is not None
    header_words = _TCP.size // 4
    segment = _TCP.pack(
        source.port, destination.port, isn % (1 << 32), header_words << 4, _SYN, min(window, 0xFFFF)
    )
    if octets.version == 4:  # noqa: PLR2004 - that of IPv4
        size = _IPV4.size + len(octets.packed) + len(theirs.packed) + len(segment)
        header = _IPV4.pack(0x45, size, _HOP_LIMIT, socket.IPPROTO_TCP)
    else:
        header = _IPV6.pack(6 << 28, len(segment), socket.IPPROTO_TCP, _HOP_LIMIT)
    return parse(header + octets.packed + theirs.packed + segment)
