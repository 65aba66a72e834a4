"""What metrics don't ask of HTTP: requests that bring something along, and streams."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from tests.helpers.scraping import Scraper
from trio_wsk import Server, serve
from trio_wsk._http.answering import (
    LARGEST_CONTENT,
    PART_SECONDS,
    READING,
    REQUEST_SECONDS,
    answer_requests,
)
from trio_wsk._http.messages import Page, Request, Send, Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from trio_wsk.testing import MemoryHost, MemoryNetwork, MemoryStream

PART = b"x" * 65536


@attrs.frozen
class World:
    """A server on the network in memory that says what it was asked, or streams."""

    server: Server
    network: MemoryNetwork
    asked: list[Request]
    sent: list[int]
    """How many parts have been sent of each stream so far."""

    async def connect(self) -> MemoryStream:
        """Connect a client."""
        return await self.network.host("192.0.2.2").connect(("192.0.2.1", 80))


@asynccontextmanager
async def serving(network: MemoryNetwork, host: MemoryHost, parts: int) -> AsyncIterator[World]:
    """Serve a page, and a stream of so many parts."""
    asked: list[Request] = []
    sent: list[int] = []

    async def produce(send: Send) -> None:
        sent.append(0)
        mine = len(sent) - 1
        for _ in range(parts):
            await send(PART)
            sent[mine] += 1

    async def respond(request: Request) -> Page | Stream:
        await trio.lowlevel.checkpoint()
        asked.append(request)
        return Stream(produce, "text/x") if request.path == "/stream" else Page(b"page\n")

    handler = partial(answer_requests, respond, methods=READING | {"POST"})
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve, handler, transport=host.transport(80)))
        yield World(server, network, asked, sent)
        nursery.cancel_scope.cancel()


async def test_content_is_brought_along(
    memory_network: MemoryNetwork, memory_server: MemoryHost
) -> None:
    """What a POST brings is given on, with its headers; one of two of a name after the other."""
    async with serving(memory_network, memory_server, 0) as world:
        client = Scraper(await world.connect())
        await client.stream.send_all(
            b"POST /a?b HTTP/1.1\r\nHost: x\r\nA: 1\r\nA: 2\r\nContent-Length: 5\r\n\r\nhel"
        )
        await client.stream.send_all(b"lo")
        answer = await client.answer()
        await client.stream.aclose()

    headers = {"host": "x", "a": "1, 2", "content-length": "5"}
    assert [Request("POST", "/a", headers, b"hello")] == world.asked
    assert (200, b"page\n") == (answer.status, answer.content)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {large}\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{hex}\r\n", 413),
        ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n", 413),
        ("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
    ],
)
async def test_too_much_is_refused(
    memory_network: MemoryNetwork, memory_server: MemoryHost, head: str, status: int
) -> None:
    """What may bring something has its limit, whatever it says; and other methods are refused."""
    large = LARGEST_CONTENT + 1
    async with serving(memory_network, memory_server, 0) as world:
        client = Scraper(await world.connect())
        text = head.format(large=large, hex=f"{large:x}")
        await client.stream.send_all(text.encode() + b"x" * large)
        answer = await client.answer()

        assert status == answer.status
        assert ("get, head, post" if status == 405 else None) == answer.headers.get("allow")
        assert await client.is_left_alone()
        await client.stream.aclose()
    assert [] == world.asked


async def test_content_that_stalls_is_told(
    memory_network: MemoryNetwork, memory_server: MemoryHost, autojump_clock: MockClock
) -> None:
    """Content has the time that its head has begun to use up."""
    async with serving(memory_network, memory_server, 0) as world:
        client = Scraper(await world.connect())
        began = trio.current_time()
        await client.stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel")

        assert 408 == (await client.answer()).status
        assert REQUEST_SECONDS == trio.current_time() - began
        await client.stream.aclose()


async def read_chunks(stream: trio.abc.ReceiveStream) -> bytes:
    """Read a head, and chunks up to the last one."""
    octets = bytearray()
    while not octets.endswith(b"\r\n0\r\n\r\n"):
        octets += await stream.receive_some()
    return bytes(octets)


async def test_stream_comes_in_parts(
    memory_network: MemoryNetwork, memory_server: MemoryHost
) -> None:
    """A stream is sent part by part; after it the connection goes on."""
    async with serving(memory_network, memory_server, 3) as world:
        client = await world.connect()
        await client.send_all(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, parts = (await read_chunks(client)).partition(b"\r\n\r\n")
        again = await Scraper(client).get("/")
        none = await Scraper(client).get("/stream", method="HEAD")
        await client.aclose()

    assert b"content-type: text/x" in head.lower()
    assert b"transfer-encoding: chunked" in head.lower()
    assert (b"10000\r\n" + PART + b"\r\n") * 3 + b"0\r\n\r\n" == parts
    assert (200, 200, b"") == (again.status, none.status, none.content)


async def test_who_takes_no_parts_is_reset(
    memory_network: MemoryNetwork, memory_server: MemoryHost, autojump_clock: MockClock
) -> None:
    """
    Who does not take a part for ten seconds is reset, and it is nobody's crash; who does has
    everything meanwhile.
    """
    async with serving(memory_network, memory_server, 100) as world:
        stuck, well = await world.connect(), await world.connect()
        began = trio.current_time()
        for client in (stuck, well):
            await client.send_all(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert len(await read_chunks(well)) > 100 * len(PART)
        assert trio.current_time() == began
        while world.server.statistics().open_connections > 1:  # noqa: ASYNC110 - time is virtual
            await trio.sleep(1)

        assert PART_SECONDS <= trio.current_time() - began < 2 * PART_SECONDS
        assert 0 == world.server.statistics().handler_failures
        assert world.sent[0] < 100
        with pytest.raises(trio.BrokenResourceError):
            await read_chunks(stuck)
        for client in (stuck, well):
            await client.aclose()
