"""A send that was cut short is no end in good order: what follows it is a reset."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.ending import ORDERLY, end_by, nothing
from tests.helpers.pairs import open_event_pair, open_pair
from tests.helpers.support import connect, fate_of, until
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    EndReason,
    SocketClosedError,
    open_listening_socket,
    open_server,
)

pytestmark = pytest.mark.usefixtures("readiness")


async def cut_short(connection: Connection) -> None:
    """Have a task's sending cancelled when a part has gone."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send_all, bytes(1 << 24))
            await wait_all_tasks_blocked()
            scope.cancel()


@pytest.mark.parametrize("end", [*ORDERLY, "disconnect", "send_eof"])
async def test_ending_after_a_send_that_was_cut_short_resets(end: str) -> None:
    """A part of the answer can't be taken for all of it: it is followed by a reset, not by FIN."""
    async with open_pair() as (connection, client):
        await cut_short(connection)
        await end_by(connection, end)

        assert connection.closed
        assert "reset" == await fate_of(client)


@pytest.mark.parametrize("end", ["disconnect", "send_eof"])
async def test_connection_with_events_resets_after_a_cut(end: str) -> None:
    """It is reset and told to be over, though its peer has finished and only our FIN is missing."""
    ends: list[EndReason] = []
    dispatch = ConnectionDispatch(
        disconnect=nothing, closed=lambda _, ended: ends.append(ended.reason)
    )
    async with open_event_pair(dispatch) as (connection, client):
        await cut_short(connection)
        await client.send_eof()
        await end_by(connection, end)

        assert "reset" == await fate_of(client)

        await until(lambda: ends)

        assert [EndReason.ABORTED] == ends


@pytest.mark.parametrize("has_block", [True, False])
async def test_fin_that_waits_for_a_task_is_a_reset_if_that_is_cut_short(
    has_block: bool,  # noqa: FBT001 - a parameter
) -> None:
    """FIN that was wanted while a task was sending doesn't follow a part of what that had."""
    scope = trio.CancelScope()

    async def send(connection: Connection) -> None:
        with scope:
            await connection.send_all(bytes(1 << 24))

    async with trio.open_nursery() as nursery:
        async with open_listening_socket(0, host="127.0.0.1") as listening:
            client = await connect(listening.local_addresses[0])
            connection = await listening.accept()
            nursery.start_soon(send, connection)
            await wait_all_tasks_blocked()
            connection.disconnect()
            if has_block:
                scope.cancel()
                await wait_all_tasks_blocked()
        scope.cancel()

    assert connection.closed
    assert "reset" == await fate_of(client)

    await client.aclose()


async def send_to_its_end(connection: Connection, data: bytes) -> None:
    """Send until this side has closed."""
    with pytest.raises(SocketClosedError):
        await connection.send_all(data)


@pytest.mark.parametrize("end", ORDERLY)
async def test_closing_while_a_task_is_sending_resets(end: str) -> None:
    """What a task has sent of its data is not all of it, if this side closes meanwhile."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        nursery.start_soon(send_to_its_end, connection, bytes(1 << 24))
        await wait_all_tasks_blocked()
        await end_by(connection, end)

        assert "reset" == await fate_of(client)


@pytest.mark.parametrize("end", ["return", *ORDERLY])
async def test_handler_that_ends_while_a_task_is_sending_resets(end: str) -> None:
    """A connection that would linger is reset as well, whichever task is sending."""
    async with trio.open_nursery() as nursery:

        async def handler(connection: Connection) -> None:
            nursery.start_soon(send_to_its_end, connection, bytes(1 << 24))
            await wait_all_tasks_blocked()
            await end_by(connection, end)

        async with open_server(handler, 0, host="127.0.0.1") as server:
            client = await connect(server.local_addresses[0])
            await until(lambda: server.statistics().served)

            assert "reset" == await fate_of(client)

            await client.aclose()


async def test_closing_while_a_task_waits_with_all_of_its_data_is_in_good_order() -> None:
    """A task that has sent nothing yet leaves whole what went before it."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        while connection._send_now(bytes(1 << 20)):  # noqa: SLF001 - and queue nothing
            pass
        nursery.start_soon(send_to_its_end, connection, b"x")
        await wait_all_tasks_blocked()
        connection.close()

        assert "fin" == await fate_of(client)


async def test_handler_that_was_cut_short_in_its_answer_resets() -> None:
    """A scope around a handler's sending ends in a reset when the handler returns."""
    is_cut = trio.Event()

    async def answer(connection: Connection) -> None:
        await cut_short(connection)
        is_cut.set()

    async with open_server(answer, 0, host="127.0.0.1") as server:
        client = await connect(server.local_addresses[0])
        await is_cut.wait()

        assert "reset" == await fate_of(client)

        await client.aclose()


async def test_what_is_sent_after_a_cut_ends_in_good_order() -> None:
    """Who goes on after a cut knows what it does: its FIN is one."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        await cut_short(connection)

        async def go_on() -> None:
            await connection.send_all(b"x")
            await connection.aclose()

        nursery.start_soon(go_on)

        assert "fin" == await fate_of(client)


async def test_send_of_which_nothing_went_is_not_cut_short() -> None:
    """A send that was cancelled before any of it had gone leaves whole what went before it."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        while connection._send_now(bytes(1 << 20)):  # noqa: SLF001 - and queue nothing
            pass
        await cut_short(connection)
        nursery.start_soon(connection.aclose)

        assert "fin" == await fate_of(client)
