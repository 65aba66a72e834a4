"""The checksum CRC32c, which the standard library lacks.

A table of 256 entries, one look-up for each octet: some 10,000 octets in a millisecond, and headers
that have a checksum have a hundred.

Source: RFC 4960, appendix B, by which PROXY protocol headers are checked; its polynomial is
Castagnoli's, 0x1EDC6F41, here with its bits the other way round.
"""

from __future__ import annotations

from typing import Final

__all__ = ["crc32c"]

_POLYNOMIAL: Final = 0x82F63B78
_ALL_ONES: Final = 0xFFFFFFFF


def _entry(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ (_POLYNOMIAL if octet & 1 else 0)
    return octet


_TABLE: Final = tuple(map(_entry, range(256)))


def crc32c(octets: bytes) -> int:
    """Return the checksum of some octets, 0 to 0xFFFFFFFF."""
    value = _ALL_ONES
    for octet in octets:
        value = value >> 8 ^ _TABLE[(value ^ octet) & 0xFF]
    return value ^ _ALL_ONES
