"""Closing the public socket of a connection closes the connection."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.ending import nothing
from tests.helpers.pairs import open_pair
from tests.helpers.support import connect, fate_of, until
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    EndReason,
    ListenDispatch,
    SocketClosedError,
    open_server,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.usefixtures("readiness")


async def close_socket(connection: Connection) -> None:
    """Close the socket."""
    connection.socket.close()


async def close_stream(connection: Connection) -> None:
    """Close a stream of Trio's over the socket."""
    await trio.SocketStream(connection.socket).aclose()


async def leave_socket(connection: Connection) -> None:
    """Leave the socket's own block."""
    with connection.socket:
        pass


async def detach_socket(connection: Connection) -> None:
    """Take the descriptor away, and close it."""
    socket.close(connection.socket.detach())


CLOSINGS = [close_socket, close_stream, leave_socket, detach_socket]


@pytest.mark.parametrize("has_receive", [True, False])
@pytest.mark.parametrize("close_it", CLOSINGS)
async def test_closing_the_public_socket_closes_a_connection_with_events(
    close_it: Callable[[Connection], Awaitable[None]],
    has_receive: bool,  # noqa: FBT001 - a parameter
) -> None:
    """However its socket is closed, a connection is: it is told of, and its permit comes back."""
    ends: list[EndReason] = []
    taken: list[Connection] = []

    def accept(connection: Connection) -> ConnectionDispatch:
        taken.append(connection)
        return ConnectionDispatch(
            receive=nothing if has_receive else None,
            closed=lambda _, ended: ends.append(ended.reason),
        )

    async with open_server(
        ListenDispatch(accept=accept), 0, host="127.0.0.1", max_connections=1
    ) as server:
        for count in range(1, 4):
            client = await connect(server.local_addresses[0])
            await until(lambda count=count: len(taken) == count)  # type: ignore[misc]
            await wait_all_tasks_blocked()
            await close_it(taken[-1])

            assert taken[-1].closed
            assert "fin" == await fate_of(client)

            await wait_all_tasks_blocked()
            await client.aclose()

            assert [EndReason.CLOSED] * count == ends

        assert 3 == server.statistics().served


@pytest.mark.parametrize("callback", ["accept", "receive", "disconnect"])
async def test_public_socket_may_be_closed_in_any_callback(callback: str) -> None:
    """It ends the connection there as anywhere else."""
    ends: list[EndReason] = []

    def close_it(connection: Connection, *_: object) -> None:
        connection.socket.close()

    def accept(connection: Connection) -> ConnectionDispatch:
        if callback == "accept":
            close_it(connection)
        return ConnectionDispatch(
            receive=close_it if callback == "receive" else None,
            disconnect=close_it if callback == "disconnect" else None,
            closed=lambda _, ended: ends.append(ended.reason),
        )

    async with open_server(ListenDispatch(accept=accept), 0, host="127.0.0.1") as server:
        client = await connect(server.local_addresses[0])
        if callback == "receive":
            await client.send_all(b"x")
        elif callback == "disconnect":
            await client.send_eof()
        await until(lambda: ends)

        assert 1 == server.statistics().served

        await client.aclose()


@pytest.mark.parametrize("close_it", CLOSINGS)
async def test_task_that_waits_learns_that_the_public_socket_is_closed(
    close_it: Callable[[Connection], Awaitable[None]],
) -> None:
    """Whether it waits on the connection or on the socket, in its own words."""
    async with open_pair() as (connection, _), trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(SocketClosedError):
                await connection.receive_some()

        async def send(stream: trio.SocketStream) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(bytes(1 << 24))

        nursery.start_soon(receive)
        nursery.start_soon(send, trio.SocketStream(connection.socket))
        await wait_all_tasks_blocked()
        await close_it(connection)

    assert connection.closed


async def test_task_that_has_waited_before_learns_that_the_public_socket_is_closed() -> None:
    """Also where the readiness knew the connection before anybody asked for its socket."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:

        async def receive() -> None:
            assert b"x" == await connection.receive_some()
            assert connection.socket.fileno() >= 0
            with pytest.raises(SocketClosedError):
                await connection.receive_some()

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await client.send_all(b"x")
        await until(lambda: connection.octets_received)
        await wait_all_tasks_blocked()
        connection.socket.close()

    assert connection.closed


async def test_public_socket_is_closed_with_its_connection() -> None:
    """It is one descriptor, whoever closes it; closing again does nothing."""
    async with open_pair() as (connection, _):
        sock = connection.socket
        connection.close()

        assert -1 == sock.fileno()

        sock.close()


async def test_public_socket_does_what_trios_does() -> None:
    """All its methods and attributes are Trio's; also for whom asks for the class."""
    async with open_pair() as (connection, client):
        sock = connection.socket

        assert isinstance(sock, trio.socket.SocketType)
        assert repr(sock).startswith("<trio.socket.socket fd=")
        assert client.socket.getsockname() == sock.getpeername()
        assert (socket.AF_INET, socket.SOCK_STREAM) == (sock.family, sock.type)

        await sock.send(b"one")

        assert b"one" == await client.receive_some()

        await client.send_all(b"two")

        assert b"two" == await sock.recv(3)

        sock.shutdown(socket.SHUT_WR)

        assert sock.did_shutdown_SHUT_WR
