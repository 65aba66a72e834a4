"""The peer leaves: its end is told although nobody receives, and a reset also after a FIN."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.blocking_peers import await_event
from tests.helpers.ending import nothing
from tests.helpers.pairs import descriptor_of, open_event_pair, open_pair, receive_all
from tests.helpers.support import connect, reset, until
from trio_wsk import (
    Connection,
    ConnectionBrokenError,
    ConnectionDispatch,
    EventMask,
    ListenDispatch,
    open_server,
)
from trio_wsk._connection.ending import ABORTIVE, GRACEFUL

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("readiness")


# --- Nobody receives -------------------------------------------------------------------


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


# Plain functions: of an async test that skips, pytest-trio loses the reason.
@pytest.fixture
def tells_end_behind_data(readiness: str) -> None:
    """Where there are no edges, nothing does."""
    if readiness != "epoll":
        pytest.skip("without edges, nothing tells of an end behind unread data")


@pytest.fixture
def tells_reset_after_fin(readiness: str, request: pytest.FixtureRequest) -> None:
    """Where there are no edges, nothing does, of a peer's that had finished."""
    if readiness != "epoll" and request.getfixturevalue("finished") == "peer":
        pytest.skip("without edges, nothing tells of a reset after FIN")


@pytest.mark.usefixtures("tells_end_behind_data")
@pytest.mark.parametrize("leave", [close, reset])
@pytest.mark.parametrize("dispatch", DEAF.values(), ids=DEAF)
async def test_end_behind_an_octet_is_heard_of_though_nobody_receives(
    dispatch: ConnectionDispatch, leave: Callable[[trio.SocketStream], None]
) -> None:
    """What the peer sent before it left hides its end from nobody, where there are edges."""
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


@pytest.mark.usefixtures("tells_end_behind_data")
async def test_fin_behind_unread_data_is_told_and_can_still_be_answered() -> None:
    """
    Without a receive callback FIN is told as soon as it comes. The answer arrives whole: what
    the peer sent is thrown away, so that closing doesn't reset.
    """
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


@pytest.mark.usefixtures("tells_reset_after_fin")
@pytest.mark.parametrize("has_receive", [True, False])
@pytest.mark.parametrize("finished", ["peer", "here", "here first"])
async def test_reset_is_told_after_a_fin(
    finished: str,
    has_receive: bool,  # noqa: FBT001 - a parameter
) -> None:
    """That one side has finished hides no reset: it is told, and the connection closes."""
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
