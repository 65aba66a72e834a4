"""Servers: what handlers are given, and what `serve`, `serve_events` and `open_server` return."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import trio
from typing_extensions import Unpack, assert_type

import trio_wsk
from trio_wsk import (
    Address,
    Connection,
    ConnectionDispatch,
    DrainReport,
    EventServerOptions,
    ListenDispatch,
    ListeningOptions,
    ListeningSocket,
    ListeningStatistics,
    Server,
    ServerOptions,
    ServerStatistics,
    Status,
    TLSInfo,
)

TLS = ssl.create_default_context()
DISPATCH = ListenDispatch(accept=lambda _: Status.SUCCESS)


async def handle(connection: Connection) -> None:
    """Take a plain connection."""


async def handle_tls(connection: Connection) -> int:
    """Look at what TLS has agreed on; what a handler returns is nobody's business."""
    assert_type(connection.tls, TLSInfo | None)
    return 0


async def handle_any(stream: trio.abc.Stream) -> None:
    """Take any stream."""


async def handle_half_closeable(stream: trio.abc.HalfCloseableStream) -> None:
    """Take what can be half-closed."""


async def handle_stream(stream: trio.SSLStream[Connection]) -> None:
    """Take what a connection is not, over TLS either."""


def forget_async(connection: Connection) -> None:
    """Is no handler."""


async def opened() -> None:
    """`open_server` gives a server; TLS makes no other thing of its handler."""
    async with trio_wsk.open_server(handle, 0) as server:
        assert_type(server, Server)
        assert_type(server.listening, ListeningSocket)
        assert_type(server.local_addresses, list[Address])
        assert_type(server.connections, Collection[Connection])
        assert_type(await server.drain(grace=1), DrainReport)
        assert_type(server.abort(), None)
    async with trio_wsk.open_server(handle_tls, 0, ssl_context=TLS, handshake_timeout=3) as server:
        assert_type(server, Server)

    trio_wsk.open_server(handle_any, 0, host="::1", max_connections=10)
    trio_wsk.open_server(handle_any, path="/run/echo", mode=0o600, ssl_context=TLS)
    trio_wsk.open_server(handle_half_closeable, sockets=[3], grace=0, ssl_context=TLS)
    trio_wsk.open_server(lambda connection: connection.aclose(), 0, on_handler_error="raise")

    trio_wsk.open_server(handle_stream, 0, ssl_context=TLS)  # type: ignore[arg-type]  # no such stream
    trio_wsk.open_server(forget_async, 0)  # type: ignore[arg-type]  # not async
    trio_wsk.open_server(handle, 0, ssl_context=True)  # type: ignore[call-overload]  # no context
    trio_wsk.open_server(handle, "80")  # type: ignore[call-overload]  # a port is an int
    trio_wsk.open_server(handle, 0, backlogs=1)  # type: ignore[call-overload]  # no such option
    trio_wsk.open_server(handle, 0, on_handler_error="ignore")  # type: ignore[call-overload]  # no such way


async def opened_either_way(context: ssl.SSLContext | None) -> None:
    """Each handler goes with a context that may be there or not."""
    async with trio_wsk.open_server(handle_any, 0, ssl_context=context) as server:
        assert_type(server, Server)
    await trio_wsk.serve(handle, 0, ssl_context=context)
    await trio_wsk.serve(handle_tls, 0, ssl_context=context, max_connections=10)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio_wsk.serve, handle_any, 0, ssl_context=context))
        nursery.start_soon(partial(trio_wsk.serve, handle, ssl_context=context), 0)


async def serve_on(port: int, **options: Unpack[ServerOptions]) -> None:
    """Pass options on to a server with a handler."""
    await trio_wsk.serve(handle, port, **options)
    async with trio_wsk.open_server(handle, port, **options) as server:
        assert_type(server, Server)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio_wsk.serve, handle, port, **options))

    await trio_wsk.serve(handle, port, grace=1, **options)  # type: ignore[misc]  # twice


async def serve_events_on(port: int, **options: Unpack[EventServerOptions]) -> None:
    """Pass options on to a server of events."""
    await trio_wsk.serve_events(DISPATCH, port, **options)
    async with trio_wsk.open_server(DISPATCH, port, **options) as server:
        assert_type(server, Server)


async def listen_on(port: int, **options: Unpack[ListeningOptions]) -> None:
    """Pass options on to a listening socket, or to any server."""
    async with trio_wsk.open_listening_socket(port, dispatch=DISPATCH, **options) as listening:
        assert_type(listening, ListeningSocket)
    await serve_on(port, **options)
    await serve_events_on(port, max_connections=10, **options)


async def passed_on() -> None:
    """What is passed on is checked where it is given."""
    settings: ServerOptions = {"host": "::1", "max_connections": 10, "grace": 1.5}
    await serve_on(0, **settings)
    await serve_on(0, ssl_context=TLS, handshake_timeout=5, https_compatible=True)
    await serve_on(0, backlog=10, observers=[print], on_handler_error="raise")
    await serve_events_on(0, max_connections=None, idle_timeout=60, max_lifetime=3600, grace=0)
    await listen_on(0, reuse_port=True)

    await serve_on(0, max_connection=10)  # type: ignore[call-arg]  # no such option
    await serve_on(0, grace="1")  # type: ignore[arg-type]  # seconds are numbers
    await listen_on(0, max_connections=10)  # type: ignore[call-arg]  # a server's


async def served() -> None:
    """`serve` returns nothing; started in a nursery it gives its server."""
    assert_type(await trio_wsk.serve(handle, 0), None)
    assert_type(await trio_wsk.serve(handle_tls, 0, ssl_context=TLS), None)
    async with trio.open_nursery() as nursery:
        # Trio's own `start` returns Any, so whoever wants the type writes it down.
        server: Server = await nursery.start(trio_wsk.serve, handle, 0)
        assert_type(server.statistics(), ServerStatistics)
        tls = partial(trio_wsk.serve, handle_tls, ssl_context=TLS, host="localhost")
        assert_type(await nursery.start(tls, 0), Any)
        nursery.start_soon(trio_wsk.serve, handle, 0)
        nursery.start_soon(partial(trio_wsk.serve, handle, 0, max_connections=1))

    await trio_wsk.serve(handle_stream, 0, ssl_context=TLS)  # type: ignore[arg-type]  # no such stream
    await trio_wsk.serve(handle, 0, grace="30")  # type: ignore[arg-type]  # seconds are numbers


async def served_with_events() -> None:
    """`serve_events` takes a dispatch table; TLS makes no other thing of it."""

    def accept(connection: Connection) -> ConnectionDispatch:
        return ConnectionDispatch()

    dispatch = ListenDispatch(accept=accept)
    status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED
    assert_type(await trio_wsk.serve_events(dispatch, 0, task_status=status), None)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio_wsk.serve_events, dispatch, 0)
        await nursery.start(partial(trio_wsk.serve_events, dispatch, 0, reuse_port=True))

    await trio_wsk.serve_events(accept, 0)  # type: ignore[arg-type]  # a callback is no table
    await trio_wsk.serve_events(dispatch, 0, ssl_context=TLS, handshake_timeout=5)
    async with trio_wsk.open_server(dispatch, 0, ssl_context=TLS) as server:
        assert_type(server, Server)


def counted(server: Server, report: DrainReport) -> None:
    """Statistics and reports are numbers, by name where there are several kinds."""
    statistics = server.statistics()
    assert_type(statistics.listening, ListeningStatistics)
    assert_type(statistics.open_connections, int)
    assert_type(statistics.open_most, int)
    assert_type(statistics.served, int)
    assert_type(statistics.handler_failures, int)
    assert_type(statistics.peers_left, int)
    assert_type(statistics.handshake_failures, Mapping[str, int])
    assert_type(report.finished + report.reset, int)
    statistics.served = 0  # type: ignore[misc]  # frozen


async def guests(listening: ListeningSocket) -> None:
    """A listening socket fits where Trio wants a listener of streams."""
    listener: trio.abc.Listener[trio.abc.HalfCloseableStream] = listening
    secure = trio.SSLListener(listening, TLS)
    assert_type(await secure.accept(), trio.SSLStream[Connection])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [listening])
    await trio.serve_listeners(handle_any, [listener])


def programs(context: ssl.SSLContext | None) -> None:
    """A program's last line takes each kind of handler, with a context or without."""
    assert_type(trio_wsk.run(handle, 7007), None)
    trio_wsk.run(handle_tls, 7007, ssl_context=TLS, grace=5)
    trio_wsk.run(handle, 7007, ssl_context=context)
    trio_wsk.run(DISPATCH, 7007, signals=(), ssl_context=context)
    trio_wsk.run(handle_stream, 7007)  # type: ignore[arg-type]  # no such stream
    trio_wsk.run(DISPATCH, 7007, on_handler_error="raise")  # type: ignore[call-overload]
