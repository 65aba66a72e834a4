"""Other people's servers run on our listening sockets, unchanged.

A guest touches what it touches of a listener and of a stream; these tests are the list. Where
its library is missing the test is skipped, but not where ``CI`` is set: there that is an error.
"""

from __future__ import annotations

import importlib
import math
import os
import ssl
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing

import trio_wsk
from tests.helpers.foreign import foreign
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import connect
from trio_wsk._engine import choice as _choice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.guests, pytest.mark.usefixtures("readiness")]

HOST = "127.0.0.1"

MESSAGE = bytes(range(256)) * 1000
"""More than one receive takes, so that its order counts."""


def guest(module: str) -> Any:
    """Import a guest, or skip the test and say why; never skip where ``CI`` counts on it.

    For fixtures that are plain functions: pytest-trio keeps the reason of those alone.
    """
    if "CI" in os.environ:
        return importlib.import_module(module)
    return pytest.importorskip(module)


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Check that the block, which must not hang, leaves no descriptor and no task behind."""
    _choice.task_readiness()  # shared by all awaited connections of a run, until it ends
    before = census()
    with trio.fail_after(30):
        yield

    assert before == census()


def census() -> dict[str, int]:
    """Count what a leak would add to."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    return {"descriptors": open_descriptors(), "tasks": tasks}


@attrs.frozen
class TLS:
    """What both ends of a TLS connection need; the client verifies."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    authority: str
    """The file with the certificate of the authority that both trust."""


@pytest.fixture
def tls(tmp_path: Path) -> TLS:
    """Issue a certificate for the address that the tests listen at."""
    trustme = guest("trustme")
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(file)
    return TLS(server, client, str(file))


async def echo(stream: trio.abc.Stream) -> None:
    """Send back what comes, until the client has finished."""
    async for octets in stream:
        await stream.send_all(octets)


async def echoed(client: trio.abc.Stream, message: bytes) -> bytes:
    """Send a message, and return as many octets as come back for it."""
    back = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, message)
        while len(back) < len(message):
            octets = await client.receive_some()
            assert octets, "the server has ended the connection"
            back += octets
    return bytes(back)


# --- Trio ---------------------------------------------------------------------------------------


async def test_serve_listeners() -> None:
    """`trio.serve_listeners` serves clients from a listening socket, and closes it at its end."""
    async with (
        nothing_left(),
        trio_wsk.open_listening_socket(0, host=HOST) as listening,
        trio.open_nursery() as nursery,
    ):
        (same,) = await nursery.start(trio.serve_listeners, echo, [listening])
        clients = [await connect(listening.local_addresses[0]) for _ in range(3)]
        for client in clients:
            assert MESSAGE == await echoed(client, MESSAGE)

            await client.send_eof()

            assert b"" == await client.receive_some()

            await client.aclose()
        nursery.cancel_scope.cancel()

    assert same is listening
    assert 3 == listening.statistics().delivered["accept"]
    with pytest.raises(trio.ClosedResourceError):
        await listening.accept()


async def test_serve_listeners_over_a_wrapped_listener() -> None:
    """A listener that wraps ours and a `trio.SocketStream` over its connections serve as well."""
    async with (
        nothing_left(),
        trio_wsk.open_listening_socket(0, host=HOST) as listening,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(trio.serve_listeners, echo, [trio_wsk.SocketStreams(listening)])
        client = await connect(listening.local_addresses[0])

        assert MESSAGE == await echoed(client, MESSAGE)

        await client.send_eof()

        assert b"" == await client.receive_some()

        await client.aclose()
        nursery.cancel_scope.cancel()


async def test_ssl_listener(tls: TLS) -> None:
    """
    `trio.SSLListener` over a listening socket speaks TLS with a client that verifies it, and
    the connection ends in good order, close_notify included.
    """
    remote_addresses: list[str] = []

    async def answer(stream: trio.SSLStream[trio_wsk.Connection]) -> None:
        await stream.send_all(await stream.receive_some())
        remote_addresses.append(str(stream.transport_stream.remote_address))
        await stream.aclose()

    async with (
        nothing_left(),
        trio_wsk.open_listening_socket(0, host=HOST) as listening,
        trio.open_nursery() as nursery,
    ):
        listener = trio.SSLListener(listening, tls.server)
        await nursery.start(trio.serve_listeners, answer, [listener])
        plain = await connect(listening.local_addresses[0])
        own_address = "{}:{}".format(*plain.socket.getsockname())
        async with trio.SSLStream(plain, tls.client, server_hostname=HOST) as client:
            assert b"hello" == await echoed(client, b"hello")
            assert b"" == await client.receive_some()  # not so without close_notify
        nursery.cancel_scope.cancel()

    assert [own_address] == remote_addresses


@pytest.mark.parametrize("place", ["IPv4", "every address", "Unix"])
async def test_open_stream_to_socket_listener(place: str) -> None:
    """`trio.testing.open_stream_to_socket_listener` finds the way to a listening socket."""
    port = None if place == "Unix" else 0
    host = HOST if place == "IPv4" else None
    path = f"\0trio_wsk-{uuid.uuid4()}" if place == "Unix" else None
    async with (
        nothing_left(),
        trio_wsk.open_listening_socket(port, host=host, path=path) as listening,
    ):
        # It is declared for Trio's own class, and touches nothing but the listener's `socket`.
        client = await trio.testing.open_stream_to_socket_listener(
            listening  # type: ignore[arg-type]  # as said
        )
        async with client, await listening.accept() as connection:
            await client.send_all(b"hello")

            assert b"hello" == await connection.receive_some()


# --- hypercorn ----------------------------------------------------------------------------------


async def who_asks(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application: answer with who asks, how, and how much was sent."""
    size, more = 0, True
    while more:
        event = await receive()
        size += len(event.get("body", b""))
        more = event.get("more_body", False)
    client = "{}:{}".format(*scope["client"])
    answer = f"{client} {scope['scheme']} {scope['http_version']} {size}\n".encode()
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer, "more_body": False})


class Shaken:
    """A connection that has shaken hands, as hypercorn looks for TLS: like a `trio.SSLStream`."""

    def __init__(self, connection: trio_wsk.Connection) -> None:
        self.transport_stream = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport_stream, name)

    async def do_handshake(self) -> None:
        """Do nothing: it is done."""
        await trio.lowlevel.checkpoint()

    def selected_alpn_protocol(self) -> str | None:
        """Return what was agreed on."""
        tls = self.transport_stream.tls
        return None if tls is None else tls.alpn


@attrs.frozen
class Hypercorn:
    """hypercorn without its accept loop: what it runs per connection, as a handler."""

    serve_one: Callable[[Any], Awaitable[None]]
    """Serves one connection, plain or TLS."""
    context: Any

    async def serve_until_draining(self, connection: trio_wsk.Connection) -> None:
        """Serve one connection, and tell hypercorn when to end it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_draining, connection)
            await self.serve_one(connection if connection.tls is None else Shaken(connection))
            nursery.cancel_scope.cancel()

    async def _end_when_draining(self, connection: trio_wsk.Connection) -> None:
        await connection.draining.wait()
        await self.context.terminated.set()


@pytest.fixture
def hypercorn() -> Hypercorn:
    """Set up hypercorn, with an application to serve."""
    config = guest("hypercorn.config").Config()
    # hypercorn 0.18 overlooks now and then that its client has left (over `trio.serve_tcp`,
    # too) and keeps the connection for this long. Here it is told to end, which is no race.
    config.keep_alive_timeout = 1000
    app = guest("hypercorn.app_wrappers").ASGIWrapper(who_asks)
    context = guest("hypercorn.trio.worker_context").WorkerContext(None)
    server = guest("hypercorn.trio.tcp_server").TCPServer
    return Hypercorn(partial(server, app, config, context, {}), context)


Curl = Callable[..., Awaitable[list[str]]]


@pytest.fixture
def curl() -> Curl:
    """Find curl, and make it a function: the lines of its answers, each after its own address."""
    program = foreign("curl")
    quietly = ("--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "20")
    asked_from = "%{local_ip}:%{local_port}\n"

    async def run(*arguments: str) -> list[str]:
        done = await trio.run_process(
            [program, *quietly, "--write-out", asked_from, *arguments],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
        answered: str = done.stdout.decode()

        assert 0 == done.returncode, answered

        return answered.splitlines()

    return run


@pytest.mark.parametrize("host", [HOST, "::1"])
async def test_hypercorn_answers_curl(host: str, hypercorn: Hypercorn, curl: Curl) -> None:
    """
    hypercorn's `TCPServer`, run as a server's handler, answers curl twice on one connection and
    knows curl's real address; the connection that stays open ends when the server drains.
    """
    async with nothing_left():
        async with trio_wsk.open_server(
            hypercorn.serve_until_draining, 0, host=host, grace=math.inf
        ) as server:
            url = f"http://{server.local_addresses[0]}/"
            answer, asked_from, second_answer, second_asked_from = await curl(url, url)

        assert f"{asked_from} http 1.1 0" == answer
        assert (answer, asked_from) == (second_answer, second_asked_from)
        assert (1, 0) == (server.statistics().served, server.statistics().handler_failures)


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_hypercorn_answers_curl_over_tls(
    version: str, tls: TLS, tmp_path: Path, hypercorn: Hypercorn, curl: Curl
) -> None:
    """
    With ``ssl_context`` hypercorn finds the handshake done, speaks the protocol that ALPN has
    agreed on, and takes a large upload; curl verifies the certificate.
    """
    tls.server.set_alpn_protocols(["h2", "http/1.1"])
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(1_000_000))
    options = (f"--http{version}", "--cacert", tls.authority, "--data-binary", f"@{upload}")
    async with nothing_left():
        async with trio_wsk.open_server(
            hypercorn.serve_until_draining, 0, host=HOST, ssl_context=tls.server, grace=math.inf
        ) as server:
            url = f"https://{server.local_addresses[0]}/"
            answer, asked_from = await curl(*options, url)

        assert f"{asked_from} https {version} 1000000" == answer
        assert (1, 0) == (server.statistics().served, server.statistics().handler_failures)


async def test_hypercorn_over_serve_listeners(tls: TLS, hypercorn: Hypercorn, curl: Curl) -> None:
    """
    hypercorn's own stack, `trio.serve_listeners` over `trio.SSLListener`, stands on a
    listening socket; the handshake is hypercorn's here.
    """
    async with (
        nothing_left(),
        trio_wsk.open_listening_socket(0, host=HOST) as listening,
        trio.open_nursery() as nursery,
    ):
        secure = trio.SSLListener(listening, tls.server, https_compatible=True)
        await nursery.start(trio.serve_listeners, hypercorn.serve_one, [secure])
        url = f"https://{listening.local_addresses[0]}/"
        answer, asked_from = await curl("--cacert", tls.authority, url)

        assert f"{asked_from} https 1.1 0" == answer

        nursery.cancel_scope.cancel()


# --- trio-websocket -----------------------------------------------------------------------------


@attrs.frozen
class TrioWebsocket:
    """trio-websocket: a handler for its server, and a client that finds out how it does."""

    library: Any

    async def answer(self, request: Any) -> None:
        """Serve one client: say who it is, then echo."""
        socket = await request.accept()
        await socket.send_message(str(getattr(request.remote, "url", request.remote)))
        try:
            while True:
                await socket.send_message(await socket.get_message())
        except self.library.ConnectionClosed:
            pass

    async def answer_stream(self, stream: trio.abc.Stream) -> None:
        """Serve one client over whatever stream it comes by."""
        async with trio.open_nursery() as nursery:
            request = await self.library.wrap_server_stream(nursery, stream)
            await self.answer(request)

    async def talk(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Exchange messages with a server that knows who we are, and end in good order."""
        async with self.library.open_websocket(HOST, port, "/", use_ssl=tls or False) as socket:
            assert f"{socket.local.address}:{socket.local.port}" in await socket.get_message()

            for message in ("hello", MESSAGE):
                await socket.send_message(message)

                assert message == await socket.get_message()

        assert 1000 == socket.closed.code


@pytest.fixture
def trio_websocket() -> TrioWebsocket:
    """Set up trio-websocket."""
    return TrioWebsocket(guest("trio_websocket"))


@pytest.mark.parametrize(
    "wrap", [lambda ours: ours, trio_wsk.SocketStreams], ids=["ours", "wrapped"]
)
async def test_trio_websocket_server(
    wrap: Callable[[Any], object], trio_websocket: TrioWebsocket
) -> None:
    """
    trio-websocket's server takes a listening socket. It knows the client's address from the
    connection's repr, and as an endpoint where it is given a `trio.SocketStream`.
    """
    async with (
        nothing_left(),
        trio_wsk.open_listening_socket(0, host=HOST) as listening,
        trio.open_nursery() as nursery,
    ):
        listeners = [wrap(listening)]
        server = trio_websocket.library.WebSocketServer(trio_websocket.answer, listeners)
        await nursery.start(server.run)
        await trio_websocket.talk(listening.local_addresses[0].port)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "stream_of",
    [lambda connection: connection, lambda connection: trio.SocketStream(connection.socket)],
    ids=["connection", "socket stream"],
)
async def test_trio_websocket_in_a_handler(
    stream_of: Callable[[trio_wsk.Connection], trio.abc.Stream], trio_websocket: TrioWebsocket
) -> None:
    """
    trio-websocket runs in a server's handler, on the connection as on a `trio.SocketStream`
    made from it; that it closes that stream itself is no crash.
    """

    async def handler(connection: trio_wsk.Connection) -> None:
        await trio_websocket.answer_stream(stream_of(connection))

    async with nothing_left():
        async with trio_wsk.open_server(handler, 0, host=HOST) as server:
            await trio_websocket.talk(server.local_addresses[0].port)

        assert (1, 0) == (server.statistics().served, server.statistics().handler_failures)


async def test_trio_websocket_over_tls(tls: TLS, trio_websocket: TrioWebsocket) -> None:
    """With ``ssl_context``, trio-websocket runs on the stream that has shaken hands."""
    async with nothing_left():
        async with trio_wsk.open_server(
            trio_websocket.answer_stream, 0, host=HOST, ssl_context=tls.server
        ) as server:
            await trio_websocket.talk(server.local_addresses[0].port, tls.client)

        assert (1, 0) == (server.statistics().served, server.statistics().handler_failures)


# --- websockets ---------------------------------------------------------------------------------


@attrs.frozen
class Websockets:
    """The Trio side of websockets."""

    serve: Callable[..., Awaitable[None]]
    connect: Callable[..., AbstractAsyncContextManager[Any]]
    closed: type[Exception]
    """What receiving raises when the other side has closed."""


@pytest.fixture
def websockets() -> Websockets:
    """Set up websockets, whose Trio side is made for newer Pythons."""
    if sys.version_info < (3, 11):
        pytest.skip("the Trio side of websockets needs Python 3.11")
    return Websockets(
        guest("websockets.trio.server").serve,
        partial(guest("websockets.trio.client").connect, proxy=None),
        guest("websockets.exceptions").ConnectionClosed,
    )


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_websockets_server(scheme: str, tls: TLS, websockets: Websockets) -> None:
    """
    websockets' server takes a listening socket, plain and with TLS of its own; closing it
    says so to a client that is still there.
    """
    server_tls, client_tls = (tls.server, tls.client) if scheme == "wss" else (None, None)

    async def answer(websocket: Any) -> None:
        async for message in websocket:
            await websocket.send(message)

    async with (
        nothing_left(),
        trio_wsk.open_listening_socket(0, host=HOST) as listening,
        trio.open_nursery() as nursery,
    ):
        serve = partial(websockets.serve, listeners=[listening], ssl=server_tls)
        server = await nursery.start(serve, answer)
        url = f"{scheme}://{listening.local_addresses[0]}"
        async with websockets.connect(url, ssl=client_tls) as websocket:
            for message in ("hello", MESSAGE):
                await websocket.send(message)

                assert message == await websocket.recv()

            await server.aclose()
            with pytest.raises(websockets.closed):
                await websocket.recv()

    assert 1001 == websocket.close_code  # going away


async def test_websockets_server_that_asks_for_addresses(websockets: Websockets) -> None:
    """
    websockets knows the client's address where it is given `trio.SocketStream`: by a
    listener that wraps ours.
    """

    async def answer(websocket: Any) -> None:
        await websocket.send("{}:{}".format(*websocket.remote_address))

    async with (
        nothing_left(),
        trio_wsk.open_listening_socket(0, host=HOST) as listening,
        trio.open_nursery() as nursery,
    ):
        serve = partial(websockets.serve, listeners=[trio_wsk.SocketStreams(listening)])
        server = await nursery.start(serve, answer)
        async with websockets.connect(f"ws://{listening.local_addresses[0]}") as websocket:
            assert "{}:{}".format(*websocket.local_address) == await websocket.recv()
        await server.aclose()
