"""`trio.serve_tcp`, what everything is compared with."""

from __future__ import annotations

from functools import partial

import trio

from ._common import HOST, announce
from ._trio_handlers import handler, start_sleeper


async def main() -> None:
    """Serve until killed."""
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, handler(), 0, host=HOST)
        )
        start_sleeper(nursery)
        announce(listeners[0].socket.getsockname()[1])


if __name__ == "__main__":
    trio.run(main)
