"""What a `trio_wsk.Reader` should read, said once more with all octets in sight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tests.helpers.streams import Pieces
from trio_wsk import EndOfStreamError, IncompleteReadError, Reader, ReadLimitError

if TYPE_CHECKING:
    from collections.abc import Iterable


@attrs.frozen
class Call:
    """One call of a reader, and what it should do."""

    name: str
    delimiter: bytes = b"\n"
    number: int = 0

    async def make(self, reader: Reader) -> bytes:
        """Make the call."""
        if self.name == "line":
            return await reader.read_line(max_octets=self.number)
        if self.name == "until":
            return await reader.read_until(self.delimiter, max_octets=self.number)
        return await reader.read_exactly(self.number)

    def model(self, rest: bytes) -> tuple[object, bytes]:
        """Return what it should give or raise, and what is left then."""
        if self.name == "exactly":
            if len(rest) >= self.number:
                return rest[: self.number], rest[self.number :]
            return (IncompleteReadError if rest else EndOfStreamError), rest
        found, end, after = rest.partition(self.delimiter)
        if end and self.name == "line":
            found = found.removesuffix(b"\r")
        # Where no end has come, one that begins right behind the last octet would be in time.
        shortest = found if end else rest[: len(rest) - len(self.delimiter) + 1]
        if not end and self.name == "line":
            shortest = rest[:-1]  # which may be the CR
        if len(shortest) > self.number:
            return ReadLimitError, rest
        if end:
            return found, after
        return (IncompleteReadError if rest else EndOfStreamError), rest


def cut(octets: bytes, sizes: Iterable[int]) -> list[bytes]:
    """Cut octets into pieces of these sizes, and the rest."""
    pieces: list[bytes] = []
    for size in sizes:
        pieces.append(octets[:size])
        octets = octets[size:]
    return [piece for piece in (*pieces, octets) if piece]


async def check_reads(octets: bytes, sizes: Iterable[int], calls: Iterable[Call]) -> None:
    """Have a reader of these octets, cut into pieces, called: each call does what it should."""
    reader = Reader(Pieces(cut(octets, sizes)))
    rest = octets
    for call in calls:
        expected, rest = call.model(rest)
        try:
            result: object = await call.make(reader)
        except (EndOfStreamError, IncompleteReadError, ReadLimitError) as error:
            result = type(error)
            partial = getattr(error, "partial", rest)
            assert rest == partial
        assert expected == result
        assert rest.startswith(reader.unread)
    rested = b""
    while data := await reader.read_some(3):
        assert len(data) <= 3
        rested += data
    assert rest == rested
