"""What the contenders on `trio_wsk.serve_events` share: all but the receive callback."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio

import trio_wsk

from ._common import HOST, announce, tls_context
from ._trio_handlers import start_sleeper
from ._wsk_inspectors import Inspector

Receive = Callable[[trio_wsk.Connection, bytes], None]


def close(connection: trio_wsk.Connection, abortive: bool) -> None:  # noqa: FBT001
    """Close after the peer did, either way. (The shape is the callback's.)"""
    connection.close()


def leave(connection: trio_wsk.Connection) -> trio_wsk.Status:
    """Close at once."""
    connection.close()
    return trio_wsk.Status.SUCCESS


async def serve(receive: Receive | None, *, inspect: Inspector | None = None) -> None:
    """Serve until killed, `receive` answering each indication of data; None: close at once."""
    # One record for all connections: it says nothing about any one of them.
    events = trio_wsk.ConnectionDispatch(receive=receive, disconnect=close)

    def take(_connection: trio_wsk.Connection) -> trio_wsk.ConnectionDispatch:
        """Take every connection."""
        return events

    accept = take if receive is not None else leave
    dispatch = trio_wsk.ListenDispatch(accept=accept, inspect=inspect)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(trio_wsk.serve_events, dispatch, 0, host=HOST, ssl_context=tls_context())
        )
        start_sleeper(nursery)
        announce(server.local_addresses[0].port)
