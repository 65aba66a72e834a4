"""Tasks for async inspectors, used one request after the other.

A task runs inside the scope of its request's verdict; which request has which, and when it is
cancelled, is said in `scope`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import trio

from trio_wsk._connection.faults import is_cancelled, split_error
from trio_wsk._engine.pump import FAILED
from trio_wsk._engine.reused_tasks import ReusedTasks, cancel_status, forget_first_frame

from .scope import VerdictScope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsk._connection.block import Block

    from .request import ConnectionRequest
    from .stragglers import Stragglers

__all__ = ["InspectorTasks"]

_STRAY = "the inspector has raised a cancellation outside of the scope that it was for"


class InspectorTasks(ReusedTasks["ConnectionRequest"]):
    """The tasks of one listening socket's inspector.

    Args:
      block: Where they run.
      inspectors: Who keeps account of them.
      answered: Called with a request and what its inspector has answered, or `FAILED`.
      name: What the tasks are called.
    """

    def __init__(
        self,
        block: Block,
        inspectors: Stragglers,
        answered: Callable[[ConnectionRequest, object], object],
        name: str,
    ) -> None:
        super().__init__(block.start_task, block.context, name)
        self._block = block
        self._inspectors = inspectors
        self._answered = answered

    def inspect(self, request: ConnectionRequest, inspection: Awaitable[object]) -> None:
        """Run what an inspector has answered a request with."""
        request._inspection = inspection
        self._inspectors.started()
        scope = request._scope
        task = self._pop_idle() if scope is None else None
        if task is None:
            request._scope = scope = scope or VerdictScope()
            scope.is_running = True
            self._make(request)
        else:
            request._scope = scope = task.custom_sleep_data
            scope.is_running = True
            self._wake(task, request)

    # This itself is not protected from Ctrl-C, and so the inspector isn't, without a coroutine
    # more: all that changes state is. Each name here weighs 16 octets on each pended request,
    # since Trio has the frame of a task's first coroutine made into an object.
    async def _run(self, request: ConnectionRequest) -> None:  # noqa: ASYNC910 - a task of its own
        assert request._scope is not None
        self._begin()
        try:
            with request._scope.inner():
                while True:
                    try:
                        request._inspection = await request._inspection
                    except BaseException:
                        if not self._failed(request):
                            raise
                    if not self._over(request):
                        break
                    del request  # who waits keeps no request
                    request = await self._next()
        except Exception as error:  # noqa: BLE001 - Trio's, about a scope that was left open
            self._left_open(request, error)
        if request._inspection is FAILED:
            self._answered(request, FAILED)  # the scope was cancelled, which is no answer

    @trio.lowlevel.enable_ki_protection
    def _over(self, request: ConnectionRequest) -> bool:
        """Its inspector has answered; say whether another request can have the scope."""
        answer, request._inspection = request._inspection, None
        scope = self._ended(request)
        # Where whoever wakes it finds it.
        trio.lowlevel.current_task().custom_sleep_data = scope
        is_free = scope.is_free
        if is_free:
            request._scope = None  # the next request has it
        self._answered(request, answer)
        return is_free and self._may_wait(cancel_status(scope.inner()))

    @trio.lowlevel.enable_ki_protection
    def _failed(self, request: ConnectionRequest) -> bool:
        """Its inspector has raised: report what is a crash. False if it has to go on as it is.

        Raises:
          BaseExceptionGroup: what is none, out of a group that had both.
        """
        error = sys.exc_info()[1]
        assert error is not None
        forget_first_frame(error)
        request._inspection = FAILED
        crash, rest = split_error(error, None if is_cancelled() else _STRAY)
        if crash is not None:
            self._block.report_callback("inspect", request, crash)
        if rest is None:
            return True
        self._ended(request)
        try:
            if crash is not None:
                raise rest from None
        finally:
            del error, crash, rest  # or they would hold this frame, which holds them
        return False

    def _left_open(self, request: ConnectionRequest, error: Exception) -> None:
        left_open = RuntimeError("the inspector has left a cancel scope open")
        left_open.__cause__ = error
        self._block.report_callback("inspect", request, left_open)

    def _ended(self, request: ConnectionRequest) -> VerdictScope:
        scope = request._scope
        assert scope is not None
        scope.is_running = False
        self._inspectors.ended(request)
        return scope
