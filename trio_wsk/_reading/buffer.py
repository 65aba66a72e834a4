"""Octets that were received and not yet taken, in the pieces in which they came.

What is taken out of one piece is a slice of it, and what spans several is joined once: no octet
is copied twice on its way to the caller. Small pieces are the exception. A peer may send one octet
at a time, and a piece weighs some forty octets by itself; so a piece that is smaller than `SMALL`
is joined to those before it that are no longer. Each time an octet waits for that, the piece that
it is in at least doubles: what is copied in all is linear in what has come.

The same goes for searching, which goes on from where it has last ended in vain.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SMALL", "Buffer"]

_CR: Final = ord("\r")

SMALL: Final = 4096
"""Pieces of that size are left as they came: what each weighs by itself is a hundredth of it."""


class Buffer:
    """What was received and not yet taken."""

    __slots__ = ("_pieces", "_searched", "_searched_for", "_start", "size", "taken")

    def __init__(self) -> None:
        self.size = 0
        """How many octets there are."""
        self.taken = 0
        """How many there were, and were taken."""
        self._pieces: list[bytes] = []  # each has something that is not taken
        self._start = 0  # how much of the first one is
        self._searched_for = b""
        self._searched = 0  # the first octet at which that may still begin

    # --- Coming ------------------------------------------------------------------------

    def add(self, piece: bytes) -> None:
        """Put octets behind the others; at least one."""
        self.size += len(piece)
        if self._pieces and len(piece) < SMALL:
            piece = self._with_smaller_ones(piece)
        self._pieces.append(piece)

    def _with_smaller_ones(self, piece: bytes) -> bytes:
        """Join a piece to those right before it that are no longer, which are taken out."""
        pieces = self._pieces
        parts = [piece]
        length = len(piece)
        while pieces and length < SMALL:
            last = pieces[-1]
            start = self._start if len(pieces) == 1 else 0
            if len(last) - start > length:
                break
            pieces.pop()
            if start:
                last = last[start:]
                self._start = 0
            parts.append(last)
            length += len(last)
        return piece if len(parts) == 1 else self._joined(reversed(parts))

    def settle(self) -> None:
        """Let go of what is taken of a piece, if that is more than what is left of it.

        For before a wait: who has sent a long piece, and then nothing, would have all of it kept.
        """
        if self._pieces and self._start > len(self._pieces[0]) - self._start:
            self._pieces[0] = self._pieces[0][self._start :]
            self._start = 0

    # --- Looking -----------------------------------------------------------------------

    def find(self, delimiter: bytes) -> int:
        """Return how many octets stand before the delimiter; -1 if it is not there."""
        begin = self._searched if self._searched_for == delimiter else 0
        pieces = self._pieces
        if len(pieces) == 1:
            found = pieces[0].find(delimiter, self._start + begin) - self._start
        else:
            found = self._find_across(delimiter, begin)
        if found >= 0:
            return found
        self._searched_for = delimiter
        self._searched = max(self.size - len(delimiter) + 1, 0)
        return -1

    def _find_across(self, delimiter: bytes, begin: int) -> int:
        """Find a delimiter that begins at an octet, or behind it; in one piece or across some."""
        index, at = self._piece_of(begin)
        reach = len(delimiter) - 1
        before = b""  # the last octets of the pieces before, with which it may begin
        for piece in islice(self._pieces, index, None):
            if before:
                found = (before + piece[:reach]).find(delimiter)
                if found >= 0:
                    return at - len(before) + found
            start = max(begin - at, 0)
            found = piece.find(delimiter, start)
            if found >= 0:
                return at + found
            if reach:
                before = (before + piece[max(len(piece) - reach, start) :])[-reach:]
            at += len(piece)
        return -1

    def _piece_of(self, octet: int) -> tuple[int, int]:
        """Return which piece has an octet, and at which octet that piece begins.

        From the end on, where searches go on. The first piece begins before the first octet, by
        what is taken of it.
        """
        index = len(self._pieces)
        at = self.size
        while index and (at > octet or index == len(self._pieces)):
            index -= 1
            at -= len(self._pieces[index])
        return index, at

    def octet(self, index: int) -> int:
        """Return one octet; there are more than ``index``."""
        first = self._pieces[0]
        if self._start + index < len(first):
            return first[self._start + index]
        piece, at = self._piece_of(index)
        return self._pieces[piece][index - at]

    def show(self) -> bytes:
        """Return all there is, and leave it there."""
        return self._joined(self._parts(self.size))

    # --- Going -------------------------------------------------------------------------

    def take(self, count: int, drop: int = 0) -> bytes:
        """Take so many octets out, and throw away some behind them; there are as many, and one."""
        start = self._start
        end = start + count
        first = self._pieces[0]
        data = first[start:end] if end <= len(first) else self._joined(self._parts(count))
        self.size -= count + drop
        self.taken += count + drop
        self._searched = 0
        end += drop
        if end < len(first):
            self._start = end
        elif self.size:
            self._drop_pieces(end)
        else:
            self._pieces.clear()
            self._start = 0
        return data

    def take_line(self, most: int) -> bytes | None:
        """Take a line that lies in the first piece, without LF or CR LF, its end.

        None if there is no such line, or it has more than so many octets, or was looked for in
        vain before: `find` knows.
        """
        piece = self._pieces[0]
        start = self._start
        end = piece.find(b"\n", start) + 1
        gone = end - start
        if end == 0 or gone > most or self._searched:
            return None
        self.size -= gone
        self.taken += gone
        if end < len(piece):
            self._start = end
        else:
            self._start = 0
            del self._pieces[0]
        return piece[start : end - (2 if gone > 1 and piece[end - 2] == _CR else 1)]

    def _drop_pieces(self, start: int) -> None:
        """Take out what is all taken, that many octets from the beginning of the first piece."""
        gone = 0
        for piece in self._pieces:
            if len(piece) > start:
                break
            start -= len(piece)
            gone += 1
        del self._pieces[:gone]
        self._start = start

    def _parts(self, count: int) -> Iterable[memoryview]:
        """Go through so many octets, without copying any."""
        start = self._start
        for piece in self._pieces:
            if count <= 0:
                break
            part = memoryview(piece)[start : start + count]
            yield part
            count -= part.nbytes
            start = 0

    def _joined(self, parts: Iterable[bytes | memoryview]) -> bytes:
        """Copy these, the one time that they are."""
        return b"".join(parts)
