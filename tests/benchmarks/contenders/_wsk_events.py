"""What the contenders on `trio_wsk.serve_events` share: all but the receive callback."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio

import trio_wsk

from ._common import HOST, announce


def close(connection: trio_wsk.Connection, abortive: bool) -> None:  # noqa: FBT001
    """Close after the peer did, either way. (The shape is the callback's.)"""
    connection.close()


async def serve(receive: Callable[[trio_wsk.Connection, bytes], None]) -> None:
    """Serve until killed, `receive` answering each indication of data."""
    # One record for all connections: it says nothing about any one of them.
    events = trio_wsk.ConnectionDispatch(receive=receive, disconnect=close)

    def accept(_connection: trio_wsk.Connection | None) -> trio_wsk.ConnectionDispatch:
        """Take every connection."""
        return events

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(
                trio_wsk.serve_events,
                trio_wsk.ListenDispatch(accept=accept),
                0,
                host=HOST,
            )
        )
        announce(server.local_addresses[0].port)
