"""The server of `asyncio_streams` and `uvloop_streams`: the same code for both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ._asyncio_sleeper import start_sleeper
from ._common import BACKLOG, HOST, READ_SIZE, announce, for_task, tls_context

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one read and close."""
    try:
        writer.write(await reader.read(READ_SIZE))
        await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every read until end of file."""
    try:
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def answer_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each line by itself until end of file."""
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def leave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close."""
    writer.close()


HANDLERS: Final[dict[str, Handler]] = {
    "once": answer_once,
    "all": answer_all,
    "close": leave,
    "lines": answer_lines,
}


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(
        for_task(HANDLERS), HOST, 0, backlog=BACKLOG, ssl=tls_context()
    )
    sleeper = start_sleeper()
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()
    del sleeper  # a loop holds its tasks weakly: it was kept until here
