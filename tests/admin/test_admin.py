"""`serve_admin`: what it answers, to whom, and for how long."""

from __future__ import annotations

import json
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from tests.helpers.scraping import Answer, Scraper
from tests.helpers.serving import stay
from tests.helpers.support import connect_now, fate_of, until
from trio_wsk import (
    ConnectionRequest,
    InspectAction,
    InvalidParameterError,
    Reader,
    Server,
    open_server,
)
from trio_wsk.admin import serve_admin
from trio_wsk.admin._serving import MOST_WATCHERS
from trio_wsk.admin._watching import INTERVAL, Watcher
from trio_wsk.control import Control
from trio_wsk.inspectors import Rules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from trio_wsk.testing import MemoryHost, MemoryNetwork

pytestmark = pytest.mark.usefixtures("no_leak")

TOKEN = "0123456789abcdef"  # noqa: S105 - a test's
SHOWN = f"Authorization: Bearer {TOKEN}"
HOST = "127.0.0.1"


@attrs.frozen
class World:
    """A server that is looked at, and its page."""

    server: Server
    page: Server

    def client(self) -> Scraper:
        """Connect to the page."""
        return Scraper(connect_now(self.page.local_addresses[0]))

    async def do(self, *headers: str, **asked: Any) -> Answer:
        """Ask for a command, on a connection of its own."""
        client = self.client()
        content = json.dumps(asked)
        lines = [
            "POST /do HTTP/1.1",
            "Host: localhost",
            f"Content-Length: {len(content)}",
            *(headers or ["Content-Type: application/json"]),
        ]
        await client.stream.send_all("\r\n".join([*lines, "", content]).encode())
        answer = await client.answer()
        await client.stream.aclose()
        return answer

    async def steer(self, **asked: Any) -> Any:
        """Ask for a command, with the token; return what is said."""
        answer = await self.do("Content-Type: application/json", SHOWN, **asked)

        assert 200 == answer.status

        return json.loads(answer.content)


@asynccontextmanager
async def admin(**options: Any) -> AsyncIterator[World]:
    """Serve the page of one server."""
    control = Control()
    async with open_server(stay, 0, host=HOST) as server, trio.open_nursery() as nursery:
        control.add("mail", server)
        options = {"port": 0, **options}
        page = await nursery.start(partial(serve_admin, control, **options))
        yield World(server, page)
        nursery.cancel_scope.cancel()


class Watch:
    """Who watches."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._reader = Reader(stream, max_octets=1 << 20)

    async def begin(self, *headers: str) -> None:
        """Ask for the stream."""
        lines = ["GET /events HTTP/1.1", "Host: localhost", *headers, "", ""]
        await self.stream.send_all("\r\n".join(lines).encode())
        self.head = (await self._reader.read_until(b"\r\n\r\n")).decode()

    async def next(self) -> tuple[str, Any]:
        """Read an event: each is one part."""
        length = int((await self._reader.read_until(b"\r\n")).decode(), 16)
        text = (await self._reader.read_exactly(length)).decode()
        await self._reader.read_exactly(2)
        kind, data = text.removesuffix("\n\n").split("\n")
        return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    async def until(self, **levels: int) -> Any:
        """Read events until the latest numbers are these."""
        while True:
            kind, news = await self.next()
            if kind == "now" and levels.items() <= news["point"].items():
                return news


# --- What is there ----------------------------------------------------------------------------


async def test_page_is_one_document() -> None:
    """
    The page is one document, which names no other one; a browser is told to run nothing but what
    stands in it, and to let no other page have it.
    """
    async with admin() as world:
        client = world.client()
        page = await client.get("/")
        head = await client.get("/", method="HEAD")
        await client.stream.aclose()
    policy = page.headers["content-security-policy"]
    text = page.content.decode()

    assert (200, 200, b"") == (page.status, head.status, head.content)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "no-store" == page.headers["cache-control"]
    assert not any(word in text for word in ("src=", "@import", "url(", "innerHTML", "/* program"))
    assert text.count("http") == text.count("http://www.w3.org/2000/svg")


async def test_events_are_the_last_minutes_and_then_the_news() -> None:
    """
    Who watches is sent the last minutes, and in each second what is so: levels, rates, places,
    reasons, and the rules that had peers wait.
    """

    async def slow(_: ConnectionRequest) -> InspectAction:
        await trio.sleep(0.01)
        return InspectAction.REJECT

    rules = Rules(slow)
    control = Control()
    async with (
        open_server(stay, 0, host=HOST) as server,
        open_server(stay, 0, host=HOST, inspect=rules) as other,
        trio.open_nursery() as nursery,
    ):
        control.add("mail", server)
        control.add("web", other, rules)
        page = await nursery.start(partial(serve_admin, control, 0))
        watch = Watch(connect_now(page.local_addresses[0]))
        await watch.begin()
        kind, minutes = await watch.next()
        before = await watch.until(open=0)
        async with connect_now(server.local_addresses[0]):
            refused = connect_now(other.local_addresses[0])
            assert "reset" == await fate_of(refused)
            await refused.aclose()
            news = await watch.until(open=1)
            while not news["reasons"]:
                news = await watch.until(open=1)
        await watch.stream.aclose()
        nursery.cancel_scope.cancel()

    assert ("minutes", INTERVAL) == (kind, minutes["interval"])
    assert "content-type: text/event-stream" in watch.head.lower()
    assert before["point"]["at"] < news["point"]["at"]
    assert ["mail", "web"] == [each["listener"] for each in news["places"]]
    assert [1, 0] == [each["open"] for each in news["places"]]
    [reason] = news["reasons"]
    assert ("rejected", "rejected", 1) == (reason["what"], reason["why"], reason["total"])
    [waited] = news["waits"]
    assert waited["rule"].endswith("slow")
    assert (1, True) == (waited["waits"], waited["mean"] >= 0.01)


async def test_what_is_elsewhere_is_refused() -> None:
    """Other paths are not found, a path has its methods, and a stranger's name gets nothing."""
    async with admin() as world:
        client = world.client()
        nothing = await client.get("/nothing")
        stranger = await client.get("/", "Origin: http://evil.example")
        events = await client.get("/events", "Origin: http://evil.example")
        await client.stream.aclose()
        client = world.client()
        await client.stream.send_all(b"GET /events HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        rebound = await client.answer()
        post = await client.get("/", "Content-Length: 0", method="POST")
        await client.stream.aclose()

    assert [404, 403, 403, 421, 405] == [
        each.status for each in (nothing, stranger, events, rebound, post)
    ]


# --- Who may steer ----------------------------------------------------------------------------


async def test_who_has_the_token_steers() -> None:
    """With the token, listeners are paused and resumed, connections listed and reset, and all of
    them drained.
    """
    async with admin(token=TOKEN) as world:
        client = connect_now(world.server.local_addresses[0])
        await until(lambda: world.server.connections)
        states = []
        for command in ("pause", "refuse", "resume"):
            assert {"ok": True, "result": None} == await world.steer(command=command)
            states.append(world.server.statistics().listening.state.value)
        [listed] = (await world.steer(command="connections"))["result"]["connections"]
        await world.steer(command="abort", id=listed["id"])

        assert ["paused", "refusing", "listening"] == states
        assert "reset" == await fate_of(client)
        await client.aclose()
        drained = await world.steer(command="drain", listener="mail")
        assert {"ok": True, "result": {"finished": 0, "reset": 0}} == drained


@pytest.mark.parametrize("command", ["pause", "resume", "refuse", "drain", "abort", "log-level"])
async def test_nobody_else_does(command: str) -> None:
    """
    Without the token nothing is changed, whatever the command; nor if there is no token; and what
    a stranger's page can send, which is no JSON, is not even read.
    """
    plain = ("Content-Type: text/plain", SHOWN)
    async with admin(token=TOKEN) as world, admin() as other:
        answers = [
            await world.do(command=command),
            await world.do("Content-Type: application/json", f"{SHOWN}x", command=command),
            await world.do(*plain, command=command),
            await other.do("Content-Type: application/json", SHOWN, command=command),
        ]
        states = {each.server.statistics().listening.state.value for each in (world, other)}

    assert [401, 401, 415, 403] == [each.status for each in answers]
    assert {"listening"} == states
    assert "bearer" == answers[0].headers["www-authenticate"]


async def test_who_looks_needs_no_token_here() -> None:
    """On the loopback address connections are listed without the token."""
    async with admin(token=TOKEN) as world:
        answer = await world.do(command="connections")

    assert {"ok": True, "result": {"open": 0, "connections": []}} == json.loads(answer.content)


async def test_what_cannot_be_done_is_said() -> None:
    """What the control refuses, what is no command of the page, and what is no request is told."""
    async with admin(token=TOKEN) as world:
        gone = await world.steer(command="abort", id=99)
        other = await world.steer(command="log-level", level="DEBUG")
        nonsense = await world.steer(nonsense=7)

    assert [False] * 3 == [each["ok"] for each in (gone, other, nonsense)]
    assert "no open connection has the id 99" in gone["error"]
    assert "use the control socket" in other["error"]


# --- Where others can connect -----------------------------------------------------------------


async def test_others_need_a_token_to_be_let_in() -> None:
    """Where others than this machine's users may connect there has to be a token."""
    with pytest.raises(InvalidParameterError, match="so there has to be a token="):
        await serve_admin(Control(), 0, host="0.0.0.0")  # noqa: S104 - which is the point


async def test_others_show_the_token_to_look(
    memory_network: MemoryNetwork, memory_server: MemoryHost
) -> None:
    """Where others may connect, the page is nobody's secret, and the numbers take the token."""
    options: dict[str, Any] = {"port": None, "transport": memory_server.transport(80)}
    async with admin(token=TOKEN, **options):
        client = await memory_network.host("192.0.2.2").connect(("192.0.2.1", 80))
        scraper = Scraper(client)
        statuses = [(await scraper.get(path)).status for path in ("/", "/events")]
        watch = Watch(client)
        await watch.begin(SHOWN)

        assert [200, 401] == statuses
        assert "minutes" == (await watch.next())[0]
        await client.aclose()


# --- For how long -----------------------------------------------------------------------------


async def test_watchers_are_bounded() -> None:
    """So many may watch, and no more; when one has left, there is room for another one."""
    async with admin() as world:
        watchers = [Watch(connect_now(world.page.local_addresses[0])) for _ in range(MOST_WATCHERS)]
        for each in watchers:
            await each.begin()
            await each.next()
        client = world.client()
        assert 503 == (await client.get("/events")).status

        await watchers.pop().stream.aclose()
        await until(lambda: len(world.page.connections) == MOST_WATCHERS)
        late = Watch(client.stream)
        await late.begin()
        assert "minutes" == (await late.next())[0]
        for each in (*watchers, late):
            await each.stream.aclose()


async def test_who_watches_is_let_go_in_a_drain() -> None:
    """When the page itself is drained, who watches is told the end, and `serve_admin` returns."""
    control = Control()
    async with trio.open_nursery() as nursery:
        page: Server = await nursery.start(partial(serve_admin, control, 0))
        watch = Watch(connect_now(page.local_addresses[0]))
        await watch.begin()
        await watch.next()
        await page.drain()

        assert "fin" == await fate_of(connected(watch))
        await watch.stream.aclose()


def connected(watch: Watch) -> trio.SocketStream:
    """Return the stream of who watches."""
    assert isinstance(watch.stream, trio.SocketStream)
    return watch.stream


async def test_slow_watcher_gets_the_latest(autojump_clock: MockClock) -> None:
    """
    A look is made once in a second, for whoever watches; who is slower is sent what is so now, and
    not what was before.
    """
    sent: dict[float, list[float]] = {0.0: [], 3.6: []}

    async def take(seconds: float, event: bytes) -> None:
        kind, data = event.decode().strip().split("\ndata: ")
        if kind == "event: now":
            sent[seconds].append(json.loads(data)["point"]["at"] - began)
        await trio.sleep(seconds)

    began = trio.current_time()
    watcher = Watcher(Control())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.run, lambda: trio.current_time() - began >= 9)
        for seconds in sent:
            nursery.start_soon(watcher.tell, partial(take, seconds))

    assert [0, 1, 2, 3, 4, 5, 6, 7, 8] == sent[0.0]
    assert [3, 7] == [int(at) for at in sent[3.6]]


def test_missing_h11_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without h11, importing the page says what to install."""
    monkeypatch.setitem(sys.modules, "h11", None)
    for name in [each for each in sys.modules if each.startswith("trio_wsk.admin")]:
        monkeypatch.delitem(sys.modules, name)

    with pytest.raises(ImportError, match=r"pip install 'trio-wsk\[admin\]'"):
        __import__("trio_wsk.admin")
