"""Tutorial, step 3: a server that ends in good order."""

from __future__ import annotations

import trio_wsk


async def echo(connection: trio_wsk.Connection) -> None:
    """Send back what one client sends."""
    while await connection.more(idle=60):
        await connection.send_all(await connection.receive_some())


if __name__ == "__main__":
    # Until Ctrl-C; then clients have two seconds to finish.
    trio_wsk.run(echo, 7007, host="localhost", grace=2)
