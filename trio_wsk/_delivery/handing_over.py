"""Handing over: requests become connections here, and get their owners.

`delivery` says who gets which; this module makes the connection and gives it away: to an acceptor,
to the accept event, or to the server that has taken the event's place. Those that nobody wants yet
wait, and are looked at again before somebody gets them: their peers may have reset them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._connection.connection import Connection
from trio_wsk._connection.control import give_dispatch
from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.verdict import AbortReason

from .acceptors import Acceptor
from .contract import BATCH
from .delivery import Delivery, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._connection.block import Block
    from trio_wsk._vocabulary.errors import WskError
    from trio_wsk._vocabulary.statistics import ListeningCounters
    from trio_wsk._vocabulary.verdict import OverflowPolicy
    from trio_wsk.transports._contract import TransportRequest

    from .accept_event import AcceptEvent
    from .contract import Approver, RoomWatcher, Taker
    from .dropping import Dropping

__all__ = ["Deliverer"]

# Members of an enum are looked up anew each time, which adds up over all that is asked for
# each connection; a name of the module is not.
_TO_EVENT: Final = Way.EVENT


@final
class Deliverer:
    """Hands the connections of one listening socket over.

    It is the last stage. Where there is an inspector it comes after that (`HandingOver`); else
    intake gives it requests as they come (`trio_wsk._intake.admission.Admission`), and each of them
    counts as approved.

    Args:
      block: Where the connections live.
      counters: Where those that acceptors get are counted.
      dropping: Where those go that nobody gets.
      event: The accept event.
      max_parked: How many requests may wait for somebody to take them.
      overflow: What happens when more were approved than may wait.
    """

    def __init__(
        self,
        block: Block,
        counters: ListeningCounters,
        dropping: Dropping,
        event: AcceptEvent,
        *,
        max_parked: int,
        overflow: OverflowPolicy,
    ) -> None:
        self.event: Final = event
        """The accept event."""
        self.delivery: Final[Delivery[Acceptor, TransportRequest]] = Delivery(max_parked, overflow)
        """The queues. To be looked at: what changes them is here."""
        self._block = block
        self._counters = counters
        self._dropping = dropping
        self._approver: Approver = _Unasked(dropping)
        self._taker: Taker | None = None
        self._takes_anywhere = False
        self._room_again: Callable[[], None] = _nobody_waits
        self._takes_all = False
        self._turn_posted = False
        self._parked_at: dict[TransportRequest, float] = {}  # if somebody observes that

    def approved_by(self, approver: Approver) -> None:
        """See `HandingOver.approved_by`."""
        self._approver = approver

    def watched_by(self, watcher: RoomWatcher) -> None:
        """Tell this one when there may be room again. Once, before anything runs."""
        self._room_again = watcher.room_again

    # --- Room --------------------------------------------------------------------------

    def has_room(self, *, in_pump: bool, ahead: bool) -> bool:
        """Without an inspector: see `Admission.has_room`."""
        return self._takes_all or self.delivery.has_room(by_event=in_pump, ahead=ahead)

    def has_place(self, coming: int = 0, *, contested: bool = False) -> bool:
        """See `HandingOver.has_place`."""
        return self.delivery.has_place(coming, contested=contested)

    @property
    def waiting(self) -> int:
        """How many requests wait for somebody to take them."""
        return self.delivery.parked

    def take_last(self) -> None:
        """Have a place for everybody from now on: the last ones come, and they are counted."""
        self._takes_all = True

    def leave(self) -> None:
        """Nobody is forgotten: each request here is a connection already."""

    # --- Handing over ------------------------------------------------------------------

    def take(self, request: TransportRequest, *, in_pump: bool) -> bool:
        """See `HandingOver.take`."""
        to_event = in_pump or self._takes_anywhere
        place = self.delivery.place(request, to_event=to_event)
        if place is _TO_EVENT:
            self._give_to_event(request)
        elif isinstance(place, Acceptor):
            self._hand_over(place, request)
        else:
            return self._waits(request)
        return False

    def serve(self, acceptor: Acceptor) -> bool:
        """Give an acceptor what waits, or queue it; False if it was queued."""
        while True:
            request = self.delivery.queue(acceptor)
            if request is None:
                return False
            if self._is_alive(request):
                self._tell_unparked(request)
                self._hand_over(acceptor, request)
                self._room_again()
                return True

    def withdraw(self, acceptor: Acceptor) -> bool:
        """Take a queued acceptor back; False if it has been served already."""
        return self.delivery.withdraw(acceptor)

    def remove(self, request: TransportRequest) -> None:
        """See `HandingOver.remove`."""
        self.delivery.remove(request)
        self._parked_at.pop(request, None)

    def _waits(self, request: TransportRequest) -> bool:
        if records.ConnectionUnparked in self._block.observers.wanting:
            self._parked_at[request] = trio.current_time()
        if self.delivery.event_takes:
            self._post_turn()
        goes = self.delivery.crowded_out(request)
        if goes is not None:
            self.remove(goes)
            self._approver.lost(goes, AbortReason.EVICTED)
        return goes is not request

    def _is_alive(self, request: TransportRequest) -> bool:
        """See whether a request that has waited is still worth having; drop it if not."""
        if not request.was_reset():
            return True
        self._parked_at.pop(request, None)
        self._approver.lost(request, AbortReason.RESET)
        return False

    def _tell_unparked(self, request: TransportRequest) -> None:
        """Tell that a request has waited long enough, if somebody wants to know."""
        parked_at = self._parked_at.pop(request, None)
        if parked_at is not None:
            self._block.tell(
                records.ConnectionUnparked,
                remote_address=request.remote_address,
                parked_at=parked_at,
            )

    def _hand_over(self, acceptor: Acceptor, request: TransportRequest) -> None:
        self._approver.taken(request)
        connection = Connection(request.accept(), request, self._block, acceptor.context)
        if acceptor.dispatch is not None:
            give_dispatch(connection, acceptor.dispatch)
        self._counters.to_accept += 1
        acceptor.give(connection)

    def _give_to_event(self, request: TransportRequest) -> None:
        """Hand a connection to the accept event, or to the server in its place."""
        self._approver.taken(request)
        connection = Connection(request.accept(), request, self._block)
        if self._taker is not None and self._taker.take(connection):
            self._counters.to_event += 1
        else:
            self.event.indicate(connection)

    def indicate_late(self, connection: Connection) -> None:
        """In the pump: give a connection to the accept event that the server has kept until now."""
        self._counters.to_event -= 1  # it was counted when the server took it
        self.event.indicate(connection)

    # --- The event ---------------------------------------------------------------------

    def enable_event(self) -> None:
        """Have the accept event take what nobody is queued for, from the pump's next turn on."""
        self.delivery.event_enabled = True
        self._event_takes_more()

    def disable_event(self) -> None:
        """Have the accept event take nothing more."""
        self.delivery.event_enabled = False

    @property
    def has_taker(self) -> bool:
        """Whether a server takes the connections."""
        return self._taker is not None

    def give_all_to(self, taker: Taker, permits: float) -> None:
        """Have a server take what the event would, and no more at once than there are permits."""
        self._taker = taker
        self._takes_anywhere = not taker.runs_callbacks
        self.delivery.permits = permits
        self.enable_event()

    def add_permits(self, count: float) -> None:
        """Let the event take more connections than until now."""
        self.delivery.permits += count
        self._event_takes_more()

    def _event_takes_more(self) -> None:
        if self.delivery.parked:
            self._post_turn()
        self._room_again()

    def _post_turn(self) -> None:
        if not self._turn_posted:
            self._turn_posted = True
            self._block.post(self._turn)

    def _turn(self) -> None:
        """In the pump: hand what waits to the event, if it takes it; a bounded number."""
        self._turn_posted = False
        for _ in range(BATCH):
            request = self.delivery.unpark_for_event()
            if request is None:
                break
            if self._is_alive(request):
                self._tell_unparked(request)
                self._give_to_event(request)
            else:
                self.delivery.permits += 1
        else:
            self._post_turn()
        self._room_again()

    # --- Ending ------------------------------------------------------------------------

    def close(self, why_not: Callable[[], WskError], reason: str) -> None:
        """Drop who waits to be taken, and tell those who wait for a connection why none comes."""
        acceptors, parked = self.delivery.drain()
        self._parked_at.clear()
        for request in parked:
            self._dropping.drop(request, reason)
        for acceptor in acceptors:
            acceptor.fail(why_not())


@final
class _Unasked:
    """In the place of an `Approver` where nobody inspects: requests come as they are."""

    def __init__(self, dropping: Dropping) -> None:
        self._dropping = dropping

    def taken(self, request: TransportRequest) -> None:
        """Nobody wants to know."""

    def lost(self, request: TransportRequest, why: AbortReason) -> None:  # noqa: ARG002 - one why
        """Count the request as dropped: without an inspector only a reset ends its wait."""
        self._dropping.drop(request, "reset-while-parked")


def _nobody_waits() -> None:
    """In the place of a watcher's `RoomWatcher.room_again` until there is one."""
