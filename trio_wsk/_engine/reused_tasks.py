"""Tasks that are used again: for handlers, and for async inspectors.

A task costs more to make and to end than most handlers take, and more than most inspectors. So a
task that has nothing left to do waits for more, if few others do. Nothing of the last piece
of work is left in it: each has a fresh copy of the listening block's context, and the name, as a
task of its own would have.

A task is not used again if its end can matter to somebody:

* A cancel scope or a nursery was left open in it (an async generator that was not finished does
  that).
* Somebody still refers to it. Trio and others keep by task what belongs to it: who has a
  ``trio.Lock``, who has borrowed from a ``trio.CapacityLimiter``, which parking lot is broken when
  it ends, whatever a dict has it as the key of. All that can't be asked for, but what is kept by a
  task refers to the task, and CPython counts references. One too many costs a task and nothing
  else; so does an implementation of Python that doesn't count.

So nobody who looks at ``trio.lowlevel.current_task()`` can tell, but by its ``id()``.
"""

from __future__ import annotations

import contextvars
import math
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ["ReusedTasks", "cancel_status", "forget_first_frame"]

WorkT = TypeVar("WorkT")

_count_references: Final[Callable[[object], int] | None] = getattr(sys, "getrefcount", None)
"""CPython has it, as long as it counts."""

CANCEL_STATUS: Final = "_cancel_status"
"""What Trio calls the innermost scope of a task, and what a scope refers to it by."""

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
        self._fewest_references = math.inf if _count_references is not None else 0

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
        task.name = self._name
        trio.lowlevel.reschedule(task, outcome.Value(work))

    def _make(self, work: WorkT) -> None:
        # A new task has a copy of the context that it is started in.
        self._context.run(self._start_soon, self._run, work, name=self._name)

    @abstractmethod
    async def _run(self, work: WorkT) -> None:
        """Call `_begin`, do it, and then what `_next` brings, while the task `_may_wait`.

        What it raises goes on.
        """

    def _begin(self) -> None:
        """In a task that has just begun: see how many references there are to one."""
        if _count_references is not None:
            task = trio.lowlevel.current_task()
            self._fewest_references = min(self._fewest_references, _count_references(task))

    def _may_wait(self, status: object) -> bool:
        """Whether the current task may be used again.

        The caller has no more names for it than that of `_begin` had.

        Args:
          status: Its `cancel_status` before the work that it has done.
        """
        task = trio.lowlevel.current_task()
        return (
            len(self._idle) < MOST_IDLE
            and cancel_status(task) is status is not None
            and not task.child_nurseries
            and _count_references is not None
            and _count_references(task) <= self._fewest_references
            and not weakref.getweakrefcount(task)
        )

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
    return getattr(inside, CANCEL_STATUS, None)
