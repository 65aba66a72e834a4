"""The echo server with callbacks instead of tasks: WSK's echo server sample, in Python.

Run ``python examples/echo_events.py [PORT]``; it says how to talk to it. Ctrl-C or
SIGTERM ends it, and resets whoever is connected then.

A client that sends and doesn't read must not fill our memory. When the kernel doesn't take
all of an answer, the rest is queued, and nothing more is received from this client
until the queue is empty: its own sending stalls then, as with the awaited server.
"""

from __future__ import annotations

import signal
import sys
from functools import partial

import trio

import trio_wsk
from trio_wsk import ConnectionDispatch, EventMask, ListenDispatch, Status

PORT = 7008


def accept(_connection: trio_wsk.Connection) -> ConnectionDispatch:
    """Take every connection: WskAcceptEvent."""
    return ECHO


def receive(connection: trio_wsk.Connection, data: bytes) -> None:
    """Send the data back: WskReceiveEvent."""
    if connection.send_nowait(data):
        connection.disable_event_nowait(EventMask.RECEIVE)
        connection.queue_send(b"", on_completion=partial(go_on, connection))


def go_on(connection: trio_wsk.Connection, irp: trio_wsk.Irp[int]) -> None:
    """Receive again: what was queued before this empty send has gone."""
    if irp.status is Status.SUCCESS:
        connection.enable_events(EventMask.RECEIVE)


def disconnect(connection: trio_wsk.Connection, abortive: bool) -> None:  # noqa: FBT001 - WSK's
    """Finish after the client has, and after what is still queued: WskDisconnectEvent."""
    if not abortive:
        connection.disconnect()


ECHO = ConnectionDispatch(receive=receive, disconnect=disconnect)


async def main(
    *,
    port: int = PORT,
    task_status: trio.TaskStatus[trio_wsk.ListeningSocket] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until a signal comes."""
    dispatch = ListenDispatch(accept=accept)
    async with trio_wsk.open_listening_socket(
        port, host="localhost", dispatch=dispatch
    ) as listening:
        # The connections that accept() takes inherit RECEIVE and DISCONNECT.
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE | EventMask.DISCONNECT)
        port = listening.local_addresses[0].port
        print(f"Echoing on port {port}. Talk to it with: nc localhost {port}", flush=True)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started(listening)
            await anext(signals)


if __name__ == "__main__":
    trio.run(partial(main, port=int(sys.argv[1]) if sys.argv[1:] else PORT))
