"""The closed callback and the record `ConnectionEnded`: once and last, and why."""

from __future__ import annotations

import contextvars
import errno
import gc
import select
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.blocking_peers import await_event
from tests.helpers.pairs import descriptor_of, open_event_pair, open_pair, receive_exactly
from tests.helpers.support import PATIENCE, connect, reset, until
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    EndReason,
    EventMask,
    InspectAction,
    Irp,
    ListenDispatch,
    Status,
    WskError,
    open_listening_socket,
    open_server,
)
from trio_wsk._connection.farewell import SILENT_SECONDS
from trio_wsk.observers import CallbackFailed, ConnectionEnded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

pytestmark = pytest.mark.usefixtures("readiness")

LARGE = bytes(1 << 24)
"""More than the kernel's buffers hold on both sides together."""


class Diary:
    """A dispatch that notes what it is called with, and an observer of what it needs."""

    records = frozenset({ConnectionEnded, CallbackFailed})

    def __init__(self, *, events: bool = True, **callbacks: Any) -> None:
        self.calls: list[str] = []
        """The callbacks, in order."""
        self.ends: list[ConnectionEnded] = []
        """What `closed` was called with."""
        self.told: list[object] = []
        """What an observer heard."""
        given = {"receive": self._receive, "disconnect": self._disconnect} if events else {}
        self.dispatch = ConnectionDispatch(**{**given, "closed": self._closed, **callbacks})

    def __call__(self, record: object) -> None:
        """Take note of a record."""
        self.told.append(record)

    def _receive(self, connection: Connection, data: bytes) -> None:
        self.calls.append("receive")

    def _disconnect(self, connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - WSK's
        self.calls.append(f"disconnect {abortive}")
        if not abortive:
            connection.disconnect()

    def _closed(self, connection: Connection, ended: ConnectionEnded) -> None:
        assert connection.closed
        with pytest.raises(WskError):
            connection.send_nowait(b"x")
        self.calls.append("closed")
        self.ends.append(ended)

    def ended(self) -> ConnectionEnded:
        """Return what `closed` was called with: once, and last of all."""
        assert 1 == self.calls.count("closed")
        assert "closed" == self.calls[-1]

        return self.ends[0]

    async def when_ended(self) -> ConnectionEnded:
        """Wait until it has been called, and everything else has."""
        await until(lambda: self.ends)
        await wait_all_tasks_blocked()
        return self.ended()


async def finish(_: Connection, client: trio.SocketStream) -> None:
    """The peer finishes."""
    await client.send_eof()


async def leave(_: Connection, client: trio.SocketStream) -> None:
    """The peer resets."""
    reset(client)


async def close(connection: Connection, _: trio.SocketStream) -> None:
    """This side closes."""
    connection.close()


async def abort(connection: Connection, _: trio.SocketStream) -> None:
    """This side resets."""
    connection.abort()


async def close_unsent(connection: Connection, _: trio.SocketStream) -> None:
    """This side closes with something unsent."""
    connection.send_nowait(LARGE)
    connection.close()


ENDS: list[tuple[EndReason, Callable[[Connection, trio.SocketStream], Awaitable[None]]]] = [
    (EndReason.FINISHED, finish),
    (EndReason.PEER_RESET, leave),
    (EndReason.CLOSED, close),
    (EndReason.ABORTED, abort),
    (EndReason.ABORTED, close_unsent),
]


@pytest.mark.parametrize("has_events", [True, False])
@pytest.mark.parametrize(("reason", "end"), ENDS)
async def test_closed_is_called_once_and_last_whoever_ended_it(
    reason: EndReason,
    end: Callable[[Connection, trio.SocketStream], Awaitable[None]],
    has_events: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Peer or we, with other callbacks or without: `closed` says that it is over, and how."""
    diary = Diary(events=has_events)
    async with open_event_pair(diary.dispatch) as (connection, client):
        await wait_all_tasks_blocked()
        await end(connection, client)
        ended = await diary.when_ended()

        assert reason is ended.reason
        if reason is EndReason.PEER_RESET:
            assert isinstance(ended.error, OSError)
            assert errno.ECONNRESET == ended.error.errno
        else:
            assert ended.error is None


@pytest.mark.parametrize("failing", ["receive", "disconnect", "send_backlog", "on_completion"])
async def test_callback_that_fails_is_why(failing: str) -> None:
    """A connection that is reset for what a callback raised says so, and has what it raised."""
    error = ValueError("on purpose")

    def fail(*_: object) -> None:
        raise error

    callbacks: dict[str, Any] = {} if failing == "on_completion" else {failing: fail}
    diary = Diary(**callbacks)
    async with open_event_pair(diary.dispatch) as (connection, client):
        if failing == "on_completion":
            connection.queue_send(b"x", on_completion=fail)
        elif failing == "send_backlog":
            connection.send_nowait(LARGE)
        elif failing == "receive":
            await client.send_all(b"x")
        else:
            await client.send_eof()
        ended = await diary.when_ended()

        assert (EndReason.FAILED, error) == (ended.reason, ended.error)


async def test_answer_that_means_nothing_is_why() -> None:
    """Nonsense is a failure, too; the error says what it was."""
    diary = Diary(receive=lambda *_: "nonsense")
    async with open_event_pair(diary.dispatch) as (_, client):
        await client.send_all(b"x")
        ended = await diary.when_ended()

        assert EndReason.FAILED is ended.reason
        assert isinstance(ended.error, TypeError)
        assert "nonsense" in str(ended.error)


async def test_peer_that_says_nothing_after_our_fin_is_out_of_time(mock_clock: MockClock) -> None:
    """Waiting for its FIN has an end, which is no doing of either side."""
    diary = Diary()
    async with open_event_pair(diary.dispatch) as (connection, _):
        connection.disconnect()
        await wait_all_tasks_blocked()
        mock_clock.jump(SILENT_SECONDS)
        await wait_all_tasks_blocked()

        assert EndReason.TIMED_OUT is diary.ended().reason


async def test_block_that_ends_is_why() -> None:
    """Closed is called though its block ends, and has been when that has been left."""
    diary = Diary()
    async with open_event_pair(diary.dispatch):
        await wait_all_tasks_blocked()

    assert EndReason.BLOCK_ENDED is diary.ended().reason


async def test_block_that_is_cancelled_is_why() -> None:
    """The pump may have been cancelled: closed is called all the same."""
    diary = Diary()
    with trio.CancelScope() as scope:
        async with open_event_pair(diary.dispatch):
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.lowlevel.checkpoint()

    assert EndReason.BLOCK_ENDED is diary.ended().reason


@pytest.mark.parametrize("how", ["drain", "abort"])
async def test_server_that_ends_is_why(how: str) -> None:
    """What a drain's end or an abort resets says so."""
    diary = Diary()
    async with open_server(
        ListenDispatch(accept=lambda _: diary.dispatch), 0, host="127.0.0.1"
    ) as server:
        client = await connect(server.local_addresses[0])
        await client.send_all(b"x")
        await until(lambda: diary.calls)
        if how == "drain":
            await server.drain(grace=0)
        else:
            server.abort()
        ended = await diary.when_ended()
    client.socket.close()

    assert EndReason.SERVER_ENDED is ended.reason


async def test_record_says_what_was_transferred_and_when(mock_clock: MockClock) -> None:
    """Octets in both directions, the times of both ends, who, and what it was inspected by."""
    ids = []
    diary = Diary(receive=lambda connection, data: connection.disconnect(data=data + data))

    def accept(connection: Connection) -> ConnectionDispatch:
        ids.append(connection.inspect_id)
        return diary.dispatch

    async with open_event_pair(accept, inspect=lambda _: InspectAction.ACCEPT) as (
        connection,
        client,
    ):
        await wait_all_tasks_blocked()
        opened = trio.current_time()
        mock_clock.jump(3)
        await client.send_all(b"ten octets")
        await receive_exactly(client, 20)
        await client.send_eof()
        await wait_all_tasks_blocked()
        ended = diary.ended()

        assert ended == ConnectionEnded(
            at=opened + 3,
            remote_address=connection.remote_address,
            inspect_id=ids[0],
            opened_at=opened,
            octets_received=10,
            octets_sent=20,
            reason=EndReason.FINISHED,
            error=None,
        )


async def test_refused_octets_are_counted_once() -> None:
    """What comes again came from the kernel once."""
    diary = Diary(receive=lambda *_: Status.DATA_NOT_ACCEPTED)
    async with open_event_pair(diary.dispatch) as (connection, client):
        await client.send_all(b"0123456789")
        await wait_all_tasks_blocked()

        assert b"012" == await connection.receive_some(3)

        await wait_all_tasks_blocked()
        buffer = bytearray(4)
        await connection.receive_into(buffer)
        connection.close()

        assert 10 == (await diary.when_ended()).octets_received


async def test_completion_routines_come_before_closed() -> None:
    """What was queued completes before: closed is the last call of all, in the same context."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    calls: list[object] = []

    def completed(irp: Irp[int]) -> None:
        calls.append(irp.status)
        variable.set("the connection's")

    def closed(connection: Connection, ended: ConnectionEnded) -> None:
        calls.append(variable.get("another"))

    async with open_event_pair(ConnectionDispatch(closed=closed)) as (connection, _):
        for _ in range(2):
            connection.queue_send(LARGE, on_completion=completed)
        connection.abort()
        await wait_all_tasks_blocked()

        assert [Status.CANCELLED, Status.CANCELLED, "the connection's"] == calls


async def test_connection_that_its_accept_callback_closes_is_closed_for_its_dispatch() -> None:
    """The dispatch that the accept callback returns is told, though it comes too late."""
    diary = Diary()

    def accept(connection: Connection) -> ConnectionDispatch:
        connection.close()
        return diary.dispatch

    async with open_event_pair(accept):
        ended = await diary.when_ended()

        assert EndReason.CLOSED is ended.reason


async def test_connection_that_its_accept_callback_closes_needs_no_closed_callback() -> None:
    """A dispatch without one is returned too late as well, and that is no failure."""
    diary = Diary()

    def accept(connection: Connection) -> ConnectionDispatch:
        connection.close()
        return ConnectionDispatch()

    async with open_event_pair(accept, observers=[diary]):
        await wait_all_tasks_blocked()

        assert [] == [each for each in diary.told if isinstance(each, CallbackFailed)]


async def test_closed_that_raises_is_reported_and_that_is_all() -> None:
    """There is nothing left to be reset for it."""

    def fail(*_: object) -> None:
        raise ValueError("on purpose")

    diary = Diary(closed=fail)
    async with open_event_pair(diary.dispatch, observers=[diary]) as (connection, client):
        await client.send_eof()
        await until(lambda: diary.told)

        assert connection.closed
        failed = diary.told[0]
        assert isinstance(failed, CallbackFailed)
        assert "closed" == failed.callback


async def test_observer_of_a_server_and_closed_get_the_same() -> None:
    """There is one record of a connection's end, for whoever wants it."""
    diary = Diary()
    async with open_server(
        ListenDispatch(accept=lambda _: diary.dispatch), 0, host="127.0.0.1", observers=[diary]
    ) as server:
        client = await connect(server.local_addresses[0])
        await client.aclose()
        ended = await diary.when_ended()

        assert [ended] == diary.told


async def test_awaited_connection_is_closed_with_a_call_if_it_has_events() -> None:
    """Enabling an event makes it the block's, whoever has awaited it: closed is called."""
    diary = Diary()
    async with open_pair() as (connection, _):
        connection.enable_events(EventMask.RECEIVE, diary.dispatch)
        await connection.aclose()

        assert EndReason.CLOSED is (await diary.when_ended()).reason


async def test_awaited_connection_without_events_is_closed_without_a_call() -> None:
    """With all events disabled again it is its owner's alone, who knows that he closes it."""
    diary = Diary()
    async with open_pair() as (connection, _):
        connection.enable_events(EventMask.RECEIVE, diary.dispatch)
        await connection.disable_event(EventMask.RECEIVE)
        await connection.aclose()
        await wait_all_tasks_blocked()

        assert [] == diary.calls


HANDLERS = [
    (EndReason.FINISHED, "finish"),
    (EndReason.CLOSED, "return"),
    (EndReason.FAILED, "raise"),
    (EndReason.PEER_RESET, "peer resets"),
    (EndReason.SERVER_ENDED, "abort"),
]


@pytest.mark.parametrize(("reason", "how"), HANDLERS)
async def test_observers_hear_how_a_handlers_connection_ended(reason: EndReason, how: str) -> None:
    """The record is the same for connections that have a handler."""
    diary = Diary()
    error = ValueError("on purpose")

    async def handle(connection: Connection) -> None:
        await connection.receive_some()
        if how == "raise":
            raise error
        if how != "return":
            await connection.receive_some()

    async with open_server(handle, 0, host="127.0.0.1", observers=[diary]) as server:
        client = await connect(server.local_addresses[0])
        await client.send_all(b"x")
        await wait_all_tasks_blocked()
        if how == "finish":
            await client.send_eof()
        elif how == "peer resets":
            reset(client)
        elif how == "abort":
            server.abort()
        with trio.fail_after(PATIENCE):
            await until(lambda: diary.told)
        client.socket.close()

    ended = diary.told[0]
    assert isinstance(ended, ConnectionEnded)
    assert reason is ended.reason
    assert 1 == ended.octets_received
    if how == "raise":
        assert error is ended.error


@pytest.mark.parametrize("end", ["return", "aclose", "close", "public socket"])
@pytest.mark.parametrize("reason", [EndReason.FINISHED, EndReason.PEER_RESET])
async def test_peers_end_is_why_though_its_handler_has_not_looked(
    reason: EndReason, end: str
) -> None:
    """A peer that had ended before this side closed is why, and a reset is so with its error."""
    diary = Diary()
    taken: list[Connection] = []
    has_ended = trio.Event()

    async def handle(connection: Connection) -> None:
        await connection.receive_some()
        taken.append(connection)
        await has_ended.wait()
        if end == "aclose":
            await connection.aclose()
        elif end == "close":
            connection.close()
        elif end == "public socket":
            connection.socket.close()

    async with open_server(handle, 0, host="127.0.0.1", observers=[diary]) as server:
        client = await connect(server.local_addresses[0])
        await client.send_all(b"x")
        await until(lambda: taken)
        descriptor = descriptor_of(taken[0])
        if reason is EndReason.FINISHED:
            await client.send_eof()
        else:
            reset(client)
        await_event(descriptor, select.POLLRDHUP)
        has_ended.set()
        await until(lambda: diary.told)
        client.socket.close()

    ended = diary.told[0]
    assert isinstance(ended, ConnectionEnded)
    assert reason is ended.reason
    error = ended.error
    if reason is EndReason.PEER_RESET:
        assert isinstance(error, OSError)
        assert errno.ECONNRESET == error.errno
    else:
        assert error is None


async def test_ended_connection_keeps_its_callbacks_alive_for_nobody() -> None:
    """
    An object with callbacks that holds its connection is gone when both are, and does not wait
    for the collector of cycles: whether its completion routine was called late, or `closed` was.
    """

    class Session:
        def __init__(self, connection: Connection) -> None:
            self.connection = connection

        def closed(self, connection: Connection, ended: ConnectionEnded) -> None:
            pass

        def receive(self, connection: Connection, data: bytes) -> None:
            if data == b"close":
                connection.queue_send(LARGE, on_completion=self.completed)
                connection.close()

        def completed(self, irp: Irp[int]) -> None:
            pass

    sessions: list[weakref.ref[Session]] = []

    def accept(connection: Connection) -> ConnectionDispatch:
        session = Session(connection)
        sessions.append(weakref.ref(session))
        has_closed = len(sessions) % 2
        return ConnectionDispatch(
            receive=session.receive, closed=session.closed if has_closed else None
        )

    async with open_listening_socket(
        0, host="127.0.0.1", dispatch=ListenDispatch(accept=accept)
    ) as listening:
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
        gc.disable()
        try:
            for last in (b"close", b"close", b"", b""):
                client = await connect(listening.local_addresses[0])
                await client.send_all(last or b"x")
                await wait_all_tasks_blocked()
                await client.aclose()
            await until(lambda: not any(each() for each in sessions))
        finally:
            gc.enable()
