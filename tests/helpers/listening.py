"""A listening socket whose counters balance, its clients, and callbacks that take what comes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

import trio_wsk
from tests.helpers.support import FaultyTransport, connect_now, until
from trio_wsk import Connection, ListenDispatch, ListeningSocket, Status, open_listening_socket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "127.0.0.1"


def balance(listening: ListeningSocket) -> None:
    """Every connection is in exactly one place."""
    counted = listening.statistics()

    assert counted.accepted == (
        sum(counted.delivered.values()) + counted.parked + sum(counted.dropped.values())
    )


@asynccontextmanager
async def opened(port: int | None = 0, **options: Any) -> AsyncIterator[ListeningSocket]:
    """Open a listening socket on the loopback address, and see that its counters balance."""
    if port is not None:
        options.setdefault("host", HOST)
    async with open_listening_socket(port, **options) as listening:
        yield listening
        balance(listening)
        await listening.aclose()
        balance(listening)
    assert 0 == listening.statistics().parked


async def clients_of(listening: ListeningSocket, count: int) -> list[trio.SocketStream]:
    """Connect so many clients, one after the other."""
    return [connect_now(listening.local_addresses[0]) for _ in range(count)]


def names(streams: list[trio.SocketStream]) -> list[Any]:
    """Say who the clients are, as their servers see them."""
    return [stream.socket.getsockname() for stream in streams]


def peers(connections: list[Connection]) -> list[Any]:
    """Say who the peers are."""
    return [connection.remote_address.sockaddr for connection in connections]


async def close_all(*closeable: trio.abc.AsyncResource) -> None:
    """Close all of them."""
    for each in closeable:
        await each.aclose()


class Taker:
    """An accept callback that keeps what it gets and answers as told."""

    def __init__(self, answer: object = Status.SUCCESS) -> None:
        self.answer = answer
        self.taken: list[Connection] = []
        self.failures: list[tuple[ListeningSocket, OSError]] = []

    def __call__(self, connection: Connection) -> Any:
        """Take it."""
        self.taken.append(connection)
        return self.answer

    def failed(self, listening: ListeningSocket, error: OSError) -> None:
        """Note that the listening socket has failed."""
        self.failures.append((listening, error))

    @property
    def dispatch(self) -> ListenDispatch:
        """A dispatch with these callbacks."""
        return ListenDispatch(accept=self, failed=self.failed)


async def parked(listening: ListeningSocket, count: int) -> list[trio.SocketStream]:
    """Have so many clients read ahead: they come before somebody accepts one more."""
    clients = await clients_of(listening, count + 1)
    backlog = listening.statistics().backlog
    if backlog is not None:
        await until(lambda: listening.statistics().backlog == count + 1)
    first = await listening.accept()

    assert count == listening.statistics().parked

    await close_all(first, clients[0])
    return clients[1:]


class Callbacks:
    """An observer that keeps which callbacks failed."""

    records = frozenset({trio_wsk.observers.CallbackFailed})

    def __init__(self, into: list[Any]) -> None:
        self._into = into

    def __call__(self, record: object) -> None:
        """Keep the record."""
        self._into.append(record)


def faulty(listening: ListeningSocket) -> FaultyTransport:
    """Return the transport of a listening socket that was opened on a faulty one."""
    transport = listening._stages.transport  # noqa: SLF001 - that it is faulty is ours to know
    assert isinstance(transport, FaultyTransport)
    return transport
