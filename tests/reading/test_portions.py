"""Tests of `trio_wsk._reading.portions`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_wsk import ReadLimitError
from trio_wsk._reading.buffer import Buffer
from trio_wsk._reading.portions import Line, Until

if TYPE_CHECKING:
    from trio_wsk._reading.portions import Ended

PIECES = st.lists(
    st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"aab"]), min_size=1, max_size=6
).map(b"".join)
ENDED = st.one_of(
    st.builds(Line, st.integers(1, 5)),
    st.builds(
        Until, st.sampled_from([b"\n", b"\r\n", b"a", b"aab", b"\r\n\r\n"]), st.integers(1, 5)
    ),
)


@given(ENDED, PIECES)
@example(Line(5), b"aaaaa\r\n")
def test_what_has_come_by_itself_is_what_a_buffer_would_give(portion: Ended, piece: bytes) -> None:
    """
    Where octets are one line and nothing else, they are given as a buffer would give them; else a
    buffer is needed: there is more, or less, or it is too long.
    """
    buffer = Buffer()
    buffer.add(piece)
    try:
        taken = portion.take(buffer)
    except ReadLimitError:
        taken = None

    assert (None if buffer.size else taken) == portion.whole(piece)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_limit_is_of_a_line_without_its_end(end: bytes) -> None:
    """As long as it may be is not too long, whichever its end is, in one piece and in two."""
    for pieces in ([b"12345" + end], [b"12345", end]):
        buffer = Buffer()
        for piece in pieces:
            buffer.add(piece)

        assert b"12345" == Line(5).take(buffer)
    with pytest.raises(ReadLimitError):
        Line(5).take(_with(b"123456" + end))


def _with(piece: bytes) -> Buffer:
    buffer = Buffer()
    buffer.add(piece)
    return buffer
