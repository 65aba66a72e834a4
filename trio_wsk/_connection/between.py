"""Between two requests: how a handler waits for the next one, and learns that there will be none.

A handler that waits for its peer to say something new is the only one that can be ended without
harm: there is no answer to be cut short. So it is its receive that a drain ends, or the end of
the time that the peer may be silent, and nothing else. A cancel scope around each wait would do
that, and would cost more than the wait, so a receive is told by a mark of its connection. It is
told the same way below a `trio.SSLStream`: the stream above is left as by a cancellation.

A drain takes one last look at each connection, and what has come by then is still answered. A
client that does not know of the drain has sent it in good faith; and one that never stops
sending would, without an end to looking, keep the server for all its grace. From a connection that
was never heard of, the first request is waited for a little: it has just been taken from the
queue, perhaps, and what it says is on its way.
"""

from __future__ import annotations

import math
from operator import methodcaller
from typing import TYPE_CHECKING, Final, final
from weakref import WeakKeyDictionary

import trio

from trio_wsk._engine.deadlines import Deadlines
from trio_wsk._vocabulary.more import More

from .farewell import HEARD_SECONDS
from .state import INTERRUPTED, OVER_IDLE, RETIRED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .wire import Wire

    Octets = bytes | bytearray
    Receive = Callable[[], Awaitable[Octets]]

__all__ = ["Between", "Interrupted", "receive_in_time"]


LAST_OCTETS: Final = 98304
"""How much a last look takes, in octets, but for the rest of a TLS record: as one receive does."""


class Interrupted(Exception):  # noqa: N818 - no error, but a way out
    """Ends a receive, as a cancellation would: it has taken nothing."""


@final
class Between:
    """Who waits in one block for a next request, and whether there is to be one.

    Args:
      call_at: Has something called at a time, in seconds on Trio's clock.
    """

    def __init__(self, call_at: Callable[[float, Callable[[], object]], object]) -> None:
        self.draining: Final = trio.Event()
        """Set when the server wants its connections to finish."""
        self.has_lifetimes: bool = False
        """Whether it wants some to finish before the others."""
        self._own: WeakKeyDictionary[Wire, trio.Event] = WeakKeyDictionary()
        self._call_at = call_at
        self._waiting: set[Wire] = set()
        self._idle: dict[float, Deadlines[Wire]] = {}  # by how long they may be silent

    def drain(self) -> None:
        """Want connections to finish: from now on nobody waits for a next request."""
        self.draining.set()
        for own in self._own.values():
            own.set()
        for connection in self._waiting:
            connection._interrupt()

    def retire(self, connection: Wire) -> None:
        """Want one connection to finish, as by a drain."""
        connection._marks |= RETIRED
        self.draining_of(connection).set()
        if connection in self._waiting:
            connection._interrupt()

    def is_draining(self, connection: Wire) -> bool:
        """Whether this connection is wanted to finish."""
        return self.draining.is_set() or bool(connection._marks & RETIRED)

    def draining_of(self, connection: Wire) -> trio.Event:
        """Return what is set when this connection is wanted to finish.

        It is the same for all, unless they have lifetimes.
        """
        if not self.has_lifetimes:
            return self.draining
        own = self._own.get(connection)
        if own is None:
            own = self._own[connection] = trio.Event()
            if self.is_draining(connection):
                own.set()
        return own

    def is_waiting(self, connection: Wire) -> bool:
        """Whether somebody waits for this connection's next request."""
        return connection in self._waiting

    async def receive(
        self, connection: Wire, receive: Receive, idle: float, *, is_heard: bool
    ) -> Octets | More:
        """Receive the first octets of the next request, or say why there is none.

        `NextRequest._receive_next` does the same in fewer steps where nothing is between.

        Call it once while the server drains, and not again: this is the last look.

        Args:
          connection: Whose request.
          receive: Receives from it, or from a `trio.SSLStream` over it; takes nothing if it is
            cancelled.
          idle: Seconds on Trio's clock that the peer may say nothing.
          is_heard: Whether anything was received from this peer before.

        Raises: what ``receive`` does.

        Always a checkpoint. If cancelled, nothing was taken.
        """
        if connection._marks & OVER_IDLE:
            await trio.lowlevel.checkpoint()
            connection._marks |= INTERRUPTED  # what is here is given all the same
        if not self.is_draining(connection) or connection._marks & OVER_IDLE:
            self._waiting.add(connection)
            try:
                if idle == math.inf:
                    return await receive() or More.FINISHED
                if not idle or not connection._block.is_served:
                    if not idle:
                        connection._look_ahead()
                    return await receive_in_time(receive, idle)
                deadlines = self._deadlines(idle)
                deadlines.start(connection)
                try:
                    return await receive() or More.FINISHED
                finally:
                    deadlines.forget(connection)
            except Interrupted:
                pass
            finally:
                self._waiting.discard(connection)
                connection._marks &= ~INTERRUPTED
            if not self.is_draining(connection) or connection._marks & OVER_IDLE:
                return More.IDLE  # noqa: ASYNC910 - it has waited for that
        return await self._receive_last(connection, receive, idle, is_heard=is_heard)

    async def _receive_last(
        self, connection: Wire, receive: Receive, idle: float, *, is_heard: bool
    ) -> Octets | More:
        """Take the last look at a connection of a server that drains."""
        await trio.lowlevel.checkpoint()
        before = connection._octets_in
        there = await _receive_what_is_there(connection, receive)
        if there is not None:
            return there or More.FINISHED
        # What came may be a part of what `receive` wants: of a TLS record, here or above.
        may_come = connection._octets_in > before or connection._has_part or not is_heard
        if may_come and idle:
            with trio.move_on_after(min(idle, HEARD_SECONDS)):
                return await receive() or More.FINISHED
        return More.DRAINING

    def _deadlines(self, idle: float) -> Deadlines[Wire]:
        deadlines = self._idle.get(idle)
        if deadlines is None:
            # Nobody waits for long with a time that nobody uses any more.
            self._idle = {each: some for each, some in self._idle.items() if len(some)}
            deadlines = Deadlines(self._call_at, idle, methodcaller("_interrupt"))
            self._idle[idle] = deadlines
        return deadlines


async def receive_in_time(receive: Receive, idle: float) -> Octets | More:
    """Receive, or say that the peer has said nothing for too long; see `Between.receive`."""
    if idle == math.inf:
        return await receive() or More.FINISHED
    with trio.move_on_after(idle or math.inf) as scope:
        if not idle:
            _cancel_soon(scope)
        return await receive() or More.FINISHED
    return More.IDLE


async def _receive_what_is_there(connection: Wire, receive: Receive) -> Octets | None:
    """Receive all that is here already, up to a limit; None if nothing is.

    Of a `trio.SSLStream` that takes several receives: each gives a record at most.
    """
    received = bytearray()
    connection._look_twice()
    connection._marks |= INTERRUPTED  # for as long as something is here, it says nothing
    try:
        while len(received) < LAST_OCTETS:
            octets = await receive()
            if not octets:
                return received
            received += octets
    except Interrupted:
        return received or None  # noqa: ASYNC910 - our caller has another checkpoint
    except trio.BrokenResourceError:
        if not received:
            raise  # else the next receive will
    finally:
        connection._marks &= ~INTERRUPTED
    return received  # noqa: ASYNC910 - as above


def _cancel_soon(scope: trio.CancelScope) -> None:
    """Cancel what would wait, and not what is done at once."""
    trio.lowlevel.current_trio_token().run_sync_soon(scope.cancel)
