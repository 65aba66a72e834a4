"""An echo server: what a client sends comes back to it, until it has finished.

Run ``python examples/echo.py [PORT]``; it says how to talk to it. Ctrl-C ends it.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial

import trio

import trio_wsk

PORT = 7007


async def echo(connection: trio_wsk.Connection) -> None:
    """Send back what one client sends."""
    async for data in connection:
        await connection.send_all(data)


async def main(
    *,
    port: int = PORT,
    task_status: trio.TaskStatus[trio_wsk.Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled."""
    async with trio_wsk.open_server(echo, port, host="localhost") as server:
        port = server.local_addresses[0].port
        print(f"Echoing on port {port}. Talk to it with: nc localhost {port}", flush=True)
        task_status.started(server)
        await trio.sleep_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        trio.run(partial(main, port=int(sys.argv[1]) if sys.argv[1:] else PORT))
