"""What stops a read although more is there: urgent octets, and descriptors on a Unix socket."""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.blocking_peers import await_event
from tests.helpers.inspecting import ACCEPT, REJECT, inspecting
from tests.helpers.pairs import descriptor_of, open_pair, plain
from tests.helpers.support import PATIENCE, connect, fate_of, is_waiting, until
from trio_wsk import (
    AbortReason,
    Connection,
    ConnectionBrokenError,
    ConnectionDispatch,
    EventMask,
    ListenDispatch,
    Status,
    open_listening_socket,
)
from trio_wsk.transports import _first_octets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from trio_wsk import ConnectionRequest, InspectAction

    Stop = Callable[[socket.socket], None]

pytestmark = pytest.mark.usefixtures("readiness")

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="so the kernel does on Linux")


def urgent(peer: socket.socket) -> None:
    """Send an octet as urgent."""
    try:
        peer.send(b"!", socket.MSG_OOB)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("this kernel knows no urgent octets on Unix sockets (CONFIG_AF_UNIX_OOB)")


def descriptor(peer: socket.socket) -> None:
    """Send an octet with a descriptor."""
    with open(os.devnull, "rb") as file:  # noqa: PTH123 - its number is wanted
        socket.send_fds(peer, [b"!"], [file.fileno()])


def send(peer: socket.socket, stop: Stop) -> None:
    """Send a line, what stops a read, and another line, each in a segment of its own."""
    peer.sendall(FIRST)
    stop(peer)
    peer.sendall(b"GET /secret\r\n")


FIRST = b"GET /open\r\n"
ALL = FIRST + b"!GET /secret\r\n"

needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are none")
WAYS = [
    pytest.param("ipv4", urgent, id="urgent"),
    pytest.param("ipv6", urgent, id="urgent-ipv6"),
    pytest.param("unix", descriptor, id="descriptor", marks=needs_unix),
    pytest.param("unix", urgent, id="urgent-unix", marks=needs_linux),
]
stopping = pytest.mark.parametrize(("kind", "stop"), WAYS)


def place_of(kind: str, directory: Path) -> dict[str, Any]:
    """Say where to listen, as arguments of `open_listening_socket`."""
    if kind == "unix":
        return {"port": None, "host": None, "path": directory / "s"}
    return {"port": 0, "host": "127.0.0.1" if kind == "ipv4" else "::1"}


def arrive(connection: Connection, client: trio.SocketStream, stop: Stop) -> None:
    """Have everything arrive before anybody can read of it."""
    with plain(client) as peer:
        peer.settimeout(PATIENCE)
        send(peer, stop)
    await_event(descriptor_of(connection))


async def by_receive_some(connection: Connection) -> bytes:
    """Receive what comes, as most do."""
    return await connection.receive_some()


async def by_receive_into(connection: Connection) -> bytes:
    """Receive what comes into a buffer."""
    buffer = bytearray(1 << 16)
    return bytes(buffer[: await connection.receive_into(buffer)])


@stopping
@pytest.mark.parametrize("receive", [by_receive_some, by_receive_into])
@pytest.mark.parametrize("has_waited", [False, True])
async def test_task_receives_what_is_behind(
    kind: str,
    stop: Stop,
    receive: Callable[[Connection], Awaitable[bytes]],
    *,
    has_waited: bool,
    tmp_path: Path,
) -> None:
    """
    A read that ends before an urgent octet, or behind a descriptor, is followed by another:
    everything comes, in the order in which it was sent, without another word of the peer's.
    """
    async with (
        open_pair() as (other, _),
        open_pair(**place_of(kind, tmp_path)) as (connection, client),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(other.receive_some)  # so that nobody waits alone
        await wait_all_tasks_blocked()
        if has_waited:
            nursery.start_soon(client.send_all, b"220 ")

            assert b"220 " == await receive(connection)

            assert await is_waiting(receive, connection)
        arrive(connection, client, stop)
        received = b""
        while len(received) < len(ALL):
            received += await receive(connection)

        assert ALL == received

        nursery.cancel_scope.cancel()


@asynccontextmanager
async def indicated(
    place: dict[str, Any],
) -> AsyncIterator[tuple[Connection, trio.SocketStream, bytearray]]:
    """Have a connection with a receive event, its client, and what is indicated."""
    received = bytearray()
    taken: list[Connection] = []

    def receive(_: Connection, data: bytes) -> None:
        received.extend(data)

    def accept(connection: Connection | None) -> ConnectionDispatch:
        assert connection is not None
        taken.append(connection)
        return ConnectionDispatch(receive=receive)

    async with open_listening_socket(**place, dispatch=ListenDispatch(accept=accept)) as listening:
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
        client = await connect(listening.local_addresses[0])
        await until(lambda: taken)
        yield taken[0], client, received
        client.socket.close()


@stopping
@pytest.mark.parametrize("is_public", [False, True])
async def test_event_is_told_of_what_is_behind(
    kind: str, stop: Stop, *, is_public: bool, tmp_path: Path
) -> None:
    """Callbacks get everything, too, in order; also of a connection whose socket is public."""
    async with indicated(place_of(kind, tmp_path)) as (connection, client, received):
        await client.send_all(b"220 ")
        await until(lambda: received)
        descriptor = descriptor_of(connection)
        if is_public:
            assert descriptor == connection.socket.fileno()
            await wait_all_tasks_blocked()
        arrive(connection, client, stop)
        await until(lambda: len(received) >= len(b"220 ") + len(ALL))

        assert b"220 " + ALL == received


# --- Looking at first octets ------------------------------------------------------------------


@needs_linux
@pytest.mark.parametrize("can_look_past", [True, False])
@stopping
async def test_nothing_goes_past_a_filter(
    kind: str,
    stop: Stop,
    readiness: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    can_look_past: bool,
    tmp_path: Path,
) -> None:
    """
    What is behind an urgent octet or a descriptor is looked at as well; where the system
    can't do that, such a peer is reset, and the inspector told. It is never let through for
    the first half of what it has sent.
    """
    if not can_look_past:
        monkeypatch.setattr(_first_octets, "_SO_PEEK_OFF", 9999)
    # Trio's waits see no FIN behind data: a look ends by its count.
    count = 512 if readiness == "epoll" else len(ALL)

    async def inspect(request: ConnectionRequest) -> InspectAction:
        return REJECT if b"secret" in await request.peek(count) else ACCEPT

    async with inspecting(inspect, **place_of(kind, tmp_path)) as desk:
        client = desk.client()
        with plain(client) as peer:
            send(peer, stop)
            peer.shutdown(socket.SHUT_WR)
        if can_look_past:
            await desk.when(lambda: desk.statistics().rejected)
        else:
            assert AbortReason.RESET is (await desk.aborted()).reason
        await fate_of(client)

        assert 0 == desk.statistics().approved


@needs_linux
async def test_inspector_hears_why_it_cannot_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says that it is the peer's, and what the peer has done."""
    monkeypatch.setattr(_first_octets, "_SO_PEEK_OFF", 9999)
    errors: list[ConnectionBrokenError] = []

    async def work(request: ConnectionRequest) -> None:
        with pytest.raises(ConnectionBrokenError, match="can't be looked past") as caught:
            await request.peek(512)
        errors.append(caught.value)

    async with inspecting() as desk, trio.open_nursery() as nursery:
        client, request = await desk.pended()
        nursery.start_soon(work, request)
        with plain(client) as peer:
            send(peer, urgent)
        await until(lambda: errors)

        assert Status.CONNECTION_ABORTED is errors[0].status


@needs_linux
@pytest.mark.parametrize("can_look_past", [True, False])
@pytest.mark.parametrize("count", [1, len(FIRST), len(FIRST) + 1, len(FIRST) + 2, len(ALL)])
async def test_look_is_what_will_be_received(
    count: int, monkeypatch: pytest.MonkeyPatch, *, can_look_past: bool
) -> None:
    """
    Up to any count, an inspector sees the octets that the handler receives, in the same order
    and with the urgent one in its place; and looking takes nothing.
    """
    if not can_look_past:
        if count > len(FIRST):
            return
        monkeypatch.setattr(_first_octets, "_SO_PEEK_OFF", 9999)

    async def inspect(request: ConnectionRequest) -> InspectAction:
        for _ in range(2):
            assert ALL[:count] == await request.peek(count)
        return ACCEPT

    async with inspecting(inspect) as desk:
        with plain(desk.client()) as peer:
            send(peer, urgent)
        connection = await desk.listening.accept()
        received = b""
        while len(received) < len(ALL):
            received += await connection.receive_some()

        assert ALL == received

        connection.close()


@needs_unix
async def test_unix_connection_is_tuned_by_itself(tmp_path: Path) -> None:
    """A Unix socket inherits nothing, so each gets SO_OOBINLINE when it is accepted."""
    async with open_pair(**place_of("unix", tmp_path)) as (connection, _):
        assert 1 == connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)
