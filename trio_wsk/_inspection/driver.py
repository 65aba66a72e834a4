"""Conditional accept: asking about connection requests.

An inspector is called, or started, for each request that comes; its answers, and those of whoever
completes an inspection, go to `lives`, where they are carried out. One in two stages is asked again
when the handshake is over.

Nothing here awaits but `ConditionalAccept.settle`; async inspectors run in `inspector_tasks`, and
`peeking` has their looks at first octets. Inspectors are called in the pump only.

Source: PFN_WSK_INSPECT_EVENT, PFN_WSK_INSPECT_COMPLETE.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from functools import partial
from itertools import count
from types import CoroutineType
from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._engine.pump import FAILED
from trio_wsk._vocabulary.arguments import shown
from trio_wsk._vocabulary.status import Status
from trio_wsk._vocabulary.verdict import (
    PLAIN,
    AbortReason,
    InspectAction,
    InspectId,
    InspectPoint,
    Verdict,
    as_verdict,
)

from .inspector_tasks import InspectorTasks
from .lives import INSPECTOR_FAILED, Lives
from .request import ConnectionRequest
from .stragglers import Stragglers
from .table import UNDECIDED, Event, State
from .turning_away import TurningAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_wsk._connection.block import Block
    from trio_wsk._delivery.contract import HandingOver, RoomWatcher
    from trio_wsk._delivery.dropping import Dropping
    from trio_wsk._vocabulary.statistics import ListeningCounters
    from trio_wsk.transports._contract import Transport, TransportRequest

    from .conditions import Conditions
    from .turning_away import Farewell

__all__ = ["ConditionalAccept", "next_key"]

_EVENT_OF: Final = {
    InspectAction.ACCEPT: Event.ACCEPT,
    InspectAction.REJECT: Event.REJECT,
    InspectAction.PEND: Event.PEND,
}

_COMPLETION_OF: Final = {
    InspectAction.ACCEPT: Event.COMPLETE_ACCEPT,
    InspectAction.REJECT: Event.COMPLETE_REJECT,
}

# Members of an enum are looked up anew each time, which adds up over all that is asked for
# each request; a name of the module is not.
_INSPECT: Final = Event.INSPECT

_RULE_ALONE: Final = "; a rule that answers None where it has no objection goes into Rules(...)"

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
      farewell: How peers are told why they are turned away.

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
        farewell: Farewell,
    ) -> None:
        self.key: int = key
        """The key of this socket's `InspectId` values."""
        assert block.listening is not None
        self.listening = block.listening
        """The listening socket that is asked."""
        self.inspect_timeout: float = conditions.timeout
        self._inspect = conditions.inspect
        self._stages = conditions.stages
        self._max_pending = conditions.max_pending
        self._overflow = conditions.overflow.pending
        self._holds_permits = transport.inspect_point is InspectPoint.AFTER_HANDSHAKE
        self.block: Block = block
        """Whose pump calls the inspector."""
        self._handing_over = handing_over
        self._counters = counters
        self._now = trio.lowlevel.current_clock().current_time
        self._inspectors = Stragglers(block)
        self._lives = Lives(
            conditions,
            handing_over=handing_over,
            turning_away=TurningAway(transport, self._inspect, farewell),
            inspectors=self._inspectors,
            block=block,
            counters=counters,
            dropping=dropping,
            has_connected=self._connected,
        )
        self._undecided = self._lives.undecided
        self._apply = self._lives.apply
        self._tasks = InspectorTasks(
            block,
            self._inspectors,
            self._inspected,
            f"trio_wsk: {getattr(self._inspect, '__qualname__', repr(self._inspect))}",
        )
        self.peek: Callable[[ConnectionRequest, int, int | None], Awaitable[bytes]] = (
            self._lives.peeking.peek
        )
        """See `ConnectionRequest.peek`."""
        self.look: Callable[[ConnectionRequest, int], bytes] = self._lives.peeking.look
        """See `Peeking.look`."""
        self.consume: Callable[[ConnectionRequest, int], None] = self._lives.peeking.consume
        """See `Peeking.consume`."""

    # --- What is known -----------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many requests may still become connections."""
        return self.pending + self._handing_over.waiting

    @property
    def pending(self) -> int:
        """How many requests are undecided, or approved and not yet established."""
        return len(self._undecided.by_number) + len(self._lives.half_open)

    @property
    def straggling(self) -> int:
        """How many inspectors were cancelled and are still running."""
        return self._inspectors.straggling

    def find(self, inspect_id: InspectId) -> ConnectionRequest | None:
        """Return the request that waits for its verdict, or for its abort callback."""
        if inspect_id.key != self.key:
            return None
        number = inspect_id.serial_number
        return self._undecided.by_number.get(number) or self._lives.aborts.by_number.get(number)

    def __len__(self) -> int:
        """How many requests `find` finds."""
        return len(self._undecided.by_number) + len(self._lives.aborts.by_number)

    def requests(self) -> Iterator[ConnectionRequest]:
        """Go through what `find` finds: the undecided, then who waits for the abort callback."""
        yield from list(self._undecided.by_number.values())
        yield from list(self._lives.aborts.by_number.values())

    # --- Room --------------------------------------------------------------------------
    #
    # After the handshake a request is a connection from the beginning, and needs one of the
    # permits all the time. Before it there is nothing that anybody could write down for us but a
    # packet: then the permit is taken when the connection is, and there may be another stage.

    def watched_by(self, watcher: RoomWatcher) -> None:
        """See `Admission.watched_by`."""
        self._lives.room_again = watcher.room_again
        self._handing_over.watched_by(watcher)

    def has_room(self, *, in_pump: bool, ahead: bool) -> bool:  # noqa: ARG002 - an inspector is always there
        """See `Admission.has_room`. For a request that has room an older one may have to go."""
        if self._inspectors.straggling >= self._max_pending or not in_pump:
            return False
        return self._has_room()

    def _has_room(self) -> bool:
        if self._undecided.waiting >= self._max_pending and self._overflow == "wait":
            return False
        # If an older one goes for a newcomer, or the newcomer itself, ``overflow`` decides who has
        # the permits that are left.
        return self._handing_over.has_place(self._coming, contested=self._overflow != "wait")

    def has_place(self) -> bool:
        """See `Admission.has_place`. The second stage may have to be asked about it."""
        return self._handing_over.has_place() if self._stages is None else self._has_room()

    @property
    def _coming(self) -> int:
        """How many without a verdict are connections."""
        undecided = self._undecided
        return len(undecided.by_number) if self._holds_permits else undecided.connected

    def _is_crowded(self, *, by_connection: bool) -> bool:
        """Whether those without a verdict fill the room there is for them."""
        if not self._undecided.by_number:  # as a rule, where inspectors are plain
            return False
        waiting = self._undecided.waiting
        if not waiting:
            return False
        if waiting >= self._max_pending:
            return True
        return by_connection and not self._handing_over.has_place(self._coming)

    def _makes_room(self) -> bool:
        """Have the oldest go for a newcomer, if that is the policy; say whether it is."""
        if self._overflow != "evict":
            return False
        self._apply(self._undecided.oldest(), Event.OVERFLOW, why=AbortReason.EVICTED)
        return True

    # --- Asking ------------------------------------------------------------------------

    def take(self, transport_request: TransportRequest, *, in_pump: bool) -> None:  # noqa: ARG002 - there is room in the pump only
        """In the pump: inspect a request that has come."""
        request = ConnectionRequest(self, transport_request, self._now())
        if self._is_crowded(by_connection=self._holds_permits) and not self._makes_room():
            self._apply(request, Event.OVERFLOW)
            return
        undecided = self._undecided.by_number
        undecided[request._number] = request
        counters = self._counters
        counters.inspected += 1
        pending = len(undecided) + len(self._lives.half_open)
        if pending > counters.pending_most:  # noqa: PLR1730 - max() costs more, each time
            counters.pending_most = pending
        inspect = self._inspect
        if self._stages is not None:
            self._undecided.waits(request)
            if self._is_first(request):
                inspect = self._stages.before_handshake
        self._question(request, inspect)

    def _connected(self, request: ConnectionRequest) -> None:
        """The handshake is over of a request that its first stage has let through."""
        if self._is_crowded(by_connection=True) and not self._makes_room():
            self._apply(request, Event.OVERFLOW, why=AbortReason.EVICTED)
            return
        self._lives.is_connected(request)
        self.block.post(partial(self._ask_again, request))

    def _ask_again(self, request: ConnectionRequest) -> None:
        """In the pump: ask the second stage, if the request has not ended meanwhile."""
        if request._state is State.CONNECTED:
            assert self._stages is not None
            self._question(request, self._stages.after_handshake)

    def _is_first(self, request: ConnectionRequest) -> bool:
        """Whether another stage is to be asked about a request after this one."""
        return self._stages is not None and request.stage is InspectPoint.BEFORE_HANDSHAKE

    def _question(
        self, request: ConnectionRequest, inspect: Callable[[ConnectionRequest], object]
    ) -> None:
        request._state = request._state.steps[_INSPECT].state  # nothing else follows from it
        try:
            answer = self._ask(request, inspect)
        except BaseException:  # Ctrl-C and its like go on, and nobody decides about this one
            if request._state in UNDECIDED:
                self._apply(request, Event.CLOSE, why=AbortReason.CLOSED)
            raise
        if isinstance(answer, InspectAction):
            self._apply(request, _EVENT_OF[answer], PLAIN[answer], in_pump=True)
        elif not isinstance(answer, Verdict) and isinstance(answer, _AWAITABLES):
            self._start(request, answer)
        else:
            self._answered(request, answer, in_pump=True)

    def _ask(
        self, request: ConnectionRequest, inspect: Callable[[ConnectionRequest], object]
    ) -> object:
        block = self.block
        return block.call("inspect", request, block.context.copy(), inspect, request)

    def _start(self, request: ConnectionRequest, answer: Awaitable[object]) -> None:
        """Run an async inspector in a task of its own."""
        if request._state not in UNDECIDED:
            if isinstance(answer, Coroutine):
                answer.close()  # the listening socket was closed meanwhile
            return
        self._lives.keep(request)
        self._tasks.inspect(request, answer)

    @trio.lowlevel.enable_ki_protection
    def _inspected(self, request: ConnectionRequest, answer: object) -> None:
        """In its task: an async inspector has answered."""
        self._lives.room_again()
        self._answered(request, answer, in_pump=False)

    # --- Answers -----------------------------------------------------------------------

    def _answered(self, request: ConnectionRequest, answer: object, *, in_pump: bool) -> None:
        """Do what the inspector has answered; what is no verdict counts as a rejection."""
        verdict = as_verdict(answer)
        if verdict is None:
            if answer is None and self._is_first(request):
                self._apply(request, Event.PASS)
                return
            if answer is not FAILED and request._state in UNDECIDED:
                self._report_nonsense(request, answer)
            verdict = INSPECTOR_FAILED
        self._apply(request, _EVENT_OF[verdict.action], verdict, in_pump=in_pump)

    def _report_nonsense(self, request: ConnectionRequest, answer: object) -> None:
        nonsense = TypeError(
            f"the inspector answered {shown(answer)}: return InspectAction.ACCEPT, REJECT or PEND,"
            " or Verdict(InspectAction.REJECT, 'over-quota', close=b'421 busy\\r\\n')"
            f"{_RULE_ALONE if answer is None else ''}"
        )
        self.block.report_callback("inspect", request, nonsense)

    def complete(self, inspect_id: InspectId, answer: object) -> Status:
        """Carry out what somebody has decided about a request that was pended."""
        verdict = as_verdict(answer)
        event = None if verdict is None else _COMPLETION_OF.get(verdict.action)
        if event is None or not isinstance(inspect_id, InspectId):
            return Status.INVALID_PARAMETER
        request = self.find(inspect_id)
        if request is None:
            is_late = inspect_id.key == self.key and self._lives.aborts.remembers(
                inspect_id.serial_number
            )
            return Status.CONNECTION_ABORTED if is_late else Status.NOT_FOUND
        if event is Event.COMPLETE_ACCEPT and self._is_first(request):
            event = Event.COMPLETE_PASS
        return self._apply(request, event, verdict)

    # --- Ending ------------------------------------------------------------------------

    def leave(self) -> None:
        """See `Admission.leave`."""
        self._lives.leave()

    def take_last(self) -> None:
        """See `Admission.take_last`: here there is no choice."""

    def close(self, reason: AbortReason) -> None:
        """The listening socket has closed or failed: so has every request."""
        self._lives.close(reason)

    async def settle(self) -> None:  # noqa: ASYNC910 - `aclose` has other checkpoints
        """After `close`: wait for inspectors to end, for a bounded time."""
        await self._inspectors.wait_none()
