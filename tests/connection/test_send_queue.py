"""Connections that call back: what is sent is queued, and completes."""

from __future__ import annotations

import socket
import struct
import sys

import pytest
import trio
from outcome import Error, Value
from trio.testing import wait_all_tasks_blocked

from tests.helpers.pairs import (
    fill_kernel,
    open_event_pair,
    open_pair,
    receive_all,
    receive_exactly,
)
from tests.helpers.recorder import LARGE, Failures, Recorder, clog
from tests.helpers.support import PATIENCE, fate_of, reset, until
from trio_wsk import (
    Connection,
    ConnectionBrokenError,
    ConnectionDispatch,
    Irp,
    OperationCancelledError,
    SocketClosedError,
    Status,
)
from trio_wsk._connection.ending import ABORTIVE

pytestmark = pytest.mark.usefixtures("readiness")


async def test_send_nowait_says_how_much_is_queued() -> None:
    """0 while the kernel takes everything, then what the peer is too slow for, growing."""
    async with open_pair() as (connection, client):
        assert 0 == connection.send_nowait(b"x")
        assert connection.ideal_send_backlog > 0

        size = 1 + await clog(connection)
        first = connection.send_nowait(bytes(1000))
        second = connection.send_nowait(bytes(1000))

        assert second == first + 1000
        assert 0 < first < size + 1000

        await receive_exactly(client, size + 2000)
        await wait_all_tasks_blocked()

        assert 0 == connection.send_nowait(b"y")
        assert b"y" == await client.receive_some()


async def test_everything_that_is_sent_stands_in_one_line() -> None:
    """Queued data, a task's `send_all` and what is queued behind it arrive as they were called."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        size = await clog(connection)
        connection.queue_send(b"1")
        nursery.start_soon(connection.send_all, b"2" * (1 << 20))
        await wait_all_tasks_blocked()
        connection.send_nowait(b"3")
        connection.queue_send(b"4")
        connection.disconnect(data=b"5")
        received = await receive_all(client)

        assert b"1" + b"2" * (1 << 20) + b"345" == received[size:]


async def test_cancelled_send_leaves_the_line() -> None:
    """A `send_all` that was cancelled while it stood in line sends nothing and stops nobody."""
    async with open_pair() as (connection, client):
        size = await clog(connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send_all, b"2")
            await wait_all_tasks_blocked()
            connection.send_nowait(b"3")
            nursery.cancel_scope.cancel()
        connection.send_nowait(b"4")
        await_it = trio.Event()

        async def send() -> None:
            await connection.send_all(b"5")
            await_it.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)

            assert b"345" == (await receive_exactly(client, size + 3))[size:]

        assert await_it.is_set()


async def test_queue_that_was_taken_back_holds_nothing_up() -> None:
    """What is queued behind a task's send and then taken back does not delay FIN."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        nursery.start_soon(connection.send_all, LARGE)
        await wait_all_tasks_blocked()
        irp = connection.queue_send(b"x")

        assert irp.cancel()

        connection.disconnect()

        assert LARGE == await receive_all(client)


async def test_wait_send_all_might_not_block_waits_for_the_queue() -> None:
    """It returns when what is queued has gone, since a `send_all` would wait for that."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        size = await clog(connection)
        returned = trio.Event()

        async def wait() -> None:
            await connection.wait_send_all_might_not_block()
            returned.set()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()

        assert not returned.is_set()

        await receive_exactly(client, size)
        await returned.wait()


async def test_data_comes_while_the_send_queue_waits_for_room() -> None:
    """A peer that reads nothing and says something is heard."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await clog(connection)
        await client.send_all(b"one")
        await recorder.called(b"one")
        await client.send_all(b"two")
        await recorder.called(b"one", b"two")
        connection.abort()


async def test_connection_that_lingered_is_not_kept_when_it_has_ended() -> None:
    """Its time to linger is taken back, long before it would be over."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        lingering = connection.listening._block.lingering  # noqa: SLF001 - nothing else shows it
        connection.disconnect()
        await wait_all_tasks_blocked()
        assert 1 == len(lingering)
        await client.send_eof()
        await until(lambda: connection.closed)
        assert 0 == len(lingering)


async def test_wait_send_all_might_not_block_ends_with_the_connection() -> None:
    """Who waits for the queue of a connection that is aborted meanwhile is told so."""
    async with open_pair() as (connection, _), trio.open_nursery() as nursery:
        await clog(connection)

        async def wait() -> None:
            with pytest.raises(SocketClosedError):
                await connection.wait_send_all_might_not_block()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        connection.abort()


async def test_aclose_ends_when_the_peer_resets() -> None:
    """`aclose` waits for the queue, and no longer than somebody could read it."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        await clog(connection)
        nursery.start_soon(connection.aclose)
        await wait_all_tasks_blocked()
        reset(client)


async def test_send_backlog_callback_that_raises_resets() -> None:
    """What a send backlog callback raises is reported, and its connection is reset."""
    failures = Failures()

    def fail(connection: Connection, ideal: int) -> None:
        raise ValueError("on purpose")

    dispatch = ConnectionDispatch(send_backlog=fail)
    async with open_event_pair(dispatch, observers=[failures]) as (connection, client):
        connection.send_nowait(LARGE)

        assert "reset" == await fate_of(client)
        assert ["send_backlog"] == [each.callback for each in failures.seen]


async def test_send_eof_and_aclose_wait_for_what_is_queued() -> None:
    """FIN follows all that was queued, whether by `send_eof` or by `aclose`."""
    for end in (Connection.send_eof, Connection.aclose):
        async with open_pair() as (connection, client), trio.open_nursery() as nursery:
            size = await clog(connection)
            nursery.start_soon(end, connection)
            await wait_all_tasks_blocked()

            assert bytes(size) == await receive_all(client)


async def test_aclose_beside_a_task_that_stands_in_line_ends() -> None:
    """`aclose` waits for the queue, and then closes under the task that was to send next."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        size = await clog(connection)

        async def send() -> None:
            try:
                await connection.send_all(b"x")
            except SocketClosedError:
                pass

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        nursery.start_soon(connection.aclose)

        assert bytes(size) == (await receive_all(client))[:size]


async def test_close_with_unsent_data_resets() -> None:
    """Closing without waiting, while something is queued, resets: a part is not taken for all."""
    async with open_pair() as (connection, client):
        await clog(connection)
        irp = connection.queue_send(b"x")
        connection.close()

        assert Status.CANCELLED is irp.status
        assert isinstance(irp.outcome, Error)
        assert isinstance(irp.outcome.error, OperationCancelledError)
        assert "reset" == await fate_of(client)


async def test_queued_send_completes_when_the_kernel_has_it() -> None:
    """An Irp of `queue_send` is pending until then, and has its context and count."""
    completed: list[Irp[int]] = []
    async with open_pair() as (connection, client):
        quick = connection.queue_send(b"now", context="mine", on_completion=completed.append)

        assert (Status.SUCCESS, 3, "mine") == (quick.status, quick.information, quick.context)

        await wait_all_tasks_blocked()

        assert [quick] == completed

        size = 3 + await clog(connection)
        slow = connection.queue_send(b"later", on_completion=completed.append)
        empty = connection.queue_send(b"")

        assert (Status.PENDING, None, Status.PENDING) == (
            slow.status,
            slow.information,
            empty.status,
        )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_exactly, client, size + 5)

            assert Value(5) == await slow.wait()
            assert Value(0) == await empty.wait()

        assert [quick, slow] == completed


async def test_queued_send_can_be_taken_back_before_any_of_it_was_sent() -> None:
    """Cancelling works for what the kernel has nothing of, and says so where it has."""
    completed: list[Irp[int]] = []
    async with open_pair() as (connection, client):
        begun = connection.queue_send(LARGE)
        waiting = connection.queue_send(b"x", on_completion=completed.append)
        last = connection.queue_send(b"y")

        assert waiting.cancel()
        assert not waiting.cancel()
        assert not begun.cancel()
        assert Status.CANCELLED is waiting.status

        async with trio.open_nursery() as nursery:
            received = b""

            async def receive() -> None:
                nonlocal received
                received = await receive_all(client)

            nursery.start_soon(receive)
            await last.wait()
            connection.disconnect()

        assert LARGE + b"y" == received
        assert [waiting] == completed
        assert (Status.SUCCESS, len(LARGE)) == (begun.status, begun.information)


async def test_reset_completes_what_is_queued() -> None:
    """When the peer resets, every queued Irp completes with that, its routine called once."""
    completed: list[Irp[int]] = []
    async with open_pair() as (connection, client):
        await clog(connection)
        irps = [connection.queue_send(b"x", on_completion=completed.append) for _ in range(3)]
        reset(client)
        for irp in irps:
            outcome = await irp.wait()

            assert isinstance(outcome, Error)
            assert isinstance(outcome.error, ConnectionBrokenError)
            assert connection is outcome.error.connection
            assert outcome.error.status is irp.status

        await wait_all_tasks_blocked()

        assert irps == completed


async def test_completion_routine_that_goes_on_after_a_reset_is_not_reported() -> None:
    """A routine that queues the next send on a connection whose peer has gone has not failed."""
    failures = Failures()
    recorder = Recorder()

    def again(irp: Irp[int]) -> None:
        connection.queue_send(b"x", on_completion=again)

    async with open_event_pair(recorder.dispatch, observers=[failures]) as (connection, client):
        await clog(connection)
        connection.queue_send(b"x", on_completion=again)
        reset(client)
        await recorder.called(ABORTIVE)

    assert [] == failures.seen


async def test_completion_routine_that_queues_again_does_not_recurse() -> None:
    """A thousand sends, each queued by the completion routine of the last, all go."""
    count = 0
    done = trio.Event()

    def again(irp: Irp[int]) -> None:
        nonlocal count
        count += 1
        if count < 1000:
            connection.queue_send(b"x", on_completion=again)
        else:
            done.set()

    async with open_pair() as (connection, client):
        connection.queue_send(b"x", on_completion=again)
        await done.wait()

        assert bytes(b"x" * 1000) == await receive_exactly(client, 1000)


async def test_completion_routine_that_raises_resets_its_connection() -> None:
    """What a completion routine raises is reported, and ends its connection."""
    failures = Failures()

    def fail(irp: Irp[int]) -> None:
        raise ValueError("on purpose")

    async with open_pair(observers=[failures]) as (connection, client):
        connection.queue_send(b"x", on_completion=fail)

        assert "reset" == await fate_of(client)
        assert ["on_completion"] == [each.callback for each in failures.seen]


async def test_slow_reader_holds_up_who_looks_at_the_queue() -> None:
    """
    An echo that refuses data while too much is queued, and resumes when it has gone, loses
    nothing and never queues much more than that.
    """
    most = 0

    def echo(connection: Connection, data: bytes) -> Status | None:
        nonlocal most
        if waiting:
            return Status.DATA_NOT_ACCEPTED
        irp = connection.queue_send(data, on_completion=sent)
        if irp.status is Status.PENDING:
            waiting.append(irp)
            most = max(most, len(waiting))
        return None

    def sent(irp: Irp[int]) -> None:
        if irp in waiting:
            waiting.remove(irp)
            connection.resume_receive()

    waiting: list[Irp[int]] = []
    dispatch = ConnectionDispatch(receive=echo)
    async with open_event_pair(dispatch) as (connection, client), trio.open_nursery() as nursery:

        async def send() -> None:
            await client.send_all(LARGE)
            await client.send_eof()

        nursery.start_soon(send)
        await wait_all_tasks_blocked()

        assert LARGE == await receive_all(client)

    assert 1 == most


async def test_send_backlog_event_tells_what_is_ideal() -> None:
    """The event says how much should be outstanding, when that has changed and not again."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        for _ in range(2):
            await receive_exactly(client, await clog(connection))
            await wait_all_tasks_blocked()

        assert all(ideal > 0 for ideal in recorder.backlogs)
        assert recorder.backlogs
        assert all(a != b for a, b in zip(recorder.backlogs, recorder.backlogs[1:], strict=False))


async def test_who_waits_for_what_is_withdrawn_goes_on() -> None:
    """FIN waits for what is queued, and not for what was taken back: its peer need not read."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        size = fill_kernel(connection)
        irp = connection.queue_send(b"withdrawn")
        nursery.start_soon(connection.send_eof)
        await wait_all_tasks_blocked()

        assert 1 == len(nursery.child_tasks)
        assert irp.cancel()

        await wait_all_tasks_blocked()

        assert set() == nursery.child_tasks
        assert bytes(size) == await receive_all(client)


async def test_withdrawing_one_of_two_has_nobody_go_on() -> None:
    """FIN still waits for the other one, which comes before it."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        size = fill_kernel(connection)
        irp = connection.queue_send(b"withdrawn")
        connection.send_nowait(b"kept")
        nursery.start_soon(connection.send_eof)
        await wait_all_tasks_blocked()
        irp.cancel()
        await wait_all_tasks_blocked()

        assert 1 == len(nursery.child_tasks)
        assert bytes(size) + b"kept" == await receive_all(client)


def segments_in(peer: socket.socket) -> int:
    """Ask the kernel how many segments this peer has received (``tcpi_segs_in``, linux/tcp.h)."""
    (count,) = struct.unpack_from(
        "I", peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 140
    )
    assert isinstance(count, int)
    return count


def take(peer: socket.socket, size: int) -> None:
    """Block the whole thread until so many octets were received: no task runs meanwhile."""
    while size:
        size -= len(peer.recv(size))


@pytest.mark.skipif(sys.platform != "linux", reason="MSG_MORE and tcpi_segs_in are Linux's")
@pytest.mark.parametrize("is_queued", [False, True], ids=["at once", "queued"])
async def test_fin_travels_with_the_last_data(is_queued: bool) -> None:  # noqa: FBT001 - pytest
    """The last data before FIN and FIN are one segment, whether or not the data was queued."""
    async with open_pair() as (connection, client):
        with socket.fromfd(client.socket.fileno(), socket.AF_INET, socket.SOCK_STREAM) as peer:
            peer.settimeout(PATIENCE)
            size = fill_kernel(connection) if is_queued else 0
            before = segments_in(peer)
            connection.disconnect(data=b"last")
            if is_queued:
                take(peer, size)
                before = segments_in(peer)

            assert b"last" == await receive_all(client)
            assert 1 == segments_in(peer) - before
