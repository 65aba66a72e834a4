"""`server.connections`: who is connected, and how each of them is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.pairs import receive_exactly
from tests.helpers.serving import client_of, echo, echo_events, server_context, serving, tls_over
from tests.helpers.support import PATIENCE, reset, until
from trio_wsk import ConnectionDispatch, ConnectionState, ListenDispatch, Reader, open_server
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_wsk import Connection, Server

pytestmark = pytest.mark.usefixtures("readiness")


def only(server: Server) -> Connection:
    """Return the one connection that is open."""
    [connection] = server.connections
    return connection


async def wait(connection: Connection) -> None:
    """Handle no request, and wait for the next one."""
    while await connection.more():
        await connection.receive_some()


# --- The view ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "handler", [echo, ListenDispatch(accept=echo_events)], ids=["handlers", "events"]
)
async def test_view_has_those_that_are_open(handler: object) -> None:
    """The view has as many as are counted as open, and is the same object at each look."""
    async with open_server(handler, 0, host="127.0.0.1", grace=0) as server:  # type: ignore[call-overload]
        connections = server.connections
        assert 0 == len(connections)
        assert [] == list(connections)

        clients = [client_of(server) for _ in range(3)]
        await until(lambda: len(connections) == 3)
        listed = list(connections)

        assert {str(each.remote_address.port) for each in listed} == {
            str(client.socket.getsockname()[1]) for client in clients
        }
        assert all(each in connections for each in listed)
        assert "<3 open connections>" == repr(connections)

        clients[0].socket.close()
        await until(lambda: len(connections) == 2)

        assert 2 == sum(each in connections for each in listed)
        assert server.statistics().open_connections == len(connections)
        for client in clients[1:]:
            client.socket.close()


async def test_what_is_no_connection_of_the_server_is_not_in_its_view() -> None:
    """Another server's connections, and whatever else there is, are not in the view."""
    async with (
        open_server(echo, 0, host="127.0.0.1", grace=0) as server,
        open_server(echo, 0, host="127.0.0.1", grace=0) as other,
    ):
        client, others_client = client_of(server), client_of(other)
        await until(lambda: server.connections and other.connections)

        assert only(other) not in server.connections
        assert None not in server.connections
        client.socket.close()
        others_client.socket.close()


@pytest.mark.parametrize(
    "handler", [echo, ListenDispatch(accept=echo_events)], ids=["handlers", "events"]
)
async def test_who_goes_through_it_may_wait_while_others_come_and_go(handler: object) -> None:
    """An iteration gives no connection that has ended by then, and none that came after it."""
    async with open_server(handler, 0, host="127.0.0.1", grace=0) as server:  # type: ignore[call-overload]
        clients = [client_of(server) for _ in range(5)]
        await until(lambda: len(server.connections) == 5)
        given = []
        for connection in server.connections:
            given.append(connection.remote_address)
            if len(given) == 1:
                for client in clients:
                    if client.socket.getsockname()[1] != connection.remote_address.port:
                        reset(client)
                await until(lambda: len(server.connections) == 1)
                clients.append(client_of(server))
                await until(lambda: len(server.connections) == 2)

        assert 1 == len(given)
        for client in clients:
            client.socket.close()


async def test_operator_ends_a_connection_by_the_view() -> None:
    """What is in the view is the connection itself."""
    async with serving() as (server, _):
        client = client_of(server)
        await until(lambda: server.connections)
        only(server).abort()

        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
        await until(lambda: not server.connections)
        client.socket.close()


# --- States ------------------------------------------------------------------------------------


async def test_handshake_is_a_state_of_its_own() -> None:
    """A connection is in HANDSHAKE until TLS is there."""
    async with serving(ssl_context=server_context()) as (server, _):
        client = client_of(server)
        await until(lambda: server.connections and only(server).state is ConnectionState.HANDSHAKE)

        stream = tls_over(client)
        await stream.send_all(b"hello")
        assert b"hello" == await receive_exactly(stream, 5)

        assert ConnectionState.OPEN is only(server).state
        assert 5 == only(server).octets_received
        client.socket.close()


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "TLS"])
async def test_handler_that_waits_for_a_request_is_waiting(over_tls: bool) -> None:  # noqa: FBT001 - a case
    """A connection is WAITING while its handler waits for a next request, and OPEN after it."""
    may_go_on = trio.Event()

    async def answer(stream: trio.abc.HalfCloseableStream) -> None:
        async for line in Reader(stream).lines():
            await may_go_on.wait()
            await stream.send_all(line)

    options = {"ssl_context": server_context()} if over_tls else {}
    async with serving(answer, **options) as (server, _):
        client = client_of(server)
        stream: trio.abc.Stream = client
        if over_tls:
            stream = over = tls_over(client)
            await over.do_handshake()
        await until(lambda: server.connections)
        await until(lambda: only(server).state is ConnectionState.WAITING)

        await stream.send_all(b"line\n")
        await until(lambda: only(server).state is ConnectionState.OPEN)
        may_go_on.set()
        assert b"line" == await receive_exactly(stream, 4)
        await until(lambda: only(server).state is ConnectionState.WAITING)
        client.socket.close()


async def test_each_end_is_a_state() -> None:
    """The peer's FIN, ours, and the close show, as long as the handler has not returned."""
    steps = [trio.Event() for _ in range(4)]

    async def handle(connection: Connection) -> None:
        assert b"" == await connection.receive_some()
        steps[0].set()
        await steps[1].wait()
        await connection.send_eof()
        await steps[2].wait()
        connection.close()
        await steps[3].wait()

    with trio.fail_after(PATIENCE):
        async with serving(handle) as (server, _):
            client = client_of(server)
            await client.send_eof()
            await steps[0].wait()
            assert ConnectionState.PEER_FINISHED is only(server).state

            steps[1].set()
            await wait_all_tasks_blocked()
            assert ConnectionState.FINISHED is only(server).state

            steps[2].set()
            await wait_all_tasks_blocked()
            connection = only(server)
            assert ConnectionState.CLOSED is connection.state
            assert connection.idle_seconds is None

            steps[3].set()
            await until(lambda: not server.connections)
            client.socket.close()


async def test_broken_connection_is_broken_until_it_is_closed() -> None:
    """A reset that the handler has met and not acted on shows."""
    may_return = trio.Event()

    async def handle(connection: Connection) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await connection.receive_some()
        await may_return.wait()

    async with serving(handle) as (server, _):
        client = client_of(server)
        await until(lambda: server.connections)
        reset(client)
        await until(lambda: only(server).state is ConnectionState.BROKEN)
        may_return.set()


async def test_connection_that_lingers_is_finished() -> None:
    """One with events has finished when it is to send FIN, and waits for its peer's."""

    def accept(connection: Connection) -> ConnectionDispatch:
        connection.disconnect(data=b"bye")
        return ConnectionDispatch()

    async with open_server(ListenDispatch(accept=accept), 0, host="127.0.0.1", grace=0) as server:
        client = client_of(server)
        assert b"bye" == await receive_exactly(client, 3)
        assert b"" == await client.receive_some()

        assert ConnectionState.FINISHED is only(server).state
        client.socket.close()


# --- Idle time, and what is queued --------------------------------------------------------------


async def test_idle_time_begins_anew_with_each_octet(autojump_clock: MockClock) -> None:
    """Seconds since something passed, either way; since the beginning if nothing has."""
    network = MemoryNetwork()
    transport = network.host("192.0.2.1").transport(80)
    async with open_server(echo, transport=transport, grace=0) as server:
        client = await network.host("192.0.2.2").connect(("192.0.2.1", 80))
        await wait_all_tasks_blocked()
        connection = only(server)
        await trio.sleep(10)
        assert 10 == connection.idle_seconds

        await client.send_all(b"in")
        assert b"in" == await client.receive_some()
        assert 0 == connection.idle_seconds

        await trio.sleep(20)
        assert 20 == connection.idle_seconds

        await connection.send_all(b"out")
        assert 0 == connection.idle_seconds
        await client.aclose()


async def test_idle_time_over_tcp_is_the_kernels() -> None:
    """On a real socket the kernel is asked."""
    async with serving(wait) as (server, _):
        client = client_of(server)
        await until(lambda: server.connections)
        await until(lambda: (only(server).idle_seconds or 0) > 0.05)
        seconds = only(server).idle_seconds
        assert seconds is not None
        await client.send_all(b"x")
        before = trio.current_time()
        await until(lambda: only(server).octets_received == 1)
        idle = only(server).idle_seconds

        assert idle is not None
        assert idle <= trio.current_time() - before + 0.02  # a tick of the kernel's at 100 Hz
        client.socket.close()


async def test_what_is_queued_is_shown() -> None:
    """`octets_unsent` is what the kernel has not taken yet."""
    size = 1 << 24

    def accept(connection: Connection) -> ConnectionDispatch:
        connection.send_nowait(bytes(size))
        return ConnectionDispatch()

    async with open_server(ListenDispatch(accept=accept), 0, host="127.0.0.1", grace=0) as server:
        client = client_of(server)
        await until(lambda: server.connections)
        connection = only(server)
        assert size == connection.octets_sent + connection.octets_unsent
        assert connection.octets_unsent > 0

        await receive_exactly(client, size)
        assert 0 == connection.octets_unsent
        client.socket.close()
