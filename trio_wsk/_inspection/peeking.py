"""Peeking: an inspector looks at a request's first octets, and leaves them where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from trio_wsk._engine.callers import check_caller
from trio_wsk._vocabulary.arguments import whole_number
from trio_wsk._vocabulary.errors import (
    ConnectionBrokenError,
    InvalidDeviceStateError,
    InvalidParameterError,
    SocketBusyError,
)
from trio_wsk._vocabulary.status import Status
from trio_wsk._vocabulary.verdict import AbortReason
from trio_wsk.transports._contract import PeerEnd, PeerFaultError

from .request import PEEK_LIMIT
from .table import UNDECIDED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from trio_wsk._engine.callers import Home

    from .request import ConnectionRequest

__all__ = ["Peeking"]


@final
class Peeking:
    """The looks at the requests of one listening socket.

    Args:
      home: The Trio run in which they are.
      gone: How a peer has to leave to count as gone.
      left: Called when a look finds that a peer has gone.
    """

    def __init__(
        self,
        home: Home,
        gone: Collection[PeerEnd],
        left: Callable[[ConnectionRequest, AbortReason], object],
    ) -> None:
        self.requests: set[ConnectionRequest] = set()
        """The requests that somebody peeks at now."""
        self._home = home
        self._gone = gone
        self._has_left = left

    async def peek(self, request: ConnectionRequest, count: int, least: int | None) -> bytes:
        """Look at the first octets of a request; see `ConnectionRequest.peek`."""
        if not whole_number(count) or not 1 <= count <= PEEK_LIMIT:
            raise InvalidParameterError(f"peek takes a count from 1 to {PEEK_LIMIT}, not {count!r}")
        if least is None:
            least = count
        elif not whole_number(least) or not 1 <= least <= count:
            raise InvalidParameterError(f"least is a count from 1 to {count}, not {least!r}")
        check_caller(self._home, "request.peek")
        if request in self.requests:
            await trio.lowlevel.checkpoint()
            raise SocketBusyError("peek() while another task is peeking at this request")
        self.requests.add(request)
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            data = self._peek_now(request, count, least)
            if data is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
            while data is None:
                await request._transport_request.wait_for_more()
                data = self._peek_now(request, count, least)
        except (ConnectionBrokenError, InvalidDeviceStateError):
            # In `cancel_scope` it ends here, cancelled.
            await trio.lowlevel.checkpoint()  # noqa: ASYNC120 - that is what the caller is to see
            raise
        finally:
            self.requests.discard(request)
        return data

    def look(self, request: ConnectionRequest, count: int) -> bytes:
        """Look at what has come of the first octets, up to so many, on any stack, without a wait.

        None at all is no news: what has become of the peer is found by who waits for more.
        """
        try:
            return request._transport_request.peek(count)[0]
        except PeerFaultError:
            return b""

    @trio.lowlevel.enable_ki_protection
    def _peek_now(self, request: ConnectionRequest, count: int, least: int) -> bytes | None:
        """Look; None if more may come."""
        if request.aborted is not None:
            raise _over(f"the request of {request.remote_address} is over", request.aborted.reason)
        if request._state not in UNDECIDED:
            raise InvalidDeviceStateError(
                f"the request of {request.remote_address} is {request._state.value}: peek before"
                " the verdict, receive after it"
            )
        try:
            data, is_all = request._transport_request.peek(count)
        except PeerFaultError as fault:
            self._has_left(request, AbortReason.RESET)
            raise _over(
                f"the request of {request.remote_address} has failed", fault
            ) from fault.error
        if is_all and not data and PeerEnd.FIN in self._gone:
            # The edge that says so is on its way; the verdict must not depend on who is faster.
            self._has_left(request, AbortReason.FIN)
            raise ConnectionBrokenError(
                f"the peer of the request, {request.remote_address}, has left",
                status=Status.CONNECTION_ABORTED,
            )
        return data if is_all or len(data) >= least else None

    @trio.lowlevel.enable_ki_protection
    def consume(self, request: ConnectionRequest, count: int) -> None:
        """Take octets that `peek` has just shown. Nothing happens if the request is over."""
        if request._state in UNDECIDED:
            try:
                request._transport_request.consume(count)
            except PeerFaultError:
                self._has_left(request, AbortReason.RESET)


def _over(what: str, why: AbortReason | PeerFaultError) -> ConnectionBrokenError:
    reason = why.value if isinstance(why, AbortReason) else why
    return ConnectionBrokenError(f"{what}: {reason}", status=Status.CONNECTION_ABORTED)
