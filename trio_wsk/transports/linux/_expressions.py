"""What a rule of nftables consists of: expressions, evaluated one after the other.

One loads something into a register, the next compares it and ends the rule if it differs, the
last ones do something. Everything here is octets to be sent; nothing here does it.

Registers hold what is loaded as it stands in the packet; a mark is in the machine's byte order.

Source: ``linux/netfilter/nf_tables.h`` and the ``nft_*.c`` of net/netfilter.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ._messages import attribute, be16, be32, be64, nested, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_wsk._vocabulary.addresses import Address

__all__ = [
    "ACCEPT",
    "ACK",
    "DROP",
    "FIN",
    "RETURN",
    "RST",
    "SYN",
    "clear_mark",
    "count",
    "exceeds",
    "expression",
    "first_fragment_to",
    "has_all_headers",
    "is_from",
    "is_marked",
    "is_tcp",
    "jump",
    "log",
    "queue",
    "queue_target",
    "reset",
    "segment_to",
    "verdict",
]

DROP: Final = 0
ACCEPT: Final = 1
RETURN: Final = 0xFFFFFFFB
"""NFT_RETURN, -5: go on behind the rule that has jumped here."""
_JUMP: Final = 0xFFFFFFFD
"""NFT_JUMP, -3."""

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10

_TCP: Final = 6
_FRAGMENT: Final = 44
"""The fragment header of IPv6, as what announces it has it."""
_IPV4_VERSION: Final = 4

_VERDICT_REGISTER: Final = 0
_REGISTER: Final = 1
_EQUAL: Final = 0
_NOT_EQUAL: Final = 1
_NETWORK_HEADER: Final = 1
_TRANSPORT_HEADER: Final = 2
_SOURCE: Final = {4: 12, 16: 8}
"""Where the source's address stands in the header, by the octets that it has."""
_NOT_IN_SET: Final = 1
_META_MARK: Final = 3
_META_PROTOCOL: Final = 16
_PACKETS: Final = 0
_OVER: Final = 1
_TCP_RESET: Final = 1

_BYPASS: Final = 1
"""The same flag of the queue expression and of iptables' target."""
_TARGET_REVISION: Final = 3
_TARGET: Final = struct.Struct("=HHH2x")
"""struct xt_NFQ_info_v3: first queue, how many, flags; padded to eight octets (XT_ALIGN)."""
_MARK: Final = struct.Struct("=I")


def expression(name: str, *attributes: bytes) -> bytes:
    """Write one expression, as an element of a rule's list."""
    return nested(1, text(1, name), nested(2, *attributes))


# -------------------------------------------------------------------------------- conditions


def segment_to(place: Address, *, of_flags: int, flags: int) -> Iterator[bytes]:
    """Go on for TCP segments to an address of whose flags, of those named, exactly these are set.

    An unspecified address stands for all of its family.
    """
    yield from is_tcp()
    yield _load(_TRANSPORT_HEADER, 2, 2)
    yield _compare(place.port.to_bytes(2, "big"))
    yield _load(_TRANSPORT_HEADER, 13, 1)
    yield _and(bytes([of_flags]))
    yield _compare(bytes([flags]))
    yield from _is_to(place)


def first_fragment_to(place: Address) -> Iterator[bytes]:
    """Go on for the first fragments of IPv6 packets to an address; others are none.

    Source: RFC 8200, section 4.5.
    """
    yield expression(
        "exthdr",
        be32(1, _REGISTER),
        attribute(2, bytes([_FRAGMENT])),
        be32(3, 2),  # the offset, and three bits that are something else
        be32(4, 2),
    )
    yield _and(b"\xff\xf8")
    yield _compare(bytes(2))
    yield from _is_to(place)


def has_all_headers() -> bytes:
    """Go on for packets in which is found what comes behind the extension headers of IPv6."""
    return expression("meta", be32(1, _REGISTER), be32(2, _META_PROTOCOL))


def _is_to(place: Address) -> Iterator[bytes]:
    host = place.host
    assert host is not None  # addresses of TCP have hosts
    if not host.is_unspecified:
        destination = host.packed
        offset = 16 if host.version == _IPV4_VERSION else 24
        yield _load(_NETWORK_HEADER, offset, len(destination))
        yield _compare(destination)


def is_from(name: str, octets: int, prefix: int, *, wanted: bool = True) -> Iterator[bytes]:
    """Go on for packets whose source is in a set, or in none of its.

    Args:
      name: What the set is called.
      octets: Of an address.
      prefix: How many bits of an address are looked for; the others are zero in the set.
      wanted: False turns it round.
    """
    yield _load(_NETWORK_HEADER, _SOURCE[octets], octets)
    host_bits = 8 * octets - prefix
    if host_bits:
        mask = (1 << 8 * octets) - (1 << host_bits)
        yield _and(mask.to_bytes(octets, "big"))
    yield expression(
        "lookup", text(1, name), be32(2, _REGISTER), be32(5, 0 if wanted else _NOT_IN_SET)
    )


def is_tcp() -> Iterator[bytes]:
    """Go on for TCP."""
    yield expression("meta", be32(1, _REGISTER), be32(2, _META_PROTOCOL))
    yield _compare(bytes([_TCP]))


def is_marked(mark: int) -> Iterator[bytes]:
    """Go on for packets that have any of these bits in their mark."""
    yield expression("meta", be32(1, _REGISTER), be32(2, _META_MARK))
    yield _and(_MARK.pack(mark))
    yield _compare(_MARK.pack(0), _NOT_EQUAL)


def exceeds(per_second: int) -> bytes:
    """Go on for what comes more often than so many times per second, after as many at once."""
    return expression(
        "limit",
        be64(1, per_second),
        be64(2, 1),  # second
        be32(3, per_second),
        be32(4, _PACKETS),
        be32(5, _OVER),
    )


def _load(base: int, offset: int, length: int) -> bytes:
    return expression(
        "payload", be32(1, _REGISTER), be32(2, base), be32(3, offset), be32(4, length)
    )


def _and(mask: bytes) -> bytes:
    return expression(
        "bitwise",
        be32(1, _REGISTER),
        be32(2, _REGISTER),
        be32(3, len(mask)),
        nested(4, attribute(1, mask)),
        nested(5, attribute(1, bytes(len(mask)))),
    )


def _compare(octets: bytes, operation: int = _EQUAL) -> bytes:
    return expression(
        "cmp", be32(1, _REGISTER), be32(2, operation), nested(3, attribute(1, octets))
    )


# ----------------------------------------------------------------------------------- actions


def clear_mark(mark: int) -> Iterator[bytes]:
    """Take these bits out of a packet's mark."""
    yield expression("meta", be32(1, _REGISTER), be32(2, _META_MARK))
    yield _and(_MARK.pack(~mark & 0xFFFFFFFF))
    yield expression("meta", be32(3, _REGISTER), be32(2, _META_MARK))


def count() -> bytes:
    """Count packets."""
    return expression("counter")


def verdict(code: int, *chain: bytes) -> bytes:
    """End with `DROP`, say."""
    said = nested(2, be32(1, code), *chain)
    return expression("immediate", be32(1, _VERDICT_REGISTER), nested(2, said))


def jump(chain: str) -> bytes:
    """Go through another chain."""
    return verdict(_JUMP, text(2, chain))


def queue(number: int, bypass: bool) -> bytes:  # noqa: FBT001 - a `Way`
    """Send packets to a queue, in nftables' own way.

    With ``bypass`` they are accepted while nobody has bound it.
    """
    return expression("queue", be16(1, number), be16(2, 1), be16(3, _BYPASS if bypass else 0))


def queue_target(number: int, bypass: bool) -> bytes:  # noqa: FBT001 - a `Way`
    """Send packets to a queue, in iptables' way."""
    options = _TARGET.pack(number, 1, _BYPASS if bypass else 0)
    return expression(
        "target", text(1, "NFQUEUE"), be32(2, _TARGET_REVISION), attribute(3, options)
    )


def log(group: int, length: int) -> bytes:
    """Copy so many octets of packets to a group of NFLOG, each at once."""
    return expression("log", be16(1, group), be32(3, length), be16(4, 1))


def reset() -> bytes:
    """Answer TCP with a reset, and drop."""
    return expression("reject", be32(1, _TCP_RESET))
