"""Tests of waiting for the next request: `Connection.more`, `Reader.more` and the loops."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.helpers.blocking_peers import await_event
from tests.helpers.driven import pair_that_has_waited
from tests.helpers.pairs import descriptor_of, plain
from tests.helpers.streams import (
    client_context,
    finish,
    open_streams,
    read_to_good_end,
    server_context,
)
from tests.helpers.support import PATIENCE, connect, reset, until
from trio_wsk import (
    Connection,
    ConnectionBrokenError,
    More,
    Reader,
    SocketBusyError,
    SocketClosedError,
    open_server,
)
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = pytest.mark.usefixtures("no_leak")

HOST = "127.0.0.1"
KINDS = ["connection", "reader", "reader over TLS"]
"""What waits: the connection itself, or a reader of it, or of TLS over it."""


class Waiter:
    """A handler that waits for one octet at a time, and echoes it, until there is no more."""

    def __init__(self, kind: str, *, idle: float = 3600) -> None:
        self.kind = kind
        self.idle = idle
        self.said = b""
        self.ends: list[More] = []

    async def __call__(self, stream: Any) -> None:
        """Handle one connection."""
        source = stream if self.kind == "connection" else Reader(stream)
        receive = stream.receive_some if self.kind == "connection" else source.read_some
        while more := await source.more(idle=self.idle):
            data = await receive(1)
            self.said += data
            await stream.send_all(data)
        self.ends.append(more)


@asynccontextmanager
async def talking(waiter: Waiter) -> AsyncIterator[tuple[Any, Any, trio.SocketStream]]:
    """Open a server with that handler, and a client; give the server, its stream, its socket."""
    tls = waiter.kind == "reader over TLS"
    with trio.fail_after(PATIENCE):
        async with open_server(
            waiter, 0, host=HOST, ssl_context=server_context() if tls else None
        ) as server:
            client = await connect(server.local_addresses[0])
            stream: Any = client
            if tls:
                stream = trio.SSLStream(client, client_context(), server_hostname="server.test")
                await stream.do_handshake()
            yield server, stream, client
            client.socket.close()


async def ask(stream: Any, octet: bytes = b"?") -> None:
    """Send a request, and wait for its answer."""
    await stream.send_all(octet)
    assert octet == await stream.receive_some(1)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """What waits."""
    waits: str = request.param
    return waits


# --- Why there is no more ---------------------------------------------------------------------


async def test_more_is_true_as_long_as_requests_come(kind: str, readiness: str) -> None:
    """Each request is announced and then received, whole, until the client has finished."""
    waiter = Waiter(kind)
    async with talking(waiter) as (_, stream, _client):
        for octet in b"abc":
            await ask(stream, bytes([octet]))
        await stream.send_all(b"de")
        await finish(stream)
        await until(lambda: waiter.ends)

    assert [More.FINISHED] == waiter.ends
    assert b"abcde" == waiter.said


@pytest.mark.parametrize("over", ["connection", "reader"])
async def test_silence_ends_it_in_its_time(
    over: str, autojump_clock: trio.testing.MockClock
) -> None:
    """The wait ends when the peer has said nothing for so long, and begins with each request."""
    waiter = Waiter(over, idle=60)
    network = MemoryNetwork()
    transport = network.host("192.0.2.1").transport(80)
    async with open_server(waiter, transport=transport):
        stream = await network.host("192.0.2.2").connect(("192.0.2.1", 80))
        for _ in range(3):
            await trio.sleep(59)
            await ask(stream)
        start = trio.current_time()
        assert b"" == await read_to_good_end(stream)

        assert 60 == pytest.approx(trio.current_time() - start, abs=1)
        assert [More.IDLE] == waiter.ends
        await stream.aclose()


async def test_drain_ends_it_at_once(kind: str, readiness: str) -> None:
    """Who waits between two requests when the server drains is told so, and uses no grace."""
    waiter = Waiter(kind)
    async with talking(waiter) as (server, stream, _):
        await ask(stream)
        await wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE / 2):
            report = await server.drain(grace=3600)
        assert b"" == await read_to_good_end(stream)

    assert [More.DRAINING] == waiter.ends
    assert (1, 0) == (report.finished, report.reset)


async def test_reset_is_an_error_as_everywhere(kind: str, readiness: str) -> None:
    """A peer that resets has not finished: the wait raises what a receive would."""
    waiter = Waiter(kind)
    async with talking(waiter) as (server, stream, client):
        await ask(stream)
        reset(client)
        await until(lambda: server.statistics().served)

        assert [] == waiter.ends
        assert 1 == server.statistics().peers_left
        assert 0 == server.statistics().handler_failures


def test_more_is_true_only_of_more() -> None:
    """Each reason why there is none is false, so that a loop ends by it."""
    assert [More.THERE] == [each for each in More if each]


# --- What a drain still answers ---------------------------------------------------------------


async def test_what_has_come_when_a_drain_begins_is_answered(kind: str, readiness: str) -> None:
    """
    A request that the kernel had when the drain began, though nobody had read it, is answered:
    its client had sent it in good faith.
    """
    waiter = Waiter(kind)
    async with talking(waiter) as (server, stream, _), trio.open_nursery() as nursery:
        await ask(stream)
        await wait_all_tasks_blocked()
        await stream.send_all(b"!")  # nobody has a turn until the drain has begun
        nursery.start_soon(server.drain)
        assert b"!" == await read_to_good_end(stream)

    assert [More.DRAINING] == waiter.ends


@pytest.mark.parametrize("layer", ["plain", "TLS"])
@pytest.mark.parametrize("size", [1, 10_000, 60_000])
@pytest.mark.parametrize("count", [1, 3])
async def test_all_that_has_come_when_a_drain_begins_is_answered(
    size: int, count: int, layer: str, readiness: str
) -> None:
    """
    Requests that had come are answered if they are several, or long: also over TLS, where each is
    in a record of its own, or in several of them.
    """
    if size * count > 98304:
        count = 1  # as much as one receive takes

    async def _echo_lines(stream: Any) -> None:
        async for line in Reader(stream, max_octets=1 << 20).lines(idle=3600):
            await stream.send_all(line + b"\n")

    context = server_context() if layer == "TLS" else None
    with trio.fail_after(PATIENCE):
        async with open_server(_echo_lines, 0, host=HOST, ssl_context=context) as server:
            client = await connect(server.local_addresses[0])
            stream: Any = client
            if context is not None:
                stream = trio.SSLStream(client, client_context(), server_hostname="server.test")
            await stream.send_all(b"?\n")
            assert b"?\n" == await stream.receive_some()
            await wait_all_tasks_blocked()
            lines = [bytes([65 + each]) * size + b"\n" for each in range(count)]
            sent = b"".join(lines)
            if context is None:
                assert len(sent) == await client.socket.send(sent)
            else:
                client.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 1 << 20)
                for line in lines:
                    stream._ssl_object.write(line)  # noqa: SLF001 - nobody has a turn meanwhile
                encrypted = stream._outgoing.read()  # noqa: SLF001 - as above
                assert len(encrypted) == await client.socket.send(encrypted)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.drain)
                assert sent == await read_to_good_end(stream)
            await client.aclose()


async def test_first_request_of_who_has_just_come_is_waited_for(kind: str, readiness: str) -> None:
    """
    A client that was taken from the queue by a drain is given a moment for its first request, and
    its answer; and is not waited for for more.
    """
    waiter = Waiter(kind)
    async with talking(waiter) as (server, stream, _), trio.open_nursery() as nursery:
        nursery.start_soon(server.drain)
        await server.listening.draining.wait()
        await wait_all_tasks_blocked()
        assert [] == waiter.ends
        await stream.send_all(b"!")
        assert b"!" == await read_to_good_end(stream)

    assert [More.DRAINING] == waiter.ends


@pytest.mark.parametrize("over", ["connection", "reader"])
async def test_who_has_never_said_anything_holds_up_no_drain(
    over: str, autojump_clock: trio.testing.MockClock
) -> None:
    """A connection on which nothing ever came is given a second, not the grace."""
    waiter = Waiter(over)
    network = MemoryNetwork()
    transport = network.host("192.0.2.1").transport(80)
    async with open_server(waiter, transport=transport) as server:
        stream = await network.host("192.0.2.2").connect(("192.0.2.1", 80))
        await wait_all_tasks_blocked()
        start = trio.current_time()
        report = await server.drain(grace=3600)

        # A second for its first request, and after FIN one for what may be on its way.
        assert trio.current_time() - start <= 2.1
        assert (1, 0) == (report.finished, report.reset)
        assert [More.DRAINING] == waiter.ends
        await stream.aclose()


LONG = 8_000_000


async def test_answer_is_not_cut_short_by_a_drain(readiness: str) -> None:
    """Who is being answered when the drain begins gets all of the answer."""

    async def answer_at_length(connection: Connection) -> None:
        async for line in Reader(connection).lines(idle=60):
            await connection.send_all(line * LONG)

    with trio.fail_after(PATIENCE):
        async with (
            trio.open_nursery() as nursery,
            open_server(answer_at_length, 0, host=HOST) as server,
        ):
            client = await connect(server.local_addresses[0])
            await client.send_all(b"a\n")
            received = len(await client.receive_some(1))
            nursery.start_soon(server.drain)
            await server.listening.draining.wait()
            received += len(await read_to_good_end(client))

            assert LONG == received
            await client.aclose()


ANSWER = b"x" * 1000 + b"\n"
REQUEST = b"request" * 40 + b"\n"  # not short: a last look takes as many as are in 96 KiB


async def answer_lines(stream: Any) -> None:
    """Answer each line as it comes."""
    async for _ in Reader(stream).lines(idle=60):
        await stream.send_all(ANSWER)


async def answer_batches(stream: Any) -> None:
    """Answer the lines in batches."""
    async for lines in Reader(stream).batches(idle=60):
        await stream.send_all(ANSWER * len(lines))


async def answer_by_more(stream: Any) -> None:
    """Answer by reading each request by other calls."""
    reader = Reader(stream)
    while await reader.more(idle=60):
        await reader.read_line()
        await stream.send_all(ANSWER)


@pytest.mark.parametrize("handler", [answer_lines, answer_batches, answer_by_more])
@pytest.mark.parametrize("layer", ["plain", "TLS"])
async def test_pipelined_requests_are_answered_whole_or_not_at_all(
    handler: Callable[[Any], Awaitable[None]], layer: str, readiness: str
) -> None:
    """
    Clients that never stop sending while the server drains get whole answers only, and then an end
    in good order, long before the grace is over.
    """
    context = server_context() if layer == "TLS" else None
    received: list[bytes] = []

    async def _send(stream: trio.abc.SendStream) -> None:
        try:
            while True:
                await stream.send_all(REQUEST * 50 + REQUEST[:100])
                await stream.send_all(REQUEST[100:])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the server has ended

    async def _talk(server: Any) -> None:
        client = await connect(server.local_addresses[0])
        stream: Any = client
        if context is not None:
            stream = trio.SSLStream(client, client_context(), server_hostname="server.test")
            await stream.do_handshake()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send, stream)
            received.append(await read_to_good_end(stream))
            nursery.cancel_scope.cancel()
        client.socket.close()

    with trio.fail_after(PATIENCE):
        async with (
            trio.open_nursery() as nursery,
            open_server(handler, 0, host=HOST, ssl_context=context, grace=3600) as server,
        ):
            for _ in range(5):
                nursery.start_soon(_talk, server)
            await until(lambda: server.statistics().open_connections == 5)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            report = await server.drain()

    assert (5, 0) == (report.finished, report.reset)
    assert 5 == len(received)
    for answers in received:
        assert answers == ANSWER * (len(answers) // len(ANSWER))


# --- Reader and loops -------------------------------------------------------------------------


async def test_loop_says_why_it_has_ended(autojump_clock: trio.testing.MockClock) -> None:
    """A reader says why there is no next request, for who wants to say good-bye."""
    async with open_streams("memory") as (stream, peer):
        reader = Reader(stream)
        await peer.send_all(b"one\n")
        lines = reader.lines(idle=10)
        assert b"one" == await anext(lines)
        assert None is reader.ended
        assert [] == [line async for line in lines]
        assert More.IDLE is reader.ended

        await peer.send_all(b"two\n")
        assert await reader.more()
        assert None is reader.ended
        await finish(peer)
        assert [b"two"] == [line async for line in lines]
        assert More.FINISHED is reader.ended
        assert More.FINISHED is await reader.more()


async def test_idle_is_for_the_waiting_between_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Who stops in the middle of a line has begun it: the loop waits for the rest."""
    async with open_streams("memory") as (stream, peer), trio.open_nursery() as nursery:
        lines = Reader(stream).lines(idle=10)
        got: list[bytes] = []

        async def _collect() -> None:
            got.extend([line async for line in lines])

        await peer.send_all(b"sl")
        nursery.start_soon(_collect)
        await trio.sleep(100)
        await peer.send_all(b"ow\n")
        await trio.sleep(5)

        assert [b"slow"] == got or not got
        await trio.sleep(10)
        assert [b"slow"] == got


async def test_what_a_reader_holds_is_more(readiness: str) -> None:
    """What has been received ahead is a request that has begun, though nothing comes any more."""
    async with open_streams("socket") as (stream, peer):
        reader = Reader(stream)
        await peer.send_all(b"one\ntwo\n")
        await finish(peer)
        assert b"one" == await reader.read_line()

        with assert_checkpoints():
            assert await reader.more(idle=0)
        assert b"two\n" == reader.unread
        assert b"two" == await reader.read_line()
        with assert_checkpoints():
            assert More.FINISHED is await reader.more(idle=0)


@pytest.mark.parametrize("over", ["connection", "reader"])
async def test_a_look_finds_what_nobody_was_told_of_yet(over: str, readiness: str) -> None:
    """With ``idle=0`` what has come is there, though its edge is still to come; and only that."""
    async with pair_that_has_waited() as (stream, peer):
        source: Any = stream if over == "connection" else Reader(stream)
        receive = stream.receive_some if over == "connection" else source.read_some
        for _ in range(5):  # Trio may wake first who waits for the edge, or who ends the wait
            with plain(peer) as sender:
                sender.sendall(b"ab")
            await_event(descriptor_of(stream))

            assert More.THERE is await source.more(idle=0)
            assert b"ab" == await receive(2)
            assert More.IDLE is await source.more(idle=0)


# --- The contract -----------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["connection", "reader"])
async def test_cancelled_wait_has_lost_nothing(over: str, readiness: str) -> None:
    """What comes after a cancelled wait, and what had come before one, is there."""
    async with open_streams("socket") as (stream, peer):
        source: Any = stream if over == "connection" else Reader(stream)
        receive = stream.receive_some if over == "connection" else source.read_some
        with trio.move_on_after(0.01):
            await source.more()
        await peer.send_all(b"ab")
        with assert_checkpoints():
            assert await source.more()
        with assert_checkpoints():
            assert await source.more()
        with trio.CancelScope() as scope:
            scope.cancel()
            await source.more()
        assert scope.cancelled_caught

        assert b"a" == await receive(1)
        assert await source.more()
        assert b"b" == await receive(1)


async def test_one_task_at_a_time_waits(readiness: str) -> None:
    """Two tasks that wait, or one that waits and one that reads, are told so."""
    async with open_streams("socket") as (stream, _), trio.open_nursery() as nursery:
        assert isinstance(stream, Connection)
        nursery.start_soon(stream.more)
        await wait_all_tasks_blocked()
        with assert_checkpoints(), pytest.raises(SocketBusyError):
            await stream.more()
        nursery.cancel_scope.cancel()
    async with open_streams("socket") as (stream, _), trio.open_nursery() as nursery:
        reader = Reader(stream)
        nursery.start_soon(reader.more)
        await wait_all_tasks_blocked()
        with assert_checkpoints(), pytest.raises(SocketBusyError):
            await reader.read_line()
        with assert_checkpoints(), pytest.raises(SocketBusyError):
            await reader.more()
        nursery.cancel_scope.cancel()


async def test_more_of_a_closed_connection(readiness: str) -> None:
    """Of what this side has closed, nobody waits for more: that is the caller's mistake."""
    async with open_streams("socket") as (stream, _):
        assert isinstance(stream, Connection)
        await stream.aclose()
        with assert_checkpoints(), pytest.raises(SocketClosedError):
            await stream.more()


async def test_reset_is_told_after_what_had_come(readiness: str) -> None:
    """What was found by a wait is received also if the peer has reset then."""
    async with open_streams("socket") as (stream, peer):
        assert isinstance(stream, Connection)
        assert isinstance(peer, trio.SocketStream)
        await peer.send_all(b"a")
        assert await stream.more()
        reset(peer)

        assert b"a" == await stream.receive_some()
        with pytest.raises(ConnectionBrokenError):
            await stream.more()
