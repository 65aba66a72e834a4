"""
`trio_wsk.serve`, a task per connection, by a rule.

    python -m tests.benchmarks.contenders.wsk_ruled TASK RULE

RULE is ``listed``, a list that nobody who comes is on; ``denied``, one that all are on;
``limited``, a limit and a rate by source, which nobody comes near; ``proxied``, a PROXY header
from anybody; ``hello``, the name in a ClientHello.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

import trio_wsk
from trio_wsk.inspectors import (
    ProxyProtocol,
    Rules,
    SourceLimit,
    SourceRateLimit,
    deny,
    server_names,
)

from ._common import HOST, announce
from ._listed import CLIENTS, addresses
from ._trio_handlers import handler

RULES: Final[dict[str, Callable[[], Rules]]] = {
    "listed": lambda: Rules(deny(list(addresses(clients=False)))),
    "denied": lambda: Rules(deny(list(addresses(clients=True)))),
    "limited": lambda: Rules(SourceLimit(1000), SourceRateLimit(1000)),
    "proxied": lambda: Rules(ProxyProtocol(required=[CLIENTS])),
    "hello": lambda: Rules(server_names("example.com")),
}


async def main(rule: str) -> None:
    """Serve until killed."""
    rules = RULES[rule]()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(trio_wsk.serve, handler(), 0, host=HOST, inspect=rules)
        )
        announce(server.local_addresses[0].port)


if __name__ == "__main__":
    trio.run(main, sys.argv[2])
