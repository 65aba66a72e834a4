"""The requests of one listening socket that have no verdict, in the order in which they came.

That is the order of their deadlines, too, since each has the same time from its arrival on, through
both stages if there are two: so one timer serves all. `trio_wsk._engine.deadlines` would keep a
second dict of the same requests, and an ordered one, which weighs more than this on each request
that is pended.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Final, final

import trio

from .table import UNDECIDED

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._engine.pump import Pump

    from .request import ConnectionRequest

__all__ = ["Undecided"]

SWEPT_AT_ONCE: Final = 64
"""How many requests whose time is over are ended before the first of the rest is looked for."""

EVICTIONS_PER_COPY: Final = 2048
"""A dict keeps the places of what was taken out at its front until it grows, and whoever looks for
the first passes over them. In a flood, with a hundred thousand pending, that took thirty times as
long as copying the dict now and then."""


@final
class Undecided:
    """Requests without a verdict, by their numbers.

    Args:
      pump: Has the timer.
      expired: Called with each request whose time is over; it takes that out.
    """

    __slots__ = (
        "_evicted",
        "_expired",
        "_is_timed",
        "_pump",
        "_waiting",
        "by_number",
        "connected",
        "in_handshake",
    )

    def __init__(self, pump: Pump, expired: Callable[[ConnectionRequest], object]) -> None:
        self.by_number: dict[int, ConnectionRequest] = {}
        """The requests. A plain dict weighs half of an ordered one."""
        self.in_handshake: OrderedDict[int, ConnectionRequest] = OrderedDict()
        """Of these, those that are between two stages, the one that came there first first."""
        self.connected: int = 0
        """Of these, how many have come through that."""
        self._waiting: OrderedDict[int, ConnectionRequest] = OrderedDict()  # if there are stages
        self._pump = pump
        self._expired = expired
        self._is_timed = False
        self._evicted = 0

    @property
    def waiting(self) -> int:
        """How many wait for somebody's word, and not for the end of their handshake.

        That is what ``max_pending`` counts. Whose handshake is under way holds no descriptor, and
        may be forged: a flood of such must not keep others from being asked about.
        """
        return len(self.by_number) - len(self.in_handshake)

    def waits(self, request: ConnectionRequest) -> None:
        """Take note: one of two stages is about to be asked about a request."""
        self._waiting[request._number] = request

    def shakes_hands(self, request: ConnectionRequest) -> None:
        """Take note: the first of two stages has no objection to a request."""
        number = request._number
        self.in_handshake[number] = request
        del self._waiting[number]

    def has_connected(self, request: ConnectionRequest) -> None:
        """Take note: a request's handshake is over, and the second stage is about to be asked."""
        del self.in_handshake[request._number]
        request._is_connected = True
        self.connected += 1
        self.waits(request)

    def forget(self, request: ConnectionRequest) -> None:
        """Take out a request that has its verdict, or is lost."""
        number = request._number
        del self.by_number[number]
        if self._waiting or self.in_handshake:  # only where there are stages
            self.in_handshake.pop(number, None)
            self._waiting.pop(number, None)
            self.connected -= request._is_connected

    def oldest(self) -> ConnectionRequest:
        """Return the request that has waited longest for a word, which is about to be evicted.

        Of two stages each begins the wait anew.
        """
        if self._waiting:
            # Not by way of all that are in their handshake, of whom a flood makes thousands.
            return next(iter(self._waiting.values()))
        self._evicted += 1
        if self._evicted >= EVICTIONS_PER_COPY:
            self._evicted = 0
            self.by_number = dict(self.by_number.items())
        return next(iter(self.by_number.values()))

    def watch_deadline(self, request: ConnectionRequest) -> None:
        """End this request, if it is still here, when its time is over."""
        if not self._is_timed:
            self._is_timed = True
            self._pump.call_at(request.deadline, self._sweep)

    def _sweep(self) -> None:
        """In the pump: end what has had no verdict in time; the oldest is always the first."""
        self._is_timed = False
        now = trio.current_time()
        while self.by_number:
            # Several at a time: a dict finds its first entry by passing all that were before it.
            for oldest in list(islice(self.by_number.values(), SWEPT_AT_ONCE)):
                if oldest.deadline > now:
                    self.watch_deadline(oldest)
                    return
                if oldest._state in UNDECIDED:  # else another one's end was this one's, too
                    self._expired(oldest)
