"""Servers: all the ways in which one ends. What a drain does is in test_draining."""

from __future__ import annotations

import math
from functools import partial

import pytest
import trio
import trio.testing

import trio_wsk
from tests.helpers.serving import client_of, serving
from tests.helpers.support import (
    PATIENCE,
    FaultyTransport,
    connect_now,
    fate_of,
    is_waiting,
    read_to_end,
    until,
)
from trio_wsk import Connection, DrainReport, InspectAction, ListenDispatch, open_server
from trio_wsk.transports._contract import TransportFailedError

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


async def test_drain_lets_connections_finish() -> None:
    """
    drain() refuses new peers, sets `draining`, waits for those that are open, and reports
    them as finished.
    """

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"hello")
        await connection.draining.wait()
        await connection.send_all(b"bye")

    async with serving(handler) as (server, told):
        clients = [client_of(server) for _ in range(3)]
        for client in clients:
            assert b"hello" == await client.receive_some()

        report = await server.drain(grace=PATIENCE)

        assert DrainReport(finished=3, reset=0) == report
        assert [b"bye"] * 3 == [await read_to_end(client) for client in clients]
        assert 3 == told.of("DrainStarted")[0].open_connections
        assert 3 == told.of("DrainFinished")[0].finished
        with pytest.raises(OSError, match="refused"):
            client_of(server)
        for client in clients:
            await client.aclose()


async def test_drain_refuses_who_comes_while_it_waits_for_a_verdict() -> None:
    """Nobody listens any more then: who is new is refused; who was there has its verdict."""
    may_answer = trio.Event()

    async def inspect(_: object) -> InspectAction:
        await may_answer.wait()
        return InspectAction.ACCEPT

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"welcome")

    async with open_server(handler, 0, host=HOST, inspect=inspect) as server:
        first = connect_now(server.local_addresses[0])
        await until(lambda: server.statistics().listening.pending)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ConnectionRefusedError):
                connect_now(server.local_addresses[0])
            may_answer.set()
            assert b"welcome" == await read_to_end(first)
        await first.aclose()

    assert {} == server.statistics().listening.dropped


async def test_drain_takes_what_the_kernel_has_accepted() -> None:
    """Clients whose connections are established when the drain begins are served."""
    count = 40

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"served")

    async with serving(handler) as (server, _):
        clients = [client_of(server) for _ in range(count)]  # nobody else has had a turn
        report = await server.drain(grace=PATIENCE)

        assert [b"served"] * count == [await read_to_end(client) for client in clients]
        assert DrainReport(finished=count, reset=0) == report

        for client in clients:
            await client.aclose()


async def test_drain_resets_what_is_left(autojump_clock: trio.testing.MockClock) -> None:
    """When the grace has run out, handlers are cancelled and peers reset; they are reported."""

    async def handler(connection: Connection) -> None:
        if await connection.receive_some() == b"stay":
            await trio.sleep_forever()
        await connection.draining.wait()

    async with serving(handler) as (server, _):
        stays, goes = client_of(server), client_of(server)
        await stays.send_all(b"stay")
        await goes.send_all(b"go")
        await until(lambda: server.statistics().open_connections == 2)
        await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
        report = await server.drain(grace=7)

        assert 7 == pytest.approx(trio.current_time() - before)
        assert DrainReport(finished=1, reset=1) == report
        assert "reset" == await fate_of(stays)
        assert "fin" == await fate_of(goes)

        await stays.aclose()
        await goes.aclose()


async def test_drain_can_wait_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    """grace=math.inf waits for as long as a handler takes."""
    async with serving() as (server, _), trio.open_nursery() as nursery:
        client = client_of(server)
        await client.send_all(b"x")
        await client.receive_some()
        reports: list[DrainReport] = []

        @nursery.start_soon
        async def drain() -> None:
            reports.append(await server.drain(grace=math.inf))

        await trio.testing.wait_all_tasks_blocked()
        autojump_clock.jump(1e9)
        await trio.testing.wait_all_tasks_blocked()

        assert [] == reports

        with pytest.raises(trio.BusyResourceError, match="once"):
            await server.drain()
        await client.aclose()
        await until(lambda: reports)

        assert [DrainReport(finished=1, reset=0)] == reports


async def test_cancelled_drain_resets() -> None:
    """A drain that is cancelled resets what is open, and the server ends."""

    async def handler(connection: Connection) -> None:
        await trio.sleep_forever()

    async with serving(handler) as (server, _):
        client = client_of(server)
        await until(lambda: server.statistics().open_connections)

        assert await is_waiting(partial(server.drain, grace=math.inf))
        assert "reset" == await fate_of(client)

        await client.aclose()


async def test_nothing_to_drain() -> None:
    """Draining without connections ends at once, is a checkpoint, and checks its argument."""
    async with serving() as (server, _):
        for grace in (-1, math.nan):
            with pytest.raises(trio_wsk.InvalidParameterError, match="grace"):
                await server.drain(grace=grace)
        with trio.testing.assert_checkpoints():
            assert DrainReport(finished=0, reset=0) == await server.drain()


async def test_leaving_the_block_drains_with_its_grace() -> None:
    """Leaving open_server normally lets handlers finish what they do."""

    async def handler(connection: Connection) -> None:
        await connection.draining.wait()
        await connection.send_all(b"bye")

    async with serving(handler, grace=PATIENCE) as (server, _):
        client = client_of(server)
        await until(lambda: server.statistics().open_connections)

    assert b"bye" == await read_to_end(client)

    await client.aclose()


async def test_leaving_the_block_takes_its_grace_and_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A handler that does not finish is cancelled when the server's own grace has run out."""
    cancelled: list[float] = []

    async def handler(connection: Connection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())

    async with serving(handler, grace=7) as (server, _):
        client = client_of(server)
        await until(lambda: server.statistics().open_connections)
        await trio.testing.wait_all_tasks_blocked()
        left = trio.current_time()

    assert [pytest.approx(left + 7)] == cancelled
    assert "reset" == await fate_of(client)

    await client.aclose()


@pytest.mark.parametrize("way", ["abort", "cancel", "raise"])
async def test_ending_at_once(way: str) -> None:
    """abort(), cancelling the block, and leaving it by an exception reset everybody at once."""
    cancelled = []

    async def handler(connection: Connection) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(connection)
            raise

    scope = trio.CancelScope()
    client = None
    try:
        with scope:
            async with serving(handler, grace=PATIENCE) as (server, _):
                client = client_of(server)
                await until(lambda: server.statistics().open_connections)
                if way == "cancel":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
                elif way == "raise":
                    raise ZeroDivisionError  # noqa: TRY301 - it is to leave the block
                server.abort()
                server.abort()
    except ZeroDivisionError:
        assert "raise" == way

    assert client is not None
    assert (way == "cancel") == scope.cancelled_caught
    assert "reset" == await fate_of(client)
    assert 1 == len(cancelled)

    await client.aclose()


async def test_abort_from_a_thread_is_refused() -> None:
    """abort() belongs to the Trio run, and says how a thread calls it."""
    async with serving() as (server, _):
        with pytest.raises(RuntimeError, match=r"from_thread.run_sync\(server.abort\)"):
            await trio.to_thread.run_sync(server.abort)


async def test_failed_listening_socket_ends_the_server() -> None:
    """When the listening socket fails, handlers are cancelled and the OSError comes out.

    A dispatch beside the handler is told of it.
    """
    failures: list[tuple[object, OSError]] = []

    async def handler(connection: Connection) -> None:
        await trio.sleep_forever()

    dispatch = ListenDispatch(failed=lambda listening, error: failures.append((listening, error)))
    with pytest.raises(OSError, match="Invalid argument") as raised:  # noqa: PT012
        transport = FaultyTransport.tcp(0, host=HOST)
        assert isinstance(transport, FaultyTransport)
        async with serving(handler, transport=transport, dispatch=dispatch) as (server, _):
            client = client_of(server)
            try:
                await until(lambda: server.statistics().open_connections)
                transport.faults.append(TransportFailedError(OSError(22, "Invalid argument")))
                other = client_of(server)
                other.socket.close()
                await trio.sleep(PATIENCE)
            finally:
                client.socket.close()

    assert [(server.listening, raised.value)] == failures
