"""The server of `asyncio_streams` and `uvloop_streams`: the same code for both."""

from __future__ import annotations

import asyncio

from ._common import HOST, READ_SIZE, announce, answers_once


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


async def main() -> None:
    """Serve until killed."""
    handler = answer_once if answers_once() else answer_all
    server = await asyncio.start_server(handler, HOST, 0)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()
