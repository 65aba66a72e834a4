"""Tasks for handlers, used one connection after the other.

A task costs more to make and to end than most handlers take. So a task whose handler has
returned waits for the next connection, if few others do. Nothing of the last connection is left
in it: each has a fresh copy of the listening block's context, as a task of its own would have,
and whatever a handler has opened it has closed, or it would not have returned.

Only what is kept by task instead of by context can tell: ``trio.lowlevel.current_task()`` may be
the same object for two connections, one after the other.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Final

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._connection import Connection

__all__ = ["HandlerTasks"]

MOST_IDLE: Final = 128
"""How many tasks wait for a connection at most; each weighs some 2 KiB."""


class HandlerTasks:
    """The tasks of one server's handlers.

    Args:
      nursery: Where they run.
      context: Each connection has a copy of it.
      handle: What is done with a connection. What it raises ends its task, and so the nursery.
      name: What the tasks are called.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        context: contextvars.Context,
        handle: Callable[[Connection], Awaitable[object]],
        name: str,
    ) -> None:
        self._nursery = nursery
        self._context = context
        self._handle = handle
        self._name = name
        # Of who waits: it holds on to nothing. Not shared with other servers, whose runs may be in
        # other threads: no two may be in one context at once.
        self._nothing = contextvars.Context()
        self._idle: list[trio.lowlevel.Task] = []

    def start(self, connection: Connection) -> None:
        """Have a connection handled, in a task that has nothing else to do.

        Raises:
          RuntimeError: the nursery is closed, or ending with an error.
        """
        if self._idle:
            task = self._idle.pop()
            task.context = self._context.copy()
            trio.lowlevel.reschedule(task, outcome.Value(connection))
        else:
            self._nursery.start_soon(self._run, connection, name=self._name)

    async def _run(self, connection: Connection | None) -> None:  # noqa: ASYNC910 - a task of its own
        task = trio.lowlevel.current_task()
        idle = self._idle

        def give_up(_: object) -> trio.lowlevel.Abort:
            idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        while connection is not None:
            await self._handle(connection)
            if len(idle) >= MOST_IDLE:
                break
            connection = None  # who waits keeps no connection
            idle.append(task)
            task.context = self._nothing
            connection = await trio.lowlevel.wait_task_rescheduled(give_up)
