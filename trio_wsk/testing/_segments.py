"""Segments on the network in memory, and the states of a connection that follow from them."""

from __future__ import annotations

import enum
import socket
from typing import Final, TypeAlias

import attrs

from trio_wsk._vocabulary.addresses import Address

__all__ = [
    "ACK",
    "DATA",
    "FIN",
    "RECEIVE_BUFFER",
    "RST",
    "SYN",
    "SYN_ACK",
    "Key",
    "Packet",
    "Segment",
    "SegmentKind",
    "TcpState",
    "address_of",
]


class SegmentKind(enum.Enum):
    """The kinds of segments. All but SYN can acknowledge as well."""

    SYN = "SYN"
    """I want to connect."""
    SYN_ACK = "SYN-ACK"
    """So do I."""
    ACK = "ACK"
    """I have all octets up to here, and room for some more."""
    DATA = "DATA"
    """Here are octets."""
    FIN = "FIN"
    """I have finished sending."""
    RST = "RST"
    """There is no such connection."""


@attrs.frozen
class Segment:
    """One segment, as `MemoryNetwork.on_segment` is told of it when it is sent."""

    at: float
    """When it was sent, in seconds on Trio's clock."""
    source: Address
    """The sender."""
    destination: Address
    """The receiver."""
    kind: SegmentKind
    """Its kind."""
    size: int
    """How many octets of data it carries."""
    lost: bool
    """Whether the network has lost it: by chance, or because one of the two is unplugged."""


class TcpState(enum.Enum):
    """Where one end of a connection is in its life.

    Source: RFC 9293, 3.3.2. A listening socket has no stream, so LISTEN is missing here.
    """

    SYN_SENT = "SYN-SENT"
    """It has asked, and there is no answer."""
    SYN_RECEIVED = "SYN-RECEIVED"
    """It has been asked; its answer is withheld, or not acknowledged."""
    ESTABLISHED = "ESTABLISHED"
    """Both may send."""
    FIN_WAIT_1 = "FIN-WAIT-1"
    """It has finished, which is not acknowledged; the peer may still send."""
    FIN_WAIT_2 = "FIN-WAIT-2"
    """It has finished; the peer may still send."""
    CLOSE_WAIT = "CLOSE-WAIT"
    """The peer has finished; it may still send."""
    CLOSING = "CLOSING"
    """Both have finished at the same time, and it has no acknowledgement yet."""
    LAST_ACK = "LAST-ACK"
    """Both have finished, the peer first, and it has no acknowledgement yet."""
    TIME_WAIT = "TIME-WAIT"
    """Both have finished, and it stays to say so again."""
    CLOSED = "CLOSED"
    """There is no connection: refused, timed out, reset or over."""


# Members of an enum are looked up anew each time; a name of the module is not.
SYN: Final = SegmentKind.SYN
SYN_ACK: Final = SegmentKind.SYN_ACK
ACK: Final = SegmentKind.ACK
DATA: Final = SegmentKind.DATA
FIN: Final = SegmentKind.FIN
RST: Final = SegmentKind.RST

Key: TypeAlias = tuple[bytes, int, bytes, int]
"""One end of a connection: its own host and port, and then the other's."""

Packet: TypeAlias = tuple[Key, SegmentKind, int, int, int, bytes]
"""A segment on its way: the receiver's key, what it says, its sequence number, the number that it
acknowledges, the number up to which its sender has room, and its octets."""

RECEIVE_BUFFER: Final = 65536
"""How many octets wait for their reader at most: the window of TCP without scaling."""

_IPV4_OCTETS: Final = 4


def address_of(octets: bytes, port: int) -> Address:
    """Make an address of one half of a key."""
    if len(octets) == _IPV4_OCTETS:
        host = socket.inet_ntop(socket.AF_INET, octets)
        return Address.from_sockaddr(socket.AF_INET, (host, port))
    host = socket.inet_ntop(socket.AF_INET6, octets)
    return Address.from_sockaddr(socket.AF_INET6, (host, port, 0, 0))
