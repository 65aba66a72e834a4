"""Clients before the gate of a kernel, and what they are answered."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from tests.helpers.gated import queues, tables_of
from tests.helpers.inspecting import PEND, inspecting
from tests.helpers.support import PATIENCE
from trio_wsk import Address, ConnectionRequest, InspectPoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from typing_extensions import Self

    from tests.helpers.inspecting import Desk

BEFORE = InspectPoint.BEFORE_HANDSHAKE
ALL_TABLES = 0


@asynccontextmanager
async def gated(inspect: Any = PEND, port: int | None = 0, **options: Any) -> AsyncIterator[Desk]:
    """Open a listening socket that inspects before the handshake, without hurry."""
    options.setdefault("inspect_timeout", 100.0)
    async with inspecting(inspect, port, inspect_point=BEFORE, **options) as desk:
        yield desk


class Clients:
    """Clients that connect without waiting, and are closed in the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def make(self, family: int = socket.AF_INET) -> socket.socket:
        """Make one that connects later."""
        client = self._stack.enter_context(socket.socket(family))
        client.settimeout(0)
        return client

    def connect(self, address: Address, count: int = 1) -> list[socket.socket]:
        """Have so many send their SYNs, which by now are wherever they go."""
        clients = [self.make(address.family) for _ in range(count)]
        for client in clients:
            begin(client, address)
        return clients

    def one(self, address: Address) -> socket.socket:
        """Have one send its SYN."""
        return self.connect(address)[0]


def begin(client: socket.socket, address: Address) -> None:
    """Have a client send its SYN."""
    code = client.connect_ex(address.sockaddr)
    assert code in {0, errno.EINPROGRESS}, errno.errorcode[code]


async def answer_to(client: socket.socket) -> str:
    """Wait for the answer to a SYN, and name it; "" for success."""
    with trio.fail_after(PATIENCE):
        await trio.lowlevel.wait_writable(client)
    code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode[code] if code else ""


async def answers_to(clients: list[socket.socket]) -> set[str]:
    """Wait for all answers, and name each kind once."""
    return {await answer_to(client) for client in clients}


async def is_reset(client: socket.socket) -> bool:
    """Wait for the end of a connection, and say whether it was a reset."""
    with trio.fail_after(PATIENCE):
        await trio.lowlevel.wait_readable(client)
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    return False


def place_of(desk: Desk) -> Address:
    """Return where a desk listens."""
    return desk.listening.local_addresses[0]


def address_of(client: socket.socket) -> Address:
    """Return where a client is."""
    return Address.from_sockaddr(client.family, client.getsockname())


def senders(requests: list[ConnectionRequest]) -> list[Address]:
    """Return whose requests these are."""
    return [request.remote_address for request in requests]


async def pended(desk: Desk, count: int = 1) -> None:
    """Wait until so many wait for their verdict."""
    await desk.when(lambda: len(desk.listening.pending_inspections) == count)


async def take(desk: Desk, count: int = 1) -> list[Address]:
    """Accept so many connections, close them, and return whose they were."""
    taken = []
    with trio.fail_after(PATIENCE):
        for _ in range(count):
            async with await desk.listening.accept() as connection:
                taken.append(connection.remote_address)
    return taken


def transport_of(desk: Desk) -> dict[str, int]:
    """Return what the transport has counted."""
    return dict(desk.statistics().transport)


def nothing_is_left() -> bool:
    """Whether there is neither a table nor a queue in this namespace."""
    return not tables_of(ALL_TABLES) and not queues()


ANSWERED = ["client SYN", "server SYN,ACK", "client ACK"]
REFUSED = ["client SYN", "server RST,ACK"]
