"""
Draining: who is told when, what is still taken, what is left to others, and whom it resets. The
plain cases are in test_ending, those of conditional accept beside its other tests.
"""

from __future__ import annotations

import math
import socket
import threading
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_wsk
from tests.helpers.namespaces import in_own_namespace, set_sysctl
from tests.helpers.serving import HOST, Silent, client_of, serving
from tests.helpers.support import (
    PATIENCE,
    FaultyTransport,
    connect_now,
    fate_of,
    read_to_end,
    until,
)
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    DrainReport,
    InspectAction,
    InspectPoint,
    ListenDispatch,
    Status,
    Verdict,
    open_server,
)
from trio_wsk._intake.intake import BATCH
from trio_wsk.testing import MemoryNetwork
from trio_wsk.transports import NoDescriptorsError, TransportFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trio_wsk import ConnectionRequest, Server

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")


async def said_to(client: trio.abc.ReceiveStream) -> bytes:
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


@pytest.mark.parametrize("way", ["cancelled", "crashed", "failed"])
async def test_reset_does_not_wait_for_who_holds_on(way: str) -> None:
    """
    So, too, when the server is cancelled, when a handler's error ends it, and when its listening
    socket fails: whom a shield keeps from ending has his peer reset all the same.
    """
    may_end = trio.Event()
    transport = FaultyTransport.tcp(0, host=HOST)
    assert isinstance(transport, FaultyTransport)

    async def handler(connection: Connection) -> None:
        if await connection.receive_some() == b"crash":
            raise ZeroDivisionError
        with trio.CancelScope(shield=True):
            await may_end.wait()

    async def serve(*, task_status: trio.TaskStatus[Server]) -> None:
        with pytest.raises((ZeroDivisionError, OSError)) if way != "cancelled" else scope:
            async with open_server(
                handler, transport=transport, on_handler_error="raise", observers=[Silent()]
            ) as server:
                task_status.started(server)
                await trio.sleep_forever()

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve)
        client, other = client_of(server), client_of(server)
        await client.send_all(b"hold on")
        await until(lambda: server.statistics().open_connections == 2)
        await trio.testing.wait_all_tasks_blocked()
        if way == "cancelled":
            scope.cancel()
        elif way == "crashed":
            await other.send_all(b"crash")
        else:
            transport.faults.append(TransportFailedError(OSError(22, "Invalid argument")))
            client_of(server).socket.close()

        assert "reset" == await fate_of(client)
        assert server.statistics().open_connections

        may_end.set()
        for each in (client, other):
            await each.aclose()


async def test_connection_that_its_handler_has_closed_was_not_reset() -> None:
    """A handler that is busy after its connection has ended is cut off, its peer is not."""

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"all of it")
        await connection.aclose()
        await trio.sleep_forever()

    async with serving(handler) as (server, _):
        assert b"all of it" == await said_to(client_of(server))
        assert DrainReport(finished=1, reset=0) == await server.drain()


# --- Who is told ------------------------------------------------------------------------------


async def test_open_connections_are_told_whatever_is_being_inspected() -> None:
    """
    Somebody has no verdict yet: the handlers that run are told all the same, and end in their own
    time; who is let through then is served, and told at once.
    """
    decided = trio.Event()
    told: list[bool] = []

    async def inspect(_: ConnectionRequest) -> InspectAction:
        if server.statistics().open_connections:
            await decided.wait()
        return InspectAction.ACCEPT

    async def handler(connection: Connection) -> None:
        told.append(connection.draining.is_set())
        await connection.draining.wait()
        await connection.send_all(b"bye")

    async with (
        serving(handler, inspect=inspect) as (server, observed),
        trio.open_nursery() as nursery,
    ):
        first = client_of(server)
        await until(lambda: server.statistics().open_connections)
        second = client_of(server)
        await until(lambda: server.statistics().listening.pending)
        nursery.start_soon(partial(server.drain, grace=math.inf))

        assert b"bye" == await said_to(first)
        assert 1 == server.statistics().listening.pending

        decided.set()

        assert b"bye" == await said_to(second)

    assert [False, True] == told
    assert 1 == observed.of("DrainStarted")[0].open_connections
    assert (2, 0) == (
        observed.of("DrainFinished")[0].finished,
        observed.of("DrainFinished")[0].reset,
    )


async def test_connections_with_events_are_told_whatever_is_being_inspected() -> None:
    """``ListenDispatch.drain`` is called at once, and for who is let through later after accept."""
    order: list[str] = []

    def inspect(_: ConnectionRequest) -> InspectAction:
        return InspectAction.PEND if order else InspectAction.ACCEPT

    def accept(connection: Connection) -> ConnectionDispatch:
        order.append(f"accept {connection.draining.is_set()}")
        return ConnectionDispatch(receive=lambda connection, data: None)

    def drain(connection: Connection) -> None:
        order.append("drain")
        connection.disconnect(data=b"bye")

    dispatch = ListenDispatch(accept=accept, drain=drain, inspect=inspect)
    async with open_server(dispatch, 0, host=HOST, observers=[Silent()]) as server:
        first = client_of(server)
        await until(lambda: order)
        second = client_of(server)
        await until(lambda: server.statistics().listening.pending)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(server.drain, grace=math.inf))

            assert b"bye" == await said_to(first)

            listening = server.listening
            (inspect_id,) = listening.pending_inspections
            listening.inspect_complete(inspect_id, InspectAction.ACCEPT)

            assert b"bye" == await said_to(second)

    assert ["accept False", "drain", "accept True", "drain"] == order


@pytest.mark.parametrize("point", InspectPoint)
async def test_verdicts_and_connections_share_the_grace(
    point: InspectPoint, autojump_clock: trio.testing.MockClock
) -> None:
    """
    One peer of whom nobody knows the verdict takes nothing from the others: who is open has the
    whole grace, who is let through has what is left of it, and then the one is aborted.
    """
    seconds = {"192.0.2.2": 0.0, "192.0.2.3": 2.0, "192.0.2.4": math.inf}
    ended: list[tuple[str, float]] = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        await trio.sleep(seconds[str(request.remote_address.host)])
        return InspectAction.ACCEPT

    async def handler(connection: Connection) -> None:
        await connection.draining.wait()
        await trio.sleep(2.5)
        ended.append((str(connection.remote_address.host), trio.current_time()))

    network = MemoryNetwork()
    async with open_server(
        handler,
        transport=network.host("192.0.2.1").transport(80),
        inspect=inspect,
        inspect_point=point,
        inspect_timeout=PATIENCE,
        observers=[Silent()],
    ) as server:
        streams = [network.host(host).open_connection(("192.0.2.1", 80)) for host in seconds]
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        report = await server.drain(grace=5)

        assert 5.0 == trio.current_time() - start
        assert DrainReport(finished=2, reset=0) == report
        assert [("192.0.2.2", start + 2.5), ("192.0.2.3", start + 4.5)] == ended
        assert {"closed": 1} == server.statistics().listening.aborted

        for stream in streams:
            await stream.aclose()


async def test_grace_ends_for_everybody_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """An inspector that ignores its cancellation delays neither the resets nor who is told."""

    async def inspect(request: ConnectionRequest) -> InspectAction:
        if str(request.remote_address.host) == "192.0.2.3":
            with trio.CancelScope(shield=True):
                await trio.sleep(100)
        return InspectAction.ACCEPT

    async def handler(connection: Connection) -> None:
        await trio.sleep_forever()

    network = MemoryNetwork()
    transport = network.host("192.0.2.1").transport(80)
    async with (
        trio.open_nursery() as nursery,
        open_server(handler, transport=transport, inspect=inspect, observers=[Silent()]) as server,
    ):
        streams = [
            await network.host(host).connect(("192.0.2.1", 80))
            for host in ("192.0.2.2", "192.0.2.3")
        ]
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        nursery.start_soon(partial(server.drain, grace=5))
        for stream in streams:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()

            assert 5.0 == trio.current_time() - start

            await stream.aclose()


# --- Before the handshake is over -------------------------------------------------------------


@pytest.mark.parametrize("client_does", ["answer", "vanish"])
async def test_who_is_let_through_may_finish_the_handshake(
    client_does: str, autojump_clock: trio.testing.MockClock
) -> None:
    """
    A request that is approved when the drain begins has the grace for its handshake: then it is
    served. When the grace is over it is aborted as closed, and the abort callback is called.
    """
    aborted: list[object] = []
    answers = client_does == "answer"

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"served")

    network = MemoryNetwork(latency=1.0)
    dispatch = ListenDispatch(inspect=lambda _: InspectAction.ACCEPT, abort=aborted.append)
    async with open_server(
        handler,
        transport=network.host("192.0.2.1").transport(80),
        dispatch=dispatch,
        inspect_point=InspectPoint.BEFORE_HANDSHAKE,
        observers=[Silent()],
    ) as server:
        stream = network.host("192.0.2.2").open_connection(("192.0.2.1", 80))
        while not server.statistics().listening.approved:  # noqa: ASYNC110 - on a virtual clock
            await trio.sleep(0.1)
        if not answers:
            stream.vanish()

        assert (1, 0) == (
            server.statistics().listening.pending,
            server.statistics().open_connections,
        )

        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            if answers:

                @nursery.start_soon
                async def client() -> None:
                    assert b"served" == await said_to(stream)

            report = await server.drain(grace=10)

        if answers:
            assert DrainReport(finished=1, reset=0) == report
            assert trio.current_time() - start < 10
            assert [] == aborted
        else:
            assert DrainReport(finished=0, reset=0) == report
            assert 10.0 == trio.current_time() - start
            assert {"closed": 1} == server.statistics().listening.aborted
            assert 1 == len(aborted)


# --- Who waits in the queue -------------------------------------------------------------------


async def serve_one(connection: Connection) -> None:
    """Answer one request."""
    await connection.send_all(await connection.receive_some())


async def test_queue_behind_those_who_stay_is_served() -> None:
    """
    ``max_connections`` is reached by peers who stay for the whole grace: who waits in the queue
    when the drain begins is served all the same.
    """
    async with serving(serve_one, max_connections=2) as (server, _), trio.open_nursery() as nursery:
        stay = [client_of(server) for _ in range(2)]
        await until(lambda: server.statistics().open_connections == 2)
        waiting = [client_of(server) for _ in range(5)]
        nursery.start_soon(partial(server.drain, grace=math.inf))
        for client in waiting:
            await client.send_all(b"x")
        for client in waiting:
            assert b"x" == await said_to(client)

        assert 2 == server.statistics().open_connections

        for client in stay:
            await client.send_all(b"x")

            assert b"x" == await said_to(client)

    assert {} == server.statistics().listening.dropped


@pytest.mark.parametrize("limit", [1, 40])
async def test_limit_is_exceeded_by_itself_or_a_batch(limit: int) -> None:
    """However many wait, a drain has no more open than that; the rest follow, in their order."""
    more = max(limit, BATCH)
    served: list[int] = []

    async def handler(connection: Connection) -> None:
        (number,) = await connection.receive_some()
        served.append(number)
        await connection.send_all(b"served")

    async with serving(handler, max_connections=limit) as (server, _):
        stay = [client_of(server) for _ in range(limit)]
        await until(lambda: server.statistics().open_connections == limit)
        waiting = [client_of(server) for _ in range(2 * more + 7)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(server.drain, grace=math.inf))
            await until(lambda: server.statistics().open_connections == limit + more)
            await trio.testing.wait_all_tasks_blocked()
            for number, client in enumerate(waiting):
                await client.send_all(bytes([number]))

                assert b"served" == await said_to(client)
            for client in stay:
                await client.send_all(b"x")

                assert b"served" == await said_to(client)

        assert limit + more == server.statistics().open_most
        assert list(range(2 * more + 7)) == served[: len(waiting)]
        assert {} == server.statistics().listening.dropped


async def test_who_is_not_served_within_the_grace_is_reset() -> None:
    """What a drain has taken and nobody has served is reset at its end, with the others."""
    async with serving(serve_one, max_connections=1) as (server, _):
        clients = [client_of(server)]
        await until(lambda: server.statistics().open_connections)
        clients += [client_of(server) for _ in range(BATCH + 3)]
        report = await server.drain(grace=0.05)

        assert DrainReport(finished=0, reset=1 + BATCH) == report
        assert ["reset"] * len(clients) == [await fate_of(client) for client in clients]
        assert {"closed": 3} == server.statistics().listening.dropped

        for client in clients:
            await client.aclose()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("way", ["paused", "full"])
async def test_long_queue_is_taken_to_its_end(kind: str, way: str, tmp_path: Path) -> None:
    """Also where the kernel doesn't tell how many wait in it: no share of them is reset."""
    count = 400
    unix = {"port": None, "host": None, "path": tmp_path / "s"}
    place = unix if kind == "unix" else {}
    limit = 1 if way == "full" else None
    async with serving(serve_one, max_connections=limit, **place) as (server, _):
        first = client_of(server)
        if way == "full":
            await until(lambda: server.statistics().open_connections)
        else:
            server.listening.pause()
        clients = [first, *(client_of(server) for _ in range(count))]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(server.drain, grace=math.inf))
            for client in clients:
                await client.send_all(b"x")
            for client in clients:
                assert b"x" == await said_to(client)

    assert 1 + count == server.statistics().served


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_who_has_just_come_is_taken(kind: str, tmp_path: Path) -> None:
    """Whoever connected before drain() was called is served, though nobody has told of him yet."""
    unix = {"port": None, "host": None, "path": tmp_path / "s"}
    async with serving(serve_one, **(unix if kind == "unix" else {})) as (server, _):
        await (first := client_of(server)).send_all(b"x")

        assert b"x" == await said_to(first)

        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            clients = [client_of(server) for _ in range(3)]

            @nursery.start_soon
            async def talk() -> None:
                for client in clients:
                    await client.send_all(b"x")

                    assert b"x" == await said_to(client)

            assert DrainReport(finished=3, reset=0) == await server.drain(grace=PATIENCE)


async def test_queue_is_inspected_behind_those_who_stay() -> None:
    """With an inspector, too: who waits in the queue is asked about beyond the limit."""
    async with (
        serving(serve_one, max_connections=1, inspect=lambda _: InspectAction.ACCEPT) as (
            server,
            _,
        ),
        trio.open_nursery() as nursery,
    ):
        stays = client_of(server)
        await until(lambda: server.statistics().open_connections)
        waiting = [client_of(server) for _ in range(5)]
        nursery.start_soon(partial(server.drain, grace=math.inf))
        for client in [*waiting, stays]:
            await client.send_all(b"x")

            assert b"x" == await said_to(client)


@pytest.mark.parametrize("point", InspectPoint)
@pytest.mark.parametrize("way", ["plain", "async"])
async def test_queue_is_served_whenever_it_is_inspected(
    way: str, point: InspectPoint, autojump_clock: trio.testing.MockClock
) -> None:
    """
    ``max_connections`` is reached by one who stays, and others have sent SYNs or have connected:
    they are let in and served beyond the limit, at both inspect points.
    """

    async def inspect(_: ConnectionRequest) -> InspectAction:
        await trio.sleep(1)
        return InspectAction.ACCEPT

    network = MemoryNetwork(latency=0.1)
    async with open_server(
        serve_one,
        transport=network.host("192.0.2.1").transport(80),
        max_connections=1,
        inspect=inspect if way == "async" else lambda _: InspectAction.ACCEPT,
        inspect_point=point,
        observers=[Silent()],
    ) as server:
        streams = [network.host("192.0.2.2").open_connection(("192.0.2.1", 80)) for _ in range(6)]
        await trio.sleep(5)

        assert 1 == server.statistics().open_connections

        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(server.drain, grace=10))

            for stream in streams[1:]:
                await stream.send_all(b"x")

                assert b"x" == await said_to(stream)

            assert 1 == server.statistics().open_connections

            await streams[0].aclose()

    assert 6 == server.statistics().served
    assert {} == server.statistics().listening.aborted


@pytest.mark.parametrize("policy", ["backoff", "raise"])
async def test_drain_outlives_a_shortage_of_descriptors(policy: str) -> None:
    """Taking more than there may be otherwise can need a descriptor too many: then it waits."""
    transport = FaultyTransport.tcp(0, host=HOST)
    assert isinstance(transport, FaultyTransport)
    async with serving(serve_one, transport=transport, on_no_descriptors=policy) as (server, _):
        server.listening.pause()
        client = client_of(server)
        await client.send_all(b"x")
        transport.faults.append(NoDescriptorsError(OSError(24, "Too many open files")))

        assert DrainReport(finished=1, reset=0) == await server.drain(grace=PATIENCE)
        assert b"x" == await said_to(client)
        assert 1 == server.statistics().listening.accept_backoffs


@pytest.mark.parametrize("kind", ["tcp", "unix", "memory"])
async def test_drain_is_over_when_all_who_waited_were_shed(kind: str, tmp_path: Path) -> None:
    """
    Who is reset for want of a descriptor was one of those who wait: when the last of them has been,
    nobody listens any more, newcomers are refused, and the drain waits for open connections alone.
    """
    memory = MemoryNetwork()
    at_place: dict[str, Callable[[], Any]] = {
        "tcp": partial(FaultyTransport.tcp, 0, host=HOST),
        "unix": partial(FaultyTransport.unix, tmp_path / "s"),
        "memory": partial(memory.host("192.0.2.1").transport, 80),
    }
    transport: Any = at_place[kind]()

    async def connected(server: Server) -> trio.abc.Stream:
        if kind == "memory":
            return await memory.host("192.0.2.2").connect(("192.0.2.1", 80))
        return client_of(server)

    async with serving(serve_one, transport=transport, on_no_descriptors="shed") as (server, _):
        first = await connected(server)
        await until(lambda: server.statistics().open_connections)
        server.listening.pause()
        clients = [await connected(server) for _ in range(5)]
        for client in clients:
            await client.send_all(b"unread")  # by which a Unix peer knows a reset
        if isinstance(transport, FaultyTransport):
            transport.faults.append(NoDescriptorsError(OSError(24, "Too many open files")))
        else:
            transport.fail_next(24)
        reports: list[DrainReport] = []
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def drain() -> None:
                    reports.append(await server.drain(grace=math.inf))

                for client in clients:
                    with pytest.raises(trio.BrokenResourceError):
                        await client.receive_some()
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(OSError, match=r"refused|No such file"):
                    await connected(server)
                await first.send_all(b"x")

                assert b"x" == await said_to(first)

        assert [DrainReport(finished=1, reset=0)] == reports
        assert 5 == server.statistics().listening.shed

        for client in clients:
            await client.aclose()


async def test_port_is_free_when_the_queue_has_been_taken() -> None:
    """While those who are open have their grace, the next server listens at the same place."""
    async with serving(serve_one) as (server, _), trio.open_nursery() as nursery:
        client = client_of(server)
        await until(lambda: server.statistics().open_connections)
        nursery.start_soon(partial(server.drain, grace=math.inf))
        await server.listening.draining.wait()
        await trio.testing.wait_all_tasks_blocked()
        async with serving(serve_one, port=server.local_addresses[0].port) as (after, _):
            for each in (client_of(after), client):
                await each.send_all(b"x")

                assert b"x" == await said_to(each)

    assert [1, 1] == [each.statistics().served for each in (server, after)]


async def test_who_refuses_refuses_in_a_drain() -> None:
    """refuse() is the owner's word: nobody is taken, not even from the queue."""
    async with serving(serve_one) as (server, _):
        client = client_of(server)
        server.listening.refuse()
        await server.drain(grace=PATIENCE)

        assert "reset" == await fate_of(client)
        assert 0 == server.statistics().served

        await client.aclose()


async def test_drain_is_not_called_off() -> None:
    """Once a server drains, nobody has its listening socket take more, or less."""
    async with serving(serve_one) as (server, _), trio.open_nursery() as nursery:
        client = client_of(server)
        await until(lambda: server.statistics().open_connections)
        nursery.start_soon(partial(server.drain, grace=math.inf))
        await server.listening.draining.wait()
        for change in (server.listening.resume, server.listening.pause, server.listening.refuse):
            with pytest.raises(trio_wsk.SocketClosedError):
                change()
        await client.send_all(b"x")

        assert b"x" == await said_to(client)


# --- Who is left to others --------------------------------------------------------------------


def listener(kind: str, path: Path) -> socket.socket:
    """Make what a service manager makes, and holds."""
    if kind == "tcp":
        return socket.create_server((HOST, 0))
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


@pytest.mark.parametrize("grace", [0, 0.02])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("way", ["full", "paused", "just come"])
async def test_queue_of_an_adopted_socket_is_the_next_servers(
    way: str, kind: str, grace: float, tmp_path: Path
) -> None:
    """
    A socket that we were given others may hold: a drain touches nothing of what waits in it, and
    the server that has it next serves everybody.
    """
    made = listener(kind, tmp_path / "s")
    adopted = {"port": None, "host": None}
    limit = 1 if way == "full" else None
    async with serving(serve_one, sockets=[made.dup()], max_connections=limit, **adopted) as (
        server,
        _,
    ):
        ours = client_of(server)
        await until(lambda: server.statistics().open_connections)
        if way == "paused":
            server.listening.pause()
        waiting = [client_of(server) for _ in range(20)]

        assert DrainReport(finished=0, reset=1) == await server.drain(grace=grace)
        assert "reset" == (await fate_of(ours) if kind == "tcp" else "reset")
        assert {} == server.statistics().listening.dropped

        waiting.append(client_of(server))
        await ours.aclose()

    async with serving(serve_one, sockets=[made], **adopted) as (server, _):
        for client in waiting:
            await client.send_all(b"x")

            assert b"x" == await said_to(client)


async def test_inspections_of_an_adopted_socket_go_on() -> None:
    """Who is being inspected has been taken: he has his verdict within the grace, and is served."""
    made = socket.create_server((HOST, 0))
    may_answer = trio.Event()

    async def inspect(_: ConnectionRequest) -> InspectAction:
        await may_answer.wait()
        return InspectAction.ACCEPT

    async with (
        serving(serve_one, port=None, host=None, sockets=[made.dup()], inspect=inspect) as (
            server,
            _,
        ),
        trio.open_nursery() as nursery,
    ):
        ours = client_of(server)
        await until(lambda: server.statistics().listening.pending)
        nursery.start_soon(partial(server.drain, grace=math.inf))
        await server.listening.draining.wait()
        theirs = connect_now(server.local_addresses[0])
        await trio.testing.wait_all_tasks_blocked()
        may_answer.set()
        await ours.send_all(b"x")

        assert b"x" == await said_to(ours)

    async with serving(serve_one, port=None, host=None, sockets=[made]) as (server, _):
        await theirs.send_all(b"x")

        assert b"x" == await said_to(theirs)


@pytest.mark.parametrize("migrates", [1, 0])
@in_own_namespace
async def test_queue_of_a_shared_port_goes_where_the_kernel_gives_it(migrates: int) -> None:
    """
    With ``reuse_port`` each process has a queue of its own. Where the kernel moves it to the others
    when a socket is closed, a drain leaves it to them; else closing would reset it, and a drain
    serves it.
    """
    set_sysctl("net.ipv4.tcp_migrate_req", migrates)
    shared: Any = {"host": HOST, "reuse_port": True, "observers": [Silent()]}
    async with open_server(serve_one, 0, max_connections=1, **shared) as first:
        stays = client_of(first)
        await until(lambda: first.statistics().open_connections)
        waiting = [client_of(first) for _ in range(5)]
        port = first.local_addresses[0].port
        async with (
            open_server(serve_one, port, **shared) as second,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(partial(first.drain, grace=math.inf))
            for client in [*waiting, stays]:
                await client.send_all(b"x")

                assert b"x" == await said_to(client)

    assert (5 if migrates else 0) == second.statistics().served
    assert (1 if migrates else 6) == first.statistics().served


# --- Last words -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 6, 7, 9, 10])  # in which the message is lost at first
async def test_who_is_turned_away_has_time_to_hear_why(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    """
    Whoever is turned away with a message, as the last thing that happens in a drain, gets it on a
    bad line, too: what is lost is sent again.
    """
    network = MemoryNetwork(latency=0.1, loss=0.3, seed=seed)
    async with open_server(
        serve_one,
        transport=network.host("192.0.2.1").transport(80),
        inspect=lambda _: InspectAction.PEND,
        observers=[Silent()],
        inspect_timeout=100,
    ) as server:
        stream = await network.host("192.0.2.2").connect(("192.0.2.1", 80))
        while not server.listening.pending_inspections:  # noqa: ASYNC110 - on a virtual clock
            await trio.sleep(0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(server.drain, grace=100))
            await trio.testing.wait_all_tasks_blocked()
            (inspect_id,) = server.listening.pending_inspections
            server.listening.inspect_complete(
                inspect_id, Verdict(InspectAction.REJECT, close=b"421 closing")
            )

            assert b"421 closing" == await said_to(stream)
