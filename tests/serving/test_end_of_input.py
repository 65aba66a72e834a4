"""Tests of what a server makes of a `Reader`'s errors that leave a handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers.inspecting import Silent
from tests.helpers.streams import client_context, finish, read_to_good_end, server_context
from tests.helpers.support import PATIENCE, connect, fate_of, until
from trio_wsk import Reader, open_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsk import Connection

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"
MUCH = 1 << 16


async def read_on(stream: Any) -> None:
    """Answer each line, and read on until that fails."""
    reader = Reader(stream)
    while True:
        line = await reader.read_line()
        await stream.send_all(line * MUCH)


async def read_on_below(stream: Any) -> None:
    """Do it in a nursery, which makes a group of the error."""
    async with trio.open_nursery(strict_exception_groups=True) as nursery:
        nursery.start_soon(read_on, stream)


@pytest.mark.parametrize("handler", [read_on, read_on_below])
@pytest.mark.parametrize("said", [b"a\nb\n", b"a\nb\nunfinished"])
@pytest.mark.parametrize("layer", ["plain", "TLS"])
async def test_peer_that_has_finished_has_its_answers(
    handler: Callable[[Any], Awaitable[None]], said: bytes, layer: str
) -> None:
    """
    A handler that reads until its peer has finished, and lets that out, has crashed no more than
    one that returns: the peer gets every answer, and an end in good order.
    """
    context = server_context() if layer == "TLS" else None
    with trio.fail_after(PATIENCE):
        async with open_server(handler, 0, host=HOST, ssl_context=context) as server:
            client = await connect(server.local_addresses[0])
            stream: Any = client
            if layer == "TLS":
                stream = trio.SSLStream(client, client_context(), server_hostname="server.test")
            await stream.send_all(said)
            await finish(stream)
            received = await read_to_good_end(stream)
            assert b"a" * MUCH + b"b" * MUCH == received

            await until(lambda: server.statistics().served)
            assert 1 == server.statistics().peers_left
            assert 0 == server.statistics().handler_failures
            await client.aclose()


async def test_end_of_another_stream_is_a_crash() -> None:
    """That a handler's own backend has finished is not its peer's doing: it is reported."""

    async def handler(connection: Connection) -> None:
        end, backend = trio.testing.memory_stream_pair()
        await end.send_eof()
        await Reader(backend).read_line()

    with trio.fail_after(PATIENCE):
        async with open_server(handler, 0, host=HOST, observers=[Silent()]) as server:
            client = await connect(server.local_addresses[0])

            assert "reset" == await fate_of(client)
            assert 1 == server.statistics().handler_failures
            await client.aclose()


async def test_what_is_too_long_is_reported() -> None:
    """A limit that is too low for what the client is right to say is not overlooked."""

    async def handler(connection: Connection) -> None:
        await Reader(connection, max_octets=3).read_line()

    with trio.fail_after(PATIENCE):
        async with open_server(handler, 0, host=HOST, observers=[Silent()]) as server:
            client = await connect(server.local_addresses[0])
            await client.send_all(b"x" * 10)

            assert "reset" == await fate_of(client)
            assert 1 == server.statistics().handler_failures
            await client.aclose()
