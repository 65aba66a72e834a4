"""Tutorial, step 12: a request that was inspected, and the connection that came of it."""

from __future__ import annotations

from functools import partial

import trio

import trio_wsk
from trio_wsk import ConnectionDispatch, InspectAction, InspectId, ListenDispatch, Status
from trio_wsk.observers import ConnectionEnded

NAMES = {"127.0.0.1": "Anna", "::1": "Anna"}
MOST = 1

expected: dict[InspectId, str] = {}
guests: set[trio_wsk.Connection] = set()


def inspect(request: trio_wsk.ConnectionRequest) -> InspectAction:
    """Let in who has a name, and remember which: WskInspectEvent."""
    name = NAMES.get(str(request.remote_address.host))
    if name is None:
        return InspectAction.REJECT
    expected[request.inspect_id] = name
    return InspectAction.ACCEPT


def abort(inspect_id: InspectId) -> None:
    """Forget who has left before there was a connection: WskAbortEvent."""
    print("gone", expected.pop(inspect_id), flush=True)


def accept(connection: trio_wsk.Connection) -> ConnectionDispatch | Status:
    """Give a connection the name that its request had, if there is room: WskAcceptEvent."""
    assert connection.inspect_id is not None
    name = expected.pop(connection.inspect_id)
    if len(guests) == MOST:
        print("no room for", name, flush=True)
        return Status.REQUEST_NOT_ACCEPTED
    print("welcome", name, flush=True)
    connection.context = name
    guests.add(connection)
    return ConnectionDispatch(receive=receive, closed=closed)


def receive(connection: trio_wsk.Connection, data: bytes) -> None:
    """Send it back, with the name."""
    connection.send_nowait(f"{connection.context}: ".encode() + data)


def closed(connection: trio_wsk.Connection, ended: ConnectionEnded) -> None:
    """Have the room back."""
    guests.remove(connection)
    print("good-bye", connection.context, ended.reason.value, flush=True)


if __name__ == "__main__":
    dispatch = ListenDispatch(inspect=inspect, abort=abort, accept=accept)
    trio.run(partial(trio_wsk.serve_events, dispatch, 7007, host="localhost"))
