"""Tutorial, step 2: the same server on trio_wsk."""

from __future__ import annotations

from functools import partial

import trio

import trio_wsk


async def echo(connection: trio_wsk.Connection) -> None:
    """Send back what one client sends."""
    async for data in connection:
        await connection.send_all(data)


if __name__ == "__main__":
    trio.run(partial(trio_wsk.serve, echo, 7007, host="localhost"))
