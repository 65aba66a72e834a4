"""`SocketStreams`: a listener whose connections are Trio's own streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.helpers.support import PATIENCE, connect
from trio_wsk import SocketClosedError, SocketStreams, open_listening_socket

if TYPE_CHECKING:
    from trio_wsk.testing import MemoryHost


async def test_accepted_stream_is_trios_own() -> None:
    """What is accepted is a `trio.SocketStream`, after a checkpoint; it talks, and closes."""
    async with open_listening_socket(0, host="127.0.0.1") as listening:
        streams = SocketStreams(listening)
        client = await connect(listening.local_addresses[0])
        with trio.fail_after(PATIENCE), trio.testing.assert_checkpoints():
            stream = await streams.accept()

        assert isinstance(stream, trio.SocketStream)

        async with client, stream:
            await stream.send_all(b"hello")

            assert b"hello" == await client.receive_some()
            assert client.socket.getsockname() == stream.socket.getpeername()


async def test_cancelled_accept_loses_nobody() -> None:
    """Cancelled, `accept` has taken no connection: the next call gets the one that comes."""
    async with open_listening_socket(0, host="127.0.0.1") as listening:
        streams = SocketStreams(listening)
        with trio.CancelScope() as scope:
            scope.cancel()
            await streams.accept()
        async with await connect(listening.local_addresses[0]) as client:
            with trio.fail_after(PATIENCE):
                stream = await streams.accept()

            assert client.socket.getsockname() == stream.socket.getpeername()

            await stream.aclose()


async def test_closing_closes_what_is_wrapped() -> None:
    """`aclose` closes the listening socket, and accepting then says so."""
    async with open_listening_socket(0, host="127.0.0.1") as listening:
        streams = SocketStreams(listening)
        await streams.aclose()
        with pytest.raises(SocketClosedError):
            await listening.accept()
        with pytest.raises(SocketClosedError):
            await streams.accept()


async def test_listening_socket_without_sockets_is_refused(memory_server: MemoryHost) -> None:
    """Where connections are no sockets there are no `trio.SocketStream`s: told when it is made."""
    async with open_listening_socket(transport=memory_server.transport(7000)) as listening:
        with pytest.raises(AttributeError, match="MemoryTransport has no sockets"):
            SocketStreams(listening)
