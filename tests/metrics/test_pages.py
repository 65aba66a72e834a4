"""`serve_metrics`: the pages, what clients may do, and what they are told who may not."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from tests.helpers.foreign import foreign
from tests.helpers.scraping import Scraper, check_with_promtool, parse_openmetrics, samples
from tests.helpers.support import connect_now, until
from trio_wsk import Server, open_server
from trio_wsk._http.answering import LARGEST_HEAD, REQUEST_SECONDS
from trio_wsk.metrics import Collector, serve_metrics
from trio_wsk.metrics._serving import IDLE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from trio_wsk import Connection
    from trio_wsk.testing import MemoryHost, MemoryNetwork, MemoryStream

pytestmark = pytest.mark.usefixtures("no_leak")

HOST = "127.0.0.1"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def well() -> list[str]:
    """Say that nothing stands in the way."""
    return []


def registry_with(count: int) -> CollectorRegistry:
    """Make a registry that has counted something."""
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc(count)
    return registry


@asynccontextmanager
async def pages(**options: Any) -> AsyncIterator[Server]:
    """Serve the pages of a registry with seven things, unless it is said otherwise."""
    options.setdefault("unready", well)
    options.setdefault("registry", registry_with(7))
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_metrics, **options))
        yield server
        nursery.cancel_scope.cancel()


class World:
    """Pages on the network in memory, and clients of them."""

    def __init__(self, network: MemoryNetwork, host: MemoryHost) -> None:
        self._network = network
        self._host = host

    def serve(self, **options: Any) -> Any:
        """Serve them on port 80."""
        return pages(transport=self._host.transport(80), **options)

    async def connect(self) -> MemoryStream:
        """Connect a client."""
        return await self._network.host("192.0.2.2").connect(("192.0.2.1", 80))

    async def client(self) -> Scraper:
        """Connect a client that asks for pages."""
        return Scraper(await self.connect())


@pytest.fixture
def world(memory_network: MemoryNetwork, memory_server: MemoryHost) -> World:
    """A network in memory."""
    return World(memory_network, memory_server)


# --- Pages ------------------------------------------------------------------------------------


async def test_metrics_in_both_formats() -> None:
    """
    ``/metrics`` is Prometheus' text format, or OpenMetrics for who accepts that, whatever stands
    behind a question mark; both on one connection.
    """
    async with pages(port=0, host=HOST) as server:
        client = Scraper(connect_now(server.local_addresses[0]))
        text = await client.get("/metrics")
        openmetrics = await client.get("/metrics?name[]=x", f"Accept: {OPENMETRICS}")
        await client.stream.aclose()

    assert (200, 200) == (text.status, openmetrics.status)
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert 7.0 == samples(text.content.decode())["things_total", frozenset()]
    assert ["things"] == [each.name for each in parse_openmetrics(openmetrics.content)]


async def test_programs_that_know_nothing_of_us_read_them() -> None:
    """curl gets the page, and Prometheus' own program has nothing to say about it."""
    curl = foreign("curl")
    async with pages(port=0, host=HOST) as server:
        url = f"http://{server.local_addresses[0]}/metrics"
        done = await trio.run_process(
            [curl, "--silent", "--show-error", "--fail", url], capture_stdout=True
        )

    assert 7.0 == samples(done.stdout.decode())["things_total", frozenset()]

    check_with_promtool(done.stdout)


async def test_health() -> None:
    """
    ``/health/live`` is always 200; ``/health/ready`` is 200, or 503 with a line for each thing
    that stands in the way.
    """
    obstacles: list[str] = []
    async with pages(port=0, host=HOST, unready=lambda: obstacles) as server:
        client = Scraper(connect_now(server.local_addresses[0]))
        ready = await client.get("/health/ready")
        obstacles += ["mail: paused", "web: draining"]
        unready = await client.get("/health/ready")
        live = await client.get("/health/live")
        await client.stream.aclose()

    assert (200, b"ready\n") == (ready.status, ready.content)
    assert (503, b"mail: paused\nweb: draining\n") == (unready.status, unready.content)
    assert (200, b"live\n") == (live.status, live.content)


async def test_readiness_follows_a_server() -> None:
    """While a server drains, its pages go on, and say that nobody is to come any more."""

    async def wait_for_drain(connection: Connection) -> None:
        await connection.draining.wait()
        statuses.append((await client.get("/health/ready")).status)

    statuses: list[int] = []
    collector = Collector()
    async with pages(port=0, host=HOST, unready=collector.unready) as server:
        client = Scraper(connect_now(server.local_addresses[0]))
        async with open_server(wait_for_drain, 0, host=HOST) as mail:
            collector.add("mail", mail)
            statuses.append((await client.get("/health/ready")).status)
            async with connect_now(mail.local_addresses[0]):
                await until(lambda: mail.connections)
                await mail.drain()
        await client.stream.aclose()

    assert [200, 503] == statuses


async def test_head_has_no_content() -> None:
    """HEAD is answered like GET, without the content, and the connection goes on."""
    async with pages(port=0, host=HOST) as server:
        client = Scraper(connect_now(server.local_addresses[0]))
        head = await client.get("/health/live", method="HEAD")
        live = await client.get("/health/live")
        await client.stream.aclose()

    assert (200, "5", b"") == (head.status, head.headers["content-length"], head.content)
    assert (200, b"live\n") == (live.status, live.content)


async def test_workers_are_asked_before_each_scrape() -> None:
    """``refresh`` is awaited before a scrape, and for no other page."""
    registry = CollectorRegistry()
    counter = Counter("asked", "Asked.", registry=registry)

    async def refresh() -> None:
        await trio.lowlevel.checkpoint()
        counter.inc()

    async with pages(port=0, host=HOST, registry=registry, refresh=refresh) as server:
        client = Scraper(connect_now(server.local_addresses[0]))
        counts = []
        for _ in range(2):
            await client.get("/health/ready")
            page = (await client.get("/metrics")).content.decode()
            counts.append(samples(page)["asked_total", frozenset()])
        await client.stream.aclose()

    assert [1.0, 2.0] == counts


async def test_requests_may_come_before_their_answers(world: World) -> None:
    """Requests that come in one go are answered in order."""
    async with world.serve():
        client = await world.client()
        asked = "GET /health/{} HTTP/1.1\r\nHost: x\r\n\r\n"
        await client.stream.send_all("".join(map(asked.format, ["live", "ready"])).encode())
        answers = [await client.answer() for _ in range(2)]
        await client.stream.aclose()

    assert [b"live\n", b"ready\n"] == [each.content for each in answers]


async def test_drain_closes_between_two_requests(world: World) -> None:
    """Pages that are drained end the connections of scrapers that wait, and answer the others."""
    async with world.serve() as server:
        client = await world.client()
        await client.get("/health/live")
        await server.drain()

        assert await client.is_left_alone()
        await client.stream.aclose()


async def test_answer_in_a_drain_is_the_last(world: World) -> None:
    """Who is answered when a drain begins gets the answer, and is told that it is the last."""
    is_asked = trio.Event()

    async def refresh() -> None:
        is_asked.set()
        await trio.testing.wait_all_tasks_blocked()

    async with world.serve(refresh=refresh) as server, trio.open_nursery() as nursery:
        client = await world.client()

        async def drain() -> None:
            await is_asked.wait()
            await server.drain()

        nursery.start_soon(drain)
        answer = await client.get("/metrics")

        assert (200, "close") == (answer.status, answer.headers.get("connection"))
        assert await client.is_left_alone()
        await client.stream.aclose()


# --- Clients that are wrong -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),  # without a host
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
        (b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * LARGEST_HEAD, 431),
        (b"GET /nothing HTTP/1.0\r\n\r\n", 404),
    ],
)
async def test_wrong_request_is_told_what_it_is(world: World, request_: bytes, status: int) -> None:
    """Who asks wrongly is told so, and the connection ends; the server goes on."""
    async with world.serve() as server:
        client = await world.client()
        await client.stream.send_all(request_)
        answer = await client.answer()

        assert status == answer.status
        assert "close" == answer.headers["connection"]
        assert ("get, head" if status == 405 else None) == answer.headers.get("allow")
        assert await client.is_left_alone()
        await client.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert 0 == server.statistics().handler_failures

        other = await world.client()
        assert 200 == (await other.get("/health/live")).status
        await other.stream.aclose()


async def test_who_stalls_in_a_request_is_told(world: World, autojump_clock: MockClock) -> None:
    """A request that has begun has ten seconds to come, however slowly its octets drip."""
    async with world.serve():
        client = await world.client()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, client.stream)
            answer = await client.answer()
            nursery.cancel_scope.cancel()

        assert 408 == answer.status
        assert REQUEST_SECONDS == trio.current_time() - began
        await client.stream.aclose()


async def drip(stream: trio.abc.Stream) -> None:
    """Send an octet of a request in each second."""
    for octet in b"GET / HTTP/1.1\r\nHost: ...................":
        await stream.send_all(bytes([octet]))
        await trio.sleep(1)


async def test_who_says_nothing_is_left(world: World, autojump_clock: MockClock) -> None:
    """Who asks for nothing for as long as clients may keep a connection is left without a word."""
    async with world.serve():
        silent, known = await world.client(), await world.client()
        await known.get("/health/live")
        began = trio.current_time()

        assert await silent.is_left_alone()
        assert await known.is_left_alone()
        assert IDLE_SECONDS <= trio.current_time() - began < 2 * IDLE_SECONDS

        for client in (silent, known):
            await client.stream.aclose()


async def test_who_does_not_read_holds_nobody_up(world: World, autojump_clock: MockClock) -> None:
    """A client that asks, and never reads, is reset in the end; others are answered meanwhile."""
    registry = CollectorRegistry()
    counter = Counter("many", "Many.", ["which"], registry=registry)
    for number in range(20_000):
        counter.labels(str(number)).inc()
    async with world.serve(registry=registry) as server:
        stuck = await world.connect()
        for _ in range(3):
            await stuck.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        client = await world.client()

        assert 200 == (await client.get("/health/live")).status
        await client.stream.aclose()
        await trio.sleep(3 * IDLE_SECONDS)
        assert 0 == len(server.connections)
        await stuck.aclose()


WORDS = st.sampled_from(
    [
        "application/openmetrics-text",
        "text/plain",
        "*/*",
        "version",
        "escaping",
        "allow-utf-8",
        "q",
        "1.0.0",
        "2.0.0",
        "0.0.4",
        "one",
        *",;=. \"'",
    ]
)
ACCEPTED = st.lists(WORDS | st.characters(min_codepoint=32, max_codepoint=126)).map("".join)


@given(ACCEPTED)
@example("application/openmetrics-text; version=one")
@example("application/openmetrics-text; version=")
@example('application/openmetrics-text; version=1.0.0; escaping="nonsense"')
def test_any_accept_header_is_answered(accept: str) -> None:
    """Whatever a client says that it accepts, it gets one of the formats."""

    async def ask() -> int:
        async with pages(port=0, host=HOST) as server:
            client = Scraper(connect_now(server.local_addresses[0]))
            answer = await client.get("/metrics", f"Accept: {accept.strip()}")
            await client.stream.aclose()
        return answer.status

    assert 200 == trio.run(ask)


# --- What we do wrong -------------------------------------------------------------------------


class Broken:
    """A registry that fails."""

    def collect(self) -> list[Any]:
        """Fail."""
        raise ZeroDivisionError("no metrics today")


def fail() -> list[str]:
    """Fail."""
    raise ZeroDivisionError("no health today")


@pytest.mark.parametrize("path", ["/metrics", "/health/ready"])
async def test_what_fails_here_is_told_and_reported(
    world: World, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """
    If the registry, or what says that we are ready, raises, the client is answered with 500, and
    the log has it.
    """
    with caplog.at_level(logging.ERROR, logger="trio_wsk"):
        async with world.serve(registry=Broken(), unready=fail) as server:
            client = await world.client()
            answer = await client.get(path)

            assert 500 == answer.status
            assert await client.is_left_alone()
            await client.stream.aclose()
            await until(lambda: server.statistics().handler_failures)
    [record] = caplog.records

    assert re.fullmatch("the handler of .* failed; its connection was reset", record.getMessage())
    assert record.exc_info is not None
    assert ZeroDivisionError is record.exc_info[0]


@pytest.mark.parametrize("missing", ["prometheus_client", "h11"])
def test_extra_is_named_where_it_is_missing(missing: str) -> None:
    """Without what metrics need, importing them says what brings it; nothing else needs it."""
    program = (
        f"import sys; sys.modules[{missing!r}] = None; import trio_wsk\n"
        "try:\n    import trio_wsk.metrics\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)  # noqa: S603 - ours

    assert (
        f"trio_wsk.metrics needs {missing}, which is not installed:"
        " pip install 'trio-wsk[prometheus]'"
    ) == done.stdout.decode().strip()
