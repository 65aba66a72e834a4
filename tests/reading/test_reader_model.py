"""Tests of `trio_wsk.Reader` against a model that has all octets in sight."""

from __future__ import annotations

import attrs
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.streams import Pieces
from trio_wsk import EndOfStreamError, IncompleteReadError, Reader, ReadLimitError


@attrs.frozen
class Call:
    """One call of a reader, and what it should do, said once more with all octets in sight."""

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


def cut(octets: bytes, sizes: list[int]) -> list[bytes]:
    """Cut octets into pieces of these sizes, and the rest."""
    pieces = []
    for size in sizes:
        pieces.append(octets[:size])
        octets = octets[size:]
    return [piece for piece in (*pieces, octets) if piece]


@given(OCTETS, st.lists(st.integers(1, 5)), CALLS)
def test_what_is_read_depends_on_the_octets_alone(
    octets: bytes, sizes: list[int], calls: list[Call]
) -> None:
    """
    Whatever comes, however it is cut, and whatever is read of it: each call gives what it would
    give with everything in sight, or raises the same error, and takes nothing then.
    """

    async def read() -> None:
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

    trio.run(read)


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
