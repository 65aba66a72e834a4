"""What a call that fails leaves behind: a cause, a turn for others, and nobody's buffer held."""

from __future__ import annotations

import errno
import math
import os
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.helpers.blocking_peers import await_event
from tests.helpers.inspecting import ACCEPT, PEND, inspecting
from tests.helpers.pairs import descriptor_of, open_pair, plain
from tests.helpers.support import PATIENCE, connect_now, reset, until
from trio_wsk import (
    Connection,
    ConnectionBrokenError,
    EventMask,
    ForcedClosedError,
    InvalidDeviceStateError,
    SocketBusyError,
    SocketClosedError,
    WskError,
    open_listening_socket,
    open_server,
)
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from trio_wsk import ConnectionRequest

    Call = Callable[[Connection], Awaitable[object]]

pytestmark = pytest.mark.usefixtures("readiness")

LARGE = 1 << 24
"""16 MiB: more than the kernel's buffers hold on both sides together."""

CALLS: dict[str, Call] = {
    "receive_some": lambda connection: connection.receive_some(),
    "receive_into": lambda connection: connection.receive_into(bytearray(10)),
    "send_all": lambda connection: connection.send_all(b"x"),
    "send_eof": lambda connection: connection.send_eof(),
    "wait_send_all_might_not_block": lambda c: c.wait_send_all_might_not_block(),
}


def await_reset(connection: Connection, client: trio.SocketStream) -> None:
    """Have the client reset, and the kernel know of it."""
    reset(client)
    await_event(descriptor_of(connection))


@asynccontextmanager
async def open_any(network: str) -> AsyncIterator[tuple[Connection, Callable[[], None]]]:
    """Open a connection, and say how to have its client reset it."""
    if network == "real":
        async with open_pair() as (connection, client):

            def leave() -> None:
                await_reset(connection, client)

            yield connection, leave
        return
    memory = MemoryNetwork()
    transport = memory.host("192.0.2.1").transport(80)
    async with open_listening_socket(transport=transport) as listening:
        stream = await memory.host("192.0.2.2").connect(("192.0.2.1", 80))
        connection = await listening.accept()
        yield connection, stream.reset
        connection.close()


async def send_without_end(stream: trio.abc.SendStream) -> None:
    """Send until it fails."""
    while True:
        await stream.send_all(b"x")


def unread_by_client(connection: Connection, client: trio.SocketStream) -> None:
    """Have the client finish, and then reset because it closes on unread input."""
    with plain(client) as peer:
        peer.sendall(b"request")
        peer.shutdown(socket.SHUT_WR)
    connection.send_nowait(b"answer")
    with plain(client) as peer:
        await_event(peer.fileno())
    client.socket.close()


# --- Causes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["receive_some", "receive_into", "send_all"])
async def test_each_error_of_a_broken_connection_has_the_systems_as_its_cause(name: str) -> None:
    """
    Libraries look for the number in ``__cause__`` and in the words: it is in every error, not
    only in the first, and never one that was raised elsewhere.
    """
    causes = []
    async with open_pair() as (connection, client):
        await_reset(connection, client)
        with pytest.raises(ConnectionBrokenError):
            await connection.receive_some()
        for _ in range(2):
            with pytest.raises(ConnectionBrokenError, match=r"\[Errno 104\]") as caught:
                await CALLS[name](connection)
            cause = caught.value.__cause__
            assert isinstance(cause, ConnectionResetError)
            assert errno.ECONNRESET == cause.errno

            causes.append(cause)

    assert causes[0] is not causes[1]


async def test_end_of_input_after_a_failed_send_has_a_cause() -> None:
    """What a send was told is the cause also where the kernel says no more than "the end"."""
    async with open_pair() as (connection, client):
        await_reset(connection, client)
        with pytest.raises(ConnectionBrokenError):
            await connection.send_all(b"x")
        with pytest.raises(ConnectionBrokenError) as caught:
            await connection.receive_some()

    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_irp_that_fails_has_a_cause() -> None:
    """A send that was queued fails with the same error."""
    async with open_pair() as (connection, client):
        while not connection.send_nowait(bytes(1 << 16)):
            pass
        irp = connection.queue_send(b"x")
        reset(client)
        failed = await irp.wait()
        with pytest.raises(ConnectionBrokenError) as caught:
            failed.unwrap()

    assert isinstance(caught.value.__cause__, OSError)


# --- The end of input ---------------------------------------------------------------------------


async def test_input_that_has_ended_stays_ended_after_a_failed_send() -> None:
    """
    The peer has sent its request and FIN, and resets before the answer is there: the request
    is whole, and its end is b"", whatever happened to the answer.
    """
    async with open_pair() as (connection, client):
        unread_by_client(connection, client)
        with trio.fail_after(PATIENCE):
            with pytest.raises(ConnectionBrokenError) as caught:
                await send_without_end(connection)

            assert isinstance(caught.value.__cause__, BrokenPipeError)
            assert b"request" == await connection.receive_some()
            assert b"" == await connection.receive_some()
            assert 0 == await connection.receive_into(bytearray(1))


async def test_input_that_was_cut_off_is_no_end_after_a_failed_send() -> None:
    """The peer resets without FIN: what came can be received, and then the error."""
    async with open_pair() as (connection, client):
        with plain(client) as peer:
            peer.sendall(b"half")
        await_event(descriptor_of(connection))
        reset(client)
        with trio.fail_after(PATIENCE), pytest.raises(ConnectionBrokenError):
            await send_without_end(connection)

        assert b"half" == await connection.receive_some()

        for _ in range(2):
            with pytest.raises(ConnectionBrokenError):
                await connection.receive_some()


async def test_end_that_was_received_is_received_again_after_a_failed_send() -> None:
    """Once b"" has been received it is received again."""
    async with open_pair() as (connection, client):
        unread_by_client(connection, client)

        assert b"request" == await connection.receive_some()
        assert b"" == await connection.receive_some()

        with trio.fail_after(PATIENCE), pytest.raises(ConnectionBrokenError):
            await send_without_end(connection)

        assert b"" == await connection.receive_some()


# --- One FIN ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_first", [True, False], ids=["connection", "stream"])
@pytest.mark.parametrize("made", ["before", "after"])
async def test_connection_and_its_socket_share_fin(made: str, *, is_first: bool) -> None:
    """
    After one of them has sent FIN, sending through the other is the caller's mistake, not a
    broken connection; FIN again is nothing; and the peer's answer and its FIN are received.
    """
    async with open_pair() as (connection, client):
        stream = trio.SocketStream(connection.socket) if made == "before" else None
        if is_first or stream is None:
            await connection.send_eof()
            stream = stream or trio.SocketStream(connection.socket)
        else:
            await stream.send_eof()

        assert b"" == await client.receive_some()

        for each in (connection, stream):
            with pytest.raises(trio.ClosedResourceError):
                await each.send_all(b"x")
            with pytest.raises(trio.ClosedResourceError):
                await each.send_all(b"")
            await each.send_eof()
        with pytest.raises(SocketClosedError):
            connection.send_nowait(b"x")
        with pytest.raises(SocketClosedError):
            connection.disconnect(data=b"x")
        await client.send_all(b"answer")
        await client.send_eof()

        assert b"answer" == await connection.receive_some()
        assert b"" == await connection.receive_some()


async def test_socket_that_is_asked_for_when_all_is_over_is_given() -> None:
    """Both sides have finished: there is nothing left to shut down, and that is no error."""
    async with open_pair() as (connection, client):
        await connection.send_eof()
        await client.send_eof()

        assert b"" == await connection.receive_some()

        with pytest.raises(trio.BrokenResourceError):
            await send_without_end(trio.SocketStream(connection.socket))


# --- Buffers --------------------------------------------------------------------------------------


def is_free(buffer: bytearray) -> bool:
    """Whether nobody looks at a buffer."""
    try:
        buffer.clear()
    except BufferError:
        return False
    return True


async def failing(call: Awaitable[object]) -> BaseException:
    """Return what a call raises, with its frames."""
    try:
        await call
    except WskError as error:
        return error
    raise AssertionError


WITH_BUFFER: dict[str, Callable[[Connection, bytearray], Awaitable[object]]] = {
    "send_all": lambda connection, buffer: connection.send_all(buffer),
    "receive_into": lambda connection, buffer: connection.receive_into(buffer),
}


@pytest.mark.parametrize("network", ["real", "memory"])
@pytest.mark.parametrize("state", ["broken", "closed", "waiting"])
@pytest.mark.parametrize("name", ["send_all", "receive_into"])
async def test_buffer_is_free_when_a_call_has_failed(name: str, state: str, network: str) -> None:
    """
    Although the error is kept, with the frames in its traceback, the caller's bytearray can be
    emptied: also when the call had begun to send, or was waiting, when it failed.
    """
    buffer = bytearray(LARGE)
    errors: list[BaseException] = []
    async with open_any(network) as (connection, leave):
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                errors.append(await failing(WITH_BUFFER[name](connection, buffer)))

            if state == "waiting":
                nursery.start_soon(work)
                await wait_all_tasks_blocked()
            if state == "closed":
                connection.close()
            else:
                leave()
            if state != "waiting":
                await work()

        assert is_free(buffer)
        assert errors[0].__traceback__ is not None


@pytest.mark.parametrize("name", ["send_all", "receive_into"])
async def test_buffer_is_free_when_a_call_was_cancelled(name: str) -> None:
    """What a `trio.Cancelled` goes through holds nothing either."""
    buffer = bytearray(LARGE)
    kept: list[BaseException] = []
    async with open_pair() as (connection, _):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def work() -> None:
                    try:
                        await WITH_BUFFER[name](connection, buffer)
                    except trio.Cancelled as cancelled:
                        kept.append(cancelled)
                        raise

                nursery.start_soon(work)
                await wait_all_tasks_blocked()
                scope.cancel()

        assert 1 == len(kept)
        assert is_free(buffer)

        kept.clear()


@pytest.mark.parametrize("state", ["broken", "closed"])
async def test_buffer_is_free_when_a_call_that_does_not_wait_has_failed(state: str) -> None:
    """The same for what is sent without waiting."""
    buffers = [bytearray(10) for _ in range(3)]
    async with open_pair() as (connection, client):
        if state == "broken":
            await_reset(connection, client)
        else:
            connection.close()
        with pytest.raises(WskError) as first:
            connection.send_nowait(buffers[0])
        with pytest.raises(WskError) as second:
            connection.queue_send(buffers[1])
        with pytest.raises(WskError) as third:
            connection.disconnect(data=buffers[2])

        assert [True] * 3 == [is_free(buffer) for buffer in buffers]
        assert all(each.value.__traceback__ for each in (first, second, third))


async def test_buffer_is_free_when_it_was_refused() -> None:
    """A buffer that nothing can be received into is not held by the error that says so."""
    async with open_pair() as (connection, _):
        buffer = bytearray()
        with pytest.raises(ValueError, match="without room") as caught:
            await connection.receive_into(buffer)
        buffer.append(1)

        assert caught.value.__traceback__ is not None


# --- Checkpoints ----------------------------------------------------------------------------------


OF_TRIO = (trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError)
"""What Trio's streams, and ours in memory, fail with."""


async def check_yields(call: Callable[[], Awaitable[object]]) -> None:
    """See that a call that goes wrong at once lets others run each time, and can be cancelled."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        for tries in range(20):
            with suppress(WskError, *OF_TRIO):
                await call()

            assert tries - 2 <= turns

        with trio.CancelScope() as scope:
            scope.cancel()
            await call()

        assert scope.cancelled_caught

        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("state", ["broken", "closed", "finished", "busy"])
async def test_call_that_fails_at_once_lets_others_run(name: str, state: str) -> None:
    """
    A loop that goes on after each error stops nobody else, and can be cancelled: each of the
    calls is a checkpoint, whatever it raises.
    """
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        if state == "broken":
            await_reset(connection, client)
        elif state == "closed":
            connection.close()
        elif state == "finished":
            await connection.send_eof()
        else:
            nursery.start_soon(connection.receive_some)
            nursery.start_soon(connection.send_all, bytes(LARGE))
            await wait_all_tasks_blocked()
        if state == "finished" and name.startswith("receive"):
            await client.send_eof()
        with trio.fail_after(PATIENCE):
            await check_yields(lambda: CALLS[name](connection))
        nursery.cancel_scope.cancel()


def fill_kernel(connection: Connection) -> None:
    """Have the kernel take all that it takes, and leave nothing in our queue."""
    descriptor = descriptor_of(connection)
    with suppress(BlockingIOError):
        while os.write(descriptor, bytes(1 << 16)):
            pass


@pytest.mark.parametrize("name", [name for name in CALLS if name != "send_eof"])
async def test_call_beside_a_wait_for_its_socket_lets_others_run(name: str) -> None:
    """
    Trio lets only one task wait for a descriptor. When that is another one, which waits for
    ``connection.socket``, a call says so in our words, and is a checkpoint.
    """
    wait = trio.lowlevel.wait_readable if "receive" in name else trio.lowlevel.wait_writable
    async with open_pair() as (connection, _), trio.open_nursery() as nursery:
        fill_kernel(connection)
        nursery.start_soon(wait, connection.socket)
        await wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE):
            with pytest.raises(SocketBusyError, match="waits for this socket"):
                await CALLS[name](connection)
            await check_yields(lambda: CALLS[name](connection))
        nursery.cancel_scope.cancel()
    connection.abort()


async def test_disabling_that_fails_at_once_lets_others_run() -> None:
    """The same for a connection that is closed, and for the accept event that a server needs."""
    async with open_pair() as (connection, _):
        connection.close()
        with trio.fail_after(PATIENCE):
            await check_yields(lambda: connection.disable_event(EventMask.RECEIVE))
    async with open_server(hold, 0, host="127.0.0.1", grace=0) as server:
        with trio.fail_after(PATIENCE):
            await check_yields(lambda: server.listening.disable_event(EventMask.ACCEPT))


async def hold(_: Connection) -> None:
    """Stay."""
    await trio.sleep_forever()


async def test_drain_that_fails_at_once_lets_others_run() -> None:
    """The same for a server that another task drains, and for one that has ended."""
    async with (
        trio.open_nursery() as nursery,
        open_server(hold, 0, host="127.0.0.1", grace=math.inf) as server,
    ):
        client = connect_now(server.local_addresses[0])
        await until(lambda: server.statistics().open_connections)
        nursery.start_soon(server.drain)
        await wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE):
            await check_yields(server.drain)

            assert 1 == server.statistics().open_connections

            server.abort()
            await check_yields(server.drain)
        await client.aclose()


async def test_accept_that_fails_at_once_lets_others_run() -> None:
    """The same for a listening socket that is closed, and for one that has failed."""
    async with open_listening_socket(0, host="127.0.0.1") as closed:
        await closed.aclose()
    with pytest.raises(OSError, match="Bad file"):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(0, host="127.0.0.1") as failed:
            os.close(failed.socket.fileno())
            await failed.accept()
    with pytest.raises(ForcedClosedError):
        await failed.accept()
    with trio.fail_after(PATIENCE):
        for each in (closed, failed):
            await check_yields(each.accept)


async def test_peek_that_fails_at_once_lets_others_run() -> None:
    """The same for a request that has had its verdict, and for one that is being peeked at."""
    async with inspecting(PEND) as desk, trio.open_nursery() as nursery:
        _, request = await desk.pended()
        nursery.start_soon(lambda: failing(request.peek(1)))
        await wait_all_tasks_blocked()
        with pytest.raises(SocketBusyError), assert_checkpoints():
            await request.peek(1)
        desk.complete(request, ACCEPT)
        await wait_all_tasks_blocked()
        with pytest.raises(InvalidDeviceStateError), assert_checkpoints():
            await request.peek(1)


@pytest.mark.parametrize("kind", ["ipv4", "unix"])
async def test_who_peeks_hears_of_a_verdict_at_once(kind: str, tmp_path: Path) -> None:
    """
    A task that peeks at a pended request while another one accepts it is told so, although
    the peer sends nothing and nobody takes the connection; and who takes it gets everything.
    """
    told: list[BaseException] = []

    async def work(request: ConnectionRequest) -> None:
        told.append(await failing(request.peek(2)))

    place: dict[str, Any] = {"port": None, "path": tmp_path / "s"} if kind == "unix" else {}
    async with inspecting(PEND, **place) as desk, trio.open_nursery() as nursery:
        client, request = await desk.pended(b"a")
        nursery.start_soon(work, request)
        await wait_all_tasks_blocked()
        desk.complete(request, ACCEPT)
        await until(lambda: told)

        assert isinstance(told[0], InvalidDeviceStateError)
        assert 1 == desk.statistics().parked

        connection = await desk.listening.accept()

        assert b"a" == await connection.receive_some()

        await client.send_all(b"b")

        assert b"b" == await connection.receive_some()

        connection.close()


# --- The clients of the network in memory -----------------------------------------------------


@pytest.mark.parametrize("state", ["broken", "closed", "busy"])
@pytest.mark.parametrize(
    "call",
    [
        lambda stream: stream.receive_some(),
        lambda stream: stream.send_all(b"x"),
        lambda stream: stream.send_eof(),
        lambda stream: stream.wait_send_all_might_not_block(),
    ],
    ids=["receive_some", "send_all", "send_eof", "wait_send_all_might_not_block"],
)
async def test_stream_in_memory_lets_others_run(call: Callable[[Any], Any], state: str) -> None:
    """Who tests with it a client that goes on after errors is not stopped by it either."""
    memory = MemoryNetwork()
    transport = memory.host("192.0.2.1").transport(80)
    async with open_listening_socket(transport=transport) as listening:
        stream = await memory.host("192.0.2.2").connect(("192.0.2.1", 80))
        connection = await listening.accept()
        async with trio.open_nursery() as nursery:
            if state == "broken":
                connection.abort()
            elif state == "closed":
                await stream.aclose()
                connection.close()
            else:
                nursery.start_soon(stream.receive_some)
                nursery.start_soon(stream.send_all, bytes(LARGE))
                await wait_all_tasks_blocked()
            await check_yields(lambda: call(stream))
            nursery.cancel_scope.cancel()
        connection.abort()


async def test_stream_in_memory_holds_no_buffer() -> None:
    """A buffer is free when sending it has failed, and the error has its number in words."""
    memory = MemoryNetwork()
    transport = memory.host("192.0.2.1").transport(80)
    buffer = bytearray(LARGE)
    async with open_listening_socket(transport=transport) as listening:
        stream = await memory.host("192.0.2.2").connect(("192.0.2.1", 80))
        connection = await listening.accept()
        connection.abort()
        with pytest.raises(trio.BrokenResourceError, match=r"\[Errno 104\]") as caught:
            await stream.send_all(buffer)

        assert is_free(buffer)
        assert errno.ECONNRESET == getattr(caught.value.__cause__, "errno", None)
