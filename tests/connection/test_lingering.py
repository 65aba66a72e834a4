"""A connection lingers after its handler, so that a peer that still sends gets its answer."""

from __future__ import annotations

import errno
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.ending import ORDERLY, end_by, nothing
from tests.helpers.pairs import open_pair, receive_all, receive_exactly
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import FaultyTransport, connect, reset, until
from trio_wsk import Connection, Server, SocketBusyError, SocketClosedError, open_server
from trio_wsk._connection import farewell as _farewell
from trio_wsk._connection.farewell import HEARD_SECONDS, SILENT_SECONDS, TOTAL_SECONDS
from trio_wsk.transports._contract import NoDescriptorsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from trio.testing import MockClock

pytestmark = pytest.mark.usefixtures("readiness")


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


async def test_peer_that_sends_much_is_left(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whatever time it has left, a peer is left when it has sent more than `PARTING_OCTETS` since:
    throwing away is work, too.
    """
    assert mock_clock.rate == 0
    monkeypatch.setattr(_farewell, "PARTING_OCTETS", 1 << 16)
    async with open_server(refuse, 0, host="127.0.0.1") as server:
        client = await connect(server.local_addresses[0])
        await client.send_all(b"x")
        await wait_all_tasks_blocked()
        await client.send_all(bytes(1 << 16))
        await wait_all_tasks_blocked()

        assert 1 == server.statistics().lingering

        await client.send_all(b"x")
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
