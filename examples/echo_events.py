"""Winsock Kernel's echo server sample, ``wsksmple.c``, with its callbacks and their names.

Run ``python examples/echo_events.py [PORT]``; it says how to talk to it. Ctrl-C or
SIGTERM ends it, and resets whoever is connected then.

A client that sends and doesn't read must not fill our memory. As in the sample, a connection has
two operations, each of which is receiving or sending back what it has received. While both are
sending, nothing more is received from this client: its own sending stalls then.

Where the sample differs: it queues its two receives, and here the receive event takes data as long
as there is an operation for it. It takes as many connections as there is memory for, and here there
is a number. When it is unloaded, it waits for its clients, and here leaving the block resets them.
"""

from __future__ import annotations

import signal
import sys
from functools import partial
from typing import TYPE_CHECKING

import trio

import trio_wsk
from trio_wsk import ConnectionDispatch, EventMask, ListenDispatch, Status

if TYPE_CHECKING:
    from trio_wsk.observers import ConnectionEnded

PORT = 7008
OPERATIONS = 2
"""WSKSAMPLE_OP_COUNT: how many may be outstanding on a connection."""
CONNECTIONS = 1000
"""How many may be open at once."""


class Operations:
    """The socket context of a connection: WSKSAMPLE_SOCKET_CONTEXT."""

    def __init__(self) -> None:
        self.free = OPERATIONS


def operations_of(connection: trio_wsk.Connection) -> Operations:
    """Read the socket context, which accept() has set."""
    assert isinstance(connection.context, Operations)
    return connection.context


def receive(connection: trio_wsk.Connection, data: bytes) -> Status:
    """Send the data back, if there is an operation for it: WskReceiveEvent."""
    operations = operations_of(connection)
    if not operations.free:
        return Status.DATA_NOT_ACCEPTED
    operations.free -= 1
    connection.queue_send(data, on_completion=partial(sent, connection))
    return Status.SUCCESS


def sent(connection: trio_wsk.Connection, irp: trio_wsk.Irp[int]) -> None:
    """Receive again, if that send has succeeded: WskSampleSendIrpCompletionRoutine."""
    if irp.status is Status.SUCCESS:
        operations_of(connection).free += 1
        connection.resume_receive()


def disconnect(connection: trio_wsk.Connection, abortive: bool) -> None:  # noqa: FBT001 - WSK's
    """Finish after the client has, and after what is still queued: WskDisconnectEvent."""
    if not abortive:
        connection.disconnect()


class Listener:
    """The listening socket's callbacks, and what they share."""

    def __init__(self, most: int) -> None:
        self.room = most
        self.failure: OSError | None = None
        self.echo = ConnectionDispatch(receive=receive, disconnect=disconnect, closed=self.closed)

    def accept(self, connection: trio_wsk.Connection) -> ConnectionDispatch | Status:
        """Take a connection, if there is room for it: WskAcceptEvent."""
        if not self.room:
            return Status.REQUEST_NOT_ACCEPTED
        self.room -= 1
        connection.context = Operations()
        return self.echo

    def closed(self, _connection: trio_wsk.Connection, _ended: ConnectionEnded) -> None:
        """Have its room back: WskSampleCloseIrpCompletionRoutine."""
        self.room += 1

    def failed(self, listening: trio_wsk.ListeningSocket, error: OSError) -> None:
        """Remember to open another listening socket: WskAcceptEvent without a socket."""
        print(f"{listening} has failed ({error.strerror}); opening another one", flush=True)
        self.failure = error


async def main(
    *,
    port: int = PORT,
    most: int = CONNECTIONS,
    task_status: trio.TaskStatus[trio_wsk.ListeningSocket] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until a signal comes, on one listening socket after the other if need be."""
    listener = Listener(most)
    dispatch = ListenDispatch(accept=listener.accept, failed=listener.failed)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        while True:
            try:
                async with trio_wsk.open_listening_socket(
                    port, host="localhost", dispatch=dispatch
                ) as listening:
                    # The connections that accept() takes inherit RECEIVE and DISCONNECT.
                    listening.enable_events(
                        EventMask.ACCEPT | EventMask.RECEIVE | EventMask.DISCONNECT
                    )
                    port = listening.local_addresses[0].port
                    print(f"Echoing on port {port}. Talk to it: nc localhost {port}", flush=True)
                    if listener.failure is None:
                        task_status.started(listening)
                    await anext(signals)
            except OSError as error:
                if error is not listener.failure:  # it could not be opened
                    raise
            else:
                return


if __name__ == "__main__":
    trio.run(partial(main, port=int(sys.argv[1]) if sys.argv[1:] else PORT))
