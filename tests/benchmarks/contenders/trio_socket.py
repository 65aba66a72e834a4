"""A bare accept loop on `trio.socket`: what one writes who wants less than `trio.serve_tcp`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ._common import BACKLOG, HOST, READ_SIZE, announce, for_task
from ._trio_handlers import start_sleeper

Handler = Callable[[trio.socket.SocketType], Awaitable[None]]


async def send_all(connection: trio.socket.SocketType, data: bytes) -> None:
    """Send `data`, however much of it the kernel takes at once."""
    while data:
        data = data[await connection.send(data) :]


async def answer_once(connection: trio.socket.SocketType) -> None:
    """Answer one read and close."""
    with connection:
        try:
            await send_all(connection, await connection.recv(READ_SIZE))
        except OSError:
            pass


async def answer_all(connection: trio.socket.SocketType) -> None:
    """Answer every read until end of file."""
    with connection:
        try:
            while data := await connection.recv(READ_SIZE):
                await send_all(connection, data)
        except OSError:
            pass


async def leave(connection: trio.socket.SocketType) -> None:
    """Close."""
    connection.close()


HANDLERS: Final[dict[str, Handler]] = {"once": answer_once, "all": answer_all, "close": leave}


async def main() -> None:
    """Serve until killed."""
    handler = for_task(HANDLERS)
    with trio.socket.socket() as listening:
        await listening.bind((HOST, 0))
        listening.listen(BACKLOG)
        async with trio.open_nursery() as nursery:
            start_sleeper(nursery)
            announce(listening.getsockname()[1])
            while True:
                connection, _address = await listening.accept()
                nursery.start_soon(handler, connection)


if __name__ == "__main__":
    trio.run(main)
