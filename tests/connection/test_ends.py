"""How connections end: who is told, whoever ended it, and that each end comes."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
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
    FaultyTransport,
    connect,
    fate_of,
    open_descriptors,
    reset,
    until,
)
from trio_wsk import (
    Connection,
    ConnectionBrokenError,
    ConnectionDispatch,
    EndReason,
    EventMask,
    Irp,
    ListenDispatch,
    Server,
    SocketBusyError,
    SocketClosedError,
    Status,
    open_listening_socket,
    open_server,
)
from trio_wsk._connection import farewell as _farewell
from trio_wsk._connection.block import TAKING_SECONDS
from trio_wsk._connection.events import ABORTIVE, GRACEFUL
from trio_wsk._connection.farewell import HEARD_SECONDS, SILENT_SECONDS, TOTAL_SECONDS
from trio_wsk.transports._contract import NoDescriptorsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from trio.testing import MockClock

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


@pytest.fixture
def tells_two_of_room(readiness: str) -> None:
    """Trio's own waits tell one."""
    if readiness != "epoll":
        pytest.skip("without epoll, one task waits for a socket's room, and another one is told so")


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


# --- Cut short -------------------------------------------------------------------------


async def cut_short(connection: Connection) -> None:
    """Have a task's sending cancelled when a part has gone."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send_all, bytes(1 << 24))
            await wait_all_tasks_blocked()
            scope.cancel()


async def end_by(connection: Connection, end: str) -> None:
    """End a connection in one of the ways that are in good order if they can be."""
    if end == "close":
        connection.close()
    elif end == "aclose":
        await connection.aclose()
    elif end == "public socket":
        connection.socket.close()
    elif end == "disconnect":
        connection.disconnect()
    elif end == "send_eof":
        with pytest.raises(SocketClosedError, match="cut short"):
            await connection.send_eof()


ORDERLY = ["close", "aclose", "public socket"]


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


# --- Lingering after a handler ---------------------------------------------------------


async def refuse(connection: Connection) -> None:
    """Answer the first octet as an HTTP server answers what is too large, and return."""
    await connection.receive_some(1)
    await connection.send_all(b"413 too large")


async def upload(client: trio.SocketStream, size: int) -> bytes:
    """Send it all, and only then read the answer: to the end."""
    await client.send_all(bytes(size))
    return await receive_all(client)


async def test_peer_that_still_uploads_gets_its_answer() -> None:
    """
    A handler that answers and returns while its peer is still sending doesn't make that fail:
    it sends to its end, and reads the answer. Nothing of it needs to be there at the moment when
    the handler returns.
    """
    answers: list[bytes] = []

    async def visit() -> None:
        client = await connect(server.local_addresses[0])
        await client.send_all(b"x")
        await wait_all_tasks_blocked()  # the handler has returned
        answers.append(await upload(client, 1 << 24))
        await client.aclose()

    async with open_server(refuse, 0, host="127.0.0.1") as server:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(visit)
        await until(lambda: not server.statistics().lingering)

        assert [b"413 too large"] * 5 == answers


@pytest.mark.parametrize("end", ORDERLY)
async def test_peer_that_still_uploads_gets_its_answer_however_this_side_closes(end: str) -> None:
    """`close` is `aclose` for plain functions, and the socket's is no other."""

    async def handler(connection: Connection) -> None:
        await refuse(connection)
        await end_by(connection, end)

    async with open_server(handler, 0, host="127.0.0.1") as server:
        client = await connect(server.local_addresses[0])
        await client.send_all(b"x")
        await until(lambda: server.statistics().served)

        assert b"413 too large" == await upload(client, 1 << 24)

        await client.aclose()


async def test_lingering_holds_no_permit() -> None:
    """While a peer goes on sending, the next one is served."""
    async with open_server(refuse, 0, host="127.0.0.1", max_connections=1) as server:
        clients = [await connect(server.local_addresses[0]) for _ in range(3)]
        for count, client in enumerate(clients, 1):
            await client.send_all(b"x")
            await until(lambda count=count: server.statistics().served == count)  # type: ignore[misc]
        counted = server.statistics()

        assert (0, 3) == (counted.open_connections, counted.lingering)

        for client in clients:
            assert b"413 too large" == await upload(client, 100)
            await client.aclose()


@pytest.mark.parametrize("end", ["return", "aclose", "close", "public socket"])
async def test_connection_that_lingers_is_closed(end: str) -> None:
    """Lingering is the kernel's and the pump's: who had the connection has it no more."""
    taken: list[Connection] = []

    async def handler(connection: Connection) -> None:
        taken.append(connection)
        await connection.receive_some()
        if end == "aclose":
            await connection.aclose()
            assert connection.closed
        elif end == "close":
            connection.close()
            assert connection.closed
        elif end == "public socket":
            taken_socket.append(connection.socket)

    taken_socket: list[trio.socket.SocketType] = []
    async with open_server(handler, 0, host="127.0.0.1") as server:
        client = await connect(server.local_addresses[0])
        await client.send_all(b"x")
        await until(lambda: server.statistics().lingering)

        assert taken[0].closed
        assert all(each.fileno() < 0 for each in taken_socket)

        await client.send_all(bytes(100_000))

        assert b"" == await client.receive_some()

        await client.aclose()
        await until(lambda: not server.statistics().lingering)


async def test_task_that_receives_while_its_handler_closes_is_told(readiness: str) -> None:
    """Another task that waits on the connection learns that this side has closed it."""
    async with trio.open_nursery() as nursery:

        async def receive(connection: Connection) -> None:
            with pytest.raises(SocketClosedError):
                await connection.receive_some()

        async def handler(connection: Connection) -> None:
            nursery.start_soon(receive, connection)
            await wait_all_tasks_blocked()

        async with open_server(handler, 0, host="127.0.0.1") as server:
            client = await connect(server.local_addresses[0])
            await until(lambda: server.statistics().lingering)
            await client.aclose()


async def test_silent_peer_is_not_waited_for_after_a_handler(mock_clock: MockClock) -> None:
    """A peer that keeps its connection open holds a descriptor for `SILENT_SECONDS`."""
    async with open_server(refuse, 0, host="127.0.0.1") as server:
        client = await connect(server.local_addresses[0])
        await client.send_all(b"x")
        await wait_all_tasks_blocked()

        assert 1 == server.statistics().lingering

        mock_clock.jump(SILENT_SECONDS)
        await wait_all_tasks_blocked()

        assert 0 == server.statistics().lingering
        assert b"413 too large" == await receive_all(client)

        await client.aclose()


async def test_peer_that_sends_for_ever_has_its_time_after_a_handler(mock_clock: MockClock) -> None:
    """A peer that sends an octet every four seconds is left when `TOTAL_SECONDS` are over."""
    async with open_server(refuse, 0, host="127.0.0.1") as server:
        client = await connect(server.local_addresses[0])
        for _ in range(int(TOTAL_SECONDS / 4)):
            await client.send_all(b"x")
            await wait_all_tasks_blocked()

            assert 1 == server.statistics().lingering

            mock_clock.jump(4)
        await wait_all_tasks_blocked()
        mock_clock.jump(4)
        await wait_all_tasks_blocked()

        assert 0 == server.statistics().lingering

        await client.aclose()


async def test_no_more_linger_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond `PARTING_MOST`, the peer that has had the longest is closed."""
    monkeypatch.setattr(_farewell, "PARTING_MOST", 2)
    async with open_server(refuse, 0, host="127.0.0.1") as server:
        clients = [await connect(server.local_addresses[0]) for _ in range(4)]
        for count, client in enumerate(clients, 1):
            await client.send_all(b"x")
            await until(lambda count=count: server.statistics().served == count)  # type: ignore[misc]

        assert 2 == server.statistics().lingering

        for client in clients:
            await client.aclose()


async def test_who_lingers_gives_its_descriptor_to_a_new_peer() -> None:
    """Out of descriptors, a server lets go of who lingers before it has anybody wait."""
    transport = FaultyTransport.tcp(0, host="127.0.0.1")
    assert isinstance(transport, FaultyTransport)
    async with open_server(refuse, transport=transport) as server:
        first = await connect(server.local_addresses[0])
        await first.send_all(b"x")
        await until(lambda: server.statistics().lingering)
        transport.faults.append(NoDescriptorsError(OSError(errno.EMFILE, "too many open files")))
        second = await connect(server.local_addresses[0])
        await second.send_all(b"x")
        await until(lambda: server.statistics().served == 2)

        assert 1 == server.statistics().lingering
        assert 0 == server.statistics().listening.accept_backoffs

        for client in (first, second):
            assert b"413 too large" == await receive_all(client)

            await client.aclose()


async def test_drain_waits_for_who_still_sends() -> None:
    """A drain within its grace lets a peer that is still uploading read its answer."""
    async with open_server(refuse, 0, host="127.0.0.1") as server, trio.open_nursery() as nursery:
        client = await connect(server.local_addresses[0])
        await client.send_all(b"x")
        await wait_all_tasks_blocked()
        await client.send_all(b"more")
        await wait_all_tasks_blocked()
        nursery.start_soon(server.drain)
        await wait_all_tasks_blocked()

        assert b"413 too large" == await upload(client, 1 << 24)

        await client.aclose()


async def one_lingers(server: Server) -> None:
    """Wait until somebody lingers; for a clock that stands still."""
    while not server.statistics().lingering:
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def leaving(
    handler: Callable[[Connection], Awaitable[None]],
    first_words: bytes,
    pause: Callable[[], object],
) -> AsyncIterator[Server]:
    """Leave a server to a peer who says something, pauses till it waits, and goes on uploading.

    Args:
      handler: Answers as `refuse` does.
      first_words: What the peer sends before the server is left.
      pause: Called when all that happens by itself then has happened.
    """
    left = trio.Event()

    async def visit(server: Server) -> None:
        client = await connect(server.local_addresses[0])
        await client.send_all(first_words)
        said = await receive_exactly(client, 3)
        await left.wait()
        await wait_all_tasks_blocked()
        pause()
        await wait_all_tasks_blocked()

        assert b"413 too large" == said + await upload(client, 1 << 24)

        await client.aclose()

    async with (
        trio.open_nursery() as nursery,
        open_server(handler, 0, host="127.0.0.1") as server,
    ):
        nursery.start_soon(visit, server)
        yield server
        left.set()


@pytest.mark.usefixtures("mock_clock")
@pytest.mark.parametrize("returns", ["before the drain", "in the drain"])
async def test_server_is_not_left_before_who_has_parted_just_now_could_be_heard(
    returns: str,
) -> None:
    """
    A peer that is a round trip away looks silent to a drain that begins at the handler's end, or
    brings it about. So it is given the time to be heard, and its upload goes on to the answer.
    """
    answered = trio.Event()

    async def handler(connection: Connection) -> None:
        await refuse(connection)
        answered.set()
        if returns == "in the drain":
            await connection.draining.wait()

    async with leaving(handler, b"x", nothing) as server:
        await answered.wait()
        if returns == "before the drain":
            await one_lingers(server)


async def test_server_is_not_left_before_whose_octets_were_unread_is_silent(
    mock_clock: MockClock,
) -> None:
    """What a handler has left unread is the word of a peer that sends: it has `SILENT_SECONDS`."""
    almost_all = partial(mock_clock.jump, SILENT_SECONDS - 0.1)
    async with leaving(refuse, bytes(1000), almost_all) as server:
        await one_lingers(server)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_drain_waits_for_who_is_silent_while_he_could_be_heard(
    kind: str, mock_clock: MockClock, tmp_path: Path
) -> None:
    """
    A peer that has its answer and keeps its connection holds a drain up for `HEARD_SECONDS`, and
    for less where the kernel has measured the path; but not if its handler has ended that long
    ago. Then it sees FIN.
    """
    is_measured = kind == "tcp" and sys.platform == "linux"
    for seconds_before in (0, HEARD_SECONDS):
        async with (
            open_server(refuse, 0, host="127.0.0.1")
            if kind == "tcp"
            else open_server(refuse, path=tmp_path / str(seconds_before))
        ) as server:
            client = await connect(server.local_addresses[0])
            await client.send_all(b"x")
            await one_lingers(server)
            mock_clock.jump(seconds_before)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.drain)
                await wait_all_tasks_blocked()
                if not seconds_before:
                    with pytest.raises(SocketBusyError):
                        await server.drain()

                    mock_clock.jump(HEARD_SECONDS * (0.9 if is_measured else 1))
                    await wait_all_tasks_blocked()

                with pytest.raises(SocketClosedError):  # it is over
                    await server.drain()

            assert b"413 too large" == await receive_all(client)

            await client.aclose()


@pytest.mark.usefixtures("mock_clock")
@pytest.mark.parametrize("sends", [True, False])
@pytest.mark.parametrize("end", ["no grace", "abort", "abort in a drain"])
async def test_who_ends_a_server_at_once_waits_for_nobody_who_lingers(
    end: str,
    sends: bool,  # noqa: FBT001 - a parameter
) -> None:
    """``grace=0`` and `abort` give no time to peers that have parted, be they heard or not."""
    async with open_server(refuse, 0, host="127.0.0.1") as server, trio.open_nursery() as nursery:
        client = await connect(server.local_addresses[0])
        await client.send_all(bytes(1000) if sends else b"x")
        await one_lingers(server)
        if end == "abort in a drain":
            nursery.start_soon(server.drain)
            await wait_all_tasks_blocked()

            assert 1 == server.statistics().lingering

        if end == "no grace":
            await server.drain(grace=0)
        else:
            server.abort()

            assert 0 == server.statistics().lingering

    await client.aclose()


async def test_peers_that_linger_end_in_every_way_and_leave_nothing() -> None:
    """Finished, reset, or still there when the server ends: no descriptor is left."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        nursery.start_soon(connection.receive_some)  # opens what the run keeps
        await wait_all_tasks_blocked()
        await client.send_all(b"x")
    before = open_descriptors()
    async with open_server(refuse, 0, host="127.0.0.1") as server:
        clients = [await connect(server.local_addresses[0]) for _ in range(3)]
        for client in clients:
            await client.send_all(b"x")
        await until(lambda: server.statistics().lingering == len(clients))
        await clients[0].aclose()
        reset(clients[1])
        await until(lambda: server.statistics().lingering == 1)
    await clients[2].aclose()

    assert before == open_descriptors()


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
            for _ in range(8):
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


# --- Closing the public socket ---------------------------------------------------------


async def close_socket(connection: Connection) -> None:
    """Close the socket."""
    connection.socket.close()


async def close_stream(connection: Connection) -> None:
    """Close a stream of Trio's over the socket."""
    await trio.SocketStream(connection.socket).aclose()


async def leave_socket(connection: Connection) -> None:
    """Leave the socket's own block."""
    with connection.socket:
        pass


async def detach_socket(connection: Connection) -> None:
    """Take the descriptor away, and close it."""
    socket.close(connection.socket.detach())


CLOSINGS = [close_socket, close_stream, leave_socket, detach_socket]


@pytest.mark.parametrize("has_receive", [True, False])
@pytest.mark.parametrize("close_it", CLOSINGS)
async def test_closing_the_public_socket_closes_a_connection_with_events(
    close_it: Callable[[Connection], Awaitable[None]],
    has_receive: bool,  # noqa: FBT001 - a parameter
) -> None:
    """However its socket is closed, a connection is: it is told of, and its permit comes back."""
    ends: list[EndReason] = []
    taken: list[Connection] = []

    def accept(connection: Connection) -> ConnectionDispatch:
        taken.append(connection)
        return ConnectionDispatch(
            receive=nothing if has_receive else None,
            closed=lambda _, ended: ends.append(ended.reason),
        )

    async with open_server(
        ListenDispatch(accept=accept), 0, host="127.0.0.1", max_connections=1
    ) as server:
        for count in range(1, 4):
            client = await connect(server.local_addresses[0])
            await until(lambda count=count: len(taken) == count)  # type: ignore[misc]
            await wait_all_tasks_blocked()
            await close_it(taken[-1])

            assert taken[-1].closed
            assert "fin" == await fate_of(client)

            await wait_all_tasks_blocked()
            await client.aclose()

            assert [EndReason.CLOSED] * count == ends

        assert 3 == server.statistics().served


@pytest.mark.parametrize("callback", ["accept", "receive", "disconnect"])
async def test_public_socket_may_be_closed_in_any_callback(callback: str) -> None:
    """It ends the connection there as anywhere else."""
    ends: list[EndReason] = []

    def close_it(connection: Connection, *_: object) -> None:
        connection.socket.close()

    def accept(connection: Connection) -> ConnectionDispatch:
        if callback == "accept":
            close_it(connection)
        return ConnectionDispatch(
            receive=close_it if callback == "receive" else None,
            disconnect=close_it if callback == "disconnect" else None,
            closed=lambda _, ended: ends.append(ended.reason),
        )

    async with open_server(ListenDispatch(accept=accept), 0, host="127.0.0.1") as server:
        client = await connect(server.local_addresses[0])
        if callback == "receive":
            await client.send_all(b"x")
        elif callback == "disconnect":
            await client.send_eof()
        await until(lambda: ends)

        assert 1 == server.statistics().served

        await client.aclose()


@pytest.mark.parametrize("close_it", CLOSINGS)
async def test_task_that_waits_learns_that_the_public_socket_is_closed(
    close_it: Callable[[Connection], Awaitable[None]],
) -> None:
    """Whether it waits on the connection or on the socket, in its own words."""
    async with open_pair() as (connection, _), trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(SocketClosedError):
                await connection.receive_some()

        async def send(stream: trio.SocketStream) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(bytes(1 << 24))

        nursery.start_soon(receive)
        nursery.start_soon(send, trio.SocketStream(connection.socket))
        await wait_all_tasks_blocked()
        await close_it(connection)

    assert connection.closed


async def test_public_socket_is_closed_with_its_connection() -> None:
    """It is one descriptor, whoever closes it; closing again does nothing."""
    async with open_pair() as (connection, _):
        sock = connection.socket
        connection.close()

        assert -1 == sock.fileno()

        sock.close()


async def test_public_socket_does_what_trios_does() -> None:
    """All its methods and attributes are Trio's; also for whom asks for the class."""
    async with open_pair() as (connection, client):
        sock = connection.socket

        assert isinstance(sock, trio.socket.SocketType)
        assert repr(sock).startswith("<trio.socket.socket fd=")
        assert client.socket.getsockname() == sock.getpeername()
        assert (socket.AF_INET, socket.SOCK_STREAM) == (sock.family, sock.type)

        await sock.send(b"one")

        assert b"one" == await client.receive_some()

        await client.send_all(b"two")

        assert b"two" == await sock.recv(3)

        sock.shutdown(socket.SHUT_WR)

        assert sock.did_shutdown_SHUT_WR


# --- What is queued when the block ends ------------------------------------------------


@asynccontextmanager
async def outliving(
    use: Callable[[Connection], object],
) -> AsyncIterator[tuple[Connection, trio.SocketStream]]:
    """Have an awaited connection used in its block, which then ends."""
    async with open_listening_socket(0, host="127.0.0.1") as listening:
        client = await connect(listening.local_addresses[0])
        connection = await listening.accept()
        use(connection)
        await wait_all_tasks_blocked()
    try:
        yield connection, client
    finally:
        connection.close()
        client.socket.close()


async def test_what_is_queued_outlives_the_block() -> None:
    """
    An awaited connection with something queued is not reset when its block ends: the rest is
    sent, in order and before what a task sends after it; its Irp completes, and FIN follows.
    """
    size = 1 << 24
    irps: list[Irp[int]] = []
    sent: list[int] = []

    def use(connection: Connection) -> None:
        connection.send_nowait(bytes(size))
        irps.append(connection.queue_send(b"irp"))

    async with outliving(use) as (connection, client), trio.open_nursery() as nursery:

        async def go_on() -> None:
            await connection.send_all(b"task")
            sent.append((await irps[0].wait()).unwrap())
            await connection.aclose()

        nursery.start_soon(go_on)
        await wait_all_tasks_blocked()

        assert bytes(size) + b"irp" + b"task" == await receive_all(client)

    assert [3] == sent


async def test_what_is_queued_is_sent_though_its_owner_only_receives() -> None:
    """Nobody has to do anything for it."""
    async with outliving(lambda connection: connection.send_nowait(bytes(1 << 24))) as (
        connection,
        client,
    ):
        await receive_exactly(client, 1 << 24)
        await client.send_all(b"answer")

        assert b"answer" == await connection.receive_some()


async def test_a_queue_behind_a_task_is_sent_after_the_block() -> None:
    """A task that was sending when the block ended is followed by what was queued behind it."""
    async with trio.open_nursery() as nursery:
        async with open_listening_socket(0, host="127.0.0.1") as listening:
            client = await connect(listening.local_addresses[0])
            connection = await listening.accept()
            nursery.start_soon(connection.send_all, bytes(1 << 24))
            await wait_all_tasks_blocked()
            connection.send_nowait(b"behind")
            await wait_all_tasks_blocked()

        assert bytes(1 << 24) + b"behind" == await receive_exactly(client, (1 << 24) + 6)

    await connection.aclose()
    await client.aclose()


async def test_disconnect_before_the_block_ends_sends_all_and_fin() -> None:
    """What is queued, last data and FIN come, though the block has ended meanwhile."""

    def use(connection: Connection) -> None:
        connection.send_nowait(bytes(1 << 24))
        connection.disconnect(data=b"bye")

    async with outliving(use) as (_, client):
        assert bytes(1 << 24) + b"bye" == await receive_all(client)


async def test_peer_that_resets_or_does_not_read_holds_nothing_after_the_block(
    mock_clock: MockClock,
) -> None:
    """What is queued after the block is dropped with its peer; before FIN it has its time."""
    async with outliving(lambda connection: connection.send_nowait(bytes(1 << 24))) as (
        connection,
        client,
    ):
        await wait_all_tasks_blocked()
        reset(client)
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionBrokenError):
            await connection.send_all(b"x")

    def use(connection: Connection) -> None:
        connection.send_nowait(bytes(1 << 24))
        connection.disconnect()

    async with outliving(use) as (connection, client):
        for _ in range(3):
            await wait_all_tasks_blocked()
            mock_clock.jump(TAKING_SECONDS)
        await wait_all_tasks_blocked()

        assert connection.closed
        assert "reset" == await fate_of(client)


async def test_peer_that_takes_too_little_has_its_time_after_the_block(
    mock_clock: MockClock,
) -> None:
    """
    Before FIN, each `TAKING_SECONDS` have to take some, after the block as in it; FIN that is
    wanted later begins that time, and who takes enough has it again.
    """
    async with outliving(lambda connection: connection.send_nowait(bytes(1 << 26))) as (
        connection,
        client,
    ):
        await wait_all_tasks_blocked()
        mock_clock.jump(TAKING_SECONDS / 2)  # nothing is to end yet
        await wait_all_tasks_blocked()
        connection.disconnect()
        for _ in range(3):
            mock_clock.jump(TAKING_SECONDS - 1)
            await receive_exactly(client, 1 << 23)
            await wait_all_tasks_blocked()

            assert not connection.closed

        # A run that was stopped meanwhile looks before it resets.
        with plain(client) as peer, suppress(BlockingIOError):
            while peer.recv(1 << 20, socket.MSG_DONTWAIT):
                pass
        mock_clock.jump(2 * TAKING_SECONDS)
        await wait_all_tasks_blocked()

        assert not connection.closed

        for _ in range(3 * int(TAKING_SECONDS)):  # the kernel has made some room meanwhile
            if not connection.closed:
                await client.receive_some(1)
            mock_clock.jump(1)
            await wait_all_tasks_blocked()

        assert connection.closed
        assert "reset" == await fate_of(client)


async def test_tasks_that_give_up_leave_one_task_that_sends_after_the_block(
    company: None,
) -> None:
    """However many calls are cancelled that wait for the queue, it is sent, and what follows."""
    size = 1 << 24

    async with (
        outliving(lambda connection: connection.send_nowait(bytes(size))) as (connection, client),
        trio.open_nursery() as nursery,
    ):
        for call in (
            partial(connection.send_all, b"given up"),
            connection.wait_send_all_might_not_block,
            connection.send_eof,
        ):
            async with trio.open_nursery() as waiting:
                waiting.start_soon(call)
                await wait_all_tasks_blocked()
                waiting.cancel_scope.cancel()
            await wait_all_tasks_blocked()

        assert 1 == len(senders())

        nursery.start_soon(connection.send_all, b"x" * size)
        with trio.fail_after(PATIENCE):
            received = await receive_exactly(client, 2 * size)

        assert bytes(size) + b"x" * size == received

        await wait_all_tasks_blocked()

        assert [] == senders()


def senders() -> list[str]:
    """Return the tasks that send for connections without a block."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return [
        task.name
        for nursery in root.child_nurseries
        for task in nursery.child_tasks
        if "send queue" in task.name
    ]


async def test_who_waits_for_what_is_withdrawn_after_the_block_goes_on(company: None) -> None:
    """What is taken back is nothing to wait for, although the peer makes no room by reading."""
    irps: list[Irp[int]] = []

    def use(connection: Connection) -> None:
        with socket.fromfd(descriptor_of(connection), socket.AF_INET, socket.SOCK_STREAM) as full:
            for size in (1 << 16, 1):
                with suppress(BlockingIOError):
                    while True:
                        full.send(bytes(size), socket.MSG_DONTWAIT)
        irps.append(connection.queue_send(b"irp"))

    async with outliving(use) as (connection, client), trio.open_nursery() as nursery:
        nursery.start_soon(connection.send_eof)
        await wait_all_tasks_blocked()

        assert 1 == len(nursery.child_tasks)

        irps[0].cancel()
        await wait_all_tasks_blocked()

        assert set() == nursery.child_tasks
        assert set(b"\0") == set(await receive_all(client))


def test_queue_that_the_run_does_not_wait_for_is_reset() -> None:
    """A run that ends with something queued resets: its peer can't take the part for all of it."""
    kept: list[Connection] = []
    with socket.socket() as client:
        client.settimeout(PATIENCE)

        async def main() -> None:
            async with open_listening_socket(0, host="127.0.0.1") as listening:
                client.connect(listening.local_addresses[0].sockaddr)
                kept.append(await listening.accept())
                kept[0].send_nowait(bytes(1 << 24))

        trio.run(main)

        assert kept[0].closed
        with pytest.raises(ConnectionResetError):
            b"".join(iter(partial(client.recv, 1 << 20), b""))


@pytest.mark.usefixtures("tells_two_of_room")
async def test_somebody_who_waits_for_the_socket_does_not_keep_the_queue() -> None:
    """A task of the owner's may wait for the public socket; what is queued goes on after it."""
    async with trio.open_nursery() as nursery:

        def use(connection: Connection) -> None:
            connection.send_nowait(bytes(1 << 24))
            nursery.start_soon(connection.socket.wait_writable)

        async with outliving(use) as (_, client):
            await wait_all_tasks_blocked()
            await receive_exactly(client, 1 << 24)


@pytest.mark.usefixtures("tells_two_of_room")
async def test_somebody_who_waits_for_the_socket_gives_the_peer_no_time(
    mock_clock: MockClock,
) -> None:
    """A peer that does not read has its time before FIN, whoever waits for the public socket."""
    async with trio.open_nursery() as nursery:

        async def wait_until_closed(connection: Connection) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await trio.lowlevel.wait_writable(connection.socket)

        def use(connection: Connection) -> None:
            connection.send_nowait(bytes(1 << 24))
            connection.disconnect()
            nursery.start_soon(wait_until_closed, connection)

        async with outliving(use) as (connection, client):
            for _ in range(int(TAKING_SECONDS) + 1):
                mock_clock.jump(1)
                await wait_all_tasks_blocked()

            assert connection.closed
            assert "reset" == await fate_of(client)


async def test_completion_routine_that_is_due_makes_a_connection_the_blocks() -> None:
    """Nobody would be there to call it: the connection ends with its block, and it is called."""
    completed: list[Status] = []

    def use(connection: Connection) -> None:
        connection.queue_send(
            bytes(1 << 24), on_completion=lambda irp: completed.append(irp.status)
        )

    async with outliving(use) as (connection, client):
        assert [Status.CANCELLED] == completed
        assert connection.closed
        assert "reset" == await fate_of(client)
