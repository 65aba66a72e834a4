"""Waiting for channels, over our own epoll and over Trio's waits."""

from __future__ import annotations

import errno
import os
import select
import socket
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers.pairs import (
    await_event,
    descriptor_of,
    open_event_pair,
    open_pair,
    plain,
    receive_exactly,
)
from tests.helpers.support import (
    PATIENCE,
    RESET_ON_CLOSE,
    connect,
    connect_now,
    fate_of,
    open_descriptors,
    wait_in_task,
)
from trio_wsk import (
    Connection,
    ConnectionBrokenError,
    ConnectionDispatch,
    EventMask,
    ListenDispatch,
    SocketBusyError,
    SocketClosedError,
    open_listening_socket,
)
from trio_wsk._connection import events as _events
from trio_wsk._connection.events import GRACEFUL
from trio_wsk._engine import readiness as _readiness
from trio_wsk._engine.readiness import (
    ENDED,
    HAVE_EPOLL,
    LOOK,
    LOOK_SECONDS,
    READ,
    URGENT,
    WRITE,
    EpollReadiness,
    Readiness,
    TrioReadiness,
    Watch,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.usefixtures("readiness")

needs_epoll = pytest.mark.skipif(not HAVE_EPOLL, reason="this system has no epoll")

LARGE = bytes(1 << 25)
"""More than the kernel's buffers hold on both sides together."""


class Ear:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def on_edges(self, edges: int) -> None:
        """Keep it."""
        self.heard.append(edges)


@contextmanager
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make two connected non-blocking sockets."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        theirs.settimeout(0)
        yield ours, theirs


@asynccontextmanager
async def driven(*, edge_triggered: bool) -> AsyncIterator[Readiness]:
    """Make a readiness with a task that drives it, as a block's pump does."""
    async with trio.open_nursery() as nursery:
        readiness: Readiness = (
            EpollReadiness() if edge_triggered else TrioReadiness(nursery.start_soon)
        )
        nursery.start_soon(_drive, readiness)
        yield readiness
        nursery.cancel_scope.cancel()
    readiness.close()


async def _drive(readiness: Readiness) -> None:
    while True:
        await readiness.park()
        readiness.poll()


@asynccontextmanager
async def company() -> AsyncIterator[None]:
    """Have another task wait for a connection, so that whoever waits now is not alone."""
    async with open_pair() as (connection, _), trio.open_nursery() as nursery:
        nursery.start_soon(connection.receive_some)
        await wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def pair_that_has_waited() -> AsyncIterator[tuple[Connection, trio.SocketStream]]:
    """Make a connection which has waited in company, and which has read all there was."""
    async with company(), open_pair() as (connection, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, connection, b"first")
            await wait_all_tasks_blocked()
            await client.send_all(b"first")
        yield connection, client


async def expect(connection: Connection, data: bytes) -> None:
    """Receive exactly this, in one piece."""
    assert data == await connection.receive_some()


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


# --- The drivers by themselves ---------------------------------------------------------


@pytest.mark.parametrize("edge_triggered", [pytest.param(True, marks=needs_epoll), False])
async def test_arming_reports_what_is_true_already(
    edge_triggered: bool,  # noqa: FBT001 - pytest
) -> None:
    """A channel that was readable before it was armed is reported all the same."""
    with socket_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        theirs.send(b"x")
        async with driven(edge_triggered=edge_triggered) as readiness:
            readiness.arm(watch, READ)
            await wait_all_tasks_blocked()

            assert [READ] == [edges & READ for edges in ear.heard]

            watch.close()


@needs_epoll
async def test_wait_for_what_may_have_passed_is_woken() -> None:
    """A wait that says so is woken by what is true although its edge has been told."""
    with socket_pair() as (ours, _):
        watch = Watch(ours.fileno())
        async with driven(edge_triggered=True) as readiness:
            readiness.arm(watch, READ)
            with trio.fail_after(PATIENCE):
                for _ in range(3):
                    await readiness.wait(watch, WRITE, passed=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_in_task, readiness, watch, WRITE)
                await wait_all_tasks_blocked()

                assert watch.writer is not None

                nursery.cancel_scope.cancel()
            watch.close()


@needs_epoll
async def test_one_turn_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one poll leaves over is told by the next one, and nothing is told twice."""
    monkeypatch.setattr(_readiness, "EVENTS_PER_POLL", 2)
    readiness = EpollReadiness()
    with socket_pair() as (a, b), socket_pair() as (c, d):
        ear = Ear()
        for each in (a, b, c, d):
            readiness.arm(Watch(each.fileno(), ear), WRITE)
        told = []
        for _ in range(4):
            readiness.poll()
            told.append(len(ear.heard))
        readiness.close()

    assert [2, 4, 4, 4] == told


@needs_epoll
async def test_short_read_is_believed_only_where_the_next_edge_is_heard() -> None:
    """Nothing counts as drained on a channel that has been armed for writing only."""
    readiness = EpollReadiness()
    with socket_pair() as (ours, _):
        watch = Watch(ours.fileno())
        watch.read_short()

        assert not watch.drained

        readiness.arm(watch, WRITE)
        watch.read_short()

        assert not watch.drained

        readiness.arm(watch, READ)
        watch.read_short()

        assert watch.drained

        watch.close()

        assert not watch.drained
    readiness.close()


@needs_epoll
async def test_short_read_is_not_believed_when_an_edge_came_meanwhile() -> None:
    """
    An edge may come from inside the read: what it tells of is newer than what the read got. The
    next read is believed again.
    """
    readiness = EpollReadiness()
    with socket_pair() as (ours, _):
        watch = Watch(ours.fileno())
        readiness.arm(watch, READ)
        watch.news = False
        watch.on_edges(READ)
        watch.read_short()

        assert not watch.drained

        watch.news = False
        watch.read_short()

        assert watch.drained

        watch.close()
    readiness.close()


@needs_epoll
@pytest.mark.parametrize("edge", [ENDED, URGENT])
async def test_short_read_is_not_believed_after_a_doubtful_edge(edge: int) -> None:
    """The peer's end shares the edge of what came before it; a read stops at an urgent octet."""
    readiness = EpollReadiness()
    with socket_pair() as (ours, _):
        watch = Watch(ours.fileno())
        readiness.arm(watch, READ)
        watch.on_edges(edge)
        watch.news = False
        watch.read_short()

        assert not watch.drained

        watch.close()
    readiness.close()


@needs_epoll
async def test_closed_channel_with_a_duplicate_is_heard_no_more() -> None:
    """
    A descriptor that lives on elsewhere (a fork's child) keeps its file open; closing the
    channel here still ends what the kernel reports of it.
    """
    ear = Ear()
    async with driven(edge_triggered=True) as readiness:
        with socket_pair() as (ours, theirs):
            duplicate = os.dup(ours.fileno())
            watch = Watch(ours.fileno(), ear)
            readiness.arm(watch, READ)
            watch.close()
            number = ours.fileno()
            ours.close()
            with socket_pair() as (successor, _):
                assert number == successor.fileno()

                readiness.arm(Watch(number, ear), READ)
                theirs.send(b"x")
                await_event(duplicate)
                await wait_all_tasks_blocked()

                assert [] == ear.heard
            os.close(duplicate)


@pytest.mark.parametrize("edge_triggered", [pytest.param(True, marks=needs_epoll), False])
async def test_wake_returns_the_driver_from_park_and_from_nothing_else(
    edge_triggered: bool,  # noqa: FBT001 - pytest
) -> None:
    """`wake` ends one park; while nobody is parked it does nothing, and is not remembered."""
    returned = 0

    async def park() -> None:
        nonlocal returned
        await readiness.park()
        returned += 1

    async with trio.open_nursery() as nursery:
        readiness = EpollReadiness() if edge_triggered else TrioReadiness(nursery.start_soon)
        readiness.wake()
        nursery.start_soon(park)
        await wait_all_tasks_blocked()

        assert 0 == returned

        readiness.wake()
        readiness.wake()
        await wait_all_tasks_blocked()

        assert 1 == returned

        nursery.start_soon(park)
        await wait_all_tasks_blocked()

        assert 1 == returned

        nursery.cancel_scope.cancel()
    readiness.wake()
    readiness.close()


async def test_trios_waits_report_once_for_each_arming() -> None:
    """Without edges a channel is reported once, however often it was armed, and then armed anew."""
    with socket_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        async with driven(edge_triggered=False) as readiness:
            readiness.arm(watch, READ)
            readiness.arm(watch, READ)
            await wait_all_tasks_blocked()
            theirs.send(b"x")
            await wait_all_tasks_blocked()

            assert [READ] == ear.heard

            readiness.arm(watch, READ)
            await wait_all_tasks_blocked()

            assert [READ, READ] == ear.heard

            watch.close()


async def test_task_waits_beside_a_report_of_the_same_edge() -> None:
    """
    A task may wait for what is armed already; Trio itself would call that busy. It is served, and
    comes before the sink.
    """
    with socket_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        is_told = trio.Event()

        async def wait() -> None:
            await wait_in_task(readiness, watch, READ)
            is_told.set()

        async with driven(edge_triggered=False) as readiness, trio.open_nursery() as nursery:
            readiness.arm(watch, READ)
            await wait_all_tasks_blocked()
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()

            assert not is_told.is_set()
            assert [] == ear.heard

            theirs.send(b"x")
            with trio.fail_after(PATIENCE):
                await is_told.wait()
            await wait_all_tasks_blocked()

            assert [] == ear.heard

            watch.close()


async def test_task_that_waits_by_itself_needs_no_task_of_the_block() -> None:
    """With Trio's waits, a task's wait starts no other task, though the block knows the channel."""
    with socket_pair() as (ours, theirs):
        started: list[object] = []
        readiness = TrioReadiness(lambda *arguments: started.append(arguments))
        watch = Watch(ours.fileno())
        watch.home = readiness
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_in_task, readiness, watch, READ)
                await wait_all_tasks_blocked()
                theirs.send(b"x")

        assert [] == started


@pytest.mark.parametrize("edge_triggered", [pytest.param(True, marks=needs_epoll), False])
async def test_closing_a_readiness_lets_its_watches_go(
    edge_triggered: bool,  # noqa: FBT001 - pytest
) -> None:
    """When a readiness closes, who waits through it is woken to look for another home."""
    with socket_pair() as (ours, _):
        watch = Watch(ours.fileno())
        async with trio.open_nursery() as nursery:
            readiness = EpollReadiness() if edge_triggered else TrioReadiness(nursery.start_soon)
            readiness.arm(watch, READ)
            async with trio.open_nursery() as waiting:
                waiting.start_soon(wait_in_task, readiness, watch, READ)
                await wait_all_tasks_blocked()
                readiness.close()

    assert (None, 0, None) == (watch.home, watch.interest, watch.reader)


# --- Only the end ----------------------------------------------------------------------


def finish(theirs: socket.socket) -> None:
    """Finish sending."""
    theirs.shutdown(socket.SHUT_WR)


@contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make two connected non-blocking sockets, of which the second can reset."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with ours, theirs:
        ours.settimeout(0)
        theirs.settimeout(0)
        yield ours, theirs


def close_with_reset(theirs: socket.socket) -> None:
    """Reset."""
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    theirs.close()


@needs_epoll
@pytest.mark.parametrize("leave", [finish, close_with_reset])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("sent", [b"", b"unread"])
async def test_end_is_noticed_behind_unread_data(
    sent: bytes, when: str, leave: Callable[[socket.socket], None]
) -> None:
    """
    A channel that is armed for its end tells of FIN and of a reset, also behind unread data and
    also if they were first; it tells once, and of data it tells nothing.
    """
    with tcp_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        theirs.send(sent)
        async with driven(edge_triggered=True) as readiness:
            if when == "before":
                leave(theirs)
                await_event(ours.fileno(), select.POLLRDHUP)
            readiness.arm_end(watch)
            await wait_all_tasks_blocked()
            if when == "after":
                assert [] == ear.heard

                leave(theirs)
                await_event(ours.fileno(), select.POLLRDHUP)
                await wait_all_tasks_blocked()

            assert [True] == [bool(edges & ENDED) for edges in ear.heard]
            assert not any(edges & LOOK for edges in ear.heard)

            watch.close()


@needs_epoll
async def test_data_is_no_end() -> None:
    """Whatever comes while only the end is armed is not told, and hides nothing from who reads."""
    with socket_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        async with driven(edge_triggered=True) as readiness:
            readiness.arm_end(watch)
            for _ in range(3):
                theirs.send(b"x")
                await_event(ours.fileno())
                await wait_all_tasks_blocked()

            assert [] == ear.heard

            with trio.fail_after(PATIENCE):
                await readiness.wait(watch, READ)

            assert b"xxx" == ours.recv(10)

            watch.close()


@pytest.mark.parametrize("edge_triggered", [pytest.param(True, marks=needs_epoll), False])
async def test_who_waits_to_read_is_woken_beside_a_watch_for_the_end(
    edge_triggered: bool,  # noqa: FBT001 - pytest
) -> None:
    """A channel that is armed for its end can be waited for as well, by one task."""
    with socket_pair() as (ours, theirs):
        watch = Watch(ours.fileno(), Ear())
        async with driven(edge_triggered=edge_triggered) as readiness:
            readiness.arm_end(watch)
            await wait_all_tasks_blocked()
            for _ in range(3):
                with trio.fail_after(PATIENCE):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(wait_in_task, readiness, watch, READ)
                        await wait_all_tasks_blocked()
                        theirs.send(b"x")

            assert b"xxx" == ours.recv(10)

            watch.close()


@pytest.mark.parametrize("leave", [finish, close_with_reset])
async def test_trios_waits_say_when_to_look(
    leave: Callable[[socket.socket], None], autojump_clock: MockClock
) -> None:
    """
    Without edges a channel that is armed for its end tells nothing while there is nothing to
    read, then that one should look: at once, and again every `LOOK_SECONDS`.
    """
    with tcp_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        async with driven(edge_triggered=False) as readiness:
            readiness.arm_end(watch)
            await trio.sleep(10 * LOOK_SECONDS)

            assert [] == ear.heard

            leave(theirs)
            await wait_all_tasks_blocked()

            assert [READ | LOOK] == ear.heard

            await trio.sleep(10.5 * LOOK_SECONDS)

            assert [READ | LOOK] * 11 == ear.heard

            watch.close()


async def test_trios_waits_look_behind_unread_data(autojump_clock: MockClock) -> None:
    """With unread data one is told to look every `LOOK_SECONDS`, so a reset is seen in time."""
    with tcp_pair() as (ours, theirs):

        class Looker:
            looks = 0
            seen_at: float | None = None

            def on_edges(self, edges: int) -> None:
                self.looks += 1
                if ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self.seen_at = trio.current_time()

        looker = Looker()
        watch = Watch(ours.fileno(), looker)
        theirs.send(b"unread")
        await_event(ours.fileno())
        async with driven(edge_triggered=False) as readiness:
            readiness.arm_end(watch)
            await trio.sleep(10.5 * LOOK_SECONDS)

            assert (11, None) == (looker.looks, looker.seen_at)

            began = trio.current_time()
            close_with_reset(theirs)
            await trio.sleep(2 * LOOK_SECONDS)

            assert looker.seen_at is not None
            assert looker.seen_at - began <= LOOK_SECONDS

            watch.close()


@pytest.mark.parametrize("unread", [b"", b"unread"])
@pytest.mark.parametrize("end", ["disarm", "close the watch", "close the readiness"])
async def test_watch_for_the_end_leaves_no_task(
    end: str, unread: bytes, autojump_clock: MockClock
) -> None:
    """
    The one task that Trio's waits need ends when the channel is let go, waiting for data or
    between two looks, and tells nothing more.
    """
    with socket_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        theirs.send(unread)
        async with trio.open_nursery() as nursery:
            readiness = TrioReadiness(nursery.start_soon)
            readiness.arm_end(watch)
            await wait_all_tasks_blocked()

            assert 1 == len(nursery.child_tasks)

            {
                "disarm": lambda: readiness.disarm(watch),
                "close the watch": watch.close,
                "close the readiness": readiness.close,
            }[end]()
            ear.heard.clear()  # letting go tells who waits to look elsewhere
            finish(theirs)
            await trio.sleep(2 * LOOK_SECONDS)

            assert [] == ear.heard
            assert 0 == len(nursery.child_tasks)

    assert (None, 0) == (watch.home, watch.interest)


async def test_watch_for_the_end_that_is_let_go_at_once_never_begins() -> None:
    """A channel that is disarmed before its task has run a step is not waited for."""
    with socket_pair() as (ours, _):
        watch = Watch(ours.fileno())
        async with trio.open_nursery() as nursery:
            readiness = TrioReadiness(nursery.start_soon)
            readiness.arm_end(watch)
            watch.close()
            await wait_all_tasks_blocked()

            assert 0 == len(nursery.child_tasks)


@pytest.mark.parametrize("edge_triggered", [pytest.param(True, marks=needs_epoll), False])
async def test_watch_for_the_end_of_a_closed_channel_disturbs_no_successor(
    edge_triggered: bool,  # noqa: FBT001 - pytest
    no_leak: None,
) -> None:
    """Who has a disarmed and closed channel's number next is told of its own end, and only it."""
    ear, successors_ear = Ear(), Ear()
    async with driven(edge_triggered=edge_triggered) as readiness:
        with socket_pair() as (ours, _):
            watch = Watch(ours.fileno(), ear)
            readiness.arm_end(watch)
            await wait_all_tasks_blocked()
            watch.close()
            number = ours.fileno()
            ours.close()
            with socket_pair() as (successor, theirs):
                assert number == successor.fileno()

                watch = Watch(number, successors_ear)
                readiness.arm_end(watch)
                await wait_all_tasks_blocked()
                finish(theirs)
                await wait_all_tasks_blocked()

                assert [] == ear.heard
                assert 1 == len(successors_ear.heard)

                watch.close()


# --- By themselves, and at the end of the run ------------------------------------------


async def test_readiness_without_a_pump_has_nothing_to_drive() -> None:
    """What serves only tasks that wait by themselves can't be armed."""
    watch = Watch(0)

    with pytest.raises(RuntimeError, match="wait by themselves"):
        TrioReadiness(None).arm(watch, READ)


def test_dispatcher_ends_with_the_run() -> None:
    """A Trio run in which connections were awaited leaves no descriptor behind; nor the next."""
    before = open_descriptors()

    async def main() -> None:
        async with pair_that_has_waited():
            pass

    for _ in range(2):
        trio.run(main)

    assert before == open_descriptors()


def test_connection_can_be_closed_after_its_run() -> None:
    """A connection that was kept beyond the Trio run closes, and its peer sees the end."""

    async def main() -> tuple[Connection, socket.socket]:
        async with company(), open_listening_socket(0, host="127.0.0.1") as listening:
            client = await connect(listening.local_addresses[0])
            connection = await listening.accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.receive_some)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            kept = plain(client)
            client.socket.close()
            return connection, kept

    connection, client = trio.run(main)
    connection.close()
    with client:
        client.settimeout(PATIENCE)

        assert b"" == client.recv(1)


# --- Without a watch -----------------------------------------------------------------------------


@needs_epoll
async def test_sink_is_told_without_a_watch() -> None:
    """Who never waits is told of its edges and of the end, until it wants no more."""
    readiness = EpollReadiness()
    ear, other = Ear(), Ear()
    with socket_pair() as (ours, theirs), socket_pair() as (others, _):
        readiness.tell(ours.fileno(), READ, ear)
        readiness.tell(others.fileno(), READ, other)
        readiness.poll()
        assert [] == ear.heard

        theirs.send(b"x")
        readiness.poll()
        readiness.poll()
        assert [READ] == ear.heard

        theirs.shutdown(socket.SHUT_WR)
        readiness.poll()
        assert 2 == len(ear.heard)
        assert ear.heard[1] & ENDED

        readiness.tell_no_more(others.fileno(), ear)  # not its own: nothing happens
        readiness.tell_no_more(ours.fileno(), ear)
        readiness.tell_no_more(ours.fileno(), ear)
        readiness.tell_no_more(-1, ear)
        theirs.close()
        readiness.poll()
        assert 2 == len(ear.heard)
        assert [] == other.heard
    readiness.close()


@needs_epoll
async def test_poll_says_whether_much_goes_on() -> None:
    """Only if several had something is it worth looking again before parking."""
    readiness = EpollReadiness()
    with socket_pair() as (first, first_peer), socket_pair() as (second, second_peer):
        for ours in (first, second):
            readiness.tell(ours.fileno(), READ, Ear())
        assert not readiness.poll()
        first_peer.send(b"x")
        assert not readiness.poll()
        first_peer.send(b"x")
        second_peer.send(b"x")
        assert readiness.poll()
        assert not readiness.poll()
    readiness.close()


@needs_epoll
@pytest.mark.parametrize("is_closed_first", [False, True])
async def test_descriptor_that_its_owner_closed_is_another_ones(*, is_closed_first: bool) -> None:
    """Who was closed behind our back takes nothing from the one that has its number now."""
    readiness = EpollReadiness()
    old, new = Ear(), Ear()
    with socket_pair() as (ours, _):
        number = ours.fileno()
        readiness.tell(number, READ, old)
    with socket_pair() as (ours, theirs):
        assert number == ours.fileno()  # the lowest that is free
        if is_closed_first:
            readiness.tell_no_more(number, old)
        readiness.tell(number, READ, new)
        if not is_closed_first:
            readiness.tell_no_more(number, old)
        theirs.send(b"x")
        readiness.poll()
        assert [READ] == new.heard
        assert [] == old.heard
        readiness.tell_no_more(number, new)
    with socket_pair() as (ours, theirs), trio.fail_after(PATIENCE):
        # Nobody is left to share it with, so whoever waits now is alone, and nobody has to poll.
        theirs.send(b"x")
        await readiness.wait(Watch(ours.fileno()), READ)
    readiness.close()


class CrowdedEpoll:
    """The kernel's epoll, which at times has no room for one more (ENOSPC, epoll_ctl(2))."""

    is_full = False

    def __init__(self) -> None:
        self._real = select_epoll()

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def register(self, fd: int, events: int) -> None:
        """Register it, if there is room."""
        if CrowdedEpoll.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._real.register(fd, events)


select_epoll: Callable[[], Any] = getattr(select, "epoll", lambda: None)


@needs_epoll
async def test_connection_that_epoll_has_no_room_for_is_broken_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who can't be waited for is reset, or told so where it awaits; the others go on."""
    monkeypatch.setattr(CrowdedEpoll, "is_full", False)
    monkeypatch.setattr(select, "epoll", CrowdedEpoll)
    monkeypatch.setattr(_readiness, "HAVE_EPOLL", True)  # it is only about that
    ended: list[bool] = []

    def echo(connection: Connection, data: bytes) -> None:
        connection.send_nowait(data)

    dispatch = ConnectionDispatch(
        receive=echo,
        disconnect=lambda _, abortive: ended.append(abortive),
    )
    async with open_listening_socket(
        0, host="127.0.0.1", dispatch=ListenDispatch(accept=lambda _: dispatch)
    ) as listening:
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE | EventMask.DISCONNECT)
        (address,) = listening.local_addresses
        await wait_all_tasks_blocked()
        CrowdedEpoll.is_full = True
        async with connect_now(address) as client:  # or it may be reset before it has connected
            assert "reset" == await fate_of(client)
        assert [True] == ended

        CrowdedEpoll.is_full = False
        async with await connect(address) as client:
            await client.send_all(b"x")
            assert b"x" == await client.receive_some()

    async with company(), open_pair() as (connection, client):
        CrowdedEpoll.is_full = True
        with pytest.raises(ConnectionBrokenError):
            await connection.receive_some()
        CrowdedEpoll.is_full = False
        await connection.aclose()
