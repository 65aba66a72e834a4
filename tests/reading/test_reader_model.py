"""Tests of `trio_wsk.Reader` against a model that has all octets in sight."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.reads import Call, check_reads, cut
from tests.helpers.streams import Pieces
from trio_wsk import IncompleteReadError, Reader

OCTETS = st.lists(st.sampled_from([b"a", b"b", b"\r", b"\n", b"\r\n", b"ab\r\n", b"aaaa"])).map(
    b"".join
)
CALLS = st.lists(
    st.one_of(
        st.builds(Call, st.just("line"), number=st.integers(1, 9)),
        st.builds(Call, st.just("exactly"), number=st.integers(0, 9)),
        st.builds(
            Call,
            st.just("until"),
            st.sampled_from([b"\r\n", b"a", b"ab", b"\r\n\r\n", b"aab"]),
            st.integers(1, 9),
        ),
    )
)


@given(OCTETS, st.lists(st.integers(1, 5)), CALLS)
def test_what_is_read_depends_on_the_octets_alone(
    octets: bytes, sizes: list[int], calls: list[Call]
) -> None:
    """
    Whatever comes, however it is cut, and whatever is read of it: each call gives what it would
    give with everything in sight, or raises the same error, and takes nothing then.
    """
    trio.run(check_reads, octets, sizes, calls)


@given(OCTETS, st.lists(st.integers(1, 5)), st.sampled_from([None, b"\r\n", b"ab"]))
def test_loops_give_the_lines(octets: bytes, sizes: list[int], delimiter: bytes | None) -> None:
    """
    `lines` gives each line and ends with the stream, and `batches` gives the same ones, some at a
    time; what is not finished is an error behind them.
    """

    async def read() -> None:
        *lines, unfinished = octets.split(delimiter or b"\n")
        if delimiter is None:
            lines = [line.removesuffix(b"\r") for line in lines]
        for batched in (False, True):
            got: list[bytes] = []
            reader = Reader(Pieces(cut(octets, sizes)))
            try:
                if batched:
                    async for batch in reader.batches(delimiter):
                        assert batch
                        got += batch
                else:
                    async for line in reader.lines(delimiter):
                        got.append(line)
                partial = b""
            except IncompleteReadError as error:
                partial = error.partial
            assert lines == got
            assert unfinished == partial

    trio.run(read)
