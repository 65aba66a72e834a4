"""Readers: what is read is octets, and why there is no more is one of few."""

from __future__ import annotations

import trio
from typing_extensions import assert_type

from trio_wsk import Connection, More, Reader


async def over_a_connection(connection: Connection) -> None:
    """What is read is octets, never None."""
    reader = Reader(connection, max_octets=512)
    assert_type(await reader.read_line(), bytes)
    assert_type(await reader.read_until(b"\r\n", max_octets=10), bytes)
    assert_type(await reader.read_exactly(10), bytes)
    assert_type(await reader.read_some(), bytes)
    assert_type(reader.unread, bytes)
    async for line in reader.lines(idle=60):
        assert_type(line, bytes)
    async for lines in reader.batches(b"\r\n"):
        assert_type(lines, list[bytes])
    await reader.read_until("\r\n")  # type: ignore[arg-type]  # not octets


async def between_two_requests(connection: Connection, stream: trio.SSLStream[Connection]) -> None:
    """Whether there is more says why not; over TLS and over any receive stream, too."""
    assert_type(await connection.more(idle=60), More)
    reader = Reader(stream)
    assert_type(await reader.more(), More)
    assert_type(reader.ended, More | None)
    Reader(trio.testing.memory_stream_one_way_pair()[1])
    Reader("text")  # type: ignore[arg-type]  # no stream
