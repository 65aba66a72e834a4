"""The interfaces between delivery and its neighbours: what is given to it, and what it tells.

Handing over comes last on a request's way, so those above it tell it who they are: who has
approved a request, who waits for room, who takes connections in the accept event's place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from trio_wsk._connection.connection import Connection
    from trio_wsk._vocabulary.verdict import AbortReason
    from trio_wsk.transports._contract import TransportRequest

__all__ = ["BATCH", "Approver", "HandingOver", "RoomWatcher", "Taker"]

BATCH: Final = 16
"""How many connections are accepted, and handed over, in one turn at most. Measured: throughput is
flat beyond it, and the lag that a flood of connections causes to other tasks grows with it."""


class RoomWatcher(Protocol):
    """Who was told that there is no room, and waits for some."""

    def room_again(self) -> None:
        """Look again: there may be room, or nobody may be left who needs any.

        Called on any stack. Nothing is called back from inside it.
        """


class Approver(Protocol):
    """Who has approved a request: the request's ticket, as it were, on its way to its owner."""

    def taken(self, request: TransportRequest) -> None:
        """Take note: somebody takes the connection now, and its channel next."""

    def lost(self, request: TransportRequest, why: AbortReason) -> None:
        """Answer the request with a reset: it waited, and ends undelivered."""


class Taker(Protocol):
    """Who takes connections before the accept callback does: a server."""

    runs_callbacks: bool
    """Whether taking calls user code, and so is for the pump only."""

    def take(self, connection: Connection) -> bool:
        """Take the connection: True if that is all, False if the accept callback is to have it."""


class HandingOver(Protocol):
    """Where approved requests go: what inspection is given."""

    def approved_by(self, approver: Approver) -> None:
        """Tell this one from now on what becomes of requests. Once, before anything runs."""

    def watched_by(self, watcher: RoomWatcher) -> None:
        """Tell this one from now on when there may be room again. Once, before anything runs."""

    def has_place(self, coming: int = 0, *, contested: bool = False) -> bool:
        """Whether there is a place for one more connection; see `Delivery.has_place`."""

    def take(self, request: TransportRequest, *, in_pump: bool) -> bool:
        """Give a connection to somebody, or have it wait.

        Args:
          request: An approved one, whose handshake is over.
          in_pump: Whether callbacks may be called now.

        Returns:
          Whether it waits for somebody to take it.
        """

    def remove(self, request: TransportRequest) -> None:
        """Let a request wait no longer: it has ended."""

    @property
    def waiting(self) -> int:
        """How many requests wait for somebody to take them."""
