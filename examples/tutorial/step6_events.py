"""Tutorial, step 6: accept events and receive events, and no task per connection."""

from __future__ import annotations

from functools import partial

import trio

import trio_wsk
from trio_wsk import ConnectionDispatch, ListenDispatch


def accept(connection: trio_wsk.Connection) -> ConnectionDispatch:
    """Take every connection, and have receive() called for what comes."""
    print("accepted", connection, flush=True)
    return ConnectionDispatch(receive=receive)


def receive(connection: trio_wsk.Connection, data: bytes) -> None:
    """Send it back."""
    connection.send_nowait(data)


if __name__ == "__main__":
    dispatch = ListenDispatch(accept=accept)
    trio.run(partial(trio_wsk.serve_events, dispatch, 7007, host="localhost"))
