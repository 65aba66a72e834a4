"""
Draining: who is told when, what is still taken, what is left to others, and whom it resets. The
plain cases are in test_serving, those of conditional accept beside its other tests.
"""

from __future__ import annotations

import math
import threading
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import trio_wsk
from trio_wsk import (
    Connection,
    DrainReport,
    InspectAction,
    Status,
)

from .support import (
    fate_of,
    read_to_end,
    until,
)
from .test_serving import client_of, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")


async def said_to(client: trio.SocketStream) -> bytes:
    """Read what a client is told, and close it."""
    async with client:
        return await read_to_end(client)


# --- Who may drain ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["drain", "abort"])
async def test_server_that_has_ended_is_not_drained_again(way: str) -> None:
    """A drain after the end says that the server has ended, and not that another task drains it."""
    async with serving() as (server, _):
        if way == "drain":
            await server.drain()
        else:
            server.abort()
        with pytest.raises(trio_wsk.SocketClosedError, match="has ended"):
            await server.drain()


@asynccontextmanager
async def own_nursery() -> AsyncIterator[trio.Nursery]:
    """Have what is started end before the block is left."""
    async with trio.open_nursery() as nursery:
        yield nursery


@pytest.mark.parametrize("grace", [None, 0, math.inf])
@pytest.mark.parametrize("who", ["handler", "its child", "inspector", "handler within"])
async def test_drain_is_refused_to_whom_it_would_wait_for(who: str, grace: float | None) -> None:
    """
    A handler, an inspector, and every task that runs in one, is told at once to have somebody else
    drain the server; it goes on, and so does the server.
    """
    complaints: list[Exception] = []

    async def drain() -> None:
        with pytest.raises(
            trio_wsk.InvalidDeviceStateError, match=r"start_soon\(server.drain\)"
        ) as it:
            await server.drain(grace=grace)
        complaints.append(it.value)

    async def inspect(_: object) -> InspectAction:
        if who == "inspector":
            await drain()
        return InspectAction.ACCEPT

    async def inner(connection: Connection) -> None:
        await drain()

    async def handler(connection: Connection) -> None:
        if who == "handler":
            await drain()
        elif who == "its child":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain)
        elif who == "handler within":
            async with serving(inner) as (within, _):
                assert b"" == await said_to(client_of(within))
        await connection.send_all(b"goes on")

    async with serving(handler, inspect=inspect) as (server, told):
        for _ in range(2):
            assert b"goes on" == await said_to(client_of(server))

        assert 2 == len(complaints)
        assert [] == told.of("DrainStarted")


async def test_handler_has_its_server_drained_by_another_task() -> None:
    """What the refusal says works: the handler finishes, and the drain waits for it."""
    reports: list[DrainReport] = []

    async def drain() -> None:
        reports.append(await server.drain(grace=math.inf))

    async def handler(connection: Connection) -> None:
        outside.start_soon(drain)
        await connection.draining.wait()
        await connection.send_all(b"bye")

    async with own_nursery() as outside, serving(handler) as (server, _):
        assert b"bye" == await said_to(client_of(server))

        await until(lambda: reports)

    assert [DrainReport(finished=1, reset=0)] == reports


@pytest.mark.parametrize("held_by", ["thread", "shield"])
@pytest.mark.parametrize("way", ["drain", "abort"])
async def test_reset_means_reset_at_that_moment(way: str, held_by: str) -> None:
    """
    A peer is reset when the grace is over or the server is aborted, though its handler goes on, in
    a thread or behind a shield; what that does with the connection afterwards fails as if the peer
    had left, and is no crash.
    """
    may_end = trio.Event()
    thread_may_end = threading.Event()
    errors: list[trio_wsk.ConnectionBrokenError] = []

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"half")
        with trio.CancelScope(shield=True):
            if held_by == "thread":
                await trio.to_thread.run_sync(thread_may_end.wait)
            else:
                await may_end.wait()
            for use in (connection.receive_some, partial(connection.send_all, b"other half")):
                with pytest.raises(trio_wsk.ConnectionBrokenError, match="this server") as it:
                    await use()
                errors.append(it.value)
            await connection.send_all(b"other half")

    async with serving(handler) as (server, told), trio.open_nursery() as nursery:
        client = client_of(server)

        assert b"half" == await client.receive_some()

        reports: list[DrainReport] = []

        @nursery.start_soon
        async def end() -> None:
            if way == "abort":
                server.abort()
            else:
                reports.append(await server.drain(grace=0.01))

        assert "reset" == await fate_of(client)
        assert [] == reports
        assert 1 == server.statistics().open_connections

        may_end.set()
        thread_may_end.set()
        await until(lambda: not server.statistics().open_connections)
        await client.aclose()

    assert [Status.CONNECTION_ABORTED] * 2 == [error.status for error in errors]
    assert [] == told.of("HandlerFailed") + told.of("PeerLeft")
    assert (0, 0) == (server.statistics().handler_failures, server.statistics().peers_left)
    assert [DrainReport(finished=0, reset=1)] * (way == "drain") == reports


async def test_connection_that_its_handler_has_closed_was_not_reset() -> None:
    """A handler that is busy after its connection has ended is cut off, its peer is not."""

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"all of it")
        await connection.aclose()
        await trio.sleep_forever()

    async with serving(handler) as (server, _):
        assert b"all of it" == await said_to(client_of(server))
        assert DrainReport(finished=1, reset=0) == await server.drain()
