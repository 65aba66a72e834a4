"""`trio.serve_tcp`, what everything is compared with."""

from __future__ import annotations

from functools import partial

import trio

from ._common import HOST, announce, tls_context
from ._trio_handlers import handler, start_sleeper


async def main() -> None:
    """Serve until killed."""
    context = tls_context()
    serve = (
        partial(trio.serve_tcp, handler(), 0, host=HOST)
        if context is None
        else partial(trio.serve_ssl_over_tcp, handler(), 0, context, host=HOST)
    )
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(serve)
        if context is not None:
            listener = listener.transport_listener
        start_sleeper(nursery)
        announce(listener.socket.getsockname()[1])


if __name__ == "__main__":
    trio.run(main)
