"""What can be read at once: a line, what stands before a delimiter, a count of octets.

Each says of a buffer whether it is there, and takes it out as a whole or not at all. What it says
depends on the octets alone, and not on the pieces in which they have come: a line that is too long
is so however it was cut.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from trio_wsk._vocabulary.errors import ReadLimitError

if TYPE_CHECKING:
    from .buffer import Buffer

__all__ = ["Ended", "Exactly", "Line", "Portion", "Some", "Until"]

_CR = ord("\r")


class Portion(Protocol):
    """What is read at once."""

    def take(self, buffer: Buffer) -> bytes | None:
        """Take it out of the buffer; None if it is not all there yet.

        Raises:
          ReadLimitError: it is longer than it may be; nothing was taken. (The peer's.)
        """

    def __str__(self) -> str:
        """Name it, for errors."""


class Ended(Portion, Protocol):
    """What ends with something: a loop goes from one to the next."""

    def whole(self, piece: bytes) -> bytes | None:
        """Return what `take` would of a buffer with these octets alone, if nothing is left there.

        So what has come by itself, as most requests do, is given without a buffer. None if it is
        not that.
        """


@attrs.frozen
class Line:
    """A line that LF ends, or CR LF; it is returned without either."""

    limit: int
    """How long it may be, in octets, without its end."""

    def __str__(self) -> str:
        return "a line"

    def take(self, buffer: Buffer) -> bytes | None:
        """Take one line; see `Portion.take`."""
        line = buffer.take_line(self.limit) if buffer.size else None
        if line is not None:
            return line  # as nearly always
        length = buffer.find(b"\n")
        if length < 0:
            # An LF that comes yet would be behind one octet too many, even after a CR.
            if buffer.size > self.limit + 1:
                raise _too_long(self, self.limit)
            return None
        end = 1
        if length and buffer.octet(length - 1) == _CR:
            length -= 1
            end = 2
        if length > self.limit:
            raise _too_long(self, self.limit)
        return buffer.take(length, end)

    def whole(self, piece: bytes) -> bytes | None:
        """Return the line that these octets are, if they are one; see `Ended.whole`."""
        length = piece.find(b"\n")
        if length + 1 != len(piece):
            return None
        if length and piece[length - 1] == _CR:
            length -= 1
        return piece[:length] if length <= self.limit else None


@attrs.frozen
class Until:
    """What stands before a delimiter; it is returned without that."""

    delimiter: bytes
    limit: int
    """How much may stand before it, in octets."""

    def __str__(self) -> str:
        return f"what stands before {self.delimiter!r}"

    def take(self, buffer: Buffer) -> bytes | None:
        """Take what stands before the delimiter, and the delimiter; see `Portion.take`."""
        length = buffer.find(self.delimiter)
        # Without one, the first place where it may still begin is as good.
        if (length if length >= 0 else buffer.size - len(self.delimiter) + 1) > self.limit:
            raise _too_long(self, self.limit)
        return buffer.take(length, len(self.delimiter)) if length >= 0 else None

    def whole(self, piece: bytes) -> bytes | None:
        """Return these octets without the delimiter, if that ends them; see `Ended.whole`."""
        length = piece.find(self.delimiter)
        if length > self.limit or length + len(self.delimiter) != len(piece):
            return None
        return piece[:length] if length >= 0 else None


@attrs.frozen
class Exactly:
    """So many octets, and no fewer."""

    count: int

    def __str__(self) -> str:
        return f"{self.count} octets"

    def take(self, buffer: Buffer) -> bytes | None:
        """Take them; see `Portion.take`."""
        return buffer.take(self.count) if buffer.size >= self.count else None


@attrs.frozen
class Some:
    """Whatever is there, but no more than so many octets."""

    most: int

    def __str__(self) -> str:
        return "anything"

    def take(self, buffer: Buffer) -> bytes | None:
        """Take it; see `Portion.take`."""
        return buffer.take(min(self.most, buffer.size)) if buffer.size else None


def _too_long(portion: Portion, limit: int) -> ReadLimitError:
    return ReadLimitError(
        f"{portion} has more than max_octets={limit} octets, and nothing was taken of it; say"
        " good-bye to the peer, or read with a higher max_octets=",
        limit=limit,
    )
