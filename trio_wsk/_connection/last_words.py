"""Last words: a message to a peer that is turned away, and the time to read it.

The peer gets a connection of the block's that nobody else has. It sends the message and FIN,
throws away what the peer still sends, and is closed when the peer has finished or has had its
time. Closing earlier, with input unread, would send a reset, and a reset makes the peer's
kernel throw away what its program has not read.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._engine.deadlines import Deadlines
from trio_wsk._vocabulary.errors import ConnectionBrokenError
from trio_wsk._vocabulary.verdict import CloseStyle

from .connection import Connection
from .dispatch import ConnectionDispatch

if TYPE_CHECKING:
    from trio_wsk.transports._contract import TransportRequest

    from .block import Block

__all__ = ["LastWords"]

READING_SECONDS: Final = 2.0
"""How long a peer has to read its last words: half of nginx's ``lingering_timeout``."""

READING_MOST: Final = 1024
"""How many peers may be reading their last words at once, each with a descriptor. Beyond it
the one that has had the longest is reset."""


class LastWords:
    """The peers of one listening block that are reading why they were turned away."""

    delivers = False
    """Nobody has had them."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._connections: OrderedDict[Connection, None] = OrderedDict()
        self._deadlines = Deadlines(block.call_at, READING_SECONDS, Connection.abort)
        self._all_read: trio.Event | None = None

    def say(self, request: TransportRequest, message: bytes) -> CloseStyle:
        """Answer a request with a message and FIN, or with a reset; return which. Never raises."""
        request.unwatch_end()
        if not request.approve():  # a transport that has FIN has a connection to send it on
            request.reset()
            return CloseStyle.RESET
        if len(self._connections) >= READING_MOST:
            next(iter(self._connections)).abort()
        connection = Connection(request.accept(), request, self._block)
        self._connections[connection] = None
        connection._owner = self
        self._block.event_driven.add(connection)
        self._deadlines.start(connection)
        try:
            connection.disconnect(data=message)
        except ConnectionBrokenError:
            connection.abort()
            return CloseStyle.RESET
        connection._start_events(0, ConnectionDispatch())
        return CloseStyle.MESSAGE

    async def wait_read(self) -> None:  # noqa: ASYNC910 - a drain has other checkpoints
        """Wait until nobody reads any more: some seconds at most."""
        while self._connections:
            if self._all_read is None:
                self._all_read = trio.Event()
            await self._all_read.wait()

    def ended(self, connection: Connection) -> None:
        """Take note: it is closed."""
        del self._connections[connection]
        self._deadlines.forget(connection)
        if not self._connections and self._all_read is not None:
            self._all_read.set()
            self._all_read = None
