"""
`trio_wsk.serve`, a task per connection, with the handlers of `trio_serve_tcp`.

    python -m tests.benchmarks.contenders.wsk_serve TASK [FORM]

FORM is that of an inspector which lets everybody in, ``sync`` or ``async``. Without it there
is none.
"""

from __future__ import annotations

import sys
from functools import partial

import trio

import trio_wsk

from ._common import HOST, announce, tls_context
from ._trio_handlers import handler, start_sleeper
from ._wsk_inspectors import inspector_asked_for


async def main() -> None:
    """Serve until killed."""
    inspect = inspector_asked_for(sys.argv[2:])
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(
                trio_wsk.serve,
                handler(),
                0,
                host=HOST,
                inspect=inspect,
                ssl_context=tls_context(),
            )
        )
        start_sleeper(nursery)
        announce(server.local_addresses[0].port)


if __name__ == "__main__":
    trio.run(main)
