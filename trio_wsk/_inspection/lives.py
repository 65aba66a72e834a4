"""What happens to requests: `Lives.apply` asks the table what follows, and does it.

An event has happened to a request: an answer, its peer's end, the end of its time. What follows is
in `table.TABLE`, and nowhere else. Here the transport is told, peers are watched, deadlines kept,
and abort callbacks posted; an approved request goes on to handing over, and what becomes of it
there is told here.

Where a request is, is in one of three places: undecided (it has no verdict; between two stages it
is one of those), approved (it has not been taken), or forgotten. One that was aborted is remembered
until its abort callback has returned, and its number for a while after that, so that who completes
it late is told so.

Nothing here awaits, or calls user code: all of it may happen on any stack.

Source: PFN_WSK_INSPECT_EVENT, PFN_WSK_INSPECT_COMPLETE, PFN_WSK_ABORT_EVENT.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.verdict import AbortReason, InspectAction, InspectPoint, Verdict
from trio_wsk.transports._contract import PeerEnd

from .aborts import Aborts
from .peeking import Peeking
from .scope import VerdictScope
from .table import Answer, Event, State, step
from .undecided import Undecided

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._connection.block import Block
    from trio_wsk._delivery.contract import HandingOver
    from trio_wsk._delivery.dropping import Dropping
    from trio_wsk._vocabulary.statistics import ListeningCounters
    from trio_wsk._vocabulary.status import Status
    from trio_wsk.transports._contract import TransportRequest

    from .conditions import Conditions
    from .request import ConnectionRequest
    from .stragglers import Stragglers
    from .table import Step
    from .turning_away import TurningAway

__all__ = ["INSPECTOR_FAILED", "Lives"]

HALF_OPEN_MOST: Final = 16384
"""How many may be approved and not established at once, and how many between two stages; beyond
them the oldest goes. Half of it is what Linux has by default for one listening socket, in the
handshake and behind it."""

INSPECTOR_FAILED: Final = Verdict(InspectAction.REJECT, "inspector-failed")
"""What an inspector has answered that raised, or answered nonsense."""

_LEFT: Final = {
    PeerEnd.RESET: AbortReason.RESET,
    PeerEnd.CLOSED: AbortReason.FIN,
    PeerEnd.FIN: AbortReason.FIN,
    PeerEnd.FIN_AFTER_DATA: AbortReason.FIN,
    PeerEnd.SILENT: AbortReason.SILENT,
}

# Members of an enum are looked up anew each time, which adds up over all that is asked for
# each request; a name of the module is not. So does a call of `Lives.apply` that is to do nothing
# but take note of the next state.
_ESTABLISH: Final = Event.ESTABLISH
_DELIVER: Final = Event.DELIVER
_NOTHING: Final = Answer.NOTHING
_APPROVE: Final = Answer.APPROVE
_LET_ON: Final = Answer.LET_ON
_REFUSE: Final = Answer.REFUSE
_PEND: Final = Event.PEND


@final
class Lives:
    """The requests of one listening socket that have an inspector, and what happens to them.

    Args:
      conditions: How requests are inspected.
      handing_over: Where those go that were approved.
      turning_away: How the others are answered.
      inspectors: Those that are cancelled when nobody wants their verdicts any more.
      block: Where it is posted, told and counted.
      counters: Where requests are counted.
      dropping: Where those go that are not even inspected.
      has_connected: Called with each request that is through between two stages, from any stack.
    """

    def __init__(
        self,
        conditions: Conditions,
        *,
        handing_over: HandingOver,
        turning_away: TurningAway,
        inspectors: Stragglers,
        block: Block,
        counters: ListeningCounters,
        dropping: Dropping,
        has_connected: Callable[[ConnectionRequest], object],
    ) -> None:
        self.undecided: Final = Undecided(block, self._expired)
        """The requests without a verdict."""
        self.half_open: Final[OrderedDict[int, ConnectionRequest]] = OrderedDict()
        """Those that were approved and whose handshake is not over, by number, the oldest first."""
        self.aborts: Final = Aborts(block, conditions.abort)
        """The requests that were aborted."""
        self.peeking: Final = Peeking(block.home, conditions.gone, self._left)
        """The looks at first octets."""
        self.room_again: Callable[[], None] = _nobody_watches
        """Called when there may be room again."""
        self._approved: dict[int, ConnectionRequest] = {}
        self._gone = conditions.gone
        self._handing_over = handing_over
        self._turning_away = turning_away
        self._inspectors = inspectors
        self._block = block
        self._counters = counters
        self._dropping = dropping
        self._has_connected = has_connected
        handing_over.approved_by(self)

    # --- What happens to a request -----------------------------------------------------

    def apply(
        self,
        request: ConnectionRequest,
        event: Event,
        verdict: Verdict | None = None,
        *,
        why: AbortReason | None = None,
        in_pump: bool = False,
    ) -> Status:
        """Have the table say what follows from an event, and do it.

        Args:
          request: Whom it has happened to.
          event: What has happened.
          verdict: What was answered, if that is it.
          why: How the request has ended, if it has without having been rejected.
          in_pump: Whether callbacks may be called now.
        """
        before = request._state
        moved = before.steps.get(event) or step(before, event)  # which says that it can't happen
        request._state = moved.state
        answer = moved.answer
        if answer is _NOTHING:
            if verdict is not None and moved.state is not before:
                self._note(request, verdict)
        elif answer is _APPROVE:
            self._approve(request, in_pump=in_pump)
        elif answer is _LET_ON:
            self._let_on(request)
        elif answer is _REFUSE:
            # An early verdict waits for the inspector to say "later".
            early = request._verdict if event is _PEND else None
            self._refuse(request, early or verdict or INSPECTOR_FAILED)
        elif why is not None:
            self._lose(request, moved, why)
        else:
            self._dropping.drop(request._transport_request, "overflowed")
        return moved.status

    def _note(self, request: ConnectionRequest, verdict: Verdict) -> None:
        """Nothing is decided yet: the verdict came early, or is to come later."""
        request._verdict = verdict
        if request._state is State.PENDED:
            self.keep(request)
            self._tell(records.RequestPended, request)

    def _approve(self, request: ConnectionRequest, *, in_pump: bool) -> None:
        transport_request = request._transport_request
        number = request._number
        self.undecided.forget(request)
        if request in self.peeking.requests:
            # Who peeks at it looks again, and hears of the verdict.
            transport_request.unwatch_end()
            transport_request.watch_end(self._block.readiness, self)
        self._approved[number] = request
        self._counters.approved += 1
        if records.RequestApproved in self._block.observers.wanting:
            self._tell(records.RequestApproved, request, arrived_at=request.arrived_at)
        if transport_request.approve():
            self._establish(request, in_pump=in_pump)
        else:
            if len(self.half_open) >= HALF_OPEN_MOST:
                oldest = next(iter(self.half_open.values()))
                self.apply(oldest, Event.OVERFLOW, why=AbortReason.EVICTED)
            self.half_open[number] = request
            self._watch(request)

    def _let_on(self, request: ConnectionRequest) -> None:
        """The first of two stages has no objection: its handshake goes on, and then the second."""
        between = self.undecided.in_handshake
        if len(between) >= HALF_OPEN_MOST:
            oldest = next(iter(between.values()))
            self.apply(oldest, Event.OVERFLOW, why=AbortReason.EVICTED)
        self.undecided.shakes_hands(request)
        if request._scope is not None:
            request._scope = request._scope.of_next_stage()
        self._counters.let_on += 1
        is_established = request._transport_request.approve()
        self.keep(request)
        if is_established:
            self._connect(request)
        self.room_again()

    def _connect(self, request: ConnectionRequest) -> None:
        if request._transport_request.was_reset():
            self._left(request, AbortReason.RESET)
        else:
            self._has_connected(request)

    def is_connected(self, request: ConnectionRequest) -> None:
        """Take note: somebody is about to ask the second stage about it."""
        request._state = request._state.steps[_ESTABLISH].state  # nothing else follows from it
        self.undecided.has_connected(request)

    def _establish(self, request: ConnectionRequest, *, in_pump: bool) -> None:
        request._state = request._state.steps[_ESTABLISH].state  # nothing else follows from it
        transport_request = request._transport_request
        if request._is_watched and transport_request.was_reset():
            self._left(request, AbortReason.RESET)
            return
        if self._handing_over.take(transport_request, in_pump=in_pump):
            self._watch(request)
        self.room_again()

    def taken(self, transport_request: TransportRequest) -> None:
        """Take note: somebody takes the connection now, and its channel next."""
        request = self._approved.pop(transport_request.serial_number)
        request._state = request._state.steps[_DELIVER].state  # nothing else follows from it
        if request._is_watched:
            request._is_watched = False
            transport_request.unwatch_end()
        if request._carried is not None:
            self._block.carried[request._number] = request._carried

    def lost(self, transport_request: TransportRequest, why: AbortReason) -> None:
        """See `Approver.lost`."""
        event = Event.OVERFLOW if why is AbortReason.EVICTED else Event.LEAVE
        self.apply(self._approved[transport_request.serial_number], event, why=why)

    # --- Turning away ------------------------------------------------------------------

    def _refuse(self, request: ConnectionRequest, verdict: Verdict) -> None:
        self.undecided.forget(request)
        reason = self._counters.count_rejected(verdict.reason)
        given = self._turning_away.turn_away(request._transport_request, verdict, request.stage)
        if records.RequestRejected in self._block.observers.wanting:
            self._tell(
                records.RequestRejected,
                request,
                arrived_at=request.arrived_at,
                reason=reason,
                close=given,
                stage=request.stage,
            )
        if given is not verdict.style:
            self._counters.close_fallbacks += 1
            self._block.tell(
                records.CloseStyleUnavailable,
                remote_address=request.remote_address,
                close=verdict.style,
            )
        if request._carried is not None:
            request._carried.end()
        self.room_again()

    # --- Losing ------------------------------------------------------------------------

    def _lose(self, request: ConnectionRequest, moved: Step, why: AbortReason) -> None:
        """A request that was not rejected ends: cancel who works on it, answer it, and tell."""
        transport_request = request._transport_request
        remote_address = request.remote_address  # while there is a channel to ask
        self._forget(request)
        self._counters.aborted[why.value] += 1
        request.aborted = records.RequestAborted(
            at=trio.current_time(),
            inspect_id=request.inspect_id,
            remote_address=remote_address,
            reason=why,
        )
        if request._scope is None:
            request._scope = VerdictScope()
        if moved.cancels:
            request._scope.cancel(f"the request is over: {why.value}")
            self._inspectors.cancelled(request)
        if moved.aborts:
            self.aborts.tell_later(request)
        request._is_watched = False
        transport_request.reset()
        self._block.observers.tell(request.aborted)
        if request._carried is not None:
            request._carried.end()
        self.room_again()

    def _forget(self, request: ConnectionRequest) -> None:
        number = request._number
        if self._approved.pop(number, None) is None:
            self.undecided.forget(request)
        elif self.half_open.pop(number, None) is None:
            self._handing_over.remove(request._transport_request)

    def _expired(self, request: ConnectionRequest) -> None:
        self.apply(request, Event.EXPIRE, why=AbortReason.TIMED_OUT)

    def _left(self, request: ConnectionRequest, why: AbortReason) -> None:
        self.apply(request, Event.LEAVE, why=why)

    # --- The peer ----------------------------------------------------------------------

    def keep(self, request: ConnectionRequest) -> None:
        """A request waits for its verdict: keep an eye on its peer and on the clock."""
        self._watch(request)
        self.undecided.watch_deadline(request)

    def _watch(self, request: ConnectionRequest) -> None:
        if not request._is_watched:
            request._is_watched = True
            request._transport_request.watch_end(self._block.readiness, self)

    def peer_ended(self, transport_request: TransportRequest, end: PeerEnd) -> None:
        """A transport says that a peer has left; whether that makes it gone is decided here."""
        number = transport_request.serial_number
        request = self._approved.get(number) or self.undecided.by_number.get(number)
        if request is not None and end in self._gone:
            self._left(request, _LEFT[end])

    def established(self, transport_request: TransportRequest) -> None:
        """A transport says that an approved request's handshake is over."""
        number = transport_request.serial_number
        request = self.half_open.pop(number, None)
        if request is not None:
            self._establish(request, in_pump=False)
        elif (between := self.undecided.in_handshake.get(number)) is not None:
            self._connect(between)

    # --- Ending ----------------------------------------------------------------------

    def leave(self) -> None:
        """See `Admission.leave`: those whose handshake is not over are the others' now."""
        for request in [*self.undecided.by_number.values(), *self._approved.values()]:
            is_shaking_hands = request.stage is InspectPoint.BEFORE_HANDSHAKE
            if is_shaking_hands and request._state is not State.ESTABLISHED:
                self.apply(request, Event.CLOSE, why=AbortReason.CLOSED)

    def close(self, reason: AbortReason) -> None:
        """The listening socket has closed or failed: so has every request."""
        for request in [*self.undecided.by_number.values(), *self._approved.values()]:
            self.apply(request, Event.CLOSE, why=reason)

    def _tell(self, kind: type[records.Record], request: ConnectionRequest, **more: object) -> None:
        if kind in self._block.observers.wanting:
            self._block.tell(
                kind,
                inspect_id=request.inspect_id,
                remote_address=request.remote_address,
                **more,
            )


def _nobody_watches() -> None:
    """In the place of a watcher's `RoomWatcher.room_again` until there is one."""
