"""The pump: the one task in which a listening block does what it does on nobody's behalf.

Accepting, callbacks, completion routines, events of connections: all of it happens here. Public
calls change state and leave work with `Pump.post`; the pump does it, in the order in which it was
left, on no caller's stack. So a callback never runs inside another one, and a completion routine
that queues the next operation a thousand times over doesn't recurse.

Nothing here awaits but `Pump.run`, `Pump.settle` and the timer task.
"""

from __future__ import annotations

import contextvars
import enum
import heapq
import sys
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol, final

import trio

from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.errors import ConnectionBrokenError
from trio_wsk.observers import Observers

from .callers import Home

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.records import Record
    from trio_wsk.observers import Observer

    from .readiness import Readiness

__all__ = ["FAILED", "OVER", "Concern", "Life", "Pump", "Unwrapping", "do_all", "unwrapped"]

WORK_PER_TURN: Final = 64
"""How much posted work the pump does before other tasks have their turn."""


class Life(enum.Enum):
    """How far a pump is in its life; it never goes back but from parked to busy."""

    NEW = "not started"
    BUSY = "running, or about to"
    PARKED = "waiting for edges, or for work"
    STOPPED = "its task has ended"
    OVER = "what is posted is not done any more"


# For `is`, where a pump looks at each piece of work: on 3.10 and 3.11 reading a member of an enum
# takes three times as long as reading a global.
_BUSY: Final = Life.BUSY
_PARKED: Final = Life.PARKED
OVER: Final = Life.OVER


class Concern(Protocol):
    """What a callback is called for: a connection or a request."""

    @property
    def remote_address(self) -> Address:
        """Its peer."""

    def _callback_failed(self, error: BaseException) -> None:
        """Take note: a callback of its own has raised, or returned nonsense."""


class _Failed:
    """What `Pump.call` returns when the callback raised."""


FAILED: Final = _Failed()

_NOTHING: Final = object()
"""No second argument."""


class Pump:
    """The pump of one listening block, with its timers and its way to call user code.

    Args:
      observers: Who is told of what happens.
      failures: Where callbacks that failed are counted, by their names.
    """

    def __init__(self, observers: Iterable[Observer], failures: Counter[str]) -> None:
        self.home: Final = Home()
        """The Trio run that it lives in; who calls from elsewhere is refused."""
        self.context: Final = contextvars.copy_context()
        """The context that it was made in; each connection's callbacks have a copy."""
        self.observers: Observers = Observers(observers)
        self.life: Life = Life.NEW
        """How far it is in its life."""
        self.calling: str | None = None
        """Which callback is running now, if any."""
        self.readiness: Readiness
        self._failures = failures
        self._calling_for: object = None
        self._nursery: trio.Nursery
        self._work: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._timer_order = count()
        self._timer_scope: trio.CancelScope | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing that is posted is done any more."""
        return self.life is OVER

    @property
    def runs(self) -> bool:
        """Whether it was started, and nothing has ended it, so that tasks can be."""
        return self.life is _BUSY or self.life is _PARKED

    def start(self, nursery: trio.Nursery, readiness: Readiness) -> None:
        """Start the pump."""
        self._nursery = nursery
        self.readiness = readiness
        self.life = _BUSY
        nursery.start_soon(self.run, name="trio_wsk: pump")

    def post(self, work: Callable[[], object]) -> None:
        """Have ``work`` done by the pump, after what was posted before it.

        When it has ended, nothing happens.
        """
        life = self.life
        if life is not OVER:
            self._work.append(work)
            if life is _PARKED:
                self.readiness.wake()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Do what is posted, then wait for edges; one bounded turn after the other.

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
                    self.life = _PARKED
                    await readiness.park()
                    self.life = _BUSY
                is_busy = readiness.poll()
                for _ in range(min(len(work), WORK_PER_TURN)):
                    work.popleft()()
        finally:
            self.life = Life.STOPPED
            self._work_off()

    def start_task(
        self, async_function: Callable[..., Awaitable[object]], *arguments: object, name: str
    ) -> None:
        """Run something in a task of its own, beside the pump's."""
        self._nursery.start_soon(async_function, *arguments, name=name)

    async def settle(self) -> None:
        """Wait until the pump has done what is posted now. Always a checkpoint."""
        if self.life is _BUSY or self.life is _PARKED:
            settled = trio.Event()
            self.post(settled.set)
            await settled.wait()
        else:
            self._work_off()
            await trio.lowlevel.checkpoint()

    def end(self) -> None:
        """Do the work that is left, and nothing from then on.

        For after `run` has ended, cancelled perhaps: a completion routine is called on every path.
        """
        # From here on nothing can be queued, so that routines which go on for ever end.
        was_started = self.life is not Life.NEW
        self.life = OVER
        try:
            self._work_off()
        finally:
            if was_started:
                self.readiness.close()

    def _work_off(self) -> None:
        """Do what is posted now, and not what that posts: a routine may do so for ever."""
        work = list(self._work)
        self._work.clear()
        do_all(work)

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        """Have ``callback`` done by the pump at ``when``, seconds on Trio's clock.

        There is no cancelling: what comes too late finds nothing to do. One task serves
        all timers, since a cancel scope for each wait would cost more than the wait.
        """
        if self.life is Life.STOPPED or self.life is OVER:
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

    def is_calling(self, name: str, concerns: Concern) -> bool:
        """Whether this callback runs now, for this."""
        return self.calling == name and self._calling_for is concerns

    @trio.lowlevel.enable_ki_protection
    def report_callback(self, name: str, concerns: Concern | None, error: BaseException) -> None:
        """Count that a callback raised or returned nonsense, and tell the observers."""
        self._failures[name] += 1
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


def do_all(work: Iterable[Callable[[], object]]) -> None:
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


@final
class Unwrapping:
    """A block out of which a lone exception comes as it is, without the group of a nursery."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(error, BaseExceptionGroup):
            return
        alone = unwrapped(error)
        context = alone.__context__
        try:
            raise alone
        finally:
            alone.__context__ = context  # and not the group
            del error, alone, context  # or they would hold this frame, which holds them
