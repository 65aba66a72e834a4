"""A server on the loopback address, in plain text or with TLS, and its clients."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
import trustme

import trio_wsk
from tests.helpers.support import connect_now, until
from trio_wsk import Connection, ConnectionDispatch, Server, open_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio_wsk._vocabulary.records import Record

    Handler = Callable[[Any], Awaitable[object]]

HOST = "127.0.0.1"

CA = trustme.CA()
SERVER_CERTIFICATE = CA.issue_cert("server.test")


def tasks() -> int:
    """How many tasks this Trio run has."""
    return trio.lowlevel.current_statistics().tasks_living


class Told:
    """An observer that keeps what it is told, in place of the log."""

    def __init__(self) -> None:
        self.records: Any = None  # everything
        self.heard: list[Record] = []

    def __call__(self, record: Record) -> None:
        """Take note."""
        self.heard.append(record)

    def of(self, name: str) -> list[Any]:
        """Return the records of one class."""
        return [record for record in self.heard if type(record).__name__ == name]


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    """Send everything back."""
    while data := await stream.receive_some():
        await stream.send_all(data)


async def stay(connection: Connection) -> None:
    """Echo until the peer has enough, or a drain ends it."""
    while await connection.more():
        await connection.send_all(await connection.receive_some())


@asynccontextmanager
async def serving(handler: Handler = echo, **options: Any) -> AsyncIterator[tuple[Server, Told]]:
    """Run a server, count its tasks before and after, and don't give it time to drain."""
    before = tasks()
    told = Told()
    options.setdefault("grace", 0)
    if "transport" not in options:
        options = {"port": 0, "host": HOST, **options}
    async with open_server(handler, observers=[told, Silent()], **options) as server:
        yield server, told
    await until(lambda: tasks() <= before + 1)  # the readiness of awaited connections stays
    counted = server.statistics()

    assert 0 == counted.open_connections
    assert counted.served == sum(counted.listening.delivered.values()) + sum(
        number for reason, number in counted.listening.dropped.items() if "accept" in reason
    )


class Silent(trio_wsk.observers.LoggingObserver):
    """Replaces the default observer, so that what fails on purpose isn't logged."""

    def __call__(self, record: Record) -> None:
        """Say nothing."""


def client_of(server: Server) -> trio.SocketStream:
    """Connect a client."""
    return connect_now(server.local_addresses[0])


def server_context(**options: Any) -> ssl.SSLContext:
    """Make a context that has a certificate for server.test."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    SERVER_CERTIFICATE.configure_cert(context)
    if alpn := options.get("alpn"):
        context.set_alpn_protocols(alpn)
    return context


def tls_over(client: trio.SocketStream, alpn: list[str] | None = None) -> trio.SSLStream[Any]:
    """Make the client's side of TLS."""
    context = ssl.create_default_context()
    CA.configure_trust(context)
    if alpn:
        context.set_alpn_protocols(alpn)
    return trio.SSLStream(client, context, server_hostname="server.test")


def echo_events(connection: Connection) -> ConnectionDispatch:
    """Send everything back, by callbacks."""
    return ConnectionDispatch(receive=send_back)


def send_back(connection: Connection, data: bytes) -> None:
    """Send it back."""
    connection.send_nowait(data)
