"""Sets of addresses in a table of nftables, as changes to it; nothing here has a socket.

A rule looks the source of a packet up in one, which costs about the same however many are in it.
There are two kinds. One has ranges: each is two elements, its first address and the first one
after it, which is marked as an end; ranges must not overlap. The other has single keys, each with
a time after which the kernel takes it out.

Source: net/netfilter/nft_set_rbtree.c, nft_set_hash.c; ``linux/netfilter/nf_tables.h``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from ._messages import CREATE, Change, attribute, be32, be64, nested, text
from ._rules import IPV4

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["KernelSet", "range_elements", "timed_element"]

_NEW_SET: Final = 9
_DELETE_SET: Final = 11
_NEW_ELEMENTS: Final = 12
_DELETE_ELEMENTS: Final = 14

_INTERVALS: Final = 0x4
_TIMEOUTS: Final = 0x10
_KEY_TYPES: Final = {4: 7, 16: 8}
"""What ``nft list`` takes keys for, by the octets that they have: ipv4_addr and ipv6_addr."""
_END_OF_RANGE: Final = 1

_ID: Final = 1
"""A set has a number in the batch that makes it, and is not called by it here."""

_FULL: Final = {errno.ENFILE: "the set is full"}


class KernelSet(NamedTuple):
    """One set of one table: writes changes to it."""

    table: str
    family: int
    name: str

    @property
    def octets(self) -> int:
        """How many octets a key has."""
        return 4 if self.family == IPV4 else 16

    def make_ranges(self) -> Change:
        """Make it, for ranges."""
        return self._create(be32(3, _INTERVALS))

    def make_timed(self, most: int) -> Change:
        """Make it, for so many keys with a time each."""
        return self._create(be32(3, _TIMEOUTS) + nested(9, be32(1, most)))

    def _create(self, attributes: bytes) -> Change:
        attributes += be32(4, _KEY_TYPES[self.octets]) + be32(5, self.octets) + be32(10, _ID)
        return self._change(
            "make a set of addresses", _NEW_SET, CREATE, text(2, self.name), attributes
        )

    def take_away(self) -> Change:
        """Take it away; no rule may name it any more."""
        return self._change("delete a set of addresses", _DELETE_SET, 0, text(2, self.name))

    def add(self, elements: Iterable[bytes]) -> Change:
        """Put elements in; one that is in there may keep its time."""
        listed = text(2, self.name) + nested(3, *elements)
        return self._change("list addresses in a set", _NEW_ELEMENTS, CREATE, listed)

    def remove(self, elements: Iterable[bytes]) -> Change:
        """Take elements out; each has to be in there."""
        listed = text(2, self.name) + nested(3, *elements)
        return self._change("take addresses out of a set", _DELETE_ELEMENTS, 0, listed)

    def _change(self, step: str, kind: int, flags: int, *attributes: bytes) -> Change:
        whole = text(1, self.table) + b"".join(attributes)
        return Change(step, kind, flags, self.family, whole, _FULL)


def range_elements(octets: int, start: int, end: int) -> Iterator[bytes]:
    """Write a range: the first address, and the first one after it, if there is any."""
    yield _element(start.to_bytes(octets, "big"))
    if end >> 8 * octets == 0:
        yield _element(end.to_bytes(octets, "big"), be32(3, _END_OF_RANGE))


def timed_element(key: bytes, milliseconds: int) -> bytes:
    """Write a key that is taken out after so long; 0 would be never."""
    return _element(key, be64(4, milliseconds))


def _element(key: bytes, *more: bytes) -> bytes:
    return nested(1, nested(1, attribute(1, key)), *more)
