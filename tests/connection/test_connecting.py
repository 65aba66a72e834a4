"""Connections that this side opens: awaited, or with callbacks in a listening block."""

from __future__ import annotations

import errno
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_wsk
from tests.helpers.resetting import close_with_reset
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import PATIENCE, until
from trio_wsk import (
    ConnectError,
    Connection,
    ConnectionDispatch,
    EndReason,
    InspectAction,
    InvalidDeviceStateError,
    InvalidParameterError,
    Irp,
    ListenDispatch,
    ListeningSocket,
    SocketClosedError,
    Status,
    connect,
    open_listening_socket,
    open_server,
)
from trio_wsk.observers import ConnectionEnded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio_wsk.observers import Record

pytestmark = pytest.mark.usefixtures("readiness")

HOST = "127.0.0.1"


async def echo(connection: Connection) -> None:
    """Send back what comes."""
    while data := await connection.receive_some():
        await connection.send_all(data)


@asynccontextmanager
async def echoing(**options: Any) -> AsyncIterator[int]:
    """Serve echoes, and give the port."""
    async with open_server(echo, 0, host=HOST, **options) as server:
        yield server.local_addresses[0].port


@asynccontextmanager
async def closed_port() -> AsyncIterator[int]:
    """Give a port that is taken and where nobody listens: connections are refused."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        yield taken.getsockname()[1]


class Backend:
    """Callbacks that note what happens on a connection that this side has opened."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.over = trio.Event()
        self.dispatch = ConnectionDispatch(
            receive=self.receive, disconnect=self.disconnect, closed=self.closed
        )

    def receive(self, connection: Connection, data: bytes) -> None:
        """Note the octets, and end."""
        self.calls.append(data)
        connection.disconnect()

    def disconnect(self, _connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - WSK's
        """Note how the peer has ended."""
        self.calls.append(abortive)

    def closed(self, _connection: Connection, ended: ConnectionEnded) -> None:
        """Note why it has ended."""
        self.calls.append(ended.reason)
        self.over.set()


# --- Awaited ---------------------------------------------------------------------------


async def test_connection_that_was_opened_is_one() -> None:
    """It sends, receives and half-closes as one that was accepted, and knows both its ends."""
    async with echoing() as port:
        mark = object()
        async with await connect(HOST, port, context=mark) as connection:
            assert mark is connection.context
            assert f"{HOST}:{port}" == str(connection.remote_address)
            assert connection.socket.getsockname() == connection.local_address.sockaddr

            await connection.send_all(b"hello")
            await connection.send_eof()

            assert b"hello" == await connection.receive_some()
            assert b"" == await connection.receive_some()


async def test_name_is_looked_up() -> None:
    """A host may be a name; its addresses are tried until one answers."""
    async with echoing() as port, await connect("localhost", port) as connection:
        assert port == connection.remote_address.port


async def test_unix_socket_is_reached_by_its_path(tmp_path: Path) -> None:
    """A path takes the place of host and port."""
    path = tmp_path / "socket"
    async with open_server(echo, path=path), await connect(path=path) as connection:
        await connection.send_all(b"hello")

        assert b"hello" == await connection.receive_some()
        assert str(path) == connection.remote_address.path


async def test_address_to_connect_from_is_used() -> None:
    """A peer sees the address that was asked for."""
    async with (
        echoing() as port,
        await connect(HOST, port, local_address="127.0.0.2") as connection,
    ):
        assert "127.0.0.2" == str(connection.local_address.host)


async def test_nobody_there_is_an_error_that_names_the_address() -> None:
    """A refused connection raises with the system's number, WSK's status, and each attempt."""
    async with closed_port() as port:
        with pytest.raises(ConnectError, match=rf"127\.0\.0\.1:{port}.*ECONNREFUSED") as caught:
            await connect(HOST, port)

    assert (errno.ECONNREFUSED, Status.CONNECTION_REFUSED) == (
        caught.value.errno,
        caught.value.status,
    )
    assert isinstance(caught.value.__cause__, OSError)


async def test_name_that_nobody_has_is_an_error_of_connecting() -> None:
    """The resolver's answer comes as the same error, with its status."""
    with pytest.raises(ConnectError, match=r"no-such-name\.invalid:80") as caught:
        await connect("no-such-name.invalid", 80)

    assert isinstance(caught.value.__cause__, socket.gaierror)


@pytest.mark.parametrize("host", ["a" * 64 + ".invalid", "a..invalid"], ids=["long", "empty"])
async def test_what_is_no_name_is_told_and_ends_nothing(host: str) -> None:
    """
    A host that can't even be looked up, as a client may have named it to a proxy, is an error of
    that call or that Irp alone: the block goes on.
    """
    with pytest.raises(InvalidParameterError, match="looked up"):
        await connect(host, 80)
    async with open_listening_socket(0, host=HOST) as listening:
        irp = listening.queue_connect(host, 80)
        with trio.fail_after(PATIENCE):
            outcome = await irp.wait()

        assert Status.INVALID_PARAMETER is irp.status
        with pytest.raises(InvalidParameterError, match="looked up"):
            outcome.unwrap()


async def test_peer_that_has_gone_again_is_told_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    A peer that resets between the handshake and our first look at it is no connection: an error
    of that call or that Irp alone, and no descriptor is left.
    """
    open_tcp_stream = trio.open_tcp_stream
    with socket.socket() as peer:
        peer.bind((HOST, 0))
        peer.listen()
        port = peer.getsockname()[1]

        async def be_reset(*arguments: Any, **options: Any) -> trio.SocketStream:
            stream = await open_tcp_stream(*arguments, **options)
            accepted, _ = peer.accept()
            close_with_reset(accepted)
            await trio.lowlevel.wait_readable(stream.socket.fileno())
            return stream

        monkeypatch.setattr(trio, "open_tcp_stream", be_reset)
        before = open_descriptors()
        with pytest.raises(ConnectError, match="cannot connect"):
            await connect(HOST, port)
        assert before == open_descriptors()
        async with open_listening_socket(0, host=HOST) as listening:
            with trio.fail_after(PATIENCE):
                outcome = await listening.queue_connect(HOST, port).wait()
            with pytest.raises(ConnectError, match="cannot connect"):
                outcome.unwrap()


async def test_path_where_nothing_is_is_an_error_of_connecting(tmp_path: Path) -> None:
    """A file that is not there is "not found"."""
    with pytest.raises(ConnectError, match="unix:") as caught:
        await connect(path=tmp_path / "nothing")

    assert Status.NOT_FOUND == caught.value.status


async def test_cancelled_attempt_leaves_nothing() -> None:
    """Who is cancelled while connecting has no connection, and no descriptor is left."""
    with socket.socket() as full:
        full.bind((HOST, 0))
        full.listen(0)
        port = full.getsockname()[1]
        clients = [socket.socket() for _ in range(3)]  # the queue has no room for one more
        for client in clients:
            client.settimeout(0)
            client.connect_ex((HOST, port))
        before = open_descriptors()

        with trio.move_on_after(0.05) as scope:
            await connect(HOST, port)

        assert scope.cancelled_caught
        assert before == open_descriptors()
        for client in clients:
            client.close()


async def test_connection_that_was_opened_came_through_no_listening_socket() -> None:
    """``listening`` says so, and events need a block."""
    async with echoing() as port, await connect(HOST, port) as connection:
        with pytest.raises(InvalidDeviceStateError, match="opened"):
            _ = connection.listening
        with pytest.raises(InvalidDeviceStateError, match="no listening block"):
            connection.enable_events(
                trio_wsk.EventMask.RECEIVE, ConnectionDispatch(receive=lambda *_: None)
            )
        assert not connection.draining.is_set()
        assert connection.inspect_id is None


@pytest.mark.parametrize(
    ("arguments", "options", "why"),
    [
        ((), {}, "host"),
        (("",), {"port": 80}, "host"),
        (("127.0.0.1\0.example.org", 80), {}, "host"),
        ((b"localhost", 80), {}, "host"),
        ((HOST,), {}, "port"),
        ((HOST, 0), {}, "port"),
        ((HOST, 65536), {}, "port"),
        ((HOST, "80"), {}, "port"),
        ((HOST, 80), {"path": "/run/x"}, "one place"),
        ((), {"path": ""}, "path"),
        ((), {"path": 7}, "path"),
        ((HOST, 80), {"local_address": 7}, "local_address"),
        ((HOST, 80), {"happy_eyeballs_delay": -1}, "happy_eyeballs_delay"),
    ],
)
async def test_wrong_place_is_told(
    arguments: tuple[Any, ...], options: dict[str, Any], why: str
) -> None:
    """What can't be connected to is said at the call, awaited or not, before anything happens."""
    with pytest.raises(InvalidParameterError, match=why):
        await connect(*arguments, **options)
    async with open_listening_socket(0, host=HOST) as listening:
        with pytest.raises(InvalidParameterError, match=why):
            listening.queue_connect(*arguments, **options)


# --- In a block ------------------------------------------------------------------------


async def test_block_opens_a_connection_with_callbacks() -> None:
    """A connection that a block has opened calls back from the first octet to its end."""
    backend = Backend()
    async with echoing() as port, open_listening_socket(0, host=HOST) as listening:
        irp = listening.queue_connect(HOST, port, dispatch=backend.dispatch, context="mine")
        assert Status.PENDING is irp.status

        connection = (await irp.wait()).unwrap()
        connection.send_nowait(b"hello")
        with trio.fail_after(PATIENCE):
            await backend.over.wait()

        assert "mine" == connection.context
        assert listening is connection.listening
        assert [b"hello", False, EndReason.FINISHED] == backend.calls


async def test_completion_routine_comes_before_the_events() -> None:
    """
    ``on_completion`` has the connection first, also if the peer has spoken and left by then:
    what it sets up is there when the first event comes.
    """
    order: list[object] = []
    over = trio.Event()

    async def speak(connection: Connection) -> None:
        await connection.send_all(b"welcome")

    def completed(irp: Irp[Connection]) -> None:
        order.append("completed")

    def closed(_connection: Connection, _ended: ConnectionEnded) -> None:
        order.append("closed")
        over.set()

    dispatch = ConnectionDispatch(receive=lambda _, data: order.append(data), closed=closed)
    async with (
        open_server(speak, 0, host=HOST) as server,
        open_listening_socket(0, host=HOST) as listening,
    ):
        port = server.local_addresses[0].port
        listening.queue_connect(HOST, port, dispatch=dispatch, on_completion=completed)
        with trio.fail_after(PATIENCE):
            await over.wait()

    assert ["completed", b"welcome", "closed"] == order


async def test_connection_without_callbacks_is_its_owners() -> None:
    """What a block has opened without a dispatch outlives the block, as what was awaited does."""
    async with echoing() as port:
        async with open_listening_socket(0, host=HOST) as listening:
            connection = (await listening.queue_connect(HOST, port).wait()).unwrap()
        async with connection:
            await connection.send_all(b"hello")

            assert b"hello" == await connection.receive_some()


async def test_block_that_ends_takes_its_connections_along() -> None:
    """What is event-driven is reset when its block ends, and told why."""
    backend = Backend()
    async with echoing() as port, open_listening_socket(0, host=HOST) as listening:
        await listening.queue_connect(HOST, port, dispatch=backend.dispatch).wait()

    assert [EndReason.BLOCK_ENDED] == backend.calls


async def test_nobody_there_completes_the_irp() -> None:
    """The Irp has the error that `connect` would have raised; the listening socket goes on."""
    completed: list[Irp[Connection]] = []
    async with closed_port() as port, open_listening_socket(0, host=HOST) as listening:
        irp = listening.queue_connect(HOST, port, on_completion=completed.append)
        outcome = await irp.wait()
        await listening.aclose()

    with pytest.raises(ConnectError, match="ECONNREFUSED"):
        outcome.unwrap()
    assert Status.CONNECTION_REFUSED is irp.status
    assert [irp] == completed


async def test_attempt_can_be_taken_back() -> None:
    """A cancelled Irp completes at once, and brings no connection."""
    before = open_descriptors()
    async with echoing() as port, open_listening_socket(0, host=HOST) as listening:
        irp = listening.queue_connect(HOST, port)
        assert irp.cancel()
        assert not irp.cancel()
        assert Status.CANCELLED is irp.status
    assert before == open_descriptors()


async def test_connection_that_came_too_late_is_ended() -> None:
    """An Irp that is cancelled when its task has connected already leaves nothing open."""
    async with echoing() as port, open_listening_socket(0, host=HOST) as listening:
        async with await connect(HOST, port) as first:  # which may open what all share
            await first.send_all(b"x")
            await first.receive_some()
        await wait_all_tasks_blocked()
        before = open_descriptors()
        irps = [listening.queue_connect(HOST, port) for _ in range(20)]
        for turns, irp in enumerate(irps):
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            if not irp.cancel():
                (await irp.wait()).unwrap().abort()

        await until(lambda: before == open_descriptors())


async def test_block_that_ends_takes_back_what_is_under_way() -> None:
    """An attempt whose block ends is cancelled, and its completion routine called."""
    completed: list[Status] = []
    async with echoing() as port, open_listening_socket(0, host=HOST) as listening:
        irp = listening.queue_connect(
            HOST, port, on_completion=lambda irp: completed.append(irp.status)
        )

    assert Status.CANCELLED is irp.status
    assert [Status.CANCELLED] == completed


async def test_nothing_is_opened_by_what_has_ended() -> None:
    """A block that has ended opens nothing any more."""
    async with open_listening_socket(0, host=HOST) as listening:
        pass
    with pytest.raises(SocketClosedError):
        listening.queue_connect(HOST, 80)


async def test_callback_opens_a_connection_while_its_server_drains() -> None:
    """
    The socket listens no more, and its block goes on: who has sent a request when the server
    drains gets the answer of a back end that is asked only then.
    """

    def receive(client: Connection, data: bytes) -> None:
        client.listening.queue_connect(
            HOST, port, on_completion=lambda irp: answer(client, irp, data)
        )

    def answer(client: Connection, irp: Irp[Connection], data: bytes) -> None:
        assert irp.information is not None
        irp.information.close()
        client.disconnect(data=data.upper())

    dispatch = ListenDispatch(accept=lambda _: ConnectionDispatch(receive=receive))
    async with (
        echoing() as port,
        trio.open_nursery() as nursery,
        open_server(dispatch, 0, host=HOST) as server,
    ):
        place = server.local_addresses[0].port
        async with await trio.open_tcp_stream(HOST, place) as client:
            await until(lambda: server.statistics().open_connections)
            nursery.start_soon(server.drain)
            await until(lambda: is_refused(place))
            await client.send_all(b"hello")

            assert b"HELLO" == await client.receive_some()

    assert 0 == server.statistics().callback_failures


def is_refused(port: int) -> bool:
    """Whether nobody listens at a port any more."""
    with socket.socket() as sock:
        return sock.connect_ex((HOST, port)) != 0


async def test_completion_routine_that_fails_ends_the_connection() -> None:
    """What ``on_completion`` raises is counted, and ends the connection that it was called for."""
    backend = Backend()

    def crash(_: Irp[Connection]) -> None:
        raise ValueError("a bug")

    async with echoing() as port, open_listening_socket(0, host=HOST) as listening:
        listening.queue_connect(HOST, port, dispatch=backend.dispatch, on_completion=crash)
        with trio.fail_after(PATIENCE):
            await backend.over.wait()
        assert 1 == listening.statistics().callback_failures["on_completion"]

    assert [EndReason.FAILED] == backend.calls


async def test_proxy_with_callbacks_needs_no_task_for_a_back_end() -> None:
    """
    An accept callback opens the connection behind it; when both are there, octets go both ways by
    callbacks, and only what was needed for connecting has had a task.
    """
    tasks: list[int] = []

    def relay(other: Connection) -> ConnectionDispatch:
        def receive(_: Connection, data: bytes) -> None:
            other.send_nowait(data)

        def disconnect(_: Connection, _abortive: bool) -> None:  # noqa: FBT001 - WSK's
            other.disconnect()

        return ConnectionDispatch(receive=receive, disconnect=disconnect)

    def accept(client: Connection) -> Status:
        def completed(irp: Irp[Connection]) -> None:
            backend = irp.information
            assert backend is not None
            tasks.append(trio.lowlevel.current_statistics().tasks_living)
            events = trio_wsk.EventMask.RECEIVE | trio_wsk.EventMask.DISCONNECT
            backend.enable_events(events, relay(client))
            client.enable_events(events, relay(backend))

        client.listening.queue_connect(HOST, port, on_completion=completed)
        return Status.SUCCESS

    async with (
        echoing() as port,
        open_server(ListenDispatch(accept=accept), 0, host=HOST) as proxy,
    ):
        for _ in range(3):
            async with await connect(HOST, proxy.local_addresses[0].port) as client:
                await client.send_all(b"through")
                await client.send_eof()

                assert b"through" == await client.receive_some()
                assert b"" == await client.receive_some()


@pytest.mark.parametrize("events", [True, False], ids=["events", "none"])
async def test_back_end_of_a_server_is_none_of_its_connections(*, events: bool) -> None:
    """
    A server's records, counts and inspections are of those that it was asked by: what is opened in
    its block has no inspect id, and its end is no news.
    """
    backend = Backend()
    told: list[ConnectionEnded] = []

    class Observer:
        records = frozenset({ConnectionEnded})

        def __call__(self, record: Record) -> None:
            assert isinstance(record, ConnectionEnded)
            told.append(record)

    options: dict[str, Any] = {"inspect": lambda _: InspectAction.ACCEPT, "observers": [Observer()]}
    async with (
        echoing() as port,
        open_server(echo, 0, host=HOST, **options) as server,
    ):
        irp = server.listening.queue_connect(
            HOST, port, dispatch=backend.dispatch if events else None
        )
        opened = (await irp.wait()).unwrap()
        assert opened.inspect_id is None
        opened.abort()
        assert 0 == server.statistics().open_connections

        with trio.fail_after(PATIENCE):
            async with await connect(HOST, server.local_addresses[0].port) as client:
                await client.send_eof()
                assert b"" == await client.receive_some()
            await until(lambda: told)

    assert [client.local_address] == [each.remote_address for each in told]
    assert [True] == [each.inspect_id is not None for each in told]


async def test_opened_while_cancelled_is_still_a_checkpoint() -> None:
    """Connecting in a scope that is cancelled already raises, and connects to nobody."""
    seen: list[ListeningSocket] = []
    async with open_listening_socket(0, host=HOST) as listening:
        seen.append(listening)
        with trio.CancelScope() as scope:
            scope.cancel()
            await connect(HOST, listening.local_addresses[0].port)
        assert scope.cancelled_caught
        with pytest.raises(trio_wsk.WouldBlockError):
            listening.accept_nowait()
