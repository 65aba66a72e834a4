"""How connections end: who is told, whoever ended it, and that each end comes."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.pairs import await_event, descriptor_of, open_event_pair, open_pair, receive_all
from tests.support import connect, fate_of, reset, until
from trio_wsk import (
    Connection,
    ConnectionBrokenError,
    ConnectionDispatch,
    EventMask,
    ListenDispatch,
    open_server,
)
from trio_wsk._events import ABORTIVE, GRACEFUL

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("readiness")


# --- Nobody receives -------------------------------------------------------------------


def nothing(*_: object) -> None:
    """Take note of nothing."""


DEAF = {
    "nothing": ConnectionDispatch(),
    "send_backlog": ConnectionDispatch(send_backlog=nothing),
    "disconnect": ConnectionDispatch(disconnect=lambda connection, _: connection.disconnect()),
}
"""Dispatches whose connections receive nothing."""


def close(client: trio.SocketStream) -> None:
    """Leave with FIN; or with a reset, if something is unread."""
    client.socket.close()


@pytest.mark.parametrize("leave", [close, reset])
@pytest.mark.parametrize("dispatch", DEAF.values(), ids=DEAF)
async def test_peer_that_leaves_gives_its_permit_back_though_nobody_receives(
    dispatch: ConnectionDispatch, leave: Callable[[trio.SocketStream], None]
) -> None:
    """
    A connection whose dispatch receives nothing hears of its peer's end, however that leaves,
    and closes; so the next peer gets its permit.
    """
    async with open_server(
        ListenDispatch(accept=lambda _: dispatch), 0, host="127.0.0.1", max_connections=1
    ) as server:
        for count in range(1, 4):
            client = await connect(server.local_addresses[0])
            await until(lambda: server.statistics().open_connections)
            await wait_all_tasks_blocked()
            leave(client)
            await until(lambda count=count: server.statistics().served == count)  # type: ignore[misc]


@pytest.mark.parametrize("leave", [close, reset])
@pytest.mark.parametrize("dispatch", DEAF.values(), ids=DEAF)
async def test_end_behind_an_octet_is_heard_of_though_nobody_receives(
    dispatch: ConnectionDispatch, leave: Callable[[trio.SocketStream], None], readiness: str
) -> None:
    """What the peer sent before it left hides its end from nobody, where there are edges."""
    if readiness != "epoll":
        pytest.skip("without edges, nothing tells of an end behind unread data")
    async with open_server(
        ListenDispatch(accept=lambda _: dispatch), 0, host="127.0.0.1", max_connections=1
    ) as server:
        for count in range(1, 4):
            client = await connect(server.local_addresses[0])
            await client.send_all(b"x")
            await until(lambda: server.statistics().open_connections)
            await wait_all_tasks_blocked()
            leave(client)
            await until(lambda count=count: server.statistics().served == count)  # type: ignore[misc]


async def test_fin_behind_unread_data_is_told_and_can_still_be_answered(readiness: str) -> None:
    """
    Without a receive callback FIN is told as soon as it comes. The answer arrives whole: what
    the peer sent is thrown away, so that closing doesn't reset.
    """
    if readiness != "epoll":
        pytest.skip("without edges, nothing tells of an end behind unread data")
    ends: list[bool] = []

    def disconnect(connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - WSK's
        ends.append(abortive)
        connection.disconnect(data=b"answer")

    async with open_event_pair(ConnectionDispatch(disconnect=disconnect)) as (connection, client):
        await client.send_all(bytes(100_000))
        await client.send_eof()

        assert b"answer" == await receive_all(client)

        await until(lambda: connection.closed)

        assert [GRACEFUL] == ends


async def test_awaited_connection_with_the_backlog_event_alone_is_its_owners_to_finish() -> None:
    """That its peer has finished doesn't finish a connection that a task still answers."""
    async with open_pair() as (connection, client):
        connection.enable_events(EventMask.SEND_BACKLOG, ConnectionDispatch(send_backlog=nothing))
        await client.send_all(b"question")
        await client.send_eof()
        await_event(descriptor_of(connection), select.POLLRDHUP)
        await wait_all_tasks_blocked()

        assert b"question" == await connection.receive_some()
        assert b"" == await connection.receive_some()

        await connection.send_all(b"answer")
        await connection.aclose()

        assert b"answer" == await receive_all(client)


# --- A reset after FIN -----------------------------------------------------------------


@pytest.mark.parametrize("has_receive", [True, False])
@pytest.mark.parametrize("finished", ["peer", "here", "here first"])
async def test_reset_is_told_after_a_fin(
    finished: str,
    has_receive: bool,  # noqa: FBT001 - a parameter
    readiness: str,
) -> None:
    """That one side has finished hides no reset: it is told, and the connection closes."""
    if readiness != "epoll" and finished == "peer":
        pytest.skip("without edges, nothing tells of a reset after FIN")
    ends: list[bool] = []
    dispatch = ConnectionDispatch(
        receive=nothing if has_receive else None,
        disconnect=lambda _, abortive: ends.append(abortive),
    )
    async with open_event_pair(dispatch) as (connection, client):
        if finished == "peer":
            await client.send_eof()
            await until(lambda: ends)
            expected = [GRACEFUL, ABORTIVE]
        else:
            if finished == "here":
                await wait_all_tasks_blocked()
            connection.disconnect()
            if finished == "here":
                await wait_all_tasks_blocked()
            expected = [ABORTIVE]
        reset(client)
        await until(lambda: connection.closed)

        assert expected == ends


async def test_reset_after_fin_is_told_while_an_answer_waits_for_room(readiness: str) -> None:
    """A peer that has finished and resets while we answer is told of, in the same way."""
    ends: list[bool] = []
    dispatch = ConnectionDispatch(receive=nothing, disconnect=lambda _, how: ends.append(how))
    async with open_event_pair(dispatch) as (connection, client):
        await client.send_eof()
        await until(lambda: ends)
        connection.send_nowait(bytes(1 << 24))
        connection.disconnect()
        await wait_all_tasks_blocked()
        reset(client)
        await until(lambda: connection.closed)

        assert [GRACEFUL, ABORTIVE] == ends
        with pytest.raises(ConnectionBrokenError):
            connection.send_nowait(b"x")


# --- Cut short -------------------------------------------------------------------------


async def cut_short(connection: Connection) -> None:
    """Have a task's sending cancelled when a part has gone."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send_all, bytes(1 << 24))
            await wait_all_tasks_blocked()
            scope.cancel()


@pytest.mark.parametrize("end", ["close", "aclose"])
async def test_closing_after_a_send_that_was_cut_short_resets(end: str) -> None:
    """A part of the answer can't be taken for all of it: it is followed by a reset, not by FIN."""
    async with open_pair() as (connection, client):
        await cut_short(connection)
        if end == "close":
            connection.close()
        else:
            await connection.aclose()

        assert "reset" == await fate_of(client)


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
