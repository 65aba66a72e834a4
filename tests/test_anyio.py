"""anyio's interfaces over ours: its own streams, its TLS and its clients run on them."""

from __future__ import annotations

import importlib
import os
import socket
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_wsk
from tests.helpers.pairs import open_pair
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import PATIENCE, connect, fate_of, reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio_wsk import Connection

if "CI" in os.environ:
    anyio: Any = importlib.import_module("anyio")
else:
    anyio = pytest.importorskip("anyio")

from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSListener, TLSStream

from trio_wsk.anyio import BrokenError, BusyError, ByteStream, ClosedError, Listener

pytestmark = [pytest.mark.guests, pytest.mark.usefixtures("readiness")]

HOST = "127.0.0.1"

MESSAGE = bytes(range(256)) * 1000
"""More than one receive takes, so that its order counts."""


@pytest.fixture
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Issue a certificate for the address that the tests listen at: our side, and the client's."""
    trustme = importlib.import_module("trustme")
    authority = trustme.CA()
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(ours)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(theirs)
    return ours, theirs


async def echo(stream: Any) -> None:
    """Send back what comes, in anyio's words, until the client has finished."""
    async with stream:
        async for octets in stream:
            await stream.send(octets)


async def echo_on(connection: Connection) -> None:
    """Do so as a handler of ours."""
    await echo(ByteStream(connection))


async def talk(client: Any) -> None:
    """Have a message come back over an anyio stream, then end, and see the other side end, too."""
    buffered = BufferedByteReceiveStream(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, MESSAGE)

        assert MESSAGE == await buffered.receive_exactly(len(MESSAGE))

    await client.aclose()


@asynccontextmanager
async def open_byte_stream() -> AsyncIterator[tuple[ByteStream, trio.SocketStream]]:
    """Open a connection in anyio's words, and its client."""
    async with open_pair() as (connection, client):
        yield ByteStream(connection), client


# --- Streams ------------------------------------------------------------------------------------


async def test_anyio_client_talks_to_an_anyio_handler() -> None:
    """A handler in anyio's words, which `trio_wsk.serve` runs, echoes to anyio's own client."""
    with trio.fail_after(PATIENCE):
        async with trio_wsk.open_server(echo_on, 0, host=HOST, grace=PATIENCE) as server:
            await talk(await anyio.connect_tcp(HOST, server.local_addresses[0].port))

        assert (1, 0) == (server.statistics().served, server.statistics().handler_failures)


async def test_end_of_input_is_an_end_of_stream() -> None:
    """After the peer's FIN `receive` raises `anyio.EndOfStream`, each time; sending goes on."""
    async with open_byte_stream() as (stream, client):
        await client.send_all(b"last")
        await client.send_eof()

        assert b"la" == await stream.receive(2)
        assert b"st" == await stream.receive()

        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        await stream.send(b"answer")
        await stream.send_eof()
        await stream.send_eof()

        assert b"answer" == await client.receive_some()
        assert b"" == await client.receive_some()


async def test_nothing_can_not_be_asked_for() -> None:
    """``max_bytes`` below 1 is a `ValueError`, as anyio says."""
    async with open_byte_stream() as (stream, _):
        with pytest.raises(ValueError, match="max_bytes"):
            await stream.receive(0)


async def test_broken_connection_is_an_error_of_both() -> None:
    """A reset is anyio's `BrokenResourceError` and Trio's, caused by ours; for sending, too."""
    async with open_byte_stream() as (stream, client):
        reset(client)
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await stream.receive()

        assert isinstance(caught.value, BrokenError)
        assert isinstance(caught.value, trio.BrokenResourceError)
        assert isinstance(caught.value.__cause__, trio_wsk.ConnectionBrokenError)

        with pytest.raises(BrokenError):
            await stream.send(b"answer")
        with pytest.raises(BrokenError):
            await stream.send_eof()


async def test_closed_stream_is_an_error_of_both() -> None:
    """What this side has closed raises anyio's `ClosedResourceError` and Trio's."""
    async with open_byte_stream() as (stream, _):
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError) as caught:
            await stream.receive()

        assert isinstance(caught.value, ClosedError)
        assert isinstance(caught.value, trio.ClosedResourceError)

        with pytest.raises(ClosedError):
            await stream.send(b"answer")


async def test_busy_stream_is_an_error_of_both() -> None:
    """Two tasks that receive at once: the second gets anyio's `BusyResourceError` and Trio's."""
    async with open_byte_stream() as (stream, _), trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError) as caught:
            await stream.receive()

        assert isinstance(caught.value, BusyError)
        assert isinstance(caught.value, trio.BusyResourceError)

        nursery.cancel_scope.cancel()


async def test_every_call_is_a_checkpoint() -> None:
    """Every awaited call is a checkpoint, whether or not it has to wait."""
    async with open_byte_stream() as (stream, client):
        await client.send_all(b"here")
        with trio.testing.assert_checkpoints():
            await stream.receive()
        with trio.testing.assert_checkpoints():
            await stream.send(b"answer")
        with trio.testing.assert_checkpoints():
            await stream.send_eof()
        with trio.testing.assert_checkpoints():
            await stream.aclose()


def attributes_of(provider: Any) -> dict[Any, object]:
    """Look at all attributes that something offers."""
    return {name: value() for name, value in provider.extra_attributes.items()}


@pytest.mark.parametrize("host", [HOST, "::1"])
async def test_attributes_are_the_addresses(host: str) -> None:
    """The attributes are those that anyio has for its own sockets, also when the peer has gone."""
    async with open_pair(host=host) as (connection, client):
        here, there = client.socket.getpeername()[:2], client.socket.getsockname()[:2]
        expected = {
            SocketAttribute.family: client.socket.family,
            SocketAttribute.local_address: here,
            SocketAttribute.local_port: here[1],
        }

        assert expected == attributes_of(Listener(connection.listening))

        expected |= {
            SocketAttribute.remote_address: there,
            SocketAttribute.remote_port: there[1],
        }
        reset(client)

        assert expected == attributes_of(ByteStream(connection))


async def test_attributes_of_a_unix_socket_are_paths(tmp_path: Path) -> None:
    """On a Unix socket the addresses are paths, and there are no ports."""
    path = str(tmp_path / "socket")
    async with open_pair(None, host=None, path=path) as (connection, _):
        expected = {
            SocketAttribute.family: socket.AF_UNIX,
            SocketAttribute.local_address: path,
        }

        assert expected == attributes_of(Listener(connection.listening))

        expected[SocketAttribute.remote_address] = ""

        assert expected == attributes_of(ByteStream(connection))


# --- In our servers -----------------------------------------------------------------------------


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "over anyio's TLS"])
async def test_peer_that_leaves_is_no_crash_of_an_anyio_handler(
    is_secure: bool,  # noqa: FBT001 - a parameter of the test
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """That the peer of a handler in anyio's words resets is counted as leaving, and not a crash."""
    ours, theirs = tls

    async def handler(connection: Connection) -> None:
        stream: Any = ByteStream(connection)
        if is_secure:
            stream = await TLSStream.wrap(stream, server_side=True, ssl_context=ours)
        while True:
            await stream.send(await stream.receive())

    with trio.fail_after(PATIENCE):
        async with trio_wsk.open_server(handler, 0, host=HOST, grace=PATIENCE) as server:
            plain = await connect(server.local_addresses[0])
            client: trio.abc.Stream = plain
            if is_secure:
                client = trio.SSLStream(plain, theirs, server_hostname=HOST)
            await client.send_all(b"hello")

            assert b"hello" == await client.receive_some()

            reset(plain)

        statistics = server.statistics()

        assert (1, 1, 0) == (
            statistics.served,
            statistics.peers_left,
            statistics.handler_failures,
        )


# --- Listeners ----------------------------------------------------------------------------------


@pytest.mark.parametrize("has_group", [False, True], ids=["group of its own", "group given"])
async def test_listener_serves_in_anyios_way(
    has_group: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """
    `Listener.serve` starts a task per connection, in the group that it was given or in its own,
    until it is cancelled.
    """
    with trio.fail_after(PATIENCE):
        async with (
            trio_wsk.open_listening_socket(0, host=HOST) as listening,
            anyio.create_task_group() as group,
        ):
            listener = Listener(listening)
            group.start_soon(listener.serve, echo, group if has_group else None)
            port = listening.local_addresses[0].port
            for _ in range(3):
                await talk(await anyio.connect_tcp(HOST, port))
            group.cancel_scope.cancel()


async def test_anyios_tls_listener_takes_our_listener(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """`anyio.streams.tls.TLSListener` serves TLS over a listening socket of ours."""
    ours, theirs = tls
    with trio.fail_after(PATIENCE):
        async with (
            trio_wsk.open_listening_socket(0, host=HOST) as listening,
            anyio.create_task_group() as group,
        ):
            group.start_soon(TLSListener(Listener(listening), ours).serve, echo)
            port = listening.local_addresses[0].port
            await talk(await anyio.connect_tcp(HOST, port, ssl_context=theirs))
            group.cancel_scope.cancel()


async def test_closed_listener_ends_its_serving() -> None:
    """Closing the listener ends `serve` with anyio's `ClosedResourceError` and Trio's."""
    async with trio_wsk.open_listening_socket(0, host=HOST) as listening:
        listener = Listener(listening)
        await listener.aclose()
        with pytest.raises(ClosedError) as caught:
            await listener.accept()

        assert isinstance(caught.value, anyio.ClosedResourceError)
        assert isinstance(caught.value.__cause__, trio_wsk.SocketClosedError)


async def test_connection_for_an_ended_task_group_is_reset() -> None:
    """A connection that no task can be started for, since the group has ended, is not leaked."""
    async with anyio.create_task_group() as ended:
        pass
    async with trio_wsk.open_listening_socket(0, host=HOST) as listening:
        before = open_descriptors()
        client = await connect(listening.local_addresses[0])
        with trio.fail_after(PATIENCE), pytest.raises(RuntimeError):
            await Listener(listening).serve(echo, ended)

        assert "reset" == await fate_of(client)

        await client.aclose()

        assert before == open_descriptors()


# --- Without anyio ------------------------------------------------------------------------------


def test_missing_anyio_is_named() -> None:
    """Without anyio, importing the module says what brings it; nothing else needs it."""
    program = (
        "import sys; sys.modules['anyio'] = None; import trio_wsk\n"
        "try:\n    import trio_wsk.anyio\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=60
    )

    assert "pip install 'trio-wsk[anyio]'" in done.stdout
