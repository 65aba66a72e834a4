"""Async inspectors that are running, and those that go on after they were cancelled.

An inspector that ignores its cancellation can hold nothing up: its request has ended, and its
answer is not listened to. But its task lives, and leaving the block waits for it, so it is
reported, and there may be only so many.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._vocabulary.records import InspectorStraggles

if TYPE_CHECKING:
    from trio_wsk._connection.block import Block

    from .request import ConnectionRequest

__all__ = ["STRAGGLE_SECONDS", "Stragglers"]

STRAGGLE_SECONDS: Final = 1.0
"""How long after its cancellation an inspector may go on without being reported, and how long
closing waits for it. One that awaits ends within a few passes of the scheduler; one that waits
for a thread that can't be cancelled takes as long as that does."""


class Stragglers:
    """The async inspectors of one listening socket."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self.straggling: int = 0
        """How many were cancelled and are still running."""
        self._running = 0
        self._cancelled: OrderedDict[ConnectionRequest, float] = OrderedDict()
        self._reported: set[ConnectionRequest] = set()
        self._check_is_due = False
        self._none_running: trio.Event | None = None

    def started(self) -> None:
        """Take note: one more inspector runs."""
        self._running += 1

    def ended(self, request: ConnectionRequest) -> None:
        """Take note: its inspector runs no more."""
        self._running -= 1
        if self.straggling and (request in self._cancelled or request in self._reported):
            self._cancelled.pop(request, None)
            self._reported.discard(request)
            self.straggling -= 1
        if not self._running and self._none_running is not None:
            self._none_running.set()
            self._none_running = None

    def cancelled(self, request: ConnectionRequest) -> None:
        """Take note: if its inspector runs, it should end soon."""
        if request._scope is not None and request._scope.is_running:
            self._cancelled[request] = trio.current_time()
            self.straggling += 1
            self._check_later()

    def _check_later(self) -> None:
        if self._cancelled and not self._check_is_due:
            self._check_is_due = True
            due = next(iter(self._cancelled.values())) + STRAGGLE_SECONDS
            self._block.call_at(due, partial(self._check, due))

    def _check(self, due: float) -> None:
        self._check_is_due = False
        now = trio.current_time()
        if now - due < STRAGGLE_SECONDS:
            self._report(due=now)
        else:  # the whole run stood still, and they have not had their turn since
            self._cancelled = OrderedDict.fromkeys(self._cancelled, now)
        self._check_later()

    def _report(self, *, due: float) -> None:
        """Report who has had its time by then."""
        while self._cancelled:
            request, cancelled = next(iter(self._cancelled.items()))
            # The same sum as in `_check_later`: another one may be rounded to a later time,
            # which a virtual clock would never reach.
            if cancelled + STRAGGLE_SECONDS > due:
                break
            del self._cancelled[request]
            self._reported.add(request)
            if InspectorStraggles in self._block.observers.wanting:
                self._block.tell(
                    InspectorStraggles,
                    inspect_id=request.inspect_id,
                    remote_address=request.remote_address,
                    seconds=trio.current_time() - cancelled,
                )

    async def wait_none(self) -> None:
        """When all are cancelled: wait for them to end, `STRAGGLE_SECONDS` and no longer.

        No checkpoint if none runs: `aclose` has others.
        """
        if not self._running:
            return  # noqa: ASYNC910 - as it says
        if self._none_running is None:
            self._none_running = trio.Event()
        none_running = self._none_running
        with trio.move_on_after(STRAGGLE_SECONDS):
            await none_running.wait()
        self._report(due=math.inf)
