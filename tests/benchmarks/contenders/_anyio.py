"""The server of `anyio_trio` and `anyio_asyncio`: the same code for both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from ._common import BACKLOG, HOST, READ_SIZE, announce, for_task

Handler = Callable[[SocketStream], Awaitable[None]]

# What a peer's leaving raises, however it leaves.
GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError)


async def answer_once(stream: SocketStream) -> None:
    """Answer one read and close."""
    async with stream:
        try:
            await stream.send(await stream.receive(READ_SIZE))
        except GONE:
            pass


async def answer_all(stream: SocketStream) -> None:
    """Answer every read until end of file."""
    async with stream:
        try:
            while True:
                await stream.send(await stream.receive(READ_SIZE))
        except GONE:
            pass


async def answer_lines(stream: SocketStream) -> None:
    """Answer each line by itself until end of file."""
    async with stream:
        reader = BufferedByteReceiveStream(stream)
        try:
            while True:
                line = await reader.receive_until(b"\n", READ_SIZE)
                await stream.send(line + b"\n")
        except (*GONE, anyio.IncompleteRead):
            pass


async def leave(stream: SocketStream) -> None:
    """Close."""
    await stream.aclose()


HANDLERS: Final[dict[str, Handler]] = {
    "once": answer_once,
    "all": answer_all,
    "close": leave,
    "lines": answer_lines,
}


async def main() -> None:
    """Serve until killed."""
    listener = await anyio.create_tcp_listener(local_host=HOST, local_port=0, backlog=BACKLOG)
    announce(listener.extra(SocketAttribute.local_port))  # noqa: S610 - no query of Django's
    await listener.serve(for_task(HANDLERS))
