"""Connections that call back: how they learn of an end, and how they end."""

from __future__ import annotations

import math
import select
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.blocking_peers import await_event
from tests.helpers.pairs import descriptor_of, open_event_pair, open_pair, receive_all
from tests.helpers.recorder import LARGE, Failures, Recorder, clog
from tests.helpers.support import PATIENCE, connect, fate_of, reset, timers, until
from trio_wsk import (
    Connection,
    ConnectionBrokenError,
    ConnectionDispatch,
    EventMask,
    ListenDispatch,
    SocketClosedError,
    Status,
    Taken,
    open_listening_socket,
    open_server,
)
from trio_wsk._connection.ending import ABORTIVE, GRACEFUL
from trio_wsk._connection.farewell import SILENT_SECONDS
from trio_wsk._connection.wire import RECEIVE_SIZE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

pytestmark = pytest.mark.usefixtures("readiness")


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
    """A peer that neither sends nor finishes is reset, SILENT_SECONDS after it was last heard."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        connection.disconnect()
        await wait_all_tasks_blocked()
        mock_clock.jump(SILENT_SECONDS - 1)
        await wait_all_tasks_blocked()
        await client.send_all(b"still here")
        await recorder.called(b"still here")
        mock_clock.jump(SILENT_SECONDS - 1)
        await wait_all_tasks_blocked()

        assert not connection.closed

        mock_clock.jump(1)
        await wait_all_tasks_blocked()

        assert connection.closed
        assert b"" == await client.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"x")
        assert [b"still here"] == recorder.calls


async def test_silent_peer_is_reset_after_fin_from_the_accept_callback(
    mock_clock: MockClock,
) -> None:
    """An accept callback that says good-bye doesn't wait for its peer for ever either."""
    recorder = Recorder()

    def accept(connection: Connection) -> ConnectionDispatch:
        connection.disconnect(data=b"bye")
        return recorder.dispatch

    async with open_event_pair(accept) as (connection, client):
        assert b"bye" == await receive_all(client)

        await wait_all_tasks_blocked()
        mock_clock.jump(SILENT_SECONDS - 1)
        await wait_all_tasks_blocked()

        assert not connection.closed

        mock_clock.jump(1)
        await wait_all_tasks_blocked()

        assert connection.closed


async def test_fin_that_was_awaited_can_be_followed_by_disconnect(mock_clock: MockClock) -> None:
    """A connection with events that sent FIN by `send_eof` is bounded by `disconnect`, too."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, _):
        await connection.send_eof()
        connection.disconnect()
        await wait_all_tasks_blocked()
        mock_clock.jump(SILENT_SECONDS)
        await wait_all_tasks_blocked()

        assert connection.closed


@pytest.mark.parametrize("abortive", [GRACEFUL, ABORTIVE])
async def test_who_has_ended_when_first_looked_for_takes_no_timer(
    abortive: bool,  # noqa: FBT001 - a parameter
) -> None:
    """A peer that answers good-bye at once, by FIN or by reset, is closed, and was given no time.

    One that does not answer is given the time that it has.
    """

    def say_good_bye(connection: Connection, _: bytes) -> None:
        connection.disconnect(data=b"answer")
        if abortive:
            reset(client)
        else:
            client.socket.shutdown(socket.SHUT_WR)
        await_event(descriptor_of(connection), select.POLLRDHUP)

    recorder = Recorder(say_good_bye, lambda connection, _: connection.disconnect())
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await client.send_all(b"question")
        await recorder.called(b"question", abortive)
        await until(lambda: connection.closed)

        assert 0 == timers()

        async with await connect(connection.listening.local_addresses[0]) as silent:
            await silent.send_all(b"question")
            await recorder.called(b"question", abortive, b"question")
            await until(timers)


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

        mock_clock.jump(SILENT_SECONDS)
        await wait_all_tasks_blocked()


async def test_connection_that_was_awaited_is_closed_when_both_have_finished() -> None:
    """Also one that has no event that tells of the peer's end."""
    dispatch = ConnectionDispatch(send_backlog=lambda *_: None)
    async with open_pair() as (connection, client):
        connection.enable_events(EventMask.SEND_BACKLOG, dispatch)
        await connection.send_eof()
        await client.send_eof()
        await until(lambda: connection.closed)


async def test_input_is_no_end_without_a_receive_callback() -> None:
    """What nobody can be told of waits for who may await it; the end comes when it comes."""
    ends: list[bool] = []
    dispatch = ConnectionDispatch(disconnect=lambda _, abortive: ends.append(abortive))
    async with open_event_pair(dispatch) as (connection, client):
        await client.send_all(b"one")
        await_event(descriptor_of(connection))
        await wait_all_tasks_blocked()

        assert [] == ends
        assert b"one" == await connection.receive_some()

        await client.send_eof()
        await until(lambda: ends)

    assert [GRACEFUL] == ends


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


# --- A drain ---------------------------------------------------------------------------


async def test_drain_callback_that_raises_resets() -> None:
    """What a drain callback raises is reported, and resets its connection: it can't finish."""

    def fail(connection: Connection) -> None:
        raise ValueError("on purpose")

    failures = Failures()
    async with draining(fail, observers=[failures]) as (connection, client):
        assert "reset" == await fate_of(client)
        assert connection.closed
        assert ["drain"] == [each.callback for each in failures.seen]


async def test_peer_that_goes_meanwhile_is_no_failure_of_the_drain_callback() -> None:
    """A drain callback that answers a peer who has gone has not failed: the reset is told."""
    failures = Failures()
    recorder = Recorder()

    def answer(connection: Connection) -> None:
        reset(clients[0])
        await_event(descriptor_of(connection), select.POLLERR)
        connection.send_nowait(b"bye")
        raise AssertionError("the peer has gone")  # pragma: no cover - it is there

    clients: list[trio.SocketStream] = []
    async with draining(answer, recorder.dispatch, clients=clients, observers=[failures]) as (
        connection,
        _,
    ):
        await recorder.called(ABORTIVE)

        assert connection.closed
        assert [] == failures.seen


async def test_drain_is_no_business_of_a_connection_without_events() -> None:
    """One that only has something to send is not told: it has nobody who would finish it."""
    told: list[Connection] = []
    async with draining(told.append, Status.SUCCESS, before=clog) as (connection, _):
        await wait_all_tasks_blocked()

        assert [] == told
        assert not connection.closed


@asynccontextmanager
async def draining(
    drain: Callable[[Connection], object],
    dispatch: ConnectionDispatch | Status | None = None,
    *,
    before: Callable[[Connection], Awaitable[object]] | None = None,
    clients: list[trio.SocketStream] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Connection, trio.SocketStream]]:
    """Have a server with one connection drain, for ever.

    Args:
      drain: The callback.
      dispatch: What the connection was taken with; by default a callback that receives.
      before: What is done to the connection before.
      clients: Where its client can be found by the callback.
      options: Of `open_server`.
    """
    taken: list[Connection] = []

    def accept(connection: Connection) -> ConnectionDispatch | Status:
        taken.append(connection)
        return ConnectionDispatch(receive=lambda *_: None) if dispatch is None else dispatch

    async with (
        open_server(
            ListenDispatch(accept=accept, drain=drain), 0, host="127.0.0.1", **options
        ) as server,
        await connect(server.local_addresses[0]) as client,
        trio.open_nursery() as nursery,
    ):
        await until(lambda: server.statistics().open_connections)
        if clients is not None:
            clients.append(client)
        if before is not None:
            await before(taken[0])
        nursery.start_soon(partial(server.drain, grace=math.inf))
        await server.listening.draining.wait()
        yield taken[0], client
        server.abort()
