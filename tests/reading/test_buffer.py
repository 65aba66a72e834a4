"""Tests of `trio_wsk._reading.buffer`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsk._reading.buffer import SMALL, Buffer

if TYPE_CHECKING:
    from collections.abc import Iterable

LENGTHS = st.sampled_from([1, 2, 3, 5, 40, SMALL - 1, SMALL, SMALL + 1])
PIECES = st.builds(
    lambda octets, length: (octets * length)[:length], st.binary(min_size=1), LENGTHS
)
LETTERS = st.lists(st.sampled_from([b"a", b"b", b"ab", b"aab", b"x" * SMALL + b"a"]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), PIECES),
        st.tuples(st.just("take"), st.integers(1, 2 * SMALL)),
        st.tuples(st.just("look"), st.integers(0, 2 * SMALL)),
        st.tuples(st.just("settle"), st.just(0)),
    )
)


@given(STEPS)
def test_buffer_is_a_queue_of_octets(steps: list[tuple[str, bytes | int]]) -> None:
    """
    Whatever is added, taken and let go of: what is there is what was added, less what was taken,
    in its order.
    """
    buffer = Buffer()
    there = b""
    for what, how in steps:
        if what == "add":
            assert isinstance(how, bytes)
            buffer.add(how)
            there += how
        elif what == "settle":
            buffer.settle()
        elif there:
            assert isinstance(how, int)
            count = how % len(there) + 1
            if what == "take":
                drop = (len(there) - count) // 2
                assert there[:count] == buffer.take(count, drop)
                there = there[count + drop :]
            else:
                assert there[count - 1] == buffer.octet(count - 1)
        assert len(there) == buffer.size
        assert there == buffer.show()


@given(LETTERS, st.sampled_from([b"a", b"b", b"ab", b"ba", b"aab", b"bb"]))
def test_find_is_that_of_bytes(pieces: list[bytes], delimiter: bytes) -> None:
    """
    However the octets are cut, and whenever one has looked before, the first place of a delimiter
    is what `bytes.find` says of all of them together.
    """
    buffer = Buffer()
    buffer.add(b"ab")
    buffer.take(1)
    there = b"b"
    for piece in pieces:
        buffer.add(piece)
        there += piece
        assert there.find(delimiter) == buffer.find(delimiter)
        assert there.find(b"aa") == buffer.find(b"aa")
        assert there.find(delimiter) == buffer.find(delimiter)


class Counted(bytes):
    """Octets that count how often one of them is looked at."""

    looked_at = 0

    def find(self, *arguments: Any) -> int:
        """Look for something from a place on."""
        found = super().find(*arguments)
        Counted.looked_at += (len(self) if found < 0 else found) - arguments[1]
        return found


class CountingBuffer(Buffer):
    """The real one, which counts what it copies, and what it looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.copied = 0
        Counted.looked_at = 0

    def _joined(self, parts: Iterable[bytes | memoryview]) -> bytes:
        joined = Counted(super()._joined(parts))
        self.copied += len(joined)
        return joined


@pytest.mark.parametrize("length", [1, 7, SMALL, 98304])
def test_searching_and_copying_are_linear_in_what_has_come(length: int) -> None:
    """
    A delimiter that is looked for after each of a hundred thousand pieces is not looked for twice
    in the same octets; and of a peer that sends one octet at a time, each octet is copied a dozen
    times at most, and once when it is taken. What comes in long pieces is copied once.
    """
    count = max(100_000 // length, 40)
    buffer = CountingBuffer()
    for _ in range(count):
        buffer.add(Counted(b"x" * length))
        assert buffer.find(b"\r\n") < 0
    octets = length * count
    before = buffer.copied
    assert octets == len(buffer.take(octets, 0))

    assert Counted.looked_at <= 4 * octets
    assert before <= (13 * octets if length < SMALL else 0)
    assert octets == buffer.copied - before


def test_single_octets_weigh_little() -> None:
    """What came one octet at a time is kept in few pieces: not one of forty octets for each."""
    buffer = Buffer()
    for _ in range(65536):
        buffer.add(b"x")

    assert len(buffer._pieces) < 40  # noqa: SLF001 - what it weighs can't be asked


def test_what_lies_in_one_piece_is_not_copied_to_be_joined() -> None:
    """A line that lies in one piece is a slice of it, and a whole piece is that piece itself."""
    buffer = CountingBuffer()
    piece = b"one\ntwo\nthree\n"
    buffer.add(piece)
    assert [b"one", b"two", b"three"] == [buffer.take(buffer.find(b"\n"), 1) for _ in range(3)]
    buffer.add(piece)

    assert buffer.take(len(piece)) is piece
    assert 0 == buffer.copied


def test_a_long_piece_is_let_go_of_for_the_little_that_is_left() -> None:
    """Who sends 96 KiB and then nothing has what is left of it kept, not all of it."""
    buffer = Buffer()
    buffer.add(b"x" * 98303 + b"y")
    buffer.take(98303)
    buffer.settle()

    [kept] = buffer._pieces  # noqa: SLF001 - as above
    assert sys.getsizeof(kept) < 64
    assert b"y" == buffer.show()
