"""Each end of a connection comes in a bounded time; and connections that are handed over."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.ending import nothing
from tests.helpers.pairs import open_event_pair, receive_all, receive_exactly
from tests.helpers.support import connect, fate_of, until
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    EndReason,
    EventMask,
    open_listening_socket,
    open_server,
)
from trio_wsk._connection.block import TAKING_OCTETS, TAKING_SECONDS
from trio_wsk._connection.farewell import SILENT_SECONDS, TOTAL_SECONDS

if TYPE_CHECKING:
    from trio.testing import MockClock

pytestmark = pytest.mark.usefixtures("readiness")


# --- Bounds ----------------------------------------------------------------------------


async def test_handler_that_leaves_something_unsent_to_a_peer_that_does_not_read(
    autojump_clock: MockClock,
) -> None:
    """What a handler has queued is waited for as long as the peer takes some, and no longer."""

    async def handler(connection: Connection) -> None:
        connection.send_nowait(bytes(1 << 24))

    async with open_server(handler, 0, host="127.0.0.1", max_connections=1) as server:
        began = trio.current_time()
        client = await connect(server.local_addresses[0])
        with trio.fail_after(3 * TAKING_SECONDS):
            while not server.statistics().served:  # noqa: ASYNC110 - nobody announces it
                await trio.sleep(1)

        assert TAKING_SECONDS <= trio.current_time() - began
        assert "reset" == await fate_of(client)

        await client.aclose()


@pytest.mark.parametrize("has_events", [True, False])
async def test_disconnect_from_a_peer_that_does_not_read_has_an_end(
    has_events: bool,  # noqa: FBT001 - a parameter
    mock_clock: MockClock,
) -> None:
    """What is queued before FIN is waited for as long as the peer takes some, and no longer."""
    async with (
        open_listening_socket(0, host="127.0.0.1") as listening,
        await connect(listening.local_addresses[0]) as client,
        await listening.accept() as connection,
    ):
        if has_events:
            connection.enable_events(EventMask.RECEIVE, ConnectionDispatch(receive=nothing))
        connection.send_nowait(bytes(1 << 26))
        connection.disconnect()
        await wait_all_tasks_blocked()
        await client.receive_some(1 << 20)
        for _ in range(3):  # a slow reader goes on
            mock_clock.jump(TAKING_SECONDS - 1)
            enough = connection.octets_sent + TAKING_OCTETS
            while connection.octets_sent < enough:  # the kernel asks for more now and then only
                await client.receive_some(1 << 20)
                await wait_all_tasks_blocked()
            mock_clock.jump(1)
            await wait_all_tasks_blocked()

            assert not connection.closed

        mock_clock.jump(TAKING_SECONDS)
        await wait_all_tasks_blocked()

        assert connection.closed
        assert "reset" == await fate_of(client)


@pytest.mark.parametrize("end", ["disconnect", "aclose"])
async def test_peer_that_takes_what_stands_before_the_queue_goes_on(
    end: str, mock_clock: MockClock
) -> None:
    """A task's ``send_all`` stands before what is queued: a peer that takes of it takes some."""
    before = 1 << 24
    async with (
        open_listening_socket(0, host="127.0.0.1") as listening,
        await connect(listening.local_addresses[0]) as client,
        await listening.accept() as connection,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(connection.send_all, bytes(before))
        await wait_all_tasks_blocked()
        connection.send_nowait(b"queued")
        if end == "disconnect":
            connection.disconnect()
        else:
            nursery.start_soon(connection.aclose)
        taken = 0
        for _ in range(3):  # neither of them has come to the queue by then
            share = before // 8
            await receive_exactly(client, share)
            taken += share
            await wait_all_tasks_blocked()
            mock_clock.jump(TAKING_SECONDS)
            await wait_all_tasks_blocked()

            assert not connection.closed

        rest = await receive_all(client)

    assert before + len(b"queued") == taken + len(rest)


async def test_peer_that_sends_for_ever_after_our_fin_has_its_time(mock_clock: MockClock) -> None:
    """An octet every four seconds holds a connection with events for `TOTAL_SECONDS`."""
    async with (
        open_listening_socket(0, host="127.0.0.1") as listening,
        await connect(listening.local_addresses[0]) as client,
        await listening.accept() as connection,
    ):
        connection.enable_events(EventMask.RECEIVE, ConnectionDispatch(receive=nothing))
        connection.disconnect()
        for _ in range(int(TOTAL_SECONDS / 4)):
            await client.send_all(b"x")
            await wait_all_tasks_blocked()
            mock_clock.jump(4)
            await wait_all_tasks_blocked()

            assert not connection.closed

        mock_clock.jump(4)
        await wait_all_tasks_blocked()

        assert connection.closed


async def half_close(connection: Connection, how: str) -> None:
    """Send FIN and go on receiving."""
    if how == "send_eof":
        await connection.send_eof()
    elif how == "public socket":
        connection.socket.shutdown(socket.SHUT_WR)
    else:
        await trio.SocketStream(connection.socket).send_eof()


HALF_CLOSES = ["send_eof", "public socket", "stream"]


@pytest.mark.parametrize("how", HALF_CLOSES)
async def test_silent_peer_is_not_waited_for_after_a_half_close(
    how: str, mock_clock: MockClock
) -> None:
    """
    Nobody but the block ends a connection that its accept event has taken. So after FIN its
    peer has as long as after `disconnect`, however FIN was sent.
    """
    ends: list[EndReason] = []
    dispatch = ConnectionDispatch(
        receive=nothing, closed=lambda _, ended: ends.append(ended.reason)
    )
    async with open_event_pair(dispatch) as (connection, _):
        await half_close(connection, how)
        await wait_all_tasks_blocked()
        mock_clock.jump(SILENT_SECONDS / 2)
        await wait_all_tasks_blocked()

        assert not connection.closed

        mock_clock.jump(SILENT_SECONDS / 2)
        await wait_all_tasks_blocked()

        assert [EndReason.TIMED_OUT] == ends


@pytest.mark.parametrize("how", HALF_CLOSES)
async def test_half_closed_connection_is_over_when_its_peer_finishes(how: str) -> None:
    """Both have finished: it is closed by itself, whoever was first."""
    for is_peer_first in (True, False):
        ends: list[EndReason] = []
        told: list[bool] = []
        dispatch = ConnectionDispatch(
            receive=nothing,
            disconnect=lambda _, how, told=told: told.append(how),  # type: ignore[misc]
            closed=lambda _, ended, ends=ends: ends.append(ended.reason),  # type: ignore[misc]
        )
        async with open_event_pair(dispatch) as (connection, client):
            if is_peer_first:
                await client.send_eof()
                await until(lambda told=told: told)  # type: ignore[misc]
            await half_close(connection, how)
            if not is_peer_first:
                await client.send_eof()
            await until(lambda ends=ends: ends)  # type: ignore[misc]

            assert [EndReason.FINISHED] == ends
            assert "fin" == await fate_of(client)


@pytest.mark.parametrize("ends", ["send_eof", "disconnect"])
async def test_task_that_receives_after_our_fin_hears_its_peer_to_its_end(
    ends: str, mock_clock: MockClock
) -> None:
    """What a task receives is a sign of the peer's, as is what is indicated."""
    async with (
        open_event_pair(ConnectionDispatch()) as (connection, client),
        trio.open_nursery() as nursery,
    ):
        received = bytearray()

        async def receive() -> None:
            while data := await connection.receive_some():
                received.extend(data)

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        if ends == "send_eof":
            await connection.send_eof()
        else:
            connection.disconnect()
        for count in range(1, 3):
            mock_clock.jump(SILENT_SECONDS - 1)
            await wait_all_tasks_blocked()
            await client.send_all(b"x")
            await wait_all_tasks_blocked()

            assert count == len(received)

        await client.send_eof()


async def test_half_closed_connection_that_was_awaited_is_its_owners(mock_clock: MockClock) -> None:
    """A task that has it may wait as long as it wants, and nothing of it is thrown away."""
    async with (
        open_listening_socket(0, host="127.0.0.1") as listening,
        await connect(listening.local_addresses[0]) as client,
        await listening.accept() as connection,
    ):
        connection.enable_events(EventMask.SEND_BACKLOG, ConnectionDispatch(send_backlog=nothing))
        await connection.send_eof()
        await client.send_all(b"answer")
        await wait_all_tasks_blocked()
        mock_clock.jump(2 * TOTAL_SECONDS)
        await wait_all_tasks_blocked()

        assert b"answer" == await connection.receive_some()


# --- Handing a connection over ---------------------------------------------------------


GREETER = "import sys; print('hello', sys.stdin.readline().strip())"


async def test_connection_is_handed_over_to_a_program() -> None:
    """
    A detached descriptor is a program's input and output, as inetd would have it: the handler
    returns, the server ends, and the connection goes on till the program ends it.
    """
    started: list[trio.Process] = []

    async def handler(connection: Connection) -> None:
        descriptor = connection.socket.detach()
        try:
            os.set_blocking(descriptor, True)
            started.append(
                await trio.lowlevel.open_process(
                    [sys.executable, "-c", GREETER], stdin=descriptor, stdout=descriptor
                )
            )
        finally:
            os.close(descriptor)

    async with open_server(handler, 0, host="127.0.0.1") as server:
        client = await connect(server.local_addresses[0])
        await until(lambda: server.statistics().served)

        assert 0 == server.statistics().lingering

    await client.send_all(b"Bob\n")

    assert b"hello Bob\n" == await receive_all(client)
    assert 0 == await started[0].wait()

    await client.aclose()
