"""What `http_server` promises its clients, on the network in memory: no port, and no waiting.

Run ``pytest examples``. The fixtures come with trio_wsk, where pytest-trio is installed, too.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import http_server
import pytest
import trio

import trio_wsk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from trio_wsk import Server
    from trio_wsk.testing import MemoryHost, MemoryStream

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
ECHO = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"


class Client:
    """A client that says whatever it is told to, and reads answers."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.reader = trio_wsk.Reader(stream)

    async def say(self, *parts: bytes) -> None:
        """Send something."""
        await self.stream.send_all(b"".join(parts))

    async def answer(self, *, has_content: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Read one answer: its status, its headers, its content."""
        head = (await self.reader.read_until(b"\r\n\r\n")).decode()
        status, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers.get("content-length", "0"))
        content = await self.reader.read_exactly(length) if has_content else b""
        return int(status.split()[1]), headers, content

    async def is_left_alone(self) -> bool:
        """Whether the server ends the connection, and says no more."""
        return not await self.reader.read_some()


@pytest.fixture
async def server(memory_server: MemoryHost) -> AsyncIterator[Server]:
    """Serve."""
    async with trio_wsk.open_server(
        http_server.serve,
        transport=memory_server.transport(80),
        idle_timeout=http_server.IDLE,
    ) as server:
        yield server


@asynccontextmanager
async def visiting(host: MemoryHost) -> AsyncIterator[Client]:
    """Connect a client."""
    async with await host.connect(("192.0.2.1", 80)) as stream:
        yield Client(stream)


@pytest.fixture
async def client(server: Server, memory_client: MemoryHost) -> AsyncIterator[Client]:
    """Connect one client."""
    async with visiting(memory_client) as client:
        yield client


# --- Answers -----------------------------------------------------------------------------


async def test_connection_is_kept(client: Client, autojump_clock: MockClock) -> None:
    """One request comes after the other on a connection, nearly as late as one likes."""
    for _ in range(3):
        await client.say(GET)
        status, headers, content = await client.answer()

        assert (200, http_server.GREETING) == (status, content)
        assert "connection" not in headers

        await trio.sleep(http_server.IDLE - 1)


async def test_pipelined_requests_are_answered_in_order(
    client: Client, autojump_clock: MockClock
) -> None:
    """Requests that come at once are all answered, wherever they are cut."""
    bodies = [b"body %d" % number for number in range(100)]
    sent = b"".join(ECHO + b"Content-Length: %d\r\n\r\n%b" % (len(each), each) for each in bodies)
    await client.say(sent[:1000])
    await trio.sleep(1)
    await client.say(sent[1000:])

    assert bodies == [(await client.answer())[2] for _ in bodies]


async def test_body_may_come_in_chunks(client: Client, autojump_clock: MockClock) -> None:
    """A body whose length is not known before is one, too."""
    await client.say(ECHO, b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n")

    assert b"hello" == (await client.answer())[2]


async def test_head_is_answered_without_content(client: Client, autojump_clock: MockClock) -> None:
    """HEAD gets the headers of GET, and the next answer follows at once."""
    await client.say(GET.replace(b"GET", b"HEAD"), GET)
    _, headers, _ = await client.answer(has_content=False)

    assert str(len(http_server.GREETING)) == headers["content-length"]
    assert http_server.GREETING == (await client.answer())[2]


@pytest.mark.parametrize(
    ("first", "expected"), [(b"GET /nowhere", 404), (b"PUT /", 405), (b"GET /echo", 405)]
)
async def test_what_is_not_there_is_said(
    first: bytes, expected: int, client: Client, autojump_clock: MockClock
) -> None:
    """What the application does not know is no reason to end the connection."""
    await client.say(GET.replace(b"GET /", first), GET)

    assert expected == (await client.answer())[0]
    assert 200 == (await client.answer())[0]


async def test_client_that_has_finished_gets_its_answer(
    client: Client, autojump_clock: MockClock
) -> None:
    """A client may finish sending when it has sent its request."""
    await client.say(GET)
    await client.stream.send_eof()

    assert 200 == (await client.answer())[0]
    assert await client.is_left_alone()


@pytest.mark.parametrize(
    "request_that_ends",
    [GET.replace(b"1.1", b"1.0"), GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")],
)
async def test_client_may_have_only_one_answer(
    request_that_ends: bytes, client: Client, autojump_clock: MockClock
) -> None:
    """Who says so, or speaks HTTP/1.0, has the connection ended after the answer."""
    await client.say(request_that_ends)
    status, headers, _ = await client.answer()

    assert (200, "close") == (status, headers["connection"])
    assert await client.is_left_alone()


async def test_client_may_ask_before_it_sends_a_body(
    client: Client, autojump_clock: MockClock
) -> None:
    """Who expects 100 gets it, if the body will be taken."""
    await client.say(ECHO, b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")

    assert 100 == (await client.answer())[0]

    await client.say(b"hello")

    assert b"hello" == (await client.answer())[2]


# --- Limits ------------------------------------------------------------------------------


TOO_MUCH = http_server.LARGEST_BODY + 1


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"what?\r\n\r\n", 400),
        (GET + b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * (http_server.LARGEST_HEAD + 1), 431),
        (ECHO + b"Content-Length: %d\r\n\r\n" % TOO_MUCH, 413),
        (ECHO + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % TOO_MUCH, 413),
        (ECHO + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b" % (TOO_MUCH, bytes(TOO_MUCH)), 413),
        (ECHO + b"Transfer-Encoding: rot13\r\n\r\n", 501),
        (GET[:20], 408),
        (ECHO + b"Content-Length: 5\r\n\r\nhell", 408),
    ],
    ids=["nonsense", "TLS", "head", "length", "expected", "chunk", "coding", "slow", "slow body"],
)
async def test_what_goes_too_far_is_answered(
    said: bytes, expected: int, client: Client, autojump_clock: MockClock
) -> None:
    """What can't be taken is told which limit it has met; then the connection ends."""
    await client.say(said)
    status, headers, _ = await client.answer()
    if status == 200:  # to what came before
        status, headers, _ = await client.answer()

    assert (expected, "close") == (status, headers["connection"])
    assert await client.is_left_alone()


async def test_silence_is_no_request(client: Client, autojump_clock: MockClock) -> None:
    """Who says nothing between two requests is not answered: the connection just ends."""
    await client.say(GET)
    await client.answer()

    assert await client.is_left_alone()
    assert http_server.IDLE == pytest.approx(trio.current_time(), abs=1)


async def test_request_that_is_cut_off_is_none(client: Client, autojump_clock: MockClock) -> None:
    """Half a request is not carried out."""
    await client.say(ECHO, b"Content-Length: 5\r\n\r\nhell")
    await client.stream.send_eof()

    assert 400 == (await client.answer())[0]


# --- The end -----------------------------------------------------------------------------


async def test_drain_waits_for_the_answer(
    server: Server, client: Client, memory_client: MemoryHost, autojump_clock: MockClock
) -> None:
    """
    Who is in the middle of a request when the server drains may finish it, and is told with the
    answer that it was the last; who is not loses nothing.
    """
    async with visiting(memory_client) as idle, trio.open_nursery() as nursery:
        await idle.say(GET)
        await idle.answer()
        await client.say(GET[:20])
        await trio.sleep(1)
        nursery.start_soon(server.drain)

        assert await idle.is_left_alone()

        await client.say(GET[20:])
        status, headers, _ = await client.answer()

        assert (200, "close") == (status, headers["connection"])
        assert await client.is_left_alone()
