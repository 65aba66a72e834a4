"""Tutorial, step 6: accept events and receive events, and no task per connection."""

from __future__ import annotations

from functools import partial

import trio

import trio_wsk
from trio_wsk import ConnectionDispatch, EventMask, Irp, ListenDispatch, Status


def accept(connection: trio_wsk.Connection) -> ConnectionDispatch:
    """Take every connection, and say what is to be called when something happens on it."""
    print("accepted", connection, flush=True)
    return ConnectionDispatch(receive=receive, disconnect=disconnect)


def receive(connection: trio_wsk.Connection, data: bytes) -> None:
    """Send it back; receive nothing more from a client that doesn't read."""
    if connection.send_nowait(data):
        connection.disable_event_nowait(EventMask.RECEIVE)
        connection.queue_send(b"", on_completion=partial(go_on, connection))


def go_on(connection: trio_wsk.Connection, irp: Irp[int]) -> None:
    """Receive again, when all that was queued has been sent."""
    if irp.status is Status.SUCCESS:
        connection.enable_events(EventMask.RECEIVE)


def disconnect(connection: trio_wsk.Connection, abortive: bool) -> None:  # noqa: FBT001 - WSK's
    """Finish after the client has."""
    if not abortive:
        connection.disconnect()


if __name__ == "__main__":
    dispatch = ListenDispatch(accept=accept)
    trio.run(partial(trio_wsk.serve_events, dispatch, 7007, host="localhost"))
