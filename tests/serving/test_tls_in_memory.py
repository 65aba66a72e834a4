"""Callbacks over TLS on the network in memory: where the times are exact, and the line is bad."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers.serving import Silent, server_context
from tests.helpers.tls import OLD, VERSIONS, client_context, over_any_line, pieces_of
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    ConnectionState,
    DrainReport,
    EndReason,
    ListenDispatch,
    Status,
    open_server,
)
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio_wsk import Server
    from trio_wsk._vocabulary.records import ConnectionEnded

CONTEXT = server_context()
PLACE = ("192.0.2.1", 80)


class Scene:
    """A server of events over TLS, in memory."""

    def __init__(self, network: MemoryNetwork, **callbacks: Callable[..., object]) -> None:
        self.network = network
        self.connections: list[Connection] = []
        self.ends: list[ConnectionEnded] = []
        self.server: Server
        self._callbacks = callbacks

    def accept(self, connection: Connection) -> ConnectionDispatch:
        """Take it."""
        self.connections.append(connection)
        own: Any = {"closed": lambda _, ended: self.ends.append(ended), **self._callbacks}
        return ConnectionDispatch(**own)

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[Scene]:
        """Serve."""
        async with open_server(
            ListenDispatch(accept=self.accept),
            transport=self.network.host(PLACE[0]).transport(PLACE[1]),
            ssl_context=CONTEXT,
            observers=[Silent()],
            **options,
        ) as self.server:
            yield self

    async def client(self, version: ssl.TLSVersion | None = None) -> trio.SSLStream[Any]:
        """Connect a client, which has not shaken hands."""
        raw = await self.network.host("192.0.2.2").connect(PLACE)
        return trio.SSLStream(raw, client_context(version), server_hostname="server.test")


def echo(connection: Connection, data: bytes) -> None:
    """Send it back."""
    connection.send_nowait(data)


@pytest.mark.parametrize("says", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_handshake_has_its_time_and_no_more(says: bytes, autojump_clock: MockClock) -> None:
    """30 seconds, unless it is said otherwise; whatever drips in meanwhile."""
    scene = Scene(MemoryNetwork())
    async with scene.open():
        stream = await scene.network.host("192.0.2.2").connect(PLACE)
        await wait_all_tasks_blocked()
        start = trio.current_time()
        for octet in says:
            await trio.sleep(4)
            await stream.send_all(bytes([octet]))

        assert b"" == await stream.receive_some()
        assert 30.0 == trio.current_time() - start
        assert {"timeout": 1} == scene.server.statistics().handshake_failures
        assert [] == scene.connections

        await stream.aclose()


async def test_handshake_may_take_for_ever(autojump_clock: MockClock) -> None:
    """With ``math.inf`` there is no deadline; a peer that is back after an hour is served."""
    scene = Scene(MemoryNetwork(), receive=echo)
    async with scene.open(handshake_timeout=float("inf")):
        client = await scene.client()
        await trio.sleep(3600)
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()

        await client.aclose()


@over_any_line
def test_echo_over_any_line(sizes: list[int], loss: float, seed: int, *, old: bool) -> None:
    """
    Whatever is sent in whatever sizes, over a slow line that loses segments, comes back as it was,
    with a good-bye after it.
    """

    async def main() -> None:
        scene = Scene(MemoryNetwork(latency=0.02, loss=loss, seed=seed), receive=echo)
        async with scene.open():
            client = await scene.client(OLD if old else None)
            await client.do_handshake()
            octets = b"".join(pieces_of(sizes))
            received = bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(send_pieces, client, sizes))
                while len(received) < len(octets):
                    received += await client.receive_some()

            assert octets == received

            if not sizes:
                await wait_all_tasks_blocked(0.1)
            while not scene.connections:  # noqa: ASYNC110 - on a virtual clock
                await trio.sleep(0.1)
            scene.connections[0].disconnect()

            assert b"" == await client.receive_some()

            await client.aclose()

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def send_pieces(client: trio.SSLStream[Any], sizes: list[int]) -> None:
    """Send pieces of these sizes."""
    for piece in pieces_of(sizes):
        await client.send_all(piece)


@VERSIONS
async def test_idle_connection_is_ended_with_a_good_bye(
    version: ssl.TLSVersion | None, autojump_clock: MockClock
) -> None:
    """``idle_timeout`` counts from the handshake on, and what passes meanwhile moves it."""
    scene = Scene(MemoryNetwork(), receive=echo)
    async with scene.open(idle_timeout=10):
        client = await scene.client(version)
        await trio.sleep(20)  # the handshake has a time of its own
        await client.do_handshake()
        start = trio.current_time()
        for _ in range(3):
            await trio.sleep(8)
            await client.send_all(b"x")

            assert b"x" == await client.receive_some()

        assert b"" == await client.receive_some()  # raises without a close_notify
        assert 34 == pytest.approx(trio.current_time() - start, abs=1.1)

        await client.aclose()
        await wait_all_tasks_blocked()

        assert [EndReason.IDLE] == [ended.reason for ended in scene.ends]


async def test_who_shakes_hands_is_among_the_connections(autojump_clock: MockClock) -> None:
    """`Server.connections` has those, too, and says so."""
    scene = Scene(MemoryNetwork(), receive=echo)
    async with scene.open():
        client = await scene.client()
        await wait_all_tasks_blocked()
        (connection,) = scene.server.connections

        assert 1 == len(scene.server.connections)
        assert connection in scene.server.connections
        assert ConnectionState.HANDSHAKE is connection.state
        assert connection.tls is None

        await client.do_handshake()
        await wait_all_tasks_blocked()

        assert [connection] == scene.connections == list(scene.server.connections)

        await client.aclose()
        await wait_all_tasks_blocked()

        assert [] == list(scene.server.connections)


async def test_drain_waits_for_the_good_bye_to_have_room(autojump_clock: MockClock) -> None:
    """A peer that reads nothing is waited for for 30 seconds, and reset then."""
    scene = Scene(MemoryNetwork())
    async with scene.open():
        client = await scene.client()
        await client.do_handshake()
        await wait_all_tasks_blocked()
        (connection,) = scene.connections
        while not connection.send_nowait(bytes(1000)):
            pass
        start = trio.current_time()
        connection.disconnect()
        report = await scene.server.drain(grace=100)

        assert 30.0 == trio.current_time() - start
        assert DrainReport(finished=1, reset=0) == report
        assert [EndReason.TIMED_OUT] == [ended.reason for ended in scene.ends]

        await client.transport_stream.aclose()


@pytest.mark.parametrize("reads", [True, False])
async def test_good_bye_has_its_time_for_room(*, reads: bool, autojump_clock: MockClock) -> None:
    """
    Where all has been sent and the line is full to the last octet, the good-bye, and FIN behind it,
    wait for 30 seconds; a peer that reads until then has them.
    """
    scene = Scene(MemoryNetwork())
    async with scene.open():
        client = await scene.client()
        await client.do_handshake()
        await wait_all_tasks_blocked()
        (connection,) = scene.connections
        fill(connection)
        connection.disconnect()
        await trio.sleep(29.5)

        assert not scene.ends

        if reads:
            while await client.transport_stream.receive_some():
                pass

            assert ConnectionState.FINISHED is connection.state

            await client.transport_stream.send_eof()
        await trio.sleep(1)

        assert [EndReason.FINISHED if reads else EndReason.TIMED_OUT] == [
            ended.reason for ended in scene.ends
        ]

        await client.transport_stream.aclose()


def fill(connection: Connection) -> None:
    """Fill the line below TLS: what the peer makes of it is not looked at."""
    channel: Any = connection._channel  # noqa: SLF001 - there is no other way to what is below
    try:
        while channel.inner.send(bytes(1000)):
            pass
    except BlockingIOError:
        pass


# --- What the accept callback answers -----------------------------------------------------------


@pytest.mark.parametrize("answer", ["no", "raises", "nonsense", "aborts", "closes"])
async def test_answers_of_the_accept_callback(answer: str, autojump_clock: MockClock) -> None:
    """They mean what they mean without TLS, and each connection is counted once."""
    ends = []

    def accept(connection: Connection) -> Any:
        if answer == "raises":
            raise ZeroDivisionError
        if answer == "aborts":
            connection.abort()
        if answer == "closes":
            connection.close()
        good = ConnectionDispatch(closed=lambda _, ended: ends.append(ended.reason))
        return {"no": Status.REQUEST_NOT_ACCEPTED, "nonsense": None}.get(answer, good)

    network = MemoryNetwork()
    async with open_server(
        ListenDispatch(accept=accept),
        transport=network.host(PLACE[0]).transport(PLACE[1]),
        ssl_context=CONTEXT,
        observers=[Silent()],
    ) as server:
        raw = await network.host("192.0.2.2").connect(PLACE)
        client = trio.SSLStream(raw, client_context(OLD), server_hostname="server.test")
        await client.do_handshake()
        if answer == "closes":
            assert b"" == await client.receive_some()
        else:
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
        await raw.aclose()
        await wait_all_tasks_blocked()
        counted = server.statistics()

    delivered = counted.listening.delivered["event"]
    expected = {"no": "not-accepted", "raises": "accept-failed", "nonsense": "not-accepted"}
    assert (1, 0) == (counted.served, counted.open_connections)
    assert ({expected[answer]: 1} if answer in expected else {}) == counted.listening.dropped
    assert (0 if answer in expected else 1) == delivered
    assert {"aborts": [EndReason.ABORTED], "closes": [EndReason.CLOSED]}.get(answer, []) == ends
