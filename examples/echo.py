"""An echo server: what a client sends comes back to it, until it has finished.

Run ``python examples/echo.py [PORT]``; it says how to talk to it. Ctrl-C or SIGTERM
ends it, after a second in which clients may finish; another one ends it at once.
"""

from __future__ import annotations

import signal
import sys
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
    """Serve until a signal has drained it."""
    async with trio_wsk.open_server(
        echo, port, host="localhost", grace=1, signals=(signal.SIGINT, signal.SIGTERM)
    ) as server:
        port = server.local_addresses[0].port
        print(f"Echoing on port {port}. Talk to it with: nc localhost {port}", flush=True)
        task_status.started(server)
        await server.listening.draining.wait()


if __name__ == "__main__":
    trio.run(partial(main, port=int(sys.argv[1]) if sys.argv[1:] else PORT))
