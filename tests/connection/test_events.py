"""Connections that call back: when data is indicated, and which callback comes when."""

from __future__ import annotations

import contextvars
import itertools
import select
import socket
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.helpers.blocking_peers import await_event
from tests.helpers.pairs import descriptor_of, open_event_pair, open_pair, plain, receive_all
from tests.helpers.recorder import LARGE, Failures, Recorder
from tests.helpers.resetting import reset_on_close
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import PATIENCE, connect, connect_now, fate_of, reset, until
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    EventMask,
    InvalidDeviceStateError,
    InvalidParameterError,
    Irp,
    ListenDispatch,
    Status,
    Taken,
    open_listening_socket,
    open_server,
    serve_events,
)
from trio_wsk._connection import events as _events
from trio_wsk._connection.ending import ABORTIVE, GRACEFUL
from trio_wsk._connection.farewell import SILENT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.usefixtures("readiness")


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


async def test_resuming_inside_the_callback_counts_once() -> None:
    """What is refused again, without being resumed, waits until it is resumed."""

    def refuse(connection: Connection, data: bytes) -> Taken:
        connection.resume_receive()
        return Taken(0)

    recorder = Recorder(refuse, Taken(0))
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await client.send_all(b"one")
        await recorder.called(b"one", b"one")
        connection.resume_receive()
        await recorder.called(b"one", b"one", b"one")


@pytest.mark.parametrize("answer", [None, Taken(3)], ids=repr)
async def test_resuming_inside_a_callback_that_takes_all_says_nothing_of_the_next(
    answer: object,
) -> None:
    """What is refused later, without being resumed, waits until it is resumed."""

    def take(connection: Connection, data: bytes) -> object:
        connection.resume_receive()
        return answer

    recorder = Recorder(take, Taken(0))
    async with open_event_pair(recorder.dispatch) as (_, client):
        await client.send_all(b"one")
        await recorder.called(b"one")
        await client.send_all(b"two")
        await recorder.called(b"one", b"two")


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
            reset_on_close(sender)
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


async def test_others_have_their_turn_before_one_has_been_read_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two peers that send more than is read at once, neither is read more than four times."""
    monkeypatch.setattr(_events, "RECEIVE_SIZE", 7)
    read: list[Connection] = []
    dispatch = ConnectionDispatch(receive=lambda connection, _: read.append(connection))
    async with open_event_pair(dispatch) as (connection, client):
        other = connect_now(connection.listening.local_addresses[0])
        await until(lambda: connection.listening.statistics().delivered["event"] == 2)
        await wait_all_tasks_blocked()
        with plain(client) as one, plain(other) as another:
            one.sendall(bytes(70))
            another.sendall(bytes(70))
        await until(lambda: len(read) == 20)
        await other.aclose()

    assert [4] * 4 + [2] * 2 == sorted(
        (len(list(group)) for _, group in itertools.groupby(read)), reverse=True
    )


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
            with trio.fail_after(SILENT_SECONDS / 2):
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


# --- Mistakes --------------------------------------------------------------------------


async def test_event_without_a_callback_is_named() -> None:
    """Enabling what has no callback says which one to give, and how."""
    async with open_pair() as (connection, _):
        with pytest.raises(InvalidParameterError, match=r"ConnectionDispatch\(receive=\.\.\.\)"):
            connection.enable_events(EventMask.RECEIVE)
        with pytest.raises(InvalidParameterError, match=r"ConnectionDispatch\(send_backlog="):
            connection.enable_events(EventMask.SEND_BACKLOG)
        with pytest.raises(InvalidParameterError, match=r"ConnectionDispatch\(disconnect=\.\.\.\)"):
            connection.enable_events(
                EventMask.RECEIVE | EventMask.DISCONNECT,
                ConnectionDispatch(receive=lambda *_: None),
            )
        with pytest.raises(InvalidParameterError, match=r"ConnectionDispatch.*function"):
            connection.enable_events(EventMask.RECEIVE, lambda *_: None)  # type: ignore[arg-type]


async def test_other_callbacks_have_one_for_each_event_that_is_enabled() -> None:
    """A dispatch that lacks a callback for an enabled event is refused, so that no data is lost."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        fewer = ConnectionDispatch(disconnect=lambda *_: None)
        with pytest.raises(InvalidParameterError, match=r"receive=\.\.\.\)\), or disable it first"):
            connection.enable_events(EventMask.DISCONNECT, fewer)
        await client.send_all(b"one")
        await recorder.called(b"one")
        for event in (EventMask.RECEIVE, EventMask.SEND_BACKLOG):
            await connection.disable_event(event)
        connection.enable_events(EventMask.DISCONNECT, fewer)
        await client.send_all(b"two")
        await recorder.called(b"one")

        assert b"two" == await connection.receive_some()


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
