"""An echo server: what a client sends comes back to it, until it has finished.

Run ``python examples/echo.py [PORT]``; it says how to talk to it. Ctrl-C or SIGTERM
ends it: who has nothing to come back at once, and the others after a second at most.
Another one ends it at once.
"""

from __future__ import annotations

import signal
import sys
from functools import partial

import trio

import trio_wsk

PORT = 7007
IDLE = 300.0
"""How many seconds a client may say nothing."""


async def echo(connection: trio_wsk.Connection) -> None:
    """Send back what one client sends."""
    while await connection.more(idle=IDLE):
        await connection.send_all(await connection.receive_some())


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
