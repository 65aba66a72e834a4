"""Connections that are awaited."""

from __future__ import annotations

import array
import select
import socket
import struct
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import (
    assert_checkpoints,
    check_half_closeable_stream,
    wait_all_tasks_blocked,
)

from tests.helpers.blocking_peers import await_event
from tests.helpers.pairs import descriptor_of, open_pair, receive_all, receive_exactly
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import PATIENCE, connect, fate_of, reset, until
from trio_wsk import (
    Connection,
    ConnectionBrokenError,
    ConnectionDispatch,
    EventMask,
    InvalidDeviceStateError,
    InvalidParameterError,
    NoSocketError,
    SocketBusyError,
    SocketClosedError,
    Status,
    open_listening_socket,
    open_server,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("readiness")

LARGE = bytes(range(256)) * (1 << 16)
"""16 MiB: more than the kernel's buffers hold on both sides together."""

_SEGMENTS_IN = 140
"""Where ``tcpi_segs_in`` stands in ``struct tcp_info``."""


@pytest.fixture(params=["ipv4", "ipv6", "unix"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Say where to listen, as arguments of `open_listening_socket`."""
    places: dict[str, dict[str, Any]] = {
        "ipv4": {"port": 0, "host": "127.0.0.1"},
        "ipv6": {"port": 0, "host": "::1"},
        "unix": {"port": None, "host": None, "path": tmp_path / "s"},
    }
    return places[request.param]


async def _make(place: dict[str, Any]) -> tuple[Connection, trio.SocketStream]:
    """Make a connection that outlives its listening block, and its client."""
    async with open_listening_socket(**place) as listening:
        client = await connect(listening.local_addresses[0])
        return await listening.accept(), client


def _clog(descriptor: int, family: int) -> None:
    """Send until the kernel has taken all that it will ever take."""
    with socket.fromfd(descriptor, family, socket.SOCK_STREAM) as sender:
        poll = select.poll()
        poll.register(sender, select.POLLOUT)
        refusals = 0
        while refusals < 2:
            try:
                sender.send(bytes(1 << 16))
            except BlockingIOError:
                refusals += 1
                poll.poll(20)  # milliseconds in which TCP may still move something on
            else:
                refusals = 0


# --- A Trio stream ---------------------------------------------------------------------


async def test_is_a_half_closeable_stream(place: dict[str, Any]) -> None:
    """A connection does what Trio asks of a half-closeable stream, clogged ones included."""
    await _check_half_closeable(place)


@pytest.mark.parametrize("company", ["in company"], indirect=True)
async def test_is_a_half_closeable_stream_in_company(company: None) -> None:
    """The same holds while others wait for their connections."""
    await _check_half_closeable({"port": 0, "host": "127.0.0.1"})


async def _check_half_closeable(place: dict[str, Any]) -> None:
    async def make() -> tuple[Connection, trio.SocketStream]:
        return await _make(place)

    async def make_clogged() -> tuple[Connection, trio.SocketStream]:
        connection, client = await _make(place)
        _clog(descriptor_of(connection), client.socket.family)
        _clog(client.socket.fileno(), client.socket.family)
        return connection, client

    await check_half_closeable_stream(make, make_clogged)


async def test_every_call_is_a_checkpoint_when_it_need_not_wait(company: None) -> None:
    """Each awaited call lets others run, and can be cancelled, though all it needs is there."""
    async with open_pair() as (connection, client):
        await client.send_all(b"123456")
        await_event(descriptor_of(connection))
        with assert_checkpoints():
            await connection.receive_some(2)
        with assert_checkpoints():
            await connection.receive_into(bytearray(2))
        with assert_checkpoints():
            await connection.send_all(b"x")
        with assert_checkpoints():
            await connection.send_all(b"")
        with assert_checkpoints():
            await connection.wait_send_all_might_not_block()
        with assert_checkpoints():
            await connection.send_eof()
        with assert_checkpoints():
            await connection.send_eof()
        await client.aclose()
        with assert_checkpoints():
            await connection.receive_some()
        with assert_checkpoints():
            await connection.disable_event(EventMask.RECEIVE)
        with assert_checkpoints():
            await connection.aclose()
        with assert_checkpoints():
            await connection.aclose()


async def test_every_call_is_a_checkpoint_when_it_waits(company: None) -> None:
    """Each awaited call is a checkpoint, too, if it has to wait."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:

        async def receive() -> None:
            with assert_checkpoints():
                await connection.receive_some()
            with assert_checkpoints():
                await connection.receive_into(bytearray(9))

        async def send() -> None:
            with assert_checkpoints():
                await connection.send_all(LARGE)

        nursery.start_soon(receive)
        nursery.start_soon(send)
        for _ in range(2):
            await wait_all_tasks_blocked()
            await client.send_all(b"x")

        assert LARGE == await receive_exactly(client, len(LARGE))


async def test_cancelled_call_has_taken_no_byte(company: None) -> None:
    """A receive that is cancelled, before it looks or while it waits, leaves every octet there."""
    async with open_pair() as (connection, client):
        for call in (connection.receive_some, lambda: connection.receive_into(bytearray(9))):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            await client.send_all(b"octets")
            await_event(descriptor_of(connection))
            with trio.CancelScope() as scope:
                scope.cancel()
                await call()

            assert scope.cancelled_caught
            assert b"octets" == await connection.receive_some()


async def test_cancelled_send_has_sent_nothing_if_it_had_not_begun() -> None:
    """A send, or FIN, that was cancelled before it began has not reached the peer."""
    async with open_pair() as (connection, client):
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.send_all(b"not sent")
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.send_eof()
        await connection.send_all(b"sent")
        await connection.send_eof()

        assert b"sent" == await receive_all(client)


async def test_large_transfers_both_ways_at_once(place: dict[str, Any], company: None) -> None:
    """Many times what the kernel holds arrives complete and in order, in both directions."""
    received = {}

    async def receive(name: str, stream: trio.abc.ReceiveStream) -> None:
        received[name] = await receive_all(stream)

    async def send(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(LARGE)
        await stream.send_eof()

    connection, client = await _make(place)
    with trio.fail_after(PATIENCE * 3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, "connection", connection)
            nursery.start_soon(receive, "client", client)
            nursery.start_soon(send, connection)
            nursery.start_soon(send, client)
    await connection.aclose()
    await client.aclose()

    assert received["connection"] == LARGE
    assert received["client"] == LARGE


async def test_any_octets_can_be_sent(company: None) -> None:
    """What is sent may be bytes, a bytearray, or a buffer whose items are no octets."""
    async with open_pair() as (connection, client):
        for data in (
            b"bytes",
            bytearray(b"bytearray"),
            memoryview(array.array("i", [1, 2, 3])),
            memoryview(b"every second one")[:7],
            array.array("d", [1.5]),
        ):
            await connection.send_all(data)  # type: ignore[arg-type]  # an array is a buffer, too

            assert bytes(data) == await receive_exactly(client, len(bytes(data)))

            connection.send_nowait(data)  # type: ignore[arg-type]

            assert bytes(data) == await receive_exactly(client, len(bytes(data)))

        large = array.array("q", range(1 << 20))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send_all, memoryview(large))

            assert large.tobytes() == await receive_exactly(client, 8 << 20)


async def test_receive_into_fills_what_is_there_and_no_more() -> None:
    """`receive_into` says how much it wrote, and leaves the rest of the buffer alone."""
    async with open_pair() as (connection, client):
        buffer = bytearray(b"........")
        await client.send_all(b"123")

        assert 3 == await connection.receive_into(buffer)
        assert b"123....." == buffer

        await client.send_all(b"456")

        assert 2 == await connection.receive_into(memoryview(buffer)[6:])
        assert b"123...45" == buffer

        integers = array.array("i", [0, 0])

        assert 1 == await connection.receive_into(memoryview(integers))

        await client.send_all(b"7890")
        await client.send_eof()

        assert 4 == await connection.receive_into(memoryview(integers))
        assert 0 == await connection.receive_into(memoryview(integers))


async def test_wait_send_all_might_not_block_waits_for_the_peer_to_read(company: None) -> None:
    """It returns at once on an idle connection, and on a clogged one when the peer reads."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        for _ in range(3):
            await connection.wait_send_all_might_not_block()
        _clog(descriptor_of(connection), client.socket.family)
        returned = trio.Event()

        async def wait() -> None:
            await connection.wait_send_all_might_not_block()
            returned.set()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()

        assert not returned.is_set()

        while not returned.is_set():
            await client.receive_some()


# --- Whose end it is, and how it looks -------------------------------------------------


async def test_send_eof_sends_fin_and_receiving_goes_on() -> None:
    """After `send_eof` the peer sees the end of our data, and can still send to us."""
    async with open_pair() as (connection, client):
        await connection.send_all(b"question")
        await connection.send_eof()

        assert b"question" == await receive_all(client)

        await client.send_all(b"answer")

        assert b"answer" == await connection.receive_some()

        with pytest.raises(SocketClosedError, match="finished sending"):
            await connection.send_all(b"more")
        with pytest.raises(SocketClosedError, match="finished sending"):
            await connection.wait_send_all_might_not_block()
        with pytest.raises(SocketClosedError, match="finished sending"):
            connection.send_nowait(b"more")
        with pytest.raises(SocketClosedError, match="finished sending"):
            connection.disconnect(data=b"more")


@pytest.mark.parametrize("end", ["aclose", "close", "disconnect"])
async def test_peer_sees_fin(end: str) -> None:
    """Closing, with nothing left unread, ends what the peer receives in good order."""
    async with open_pair() as (connection, client):
        await connection.send_all(b"the last word")
        if end == "aclose":
            await connection.aclose()
        elif end == "close":
            connection.close()
        else:
            connection.disconnect()

        assert b"the last word" == await receive_all(client)


@pytest.mark.parametrize("end", ["abort", "disconnect", "close with unread input"])
async def test_peer_sees_a_reset(end: str) -> None:
    """Aborting resets, and so does closing while input is unread."""
    async with open_pair() as (connection, client):
        if end == "abort":
            connection.abort()
        elif end == "disconnect":
            connection.disconnect(abortive=True)
        else:
            await client.send_all(b"unread")
            await_event(descriptor_of(connection))
            connection.close()

        assert "reset" == await fate_of(client)
        assert connection.closed


def _segments_received(client: trio.SocketStream) -> int:
    info = client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    assert isinstance(info, bytes)
    (count,) = struct.unpack_from("=I", info, _SEGMENTS_IN)
    return int(count)


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's here")
async def test_last_data_travels_with_fin() -> None:
    """`disconnect` with data puts it in the segment that carries FIN."""
    async with open_pair() as (connection, client):
        before = _segments_received(client)
        connection.disconnect(data=b"bye")

        assert b"bye" == await receive_all(client)
        assert 1 == _segments_received(client) - before


async def test_disconnect_lets_receiving_go_on_and_is_idempotent() -> None:
    """After `disconnect` what the peer sends is received; doing it again changes nothing."""
    async with open_pair() as (connection, client):
        connection.disconnect(data=b"bye")
        connection.disconnect()
        await connection.send_eof()

        assert b"bye" == await receive_all(client)

        await client.send_all(b"good-bye")
        await client.send_eof()

        assert b"good-bye" == await receive_all(connection)
        assert not connection.closed


async def test_disconnect_of_a_connection_that_is_being_sent_to() -> None:
    """`disconnect` while a task sends waits for that task's data, then sends its own and FIN."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        nursery.start_soon(connection.send_all, LARGE)
        await wait_all_tasks_blocked()
        connection.disconnect(data=b"bye")

        assert LARGE + b"bye" == await receive_all(client)


async def test_disconnect_after_the_block_waits_for_the_task_that_sends(company: None) -> None:
    """A connection that outlives its block sends FIN when the task that sends has finished."""
    connection, client = await _make({"port": 0, "host": "127.0.0.1"})
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send_all, LARGE)
            await wait_all_tasks_blocked()
            connection.disconnect()

            assert LARGE == await receive_all(client)
    connection.close()
    await client.aclose()


async def test_data_before_a_broken_send_can_still_be_received() -> None:
    """
    A peer that says why and goes away is heard, though sending to it has failed before;
    after its words the connection is broken, and stays so.
    """
    async with open_pair() as (connection, client):
        await client.send_all(b"go away")
        await connection.send_all(b"unread by the client, so that its close resets")
        await client.aclose()
        await_event(descriptor_of(connection), select.POLLERR)
        with pytest.raises(ConnectionBrokenError):
            await connection.send_all(b"more")
        with pytest.raises(ConnectionBrokenError):
            await connection.send_all(b"more")

        assert b"go away" == await connection.receive_some()

        for _ in range(2):
            with pytest.raises(ConnectionBrokenError):
                await connection.receive_some()


async def test_broken_connection_says_which_and_how(company: None) -> None:
    """A reset by the peer raises an error that has the connection and a status."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(ConnectionBrokenError, match=str(connection.remote_address)) as got:
                await connection.receive_some()

            assert (connection, Status.CONNECTION_RESET) == (got.value.connection, got.value.status)

        async def send() -> None:
            with pytest.raises(ConnectionBrokenError) as got:
                await connection.send_all(LARGE)

            assert connection is got.value.connection
            assert got.value.status.is_error

        nursery.start_soon(receive)
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        reset(client)
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionBrokenError):
            connection.send_nowait(b"x")
        with pytest.raises(ConnectionBrokenError):
            await connection.receive_into(bytearray(1))


async def test_addresses_are_right_when_the_peer_has_gone() -> None:
    """The peer's address is what accept gave, though the kernel has forgotten it after a reset."""
    async with open_listening_socket(0, host="127.0.0.1") as listening:
        client = await connect(listening.local_addresses[0])
        name = client.socket.getsockname()
        connection = await listening.accept()
        reset(client)
        await_event(descriptor_of(connection), select.POLLERR)

        assert name == connection.remote_address.sockaddr
        assert listening.local_addresses[0] == connection.local_address

        connection.close()

        assert name == connection.remote_address.sockaddr
        assert f"127.0.0.1:{name[1]}" in repr(connection)


async def test_connection_outlives_its_listening_block(place: dict[str, Any]) -> None:
    """A connection that was awaited works on after its listening block has ended."""
    connection, client = await _make(place)
    await client.send_all(b"ping")

    assert b"ping" == await connection.receive_some()

    await connection.send_all(b"pong")

    assert b"pong" == await client.receive_some()

    for call in (
        lambda: connection.enable_events(
            EventMask.RECEIVE, ConnectionDispatch(receive=lambda *_: None)
        ),
        lambda: connection.send_nowait(b"x"),
        lambda: connection.queue_send(b"x"),
        lambda: connection.disconnect(data=b"x"),
    ):
        with pytest.raises(InvalidDeviceStateError, match="has ended"):
            call()

    connection.disconnect()

    assert b"" == await client.receive_some()

    await client.aclose()

    assert b"" == await connection.receive_some()

    await connection.aclose()


async def test_what_was_given_to_accept_is_there() -> None:
    """A connection knows its listening socket, its context, and that nobody drains."""
    async with (
        open_listening_socket(0, host="127.0.0.1") as listening,
        await connect(listening.local_addresses[0]),
        await listening.accept(context="mine") as connection,
    ):
        assert (listening, "mine") == (connection.listening, connection.context)
        assert not connection.draining.is_set()


# --- The lingering close of a server ---------------------------------------------------


async def test_answer_outlives_input_that_the_handler_left_unread() -> None:
    """A handler that answers without reading everything does not lose its answer to a reset."""

    async def handler(connection: Connection) -> None:
        await connection.receive_some(1)
        await connection.send_all(b"too much")

    async with open_server(handler, 0, host="127.0.0.1") as server:
        client = await connect(server.local_addresses[0])
        await client.send_all(bytes(1000))

        assert b"too much" == await receive_all(client)

        await client.aclose()


async def test_lingering_close_is_bounded_by_octets_and_not_by_pieces() -> None:
    """A peer that goes on sending in small pieces is not reset for their number."""

    async def handler(connection: Connection) -> None:
        await connection.receive_some(1)

    async with open_server(handler, 0, host="127.0.0.1") as server:
        client = await connect(server.local_addresses[0])
        await client.send_all(bytes(2))
        with trio.fail_after(PATIENCE):
            assert b"" == await client.receive_some()
        for _ in range(50):
            await client.send_all(b"x")
            await wait_all_tasks_blocked()

        assert 1 == server.statistics().lingering
        assert 0 == server.statistics().open_connections

        await client.aclose()
        await until(lambda: not server.statistics().lingering)


async def test_lingering_close_ends_when_a_peer_sends_without_end() -> None:
    """What a lingering close throws away is bounded: a peer that never stops is reset."""

    async def handler(connection: Connection) -> None:
        await connection.receive_some(1)

    async with open_server(handler, 0, host="127.0.0.1") as server:
        client = await connect(server.local_addresses[0])
        with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
            await _send_for_ever(client)
        await client.aclose()


async def _send_for_ever(stream: trio.abc.SendStream) -> None:
    while True:
        await stream.send_all(bytes(1 << 16))


# --- The public socket -----------------------------------------------------------------


async def test_socket_shares_the_one_descriptor(place: dict[str, Any]) -> None:
    """Asking for the socket opens no descriptor; it is the same one each time, and works."""
    connection, client = await _make(place)
    before = open_descriptors()
    number = descriptor_of(connection)
    sock = connection.socket

    assert (before, number) == (open_descriptors(), sock.fileno())
    assert sock is connection.socket

    await sock.send(b"by the socket")
    await connection.send_all(b", by the connection")

    assert b"by the socket, by the connection" == await receive_exactly(client, 32)

    await client.send_all(b"12")

    assert b"1" == await sock.recv(1)
    assert b"2" == await connection.receive_some()

    await connection.aclose()

    assert (before - 1, -1) == (open_descriptors(), sock.fileno())

    with pytest.raises(SocketClosedError):
        _ = connection.socket
    await client.aclose()


async def test_closed_connection_has_no_socket() -> None:
    """After the end `.socket` is not there, to those who ask politely as well."""
    async with open_pair() as (connection, _):
        assert hasattr(connection, "socket")

        await connection.aclose()

        assert not hasattr(connection, "socket")
        assert None is getattr(connection, "socket", None)
        with pytest.raises(NoSocketError, match="this side has closed the connection") as caught:
            _ = connection.socket
        assert isinstance(caught.value.__cause__, SocketClosedError)


async def test_connection_can_be_weakly_referenced() -> None:
    """Who keeps something beside a connection need not keep the connection."""
    async with open_pair() as (connection, _):
        beside = weakref.WeakKeyDictionary({connection: "beside"})

        assert "beside" == beside[connection]
        assert connection is weakref.ref(connection)()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_fin_that_the_connection_has_sent_is_the_streams_too(when: str) -> None:
    """
    After ``connection.send_eof()``, whether it was taken before or after that, a
    `trio.SocketStream` of the socket says that sending is over, and receives what comes.
    """
    async with open_pair() as (connection, client):
        if when == "before":
            _ = connection.socket
        await connection.send_eof()
        stream = trio.SocketStream(connection.socket)
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        await stream.send_eof()

        assert b"" == await client.receive_some()

        await client.send_all(b"answer")
        await client.send_eof()

        assert b"answer" == await receive_all(stream)


async def test_fin_that_the_stream_has_sent_is_the_connections_too() -> None:
    """
    After ``send_eof()`` of a `trio.SocketStream` of the socket the connection says that this side
    has finished, is not broken, and receives what comes up to the peer's FIN.
    """
    async with open_pair() as (connection, client):
        await trio.SocketStream(connection.socket).send_eof()
        calls: list[Callable[[], Any]] = [
            lambda: connection.send_all(b"x"),
            connection.wait_send_all_might_not_block,
        ]
        for call in calls:
            with pytest.raises(SocketClosedError, match="has finished sending"):
                await call()
        plain_calls: list[Callable[[], Any]] = [
            lambda: connection.send_nowait(b"x"),
            lambda: connection.queue_send(b"x"),
            lambda: connection.disconnect(data=b"x"),
        ]
        for plain in plain_calls:
            with pytest.raises(SocketClosedError, match="has finished sending"):
                plain()
        await connection.send_eof()
        connection.disconnect()

        assert b"" == await client.receive_some()

        await client.send_all(b"answer")
        await client.send_eof()

        assert b"answer" == await receive_all(connection)


async def test_socket_stream_works_on_the_socket() -> None:
    """A `trio.SocketStream` of the socket is a stream like any; closing it closes both."""
    async with open_pair() as (connection, client):
        stream = trio.SocketStream(connection.socket)
        await client.send_all(b"ping")

        assert b"ping" == await stream.receive_some()

        await stream.send_all(b"pong")

        assert b"pong" == await client.receive_some()

        await stream.aclose()

        assert b"" == await client.receive_some()

        for call in (
            connection.receive_some,
            lambda: connection.send_all(b"x"),
            connection.wait_send_all_might_not_block,
            connection.send_eof,
        ):
            with pytest.raises(SocketClosedError):
                await call()
        with pytest.raises(SocketClosedError):
            connection.send_nowait(b"x")
        await connection.aclose()

        assert connection.closed


@pytest.mark.parametrize("taken", ["before", "after"])
@pytest.mark.parametrize("owner", ["socket", "connection"])
async def test_closing_either_wakes_who_waits_through_the_other(
    owner: str, taken: str, company: None
) -> None:
    """
    Closing the socket ends what tasks wait for on the connection, whether it was taken before
    they waited or after; closing the connection ends what tasks wait for on the socket.
    """
    ended = []

    async def wait(call: Callable[[], Any], expected: type[Exception]) -> None:
        with pytest.raises(expected):
            await call()
        ended.append(call)

    async with open_pair() as (connection, _):
        if taken == "before":
            _ = connection.socket
        async with trio.open_nursery() as nursery:
            if owner == "socket":
                nursery.start_soon(wait, connection.receive_some, SocketClosedError)
                nursery.start_soon(wait, lambda: connection.send_all(LARGE), SocketClosedError)
            else:
                stream = trio.SocketStream(connection.socket)
                nursery.start_soon(wait, stream.receive_some, trio.ClosedResourceError)
                nursery.start_soon(wait, lambda: stream.send_all(LARGE), trio.ClosedResourceError)
            await wait_all_tasks_blocked()
            sock = connection.socket
            await wait_all_tasks_blocked()
            if owner == "socket":
                sock.close()
            else:
                connection.close()

    assert 2 == len(ended)


async def test_connection_is_received_from_while_its_socket_is_public(company: None) -> None:
    """A connection that has waited before its socket was taken goes on receiving after it."""
    async with open_pair() as (connection, client):
        received = []

        async def receive() -> None:
            received.append(await connection.receive_some())

        for data in (b"1", b"22", b"333", b"4444"):
            if data == b"333":
                _ = connection.socket
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await wait_all_tasks_blocked()
                await client.send_all(data)

        assert [b"1", b"22", b"333", b"4444"] == received

        await client.aclose()

        assert b"" == await connection.receive_some()


# --- Mistakes --------------------------------------------------------------------------


async def test_two_tasks_at_once_are_told_so(company: None) -> None:
    """A second task that does the same is told what to do instead, and the first goes on."""
    async with open_pair() as (connection, client), trio.open_nursery() as nursery:
        received = []

        async def receive() -> None:
            received.append(await connection.receive_some())

        nursery.start_soon(receive)
        nursery.start_soon(connection.send_all, LARGE)
        await wait_all_tasks_blocked()
        for call, name in (
            (connection.receive_some, "receive_some"),
            (lambda: connection.receive_into(bytearray(1)), "receive_into"),
            (lambda: connection.send_all(b"x"), "send_all"),
            (connection.wait_send_all_might_not_block, "wait_send_all_might_not_block"),
            (connection.send_eof, "send_eof"),
        ):
            with pytest.raises(SocketBusyError, match=rf"^{name}\(\).*trio\.Lock"):
                await call()
        await client.send_all(b"x")

        assert LARGE == await receive_exactly(client, len(LARGE))

    assert [b"x"] == received


async def test_closed_connection_says_so() -> None:
    """After closing, every call names the peer whose connection was closed."""
    async with open_pair() as (connection, _):
        connection.close()
        connection.close()
        connection.abort()
        words = f"closed the connection with {connection.remote_address}"
        for call in (
            connection.receive_some,
            lambda: connection.receive_into(bytearray(1)),
            lambda: connection.send_all(b"x"),
            connection.wait_send_all_might_not_block,
            connection.send_eof,
        ):
            with pytest.raises(SocketClosedError, match=words):
                await call()
        for plain_call in (
            lambda: connection.socket,
            lambda: connection.send_nowait(b"x"),
            lambda: connection.queue_send(b"x"),
            connection.disconnect,
            lambda: connection.ideal_send_backlog,
            lambda: connection.enable_events(EventMask.RECEIVE),
        ):
            with pytest.raises(SocketClosedError, match=words):
                plain_call()

        assert "closed" in repr(connection)


@pytest.mark.parametrize("size", [0, -1])
async def test_size_that_is_none_is_named(size: int) -> None:
    """A size below 1 is a mistake whose message has the value."""
    async with open_pair() as (connection, _):
        with pytest.raises(InvalidParameterError, match=f"at least 1, not {size}"):
            await connection.receive_some(size)


async def test_what_is_no_size_and_no_octets_is_named() -> None:
    """What is no number, no buffer or no octets raises an error, and nothing is taken."""
    async with open_pair() as (connection, client):
        await client.send_all(b"x")
        with pytest.raises(TypeError, match="'1'"):
            await connection.receive_some("1")  # type: ignore[arg-type]
        with pytest.raises(InvalidParameterError, match="without room"):
            await connection.receive_into(bytearray())
        with pytest.raises(TypeError):
            await connection.receive_into(b"read-only")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await connection.send_all("text")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            connection.send_nowait("text")  # type: ignore[arg-type]
        with pytest.raises(InvalidParameterError, match="takes no data"):
            connection.disconnect(abortive=True, data=b"x")

        assert b"x" == await connection.receive_some()


async def test_other_threads_are_sent_away() -> None:
    """Calls from outside the Trio run are refused."""
    async with open_pair() as (connection, _):
        for call in (
            lambda: connection.send_nowait(b"x"),
            lambda: connection.queue_send(b"x"),
            connection.disconnect,
        ):
            with pytest.raises(RuntimeError):
                await trio.to_thread.run_sync(call)


async def test_descriptors_are_given_back(place: dict[str, Any], company: None) -> None:
    """However a connection ends, its descriptor is closed."""
    await _make_and_end(place, Connection.close)  # whatever is opened once for all
    before = open_descriptors()
    for end in (Connection.close, Connection.abort, Connection.aclose):
        await _make_and_end(place, end)

    assert before == open_descriptors()


async def _make_and_end(place: dict[str, Any], end: Callable[[Connection], Any]) -> None:
    connection, client = await _make(place)
    await client.send_all(b"x")
    await connection.receive_some()
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.receive_some()
    ended = end(connection)
    if ended is not None:
        await ended
    await client.aclose()


async def test_aclose_closes_even_if_it_is_cancelled() -> None:
    """A cancelled `aclose` has closed the connection all the same."""
    async with open_pair() as (connection, client):
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.aclose()

        assert scope.cancelled_caught
        assert connection.closed
        assert b"" == await client.receive_some()


class TakesOneOctetFirst:
    """A channel whose kernel takes one octet at first, and then has room for everything."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._is_first = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def send(self, data: memoryview, flags: int = 0) -> int:
        """Take something."""
        data = data[:1] if self._is_first else data
        self._is_first = False
        taken: int = self._channel.send(data, flags)
        return taken


async def test_send_is_a_checkpoint_when_the_second_try_takes_the_rest() -> None:
    """A send that is short at first and never has to wait lets other tasks run all the same."""
    async with open_pair() as (connection, client):
        channel: Any = TakesOneOctetFirst(connection._channel)  # noqa: SLF001 - no other way in
        connection._channel = channel  # noqa: SLF001 - as above

        with assert_checkpoints():
            await connection.send_all(b"hello")

        assert b"hello" == await receive_exactly(client, 5)
