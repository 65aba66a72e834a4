"""Tasks that are used again: for handlers, and for async inspectors.

A task costs more to make and to end than most handlers take, and more than most inspectors. So a
task that has nothing left to do waits for more, if few others do. Nothing of the last piece
of work is left in it: each has a fresh copy of the listening block's context, as a task of its own
would have, and a task in which a handler has left a cancel scope or a nursery open (an async
generator that was not finished does that) is not used again.

Only what is kept by task instead of by context can tell: ``trio.lowlevel.current_task()`` may be
the same object for two connections, one after the other.
"""

from __future__ import annotations

import contextvars
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["ReusedTasks", "cancel_status", "forget_first_frame"]

WorkT = TypeVar("WorkT")

MOST_IDLE: Final = 128
"""How many tasks of one kind wait for work at most; each weighs some 2 KiB."""


class ReusedTasks(ABC, Generic[WorkT]):
    """The tasks of one server or listening socket that do the same thing again and again.

    Args:
      start_soon: Starts one, in the nursery where they run.
      context: For each piece of work they have a copy of it.
      name: What they are called.
    """

    def __init__(
        self,
        start_soon: Callable[..., object],
        context: contextvars.Context,
        name: str,
    ) -> None:
        self._start_soon = start_soon
        self._context = context
        self._name = name
        # Of who waits: it holds on to nothing. Not shared with other servers, whose runs may be in
        # other threads: no two may be in one context at once.
        self._nothing = contextvars.Context()
        self._idle: list[trio.lowlevel.Task] = []

    def start(self, work: WorkT) -> None:
        """Have something done, in a task that has nothing else to do.

        Raises:
          RuntimeError: the nursery is closed, or ending with an error.
        """
        task = self._pop_idle()
        if task is None:
            self._make(work)
        else:
            self._wake(task, work)

    def _pop_idle(self) -> trio.lowlevel.Task | None:
        while self._idle:
            task = self._idle.pop()
            if task.coro.cr_frame is not None:  # else Ctrl-C has ended it when it was to wait
                return task
        return None

    def _wake(self, task: trio.lowlevel.Task, work: WorkT) -> None:
        task.context = self._context.copy()
        trio.lowlevel.reschedule(task, outcome.Value(work))

    def _make(self, work: WorkT) -> None:
        # A new task has a copy of the context that it is started in.
        self._context.run(self._start_soon, self._run, work, name=self._name)

    @abstractmethod
    async def _run(self, work: WorkT) -> None:
        """Do it, and then what `_next` brings, while there are not `MOST_IDLE` who wait already.

        What it raises goes on.
        """

    def _may_wait(self, task: trio.lowlevel.Task, status: object) -> bool:
        """Whether the current task may be used again.

        Args:
          task: It.
          status: Its `cancel_status` before the work that it has done.
        """
        is_clean = cancel_status(task) is status is not None and not task.child_nurseries
        return is_clean and len(self._idle) < MOST_IDLE

    def _next(self) -> Awaitable[WorkT]:
        """Have the current task wait for the next thing to do; await what this returns at once.

        A plain function: that spares a coroutine.
        """
        idle = self._idle
        task = trio.lowlevel.current_task()

        def give_up(_: object) -> trio.lowlevel.Abort:
            idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        idle.append(task)
        task.context = self._nothing
        return trio.lowlevel.wait_task_rescheduled(give_up)  # noqa: ASYNC105 - by our caller


def forget_first_frame(error: BaseException) -> None:
    """Take the frame in which an error was caught out of its traceback.

    It is that of a task which goes on with other things: whoever keeps the error would keep those,
    and whoever clears its frames would end the task.
    """
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next


def cancel_status(inside: trio.lowlevel.Task | trio.CancelScope) -> object:
    """Return what is the same for a task and for the innermost scope that it is in.

    Trio shows it nowhere in public. None if it has another name one day: then no task is used
    again.
    """
    return getattr(inside, "_cancel_status", None)
