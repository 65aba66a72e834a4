"""Streams of every kind that a `Reader` may read, and the other ends of them."""

from __future__ import annotations

import ssl
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio
import trustme

from tests.helpers.pairs import open_pair
from tests.helpers.support import PATIENCE
from trio_wsk import open_listening_socket
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    Pair = tuple[trio.abc.Stream, trio.abc.Stream]

CA = trustme.CA()
CERTIFICATE = CA.issue_cert("server.test")


def server_context() -> ssl.SSLContext:
    """Make a context that has a certificate for ``server.test``."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    CERTIFICATE.configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    """Make a context that trusts it."""
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


class Pieces(trio.abc.ReceiveStream):
    """A stream that gives what it was made with, piece by piece, and then ends."""

    def __init__(self, pieces: Iterable[bytes | bytearray]) -> None:
        self.pieces = deque(pieces)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Give the next piece."""
        await trio.lowlevel.checkpoint()
        return self.pieces.popleft() if self.pieces else b""

    async def aclose(self) -> None:
        """Do nothing."""


KINDS = ["socket", "tls", "memory", "trio"]


@asynccontextmanager
async def open_streams(kind: str) -> AsyncIterator[Pair]:
    """Open a stream to read from, and the one to send on.

    Args:
      kind: A connection on a ``socket`` or in ``memory``, TLS over the former (``tls``), or Trio's
        own streams in memory (``trio``).
    """
    if kind == "trio":
        with trio.fail_after(PATIENCE):
            yield trio.testing.memory_stream_pair()
    elif kind == "memory":
        network = MemoryNetwork()
        transport = network.host("192.0.2.1").transport(80)
        async with open_listening_socket(transport=transport) as listening:
            stream = await network.host("192.0.2.2").connect(("192.0.2.1", 80))
            async with stream, await listening.accept() as connection:
                yield connection, stream
    else:
        async with open_pair() as (connection, client):
            if kind == "socket":
                yield connection, client
                return
            ours = trio.SSLStream(connection, server_context(), server_side=True)
            theirs = trio.SSLStream(client, client_context(), server_hostname="server.test")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.do_handshake)
                nursery.start_soon(theirs.do_handshake)
            yield ours, theirs


async def finish(stream: trio.abc.Stream) -> None:
    """Send the end of what a stream's other side receives, and go on receiving."""
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
    else:  # TLS 1.3 can do that, and Trio's streams can't
        assert isinstance(stream, trio.SSLStream)
        # Where SSL_shutdown(3) sees data it fails, and so does all that comes after it.
        incoming = stream._incoming  # noqa: SLF001 - as it says
        unread = incoming.read()
        with suppress(ssl.SSLWantReadError):  # the other side has not finished yet
            stream._ssl_object.unwrap()  # noqa: SLF001 - as it says
        incoming.write(unread)
        await stream.transport_stream.send_all(stream._outgoing.read())  # noqa: SLF001 - as above


async def read_to_good_end(stream: trio.abc.ReceiveStream) -> bytes:
    """Receive until the server has finished, in good order."""
    received = bytearray()
    try:
        async for data in stream:
            received += data
    except trio.BrokenResourceError as error:
        # What Python makes of close_notify when it has sent its own.
        if not isinstance(error.__cause__, ssl.SSLZeroReturnError):
            raise
    return bytes(received)
