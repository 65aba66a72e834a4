"""What the rooms above may do with a connection, and its users may not.

`Connection` is a public class, and each public method of it is a promise to users. So what a
listening socket and a server need beyond that are functions: nothing becomes interface by accident.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from trio_wsk._engine.pump import FAILED
from trio_wsk._vocabulary.end_reason import EndReason
from trio_wsk._vocabulary.errors import ConnectionBrokenError

from .state import OVER_IDLE, RESET_HERE, RETIRED, SHAKING_HANDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsk._engine.irp import Irp
    from trio_wsk._vocabulary.more import More

    from .between import Between
    from .block import Block
    from .connection import Connection
    from .dispatch import ConnectionDispatch
    from .state import Owner
    from .turns import Turns

__all__ = [
    "between",
    "call_accept",
    "end",
    "end_by_server",
    "give_dispatch",
    "give_to_task",
    "hold_events",
    "is_ended_by_server",
    "is_over_idle",
    "is_owned_by",
    "is_retired",
    "must_wait_to_part",
    "own",
    "part",
    "post_completion",
    "receive_next",
    "shake_hands",
    "start_events",
    "start_without_events",
    "tell_drain",
    "wait_to_part",
]


# --- Its beginning ---------------------------------------------------------------------


def give_dispatch(connection: Connection, dispatch: ConnectionDispatch) -> None:
    """Give a new connection callbacks, with no event enabled yet."""
    connection._dispatch = dispatch


def own(connection: Connection, owner: Owner) -> None:
    """Have the owner told of the end of this connection, which is the block's until then."""
    connection._owner = owner


def give_to_task(connection: Connection) -> None:
    """Leave a new connection to a task, as if the block had never had it."""
    connection._owner = None
    connection._may_leave_block()
    if connection._watch is not None:
        connection._watch.sink = None


def is_owned_by(connection: Turns, owner: Owner) -> bool:
    """Whether this owner keeps account of the connection."""
    return connection._owner is owner


def call_accept(connection: Connection, callback: Callable[[Connection], object]) -> object:
    """In the pump: give a new connection to the accept callback, and return the answer.

    `start_events` or `start_without_events` follow, or the connection is ended.

    Raises:
      ConnectionBrokenError: the peer had gone already, and the callback let that out.
    """
    block = connection._block
    block.event_driven.add(connection)
    return block.call("accept", connection, connection._own_context(), callback, connection)


def start_events(connection: Connection, mask: int, dispatch: ConnectionDispatch) -> None:
    """In the pump: go on with these events, after an accept callback has answered."""
    connection._start_events(mask, dispatch)


def start_without_events(connection: Connection) -> None:
    """Go on without events, after an accept callback has answered."""
    connection._may_leave_block()


def hold_events(connection: Connection, dispatch: ConnectionDispatch) -> None:
    """Enable all events that have a callback, from the pump's next turn on."""
    connection._hold_events(dispatch)


def post_completion(block: Block, irp: Irp[Connection]) -> None:
    """Have the pump call the completion routine of an Irp that brings a connection."""
    block.post(partial(_call_completion, block, irp))


def _call_completion(block: Block, irp: Irp[Connection]) -> None:
    """In the pump: call the completion routine, and end the connection if that fails."""
    assert irp.on_completion is not None
    connection = irp.information
    try:
        context = block.context.copy()
        answer = block.call("on_completion", connection, context, irp.on_completion, irp)
    except ConnectionBrokenError:
        answer = FAILED
    if answer is FAILED and connection is not None:
        connection.abort()


def shake_hands(connection: Connection, *, is_over: bool = False) -> None:
    """Take note: TLS begins to shake hands on the connection, or is through with it."""
    if is_over:
        connection._marks &= ~SHAKING_HANDS
    else:
        connection._marks |= SHAKING_HANDS


# --- Between two requests --------------------------------------------------------------


def between(connection: Connection) -> Between:
    """Return who waits for a next request in the connection's block."""
    return connection._block.between


def receive_next(
    connection: Connection, idle: float, *, in_loop: bool = False
) -> Awaitable[bytes | bytearray | More]:
    """Receive the first octets of the next request, or say why there is none.

    In a loop, without letting other tasks run if its body has.
    """
    return connection._receive_next(idle, in_loop=in_loop)


# --- Its end ---------------------------------------------------------------------------


def tell_drain(connection: Turns, callback: Callable[..., object]) -> None:
    """In the pump: call the drain callback, if the connection has events."""
    connection._tell_drain(callback)


def must_wait_to_part(connection: Connection) -> bool:
    """Whether something is to be sent before `part`, and has no room now."""
    return connection._must_wait_to_part


def wait_to_part(connection: Connection) -> Awaitable[None]:
    """Wait until all has been sent; reset the connection if the peer does not take it."""
    return connection._wait_to_part()


def part(connection: Connection) -> None:
    """Close without waiting; a peer that has not finished yet is let finish in nobody's time."""
    connection._part()


def end(connection: Turns, reason: EndReason, error: BaseException | None = None) -> None:
    """Reset the connection, if it is open, and say why."""
    connection._abort(reason, error)


def end_by_server(connection: Connection) -> None:
    """Reset the connection under the handler that holds it, and that finds it broken."""
    connection._reset_by_server(EndReason.SERVER_ENDED)


def is_over_idle(connection: Connection) -> bool:
    """Whether the connection was idle for too long, and is ended for that."""
    return bool(connection._marks & OVER_IDLE)


def is_retired(connection: Turns) -> bool:
    """Whether the connection was told that its lifetime is over."""
    return bool(connection._marks & RETIRED)


def is_ended_by_server(connection: Connection) -> bool:
    """Whether it is the server that ends the connection, and neither side by itself."""
    return bool(connection._marks & (OVER_IDLE | RESET_HERE))
