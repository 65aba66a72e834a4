"""Acceptors: who wants one connection, and how it is told.

A task that waits in ``accept()`` is woken with its connection; an accept that was queued
completes its `Irp`. `delivery` serves both in one line.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import outcome
import trio

from trio_wsk._connection.control import post_completion
from trio_wsk._engine.irp import Irp, complete, fail
from trio_wsk._vocabulary.errors import (
    OperationCancelledError,
    SocketClosedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._connection.block import Block
    from trio_wsk._connection.connection import Connection
    from trio_wsk._connection.dispatch import ConnectionDispatch
    from trio_wsk._vocabulary.errors import WskError

__all__ = ["Acceptor", "IrpAcceptor", "TaskAcceptor"]


class Acceptor:
    """Somebody who wants one connection: what to make it with, and whom to give it to."""

    __slots__ = ("context", "dispatch")

    def __init__(self, context: object, dispatch: ConnectionDispatch | None) -> None:
        self.context = context
        self.dispatch = dispatch

    def give(self, connection: Connection) -> None:
        """Take the connection."""
        raise NotImplementedError

    def fail(self, error: WskError) -> None:
        """There will be none."""
        raise NotImplementedError


class TaskAcceptor(Acceptor):
    """A task in `ListeningSocket.accept`."""

    __slots__ = ("_task", "connection", "error")

    def __init__(self, context: object, dispatch: ConnectionDispatch | None) -> None:
        super().__init__(context, dispatch)
        self._task: trio.lowlevel.Task | None = None
        self.connection: Connection | None = None
        self.error: WskError | None = None

    def give(self, connection: Connection) -> None:
        """Wake the task with its connection, or have it there when it comes to look."""
        if self._task is None:
            self.connection = connection
        else:
            trio.lowlevel.reschedule(self._task, outcome.Value(connection))

    def fail(self, error: WskError) -> None:
        """Wake the task with the error."""
        if self._task is None:
            self.error = error
        else:
            trio.lowlevel.reschedule(self._task, outcome.Error(error))

    async def wait(self, withdraw: Callable[[Acceptor], object]) -> Connection:
        """Park until the connection comes; if that is cancelled, ``withdraw`` this.

        Once it has been given, the task is scheduled, and Trio doesn't ask any more whether
        it may be cancelled: either nothing was taken, or it is returned.
        """
        if self.error is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise self.error

        def _abort(_: object) -> trio.lowlevel.Abort:
            withdraw(self)
            return trio.lowlevel.Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        connection: Connection = await trio.lowlevel.wait_task_rescheduled(_abort)
        return connection


class IrpAcceptor(Acceptor):
    """An accept that was queued with `ListeningSocket.queue_accept`.

    Args:
      context: As for every acceptor.
      dispatch: As for every acceptor.
      block: Where the completion routine is called.
      withdraw: Takes this out of the line; False if it is not there any more.
      on_completion: The completion routine, if any.
    """

    __slots__ = ("irp",)

    def __init__(
        self,
        context: object,
        dispatch: ConnectionDispatch | None,
        *,
        block: Block,
        withdraw: Callable[[Acceptor], bool],
        on_completion: Callable[[Irp[Connection]], object] | None,
    ) -> None:
        super().__init__(context, dispatch)
        self.irp: Irp[Connection] = Irp(
            home=block.home,
            withdraw=lambda _: withdraw(self),
            finished=partial(post_completion, block),
            context=context,
            on_completion=on_completion,
        )
        """What its caller has."""

    def give(self, connection: Connection) -> None:
        """Complete the Irp with its connection."""
        complete(self.irp, connection)

    def fail(self, error: WskError) -> None:
        """Complete the Irp without."""
        if isinstance(error, SocketClosedError):
            fail(self.irp, OperationCancelledError("the listening socket was closed"))
        else:
            fail(self.irp, error)
