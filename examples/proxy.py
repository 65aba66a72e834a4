"""A TCP proxy with callbacks: no task for any connection, whichever side has opened it.

Run ``python examples/proxy.py HOST PORT [OUR_PORT]``, with the name and the port of a backend, and
talk to ``localhost:7014`` instead of it. Ctrl-C or SIGTERM ends it: who is connected then has half
a minute to finish.

For each client a connection to the backend is opened. What comes from one of the two goes to the
other, in both directions; so does the end of it, and so do errors. Who reads slowly slows down who
sends to it, and nobody else.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

import trio_wsk
from trio_wsk import ConnectionDispatch, EndReason, ListenDispatch, Status

if TYPE_CHECKING:
    from trio_wsk import Connection, Irp
    from trio_wsk.observers import ConnectionEnded

PORT = 7014
IDLE = 600.0
"""How many seconds nothing may pass between a client and us."""
GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
"""What is raised where the other one has just ended, of which its own `closed` will tell."""
IN_GOOD_ORDER = (EndReason.FINISHED, EndReason.IDLE)


class Side:
    """What a connection is to do, and with whom: its context."""

    def __init__(self, other: Connection | None = None) -> None:
        self.other = other
        self.connecting: Irp[Connection] | None = None
        """How the other one is to come, on a client's side."""
        self.is_full = False
        """Whether the other one has still to take what has come from here."""
        self.has_finished = False
        """Whether nothing more comes from here."""
        self.is_closed = False


def side_of(connection: Connection) -> Side:
    """Read the context, which `accept` has set."""
    assert isinstance(connection.context, Side)
    return connection.context


def accept(host: str, port: int, client: Connection) -> ConnectionDispatch:
    """Take a client, and open a connection for it."""
    side = client.context = Side()
    side.connecting = client.listening.queue_connect(
        host,
        port,
        dispatch=SIDES,
        context=Side(client),
        on_completion=partial(connected, client),
    )
    return SIDES


def connected(client: Connection, irp: Irp[Connection]) -> None:
    """Join the two, if both are there."""
    side, backend = side_of(client), irp.information
    if backend is None:
        print(f"There is no backend for {client.remote_address}: {irp.status.name}", flush=True)
        client.abort()
    elif side.is_closed:
        backend.abort()
    else:
        side.other = backend
        client.resume_receive()
        if side.has_finished:
            backend.send_eof_nowait()


def receive(connection: Connection, data: bytes) -> Status:
    """Hand on what has come, unless the other one is not there yet or has enough for now."""
    side = side_of(connection)
    if side.other is None or side.is_full:
        return Status.DATA_NOT_ACCEPTED
    with suppress(*GONE):
        side.is_full = side.other.send_nowait(data) > 0
        if side.is_full:
            side.other.queue_send(b"", on_completion=partial(go_on, connection))
    return Status.SUCCESS


def go_on(connection: Connection, irp: Irp[int]) -> None:
    """Receive again: the other one has taken what there was."""
    if irp.status is Status.SUCCESS:
        side_of(connection).is_full = False
        connection.resume_receive()


def disconnect(connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - WSK's
    """Hand on that nothing more comes, after all that has."""
    side = side_of(connection)
    side.has_finished = True
    if side.other is not None and not abortive:
        with suppress(*GONE):
            side.other.send_eof_nowait()


def closed(connection: Connection, ended: ConnectionEnded) -> None:
    """Have the other one end as this one has."""
    side = side_of(connection)
    side.is_closed = True
    if side.other is None:
        if side.connecting is not None:
            side.connecting.cancel()
    elif ended.reason in IN_GOOD_ORDER:
        with suppress(*GONE):
            side.other.disconnect()
    else:
        side.other.abort()


SIDES = ConnectionDispatch(receive=receive, disconnect=disconnect, closed=closed)


if __name__ == "__main__":
    if not sys.argv[2:]:
        sys.exit(__doc__)
    host, port, *rest = sys.argv[1:]
    dispatch = ListenDispatch(accept=partial(accept, host, int(port)))
    our_port = int(rest[0]) if rest else PORT
    trio_wsk.run(dispatch, our_port, host="localhost", idle_timeout=IDLE)
