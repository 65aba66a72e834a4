"""A crowd that pipelines while a server of the gallery drains gets every answer that was begun."""

from __future__ import annotations

import socket
import ssl
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trustme

import trio_wsk
from tests.helpers.examples import example
from tests.helpers.support import PATIENCE, connect
from trio_wsk import ListenDispatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import Address, Reader

pytestmark = pytest.mark.heavy

CONNECTIONS = 50
REQUESTS = 200
"""How many each client would like to have answered."""
AHEAD = 16
"""How many a client that reads is ahead of its answers."""
ANSWERED = CONNECTIONS * REQUESTS // 3
"""How many have been answered when the drain begins."""
SLOW = 5
"""One client in so many sends all that it has, and reads nothing before the drain."""

LONGEST = 8192
"""How many octets an answer has at most."""
HOLDS = 32768
"""How many octets of answers the kernel holds on each side: a server has to wait in the middle."""
PLACE: Any = {
    "port": 0,
    "host": "127.0.0.1",
    "socket_options": [(socket.SOL_SOCKET, socket.SO_SNDBUF, HOLDS)],
}

key_value, proxy = example("key_value"), example("proxy")


def content_of(number: int) -> bytes:
    """What is asked for, of all lengths, and different each time."""
    return (b"%d." % number * LONGEST)[: number * 97 % LONGEST]


@attrs.define
class Kind:
    """A protocol, and a server of it."""

    handler: Any
    ask: Callable[[int], bytes]
    """Make a request for what has that number."""
    hear: Callable[[Reader], Any]
    """Read an answer; return what is in it."""
    begun: list[int]
    """What the server has begun to answer."""


def lines() -> Kind:
    """Ask the key-value store, by lines."""
    store, begun = key_value.Store(), []
    store.values = {b"%d" % number: content_of(number) for number in range(REQUESTS)}
    answer = store.answer

    def note(request: list[bytes], value: bytes) -> Any:
        begun.append(int(request[1]))
        return answer(request, value)

    async def hear(reader: Reader) -> bytes:
        verb, length = (await reader.read_line()).split()
        assert b"VALUE" == verb
        value = await reader.read_exactly(int(length))
        assert b"" == await reader.read_line()
        return value

    store.answer = note
    return Kind(store.serve, lambda number: b"GET %d\n" % number, hear, begun)


def http() -> Kind:
    """Ask the HTTP server, whose application is another one here."""
    begun: list[int] = []

    def respond(request: Any, _body: bytes) -> Any:
        begun.append(int(request.target[1:]))
        return HTTPStatus.OK, content_of(begun[-1])

    async def hear(reader: Reader) -> bytes:
        head = (await reader.read_until(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200 ")
        _, _, length = head.partition(b"content-length: ")
        return await reader.read_exactly(int(length.split()[0]))

    server: Any = example("http_server")
    server.respond = respond
    ask = b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
    return Kind(server.serve, lambda number: ask % number, hear, begun)


class Crowd:
    """Clients that ask for one thing after the other, and say when enough were answered."""

    def __init__(self, kind: Kind, connecting: Callable[[], Any]) -> None:
        self.kind = kind
        self.connecting = connecting
        self.answered = 0
        self.enough = trio.Event()
        self.unanswered = 0
        """How many requests had been sent when enough were answered, and were not answered."""

    async def visit(self, number: int) -> None:
        """Be one client, to the end of its connection."""
        is_slow = not number % SLOW
        stream = await self.connecting()
        reader = trio_wsk.Reader(stream)
        sent = answered = had_sent = 0
        if is_slow:
            sent = await self.ask(stream, 0, REQUESTS)
            await self.enough.wait()
        while True:
            if not self.enough.is_set():
                had_sent = sent
            if not is_slow:
                sent = await self.ask(stream, sent, answered + AHEAD)
            try:
                value = await self.kind.hear(reader)
            except trio_wsk.EndOfStreamError:  # in good order, and between two answers
                break
            assert content_of(answered % REQUESTS) == value
            answered += 1
            self.count()
        self.unanswered += max(had_sent - answered, 0)
        await stream.aclose()

    async def ask(self, stream: trio.abc.SendStream, sent: int, most: int) -> int:
        """Send requests until there are so many in all."""
        if most - sent > (AHEAD // 2):
            asked = (self.kind.ask(number % REQUESTS) for number in range(sent, most))
            await stream.send_all(b"".join(asked))
            return most
        return sent

    def count(self) -> None:
        """Count an answer."""
        self.answered += 1
        if self.answered == ANSWERED:
            self.enough.set()


async def drain_beside(crowd: Crowd, server: trio_wsk.Server) -> None:
    """Have all come, drain in the middle, and see that each answer that was begun has come."""
    with trio.fail_after(PATIENCE * 4):
        async with trio.open_nursery() as nursery:
            for number in range(CONNECTIONS):
                nursery.start_soon(crowd.visit, number)
            await crowd.enough.wait()
            report = await server.drain(grace=PATIENCE * 3)

    assert (CONNECTIONS, 0) == (report.finished, report.reset)
    assert len(crowd.kind.begun) == crowd.answered


def plain(address: Address) -> Callable[[], Any]:
    """Have clients connect that hold little, so that the server has to wait for them."""

    async def connecting() -> trio.SocketStream:
        client = await connect(address)
        client.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, HOLDS)
        return client

    return connecting


@pytest.mark.parametrize("make", [lines, http])
async def test_every_answer_that_was_begun_comes(make: Callable[[], Kind]) -> None:
    """
    Who pipelines while the server drains gets whole answers, to the last one that was begun, and
    then the end; who has not even read yet gets them, too. By lines it is all that had come.
    """
    kind = make()
    async with trio_wsk.open_server(kind.handler, **PLACE) as server:
        crowd = Crowd(kind, plain(server.local_addresses[0]))
        await drain_beside(crowd, server)

        assert make is http or not crowd.unanswered


async def test_every_answer_that_was_begun_comes_over_tls() -> None:
    """Over TLS, too; and the end is one that nobody between the two can have made."""
    authority, kind = trustme.CA(), lines()
    servers = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(servers)
    clients = ssl.create_default_context()
    authority.configure_trust(clients)

    async with trio_wsk.open_server(kind.handler, ssl_context=servers, **PLACE) as server:
        connecting = plain(server.local_addresses[0])

        async def over_tls() -> trio.SSLStream[trio.SocketStream]:
            stream = await connecting()
            return trio.SSLStream(stream, clients, server_hostname="localhost")

        crowd = Crowd(kind, over_tls)
        await drain_beside(crowd, server)

        assert not crowd.unanswered


@pytest.mark.parametrize("make", [lines, http])
async def test_every_answer_that_was_begun_comes_through_the_proxy(
    make: Callable[[], Kind],
) -> None:
    """A backend that drains behind the proxy: what it says and how it ends is handed on."""
    kind = make()
    async with trio_wsk.open_server(kind.handler, **PLACE) as server:
        accept = partial(proxy.accept, "127.0.0.1", server.local_addresses[0].port)
        async with trio_wsk.open_server(ListenDispatch(accept=accept), **PLACE) as before:
            await drain_beside(Crowd(kind, plain(before.local_addresses[0])), server)

        assert 0 == before.statistics().callback_failures
