"""Delivery: who gets an approved request.

A queued accept wins, then the accept event, else the request is parked. This is the one
place where that is decided, and it is a state machine without I/O: nothing here knows a
socket, a clock or a task, so tests can walk it as they please.

The rules:

* Acceptors are served in the order in which they were queued, requests in the order in
  which they were approved.
* Nothing overtakes what is parked: while something is, a newcomer is parked behind it.
* A request comes out at one place only: to one acceptor, to the event once, by `remove` when
  it ends before, or out of `drain` when the socket closes.

Source: PFN_WSK_ACCEPT and PFN_WSK_ACCEPT_EVENT, remarks on precedence.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from trio_wsk._vocabulary.verdict import OverflowPolicy

__all__ = ["Delivery", "Way"]

A = TypeVar("A")
R = TypeVar("R")


class Way(enum.Enum):
    """Where `Delivery.place` has put a request that no acceptor was queued for."""

    EVENT = "event"
    """The caller indicates it to the accept event."""
    PARKED = "parked"
    """It waits in line."""


class Delivery(Generic[A, R]):
    """The queues of one listening socket: acceptors on one side, parked requests on the other.

    Args:
      max_parked: How many requests may be read ahead of anybody who wants them.
      overflow: What happens when more were approved than that; `crowded_out` says who goes.
    """

    def __init__(self, max_parked: int, overflow: OverflowPolicy = "wait") -> None:
        self.max_parked: Final = max_parked
        self.overflow: Final = overflow
        self.event_enabled = False
        """Whether the accept event takes what no acceptor is queued for."""
        self.permits: float = math.inf
        """How many more requests the event may be given (``max_connections``)."""
        self.parked_most = 0
        """The most that were ever parked at once."""
        self._acceptors: OrderedDict[A, None] = OrderedDict()
        # In order, and any of them may leave at any time: its peer does.
        self._parked: OrderedDict[R, None] = OrderedDict()

    @property
    def parked(self) -> int:
        """How many requests wait for somebody to take them."""
        return len(self._parked)

    @property
    def acceptors(self) -> int:
        """How many accepts are queued."""
        return len(self._acceptors)

    @property
    def event_takes(self) -> bool:
        """Whether the event would take a request now."""
        return self.event_enabled and self.permits > 0

    def has_room(self, *, by_event: bool, ahead: bool) -> bool:
        """Whether one more request has a place to go to, so that it may be taken from the kernel.

        Args:
          by_event: Whether the event may be given one now.
          ahead: Whether the request may be read ahead of anybody who wants it.
        """
        if self._acceptors:
            return True
        if self.event_enabled and self.permits > 0:
            return by_event and not self._parked
        return ahead and len(self._parked) < self.max_parked

    def has_place(self, coming: int = 0, *, contested: bool = False) -> bool:
        """Whether there is a place for one more connection once it is approved.

        Args:
          coming: How many others may be approved before it.
          contested: Whether it may come although those others could take every place. Permits
            only are contested: a permit comes back when a connection ends, which may take for ever.
            Whoever waits for an accept gets it.
        """
        if self.max_parked:
            can_park = len(self._parked) < self.max_parked or self.overflow != "wait"
            return can_park or bool(self._acceptors) or self.event_takes
        permits = self.permits if self.event_enabled else 0
        left = len(self._acceptors) + permits - len(self._parked)
        return coming < left or (contested and left > 0 and permits > 0)

    def queue(self, acceptor: A) -> R | None:
        """Queue an acceptor, or give it what is parked first in line.

        Returns:
          The request that the acceptor has now, or None if it was queued.
        """
        if self._parked:
            return self._parked.popitem(last=False)[0]
        self._acceptors[acceptor] = None
        return None

    def withdraw(self, acceptor: A) -> bool:
        """Take a queued acceptor back; False if it has been served already."""
        if acceptor not in self._acceptors:
            return False
        del self._acceptors[acceptor]
        return True

    def place(self, request: R, *, to_event: bool = True) -> A | Way:
        """Decide where an approved request goes, and put it there.

        Args:
          request: An approved one, whose handshake is over.
          to_event: Whether the event may be given it now; if not, `unpark_for_event` does.

        Returns:
          The acceptor that has it now, or where it is instead. What goes to the event
          has used up a permit.
        """
        if self._acceptors:
            return self._acceptors.popitem(last=False)[0]
        if to_event and not self._parked and self.event_enabled and self.permits > 0:
            self.permits -= 1
            return Way.EVENT
        self._parked[request] = None
        self.parked_most = max(self.parked_most, len(self._parked))
        return Way.PARKED

    def unpark_for_event(self) -> R | None:
        """Take out the request that is first in line, if the event takes it."""
        if not self._parked or not self.event_takes:
            return None
        self.permits -= 1
        return self._parked.popitem(last=False)[0]

    def oldest_parked(self) -> R | None:
        """Return the request that is first in line, and leave it there."""
        return next(iter(self._parked), None)

    def crowded_out(self, newcomer: R) -> R | None:
        """Return the request that has to go because the newcomer was parked, and leave it there."""
        if self.overflow == "wait" or not self.max_parked or self.event_takes:
            return None
        if self.parked <= self.max_parked:
            return None
        return newcomer if self.overflow == "reset" else self.oldest_parked()

    def remove(self, request: R) -> bool:
        """Take a parked request out of the line: it has ended. False if it is not parked."""
        if request not in self._parked:
            return False
        del self._parked[request]
        return True

    def drain(self) -> tuple[list[A], list[R]]:
        """Take everything out: the socket closes."""
        acceptors, parked = list(self._acceptors), list(self._parked)
        self._acceptors.clear()
        self._parked.clear()
        return acceptors, parked
