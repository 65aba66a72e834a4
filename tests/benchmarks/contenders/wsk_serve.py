"""`trio_wsk.serve`, a task per connection, with the handlers of `trio_serve_tcp`."""

from __future__ import annotations

from functools import partial

import trio

import trio_wsk

from ._common import HOST, announce
from ._trio_handlers import handler


async def main() -> None:
    """Serve until killed."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_wsk.serve, handler(), 0, host=HOST))
        announce(server.local_addresses[0].port)


if __name__ == "__main__":
    trio.run(main)
