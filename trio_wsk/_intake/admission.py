"""What intake needs of the stage after it, which is given to it when it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trio_wsk._delivery.contract import RoomWatcher
    from trio_wsk.transports._contract import TransportRequest

__all__ = ["Admission"]


class Admission(Protocol):
    """Where requests go that were taken from the transport: inspection, else handing over.

    Its questions change nothing. Whoever is told that there is no room is told by
    `RoomWatcher.room_again` when there may be some.
    """

    def watched_by(self, watcher: RoomWatcher) -> None:
        """Tell this one when there may be room again. Once, before anything runs."""

    def has_room(self, *, in_pump: bool, ahead: bool) -> bool:
        """Whether one more request may be taken from the transport, now.

        Args:
          in_pump: Whether callbacks may be called for it.
          ahead: Whether it may be read ahead of anybody who wants it. Nobody begins with that:
            what nobody wants waits in the kernel.
        """

    def has_place(self) -> bool:
        """Whether the connection of a request that was approved before would be taken now."""

    def take(self, request: TransportRequest, *, in_pump: bool) -> object:
        """Take a request that has come; whatever happens to it is this stage's to see to."""

    @property
    def waiting(self) -> int:
        """How many requests may still become connections here, or further down."""

    def leave(self) -> None:
        """The transport was left to others: forget those whose handshake is not over."""

    def take_last(self) -> None:
        """The server drains: have a place for those who waited already, if there is a choice."""
