"""The server at work: a listening socket, the account of who is open, and who takes them.

Two nurseries, handlers outside and the listening block inside: closing the listening socket can't
touch a handler, and cancelling the handlers can't touch who drains.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._connection import control
from trio_wsk._connection.farewell import Farewells
from trio_wsk._listening.admitting import Admitting
from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.statistics import ServerStatistics

from .connections import ServedConnections
from .handlers import Handlers, name_of
from .handshakes import Handshakes

if TYPE_CHECKING:
    from trio_wsk._connection.block import Block
    from trio_wsk._connection.connection import Connection
    from trio_wsk._listening.listening import ListeningSocket

    from .arguments import Settings

__all__ = ["ServerCore"]


class ServerCore:
    """What a `Server` is the face of.

    Args:
      settings: What it was opened with.
      listening: Its listening socket, which has just been opened.
      nursery: Where its handlers run; cancelling its scope ends nothing else.
    """

    def __init__(
        self, settings: Settings, listening: ListeningSocket, nursery: trio.Nursery
    ) -> None:
        self.settings: Final = settings
        self.listening: Final = listening
        self.nursery: Final = nursery
        self.admitting: Final = Admitting(listening)
        self.block: Final[Block] = self.admitting.block
        self.is_draining: bool = False
        """Whether a drain has begun."""
        self.over: Final = trio.Event()
        """Set when the server has ended: drained or aborted."""
        self.connections: Final = ServedConnections(
            self.admitting,
            gives_permits=settings.max_connections < math.inf,
            idle_timeout=settings.idle_timeout,
            max_lifetime=settings.max_lifetime,
            grace=settings.grace,
        )
        self.handlers: Final = self._make_handlers()
        self.handshakes: Final = self._make_handshakes()

    def _make_handlers(self) -> Handlers | None:
        settings = self.settings
        if settings.handler is None:
            return None
        return Handlers(
            settings.handler,
            name=f"trio_wsk: {name_of(settings.handler)}",
            nursery=self.nursery,
            block=self.block,
            connections=self.connections,
            abort=self.abort,
            raises=settings.on_handler_error == "raise",
        )

    def _make_handshakes(self) -> Handshakes | None:
        settings = self.settings
        if settings.ssl_context is None:
            return None
        return Handshakes(
            settings.ssl_context,
            handshake_timeout=settings.handshake_timeout,
            https_compatible=settings.https_compatible,
            block=self.block,
            connections=self.connections,
            shaken=self._call_back if self.handlers is None else self._have_handled,
        )

    def start(self) -> None:
        """Have connections taken from now on."""
        self.block.is_served = True
        where = tuple(self.listening.local_addresses)
        self.block.tell(records.ServerStarted, local_addresses=where)
        if self.handlers is not None:
            self.block.farewells = Farewells(self.block.call_at, self.block.post)
        taker = self.handshakes or self.handlers or self
        self.admitting.serve(taker, self.settings.max_connections)

    runs_callbacks = True
    """See `Taker`: those that a server of events takes go on to the accept callback."""

    def take(self, connection: Connection) -> bool:
        """In a server of events: take note of a connection, and leave it to the accept callback."""
        self.connections.opened_with_events(connection)
        if self.is_draining:
            self.connections.tell(connection)
        return False

    def _have_handled(self, connection: Connection) -> None:
        """In a server of handlers over TLS: give one a connection that has shaken hands."""
        assert self.handlers is not None
        self.connections.has_shaken_hands(connection, is_handled=True)
        self.handlers.have_handled(connection)

    def _call_back(self, connection: Connection) -> None:
        """In a server of events over TLS: give the accept callback one that has shaken hands."""
        self.connections.has_shaken_hands(connection, is_handled=False)
        if self.is_draining or control.is_retired(connection):
            self.connections.tell(connection)
        self.admitting.indicate(connection)

    def statistics(self) -> ServerStatistics:
        """Return what was counted, and what is true now."""
        connections, handlers = self.connections, self.handlers
        listening = self.listening.statistics()
        return ServerStatistics(
            listening=listening,
            open_connections=connections.open,
            open_most=connections.open_most,
            lingering=len(self.block.farewells or ()),
            served=connections.served,
            ended_idle=connections.ended_idle,
            expired=connections.expired,
            handler_failures=0 if handlers is None else handlers.failures,
            peers_left=0 if handlers is None else handlers.peers_left,
            handshake_failures=MappingProxyType(
                {} if self.handshakes is None else {**self.handshakes.failures}
            ),
            callback_failures=sum(listening.callback_failures.values()),
        )

    def abort(self) -> None:
        """End at once: nobody listens, handlers are cancelled, connections are reset."""
        if self.block.farewells is not None:
            self.block.farewells.close()
        self.end()

    def end(self) -> None:
        """End at once, and let linger what lingers after a handler."""
        self.admitting.close()
        self.reset_all()
        self.over.set()

    def reset_all(self) -> None:
        """Cancel the handlers, and reset every connection."""
        # In this order: a handler that waits is cancelled, and hears of no error.
        self.nursery.cancel_scope.cancel()
        self.connections.reset_all()
