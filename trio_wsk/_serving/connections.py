"""The account of a server's connections: who is open, and the permits that they hold.

Nothing here awaits but the wait for the end of the last one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final, cast, final

import trio

from trio_wsk._connection import control
from trio_wsk._connection.idleness import IdleEnds
from trio_wsk._connection.lifetimes import Lifetimes
from trio_wsk._vocabulary.end_reason import EndReason

if TYPE_CHECKING:
    from trio_wsk._connection.connection import Connection
    from trio_wsk._connection.turns import Turns
    from trio_wsk._listening.admitting import Admitting

__all__ = ["OpenConnections", "ServedConnections"]


class ServedConnections:
    """The connections of one server.

    Args:
      admitting: Where they come from, and where their permits go back to.
      gives_permits: Whether somebody waits for permits.
      idle_timeout: How long nothing may pass on a connection, in seconds.
      max_lifetime: How long one may be open, in seconds, before it is told to finish.
      grace: How much longer.
    """

    delivers = True

    def __init__(
        self,
        admitting: Admitting,
        *,
        gives_permits: bool,
        idle_timeout: float,
        max_lifetime: float,
        grace: float,
    ) -> None:
        self.open: int = 0
        """How many are open."""
        self.open_most: int = 0
        """How many were open at once, at most."""
        self.served: int = 0
        """How many have ended."""
        self.ended_idle: int = 0
        """How many of these were ended because nothing had passed for too long."""
        self.expired: int = 0
        """How many of these had had their lifetime."""
        self.were_reset: int = 0
        """How many were open when all that were left were reset."""
        self.have_been_reset: bool = False
        """Whether all that were left have been reset."""
        self._admitting = admitting
        self._block = admitting.block
        self._gives_permits = gives_permits
        self._idle = (
            None if idle_timeout == math.inf else IdleEnds(self._block.call_at, idle_timeout)
        )
        self._lifetimes = (
            None
            if max_lifetime == math.inf
            else Lifetimes(self._block, max_lifetime, grace, self.tell)
        )
        self._handled: set[Connection] = set()  # by handlers: a reset reaches them all
        self._shaking: set[Connection] = set()  # hands, before anybody gets them
        self._none_open: trio.Event | None = None
        self.view: Final = OpenConnections(self)
        """What users see of it."""

    def opened(self, connection: Connection) -> None:
        """Take note: a handler is about to be given this connection."""
        self._handled.add(connection)
        self._count_opened(connection)
        self._begin(connection)

    def opened_with_events(self, connection: Connection) -> None:
        """Take note: callbacks get this connection, which itself says when it ends."""
        control.own(connection, self)
        self._count_opened(connection)
        self._begin(connection)

    def opened_to_shake_hands(self, connection: Connection) -> None:
        """Take note: this connection is to shake hands before anybody gets it."""
        self._shaking.add(connection)
        self._count_opened(connection)

    def has_shaken_hands(self, connection: Connection, *, is_handled: bool) -> None:
        """Take note: a handler gets this connection now, or callbacks."""
        self._shaking.discard(connection)
        if is_handled:
            control.give_to_task(connection)
            self._handled.add(connection)
        else:
            control.own(connection, self)
        self._begin(connection)

    def _begin(self, connection: Connection) -> None:
        """What passes from now on passes between its peer and its user."""
        if self._idle is not None:
            self._idle.watch(connection)

    def _count_opened(self, connection: Connection) -> None:
        self.open += 1
        if self.open > self.open_most:  # noqa: PLR1730 - max() costs more, each time
            self.open_most = self.open
        if self._lifetimes is not None:
            self._lifetimes.begin(connection)

    def ended(self, connection: Connection) -> None:
        """Take note: this connection has ended; whoever waits for a permit gets its own."""
        self.open -= 1
        self.served += 1
        self._handled.discard(connection)
        self._shaking.discard(connection)
        if self._idle is not None:
            self._idle.forget(connection)
            self.ended_idle += control.is_over_idle(connection)
        if self._lifetimes is not None:
            self._lifetimes.forget(connection)
            self.expired += control.is_retired(connection)
        if not self.open and self._none_open is not None:
            self._none_open.set()
            self._none_open = None
        if self._gives_permits:
            self._admitting.return_permit()

    def __contains__(self, connection: object) -> bool:
        """Whether this connection is one of them, and open."""
        if connection in self._handled or connection in self._shaking:
            return True
        return connection in self._block.event_driven and control.is_owned_by(connection, self)

    def listed(self) -> list[Connection]:
        """Return those that are open, in no order."""
        with_events = cast("set[Connection]", self._block.event_driven)
        ours = (each for each in with_events if control.is_owned_by(each, self))
        return [*self._handled, *self._shaking, *ours]

    async def wait_none_open(self) -> None:  # noqa: ASYNC910 - a drain has other checkpoints
        """Wait until no connection is open."""
        while self.open:
            if self._none_open is None:
                self._none_open = trio.Event()
            await self._none_open.wait()

    def reset_all(self) -> None:
        """Reset every connection that is open, whoever has it."""
        if not self.have_been_reset:  # abort() during a drain comes first
            self.have_been_reset = True
            self.were_reset = self.open - sum(each.closed for each in self._handled)
        for handled in self._handled:
            control.end_by_server(handled)
        for connection in list(self._block.event_driven):
            control.end(connection, EndReason.SERVER_ENDED)

    def tell_drain(self) -> None:
        """Have every connection that is event-driven told that the server drains."""
        for connection in self._block.event_driven:
            if control.is_owned_by(connection, self) and not control.is_retired(connection):
                self.tell(connection)

    def tell(self, connection: Turns) -> None:
        """Have one connection's callback told of a drain, after whatever it is being told now."""
        callback = self._admitting.drain_callback
        if callback is not None:
            self._block.post(partial(control.tell_drain, connection, callback))


@final
class OpenConnections(Collection["Connection"]):
    """The open connections of one server, as they are whenever one looks: for its users.

    Args:
      served: The account of them.
    """

    def __init__(self, served: ServedConnections) -> None:
        self._served = served

    def __repr__(self) -> str:
        return f"<{len(self)} open connections>"

    def __len__(self) -> int:
        """How many there are now."""
        return self._served.open

    def __contains__(self, connection: object) -> bool:
        """Whether this one is open now."""
        return connection in self._served

    def __iter__(self) -> Iterator[Connection]:
        """Go through those that are open now, but for those that end meanwhile."""
        for each in self._served.listed():
            if each in self._served:
                yield each
