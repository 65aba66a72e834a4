"""What the rooms above may do with a request, and its users may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._connection.carried import Recovered
    from trio_wsk._vocabulary.records import Record

    from .request import ConnectionRequest

__all__ = ["consume", "give_back", "look", "recover", "report", "tell"]


def look(request: ConnectionRequest, count: int) -> bytes:
    """Return what has come of the first octets, up to so many; none if it can't be known yet.

    As a rule they come with the connection, and then a rule is plain that would else be async: a
    task and a wait cost more than all that there is to read. Who needs more than this has to ask
    `ConnectionRequest.peek`.
    """
    return request._inspector.look(request, count)


def consume(request: ConnectionRequest, count: int) -> None:
    """Take octets that `look` or `ConnectionRequest.peek` has just shown.

    The connection begins after them. If its peer has reset meanwhile, the request is over.
    """
    request._inspector.consume(request, count)


def recover(request: ConnectionRequest, recovered: Recovered) -> None:
    """Have these be the addresses of a request, and of its connection, from now on."""
    request._carries().recover(recovered)


def give_back(request: ConnectionRequest, place: Callable[[], object]) -> None:
    """Have a place be given back when a request or its connection has ended.

    As `ConnectionRequest.at_end` does, but at once, on the stack of whatever ends it; so it is for
    what only takes note of that, and raises nothing.
    """
    request._carries().give_back(place)


def tell(request: ConnectionRequest, kind: type[Record], **fields: object) -> None:
    """Make a record about a request, if anybody observes its kind."""
    block = request._inspector.block
    if kind in block.observers.wanting:
        block.tell(
            kind, inspect_id=request.inspect_id, remote_address=request.remote_address, **fields
        )


def report(request: ConnectionRequest, error: Exception) -> None:
    """Report an error of an inspector that changes nothing."""
    request._inspector.block.report_callback("inspect", request, error)
