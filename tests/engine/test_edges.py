"""What an edge says and what it does not, for tasks and for events, and who waits where."""

from __future__ import annotations

import select
import socket
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.blocking_peers import await_event
from tests.helpers.driven import company, driven, expect, pair_that_has_waited, socket_pair
from tests.helpers.pairs import descriptor_of, open_event_pair, open_pair, plain, receive_exactly
from tests.helpers.support import PATIENCE, connect, wait_in_task
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    EventMask,
    SocketBusyError,
    SocketClosedError,
    open_listening_socket,
)
from trio_wsk._connection import events as _events
from trio_wsk._connection.ending import GRACEFUL
from trio_wsk._engine.choice import HAVE_EPOLL
from trio_wsk._engine.readiness import READ, WRITE, Watch

pytestmark = pytest.mark.usefixtures("readiness")

needs_epoll = pytest.mark.skipif(not HAVE_EPOLL, reason="this system has no epoll")

LARGE = bytes(1 << 25)
"""More than the kernel's buffers hold on both sides together."""


class Listener:
    """Callbacks that keep what they are called with, and a task that waits for it."""

    def __init__(self) -> None:
        self.received = b""
        self.ends: list[bool] = []
        self.dispatch = ConnectionDispatch(receive=self.on_receive, disconnect=self.on_disconnect)
        self._changed = trio.Event()

    def on_receive(self, connection: Connection, data: bytes) -> None:
        """Keep the data."""
        self.received += data
        self._changed.set()

    def on_disconnect(self, connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - WSK's
        """Keep how it ended."""
        self.ends.append(abortive)
        self._changed.set()

    async def heard(self, data: bytes, *ends: bool) -> None:
        """Wait until this, and nothing else, has come."""
        with trio.fail_after(PATIENCE):
            while (self.received, self.ends) != (data, list(ends)):
                assert data.startswith(self.received)
                await self._changed.wait()
                self._changed = trio.Event()


# --- The rules of edge triggering, for tasks -------------------------------------------


async def test_edge_without_a_waiter_ends_the_knowledge_that_nothing_is_left() -> None:
    """
    What comes while no task waits is received by the next call, although the call before
    had seen that nothing was left.
    """
    async with pair_that_has_waited() as (connection, client):
        await client.send_all(b"second")
        await_event(descriptor_of(connection))
        await wait_all_tasks_blocked()

        assert b"second" == await connection.receive_some()


async def test_fin_that_shares_its_edge_with_data_is_received() -> None:
    """When the last data and FIN come as one edge, a task gets the data and then the end."""
    async with pair_that_has_waited() as (connection, client):
        await client.send_all(b"last")
        await client.send_eof()
        await_event(descriptor_of(connection), select.POLLRDHUP)
        await wait_all_tasks_blocked()

        assert b"last" == await connection.receive_some()
        assert b"" == await connection.receive_some()


async def test_fin_that_wakes_a_task_together_with_data_is_received() -> None:
    """The same holds if the task was waiting when both came."""
    async with pair_that_has_waited() as (connection, client), trio.open_nursery() as nursery:

        async def receive() -> None:
            assert b"last" == await connection.receive_some()
            assert b"" == await connection.receive_some()

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        with plain(client) as sender:
            sender.sendall(b"last")
            sender.shutdown(socket.SHUT_WR)
        await_event(descriptor_of(connection), select.POLLRDHUP)


async def test_fin_that_shares_its_edge_with_data_is_received_into_a_buffer() -> None:
    """The same holds for `receive_into`."""
    async with pair_that_has_waited() as (connection, client):
        buffer = bytearray(64)
        await client.send_all(b"last")
        await client.send_eof()
        await_event(descriptor_of(connection), select.POLLRDHUP)
        await wait_all_tasks_blocked()

        assert 4 == await connection.receive_into(buffer)
        assert 0 == await connection.receive_into(buffer)


async def test_task_that_read_less_than_there_is_finds_the_rest() -> None:
    """What a bounded read has left in the kernel is there for the next one, without an edge."""
    async with pair_that_has_waited() as (connection, client):
        await client.send_all(b"12345678")
        await_event(descriptor_of(connection))

        assert b"1234" == await connection.receive_some(4)
        assert b"5678" == await connection.receive_some(4)


async def test_task_that_filled_its_buffer_finds_the_rest() -> None:
    """The same holds for `receive_into`."""
    async with pair_that_has_waited() as (connection, client):
        buffer = bytearray(4)
        await client.send_all(b"12345678")
        await_event(descriptor_of(connection))

        assert 4 == await connection.receive_into(buffer)
        assert 4 == await connection.receive_into(buffer)
        assert b"5678" == buffer


@pytest.mark.parametrize("into_a_buffer", [False, True])
async def test_after_a_short_read_nothing_is_asked_where_edges_tell(
    into_a_buffer: bool,  # noqa: FBT001 - pytest
    readiness: str,
) -> None:
    """Who was woken, and read less than it asked for, need not ask whether anything is left."""

    async def receive(connection: Connection) -> None:
        if into_a_buffer:
            assert 6 == await connection.receive_into(bytearray(64))
        else:
            assert b"second" == await connection.receive_some()

    async with pair_that_has_waited() as (connection, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, connection)
            await wait_all_tasks_blocked()
            await client.send_all(b"second")
        watch = connection._watch  # noqa: SLF001 - only the kernel would hear of the question

        assert watch is not None
        assert watch.empty == (readiness == "epoll")


async def test_what_nobody_was_told_of_yet_is_received_before_an_end() -> None:
    """Whom a server ends as idle may have sent something just then, whose edge is to come."""
    async with pair_that_has_waited() as (connection, client):
        with plain(client) as sender:
            sender.sendall(b"last")
        await_event(descriptor_of(connection))
        connection._end_input()  # noqa: SLF001 - a server's clock would have to hit this moment

        assert b"last" == await connection.receive_some()
        assert b"" == await connection.receive_some()


# --- The same rules, for events --------------------------------------------------------


async def test_every_later_edge_is_indicated() -> None:
    """An event source that had nothing left indicates what the next edge brings, and the next."""
    listener = Listener()
    async with open_event_pair(listener.dispatch) as (_, client):
        for sent in (b"1", b"12", b"123"):
            await client.send_all(sent[-1:])
            await listener.heard(sent)


async def test_fin_that_shares_its_edge_with_data_is_indicated() -> None:
    """When the last data and FIN come as one edge, both are indicated, in this order."""
    listener = Listener()
    async with open_event_pair(listener.dispatch) as (connection, client):
        await client.send_all(b"first ")
        await listener.heard(b"first ")
        with plain(client) as sender:
            sender.sendall(b"last")
            sender.shutdown(socket.SHUT_WR)
        await_event(descriptor_of(connection), select.POLLRDHUP)

        await listener.heard(b"first last", GRACEFUL)


async def test_bounded_drain_is_requeued(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one turn leaves in the kernel is indicated in later turns, without an edge."""
    monkeypatch.setattr(_events, "RECEIVE_SIZE", 4)
    listener = Listener()
    async with open_event_pair(listener.dispatch) as (connection, client):
        await client.send_all(b"1234")
        await listener.heard(b"1234")
        with plain(client) as sender:
            sender.sendall(bytes(100))
        await_event(descriptor_of(connection))

        await listener.heard(b"1234" + bytes(100))


async def test_busy_connection_leaves_the_others_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection with much to read is read a few times, then the others are."""
    monkeypatch.setattr(_events, "RECEIVE_SIZE", 1)
    order: list[bytes] = []

    def receive(connection: Connection, data: bytes) -> None:
        order.append(data)

    dispatch = ConnectionDispatch(receive=receive)
    async with (
        open_event_pair(dispatch) as (connection, client),
        trio.open_nursery() as nursery,
    ):
        address = connection.listening.local_addresses[0]
        other = await connect(address)
        nursery.start_soon(other.aclose)
        await wait_all_tasks_blocked()
        other = await connect(address)
        await wait_all_tasks_blocked()
        for each, data in ((client, b"a" * 50), (other, b"b" * 50)):
            with plain(each) as sender:
                sender.sendall(data)
        await_event(descriptor_of(connection))
        with trio.fail_after(PATIENCE):
            while len(order) < 100:
                await wait_all_tasks_blocked()
        other.socket.close()

    longest = max(len(run) for each in (b"a", b"b") for run in b"".join(order).split(each))

    assert longest < 50


# --- Who waits where -------------------------------------------------------------------


@needs_epoll
async def test_lone_waiter_waits_straight_on_trio_until_a_second_one_comes() -> None:
    """The first waiter costs no second epoll; who comes while it waits, shares one."""
    with socket_pair() as (ours, theirs), socket_pair() as (more, yet_more):
        lone, second = Watch(ours.fileno()), Watch(more.fileno())
        async with driven(edge_triggered=True) as readiness, trio.open_nursery() as nursery:
            nursery.start_soon(wait_in_task, readiness, lone, READ)
            await wait_all_tasks_blocked()
            nursery.start_soon(wait_in_task, readiness, second, READ)
            await wait_all_tasks_blocked()

            assert (1, None) == (lone.direct, lone.home)
            assert (0, readiness) == (second.direct, second.home)

            theirs.send(b"x")
            await wait_all_tasks_blocked()
            ours.recv(1)
            nursery.start_soon(wait_in_task, readiness, lone, READ)
            await wait_all_tasks_blocked()

            assert (0, readiness) == (lone.direct, lone.home)

            theirs.send(b"x")
            yet_more.send(b"x")


@needs_epoll
async def test_one_waits_straight_on_trio_for_one_direction_only() -> None:
    """A channel's writer may share the epoll while its reader still waits alone on Trio."""
    with socket_pair() as (ours, theirs):
        watch = Watch(ours.fileno())
        async with driven(edge_triggered=True) as readiness, trio.open_nursery() as nursery:
            nursery.start_soon(wait_in_task, readiness, watch, READ)
            await wait_all_tasks_blocked()
            with trio.fail_after(PATIENCE):
                await readiness.wait(watch, WRITE)
            theirs.send(b"x")


@pytest.mark.parametrize("edge_triggered", [pytest.param(True, marks=needs_epoll), False])
async def test_two_directions_wait_at_once(edge_triggered: bool) -> None:  # noqa: FBT001 - pytest
    """A reader and a writer of one channel are woken each by its own edge."""
    with socket_pair() as (ours, theirs):
        while True:
            try:
                ours.send(bytes(1 << 16))
            except BlockingIOError:
                break
        watch = Watch(ours.fileno())
        woken: list[int] = []

        async def wait(edge: int) -> None:
            await readiness.wait(watch, edge)
            woken.append(edge)

        async with driven(edge_triggered=edge_triggered) as readiness:
            readiness.arm(watch, READ)  # so that nobody is alone
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, READ)
                nursery.start_soon(wait, WRITE)
                await wait_all_tasks_blocked()

                assert [] == woken

                theirs.send(b"x")
                await wait_all_tasks_blocked()

                assert [READ] == woken

                theirs.settimeout(None)
                while WRITE not in woken:
                    theirs.recv(1 << 20)
                    await wait_all_tasks_blocked()
            watch.close()


@pytest.mark.parametrize("alone", [True, False])
async def test_closing_wakes_tasks_that_wait(alone: bool) -> None:  # noqa: FBT001 - pytest
    """Closing a connection ends a task's receive and another one's send, wherever they wait."""
    closed = 0

    async def receive() -> None:
        nonlocal closed
        with pytest.raises(SocketClosedError):
            await connection.receive_some()
        closed += 1

    async def send() -> None:
        nonlocal closed
        with pytest.raises(SocketClosedError):
            await connection.send_all(LARGE)
        closed += 1

    async with open_pair() as (connection, _), trio.open_nursery() as nursery:
        if not alone:
            await nursery.start(_keep_company)
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        connection.close()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert 2 == closed


@pytest.mark.parametrize("edge", [READ, WRITE])
@pytest.mark.parametrize("edge_triggered", [pytest.param(True, marks=needs_epoll), False])
async def test_one_task_at_a_time_waits_for_an_edge(
    edge_triggered: bool,  # noqa: FBT001 - pytest
    edge: int,
) -> None:
    """The second one is refused; the first one is woken all the same."""
    with socket_pair() as (ours, theirs):
        while True:
            try:
                ours.send(bytes(1 << 16))
            except BlockingIOError:
                break
        watch = Watch(ours.fileno())
        woken = trio.Event()

        async def wait() -> None:
            await readiness.wait(watch, edge)
            woken.set()

        async with driven(edge_triggered=edge_triggered) as readiness:
            if edge_triggered:
                readiness.arm(watch, edge)  # so that nobody is alone
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await wait_all_tasks_blocked()
                with pytest.raises(SocketBusyError), trio.fail_after(PATIENCE):
                    await readiness.wait(watch, edge)
                theirs.send(b"x")
                while not woken.is_set():
                    with suppress(BlockingIOError):
                        theirs.recv(1 << 20)
                    await wait_all_tasks_blocked()
            watch.close()


async def _keep_company(task_status: trio.TaskStatus[None]) -> None:
    async with company():
        task_status.started()
        await trio.sleep_forever()


@pytest.mark.parametrize("alone", [True, False])
async def test_cancelled_wait_leaves_the_next_one_in_order(
    alone: bool,  # noqa: FBT001 - pytest
) -> None:
    """After a cancelled wait, in either direction, the next one is woken as ever."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        if not alone:
            await nursery.start(_keep_company)
        for call in (connection.receive_some, connection.wait_send_all_might_not_block):
            with trio.CancelScope() as scope:
                scope.cancel()
                await call()
        async with trio.open_nursery() as waiting:
            waiting.start_soon(connection.receive_some)
            await wait_all_tasks_blocked()
            waiting.cancel_scope.cancel()
        async with trio.open_nursery() as waiting:
            waiting.start_soon(connection.send_all, LARGE)
            await wait_all_tasks_blocked()
            waiting.cancel_scope.cancel()
        await client.send_all(b"x")

        assert b"x" == await connection.receive_some()

        async with trio.open_nursery() as waiting:
            waiting.start_soon(expect, connection, b"y")
            await wait_all_tasks_blocked()
            await client.send_all(b"y")
        nursery.cancel_scope.cancel()


async def test_awaited_connection_survives_the_block_that_it_waits_through() -> None:
    """
    A task that waits through a listening block's readiness, because its connection had
    events once, goes on waiting when the block ends, and is woken.
    """
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            async with open_listening_socket(0, host="127.0.0.1") as listening:
                client = await connect(listening.local_addresses[0])
                connection = await listening.accept()
                connection.enable_events(
                    EventMask.DISCONNECT, ConnectionDispatch(disconnect=lambda *_: None)
                )
                await wait_all_tasks_blocked()
                await connection.disable_event(EventMask.DISCONNECT)
                nursery.start_soon(expect, connection, b"after the block")
                await wait_all_tasks_blocked()
            await wait_all_tasks_blocked()
            await client.send_all(b"after the block")
        await client.send_all(LARGE[:1000])

        assert LARGE[:1000] == await receive_exactly(connection, 1000)

        connection.close()
        await client.aclose()


async def test_closed_connection_whose_number_is_used_again_disturbs_nobody() -> None:
    """A new connection that has a closed one's descriptor number is told its own edges."""
    async with company(), open_listening_socket(0, host="127.0.0.1") as listening:
        numbers = []
        for _ in range(3):
            client = await connect(listening.local_addresses[0])
            connection = await listening.accept()
            numbers.append(descriptor_of(connection))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect, connection, b"x")
                await wait_all_tasks_blocked()
                await client.send_all(b"x")
            await client.send_all(b"unread")
            connection.close()
            client.socket.close()

    assert 1 == len(set(numbers))


async def test_socket_closed_behind_our_back_disturbs_nobody() -> None:
    """
    Closing a connection whose socket somebody else has closed already leaves alone who has
    its descriptor's number by then.
    """
    async with pair_that_has_waited() as (connection, _):
        number = descriptor_of(connection)
        address = connection.listening.local_addresses[0]
        client = await connect(address)
        connection.socket.close()
        successor = await connection.listening.accept()

        assert number == descriptor_of(successor)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, successor, b"x")
            await wait_all_tasks_blocked()
            connection.close()
            await client.send_all(b"x")
        successor.close()
        await client.aclose()
