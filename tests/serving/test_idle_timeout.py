"""`idle_timeout`: where nothing passes a connection is ended, and its handler may answer."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers.pairs import receive_all, receive_exactly
from tests.helpers.serving import (
    HOST,
    Silent,
    Told,
    client_of,
    echo,
    server_context,
    tls_over,
)
from tests.helpers.support import PATIENCE, fate_of, until
from trio_wsk import (
    ConnectionBrokenError,
    ConnectionDispatch,
    EndReason,
    ListenDispatch,
    More,
    Reader,
    Status,
    open_server,
)
from trio_wsk._connection.farewell import SILENT_SECONDS
from trio_wsk._connection.idleness import TOLERANCE
from trio_wsk._engine.wheel import GRAIN, MOST_PER_TURN
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from trio_wsk import Connection, Server
    from trio_wsk.testing import MemoryStream

    Handler = Callable[[Any], Awaitable[object]] | ListenDispatch

pytestmark = pytest.mark.usefixtures("readiness")

MINUTE = 60
AFTER_THE_FIRST_LOOK = 1 + GRAIN
"""How much later than it should a connection may end of which the system can't tell."""


class Scene:
    """A server in memory that ends what is idle for a minute, and its clients."""

    def __init__(self, server: Server, told: Told, network: MemoryNetwork) -> None:
        self.server = server
        self.told = told
        self._network = network
        self._hosts = 1

    async def connect(self) -> MemoryStream:
        """Connect a client from a host of its own."""
        self._hosts += 1
        return await self._network.host(f"192.0.2.{self._hosts}").connect(("192.0.2.1", 80))

    @property
    def ends(self) -> list[EndReason]:
        """How connections have ended so far."""
        return [record.reason for record in self.told.of("ConnectionEnded")]


@asynccontextmanager
async def memory_server(handler: Handler, **options: Any) -> AsyncIterator[Scene]:
    """Serve in memory, and don't wait for anybody at the end."""
    network, told = MemoryNetwork(), Told()
    async with open_server(
        handler,
        transport=network.host("192.0.2.1").transport(80),
        **{"idle_timeout": MINUTE, "grace": 0, "observers": [told, Silent()], **options},
    ) as server:
        yield Scene(server, told, network)


async def serve_until_end(connection: Connection) -> None:
    """Echo, and say good-bye when there is nothing more."""
    while data := await connection.receive_some():
        await connection.send_all(data)
    await connection.send_all(b"bye")


# --- Handlers ----------------------------------------------------------------------------------


async def test_handler_that_waits_hears_of_an_end_and_may_answer(
    autojump_clock: MockClock,
) -> None:
    """When nothing has passed for so long, `receive_some` returns b"", and sending goes on."""
    async with memory_server(serve_until_end) as scene:
        client = await scene.connect()
        began = trio.current_time()

        assert b"bye" == await receive_all(client)

        assert MINUTE <= trio.current_time() - began <= MINUTE + GRAIN
        await client.aclose()
        await wait_all_tasks_blocked()
        assert [EndReason.IDLE] == scene.ends
        counted = scene.server.statistics()
        assert (1, 1, 0, 0) == (
            counted.served,
            counted.ended_idle,
            counted.peers_left,
            counted.handler_failures,
        )


async def test_buffer_is_not_filled_any_more(autojump_clock: MockClock) -> None:
    """`receive_into` returns 0."""
    counts: list[int] = []

    async def handle(connection: Connection) -> None:
        counts.append(await connection.receive_into(bytearray(10)))

    async with memory_server(handle) as scene:
        client = await scene.connect()

        assert b"" == await client.receive_some()
        assert [0] == counts
        await client.aclose()


async def test_octets_put_it_off_either_way(autojump_clock: MockClock) -> None:
    """What the peer sends begins a new time, and so does what it takes."""

    async def handle(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak, connection)
            assert b"x" == await connection.receive_some()
            assert b"" == await connection.receive_some()

    async def speak(connection: Connection) -> None:
        await trio.sleep(100)
        await connection.send_all(b"y")

    async with memory_server(handle) as scene:
        client = await scene.connect()
        await trio.sleep(50)
        await client.send_all(b"x")

        assert b"y" == await receive_all(client)
        assert 160 <= trio.current_time() <= 160 + GRAIN
        await client.aclose()


async def test_what_has_come_is_received_before_the_end(autojump_clock: MockClock) -> None:
    """Octets that nobody has received by then are not lost."""

    async def handle(connection: Connection) -> None:
        await trio.sleep(90)
        assert b"12345" == await connection.receive_some()
        assert b"" == await connection.receive_some()
        assert b"" == await connection.receive_some()
        await connection.send_all(b"bye")

    async with memory_server(handle) as scene:
        client = await scene.connect()
        await client.send_all(b"12345")

        assert b"bye" == await receive_all(client)
        await client.aclose()
        await wait_all_tasks_blocked()
        assert 0 == scene.server.statistics().handler_failures


async def test_handler_that_computes_for_long_may_answer(autojump_clock: MockClock) -> None:
    """An answer that takes longer than the time is sent; there is no next request then."""

    async def handle(connection: Connection) -> None:
        while request := await connection.receive_some():
            await trio.sleep(MINUTE * 1.5)
            await connection.send_all(request)

    async with memory_server(handle) as scene:
        client = await scene.connect()
        await client.send_all(b"request")

        assert b"request" == await receive_all(client)
        assert MINUTE * 1.5 == trio.current_time()
        await client.aclose()
        await wait_all_tasks_blocked()
        assert [EndReason.IDLE] == scene.ends


async def test_handler_that_goes_on_for_as_long_again_is_reset(autojump_clock: MockClock) -> None:
    """A connection that is still there after another such time is reset, and found broken."""
    raised: list[ConnectionBrokenError] = []

    async def handle(connection: Connection) -> None:
        await trio.sleep(MINUTE * 3)
        try:
            await connection.send_all(b"too late")
        except ConnectionBrokenError as error:
            raised.append(error)
            raise

    async with memory_server(handle) as scene:
        client = await scene.connect()

        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()

        assert 2 * MINUTE <= trio.current_time() <= 2 * (MINUTE + GRAIN)
        assert [EndReason.IDLE] == scene.ends
        await trio.sleep(MINUTE + 1)
        assert 1 == len(raised)
        assert 0 == scene.server.statistics().peers_left
        await client.aclose()


async def test_peer_that_takes_nothing_is_reset(autojump_clock: MockClock) -> None:
    """Where a send waits for a peer that takes nothing, the connection is reset at once."""

    async def handle(connection: Connection) -> None:
        await connection.send_all(bytes(1 << 20))

    async with memory_server(handle) as scene:
        client = await scene.connect()
        began = trio.current_time()
        await until_ended(scene)

        assert MINUTE <= trio.current_time() - began <= MINUTE + 2 * GRAIN
        assert [EndReason.IDLE] == scene.ends
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(client)
        counted = scene.server.statistics()
        assert (1, 0, 0) == (counted.ended_idle, counted.peers_left, counted.handler_failures)
        await client.aclose()


async def until_ended(scene: Scene) -> None:
    """Wait for the end of the first connection."""
    while not scene.ends:  # noqa: ASYNC110 - nobody announces it
        await trio.sleep(GRAIN)


async def test_peer_that_takes_a_little_is_not_idle(autojump_clock: MockClock) -> None:
    """As long as the peer takes some from time to time, the send goes on."""
    size = 1 << 18

    async def handle(connection: Connection) -> None:
        await connection.send_all(bytes(size))

    async with memory_server(handle) as scene:
        client = await scene.connect()
        received = 0
        while data := await client.receive_some(1 << 15):
            received += len(data)
            await trio.sleep(50)

        assert size == received
        assert trio.current_time() > 5 * MINUTE
        assert [EndReason.CLOSED] == scene.ends
        await client.aclose()


async def test_what_is_sent_again_is_no_news(autojump_clock: MockClock) -> None:
    """A peer that can't be reached is idle, however often something is sent to it again."""
    network = MemoryNetwork()
    told = Told()
    async with open_server(
        serve_until_end,
        transport=network.host("192.0.2.1").transport(80),
        idle_timeout=MINUTE,
        observers=[told],
        grace=0,
    ) as server:
        host = network.host("192.0.2.2")
        await host.connect(("192.0.2.1", 80))
        await wait_all_tasks_blocked()
        [connection] = server.connections
        began = trio.current_time()
        host.unplug()
        await connection.send_all(b"nobody hears that")
        while server.connections:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(GRAIN)

        assert MINUTE <= trio.current_time() - began <= MINUTE + 2 * GRAIN
        assert [EndReason.IDLE] == [each.reason for each in told.of("ConnectionEnded")]


# --- The next request --------------------------------------------------------------------------


async def test_more_says_that_it_is_idle(autojump_clock: MockClock) -> None:
    """`more` returns `More.IDLE`, also when it is asked again, and gives what is there before."""
    answers: list[More] = []

    async def handle(connection: Connection) -> None:
        answers.append(await connection.more())
        await connection.receive_some()
        answers.extend([await connection.more(), await connection.more()])
        answers.append(await connection.more(idle=5))

    async with memory_server(handle) as scene:
        client = await scene.connect()
        await client.send_all(b"x")

        assert b"" == await client.receive_some()
        assert [More.THERE, More.IDLE, More.IDLE, More.IDLE] == answers
        await client.aclose()


async def test_request_that_came_is_there_before_more_ends(autojump_clock: MockClock) -> None:
    """A request that waits when the time is over is handled; only then is there no more."""
    answers: list[More] = []

    async def handle(connection: Connection) -> None:
        await trio.sleep(90)
        answers.append(await connection.more())
        assert b"request" == await connection.receive_some()
        answers.append(await connection.more())

    async with memory_server(handle) as scene:
        client = await scene.connect()
        await client.send_all(b"request")

        assert b"" == await client.receive_some()
        assert [More.THERE, More.IDLE] == answers
        await client.aclose()


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "TLS"])
async def test_lines_end(over_tls: bool, autojump_clock: MockClock) -> None:  # noqa: FBT001 - a case
    """A loop over lines ends, says that it was idle, and the client sees a good end."""
    readers: list[Reader] = []

    async def handle(stream: trio.abc.HalfCloseableStream) -> None:
        readers.append(Reader(stream))
        async for line in readers[0].lines():
            await stream.send_all(line)
        await stream.send_all(b"bye")

    options = {"ssl_context": server_context()} if over_tls else {}
    async with memory_server(handle, **options) as scene:
        client = await scene.connect()
        stream: trio.abc.Stream = tls_over(client) if over_tls else client  # type: ignore[arg-type]
        await stream.send_all(b"line\n")

        assert b"linebye" == await receive_all(stream)
        assert MINUTE <= trio.current_time() <= MINUTE + GRAIN
        assert More.IDLE is readers[0].ended
        await client.aclose()


# --- TLS ---------------------------------------------------------------------------------------


async def echo_into(connection: Connection) -> None:
    """Send everything back, by way of a buffer."""
    buffer = bytearray(100)
    while count := await connection.receive_into(buffer):
        await connection.send_all(memoryview(buffer)[:count])


@pytest.mark.parametrize("speak", [echo, echo_into], ids=["some", "into"])
async def test_handler_over_tls_hears_of_an_end(
    speak: Callable[[Connection], Awaitable[None]], autojump_clock: MockClock
) -> None:
    """
    Over TLS the handler hears of an end as without: it may still answer, and the client sees
    close_notify.
    """

    async def handle(connection: Connection) -> None:
        await speak(connection)
        await connection.send_all(b"bye")

    async with memory_server(handle, ssl_context=server_context()) as scene:
        client = await scene.connect()
        stream = tls_over(client)  # type: ignore[arg-type]
        await stream.send_all(b"hello")

        assert b"hellobye" == await receive_all(stream)  # b"" at the end is close_notify
        assert MINUTE <= trio.current_time() <= MINUTE + GRAIN
        await client.aclose()
        await wait_all_tasks_blocked()
        assert [EndReason.IDLE] == scene.ends
        counted = scene.server.statistics()
        assert (1, 0, 0) == (counted.ended_idle, counted.peers_left, counted.handler_failures)


async def test_tls_of_a_handlers_own_ends_without_a_good_bye(autojump_clock: MockClock) -> None:
    """
    Over TLS that a handler has put on by itself the end of file is one; what it then raises is no
    crash, and nobody's fault, and the peer sees FIN.
    """

    async def handle(connection: Connection) -> None:
        stream = trio.SSLStream(connection, server_context(), server_side=True)
        while data := await stream.receive_some():
            await stream.send_all(data)

    async with memory_server(handle) as scene:
        client = await scene.connect()
        stream = tls_over(client)  # type: ignore[arg-type]
        await stream.send_all(b"hello")
        assert b"hello" == await receive_exactly(stream, 5)

        assert b"" == await client.receive_some()
        await client.aclose()
        await wait_all_tasks_blocked()
        assert [EndReason.IDLE] == scene.ends
        counted = scene.server.statistics()
        assert (1, 0, 0) == (counted.ended_idle, counted.peers_left, counted.handler_failures)


async def test_handshake_has_its_own_deadline(autojump_clock: MockClock) -> None:
    """Idle time is counted from the end of the handshake."""
    async with memory_server(
        echo, ssl_context=server_context(), handshake_timeout=90, idle_timeout=10
    ) as scene:
        client = await scene.connect()
        await trio.sleep(80)
        stream = tls_over(client)  # type: ignore[arg-type]
        await stream.do_handshake()
        assert 1 == len(scene.server.connections)

        assert b"" == await receive_all(stream)
        assert 90 <= trio.current_time() <= 90 + GRAIN
        assert {} == scene.server.statistics().handshake_failures
        await client.aclose()


# --- Events ------------------------------------------------------------------------------------


class Closed:
    """Callbacks that keep how their connection was closed."""

    def __init__(self, first: bytes = b"") -> None:
        self.how: list[EndReason] = []
        self._first = first

    @property
    def server(self) -> ListenDispatch:
        """What a server is given."""
        return ListenDispatch(accept=self._accept)

    def _accept(self, connection: Connection) -> ConnectionDispatch:
        if self._first:
            connection.send_nowait(self._first)
        return ConnectionDispatch(
            receive=lambda connection, data: Status.SUCCESS,
            closed=lambda connection, ended: self.how.append(ended.reason),
        )


async def test_connection_with_events_is_ended_as_by_disconnect(autojump_clock: MockClock) -> None:
    """The peer sees FIN, and when it has finished, too, `closed` says that it was idle."""
    closed = Closed()
    async with memory_server(closed.server) as scene:
        client = await scene.connect()

        assert b"" == await client.receive_some()
        assert MINUTE <= trio.current_time() <= MINUTE + GRAIN
        assert [] == closed.how

        await client.send_eof()
        await wait_all_tasks_blocked()
        assert [EndReason.IDLE] == closed.how == scene.ends
        assert 1 == scene.server.statistics().ended_idle
        await client.aclose()


async def test_peer_that_does_not_finish_in_answer_is_reset(autojump_clock: MockClock) -> None:
    """Its peer has the time that any has after `disconnect`."""
    closed = Closed()
    async with memory_server(closed.server) as scene:
        client = await scene.connect()
        assert b"" == await client.receive_some()
        await trio.sleep(SILENT_SECONDS + 1)

        assert [EndReason.IDLE] == closed.how
        await client.aclose()


async def test_peer_that_does_not_take_the_queue_is_reset(autojump_clock: MockClock) -> None:
    """What stands in the send queue and doesn't move makes the end a reset."""
    closed = Closed(bytes(1 << 20))
    async with memory_server(closed.server) as scene:
        client = await scene.connect()
        await until_ended(scene)

        assert MINUTE <= trio.current_time() <= MINUTE + 2 * GRAIN
        assert [EndReason.IDLE] == scene.ends
        await wait_all_tasks_blocked()
        assert [EndReason.IDLE] == closed.how
        await client.aclose()


async def test_half_closed_connection_is_bounded_as_well(autojump_clock: MockClock) -> None:
    """One that callbacks have half-closed, which nothing else bounds, is ended when it is idle."""

    def accept(connection: Connection) -> ConnectionDispatch:
        connection.send_eof_nowait()
        return ConnectionDispatch()

    async with memory_server(ListenDispatch(accept=accept)) as scene:
        client = await scene.connect()
        assert b"" == await client.receive_some()
        await until_ended(scene)

        assert MINUTE < trio.current_time() < MINUTE + SILENT_SECONDS + 1
        assert [EndReason.IDLE] == scene.ends
        await client.aclose()


async def test_connection_with_events_says_good_bye_over_tls(autojump_clock: MockClock) -> None:
    """Over TLS the peer sees close_notify, a minute after the handshake, which had its own time."""
    closed = Closed()
    async with memory_server(
        closed.server, ssl_context=server_context(), handshake_timeout=90
    ) as scene:
        client = await scene.connect()
        await trio.sleep(80)
        stream = tls_over(client)  # type: ignore[arg-type]
        await stream.do_handshake()

        assert b"" == await stream.receive_some()
        assert 80 + MINUTE <= trio.current_time() <= 80 + MINUTE + GRAIN
        await stream.aclose()
        await wait_all_tasks_blocked()
        assert [EndReason.IDLE] == closed.how == scene.ends
        assert 1 == scene.server.statistics().ended_idle


async def test_peer_that_does_not_take_the_queue_over_tls_is_reset(
    autojump_clock: MockClock,
) -> None:
    """What doesn't move makes the end a reset, over TLS as well."""
    closed = Closed(bytes(1 << 20))
    async with memory_server(closed.server, ssl_context=server_context()) as scene:
        client = await scene.connect()
        stream = tls_over(client)  # type: ignore[arg-type]
        await stream.do_handshake()
        await until_ended(scene)

        assert MINUTE <= trio.current_time() <= MINUTE + 2 * GRAIN
        assert [EndReason.IDLE] == scene.ends
        await client.aclose()


# --- Sockets of the system ---------------------------------------------------------------------


def options_of(kind: str, tmp_path: Path) -> dict[str, Any]:
    """Say where to listen."""
    if kind == "tcp":
        return {"port": 0, "host": HOST}
    return {"path": tmp_path / "s"}


SOCKETS = pytest.mark.parametrize("kind", ["tcp", "unix"])


@SOCKETS
async def test_idle_connection_of_the_system_is_ended(kind: str, tmp_path: Path) -> None:
    """On real sockets and a real clock, too; not before its time, and in good order."""
    told = Told()
    with trio.fail_after(PATIENCE):
        async with open_server(
            serve_until_end,
            **options_of(kind, tmp_path),
            idle_timeout=0.3,
            observers=[told],
            grace=0,
        ) as server:
            client = client_of(server)
            await client.send_all(b"x")
            assert b"x" == await client.receive_some()
            began = trio.current_time()

            assert b"bye" == await receive_all(client)
            assert trio.current_time() - began > 0.25
            client.socket.close()
            await until(lambda: told.of("ConnectionEnded"))
            assert [EndReason.IDLE] == [each.reason for each in told.of("ConnectionEnded")]


@SOCKETS
async def test_peer_of_the_system_that_takes_nothing_is_reset(kind: str, tmp_path: Path) -> None:
    """What the kernel holds for the peer is no traffic."""

    async def handle(connection: Connection) -> None:
        await connection.send_all(bytes(1 << 26))

    with trio.fail_after(PATIENCE):
        async with open_server(
            handle, **options_of(kind, tmp_path), idle_timeout=0.3, grace=0
        ) as server:
            client = client_of(server)
            await until(lambda: server.statistics().ended_idle)
            if kind == "tcp":
                assert "reset" == await fate_of(client)
            client.socket.close()


@SOCKETS
async def test_active_connection_of_the_system_goes_on(
    kind: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """
    A peer that says something from time to time is not ended, and is when it has stopped: under a
    clock of tests, too, of which the kernel knows nothing.
    """
    autojump_clock.autojump_threshold = 0.01
    async with open_server(
        serve_until_end, **options_of(kind, tmp_path), idle_timeout=MINUTE, grace=0
    ) as server:
        client = client_of(server)
        for _ in range(3):
            await client.send_all(b"x")
            assert b"x" == await client.receive_some()
            await trio.sleep(40)
        last = trio.current_time() - 40

        assert b"bye" == await receive_all(client)
        late = trio.current_time() - last - MINUTE
        # A clock that jumps may have left the octets behind: the kernel says that it was just now.
        assert late >= 0 if kind == "tcp" else 0 <= late <= AFTER_THE_FIRST_LOOK
        client.socket.close()


async def test_user_of_the_public_socket_hears_of_an_end() -> None:
    """A library that waits on the connection's socket sees an end of file."""

    async def handle(connection: Connection) -> None:
        stream = trio.SocketStream(connection.socket)
        assert b"x" == await stream.receive_some()
        assert b"" == await stream.receive_some()
        await stream.send_all(b"bye")

    with trio.fail_after(PATIENCE):
        async with open_server(handle, 0, host=HOST, idle_timeout=0.3, grace=0) as server:
            client = client_of(server)
            await client.send_all(b"x")

            assert b"bye" == await receive_all(client)
            assert 0 == server.statistics().handler_failures
            client.socket.close()


async def test_unix_connection_whose_socket_is_public_is_left_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What goes through the public socket is not counted, so nobody could tell that it is idle."""
    autojump_clock.autojump_threshold = 0.01

    async def handle(connection: Connection) -> None:
        await echo(trio.SocketStream(connection.socket))

    async with open_server(handle, path=tmp_path / "s", idle_timeout=10, grace=0) as server:
        client = client_of(server)
        await trio.sleep(30)
        await client.send_all(b"x")

        assert b"x" == await receive_exactly(client, 1)
        client.socket.close()


# --- The timer ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(gaps=st.lists(st.floats(0, 59), max_size=8), by_peer=st.lists(st.booleans(), min_size=8))
@example(gaps=[1.0, 0.015625], by_peer=[False] * 8)  # which is nearer than a tick
def test_end_comes_when_it_is_due(gaps: list[float], by_peer: list[bool]) -> None:
    """Whatever has passed and when: it is ended a minute after the last octet, give or take."""

    async def walk() -> None:
        async with memory_server(serve_in_silence) as scene:
            client = await scene.connect()
            await wait_all_tasks_blocked()
            [connection] = scene.server.connections
            for gap, is_peers in zip(gaps, by_peer, strict=False):
                await trio.sleep(gap)
                await (client if is_peers else connection).send_all(b"x")
                last = trio.current_time()
            last = trio.current_time()
            await receive_all(client)

            assert last + MINUTE <= trio.current_time() + TOLERANCE
            assert trio.current_time() <= last + MINUTE + GRAIN
            await client.aclose()

    trio.run(walk, clock=MockClock(autojump_threshold=0))


async def serve_in_silence(connection: Connection) -> None:
    """Take what comes."""
    while await connection.receive_some():
        pass


class Wakings(trio.abc.Instrument):
    """Counts how often any task runs."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count one."""
        self.count += 1


@pytest.mark.heavy
async def test_ten_thousand_idle_connections_cost_nothing_meanwhile(
    autojump_clock: MockClock,
) -> None:
    """Between their first look and their deadline nobody is woken, however many there are."""
    async with memory_server(Closed().server, idle_timeout=3600) as scene:
        clients = [await scene_client(scene) for _ in range(10_000)]
        await trio.sleep(10)
        wakings = Wakings()
        trio.lowlevel.add_instrument(wakings)
        await trio.sleep(3500)
        trio.lowlevel.remove_instrument(wakings)

        assert wakings.count <= 2
        assert 10_000 == len(scene.server.connections)
        await trio.sleep(100)
        assert 10_000 == scene.server.statistics().ended_idle
        assert len(clients) == 10_000


async def scene_client(scene: Scene) -> MemoryStream:
    """Connect one of many clients, all from one host."""
    return await scene._network.host("192.0.2.2").connect(("192.0.2.1", 80))  # noqa: SLF001


async def test_nothing_is_kept_of_connections_that_have_ended(autojump_clock: MockClock) -> None:
    """A connection that ends before its time is forgotten at once."""
    async with memory_server(echo) as scene:
        for _ in range(3):
            client = await scene.connect()
            await client.aclose()
        await wait_all_tasks_blocked()
        idle = scene.server._core.connections._idle  # noqa: SLF001 - what is held is nowhere in public

        assert idle is not None
        assert 3 == scene.server.statistics().served
        assert 0 == len(idle._seen) == len(idle._wheel)  # noqa: SLF001


@SOCKETS
async def test_connection_that_is_closed_already_is_not_idle(
    kind: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Where the handler goes on after it has closed its connection, nobody is idle."""
    autojump_clock.autojump_threshold = 0.01
    told = Told()

    async def handle(connection: Connection) -> None:
        await trio.sleep(3)
        await connection.aclose()
        await trio.sleep(20)

    async with open_server(
        handle, **options_of(kind, tmp_path), idle_timeout=5, observers=[told], grace=0
    ) as server:
        client = client_of(server)
        await trio.sleep(30)

        assert (1, 0) == (server.statistics().served, server.statistics().ended_idle)
        [ended] = told.of("ConnectionEnded")
        assert EndReason.CLOSED is ended.reason
        client.socket.close()


async def test_many_that_are_counted_end_in_portions(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """More than are done in one turn end in several, one right after the other."""
    autojump_clock.autojump_threshold = 0.01
    async with open_server(
        serve_in_silence, path=tmp_path / "s", idle_timeout=5, backlog=600, grace=0
    ) as server:
        count = 2 * MOST_PER_TURN + 1
        clients = [client_of(server) for _ in range(count)]
        await trio.sleep(5 + AFTER_THE_FIRST_LOOK + 1)

        assert count == server.statistics().ended_idle
        for client in clients:
            client.socket.close()


async def test_without_end_nothing_is_ended(autojump_clock: MockClock) -> None:
    """With `math.inf`, the default, a connection may be idle for as long as it likes."""
    async with memory_server(echo, idle_timeout=math.inf) as scene:
        client = await scene.connect()
        await trio.sleep(80_000)
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()
        await client.aclose()
