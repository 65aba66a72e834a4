"""What the tests of connections share: a connection and its client, awaited or with events."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio

from tests.helpers.support import PATIENCE, connect
from trio_wsk import EventMask, ListenDispatch, open_listening_socket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio_wsk import Connection, ConnectionDispatch, Status


@asynccontextmanager
async def open_pair(
    port: int | None = 0, *, host: str | None = "127.0.0.1", **options: Any
) -> AsyncIterator[tuple[Connection, trio.SocketStream]]:
    """Open a listening block with one awaited connection, and its client; both are closed after."""
    with trio.fail_after(PATIENCE):
        async with open_listening_socket(port, host=host, **options) as listening:
            client = await connect(listening.local_addresses[0])
            connection = await listening.accept()
            try:
                yield connection, client
            finally:
                connection.close()
                client.socket.close()


@asynccontextmanager
async def open_event_pair(
    dispatch: ConnectionDispatch | Callable[[Connection], ConnectionDispatch | Status],
    mask: EventMask | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Connection, trio.SocketStream]]:
    """Open a listening block with one connection that its accept event took, and its client.

    Args:
      dispatch: What the accept callback answers, or the accept callback itself.
      mask: The events that the listening socket enables; by default those that the
        dispatch has.
      options: Of `open_listening_socket`.
    """
    taken: list[Connection] = []
    came = trio.Event()

    def accept(connection: Connection) -> ConnectionDispatch | Status:
        taken.append(connection)
        came.set()
        return dispatch(connection) if callable(dispatch) else dispatch

    events = ACCEPT_AND_ALL if mask is None else EventMask.ACCEPT | mask
    with trio.fail_after(PATIENCE):
        async with open_listening_socket(
            0, host="127.0.0.1", dispatch=ListenDispatch(accept=accept), **options
        ) as listening:
            listening.enable_events(events)
            client = await connect(listening.local_addresses[0])
            await came.wait()
            try:
                yield taken[0], client
            finally:
                client.socket.close()


ACCEPT_AND_ALL = (
    EventMask.ACCEPT | EventMask.RECEIVE | EventMask.DISCONNECT | EventMask.SEND_BACKLOG
)


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Receive until the other side has finished."""
    return b"".join([chunk async for chunk in stream])


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """Receive that many octets."""
    data = bytearray()
    while len(data) < size:
        chunk = await stream.receive_some(size - len(data))
        assert chunk, f"the other side has ended after {len(data)} of {size} octets"
        data += chunk
    return bytes(data)


def descriptor_of(connection: Connection) -> int:
    """Return the number of a connection's descriptor, without making its public socket."""
    channel = connection._channel  # noqa: SLF001 - asking for `.socket` changes how it waits
    assert channel is not None
    return channel.fileno()


def fill_kernel(connection: Connection) -> int:
    """Have the kernel take all that it can, past the connection; return how many octets."""
    taken = 0
    with socket.fromfd(descriptor_of(connection), socket.AF_INET, socket.SOCK_STREAM) as full:
        for size in (1 << 16, 1):
            with suppress(BlockingIOError):
                while True:
                    taken += full.send(bytes(size), socket.MSG_DONTWAIT)
    return taken


def fill(connection: Connection) -> int:
    """Send until the kernel takes no more and something is queued; return how much was sent."""
    sent = 0
    while not connection.send_nowait(bytes(1 << 16)):
        sent += 1 << 16
    return sent + (1 << 16)


def plain(stream: trio.SocketStream) -> socket.socket:
    """Duplicate a stream's socket for calls that let no task run."""
    return socket.fromfd(stream.socket.fileno(), stream.socket.family, stream.socket.type)
