"""Conditional accept: asking about connection requests, and carrying the answers out.

`table.TABLE` decides what may follow what; here it is done: inspectors are called or
started, peers watched, deadlines kept, the transport told, abort callbacks called. An approved
request goes on to delivery, which the listening socket does.

Nothing here awaits but `ConditionalAccept.peek` and `ConditionalAccept.settle`; async inspectors
run in `inspector_tasks`. Nothing here calls user code but in the pump: whatever happens on another
stack (a transport that noticed something, a caller's `inspect_complete`) changes state, cancels,
and posts.

Where a request is, is in one of four places: asked about (its inspector is being called),
undecided (it has no verdict), approved (it has not been taken), or forgotten. Only one at a time
is asked about, and most have their verdict when the call returns: those are never put anywhere
but beside the undecided, among which everybody who asks finds it all the same. One that
was aborted is remembered until its abort callback has returned, and its number for a while after
that, so that who completes it late is told so.

Source: PFN_WSK_INSPECT_EVENT, PFN_WSK_INSPECT_COMPLETE, PFN_WSK_ABORT_EVENT.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Coroutine
from functools import partial
from itertools import count, islice
from types import CoroutineType
from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._engine.callers import check_caller
from trio_wsk._engine.pump import FAILED
from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.arguments import shown, whole_number
from trio_wsk._vocabulary.errors import (
    ConnectionBrokenError,
    InvalidDeviceStateError,
    InvalidParameterError,
    SocketBusyError,
)
from trio_wsk._vocabulary.status import Status
from trio_wsk._vocabulary.verdict import (
    PLAIN,
    AbortReason,
    CloseStyle,
    InspectAction,
    InspectId,
    InspectPoint,
    Verdict,
    as_verdict,
)
from trio_wsk.transports._contract import PeerEnd, PeerFaultError

from .inspector_tasks import InspectorTasks
from .request import PEEK_LIMIT, ConnectionRequest
from .stragglers import Stragglers
from .table import (
    UNDECIDED,
    Answer,
    Event,
    State,
    step,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_wsk._connection.block import Block
    from trio_wsk._connection.last_words import LastWords
    from trio_wsk._delivery.contract import HandingOver, RoomWatcher
    from trio_wsk._delivery.dropping import Dropping
    from trio_wsk._vocabulary.statistics import ListeningCounters
    from trio_wsk.transports._contract import Transport, TransportRequest

    from .conditions import Conditions

__all__ = ["ConditionalAccept", "next_key"]

REMEMBERED_MOST: Final = 16384
"""How many requests that were aborted are remembered by number, for who completes them late."""

SWEPT_AT_ONCE: Final = 64
"""How many requests whose time is over are ended before the first of the rest is looked for."""

HALF_OPEN_MOST: Final = 16384
"""How many may be approved and not established at once; beyond them the oldest goes. Half of it is
what Linux has by default for one listening socket, in the handshake and behind it."""

EVICTIONS_PER_COPY: Final = 2048
"""A dict keeps the places of what was taken out at its front until it grows, and whoever looks for
the first passes over them. In a flood, with a hundred thousand pending, that took thirty times as
long as copying the dict now and then."""

_INSPECTOR_FAILED: Final = Verdict(InspectAction.REJECT, "inspector-failed")

_EVENT_OF: Final = {
    InspectAction.ACCEPT: Event.ACCEPT,
    InspectAction.REJECT: Event.REJECT,
    InspectAction.PEND: Event.PEND,
}

_COMPLETION_OF: Final = {
    InspectAction.ACCEPT: Event.COMPLETE_ACCEPT,
    InspectAction.REJECT: Event.COMPLETE_REJECT,
}

_LEFT: Final = {
    PeerEnd.RESET: AbortReason.RESET,
    PeerEnd.CLOSED: AbortReason.FIN,
    PeerEnd.FIN: AbortReason.FIN,
    PeerEnd.FIN_AFTER_DATA: AbortReason.FIN,
    PeerEnd.SILENT: AbortReason.SILENT,
}

# Members of an enum are looked up anew each time, which adds up over all that is asked for
# each request; a name of the module is not.
_INSPECT: Final = Event.INSPECT
_OVERFLOW: Final = Event.OVERFLOW
_ESTABLISH: Final = Event.ESTABLISH
_DELIVER: Final = Event.DELIVER

_AWAITABLES: Final = (CoroutineType, Awaitable)
"""What an async inspector answers with. Asked in this order it costs a tenth for a coroutine."""

next_key: Final = count(1).__next__
"""Number a listening socket's inspections; no number comes twice in a process."""


@final
class ConditionalAccept:
    """The requests of one listening socket that have an inspector.

    Args:
      key: The key of this socket's `InspectId` values.
      conditions: How requests are inspected.
      transport: Where they come from.
      handing_over: Where those go that were approved.
      block: Whose pump calls the inspector.
      counters: Where requests are counted.
      dropping: Where those go that are not even inspected.
      last_words: How peers are told why they are turned away.

    Raises:
      InvalidParameterError: the inspector turns peers away in a way that can't be had here.
    """

    def __init__(
        self,
        key: int,
        conditions: Conditions,
        *,
        transport: Transport,
        handing_over: HandingOver,
        block: Block,
        counters: ListeningCounters,
        dropping: Dropping,
        last_words: LastWords,
    ) -> None:
        self.key: int = key
        """The key of this socket's `InspectId` values."""
        assert block.listening is not None
        self.listening = block.listening
        """The listening socket that is asked."""
        self.inspect_timeout: float = conditions.timeout
        inspect = conditions.inspect
        self._inspect = inspect
        self._abort_callback = conditions.abort
        self._max_pending = conditions.max_pending
        self._overflow = conditions.overflow
        self._pending_wait = conditions.overflow.pending == "wait"
        self._gone = conditions.gone
        self._block = block
        self._handing_over = handing_over
        self._counters = counters
        self._dropping = dropping
        self._last_words = last_words
        self._room_again: Callable[[], None]
        self._styles = _checked_styles(conditions.inspect, transport)
        self._now = trio.lowlevel.current_clock().current_time
        self._asked: ConnectionRequest | None = None
        # By number, in the order in which they came. A plain dict weighs half of an ordered one.
        self._undecided: dict[int, ConnectionRequest] = {}
        self._evicted = 0
        self._approved: dict[int, ConnectionRequest] = {}
        # Those of them whose handshake is not over, the oldest first.
        self._half_open: OrderedDict[int, ConnectionRequest] = OrderedDict()
        self._holds_permits = transport.inspect_point is InspectPoint.AFTER_HANDSHAKE
        self._aborting: dict[int, ConnectionRequest] = {}
        self._remembered: OrderedDict[int, None] = OrderedDict()
        self._peeked_at: set[ConnectionRequest] = set()
        self._sweep_posted = False
        self._inspectors = Stragglers(self._block)
        self._task_name = f"trio_wsk: {getattr(inspect, '__qualname__', repr(inspect))}"
        self._tasks = InspectorTasks(
            self._block, self._inspectors, self._inspected, self._task_name
        )
        handing_over.approved_by(self)

    # --- What is known -----------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many requests may still become connections."""
        return self.pending + self._handing_over.waiting

    @property
    def pending(self) -> int:
        """How many requests are undecided, or approved and not yet established."""
        return len(self._undecided) + (self._asked is not None) + len(self._half_open)

    @property
    def straggling(self) -> int:
        """How many inspectors were cancelled and are still running."""
        return self._inspectors.straggling

    def find(self, inspect_id: InspectId) -> ConnectionRequest | None:
        """Return the request that waits for its verdict, or for its abort callback."""
        if inspect_id.key != self.key:
            return None
        number = inspect_id.serial_number
        found = self._undecided.get(number) or self._aborting.get(number)
        asked = self._asked
        if found is None and asked is not None and asked.inspect_id == inspect_id:
            return asked
        return found

    def __len__(self) -> int:
        """How many requests `find` finds."""
        return len(self._undecided) + (self._asked is not None) + len(self._aborting)

    def undecided(self) -> list[ConnectionRequest]:
        """Return the requests that have no verdict, the oldest first."""
        asked = () if self._asked is None else (self._asked,)
        return [*self._undecided.values(), *asked]

    def requests(self) -> Iterator[ConnectionRequest]:
        """Go through what `find` finds: the undecided, then who waits for the abort callback."""
        yield from self.undecided()
        yield from list(self._aborting.values())

    # --- Room --------------------------------------------------------------------------
    #
    # After the handshake a request is a connection from the beginning, and needs one of the
    # permits all the time. Before it there is nothing that anybody could write down for us but a
    # packet: then the permit is taken when the connection is.

    def watched_by(self, watcher: RoomWatcher) -> None:
        """See `Admission.watched_by`."""
        self._room_again = watcher.room_again
        self._handing_over.watched_by(watcher)

    def has_room(self, *, in_pump: bool, ahead: bool) -> bool:  # noqa: ARG002 - an inspector is always there
        """See `Admission.has_room`. For a request that has room an older one may have to go."""
        undecided = len(self._undecided) + (self._asked is not None)
        if undecided >= self._max_pending and self._pending_wait:
            return False
        if self._inspectors.straggling >= self._max_pending or not in_pump:
            return False
        # If an older one goes for a newcomer, or the newcomer itself, ``overflow`` decides who has
        # the permits that are left.
        return self._handing_over.has_place(
            undecided if self._holds_permits else 0, contested=not self._pending_wait
        )

    def has_place(self) -> bool:
        """See `Admission.has_place`."""
        return self._handing_over.has_place()

    def _is_crowded(self) -> bool:
        """Whether those without a verdict fill the room there is for them."""
        undecided = len(self._undecided)
        if undecided >= self._max_pending:
            return True
        return self._holds_permits and not self._handing_over.has_place(undecided)

    def _makes_room(self) -> bool:
        """Whether the oldest goes for a newcomer, when there are as many as there may be."""
        if self._overflow.pending == "evict":
            self._lose(next(iter(self._undecided.values())), Event.OVERFLOW, AbortReason.EVICTED)
            self._evicted += 1
            if self._evicted >= EVICTIONS_PER_COPY:
                self._evicted = 0
                self._undecided = dict(self._undecided.items())
            return True
        return False

    # --- Asking ------------------------------------------------------------------------

    def take(self, transport_request: TransportRequest, *, in_pump: bool) -> None:  # noqa: ARG002 - there is room in the pump only
        """In the pump: inspect a request that has come."""
        request = ConnectionRequest(self, transport_request, self._now())
        if self._undecided and self._is_crowded() and not self._makes_room():
            self._happens(request, _OVERFLOW)
            self._dropping.dropped(request.remote_address, "overflowed")
            return
        request._state = request._state.steps[_INSPECT].state
        self._asked = request
        counters = self._counters
        counters.inspected += 1
        pending = len(self._undecided) + 1 + len(self._half_open)
        if pending > counters.pending_most:  # noqa: PLR1730 - max() costs more, each time
            counters.pending_most = pending
        try:
            answer = self._ask(request)
        except BaseException:  # Ctrl-C and its like go on, and nobody decides about this one
            self._lose_if_undecided(request)
            raise
        if isinstance(answer, InspectAction):
            self._happens(request, _EVENT_OF[answer], PLAIN[answer], in_pump=True)
        elif not isinstance(answer, Verdict) and isinstance(answer, _AWAITABLES):
            self._start(request, answer)
        else:
            self._answered(request, answer, in_pump=True)

    def _ask(self, request: ConnectionRequest) -> object:
        block = self._block
        return block.call("inspect", request, block.context.copy(), self._inspect, request)

    def _start(self, request: ConnectionRequest, answer: Awaitable[object]) -> None:
        """Run an async inspector in a task of its own."""
        if request._state not in UNDECIDED:
            if isinstance(answer, Coroutine):
                answer.close()  # the listening socket was closed meanwhile
            return
        self._keep(request)
        self._tasks.inspect(request, answer)

    @trio.lowlevel.enable_ki_protection
    def _inspected(self, request: ConnectionRequest, answer: object) -> None:
        """In its task: an async inspector has answered."""
        self._room_again()
        self._answered(request, answer, in_pump=False)

    # --- Answers -----------------------------------------------------------------------

    def _answered(self, request: ConnectionRequest, answer: object, *, in_pump: bool) -> None:
        """Do what the inspector has answered; what is no verdict counts as a rejection."""
        verdict = as_verdict(answer)
        if verdict is None:
            if answer is not FAILED and request._state in UNDECIDED:
                self._report_nonsense(request, answer)
            verdict = _INSPECTOR_FAILED
        self._happens(request, _EVENT_OF[verdict.action], verdict, in_pump=in_pump)

    def _report_nonsense(self, request: ConnectionRequest, answer: object) -> None:
        nonsense = TypeError(
            f"the inspector answered {shown(answer)}: return InspectAction.ACCEPT, REJECT or PEND,"
            " or Verdict(InspectAction.REJECT, 'over-quota', close=b'421 busy\\r\\n')"
        )
        self._block.report_callback("inspect", request, nonsense)

    def complete(self, inspect_id: InspectId, answer: object) -> Status:
        """Carry out what somebody has decided about a request that was pended."""
        verdict = as_verdict(answer)
        event = None if verdict is None else _COMPLETION_OF.get(verdict.action)
        if event is None or not isinstance(inspect_id, InspectId):
            return Status.INVALID_PARAMETER
        request = self.find(inspect_id)
        if request is None:
            is_late = inspect_id.key == self.key and inspect_id.serial_number in self._remembered
            return Status.CONNECTION_ABORTED if is_late else Status.NOT_FOUND
        return self._happens(request, event, verdict)

    # --- What happens to a request -----------------------------------------------------

    def _happens(
        self,
        request: ConnectionRequest,
        event: Event,
        verdict: Verdict | None = None,
        *,
        in_pump: bool = False,
    ) -> Status:
        """Have the table say what follows, and do it."""
        before = request._state
        moved = before.steps.get(event) or step(before, event)  # which says that it can't happen
        request._state = moved.state
        if moved.answer is Answer.APPROVE:
            self._approve(request, in_pump=in_pump)
        elif moved.answer is Answer.REFUSE:
            # An early verdict waits for the inspector to say "later".
            early = request._verdict if event is Event.PEND else None
            self._refuse(request, early or verdict or _INSPECTOR_FAILED)
        elif moved.answer is Answer.RESET:
            request._transport_request.reset()
        elif moved.state is not before:
            request._verdict = verdict
            if moved.state is State.PENDED:
                self._pended(request)
        return moved.status

    def _pended(self, request: ConnectionRequest) -> None:
        self._keep(request)
        self._tell(records.RequestPended, request)

    def _approve(self, request: ConnectionRequest, *, in_pump: bool) -> None:
        transport_request = request._transport_request
        number = transport_request.serial_number
        if request is self._asked:
            self._asked = None
        else:
            del self._undecided[number]
        if request in self._peeked_at:
            # Who peeks at it looks again, and hears of the verdict.
            transport_request.unwatch_end()
            transport_request.watch_end(self._block.readiness, self)
        self._approved[number] = request
        self._counters.approved += 1
        if records.RequestApproved in self._block.observers.wanting:
            self._tell(records.RequestApproved, request)
        if transport_request.approve():
            self._establish(request, in_pump=in_pump)
        else:
            if len(self._half_open) >= HALF_OPEN_MOST:
                oldest = next(iter(self._half_open.values()))
                self._lose(oldest, Event.OVERFLOW, AbortReason.EVICTED)
            self._half_open[number] = request
            self._watch(request)

    def _establish(self, request: ConnectionRequest, *, in_pump: bool) -> None:
        request._state = request._state.steps[_ESTABLISH].state
        transport_request = request._transport_request
        if request._is_watched and transport_request.was_reset():
            self._lose(request, Event.LEAVE, AbortReason.RESET)
            return
        if self._handing_over.take(transport_request, in_pump=in_pump):
            self._watch(request)
        self._room_again()

    def taken(self, transport_request: TransportRequest) -> None:
        """Take note: somebody takes the connection now, and its channel next."""
        request = self._approved.pop(transport_request.serial_number)
        request._state = request._state.steps[_DELIVER].state
        if request._is_watched:
            request._is_watched = False
            transport_request.unwatch_end()

    def lost(self, transport_request: TransportRequest, why: AbortReason) -> None:
        """See `Approver.lost`."""
        event = Event.OVERFLOW if why is AbortReason.EVICTED else Event.LEAVE
        self._lose(self._approved[transport_request.serial_number], event, why)

    # --- Turning away ------------------------------------------------------------------

    def _refuse(self, request: ConnectionRequest, verdict: Verdict) -> None:
        self._leave_undecided(request)
        reason = self._counters.count_rejected(verdict.reason)
        given = self._turn_away(request._transport_request, verdict)
        if records.RequestRejected in self._block.observers.wanting:
            self._tell(records.RequestRejected, request, reason=reason, close=given)
        if given is not verdict.style:
            self._counters.close_fallbacks += 1
            self._block.tell(
                records.CloseStyleUnavailable,
                remote_address=request.remote_address,
                close=verdict.style,
            )
        self._room_again()

    def _turn_away(self, transport_request: TransportRequest, verdict: Verdict) -> CloseStyle:
        """Close as the verdict says, or as can be; return how."""
        style = verdict.style
        if style is CloseStyle.RESET or style not in self._styles:
            transport_request.reset()
            return CloseStyle.RESET
        if style is CloseStyle.SILENT:
            return style if transport_request.silence() else CloseStyle.RESET
        if style is CloseStyle.FIN:
            transport_request.finish()
        else:
            assert isinstance(verdict.close, bytes)
            self._last_words.say(transport_request, verdict.close)
        return style

    # --- Losing ------------------------------------------------------------------------

    def _lose(self, request: ConnectionRequest, event: Event, reason: AbortReason) -> None:
        """A request that was not rejected ends: cancel who works on it, and tell."""
        moved = step(request._state, event)
        number = request._transport_request.serial_number
        remote_address = request.remote_address  # while there is a channel to ask
        self._forget(request)
        self._counters.aborted[reason.value] += 1
        request.aborted = records.RequestAborted(
            at=trio.current_time(),
            inspect_id=request.inspect_id,
            remote_address=remote_address,
            reason=reason,
        )
        if moved.cancels:
            self._cancel(request)
        elif request._scope is None:
            request._scope = trio.CancelScope()  # which is not cancelled: there was a verdict
        if moved.aborts:
            self._aborting[number] = request
            self._block.post(partial(self._tell_abort, request))
        request._is_watched = False
        self._happens(request, event)
        self._block.observers.tell(request.aborted)
        self._room_again()

    def _forget(self, request: ConnectionRequest) -> None:
        number = request._transport_request.serial_number
        if self._approved.pop(number, None) is None:
            self._leave_undecided(request)
        elif self._half_open.pop(number, None) is None:
            self._handing_over.remove(request._transport_request)

    def _leave_undecided(self, request: ConnectionRequest) -> None:
        if request is self._asked:
            self._asked = None
        else:
            del self._undecided[request._transport_request.serial_number]

    def _lose_if_undecided(self, request: ConnectionRequest) -> None:
        if request._state in UNDECIDED:
            self._lose(request, Event.CLOSE, AbortReason.CLOSED)

    def _cancel(self, request: ConnectionRequest) -> None:
        assert request.aborted is not None
        if request._task_scope is not None:
            request._scope = request._task_scope  # for good: nobody can use it again
        if request._scope is not None:
            request._scope.cancel(reason=f"the request is over: {request.aborted.reason.value}")
        self._inspectors.cancelled(request)

    def _tell_abort(self, request: ConnectionRequest) -> None:
        """In the pump: WskAbortEvent."""
        number = request._transport_request.serial_number
        try:
            if self._abort_callback is not None:
                context = self._block.context.copy()
                self._block.call(
                    "abort", request, context, self._abort_callback, request.inspect_id
                )
        finally:
            del self._aborting[number]
            self._remembered[number] = None
            if len(self._remembered) > REMEMBERED_MOST:
                self._remembered.popitem(last=False)

    def close(self, reason: AbortReason) -> None:
        """The listening socket has closed or failed: so has every request."""
        for request in [*self.undecided(), *self._approved.values()]:
            self._lose(request, Event.CLOSE, reason)

    # --- The peer ----------------------------------------------------------------------

    def _keep(self, request: ConnectionRequest) -> None:
        """A request waits for its verdict: keep an eye on its peer and on the clock."""
        if request is self._asked:
            self._asked = None
            self._undecided[request._transport_request.serial_number] = request
        self._watch(request)
        if not self._sweep_posted:
            self._sweep_posted = True
            self._block.call_at(request.deadline, self._sweep)

    def _watch(self, request: ConnectionRequest) -> None:
        if not request._is_watched:
            request._is_watched = True
            request._transport_request.watch_end(self._block.readiness, self)

    def peer_ended(self, transport_request: TransportRequest, end: PeerEnd) -> None:
        """A transport says that a peer has left; whether that makes it gone is decided here."""
        number = transport_request.serial_number
        request = self._approved.get(number) or self._undecided.get(number)
        if request is not None and end in self._gone:
            self._lose(request, Event.LEAVE, _LEFT[end])

    def established(self, transport_request: TransportRequest) -> None:
        """A transport says that an approved request's handshake is over."""
        number = transport_request.serial_number
        request = self._approved.get(number)
        if request is not None and self._half_open.pop(number, None) is not None:
            self._establish(request, in_pump=False)

    def _sweep(self) -> None:
        """In the pump: end what has had no verdict in time; the oldest is always the first."""
        self._sweep_posted = False
        now = trio.current_time()
        while self._undecided:
            # Several at a time: a dict finds its first entry by passing all that were before it.
            for oldest in list(islice(self._undecided.values(), SWEPT_AT_ONCE)):
                if oldest.deadline > now:
                    self._sweep_posted = True
                    self._block.call_at(oldest.deadline, self._sweep)
                    return
                if oldest._state in UNDECIDED:
                    self._lose(oldest, Event.EXPIRE, AbortReason.TIMED_OUT)

    # --- Peeking -----------------------------------------------------------------------

    async def peek(self, request: ConnectionRequest, count: int) -> bytes:
        """Look at the first octets of a request; see `ConnectionRequest.peek`."""
        if not whole_number(count) or not 1 <= count <= PEEK_LIMIT:
            raise InvalidParameterError(f"peek takes a count from 1 to {PEEK_LIMIT}, not {count!r}")
        check_caller(self._block.home, "request.peek")
        if request in self._peeked_at:
            await trio.lowlevel.checkpoint()
            raise SocketBusyError("peek() while another task is peeking at this request")
        self._peeked_at.add(request)
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            data = self._peek_now(request, count)
            if data is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
            while data is None:
                await request._transport_request.wait_for_more()
                data = self._peek_now(request, count)
        except (ConnectionBrokenError, InvalidDeviceStateError):
            # In `cancel_scope` it ends here, cancelled.
            await trio.lowlevel.checkpoint()  # noqa: ASYNC120 - that is what the caller is to see
            raise
        finally:
            self._peeked_at.discard(request)
        return data

    @trio.lowlevel.enable_ki_protection
    def _peek_now(self, request: ConnectionRequest, count: int) -> bytes | None:
        """Look; None if more may come."""
        if request.aborted is not None:
            raise ConnectionBrokenError(
                f"the request of {request.remote_address} is over: {request.aborted.reason.value}",
                status=Status.CONNECTION_ABORTED,
            )
        if request._state not in UNDECIDED:
            raise InvalidDeviceStateError(
                f"the request of {request.remote_address} is {request._state.value}: peek before"
                " the verdict, receive after it"
            )
        try:
            data, is_all = request._transport_request.peek(count)
        except PeerFaultError as fault:
            self._lose(request, Event.LEAVE, AbortReason.RESET)
            raise ConnectionBrokenError(
                f"the request of {request.remote_address} has failed: {fault}",
                status=Status.CONNECTION_ABORTED,
            ) from fault.error
        if is_all and not data and PeerEnd.FIN in self._gone:
            # The edge that says so is on its way; the verdict must not depend on who is faster.
            self._lose(request, Event.LEAVE, AbortReason.FIN)
            raise ConnectionBrokenError(
                f"the peer of the request, {request.remote_address}, has left",
                status=Status.CONNECTION_ABORTED,
            )
        return data if is_all or len(data) >= count else None

    # --- Ending ------------------------------------------------------------------------

    def leave(self) -> None:
        """See `Admission.leave`: those whose handshake is not over are the others' now."""
        for request in [*self.undecided(), *self._approved.values()]:
            is_shaking_hands = request.inspect_point is InspectPoint.BEFORE_HANDSHAKE
            if is_shaking_hands and request._state is not State.ESTABLISHED:
                self._lose(request, Event.CLOSE, AbortReason.CLOSED)

    def take_last(self) -> None:
        """See `Admission.take_last`: here there is no choice."""

    async def settle(self) -> None:  # noqa: ASYNC910 - `aclose` has other checkpoints
        """After `close`: wait for inspectors to end, for a bounded time."""
        await self._inspectors.wait_none()

    # --- Helpers -----------------------------------------------------------------------

    def _tell(self, kind: type[records.Record], request: ConnectionRequest, **more: object) -> None:
        if kind in self._block.observers.wanting:
            self._block.tell(
                kind,
                inspect_id=request.inspect_id,
                remote_address=request.remote_address,
                **more,
            )


def _checked_styles(inspect: object, transport: Transport) -> frozenset[CloseStyle]:
    """Say how peers can be turned away here; see that it is enough for the inspector.

    Raises:
      InvalidParameterError: its attribute ``close_styles`` has one that can't be had.
    """
    styles = transport.close_styles()
    if CloseStyle.FIN in styles:
        styles |= {CloseStyle.MESSAGE}
    missing = set(getattr(inspect, "close_styles", ())) - styles
    if missing:
        names = ", ".join(sorted(str(each) for each in missing))
        raise InvalidParameterError(
            f"the inspector {inspect!r} turns peers away with {names}, which can't be"
            f" had {transport.inspect_point.value.replace('-', ' the ')} on {transport!r}"
        )
    return styles
