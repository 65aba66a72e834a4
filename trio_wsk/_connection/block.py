"""The listening block: its pump, its context, its timers, and what lives in it.

Everything that a listening socket does on nobody's behalf happens in one task, the pump:
accepting, callbacks, completion routines, events of connections. Public calls change
state and leave work with `Block.post`; the pump does it, in the order in which it was
left, on no caller's stack. So a callback never runs inside another one, and a completion
routine that queues the next operation a thousand times over doesn't recurse.

Nothing here awaits but `Block.run` and the timer task.
"""

from __future__ import annotations

import contextvars
import heapq
import sys
from collections import deque
from functools import partial
from itertools import count
from operator import methodcaller
from typing import TYPE_CHECKING, Final, Protocol

import trio

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

from trio_wsk._engine.callers import Home
from trio_wsk._engine.deadlines import Deadlines
from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.end_reason import EndReason
from trio_wsk._vocabulary.errors import ConnectionBrokenError
from trio_wsk.observers import Observers

from .farewell import SILENT_SECONDS, TOTAL_SECONDS, Farewells

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from trio_wsk._engine.readiness import Readiness
    from trio_wsk._listening.listening import ListeningSocket
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.records import Record
    from trio_wsk.observers import Observer

    from .events import EventSide

__all__ = ["FAILED", "LINGER_SECONDS", "Block", "unwrapped"]

LINGER_SECONDS: Final = SILENT_SECONDS
"""How long a peer may be silent after our FIN before the connection is reset, in seconds
on Trio's clock."""

TAKING_SECONDS: Final = 30.0
"""How long a peer has to take `TAKING_OCTETS` of what is unsent when its connection is to end, and
then for the next; half of nginx's ``send_timeout``. So the end is bounded by how much is unsent."""

TAKING_OCTETS: Final = 1 << 14
"""What the kernel takes at once as a rule (TCP_NOTSENT_LOWAT): who takes less in that time has not
read at all, or slower than a modem."""

WORK_PER_TURN: Final = 64
"""How much posted work the pump does before other tasks have their turn."""


class Concern(Protocol):
    """What a callback is called for: a connection or a request."""

    @property
    def remote_address(self) -> Address:
        """Its peer."""

    def _callback_failed(self, error: BaseException) -> None:
        """Take note: a callback of its own has raised, or returned nonsense."""


class _Failed:
    """What `Block.call` returns when the callback raised."""


FAILED: Final = _Failed()

_NOTHING: Final = object()
"""No second argument."""


class Block:
    """What one listening block gives to all that lives in it."""

    def __init__(self, listening: ListeningSocket, observers: Iterable[Observer]) -> None:
        self.listening: Final = listening
        """Whose block this is."""
        self.home: Final = Home()
        """The Trio run that it lives in; who calls from elsewhere is refused."""
        self.context: Final = contextvars.copy_context()
        """The context that the block was opened in; each connection's callbacks have a copy."""
        self.observers: Observers = Observers(observers)
        self.draining: Final = trio.Event()
        """Set when the server wants its connections to finish."""
        self.event_driven: set[EventSide] = set()
        """The open connections that have events: nobody else holds them."""
        self.lingering: Deadlines[EventSide] = Deadlines(
            self.call_at, LINGER_SECONDS, methodcaller("_abort", EndReason.TIMED_OUT)
        )
        """The connections that have sent FIN and wait for the peer's, which says nothing."""
        self.lingering_in_all: Deadlines[EventSide] = Deadlines(
            self.call_at, TOTAL_SECONDS, methodcaller("_abort", EndReason.TIMED_OUT)
        )
        """The same connections, whatever their peers say."""
        self.taking: Deadlines[EventSide] = Deadlines(
            self.call_at, TAKING_SECONDS, methodcaller("_check_taking")
        )
        """Those that want to send FIN and can't yet: their peers have to take what is before it."""
        self.farewells: Farewells | None = None
        """Where channels linger that are closed; if there is nothing, unread input resets."""
        self.is_served: bool = False
        """A server's: its observers hear of each connection's end."""
        self.ended: bool = False
        """The block has been left: nothing posted is done any more."""
        self.calling: str | None = None
        """Which callback is running now, if any."""
        self._calling_for: object = None
        self.readiness: Readiness
        self._nursery: trio.Nursery
        self._work: deque[Callable[[], object]] = deque()
        self._parked = False
        self._pump_started = False
        self._pump_ended = False
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._timer_order = count()
        self._timer_scope: trio.CancelScope | None = None

    def start(self, nursery: trio.Nursery, readiness: Readiness) -> None:
        """Start the pump."""
        self._nursery = nursery
        self.readiness = readiness
        self._pump_started = True
        nursery.start_soon(self.run, name="trio_wsk: pump")

    def post(self, work: Callable[[], object]) -> None:
        """Have ``work`` done by the pump, after what was posted before it.

        When the block has ended there is no pump, and nothing happens.
        """
        if not self.ended:
            self._work.append(work)
            if self._parked:
                self.readiness.wake()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """The pump: do what is posted, then wait for edges; one bounded turn after the other.

        Ctrl-C is held back while it changes state; user code runs unprotected.
        """
        work = self._work
        readiness = self.readiness
        is_busy = False
        try:
            while True:
                if work or is_busy:
                    await trio.lowlevel.checkpoint()
                else:
                    self._parked = True
                    await readiness.park()
                    self._parked = False
                is_busy = readiness.poll()
                for _ in range(min(len(work), WORK_PER_TURN)):
                    work.popleft()()
        finally:
            self._parked = False
            self._pump_ended = True
            self._work_off()

    def start_task(
        self, async_function: Callable[..., Awaitable[object]], *arguments: object, name: str
    ) -> None:
        """Run something in a task of the block's."""
        self._nursery.start_soon(async_function, *arguments, name=name)

    async def settle(self) -> None:
        """Wait until the pump has done what is posted now. Always a checkpoint."""
        if self._pump_started and not self._pump_ended:
            settled = trio.Event()
            self.post(settled.set)
            await settled.wait()
        else:
            self._work_off()
            await trio.lowlevel.checkpoint()

    @trio.lowlevel.enable_ki_protection
    def finish(self) -> None:
        """Reset what is still event-driven, and do the work that is left.

        What only has something queued goes on without the block.

        For after the pump has ended, cancelled perhaps: a completion routine is called
        on every path. Ctrl-C waits until all is done.
        """
        outliving = [each for each in self.event_driven if each._outlives_block]
        ending = self.event_driven.difference(outliving)
        try:
            _do_all([partial(each._abort, EndReason.BLOCK_ENDED) for each in ending])
        finally:
            if self.farewells is not None:
                self.farewells.close()
            # From here on nothing can be queued, so that routines which go on for ever end.
            self.ended = True
            try:
                self._work_off()
            finally:
                if self._pump_started:
                    self.readiness.close()
                for each in outliving:
                    each._leave_block()

    def _work_off(self) -> None:
        """Do what is posted now, and not what that posts: a routine may do so for ever."""
        work = list(self._work)
        self._work.clear()
        _do_all(work)

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        """Have ``callback`` done by the pump at ``when``, seconds on Trio's clock.

        There is no cancelling: what comes too late finds nothing to do. One task serves
        all timers, since a cancel scope for each wait would cost more than the wait.
        """
        if self._pump_ended:
            return
        timers = self._timers
        heapq.heappush(timers, (when, next(self._timer_order), callback))
        if len(timers) == 1:
            self._nursery.start_soon(self._run_timers, name="trio_wsk: timers")
        elif timers[0][0] == when and self._timer_scope is not None:
            self._timer_scope.cancel()

    async def _run_timers(self) -> None:  # noqa: ASYNC910 - a task of its own
        timers = self._timers
        while timers:
            with trio.CancelScope(deadline=timers[0][0]) as self._timer_scope:
                await trio.sleep_forever()
            self._timer_scope = None
            now = trio.current_time()
            while timers and timers[0][0] <= now:
                self.post(heapq.heappop(timers)[2])

    @trio.lowlevel.disable_ki_protection
    def call(  # noqa: PLR0917 - called for each piece of data, and keywords take their time
        self,
        name: str,
        concerns: Concern | None,
        context: contextvars.Context,
        callback: Callable[..., object],
        first: object,
        second: object = _NOTHING,
    ) -> object:
        """Run one user callback in ``context``; what it raises is reported, and `FAILED` returned.

        `KeyboardInterrupt`, `SystemExit` and their like go on: they concern the process.
        So does a `ConnectionBrokenError` of the connection that this is about: that its
        peer has gone is no fault of the callback.
        """
        self.calling, self._calling_for = name, concerns
        try:
            # With a list of arguments of any length the call would take twice as long.
            if second is _NOTHING:
                return context.run(callback, first)
            return context.run(callback, first, second)
        except ConnectionBrokenError as error:
            if error.connection is concerns is not None:
                raise
            self.report_callback(name, concerns, error)
            return FAILED
        except (Exception, trio.Cancelled) as error:  # noqa: BLE001 - whatever it is, it is reported
            # A plain function can't be cancelled: that is somebody else's, raised again.
            self.report_callback(name, concerns, error)
            return FAILED
        finally:
            self.calling = self._calling_for = None

    def is_calling(self, name: str, connection: EventSide) -> bool:
        """Whether this callback runs now, for this connection."""
        return self.calling == name and self._calling_for is connection

    @trio.lowlevel.enable_ki_protection
    def report_callback(self, name: str, concerns: Concern | None, error: BaseException) -> None:
        """Count that a callback raised or returned nonsense, and tell the observers."""
        self.listening._counters.callback_failures[name] += 1
        if concerns is not None:
            concerns._callback_failed(error)
        if records.CallbackFailed in self.observers.wanting:
            self.tell(
                records.CallbackFailed,
                callback=name,
                error=error,
                remote_address=None if concerns is None else concerns.remote_address,
            )

    def tell(self, kind: type[Record], **fields: object) -> None:
        """Make a record, if anybody observes its kind."""
        if kind in self.observers.wanting:
            self.observers.tell(kind(at=trio.current_time(), **fields))


def _do_all(work: Iterable[Callable[[], object]]) -> None:
    """Do each piece, whatever the others raise; Ctrl-C and its like go on when all is done."""
    first: BaseException | None = None
    for each in work:
        try:
            each()
        except BaseException as error:  # noqa: BLE001 - it goes on, below
            first = first or error
    try:
        if first is not None:
            raise first
    finally:
        del first


def unwrapped(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Take a lone exception out of the group that a nursery has put it in."""
    return group.exceptions[0] if len(group.exceptions) == 1 else group
