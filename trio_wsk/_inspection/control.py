"""What the rooms above may do with a request, and its users may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._connection.carried import Recovered
    from trio_wsk._vocabulary.records import Record

    from .request import ConnectionRequest

__all__ = ["consume", "give_back", "recover", "report", "tell"]


def consume(request: ConnectionRequest, count: int) -> None:
    """Take octets that `ConnectionRequest.peek` has just shown: the connection begins after them.

    If its peer has reset meanwhile, the request is over.
    """
    request._inspector.consume(request, count)


def recover(request: ConnectionRequest, recovered: Recovered) -> None:
    """Have these be the addresses of a request, and of its connection, from now on."""
    request._carries().recover(recovered)


def give_back(request: ConnectionRequest, callback: Callable[[], object]) -> None:
    """Do as `ConnectionRequest.at_end` does, for callbacks of ours: each check takes its time."""
    request._carries().at_end(callback)


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
