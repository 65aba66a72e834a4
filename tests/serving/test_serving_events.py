"""Servers of events: callbacks in place of tasks."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers.serving import Silent, client_of, echo, echo_events, send_back, tasks
from tests.helpers.support import PATIENCE, fate_of, read_to_end, shown, until
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    DrainReport,
    ListenDispatch,
    Server,
    Status,
    open_server,
    serve_events,
)
from trio_wsk._engine import choice as _choice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


@asynccontextmanager
async def serving_events(dispatch: ListenDispatch, **options: Any) -> AsyncIterator[Server]:
    """Run serve_events() and abort it at the end."""
    before = tasks()
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(serve_events, dispatch, 0, host=HOST, observers=[Silent()], **options)
        )
        yield server
        server.abort()
    await until(lambda: tasks() <= before + 1)

    assert 0 == server.statistics().open_connections


async def test_events_serve_without_tasks() -> None:
    """Many clients are served by callbacks, with no task for any of them."""
    async with serving_events(ListenDispatch(accept=echo_events)) as server:
        before = tasks()
        clients = [client_of(server) for _ in range(10)]
        for client in clients:
            await client.send_all(b"x")

            assert b"x" == await client.receive_some()

        if _choice.HAVE_EPOLL:
            assert before == tasks()
        assert 10 == server.statistics().open_connections

        for client in clients:
            await client.send_eof()

            assert b"" == await read_to_end(client)

            await client.aclose()
        await until(lambda: not server.statistics().open_connections)

        assert 10 == server.statistics().served


async def test_server_of_events_is_a_block_too() -> None:
    """open_server() takes a ListenDispatch in place of a handler, and drains at the end."""
    async with open_server(ListenDispatch(accept=echo_events), 0, host=HOST) as server:
        client = client_of(server)
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()

        await client.send_eof()

        assert b"" == await read_to_end(client)

        await client.aclose()

    assert (1, 0) == (server.statistics().served, server.statistics().open_connections)


async def test_drain_takes_the_backlog_of_a_paused_server() -> None:
    """Who waits in the kernel because the server is paused is served before it ends."""
    async with open_server(echo, 0, host=HOST) as server:
        server.listening.pause()
        async with client_of(server) as client:
            await client.send_all(b"x")
            await client.send_eof()

            assert DrainReport(finished=1, reset=0) == await server.drain()
            assert b"x" == await read_to_end(client)


async def test_abort_during_a_drain_is_in_its_report() -> None:
    """What abort() cuts off while the server drains has been reset, and has not finished."""
    async with open_server(echo, 0, host=HOST) as server, client_of(server) as client:
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(abort_when_draining, server)

            assert DrainReport(finished=0, reset=1) == await server.drain(grace=math.inf)


async def abort_when_draining(server: Server) -> None:
    """Lose patience with a drain at once."""
    await server.listening.draining.wait()
    server.abort()


async def test_drain_tells_event_driven_connections() -> None:
    """ListenDispatch.drain is called once for each connection that is open, and they can finish."""
    told: list[Connection] = []

    def drain(connection: Connection) -> None:
        told.append(connection)
        connection.disconnect(data=b"bye")

    async with serving_events(ListenDispatch(accept=echo_events, drain=drain)) as server:
        clients = [client_of(server) for _ in range(3)]
        await until(lambda: server.statistics().open_connections == 3)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                for client in clients:
                    assert b"bye" == await read_to_end(client)

                    await client.aclose()

            report = await server.drain(grace=PATIENCE)

        assert DrainReport(finished=3, reset=0) == report
        assert 3 == len(told) == len(set(told))


@pytest.mark.parametrize("answer", [ConnectionDispatch(receive=send_back), Status.SUCCESS])
async def test_drain_resets_connections_without_events_too(answer: Any) -> None:
    """A connection that the callback took without events is reset with the others."""
    async with serving_events(ListenDispatch(accept=lambda _: answer)) as server:
        client = client_of(server)
        await until(lambda: server.statistics().open_connections)
        with trio.fail_after(PATIENCE):
            assert DrainReport(finished=0, reset=1) == await server.drain(grace=0)

        assert "reset" == await fate_of(client)

        await client.aclose()


async def test_permits_of_events() -> None:
    """
    max_connections counts event-driven connections: a permit comes back when one is closed or
    was not accepted.
    """
    answers: list[Any] = [Status.REQUEST_NOT_ACCEPTED, Status.SUCCESS, Status.SUCCESS]
    taken: list[Connection] = []

    def accept(connection: Connection) -> Any:
        taken.append(connection)
        return answers[len(taken) - 1]

    async with serving_events(ListenDispatch(accept=accept), max_connections=1) as server:
        clients = [client_of(server) for _ in range(3)]
        await until(lambda: len(taken) == 2)
        await shown(server.listening.socket.fileno())

        assert 2 == server.statistics().listening.accepted
        assert 1 == server.statistics().open_most

        taken[1].close()
        await until(lambda: len(taken) == 3)
        taken[2].close()
        for client in clients:
            await client.aclose()
