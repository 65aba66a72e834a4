"""A readiness with a task that drives it, and channels to wait for."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.pairs import open_pair
from trio_wsk import Connection
from trio_wsk._engine.epoll_readiness import EpollReadiness
from trio_wsk._engine.readiness import Readiness
from trio_wsk._engine.trio_readiness import TrioReadiness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Ear:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def on_edges(self, edges: int) -> None:
        """Keep it."""
        self.heard.append(edges)


@contextmanager
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make two connected non-blocking sockets."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        theirs.settimeout(0)
        yield ours, theirs


@asynccontextmanager
async def driven(*, edge_triggered: bool) -> AsyncIterator[Readiness]:
    """Make a readiness with a task that drives it, as a block's pump does."""
    async with trio.open_nursery() as nursery:
        readiness: Readiness = (
            EpollReadiness() if edge_triggered else TrioReadiness(nursery.start_soon)
        )
        nursery.start_soon(drive, readiness)
        yield readiness
        nursery.cancel_scope.cancel()
    readiness.close()


async def drive(readiness: Readiness) -> None:
    """Park again and again, as a pump does."""
    while True:
        await readiness.park()
        readiness.poll()


@asynccontextmanager
async def company() -> AsyncIterator[None]:
    """Have another task wait for a connection, so that whoever waits now is not alone."""
    async with open_pair() as (connection, _), trio.open_nursery() as nursery:
        nursery.start_soon(connection.receive_some)
        await wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def pair_that_has_waited() -> AsyncIterator[tuple[Connection, trio.SocketStream]]:
    """Make a connection which has waited in company, and which has read all there was."""
    async with company(), open_pair() as (connection, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, connection, b"first")
            await wait_all_tasks_blocked()
            await client.send_all(b"first")
        yield connection, client


async def expect(connection: Connection, data: bytes) -> None:
    """Receive exactly this, in one piece."""
    assert data == await connection.receive_some()
