"""Connections that call back: indications, the send queue, and the end."""

from __future__ import annotations

import contextvars
import select
import socket
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outcome import Error, Value
from trio.testing import wait_all_tasks_blocked

from tests.helpers.pairs import (
    await_event,
    descriptor_of,
    open_event_pair,
    open_pair,
    plain,
    receive_all,
    receive_exactly,
)
from tests.helpers.support import (
    PATIENCE,
    connect,
    connect_now,
    fate_of,
    open_descriptors,
    reset,
    until,
)
from trio_wsk import (
    Connection,
    ConnectionBrokenError,
    ConnectionDispatch,
    EventMask,
    InvalidDeviceStateError,
    InvalidParameterError,
    Irp,
    ListenDispatch,
    OperationCancelledError,
    SocketClosedError,
    Status,
    Taken,
    open_listening_socket,
    open_server,
    serve_events,
)
from trio_wsk._connection import events as _events
from trio_wsk._connection.events import ABORTIVE, GRACEFUL, LINGER_SECONDS
from trio_wsk._connection.wire import RECEIVE_SIZE
from trio_wsk._vocabulary import records

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio.testing import MockClock

pytestmark = pytest.mark.usefixtures("readiness")

LARGE = bytes(range(256)) * (1 << 16)
"""16 MiB: more than the kernel's buffers hold on both sides together."""


class Recorder:
    """Callbacks that keep what they are called with, and answer what they are told to."""

    def __init__(self, *answers: Any, disconnect: bool = True) -> None:
        self.calls: list[object] = []
        """Data as it came, and how the connection ended."""
        self.answers = deque(answers)
        """What the next indications are answered with: a value, or a function to ask."""
        self.backlogs: list[int] = []
        self._changed = trio.Event()
        self.dispatch = ConnectionDispatch(
            receive=self._receive,
            disconnect=self._disconnect if disconnect else None,
            send_backlog=self._send_backlog,
        )

    def _note(self, call: object) -> None:
        self.calls.append(call)
        self._changed.set()

    def _receive(self, connection: Connection, data: bytes) -> Any:
        self._note(data)
        answer = self.answers.popleft() if self.answers else None
        return answer(connection, data) if callable(answer) else answer

    def _disconnect(self, connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - WSK's
        self._note(abortive)

    def _send_backlog(self, connection: Connection, ideal: int) -> None:
        self.backlogs.append(ideal)

    async def called(self, *calls: object) -> None:
        """Wait until the callbacks have been called like this; and no more than this."""
        with trio.fail_after(PATIENCE):
            while len(self.calls) < len(calls):
                await self._changed.wait()
                self._changed = trio.Event()
        await wait_all_tasks_blocked()

        assert list(calls) == self.calls


class Failures:
    """An observer of callbacks that failed."""

    records = frozenset({records.CallbackFailed})

    def __init__(self) -> None:
        self.seen: list[records.CallbackFailed] = []

    def __call__(self, record: object) -> None:
        """Keep the record."""
        assert isinstance(record, records.CallbackFailed)
        self.seen.append(record)


async def send_to(connection: Connection, client: trio.SocketStream, data: bytes) -> None:
    """Send, and return when the data is there, and everybody has done with it what they do."""
    await client.send_all(data)
    await wait_all_tasks_blocked()


# --- Indicating data -------------------------------------------------------------------


@pytest.mark.parametrize("answer", [None, Status.SUCCESS, Taken(3)], ids=repr)
async def test_data_that_was_taken_is_gone(answer: object) -> None:
    """None, SUCCESS and the full count all say "taken": the next data is indicated by itself."""
    recorder = Recorder(answer)
    async with open_event_pair(recorder.dispatch) as (_, client):
        await client.send_all(b"one")
        await recorder.called(b"one")
        await client.send_all(b"two")
        await recorder.called(b"one", b"two")


@pytest.mark.parametrize("answer", [Taken(0), Status.DATA_NOT_ACCEPTED], ids=repr)
async def test_refused_data_comes_again_when_it_is_resumed(answer: object) -> None:
    """Refused data is indicated again after `resume_receive`, before anything newer."""
    recorder = Recorder(answer)
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await client.send_all(b"one")
        await recorder.called(b"one")
        await client.send_all(b"two")
        await_event(descriptor_of(connection))
        await recorder.called(b"one")
        connection.resume_receive()
        connection.resume_receive()
        await recorder.called(b"one", b"one", b"two")


async def test_rest_of_partly_taken_data_comes_first() -> None:
    """After a part was taken the rest is indicated when it is resumed, and again if need be."""
    recorder = Recorder(Taken(2), Taken(1))
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await client.send_all(b"12345")
        await recorder.called(b"12345")
        connection.resume_receive()
        await recorder.called(b"12345", b"345")
        connection.resume_receive()
        await recorder.called(b"12345", b"345", b"45")
        await client.send_all(b"6")
        await recorder.called(b"12345", b"345", b"45", b"6")


async def test_resuming_inside_the_callback_counts() -> None:
    """A callback that resumes and takes a part has the rest indicated, in a call of its own."""

    def take_one(connection: Connection, data: bytes) -> Taken:
        connection.resume_receive()
        return Taken(1)

    recorder = Recorder(take_one, take_one, take_one)
    async with open_event_pair(recorder.dispatch) as (_, client):
        await client.send_all(b"123")
        await recorder.called(b"123", b"23", b"3")
        await client.send_all(b"4")
        await recorder.called(b"123", b"23", b"3", b"4")


async def test_resuming_what_was_not_refused_does_nothing() -> None:
    """`resume_receive` is harmless at any time, also on a connection without events."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        connection.resume_receive()
        await client.send_all(b"one")
        await recorder.called(b"one")
        connection.resume_receive()
        await recorder.called(b"one")
        connection.abort()
        connection.resume_receive()
    async with open_pair() as (connection, _):
        connection.resume_receive()


@pytest.mark.parametrize(
    "answer",
    [True, False, 0, 1, 3, 4, -1, 1.0, "3", b"", Status.PENDING, Status.CANCELLED, Taken(4)],
    ids=repr,
)
async def test_nonsense_is_reported_and_resets(answer: object) -> None:
    """An answer that means nothing is reported with its value, and its connection is reset."""
    recorder, failures = Recorder(answer), Failures()
    async with open_event_pair(recorder.dispatch, observers=[failures]) as (connection, client):
        await client.send_all(b"one")

        assert "reset" == await fate_of(client)

        (failed,) = failures.seen

        assert ("receive", connection.remote_address) == (failed.callback, failed.remote_address)
        assert isinstance(failed.error, TypeError)
        assert repr(answer) in str(failed.error)


async def test_count_of_something_else_is_not_taken_for_what_was_taken() -> None:
    """
    An echo that ends with what `send_nowait` returns has not said how much it has taken: that is
    reported with what to return, and the connection doesn't stall.
    """
    failures = Failures()
    dispatch = ConnectionDispatch(receive=lambda connection, data: connection.send_nowait(data))  # type: ignore[arg-type,return-value]  # the mistake
    async with open_event_pair(dispatch, observers=[failures]) as (_, client):
        await client.send_all(b"one")

        assert "reset" == await fate_of(client)

        (failed,) = failures.seen

        assert "returned 0: " in str(failed.error)
        assert "Taken(count)" in str(failed.error)


async def test_callback_that_raises_ends_its_own_connection_only() -> None:
    """What a callback raises is reported, and resets the connection it is about and no other."""
    error = ValueError("on purpose")

    def fail(connection: Connection, data: bytes) -> None:
        raise error

    recorder, failures = Recorder(fail), Failures()
    async with open_event_pair(recorder.dispatch, observers=[failures]) as (connection, client):
        other = await connect(connection.listening.local_addresses[0])
        await client.send_all(b"one")

        assert "reset" == await fate_of(client)
        assert [("receive", error)] == [(each.callback, each.error) for each in failures.seen]

        await other.send_all(b"two")
        await recorder.called(b"one", b"two")
        await other.aclose()


async def test_broken_peer_is_no_failure_of_the_callback() -> None:
    """
    A callback that answers a peer who has gone gets the error; that it lets it out is not
    reported, and the end is told as ever.
    """

    def answer(connection: Connection, data: bytes) -> None:
        connection.send_nowait(data)
        raise AssertionError("the peer has gone")  # pragma: no cover - it is there

    recorder, failures = Recorder(answer), Failures()
    async with open_event_pair(recorder.dispatch, observers=[failures]) as (connection, client):
        await wait_all_tasks_blocked()
        with plain(client) as sender:
            sender.sendall(b"one")
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.socket.close()
        await_event(descriptor_of(connection), select.POLLERR)
        await recorder.called(b"one", ABORTIVE)

        assert [] == failures.seen
        assert connection.closed


async def test_other_connection_breaking_is_a_failure_of_the_callback() -> None:
    """That somebody else's connection is broken is the callback's to deal with."""
    async with open_pair() as (elsewhere, peer):
        reset(peer)
        await_event(descriptor_of(elsewhere), select.POLLERR)
        recorder = Recorder(lambda connection, data: elsewhere.send_nowait(data))
        failures = Failures()
        async with open_event_pair(recorder.dispatch, observers=[failures]) as (_, client):
            await client.send_all(b"one")

            assert "reset" == await fate_of(client)
            assert ["receive"] == [each.callback for each in failures.seen]


# --- Events and tasks ------------------------------------------------------------------


async def test_held_data_goes_to_a_task_first_and_the_event_goes_on() -> None:
    """What was refused is what `receive_some` returns; later data is indicated again."""
    recorder = Recorder(Status.DATA_NOT_ACCEPTED)
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await client.send_all(b"one")
        await recorder.called(b"one")

        assert b"one" == await connection.receive_some()

        await client.send_all(b"two")
        await recorder.called(b"one", b"two")


async def test_task_that_takes_a_part_of_what_is_held_resumes_the_event() -> None:
    """`receive_some` and `receive_into` are what WSK calls posting a receive: the event goes on."""
    recorder = Recorder(Taken(0), Taken(0))
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await client.send_all(b"123456")
        await recorder.called(b"123456")

        assert b"12" == await connection.receive_some(2)

        await recorder.called(b"123456", b"3456")
        buffer = bytearray(3)

        assert 3 == await connection.receive_into(buffer)
        assert b"345" == buffer

        await recorder.called(b"123456", b"3456", b"6")


async def test_waiting_task_beats_the_event() -> None:
    """What comes while a task waits in `receive_some` is its own; what comes after, the event's."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        async with trio.open_nursery() as nursery:
            received = []

            async def receive() -> None:
                received.append(await connection.receive_some())

            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            await client.send_all(b"one")

        assert [b"one"] == received

        await client.send_all(b"two")
        await recorder.called(b"two")


async def test_task_beats_the_event_on_a_public_socket() -> None:
    """The same holds after the connection's socket was asked for, which changes how tasks wait."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await wait_all_tasks_blocked()
        _ = connection.socket
        await client.send_all(b"zero")
        await recorder.called(b"zero")
        async with trio.open_nursery() as nursery:
            received = []

            async def receive() -> None:
                received.append(await connection.receive_some())

            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            await client.send_all(b"one")

        assert [b"one"] == received

        await client.send_all(b"two")
        await recorder.called(b"zero", b"two")


async def test_cancelled_task_gives_way_to_the_event() -> None:
    """When a task that waited is cancelled, data goes to the event again."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.receive_some)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await client.send_all(b"one")
        await recorder.called(b"one")


class Switching:
    """One connection that is received from by callbacks and by a task, as a script has it."""

    def __init__(self, connection: Connection, client: trio.SocketStream) -> None:
        self.connection = connection
        self.client = client
        self.taken = b""
        self.sent = b""
        self.ended = trio.Event()
        self.percent_taken: deque[int] = deque()
        self.dispatch = ConnectionDispatch(receive=self._receive, disconnect=self._disconnect)

    def _receive(self, connection: Connection, data: bytes) -> Taken:
        count = len(data)
        if self.percent_taken:
            count = count * self.percent_taken.popleft() // 100
        self.taken += data[:count]
        return Taken(count)

    def _disconnect(self, connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - WSK's
        assert not abortive
        self.ended.set()

    async def step(self, what: str, number: int) -> None:
        """Do one thing; the number is a size, or says how much the next indication takes."""
        if what == "send":
            data = bytes((len(self.sent) + i) % 251 for i in range(number))
            self.sent += data
            await self.client.send_all(data)
        elif what == "receive":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive_some, number)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        elif what == "take":
            self.percent_taken.append(number % 101)
        elif what == "resume":
            self.connection.resume_receive()
        elif what == "enable":
            self.connection.enable_events(EventMask.RECEIVE | EventMask.DISCONNECT, self.dispatch)
        elif what == "disable":
            await self.connection.disable_event(EventMask.RECEIVE)
        else:
            await wait_all_tasks_blocked()

    async def _receive_some(self, size: int) -> None:
        self.taken += await self.connection.receive_some(size)

    async def finish(self, *, with_events: bool) -> None:
        """Take the rest, either way."""
        self.percent_taken.clear()
        await self.client.send_eof()
        if with_events:
            await self.step("enable", 0)
            self.connection.resume_receive()
            await self.ended.wait()
        else:
            await self.step("disable", 0)
            self.taken += await receive_all(self.connection)


STEPS = st.tuples(
    st.sampled_from(["send", "send", "receive", "take", "resume", "enable", "disable", "wait"]),
    st.integers(1, 300),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    script=st.lists(STEPS, max_size=25),
    with_events=st.booleans(),
    reads=st.sampled_from([7, 64, 65536]),
)
async def test_switching_loses_no_octet(
    script: Sequence[tuple[str, int]],
    with_events: bool,  # noqa: FBT001 - Hypothesis
    reads: int,
) -> None:
    """
    However often a connection changes between events and a task, whatever callbacks refuse and
    whenever a task's receive is cancelled: what was taken is what was sent, in order.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_events, "RECEIVE_SIZE", reads)
        async with open_pair() as (connection, client):
            switching = Switching(connection, client)
            for what, number in script:
                await switching.step(what, number)
            await switching.finish(with_events=with_events)

            assert switching.sent == switching.taken


# --- The peer's end --------------------------------------------------------------------


async def test_fin_is_told_after_all_data_and_not_while_it_is_refused() -> None:
    """A peer that sends and finishes is not told to have ended before its data has been taken."""
    recorder = Recorder(Taken(0))
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await client.send_all(b"one")
        await client.send_eof()
        await_event(descriptor_of(connection), select.POLLRDHUP)
        await recorder.called(b"one")
        connection.resume_receive()
        await recorder.called(b"one", b"one", GRACEFUL)

        connection.send_nowait(b"answer")
        connection.disconnect()

        assert b"answer" == await receive_all(client)

        await wait_all_tasks_blocked()

        assert connection.closed


async def test_fin_is_told_after_a_task_has_taken_the_rest() -> None:
    """Without the receive event, FIN is told when a task has received what was before it."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch, EventMask.DISCONNECT) as (connection, client):
        await client.send_all(b"one")
        await client.send_eof()
        await_event(descriptor_of(connection), select.POLLRDHUP)
        await recorder.called()

        assert b"one" == await connection.receive_some()

        await recorder.called(GRACEFUL)


async def test_reset_is_told_while_data_is_refused() -> None:
    """A reset is told at once, though data is held back: nothing can be answered any more."""
    recorder = Recorder(Taken(0))
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await client.send_all(b"one")
        await recorder.called(b"one")
        reset(client)
        await recorder.called(b"one", ABORTIVE)

        assert connection.closed
        with pytest.raises(ConnectionBrokenError) as got:
            connection.send_nowait(b"x")
        assert connection is got.value.connection


async def test_reset_is_told_while_input_is_unread(readiness: str) -> None:
    """
    Where there are edges, a reset is told at once even if what was refused filled a whole
    indication and more is in the kernel; elsewhere, when the data has been taken.
    """
    taken: list[Connection] = []

    def refuse(connection: Connection, data: bytes) -> Taken:
        taken.append(connection)
        return Taken(0)

    recorder = Recorder(refuse)
    dispatch = ListenDispatch(accept=lambda _: recorder.dispatch)
    async with open_listening_socket(0, host="127.0.0.1", dispatch=dispatch) as listening:
        client = await connect(listening.local_addresses[0])
        await client.send_all(bytes(RECEIVE_SIZE + 1000))
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE | EventMask.DISCONNECT)
        await wait_all_tasks_blocked()

        assert [bytes(RECEIVE_SIZE)] == recorder.calls

        reset(client)
        await wait_all_tasks_blocked()
        if readiness != "epoll":
            taken[0].resume_receive()
            await wait_all_tasks_blocked()

        assert recorder.calls[-1] is ABORTIVE
        assert taken[0].closed


async def test_reset_is_told_without_the_receive_event() -> None:
    """With only the disconnect event enabled a reset is told, though unread data was before it."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch, EventMask.DISCONNECT) as (connection, client):
        await wait_all_tasks_blocked()
        reset(client)
        await recorder.called(ABORTIVE)

        assert connection.closed


@pytest.mark.parametrize("mask", [EventMask.DISCONNECT, EventMask.DISCONNECT | EventMask.RECEIVE])
async def test_reset_that_a_task_saw_first_is_told_as_one(mask: EventMask) -> None:
    """
    The kernel tells an error once. If a task got it, the event still says that it was a reset,
    and not FIN.
    """
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch, mask) as (connection, client):

        async def receive() -> None:
            with pytest.raises(ConnectionBrokenError):
                await connection.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            reset(client)
        await recorder.called(ABORTIVE)


async def test_task_that_sends_learns_of_the_reset_that_the_event_told() -> None:
    """A task that waits in `send_all` gets the peer's error, and not that we have closed."""
    recorder = Recorder()
    async with (
        open_event_pair(recorder.dispatch) as (connection, client),
        trio.open_nursery() as nursery,
    ):

        async def send() -> None:
            with pytest.raises(ConnectionBrokenError):
                await connection.send_all(LARGE)

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        reset(client)
        await recorder.called(ABORTIVE)


async def test_without_a_disconnect_callback_the_connection_finishes_itself() -> None:
    """After the peer's FIN, what was queued is sent, then ours; then the connection is closed."""

    def echo(connection: Connection, data: bytes) -> None:
        connection.send_nowait(data)

    recorder = Recorder(echo, echo, echo, echo, disconnect=False)
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await client.send_all(b"one")
        await client.send_eof()

        assert b"one" == await receive_all(client)

        await wait_all_tasks_blocked()

        assert connection.closed


async def test_connection_that_ends_in_its_accept_callback_is_closed_with_its_peer() -> None:
    """
    An accept callback may say good-bye at once, and want no events: when the peer has finished,
    too, the connection is closed.
    """
    connections = []

    def accept(connection: Connection) -> ConnectionDispatch:
        connection.disconnect(data=b"good-bye")
        connections.append(connection)
        return ConnectionDispatch()

    async with open_listening_socket(
        0, host="127.0.0.1", dispatch=ListenDispatch(accept=accept)
    ) as listening:
        listening.enable_events(EventMask.ACCEPT)
        client = await connect(listening.local_addresses[0])
        with trio.fail_after(PATIENCE):
            assert b"good-bye" == await client.receive_some()
            assert b"" == await client.receive_some()

        await client.aclose()
        await until(lambda: connections[0].closed)


async def test_queued_data_is_sent_before_the_connection_finishes_itself() -> None:
    """A connection that finishes itself first sends all that is queued, however long that takes."""

    def answer(connection: Connection, data: bytes) -> None:
        connection.send_nowait(LARGE)

    recorder = Recorder(answer, disconnect=False)
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await client.send_all(b"one")
        await client.send_eof()

        assert LARGE == await receive_all(client)

        await wait_all_tasks_blocked()

        assert connection.closed


async def test_reset_without_a_disconnect_callback_closes() -> None:
    """A connection whose peer has reset it is closed; nothing needs to be called for that."""
    recorder = Recorder(disconnect=False)
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await wait_all_tasks_blocked()
        reset(client)
        await wait_all_tasks_blocked()

        assert connection.closed


async def test_disconnect_callback_that_raises_resets() -> None:
    """What a disconnect callback raises is reported, and the connection is reset instead."""
    failures = Failures()

    def fail(connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - WSK's
        raise ValueError("on purpose")

    dispatch = ConnectionDispatch(disconnect=fail)
    async with open_event_pair(dispatch, observers=[failures]) as (connection, client):
        await client.send_eof()

        assert "reset" == await fate_of(client)
        assert ["disconnect"] == [each.callback for each in failures.seen]
        assert connection.closed


async def test_answer_to_a_reset_is_no_failure() -> None:
    """A disconnect callback that sends a last word in any case has not failed."""
    failures = Failures()

    def answer(connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - WSK's
        connection.disconnect(data=b"bye")

    dispatch = ConnectionDispatch(disconnect=answer)
    async with open_event_pair(dispatch, observers=[failures]) as (connection, client):
        await wait_all_tasks_blocked()
        reset(client)
        await wait_all_tasks_blocked()

        assert connection.closed
        assert [] == failures.seen


# --- Before, and while, and after ------------------------------------------------------


async def test_events_wait_for_the_accept_callback() -> None:
    """
    Events are held back until the accept callback has returned, though data is there already
    and the callback enables them itself.
    """
    order: list[object] = []

    def receive(connection: Connection, data: bytes) -> None:
        order.append(data)

    dispatch = ConnectionDispatch(receive=receive)

    def accept(connection: Connection) -> ConnectionDispatch:
        await_event(descriptor_of(connection))
        connection.enable_events(EventMask.RECEIVE, dispatch)
        order.append("accepted")
        return dispatch

    with trio.fail_after(PATIENCE):
        async with open_listening_socket(
            0, host="127.0.0.1", dispatch=ListenDispatch(accept=accept)
        ) as listening:
            client = await connect(listening.local_addresses[0])
            await client.send_all(b"early")
            listening.enable_events(EventMask.ACCEPT)
            await wait_all_tasks_blocked()
            await client.aclose()

    assert ["accepted", b"early"] == order


async def test_accept_callback_may_enable_events_by_itself() -> None:
    """What the accept callback enabled itself stays enabled when it returns `Status.SUCCESS`."""
    recorder = Recorder()

    def accept(connection: Connection) -> Status:
        connection.enable_events(EventMask.RECEIVE, recorder.dispatch)
        return Status.SUCCESS

    async with open_event_pair(accept) as (_, client):
        await client.send_all(b"one")
        await recorder.called(b"one")


async def test_awaited_connection_has_no_event_until_one_is_enabled() -> None:
    """Callbacks given to `accept` wait for `enable_events`; what came before is indicated then."""
    recorder = Recorder()
    async with open_listening_socket(0, host="127.0.0.1") as listening:
        client = await connect(listening.local_addresses[0])
        connection = await listening.accept(dispatch=recorder.dispatch)
        await client.send_all(b"one")
        await_event(descriptor_of(connection))
        await recorder.called()
        connection.enable_events(EventMask.RECEIVE)
        await recorder.called(b"one")
        await client.aclose()


async def test_public_calls_never_call_back_on_the_callers_stack() -> None:
    """`enable_events`, `resume_receive` and `queue_send` return before any callback runs."""
    recorder = Recorder(Taken(0))
    completed: list[Irp[int]] = []
    async with open_pair() as (connection, client):
        await client.send_all(b"one")
        await_event(descriptor_of(connection))
        connection.enable_events(EventMask.RECEIVE, recorder.dispatch)

        assert [] == recorder.calls

        await recorder.called(b"one")
        connection.resume_receive()

        assert [b"one"] == recorder.calls

        connection.queue_send(b"x", on_completion=completed.append)

        assert [] == completed

        await recorder.called(b"one", b"one")

        assert 1 == len(completed)


async def test_disabled_event_is_not_called_and_enabled_again_it_is() -> None:
    """While an event is disabled its data waits in the kernel, and comes when it is enabled."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        assert Status.SUCCESS is connection.disable_event_nowait(EventMask.RECEIVE)

        await client.send_all(b"one")
        await_event(descriptor_of(connection))
        await recorder.called()
        connection.enable_events(EventMask.RECEIVE)
        await recorder.called(b"one")
        await connection.disable_event(EventMask.RECEIVE)
        await client.send_all(b"two")
        await_event(descriptor_of(connection))
        await recorder.called(b"one")

        assert b"two" == await connection.receive_some()


async def test_disabling_inside_its_own_callback_is_pending() -> None:
    """A callback that disables its own event is told that it is still running: its last call."""
    answers = []

    def disable(connection: Connection, data: bytes) -> None:
        answers.append(connection.disable_event_nowait(EventMask.RECEIVE))
        answers.append(connection.disable_event_nowait(EventMask.DISCONNECT))

    recorder = Recorder(disable)
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await client.send_all(b"one")
        await recorder.called(b"one")
        await client.send_all(b"two")
        await_event(descriptor_of(connection))
        await recorder.called(b"one")

        assert [Status.EVENT_PENDING, Status.SUCCESS] == answers


async def test_disconnect_event_is_told_when_it_is_enabled_again() -> None:
    """A FIN that came while the event was disabled is told when it is enabled."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await connection.disable_event(EventMask.DISCONNECT)
        await client.send_eof()
        await_event(descriptor_of(connection), select.POLLRDHUP)
        await recorder.called()
        connection.enable_events(EventMask.DISCONNECT)
        await recorder.called(GRACEFUL)


async def test_callbacks_run_in_their_connections_own_context() -> None:
    """
    Callbacks see the context in which the block was opened; what one sets, later callbacks
    of the same connection see, and nobody else does.
    """
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen = []

    def look(connection: Connection, data: bytes) -> None:
        seen.append(variable.get())
        variable.set(data.decode())
        connection.queue_send(b"x", on_completion=lambda _: seen.append(variable.get()))

    recorder = Recorder(look, look, look)
    variable.set("block")
    async with open_event_pair(recorder.dispatch) as (connection, client):
        variable.set("later")
        other = await connect(connection.listening.local_addresses[0])
        await client.send_all(b"one")
        await recorder.called(b"one")
        await other.send_all(b"two")
        await recorder.called(b"one", b"two")
        await client.send_all(b"three")
        await recorder.called(b"one", b"two", b"three")
        await other.aclose()

    assert ["block", "one", "block", "two", "one", "three"] == seen


class Touchy:
    """A value that can't be compared, as some libraries have them."""

    __hash__ = None  # type: ignore[assignment]  # nor hashed

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of this comparison is ambiguous")


async def test_what_a_callback_sets_is_nobody_elses_however_it_compares() -> None:
    """Values that are equal are told apart, and such as can't be compared do no harm."""
    stash: contextvars.ContextVar[dict[str, bytes]] = contextvars.ContextVar("stash")
    touchy: contextvars.ContextVar[Touchy] = contextvars.ContextVar("touchy")
    seen: list[dict[str, bytes]] = []

    def accept(connection: Connection) -> ConnectionDispatch:
        stash.set({})
        touchy.set(Touchy())
        return ConnectionDispatch(receive=receive)

    def receive(connection: Connection, data: bytes) -> None:
        mine = stash.get()
        mine["user"] = mine.get("user", b"") + data
        seen.append(mine)

    stash.set({})
    touchy.set(Touchy())
    async with open_listening_socket(
        0, host="127.0.0.1", dispatch=ListenDispatch(accept=accept)
    ) as listening:
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
        (address,) = listening.local_addresses
        async with await connect(address) as first, await connect(address) as second:
            await first.send_all(b"a")
            await until(lambda: len(seen) == 1)
            await second.send_all(b"b")
            await until(lambda: len(seen) == 2)
            await first.send_all(b"c")
            await until(lambda: len(seen) == 3)

    assert [{"user": b"ac"}, {"user": b"b"}, {"user": b"ac"}] == seen
    assert {} == stash.get()


async def test_context_outlasts_the_events() -> None:
    """A connection that has no events for a while finds its context again."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []

    def look(connection: Connection, data: bytes) -> None:
        seen.append(variable.get())
        variable.set("mine")

    async with open_pair() as (connection, client):
        connection.enable_events(EventMask.RECEIVE, ConnectionDispatch(receive=look))
        await client.send_all(b"1")
        await until(lambda: len(seen) == 1)
        await connection.disable_event(EventMask.RECEIVE)
        connection.enable_events(EventMask.RECEIVE)
        await client.send_all(b"2")
        await until(lambda: len(seen) == 2)

    assert ["none", "mine"] == seen


@pytest.mark.parametrize(
    "dispatch", [ConnectionDispatch(), ConnectionDispatch(receive=lambda *_: None)]
)
@pytest.mark.parametrize("is_at_once", [True, False])
async def test_accept_callback_may_ask_for_the_socket_and_enable_nothing(
    dispatch: ConnectionDispatch, *, is_at_once: bool
) -> None:
    """After our good-bye the peer's end is noticed all the same, with callbacks and without."""
    taken: list[Connection] = []

    def accept(connection: Connection) -> ConnectionDispatch:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if is_at_once:
            connection.disconnect(data=b"bye")
        taken.append(connection)
        return dispatch

    async with open_listening_socket(
        0, host="127.0.0.1", dispatch=ListenDispatch(accept=accept)
    ) as listening:
        listening.enable_events(EventMask.ACCEPT)
        async with await connect(listening.local_addresses[0]) as client:
            await until(lambda: taken)
            if not is_at_once:
                taken[0].disconnect(data=b"bye")
            assert b"bye" == await client.receive_some()
            assert b"" == await client.receive_some()
            await client.send_eof()
            with trio.fail_after(LINGER_SECONDS / 2):
                await until(lambda: taken[0].closed)


async def test_task_and_event_take_turns() -> None:
    """Between indications a task may wait for the next octets; after it the event goes on."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        calls: list[bytes] = []
        for _ in range(3):
            await client.send_all(b"event")
            calls.append(b"event")
            await recorder.called(*calls)
            async with trio.open_nursery() as nursery:
                received: list[bytes] = []

                async def receive(received: list[bytes]) -> None:
                    received.append(await connection.receive_some())

                nursery.start_soon(receive, received)
                await wait_all_tasks_blocked()
                await client.send_all(b"task")
            assert [b"task"] == received
        await client.send_eof()
        await recorder.called(*calls, GRACEFUL)


async def test_block_end_resets_what_is_event_driven() -> None:
    """When a listening block ends, its connections with events are reset and descriptors closed."""
    recorder = Recorder()
    before = open_descriptors()
    async with open_listening_socket(
        0, host="127.0.0.1", dispatch=ListenDispatch(accept=lambda _: recorder.dispatch)
    ) as listening:
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
        client = await connect(listening.local_addresses[0])
        await client.send_all(b"one")
        await recorder.called(b"one")

    assert "reset" == await fate_of(client)

    await client.aclose()

    assert before == open_descriptors()


async def test_connection_whose_events_are_all_disabled_outlives_the_block() -> None:
    """A connection that has no event enabled any more is its owner's alone."""
    recorder = Recorder()
    async with open_listening_socket(0, host="127.0.0.1") as listening:
        client = await connect(listening.local_addresses[0])
        connection = await listening.accept()
        connection.enable_events(EventMask.RECEIVE | EventMask.DISCONNECT, recorder.dispatch)
        await client.send_all(b"one")
        await recorder.called(b"one")
        await connection.disable_event(EventMask.RECEIVE)
        await connection.disable_event(EventMask.DISCONNECT)
    await client.send_all(b"two")

    assert b"two" == await connection.receive_some()

    await connection.aclose()
    await client.aclose()


# --- Sending ---------------------------------------------------------------------------


async def clog(connection: Connection) -> int:
    """Send until something is queued; return how much was sent."""
    sent = 0
    while not connection.send_nowait(bytes(1 << 20)):
        sent += 1 << 20
    await wait_all_tasks_blocked()
    return sent + (1 << 20)


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


# --- Our end ---------------------------------------------------------------------------


async def test_last_data_follows_what_is_queued() -> None:
    """`disconnect` with data sends it after the queue, and then FIN."""
    async with open_pair() as (connection, client):
        size = await clog(connection)
        connection.disconnect(data=b"bye")
        with pytest.raises(SocketClosedError, match="finished sending"):
            connection.send_nowait(b"more")
        with pytest.raises(SocketClosedError, match="finished sending"):
            connection.disconnect(data=b"more")
        connection.disconnect()

        assert b"bye" == (await receive_all(client))[size:]


async def test_silent_peer_is_reset_after_our_fin(mock_clock: MockClock) -> None:
    """A peer that neither sends nor finishes is reset, LINGER_SECONDS after it was last heard."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        connection.disconnect()
        await wait_all_tasks_blocked()
        mock_clock.jump(LINGER_SECONDS - 1)
        await wait_all_tasks_blocked()
        await client.send_all(b"still here")
        await recorder.called(b"still here")
        mock_clock.jump(LINGER_SECONDS - 1)
        await wait_all_tasks_blocked()

        assert not connection.closed

        mock_clock.jump(1)
        await wait_all_tasks_blocked()

        assert connection.closed
        assert b"" == await client.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"x")
        assert [b"still here"] == recorder.calls


async def test_fin_that_was_awaited_can_be_followed_by_disconnect(mock_clock: MockClock) -> None:
    """A connection with events that sent FIN by `send_eof` is bounded by `disconnect`, too."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, _):
        await connection.send_eof()
        connection.disconnect()
        mock_clock.jump(LINGER_SECONDS)
        await wait_all_tasks_blocked()

        assert connection.closed


async def test_connection_is_closed_when_both_have_finished(mock_clock: MockClock) -> None:
    """After our FIN and the peer's, the connection is closed, and no clock is needed."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        connection.disconnect(data=b"bye")

        assert b"bye" == await receive_all(client)

        await client.send_all(b"good-bye")
        await client.send_eof()
        await recorder.called(b"good-bye", GRACEFUL)

        assert connection.closed

        mock_clock.jump(LINGER_SECONDS)
        await wait_all_tasks_blocked()


async def test_input_after_our_fin_is_thrown_away_without_a_receive_callback() -> None:
    """A connection that can't receive reads on after its FIN, so that the peer is not reset."""
    ends = []
    dispatch = ConnectionDispatch(disconnect=lambda _, abortive: ends.append(abortive))
    async with open_event_pair(dispatch) as (connection, client):
        connection.disconnect(data=b"bye")
        await client.send_all(bytes(100_000))
        await client.send_eof()

        assert b"bye" == await receive_all(client)

        await wait_all_tasks_blocked()

        assert [GRACEFUL] == ends
        assert connection.closed


async def test_callback_may_end_its_connection_in_any_way() -> None:
    """Closing, aborting or disconnecting inside a callback is what the peer sees."""
    ends: list[tuple[Callable[[Connection], object], str]] = [
        (Connection.close, "fin"),
        (Connection.abort, "reset"),
        (Connection.disconnect, "fin"),
    ]
    for end, fate in ends:
        recorder = Recorder(lambda connection, _, end=end: end(connection))
        async with open_event_pair(recorder.dispatch) as (_, client):
            await client.send_all(b"one")

            assert fate == await fate_of(client)

            await recorder.called(b"one")


# --- Mistakes --------------------------------------------------------------------------


async def test_event_without_a_callback_is_named() -> None:
    """Enabling what has no callback says which one to give, and how."""
    async with open_pair() as (connection, _):
        with pytest.raises(InvalidParameterError, match=r"ConnectionDispatch\(receive=\.\.\.\)"):
            connection.enable_events(EventMask.RECEIVE)
        with pytest.raises(InvalidParameterError, match=r"ConnectionDispatch\(disconnect=\.\.\.\)"):
            connection.enable_events(
                EventMask.RECEIVE | EventMask.DISCONNECT,
                ConnectionDispatch(receive=lambda *_: None),
            )
        with pytest.raises(InvalidParameterError, match=r"ConnectionDispatch.*function"):
            connection.enable_events(EventMask.RECEIVE, lambda *_: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", [EventMask(0), EventMask.ACCEPT, EventMask(0x1)])
async def test_what_is_no_event_of_a_connection_is_named(mask: EventMask) -> None:
    """Enabling or disabling what no connection has is a mistake that shows the value."""
    async with open_pair() as (connection, _):
        with pytest.raises(InvalidParameterError, match="EventMask"):
            connection.enable_events(mask, ConnectionDispatch(receive=lambda *_: None))
        with pytest.raises(InvalidParameterError, match="EventMask"):
            connection.disable_event_nowait(mask)
        with pytest.raises(InvalidParameterError, match="one at a time"):
            await connection.disable_event(EventMask.RECEIVE | EventMask.DISCONNECT)


async def test_events_after_the_block_say_what_to_do_instead() -> None:
    """Once its block has ended, a connection can't have events, and says so."""
    async with open_listening_socket(0, host="127.0.0.1") as listening:
        client = await connect(listening.local_addresses[0])
        connection = await listening.accept()
    with pytest.raises(InvalidDeviceStateError, match="await this connection instead"):
        connection.enable_events(EventMask.RECEIVE, ConnectionDispatch(receive=lambda *_: None))
    connection.close()
    await client.aclose()


async def test_connection_without_enabled_events_is_still_ended_by_a_reset() -> None:
    """
    A connection that the accept event took is the block's also while all of its events are
    disabled: when its peer resets, it is closed, and its permit comes back.
    """
    taken: list[Connection] = []

    def receive(connection: Connection, data: bytes) -> None:
        connection.disable_event_nowait(EventMask.RECEIVE)
        taken.append(connection)

    def accept(connection: Connection) -> ConnectionDispatch:
        return ConnectionDispatch(receive=receive)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(serve_events, ListenDispatch(accept=accept), 0, max_connections=1)
        )
        for expected in (1, 2):
            client = await connect(server.local_addresses[0])
            await client.send_all(b"hello")
            with trio.fail_after(30):
                while len(taken) < expected:
                    await trio.lowlevel.checkpoint()
            reset(client)
        with trio.fail_after(30):
            while not taken[-1].closed:
                await trio.lowlevel.checkpoint()
        server.abort()

    assert [True, True] == [connection.closed for connection in taken]


async def test_completion_is_told_before_the_connection_ends() -> None:
    """
    When everything queued goes out after both sides have finished, the completion routine
    still finds the connection open: it may enable an event, as it would at any other time.
    """
    found_open: list[bool] = []
    finished = trio.Event()

    def receive(connection: Connection, data: bytes) -> None:
        connection.disable_event_nowait(EventMask.RECEIVE)
        connection.send_nowait(LARGE)
        connection.queue_send(b"", on_completion=partial(go_on, connection))

    def go_on(connection: Connection, irp: Irp[int]) -> None:
        found_open.append(not connection.closed)
        connection.enable_events(EventMask.RECEIVE)
        finished.set()

    dispatch = ConnectionDispatch(
        receive=receive, disconnect=lambda connection, _: connection.disconnect()
    )
    async with open_server(
        ListenDispatch(accept=lambda _: dispatch), 0, host="127.0.0.1"
    ) as server:
        client = await connect(server.local_addresses[0])
        await client.send_all(b"hello")
        await client.send_eof()
        with trio.fail_after(PATIENCE):
            echoed = await receive_all(client)
            await finished.wait()
        await client.aclose()

    assert LARGE == echoed
    assert [True] == found_open


async def test_events_come_beside_a_wait_for_the_socket() -> None:
    """
    Trio lets only one task wait for a descriptor. When that is one of the user's, which waits for
    ``connection.socket``, events come all the same, perhaps later, and the block goes on.
    """
    indicated: list[bytes] = []

    def receive(_: Connection, data: bytes) -> None:
        indicated.append(data)

    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.wait_readable, connection.socket)
        await trio.testing.wait_all_tasks_blocked()
        connection.enable_events(EventMask.RECEIVE, ConnectionDispatch(receive=receive))
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(b"x")
        await until(lambda: indicated)

        assert [b"x"] == indicated

        connection.abort()


async def test_accepting_goes_on_beside_a_wait_for_the_listening_socket() -> None:
    """The same for ``listening.socket``."""
    async with (
        open_listening_socket(0, host="127.0.0.1") as listening,
        trio.open_nursery() as nursery,
    ):
        waited = 0

        @nursery.start_soon
        async def wait() -> None:
            nonlocal waited
            while True:
                with suppress(trio.BusyResourceError):
                    await trio.lowlevel.wait_readable(listening.socket)
                    waited += 1
                await trio.lowlevel.checkpoint()

        for _ in range(20):
            async with connect_now(listening.local_addresses[0]):
                (await listening.accept()).abort()

        assert waited

        nursery.cancel_scope.cancel()
