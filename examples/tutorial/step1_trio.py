"""Tutorial, step 1: an echo server with Trio alone."""

from __future__ import annotations

from functools import partial

import trio


async def echo(stream: trio.SocketStream) -> None:
    """Send back what one client sends."""
    async for data in stream:
        await stream.send_all(data)


if __name__ == "__main__":
    trio.run(partial(trio.serve_tcp, echo, 7007, host="localhost"))
