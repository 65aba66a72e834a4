"""A handler's connection over TLS: a Trio stream, on sockets and in memory, and its exact times."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import example
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.helpers.pairs import receive_all, receive_exactly
from tests.helpers.serving import HOST, Silent, Told, echo, server_context
from tests.helpers.streams import finish
from tests.helpers.support import PATIENCE, connect, until
from tests.helpers.tls import OLD, VERSIONS, client_context, over_any_line, pieces_of
from trio_wsk import (
    Connection,
    ConnectionState,
    DrainReport,
    EndReason,
    ListenDispatch,
    More,
    Reader,
    Server,
    Status,
    open_server,
)
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

PLACE = ("192.0.2.1", 80)


class Client(trio.abc.HalfCloseableStream):
    """A client's side of TLS, half-closeable as TLS 1.3 is and `trio.SSLStream` is not."""

    def __init__(self, below: trio.abc.Stream, version: ssl.TLSVersion | None = None) -> None:
        self.tls = trio.SSLStream(below, client_context(version), server_hostname="server.test")
        self._has_finished = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send."""
        if self._has_finished:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError
        await self.tls.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        await self.tls.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Send close_notify, and go on receiving."""
        if self._has_finished:
            await trio.lowlevel.checkpoint()
            return
        self._has_finished = True
        await finish(self.tls)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive; what Python makes of close_notify after our own is an end, too."""
        try:
            return await self.tls.receive_some(max_bytes)
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, ssl.SSLZeroReturnError):
                return b""
            raise

    async def aclose(self) -> None:
        """Close, and wait for nobody's good-bye."""
        try:
            if not self._has_finished:
                await self.tls.aclose()
        finally:
            await self.tls.transport_stream.aclose()


class Site:
    """A server over TLS that hands its connections out.

    It has no handlers, whose connections linger when they are closed: Trio's checks go on sending
    until they are told that nobody receives.
    """

    def __init__(self, connect: Callable[[], Awaitable[trio.abc.Stream]]) -> None:
        self._connect = connect
        self._given, self._taken = trio.open_memory_channel[Connection](1)

    def accept(self, connection: Connection) -> Status:
        """Hand it out."""
        self._given.send_nowait(connection)
        return Status.SUCCESS

    async def pair(self) -> tuple[Connection, Client]:
        """Open a connection, and have it shake hands."""
        client = Client(await self._connect())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.tls.do_handshake)
            connection = await self._taken.receive()
        return connection, client


@asynccontextmanager
async def open_site(kind: str, latency: float = 0.0) -> AsyncIterator[Site]:
    """Open a server on a ``socket`` or in ``memory``."""
    network = MemoryNetwork(latency=latency)
    options: dict[str, Any] = {"transport": network.host(PLACE[0]).transport(PLACE[1])}

    async def connect_client() -> trio.abc.Stream:
        if kind == "socket":
            return await connect(server.local_addresses[0])
        return await network.host("192.0.2.2").connect(PLACE)

    if kind == "socket":
        options = {"port": 0, "host": HOST}
    site = Site(connect_client)
    context = server_context()
    context.num_tickets = 0  # a client that leaves without having read them resets
    options.update(ssl_context=context, observers=[Silent()], grace=0)
    async with open_server(ListenDispatch(accept=site.accept), **options) as server:
        yield site


# --- Trio's contract ----------------------------------------------------------------------------


@pytest.mark.heavy
async def test_is_a_half_closeable_stream(readiness: str) -> None:
    """A connection over TLS does what Trio asks of a half-closeable stream, clogged ones too."""
    with trio.fail_after(8 * PATIENCE):  # it is much that is asked
        await _check_stream("socket", 0.02)


@pytest.mark.heavy
@pytest.mark.parametrize("latency", [0.0, 0.01])
async def test_is_a_half_closeable_stream_in_memory(
    latency: float, autojump_clock: MockClock
) -> None:
    """The same holds on the network in memory, near and far."""
    await _check_stream("memory", 1.0, latency)


async def _check_stream(kind: str, seconds: float, latency: float = 0.0) -> None:
    async with open_site(kind, latency) as site:

        async def make_clogged() -> tuple[Connection, Client]:
            connection, client = await site.pair()
            with trio.move_on_after(seconds):
                while True:
                    await connection.send_all(bytes(1 << 20))
            return connection, client

        await trio.testing.check_half_closeable_stream(site.pair, None)
        await trio.testing.check_one_way_stream(site.pair, make_clogged)


async def test_every_call_is_a_checkpoint(readiness: str) -> None:
    """Each awaited call lets others run, and can be cancelled, whether it has to wait or not."""
    async with open_site("socket") as site:
        connection, client = await site.pair()
        await client.send_all(b"1234")
        for _ in range(2):  # what is left of the record is there
            with assert_checkpoints():
                assert 1 == len(await connection.receive_some(1))
        with assert_checkpoints():
            await connection.receive_into(bytearray(1))
        with assert_checkpoints():
            await connection.more()
        with assert_checkpoints():
            await connection.send_all(b"x")
        with assert_checkpoints():
            await connection.wait_send_all_might_not_block()
        with assert_checkpoints():
            await connection.send_eof()
        with assert_checkpoints():
            await connection.aclose()
        await client.tls.transport_stream.aclose()


# --- In memory, where the times are exact -------------------------------------------------------


class Scene:
    """A server with handlers over TLS, in memory."""

    def __init__(self, network: MemoryNetwork, server: Server, told: Told) -> None:
        self.network = network
        self.server = server
        self.told = told

    async def client(self, version: ssl.TLSVersion | None = None) -> Client:
        """Connect a client, which has not shaken hands."""
        return Client(await self.network.host("192.0.2.2").connect(PLACE), version)

    @property
    def ends(self) -> list[EndReason]:
        """How connections have ended so far."""
        return [record.reason for record in self.told.of("ConnectionEnded")]


@asynccontextmanager
async def open_scene(
    handler: Callable[[Connection], Awaitable[None]], /, **options: Any
) -> AsyncIterator[Scene]:
    """Serve; ``line`` is how the network is."""
    network, told = MemoryNetwork(**options.pop("line", {})), Told()
    async with open_server(
        handler,
        transport=network.host(PLACE[0]).transport(PLACE[1]),
        ssl_context=server_context(),
        observers=[told, Silent()],
        **options,
    ) as server:
        yield Scene(network, server, told)


@pytest.mark.parametrize("says", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_handshake_has_its_time_and_no_more(says: bytes, autojump_clock: MockClock) -> None:
    """30 seconds, unless it is said otherwise; whatever drips in meanwhile."""
    async with open_scene(echo) as scene:
        stream = await scene.network.host("192.0.2.2").connect(PLACE)
        await wait_all_tasks_blocked()
        start = trio.current_time()
        (connection,) = scene.server.connections
        assert ConnectionState.HANDSHAKE is connection.state
        for octet in says:
            await trio.sleep(4)
            await stream.send_all(bytes([octet]))

        assert b"" == await stream.receive_some()
        assert 30.0 == trio.current_time() - start
        assert {"timeout": 1} == scene.server.statistics().handshake_failures
        assert [] == list(scene.server.connections)

        await stream.aclose()


@over_any_line
@example(sizes=[93, 65254, 1], loss=0.0, seed=0, old=False)  # the end meets what comes back
def test_echo_over_any_line(sizes: list[int], loss: float, seed: int, *, old: bool) -> None:
    """
    Whatever is sent in whatever sizes, over a slow line that loses segments, comes back as it was,
    with a good-bye after it.
    """

    async def main() -> None:
        line = {"latency": 0.02, "loss": loss, "seed": seed}
        async with open_scene(echo, line=line) as scene:
            client = await scene.client(OLD if old else None)
            await client.tls.do_handshake()
            pieces = pieces_of(sizes)

            async def send() -> None:
                for piece in pieces:
                    await client.send_all(piece)
                await client.send_eof()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                assert b"".join(pieces) == await receive_all(client)
            await client.tls.transport_stream.aclose()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def fill(connection: Connection) -> None:
    """Fill the line below TLS: what the peer makes of it is not looked at."""
    channel: Any = connection._channel  # noqa: SLF001 - there is no other way to what is below
    try:
        while channel.inner.send(bytes(1000)):
            pass
    except BlockingIOError:
        pass


async def _return(_: Connection) -> None:
    """Have nothing more to say."""


async def _aclose(connection: Connection) -> None:
    await connection.aclose()


@pytest.mark.parametrize("end", [_return, _aclose])
@pytest.mark.parametrize("reads", [True, False])
async def test_good_bye_has_its_time_for_room(
    *, end: Callable[[Connection], Awaitable[None]], reads: bool, autojump_clock: MockClock
) -> None:
    """
    A handler that has said all while the line is full to the last octet ends when the good-bye has
    room, within 30 seconds; then the connection is reset.
    """
    times: list[float] = []

    async def handler(connection: Connection) -> None:
        fill(connection)
        times.append(trio.current_time())
        await end(connection)

    async with open_scene(handler) as scene:
        client = await scene.client()
        await client.tls.do_handshake()
        await trio.sleep(29.5)
        assert [] == scene.ends

        if reads:
            below = client.tls.transport_stream
            while await below.receive_some():
                pass
            assert 30 > trio.current_time() - times[0]
        else:
            await trio.sleep(1)
        assert [EndReason.CLOSED if reads else EndReason.TIMED_OUT] == scene.ends
        assert 0 == scene.server.statistics().handler_failures

        await client.tls.transport_stream.aclose()


async def test_drain_lets_handshakes_come_to_their_end(autojump_clock: MockClock) -> None:
    """Who shakes hands when a drain begins is still served, and told."""
    seen: list[bool] = []

    async def handler(connection: Connection) -> None:
        seen.append(connection.draining.is_set())
        await connection.send_all(b"bye")

    async with open_scene(handler) as scene:
        client = await scene.client()
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            reports: list[DrainReport] = []

            async def drain() -> None:
                reports.append(await scene.server.drain(grace=20))

            nursery.start_soon(drain)
            await trio.sleep(10)
            assert b"bye" == await receive_all(client)
            await client.aclose()

    assert [True] == seen
    assert [DrainReport(finished=1, reset=0)] == reports


async def test_drain_resets_who_is_still_shaking_hands(autojump_clock: MockClock) -> None:
    """When the grace has run out, the handshake is over as well, and counted as one that was."""
    async with open_scene(echo) as scene:
        stream = await scene.network.host("192.0.2.2").connect(PLACE)
        await wait_all_tasks_blocked()

        assert DrainReport(finished=0, reset=1) == await scene.server.drain(grace=5)
        assert [EndReason.SERVER_ENDED] == scene.ends
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()

        await stream.aclose()


@VERSIONS
async def test_part_of_a_record_is_waited_for_in_a_drain(
    version: ssl.TLSVersion | None, autojump_clock: MockClock
) -> None:
    """A request of which a part has come when the drain begins is still answered, for a second."""
    why: list[More] = []

    async def handler(connection: Connection) -> None:
        reader = Reader(connection)
        async for line in reader.lines():
            await connection.send_all(line)
        assert reader.ended is not None
        why.append(reader.ended)

    for seconds, answer in ((0.5, b"second"), (1.5, b"")):
        async with open_scene(handler) as scene:
            client = await scene.client(version)
            await client.send_all(b"first\n")
            assert b"first" == await receive_exactly(client, 5)
            client.tls._ssl_object.write(b"second\n")  # noqa: SLF001 - it is sent in parts
            record = client.tls._outgoing.read()  # noqa: SLF001 - as above
            below = client.tls.transport_stream
            await below.send_all(record[:9])
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scene.server.drain)
                await trio.sleep(seconds)
                await below.send_all(record[9:])
                assert answer == await receive_all(client)
            await below.aclose()
    assert [More.DRAINING, More.DRAINING] == why


async def test_lifetime_ends_a_request_loop(autojump_clock: MockClock) -> None:
    """A connection that has had its ``max_lifetime`` ends between two requests, with a good-bye."""

    async def handler(connection: Connection) -> None:
        while await connection.more():
            await connection.send_all(await connection.receive_some())

    async with open_scene(handler, max_lifetime=100) as scene:
        client = await scene.client()
        await client.send_all(b"x")
        assert b"x" == await receive_exactly(client, 1)
        assert b"" == await client.receive_some()
        assert 90 <= trio.current_time() <= 101
        assert 1 == scene.server.statistics().expired

        await client.aclose()
        await until(lambda: scene.ends)


async def test_idle_in_more(autojump_clock: MockClock) -> None:
    """``more(idle=)`` counts from the last request on, over TLS as without."""
    why: list[More] = []

    async def handler(connection: Connection) -> None:
        while more := await connection.more(idle=10):
            await connection.send_all(await connection.receive_some())
        why.append(more)

    async with open_scene(handler) as scene:
        client = await scene.client()
        await trio.sleep(20)  # the handshake has a time of its own
        for _ in range(3):
            await client.send_all(b"x")
            assert b"x" == await receive_exactly(client, 1)
            await trio.sleep(8)
        assert b"" == await client.receive_some()
        assert [More.IDLE] == why
        assert 46 == pytest.approx(trio.current_time(), abs=0.1)

        await client.aclose()


async def test_permit_is_held_from_accept_on(autojump_clock: MockClock) -> None:
    """Who shakes hands has a permit, and gives it back however that ends."""

    async def handler(connection: Connection) -> None:
        await connection.receive_some()

    async with open_scene(handler, max_connections=1, handshake_timeout=10) as scene:
        silent = await scene.network.host("192.0.2.2").connect(PLACE)
        await wait_all_tasks_blocked()
        client = await scene.client()
        await client.tls.do_handshake()  # when the first one has had its time
        assert 10 == trio.current_time()
        assert (1, 1) == (
            scene.server.statistics().open_connections,
            scene.server.statistics().open_most,
        )

        await client.aclose()
        await silent.aclose()
