"""Tests of `trio_wsk.Reader`: what it reads is right, whole, and bounded."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.helpers.pairs import open_pair
from tests.helpers.streams import KINDS, Pieces, finish, open_streams
from tests.helpers.support import reset
from trio_wsk import (
    ConnectionBrokenError,
    EndOfStreamError,
    IncompleteReadError,
    Reader,
    ReadLimitError,
    SocketBusyError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")


# --- What is read -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_reads_from_any_stream(kind: str) -> None:
    """A conversation of lines, counts and delimiters comes out of each kind of stream."""
    async with open_streams(kind) as (stream, peer):
        reader = Reader(stream)
        await peer.send_all(b"SET key 5\r\nva\r\n!END.\0r")

        assert b"SET key 5" == await reader.read_line()
        assert b"va\r\n!" == await reader.read_exactly(5)
        assert b"END." == await reader.read_until(b"\0")
        assert b"r" == await reader.read_some()

        await peer.send_all(b"one\ntwo\n")
        await finish(peer)

        assert [b"one", b"two"] == [line async for line in reader.lines()]
        with pytest.raises(EndOfStreamError):
            await reader.read_line()
        assert b"" == await reader.read_some()
        assert b"" == await reader.read_exactly(0)


async def test_reads_from_a_stream_that_gives_bytearrays() -> None:
    """A stream may give a ``bytearray``, and use it again: what is read is octets of our own."""
    piece = bytearray(b"one\ntwo\n")
    reader = Reader(Pieces([piece]))
    line = await reader.read_line()
    piece[:] = b"x" * 8

    assert b"one" == line
    assert b"two" == await reader.read_line()


@pytest.mark.parametrize("length", [98304, 1 << 20])
async def test_reads_much(length: int) -> None:
    """What is larger than any receive comes whole, and what follows it, too."""
    content = bytes(range(256)) * (length // 256)
    async with open_streams("socket") as (stream, peer), trio.open_nursery() as nursery:
        reader = Reader(stream)
        nursery.start_soon(peer.send_all, content + b"\nmore\n")

        assert content == await reader.read_exactly(length)
        assert b"" == await reader.read_line()
        assert b"more" == await reader.read_line()


async def test_pipelined_lines_are_received_at_once() -> None:
    """Of what a client sends at once, the lines are given without asking the stream again."""
    stream = Pieces([b"one\ntwo\nthree\n", b"four\n"])
    reader = Reader(stream)

    assert [b"one", b"two", b"three"] == [await reader.read_line() for _ in range(3)]
    assert 1 == len(stream.pieces)

    stream = Pieces([b"one\ntwo\nthr", b"ee\nfour\n"])
    batches = [batch async for batch in Reader(stream).batches()]
    assert [[b"one", b"two"], [b"three", b"four"]] == batches


# --- Limits -----------------------------------------------------------------------------------


async def test_limit_is_named_and_nothing_is_taken() -> None:
    """
    A line that is too long is an error that names the limit, again and again, until it is read
    with a higher one; what is allowed is so to the last octet, without its end.
    """
    reader = Reader(Pieces([b"12345\r", b"\n123456\r\n"]), max_octets=5)

    assert b"12345" == await reader.read_line()
    for _ in range(2):
        with pytest.raises(ReadLimitError, match="max_octets=5") as caught:
            await reader.read_line()
        assert 5 == caught.value.limit
        with pytest.raises(ReadLimitError):
            await reader.read_until(b"\r\n")
    assert b"123456\r\n" == reader.unread
    assert b"123456" == await reader.read_line(max_octets=6)


async def test_what_has_no_end_is_refused_when_it_is_too_long() -> None:
    """Who never ends the line does not fill our memory: no more is received than the limit asks."""
    stream = Pieces([b"x" * 10] * 100)
    reader = Reader(stream, max_octets=25)

    with pytest.raises(ReadLimitError):
        await reader.read_line()

    assert 30 == len(reader.unread)
    assert 97 == len(stream.pieces)


async def test_batch_ends_before_what_is_too_long() -> None:
    """The lines before one that is too long are given, and then the error is raised."""
    reader = Reader(Pieces([b"1\n2\n12345\n"]))
    batches = reader.batches(max_octets=4)

    assert [b"1", b"2"] == await anext(batches)
    with pytest.raises(ReadLimitError):
        await anext(batches)


# --- Ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_end_in_the_middle_is_told_from_the_end_between(kind: str) -> None:
    """Who finishes in the middle of a line gives another error than who has said all."""
    async with open_streams(kind) as (stream, peer):
        reader = Reader(stream)
        await peer.send_all(b"whole\npart")
        await finish(peer)

        assert b"whole" == await reader.read_line()
        for _ in range(2):
            with pytest.raises(IncompleteReadError, match="middle of a line, after 4") as caught:
                await reader.read_line()
            assert b"part" == caught.value.partial
        with pytest.raises(IncompleteReadError, match="middle of a line"):
            await anext(reader.lines())
        assert b"part" == await reader.read_exactly(4)
        with pytest.raises(EndOfStreamError, match="1 octets was to be read"):
            await reader.read_exactly(1)
        with pytest.raises(StopAsyncIteration):
            await anext(reader.lines())


async def test_errors_of_ends_are_pythons_and_not_each_others() -> None:
    """Either end is an EOFError, and one is not taken for the other; they survive pickling."""
    assert issubclass(EndOfStreamError, EOFError)
    assert issubclass(IncompleteReadError, EOFError)
    assert not issubclass(IncompleteReadError, EndOfStreamError)
    assert not issubclass(EndOfStreamError, IncompleteReadError)

    async with open_pair() as (connection, client):
        await client.send_all(b"part")
        await client.send_eof()
        with pytest.raises(IncompleteReadError) as caught:
            await Reader(connection).read_line()
    assert connection is caught.value.connection
    sent = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert (b"part", None) == (sent.partial, sent.connection)


async def test_what_came_before_a_reset_is_read() -> None:
    """Lines that were received before the peer has reset are given; then the error is."""
    async with open_pair() as (connection, client):
        reader = Reader(connection)
        await client.send_all(b"one\ntwo\n")
        assert b"one" == await reader.read_line()
        reset(client)

        assert b"two" == await reader.read_line()
        with pytest.raises(ConnectionBrokenError):
            await reader.read_line()


async def test_reader_does_not_own_the_stream() -> None:
    """
    A reader that is dropped leaves the connection open, and what it has received ahead is told:
    whoever goes on without it begins with that.
    """
    async with open_pair() as (connection, client):
        await client.send_all(b"upgrade\nnew")
        reader = Reader(connection)
        await reader.read_line()
        ahead = reader.unread
        del reader
        await client.send_all(b" protocol")

        assert b"new" == ahead
        assert b" protocol" == await connection.receive_some()


# --- Trio's contract --------------------------------------------------------------------------

READS: dict[str, Callable[[Reader], Awaitable[object]]] = {
    "line": lambda reader: reader.read_line(),
    "until": lambda reader: reader.read_until(b"\n"),
    "exactly": lambda reader: reader.read_exactly(4),
    "nothing": lambda reader: reader.read_exactly(0),
    "some": lambda reader: reader.read_some(4),
    "lines": lambda reader: anext(reader.lines()),
    "batches": lambda reader: anext(reader.batches()),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_each_call_is_a_checkpoint(read: Callable[[Reader], Awaitable[object]]) -> None:
    """
    Whether it is served from what is there, has to receive, has ended or fails: each call is a
    cancel point, and lets other tasks run.
    """
    reader = Reader(Pieces([b"one\ntwo\n3", b"33\n"]), max_octets=5)
    for _ in range(5):
        with assert_checkpoints():
            try:
                await read(reader)
            except (EOFError, StopAsyncIteration):
                pass
    with assert_checkpoints():
        try:
            await read(Reader(Pieces([b"x" * 99]), max_octets=5))
        except ReadLimitError:
            pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loop", ["lines", "batches"])
async def test_loop_is_a_checkpoint_on_every_stream(kind: str, loop: str) -> None:
    """A line that is there already, one that is waited for, and the end: each is a checkpoint."""
    async with open_streams(kind) as (stream, peer):
        lines = getattr(Reader(stream), loop)()
        for send in (peer.send_all, peer.send_all, lambda _: finish(peer)):
            await send(b"line\n")
            with assert_checkpoints():
                try:
                    await anext(lines)
                except StopAsyncIteration:
                    pass
        async with open_streams(kind) as (another, later), trio.open_nursery() as nursery:
            lines = getattr(Reader(another), loop)()
            with assert_checkpoints():
                nursery.start_soon(later.send_all, b"line\n")
                await anext(lines)


@pytest.mark.parametrize("kind", KINDS)
async def test_loop_goes_on_with_what_the_body_has_left(kind: str) -> None:
    """What comes by itself, with others, in parts, and after a read of the body: all is given."""
    async with open_streams(kind) as (stream, peer):
        reader = Reader(stream)
        lines = reader.lines()
        await peer.send_all(b"one\n")
        assert b"one" == await anext(lines)
        await peer.send_all(b"two\r\nthr")
        assert b"two" == await anext(lines)
        await peer.send_all(b"ee\n4four\n")
        assert b"three" == await anext(lines)
        assert b"4" == await reader.read_exactly(1)
        assert b"four" == await anext(lines)
        assert b"" == reader.unread
        assert reader.ended is None


async def test_loop_lets_others_run() -> None:
    """A loop over a thousand lines that came at once, with nothing in it, does not keep the run."""
    turns = 0

    async def _take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_take_turns)
        async for _ in Reader(Pieces([b"line\n" * 1000])).lines():
            pass
        nursery.cancel_scope.cancel()

    assert turns > 990


class Turns(trio.abc.Instrument):
    """Counts how often the task that has made it goes on."""

    def __init__(self) -> None:
        self.count = 0
        self._task = trio.lowlevel.current_task()
        trio.lowlevel.add_instrument(self)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count one."""
        self.count += task is self._task


async def test_loop_over_a_connection_lets_others_run_once_for_each_line() -> None:
    """
    A line that is there already is given at once if the loop's body has sent its answer, which has
    let others run; else others run first.
    """
    async with open_pair() as (connection, peer):
        turns = Turns()
        lines = Reader(connection).lines()
        waits = []
        for answer in (b"answer", b"", b"answer", b""):
            await peer.send_all(b"line\n")
            await wait_all_tasks_blocked()
            before = turns.count
            await anext(lines)
            waits.append(turns.count - before)
            if answer:
                await connection.send_all(answer)
        trio.lowlevel.remove_instrument(turns)

        assert [1, 0, 1, 0] == waits


async def test_loop_over_a_connection_is_a_cancel_point_for_each_line() -> None:
    """A loop whose body has let others run gives no line to who is cancelled, and loses none."""
    async with open_pair() as (connection, peer):
        lines = Reader(connection).lines()
        await connection.send_all(b"answer")
        await peer.send_all(b"line\n")
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(lines)

        assert scope.cancelled_caught
        assert b"line" == await anext(lines)


async def test_more_lets_others_run_whatever_was_sent_before() -> None:
    """What is no loop is a checkpoint by itself, also where an answer has let others run."""
    async with open_pair() as (connection, peer):
        await connection.send_all(b"answer")
        await peer.send_all(b"line\n")
        await wait_all_tasks_blocked()
        with assert_checkpoints():
            await Reader(connection).more()


async def test_loop_with_a_checkpoint_in_its_body_is_a_cancel_point() -> None:
    """Where the body of a loop lets others run, each line is still a cancel point."""
    lines = Reader(Pieces([b"one\ntwo\n"])).lines()
    await anext(lines)
    await trio.lowlevel.checkpoint()
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(lines)
    assert scope.cancelled_caught
    assert b"two" == await anext(lines)


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("kind", KINDS)
async def test_cancelled_read_has_taken_nothing(
    kind: str, read: Callable[[Reader], Awaitable[object]]
) -> None:
    """What has come of a line when its read is cancelled is there for the next one."""
    async with open_streams(kind) as (stream, peer):
        reader = Reader(stream)
        for octet in b"one":
            await peer.send_all(bytes([octet]))
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(reader.read_line)
                    await wait_all_tasks_blocked()
                    scope.cancel()
        with trio.CancelScope() as scope:
            scope.cancel()
            await read(reader)
        assert scope.cancelled_caught
        await peer.send_all(b"\n")

        assert b"one" == await reader.read_line()


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_one_task_at_a_time_reads(read: Callable[[Reader], Awaitable[object]]) -> None:
    """Who reads while another task does is told so, and the other goes on."""
    async with open_streams("socket") as (stream, peer), trio.open_nursery() as nursery:
        reader = Reader(stream)
        lines: list[bytes] = []

        async def _read_line() -> None:
            lines.append(await reader.read_line())

        nursery.start_soon(_read_line)
        await wait_all_tasks_blocked()
        if read is not READS["nothing"]:
            with assert_checkpoints(), pytest.raises(SocketBusyError, match="another task"):
                await read(reader)
        await peer.send_all(b"line\n")
        await wait_all_tasks_blocked()

        assert [b"line"] == lines


def test_reader_says_what_it_reads() -> None:
    """Its text names the stream, and how much is unread."""
    reader = Reader(stream := Pieces([]))

    assert f"<Reader of {stream!r}, 0 octets unread>" == repr(reader)
