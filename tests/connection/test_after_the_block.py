"""What is queued when a block ends is sent, and nobody is held up by it."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.pairs import fill_kernel, plain, receive_all, receive_exactly
from tests.helpers.support import PATIENCE, connect, fate_of, reset
from trio_wsk import Connection, ConnectionBrokenError, Irp, Status, open_listening_socket
from trio_wsk._connection.block import TAKING_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

pytestmark = pytest.mark.usefixtures("readiness")


@pytest.fixture
def tells_two_of_room(readiness: str) -> None:
    """Trio's own waits tell one."""
    if readiness != "epoll":
        pytest.skip("without epoll, one task waits for a socket's room, and another one is told so")


@asynccontextmanager
async def outliving(
    use: Callable[[Connection], object],
) -> AsyncIterator[tuple[Connection, trio.SocketStream]]:
    """Have an awaited connection used in its block, which then ends."""
    async with open_listening_socket(0, host="127.0.0.1") as listening:
        client = await connect(listening.local_addresses[0])
        connection = await listening.accept()
        use(connection)
        await wait_all_tasks_blocked()
    try:
        yield connection, client
    finally:
        connection.close()
        client.socket.close()


async def test_what_is_queued_outlives_the_block() -> None:
    """
    An awaited connection with something queued is not reset when its block ends: the rest is
    sent, in order and before what a task sends after it; its Irp completes, and FIN follows.
    """
    size = 1 << 24
    irps: list[Irp[int]] = []
    sent: list[int] = []

    def use(connection: Connection) -> None:
        connection.send_nowait(bytes(size))
        irps.append(connection.queue_send(b"irp"))

    async with outliving(use) as (connection, client), trio.open_nursery() as nursery:

        async def go_on() -> None:
            await connection.send_all(b"task")
            sent.append((await irps[0].wait()).unwrap())
            await connection.aclose()

        nursery.start_soon(go_on)
        await wait_all_tasks_blocked()

        assert bytes(size) + b"irp" + b"task" == await receive_all(client)

    assert [3] == sent


async def test_what_is_queued_is_sent_though_its_owner_only_receives() -> None:
    """Nobody has to do anything for it."""
    async with outliving(lambda connection: connection.send_nowait(bytes(1 << 24))) as (
        connection,
        client,
    ):
        await receive_exactly(client, 1 << 24)
        await client.send_all(b"answer")

        assert b"answer" == await connection.receive_some()


async def test_a_queue_behind_a_task_is_sent_after_the_block() -> None:
    """A task that was sending when the block ended is followed by what was queued behind it."""
    async with trio.open_nursery() as nursery:
        async with open_listening_socket(0, host="127.0.0.1") as listening:
            client = await connect(listening.local_addresses[0])
            connection = await listening.accept()
            nursery.start_soon(connection.send_all, bytes(1 << 24))
            await wait_all_tasks_blocked()
            connection.send_nowait(b"behind")
            await wait_all_tasks_blocked()

        assert bytes(1 << 24) + b"behind" == await receive_exactly(client, (1 << 24) + 6)

    await connection.aclose()
    await client.aclose()


async def test_disconnect_before_the_block_ends_sends_all_and_fin() -> None:
    """What is queued, last data and FIN come, though the block has ended meanwhile."""

    def use(connection: Connection) -> None:
        connection.send_nowait(bytes(1 << 24))
        connection.disconnect(data=b"bye")

    async with outliving(use) as (_, client):
        assert bytes(1 << 24) + b"bye" == await receive_all(client)


async def test_peer_that_resets_or_does_not_read_holds_nothing_after_the_block(
    mock_clock: MockClock,
) -> None:
    """What is queued after the block is dropped with its peer; before FIN it has its time."""
    async with outliving(lambda connection: connection.send_nowait(bytes(1 << 24))) as (
        connection,
        client,
    ):
        await wait_all_tasks_blocked()
        reset(client)
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionBrokenError):
            await connection.send_all(b"x")

    def use(connection: Connection) -> None:
        connection.send_nowait(bytes(1 << 24))
        connection.disconnect()

    async with outliving(use) as (connection, client):
        for _ in range(3):
            await wait_all_tasks_blocked()
            mock_clock.jump(TAKING_SECONDS)
        await wait_all_tasks_blocked()

        assert connection.closed
        assert "reset" == await fate_of(client)


async def test_peer_that_takes_too_little_has_its_time_after_the_block(
    mock_clock: MockClock,
) -> None:
    """
    Before FIN, each `TAKING_SECONDS` have to take some, after the block as in it; FIN that is
    wanted later begins that time, and who takes enough has it again.
    """
    async with outliving(lambda connection: connection.send_nowait(bytes(1 << 26))) as (
        connection,
        client,
    ):
        # Or the kernel makes so much room in its own time that all is sent in the end.
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        await wait_all_tasks_blocked()
        mock_clock.jump(TAKING_SECONDS / 2)  # nothing is to end yet
        await wait_all_tasks_blocked()
        connection.disconnect()
        for _ in range(3):
            mock_clock.jump(TAKING_SECONDS - 1)
            await receive_exactly(client, 1 << 23)
            await wait_all_tasks_blocked()

            assert not connection.closed

        # A run that was stopped meanwhile looks before it resets.
        with plain(client) as peer, suppress(BlockingIOError):
            while peer.recv(1 << 20, socket.MSG_DONTWAIT):
                pass
        mock_clock.jump(2 * TAKING_SECONDS)
        await wait_all_tasks_blocked()

        assert not connection.closed

        for _ in range(3 * int(TAKING_SECONDS)):  # the kernel has made some room meanwhile
            if not connection.closed:
                await client.receive_some(1)
            mock_clock.jump(1)
            await wait_all_tasks_blocked()

        assert connection.closed
        assert "reset" == await fate_of(client)


async def test_tasks_that_give_up_leave_one_task_that_sends_after_the_block(
    company: None,
) -> None:
    """However many calls are cancelled that wait for the queue, it is sent, and what follows."""
    size = 1 << 24

    async with (
        outliving(lambda connection: connection.send_nowait(bytes(size))) as (connection, client),
        trio.open_nursery() as nursery,
    ):
        for call in (
            partial(connection.send_all, b"given up"),
            connection.wait_send_all_might_not_block,
            connection.send_eof,
        ):
            async with trio.open_nursery() as waiting:
                waiting.start_soon(call)
                await wait_all_tasks_blocked()
                waiting.cancel_scope.cancel()
            await wait_all_tasks_blocked()

        assert 1 == len(senders())

        nursery.start_soon(connection.send_all, b"x" * size)
        with trio.fail_after(PATIENCE):
            received = await receive_exactly(client, 2 * size)

        assert bytes(size) + b"x" * size == received

        await wait_all_tasks_blocked()

        assert [] == senders()


def senders() -> list[str]:
    """Return the tasks that send for connections without a block."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return [
        task.name
        for nursery in root.child_nurseries
        for task in nursery.child_tasks
        if "send queue" in task.name
    ]


async def test_who_waits_for_what_is_withdrawn_after_the_block_goes_on(company: None) -> None:
    """What is taken back is nothing to wait for, although the peer makes no room by reading."""
    irps: list[Irp[int]] = []

    def use(connection: Connection) -> None:
        fill_kernel(connection)
        irps.append(connection.queue_send(b"irp"))

    async with outliving(use) as (connection, client), trio.open_nursery() as nursery:
        nursery.start_soon(connection.send_eof)
        await wait_all_tasks_blocked()

        assert 1 == len(nursery.child_tasks)

        irps[0].cancel()
        await wait_all_tasks_blocked()

        assert set() == nursery.child_tasks
        assert set(b"\0") == set(await receive_all(client))


def test_queue_that_the_run_does_not_wait_for_is_reset() -> None:
    """A run that ends with something queued resets: its peer can't take the part for all of it."""
    kept: list[Connection] = []
    with socket.socket() as client:
        client.settimeout(PATIENCE)

        async def main() -> None:
            async with open_listening_socket(0, host="127.0.0.1") as listening:
                client.connect(listening.local_addresses[0].sockaddr)
                kept.append(await listening.accept())
                kept[0].send_nowait(bytes(1 << 24))

        trio.run(main)

        assert kept[0].closed
        with pytest.raises(ConnectionResetError):
            b"".join(iter(partial(client.recv, 1 << 20), b""))


@pytest.mark.usefixtures("tells_two_of_room")
async def test_somebody_who_waits_for_the_socket_does_not_keep_the_queue() -> None:
    """A task of the owner's may wait for the public socket; what is queued goes on after it."""
    async with trio.open_nursery() as nursery:

        def use(connection: Connection) -> None:
            connection.send_nowait(bytes(1 << 24))
            nursery.start_soon(connection.socket.wait_writable)

        async with outliving(use) as (_, client):
            await wait_all_tasks_blocked()
            await receive_exactly(client, 1 << 24)


@pytest.mark.usefixtures("tells_two_of_room")
async def test_somebody_who_waits_for_the_socket_gives_the_peer_no_time(
    mock_clock: MockClock,
) -> None:
    """A peer that does not read has its time before FIN, whoever waits for the public socket."""
    async with trio.open_nursery() as nursery:

        async def wait_until_closed(connection: Connection) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await trio.lowlevel.wait_writable(connection.socket)

        def use(connection: Connection) -> None:
            connection.send_nowait(bytes(1 << 24))
            connection.disconnect()
            nursery.start_soon(wait_until_closed, connection)

        async with outliving(use) as (connection, client):
            for _ in range(int(TAKING_SECONDS) + 1):
                mock_clock.jump(1)
                await wait_all_tasks_blocked()

            assert connection.closed
            assert "reset" == await fate_of(client)


async def test_completion_routine_that_is_due_makes_a_connection_the_blocks() -> None:
    """Nobody would be there to call it: the connection ends with its block, and it is called."""
    completed: list[Status] = []

    def use(connection: Connection) -> None:
        connection.queue_send(
            bytes(1 << 24), on_completion=lambda irp: completed.append(irp.status)
        )

    async with outliving(use) as (connection, client):
        assert [Status.CANCELLED] == completed
        assert connection.closed
        assert "reset" == await fate_of(client)
