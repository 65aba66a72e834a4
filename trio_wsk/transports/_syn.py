"""What the SYN of a connection request says: the first packet of a peer that wants to connect.

The octets come from anybody who can send a packet here, so two rules hold for this file. A packet
that is not a SYN, whole and in good order, raises `NotASynError`, and nothing raises anything
else. And it is quick, since a flood consists of what is read here: `parse` makes one small
object around the packet, and what it says is read when somebody asks.

What the kernel has checked is not checked again: it shows a packet only when the checksum of
the IP header is right. Nor is that of TCP, which the kernel looks at later, and which is not
there yet in a packet that never left the machine.

Source: RFC 9293, section 3.1; RFC 791, section 3.1; RFC 8200, sections 3 and 4.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs

from trio_wsk._vocabulary.addresses import MAPPED, Address

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Key", "NotASynError", "Syn", "TcpOption", "Timestamps", "parse", "reset_of"]

Key: TypeAlias = tuple[bytes, int, bytes, int, int]
"""Which connection: the octets of our address, our port, the peer's octets, its port, and the
scope id if the peer's address is link-local, else 0."""

# --- IP ----------------------------------------------------------------------------------------

_IPV4: Final = struct.Struct(">BxHxxHxB")  # version and length, total length, fragment, protocol
_IPV6: Final = struct.Struct(">BxxxHB")  # version, payload length, next header
_IPV4_OCTETS: Final = 20
_IPV6_OCTETS: Final = 40
_MORE_OR_LATER: Final = 0x3FFF  # more fragments follow, or this is not the first one
_TCP: Final = 6
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
_EXTENSIONS: Final = frozenset({_HOP_BY_HOP, _ROUTING, _DESTINATION})
_SMALLEST_EXTENSION: Final = 8
_MOST_EXTENSIONS: Final = 8
"""RFC 8200, section 4.1, has four of them before TCP; who sends more wants to cost time."""

# --- TCP ---------------------------------------------------------------------------------------

_PORTS: Final = struct.Struct(">HH")
_TCP_OCTETS: Final = 20
_SEQUENCE_NUMBER: Final = 4
_CONTROL: Final = 12
_WINDOW: Final = 14
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_ECE, _CWR, _AE = 0x40, 0x80, 0x100
_CONTROL_BITS: Final = 0x1FF

_END_OF_LIST, _NO_OPERATION = 0, 1
_SHORTEST_OPTION: Final = 2
_MAXIMUM_SEGMENT_SIZE, _WINDOW_SCALE, _SACK_PERMITTED, _TIMESTAMPS = 2, 3, 4, 8
_FAST_OPEN, _EXPERIMENT = 34, 254
_FAST_OPEN_EXPERIMENT: Final = b"\xf9\x89"  # which it was before it had a number (RFC 7413)
_COOKIE_OCTETS: Final = range(4, 17, 2)


class NotASynError(ValueError):
    """A packet is not the SYN of a new connection, or not one in good order: the peer's fault."""


@final
@attrs.frozen
class TcpOption:
    """One option of a TCP header."""

    kind: int
    """The number: 0 is End of Option List, 1 No-Operation, 2 Maximum Segment Size, …"""
    data: bytes
    """What follows the kind and the length."""


@final
@attrs.frozen
class Timestamps:
    """The Timestamps option.

    Source: RFC 7323, section 3.2.
    """

    value: int
    """TSval: the peer's clock, in ticks of its own."""
    echo_reply: int
    """TSecr: 0 in a SYN that follows the rules."""


@final
@attrs.frozen(repr=False)
class Syn:
    """What a peer says when it asks for a connection: its SYN, as it came.

    Nothing is proven: anybody who can send a packet can write anything into a SYN, the source
    address included. Names are those of the RFCs. An option has a property of its own only with
    the length that belongs to it, as for the kernel, and if it is there twice the last counts;
    `options` has everything.

    Source: RFC 9293, section 3.1.
    """

    packet: bytes
    """The packet: IP header, TCP header, payload."""
    scope_id: int
    """The number of the interface that link-local addresses in it are on; 0 if not known."""
    _tcp: int = attrs.field(eq=False)  # where the TCP header begins

    def __repr__(self) -> str:
        return f"<Syn from {self.source} to {self.destination}, number {self.sequence_number}>"

    @property
    def _is_ipv4(self) -> bool:
        return self.packet[0] >> 4 == 4  # noqa: PLR2004 - the version of IPv4

    @property
    def key(self) -> Key:
        """Which connection it asks for, as the table of requests has it."""
        return _key(self.packet, self._tcp, self.scope_id)

    # --- IP ----------------------------------------------------------------------------

    @property
    def source(self) -> Address:
        """The address of the peer that asks."""
        octets = self.packet[12:16] if self._is_ipv4 else self.packet[8:24]
        return _address(octets, self._number(self._tcp, 2), self.scope_id)

    @property
    def destination(self) -> Address:
        """The address that was asked for."""
        octets = self.packet[16:20] if self._is_ipv4 else self.packet[24:40]
        return _address(octets, self._number(self._tcp + 2, 2), self.scope_id)

    @property
    def hop_limit(self) -> int:
        """How many more hops it could have gone: IPv6's Hop Limit, IPv4's Time to Live.

        Most peers start with 64 or 128, which tells how far away one is.
        """
        return self.packet[8] if self._is_ipv4 else self.packet[7]

    @property
    def dscp(self) -> int:
        """The Differentiated Services codepoint, 0 to 63 (RFC 2474)."""
        return self._traffic_class >> 2

    @property
    def ecn(self) -> int:
        """The Explicit Congestion Notification field of the IP header, 0 to 3 (RFC 3168).

        Whether the peer wants to use it is not said here, but with `ece` and `cwr`.
        """
        return self._traffic_class & 3

    @property
    def _traffic_class(self) -> int:
        return self.packet[1] if self._is_ipv4 else self._number(0, 2) >> 4 & 0xFF

    @property
    def flow_label(self) -> int:
        """IPv6's Flow Label (RFC 6437); 0 for IPv4, which has none."""
        return 0 if self._is_ipv4 else self._number(0, 4) & 0xFFFFF

    # --- TCP ---------------------------------------------------------------------------

    @property
    def sequence_number(self) -> int:
        """The initial sequence number, by which it is told from a later request of this peer."""
        return self._number(self._tcp + _SEQUENCE_NUMBER, 4)

    @property
    def control_bits(self) -> int:
        """AE, CWR, ECE, URG, ACK, PSH, RST, SYN and FIN, from 256 down to 1.

        SYN is set, and none of ACK, RST and FIN.
        """
        return self._number(self._tcp + _CONTROL, 2) & _CONTROL_BITS

    @property
    def ece(self) -> bool:
        """ECN-Echo; with `cwr`: the peer wants to use Explicit Congestion Notification.

        Source: RFC 3168, section 6.1.1.
        """
        return bool(self.control_bits & _ECE)

    @property
    def cwr(self) -> bool:
        """Congestion Window Reduced; see `ece`."""
        return bool(self.control_bits & _CWR)

    @property
    def ae(self) -> bool:
        """Accurate ECN; with `ece` and `cwr`: the peer wants the accurate feedback of RFC 9768."""
        return bool(self.control_bits & _AE)

    @property
    def window(self) -> int:
        """How many octets the peer can take at first; never scaled in a SYN."""
        return self._number(self._tcp + _WINDOW, 2)

    @property
    def payload(self) -> bytes:
        """What came with the request (TCP Fast Open, RFC 7413): the first octets of the stream.

        Only those that are in `packet`; see `payload_length`.
        """
        return self.packet[self._payload_at :]

    @property
    def payload_length(self) -> int:
        """How many octets came with the request; `packet` may have been cut off before the last."""
        if self._is_ipv4:
            return self._number(2, 2) - self._payload_at
        return _IPV6_OCTETS + self._number(4, 2) - self._payload_at

    @property
    def _payload_at(self) -> int:
        return self._tcp + (self.packet[self._tcp + _CONTROL] >> 4) * 4

    def _number(self, at: int, octets: int) -> int:
        return int.from_bytes(self.packet[at : at + octets], "big")

    # --- Options -----------------------------------------------------------------------

    @property
    def options(self) -> tuple[TcpOption, ...]:
        """The options in the order of their appearance, with each No-Operation between them.

        The last may be End of Option List; what pads the header after it is no option.
        """
        return tuple(TcpOption(kind, data) for kind, data in self._options())

    @property
    def maximum_segment_size(self) -> int | None:
        """How many octets the peer takes in one segment, or None if it doesn't say (536 then).

        Source: RFC 9293, section 3.7.1.
        """
        data = self._option(_MAXIMUM_SEGMENT_SIZE, 2)
        return None if data is None else int.from_bytes(data, "big")

    @property
    def window_scale(self) -> int | None:
        """By how many bits the peer's later windows are shifted; None without the option.

        More than 14 counts as 14.

        Source: RFC 7323, section 2.
        """
        data = self._option(_WINDOW_SCALE, 1)
        return None if data is None else data[0]

    @property
    def sack_permitted(self) -> bool:
        """Whether the peer understands selective acknowledgements.

        Source: RFC 2018, section 2.
        """
        return self._option(_SACK_PERMITTED, 0) is not None

    @property
    def timestamps(self) -> Timestamps | None:
        """The Timestamps option, or None without it."""
        data = self._option(_TIMESTAMPS, 8)
        if data is None:
            return None
        return Timestamps(int.from_bytes(data[:4], "big"), int.from_bytes(data[4:], "big"))

    @property
    def fast_open_cookie(self) -> bytes | None:
        """The cookie of TCP Fast Open; ``b""`` asks for one; None without the option.

        Source: RFC 7413, section 4.1.1.
        """
        found = None
        for kind, data in self._options():
            cookie = data
            if kind == _EXPERIMENT and data.startswith(_FAST_OPEN_EXPERIMENT):
                cookie = data[len(_FAST_OPEN_EXPERIMENT) :]
            elif kind != _FAST_OPEN:
                continue
            if not cookie or len(cookie) in _COOKIE_OCTETS:
                found = cookie
        return found

    def _option(self, wanted: int, octets: int) -> bytes | None:
        found = None
        for kind, data in self._options():
            if kind == wanted and len(data) == octets:
                found = data
        return found

    def _options(self) -> Iterator[tuple[int, bytes]]:
        packet, at, end = self.packet, self._tcp + _TCP_OCTETS, self._payload_at
        while at < end:
            kind = packet[at]
            if kind > _NO_OPERATION:
                after = at + packet[at + 1]
                yield kind, packet[at + 2 : after]
                at = after
            else:
                yield kind, b""
                at = end if kind == _END_OF_LIST else at + 1


def parse(packet: bytes, *, scope_id: int = 0) -> Syn:
    """Read the SYN of a new connection.

    Args:
      packet: From the IP header on. It may have been cut off anywhere behind the TCP header, as
        ``TCP_SAVED_SYN`` does; what comes after the packet's own end (padding) is dropped.
      scope_id: The number of the interface on which it came, which counts only for link-local
        addresses; 0 for the loopback interface, by which this machine talks to its own addresses,
        whosever scope they are in.

    Raises:
      NotASynError: It is no SYN (FIN, RST or ACK is set, too), a fragment, no TCP or no IP; or
        lengths in it contradict each other, those of options included. (The peer's.)
    """
    tcp, end = _find_tcp(packet)
    if packet[tcp + _CONTROL + 1] & (_FIN | _SYN | _RST | _ACK) != _SYN:
        raise NotASynError("among FIN, SYN, RST and ACK it has not SYN alone")
    options_end = tcp + (packet[tcp + _CONTROL] >> 4) * 4
    if not tcp + _TCP_OCTETS <= options_end <= min(end, len(packet)):
        raise NotASynError(f"its TCP header would end at {options_end}")
    at = tcp + _TCP_OCTETS
    while at < options_end:
        kind = packet[at]
        if kind == _NO_OPERATION:
            at += 1
        elif kind == _END_OF_LIST:
            break
        elif at + 1 == options_end or packet[at + 1] < _SHORTEST_OPTION:
            raise NotASynError(f"its TCP option {kind} has no length")
        else:
            at += packet[at + 1]
    if at > options_end:
        raise NotASynError("its last TCP option goes beyond the header")
    return Syn(packet[:end] if end < len(packet) else packet, scope_id, tcp)


def reset_of(packet: bytes, *, scope_id: int = 0) -> tuple[Key, int] | None:
    """Return which connection a packet resets, and its sequence number; None if it is no reset.

    Args:
      packet: From the IP header on, at least to the flags of TCP.
      scope_id: As for `parse`.
    """
    try:
        tcp, _ = _find_tcp(packet)
    except NotASynError:
        return None
    if packet[tcp + _CONTROL + 1] & (_FIN | _SYN | _RST) != _RST:
        return None
    number = int.from_bytes(packet[tcp + _SEQUENCE_NUMBER : tcp + _SEQUENCE_NUMBER + 4], "big")
    return _key(packet, tcp, scope_id), number


def _find_tcp(packet: bytes) -> tuple[int, int]:
    """Return where the TCP header begins, whose fixed part is there, and where the packet ends."""
    size = len(packet)
    if size < _IPV4_OCTETS:
        raise NotASynError(f"{size} octets are no packet")
    version = packet[0] >> 4
    if version == 4:  # noqa: PLR2004 - that of IPv4
        first, end, fragment, protocol = _IPV4.unpack_from(packet)
        tcp = (first & 0x0F) * 4
        if tcp < _IPV4_OCTETS:
            raise NotASynError(f"its IPv4 header would have {tcp} octets")
        if fragment & _MORE_OR_LATER:
            raise NotASynError("it is a fragment")
        if protocol != _TCP:
            raise NotASynError(f"it has the protocol {protocol}, and is no TCP")
    elif version == 6:  # noqa: PLR2004 - that of IPv6
        if size < _IPV6_OCTETS:
            raise NotASynError(f"{size} octets are no IPv6 packet")
        _, length, kind = _IPV6.unpack_from(packet)
        if packet.startswith(MAPPED, 8) or packet.startswith(MAPPED, 24):
            # The kernel drops them, too: no one could tell them from IPv4's.
            raise NotASynError("an IPv4-mapped address is none to send from or to")
        end = _IPV6_OCTETS + length
        tcp = _IPV6_OCTETS if kind == _TCP else _skip_extensions(packet, kind)
    else:
        raise NotASynError(f"there is no version {version} of IP")
    if tcp + _TCP_OCTETS > min(end, size):
        raise NotASynError("it ends before its TCP header does")
    return tcp, end


def _skip_extensions(packet: bytes, kind: int) -> int:
    """Return where TCP begins behind extension headers."""
    at = _IPV6_OCTETS
    for _ in range(_MOST_EXTENSIONS):
        if kind not in _EXTENSIONS or (kind == _HOP_BY_HOP and at != _IPV6_OCTETS):
            is_fragment = kind == _FRAGMENT
            raise NotASynError("it is a fragment" if is_fragment else f"it has a header {kind}")
        if at + _SMALLEST_EXTENSION > len(packet):
            raise NotASynError("it ends in an extension header")
        if kind == _ROUTING and packet[at + 3]:
            raise NotASynError("it has not come to its destination yet")  # segments are left
        kind, at = packet[at], at + (packet[at + 1] + 1) * 8
        if kind == _TCP:
            return at
    raise NotASynError(f"it has more than {_MOST_EXTENSIONS} extension headers")


def _key(packet: bytes, tcp: int, scope_id: int) -> Key:
    source_port, port = _PORTS.unpack_from(packet, tcp)
    if packet[0] >> 4 == 4:  # noqa: PLR2004 - the version of IPv4
        return packet[16:20], port, packet[12:16], source_port, 0
    source = packet[8:24]
    return packet[24:40], port, source, source_port, scope_id if _is_link_local(source) else 0


def _address(octets: bytes, port: int, scope_id: int) -> Address:
    if len(octets) == 4:  # noqa: PLR2004 - those of an IPv4 address
        return Address.tcp(IPv4Address(octets), port)
    return Address.tcp(IPv6Address(octets), port, scope_id if _is_link_local(octets) else 0)


def _is_link_local(octets: bytes) -> bool:
    return octets[0] == 0xFE and octets[1] & 0xC0 == 0x80  # noqa: PLR2004 - fe80::/10, RFC 4291
