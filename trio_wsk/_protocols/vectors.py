"""How TLS writes numbers and vectors, read from the front.

Source: RFC 8446, section 3.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from .answers import ClientHelloError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Vectors"]

_TAG: Final = struct.Struct(">HH")  # a type, and a length


class Vectors:
    """A part of a ClientHello, read from the front.

    Every method takes what it returns, and raises `ClientHelloError` if it isn't there.

    Args:
      name: What the part is called, for errors.
      octets: All of it.
    """

    __slots__ = ("_at", "_name", "_octets")

    def __init__(self, name: str, octets: bytes) -> None:
        self._name = name
        self._octets = octets
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._octets)

    def take(self, count: int) -> bytes:
        """Take so many octets."""
        at = self._at
        self._at = end = at + count
        if end > len(self._octets):
            raise ClientHelloError(f"{self._name} has {len(self._octets)} octets, and needs {end}")
        return self._octets[at:end]

    def number(self, octets: int) -> int:
        """Take a number of so many octets."""
        return int.from_bytes(self.take(octets), "big")

    def vector(self, octets: int, *, least: int = 0) -> bytes:
        """Take a vector whose length has so many octets, and is no less than that."""
        length = self.number(octets)
        if length < least:
            raise ClientHelloError(f"a vector in {self._name} has {length} octets, under {least}")
        return self.take(length)

    def tagged(self) -> tuple[int, bytes]:
        """Take a type of two octets, and a vector whose length has two."""
        kind, length = _TAG.unpack(self.take(_TAG.size))
        return kind, self.take(length)

    def numbers(self, octets: int) -> tuple[int, ...]:
        """Take a vector of numbers of two octets each, one at least."""
        content = self.vector(octets, least=2)
        if len(content) % 2:
            raise ClientHelloError(
                f"a vector of pairs of octets in {self._name} has {len(content)} of them"
            )
        return struct.unpack(f">{len(content) // 2}H", content)

    def part(self, octets: int, name: str, *, least: int = 0) -> Self:
        """Take a vector to be read in its turn."""
        return type(self)(name, self.vector(octets, least=least))

    def finish(self) -> None:
        """Have nothing left."""
        if self:
            left = len(self._octets) - self._at
            raise ClientHelloError(f"{self._name} has {left} octets after its end")
