"""A connection with events that has finished, and whose peer has not: `send_eof_nowait`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.pairs import open_event_pair, receive_all
from tests.helpers.recorder import LARGE, Recorder
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    EndReason,
    EventMask,
    ListenDispatch,
    SocketClosedError,
    open_listening_socket,
)
from trio_wsk._connection.block import TAKING_SECONDS
from trio_wsk._connection.ending import GRACEFUL
from trio_wsk._connection.farewell import SILENT_SECONDS, TOTAL_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from trio_wsk.observers import ConnectionEnded
    from trio_wsk.testing import MemoryHost, MemoryStream

LONG = 10 * (SILENT_SECONDS + TOTAL_SECONDS + TAKING_SECONDS)
"""Seconds after which any bound would have ended it."""


@pytest.mark.usefixtures("readiness")
async def test_fin_follows_what_is_queued_and_receiving_goes_on() -> None:
    """The peer gets all that was sent, then FIN, and what it sends after that is indicated."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        connection.send_nowait(LARGE)
        connection.send_eof_nowait()

        assert LARGE == await receive_all(client)

        await client.send_all(b"an answer")
        await recorder.called(b"an answer")

        assert not connection.closed


@pytest.mark.usefixtures("readiness")
async def test_it_is_closed_when_the_peer_has_finished_too() -> None:
    """When both have finished nothing is left, and nobody has to close it."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        connection.send_eof_nowait()
        await client.send_eof()
        await recorder.called(GRACEFUL)

        assert connection.closed


@pytest.mark.usefixtures("readiness")
async def test_it_is_closed_if_the_peer_has_finished_before() -> None:
    """After the peer's end it is the end of the connection, in good order."""
    recorder = Recorder()
    async with open_event_pair(recorder.dispatch) as (connection, client):
        await client.send_eof()
        await recorder.called(GRACEFUL)
        connection.send_nowait(b"an answer")
        connection.send_eof_nowait()

        assert b"an answer" == await receive_all(client)

        await wait_all_tasks_blocked()

        assert connection.closed


@pytest.mark.usefixtures("readiness")
async def test_nothing_is_sent_after_it() -> None:
    """It says that there is no more, also if what was queued is still on its way; twice is once."""
    async with open_event_pair(Recorder().dispatch) as (connection, _client):
        connection.send_nowait(LARGE)
        for _ in range(2):
            connection.send_eof_nowait()
            with pytest.raises(SocketClosedError):
                connection.send_nowait(b"more")
        connection.abort()
        with pytest.raises(SocketClosedError):
            connection.send_eof_nowait()


# --- In time ---------------------------------------------------------------------------


class Slow:
    """A connection in memory, with events, and its peer."""

    def __init__(self) -> None:
        self.received = b""
        self.ended: ConnectionEnded | None = None
        self.dispatch = ConnectionDispatch(
            receive=self._receive, disconnect=lambda *_: None, closed=self._closed
        )
        self.connection: Connection
        self.peer: MemoryStream

    def _receive(self, _: Connection, data: bytes) -> None:
        self.received += data

    def _closed(self, _: Connection, ended: ConnectionEnded) -> None:
        self.ended = ended

    def accept(self, connection: Connection) -> ConnectionDispatch:
        """Keep it."""
        self.connection = connection
        return self.dispatch


@asynccontextmanager
async def slow_pair(server: MemoryHost, client: MemoryHost) -> AsyncIterator[Slow]:
    """Open a connection in memory."""
    slow = Slow()
    async with open_listening_socket(
        transport=server.transport(80), dispatch=ListenDispatch(accept=slow.accept)
    ) as listening:
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE | EventMask.DISCONNECT)
        async with await client.connect(("192.0.2.1", 80)) as slow.peer:
            await wait_all_tasks_blocked()
            yield slow


async def test_peer_has_all_its_time(
    memory_server: MemoryHost, memory_client: MemoryHost, autojump_clock: MockClock
) -> None:
    """A peer that computes for long before it answers, and between two parts of it, is heard."""
    async with slow_pair(memory_server, memory_client) as slow:
        slow.connection.send_eof_nowait()
        for _ in range(2):
            await trio.sleep(LONG)
            await slow.peer.send_all(b"part")
        await slow.peer.aclose()
        await trio.sleep(1)

        assert b"partpart" == slow.received
        assert slow.ended is not None
        assert EndReason.FINISHED is slow.ended.reason


async def test_peer_may_take_its_time_before_fin(
    memory_server: MemoryHost, memory_client: MemoryHost, autojump_clock: MockClock
) -> None:
    """What is queued before FIN waits for as long as the peer doesn't take it."""
    async with slow_pair(memory_server, memory_client) as slow:
        slow.connection.send_nowait(LARGE)
        slow.connection.send_eof_nowait()
        await trio.sleep(LONG)

        assert LARGE == b"".join([data async for data in slow.peer])


@pytest.mark.parametrize("queued", [b"", LARGE], ids=["FIN sent", "FIN queued"])
async def test_disconnect_after_it_bounds_the_end(
    queued: bytes,
    memory_server: MemoryHost,
    memory_client: MemoryHost,
    autojump_clock: MockClock,
) -> None:
    """Who doesn't want to wait any longer says so: then the peer is bounded as ever."""
    async with slow_pair(memory_server, memory_client) as slow:
        slow.connection.send_nowait(queued)
        slow.connection.send_eof_nowait()
        await trio.sleep(LONG)

        assert slow.ended is None

        slow.connection.disconnect()
        await trio.sleep(TAKING_SECONDS + 1)

        assert slow.ended is not None
        assert EndReason.TIMED_OUT is slow.ended.reason
