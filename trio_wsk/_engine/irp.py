"""`Irp`: one queued operation, and its one completion.

An IRP is how WSK says that an operation was started: it is pending until it
completes, and it completes exactly once, with success, with a failure or because it
was cancelled. Here the completion is an `outcome`, and waiting for it is a Trio wait.

Who queued the operation is told in three ways, any mix of them: it reads `Irp.status`,
it awaits `Irp.wait`, or it has its completion routine called.

Source: "Using IRPs with Winsock Kernel Functions"; PFN_WSK_ACCEPT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import outcome
import trio

from trio_wsk._vocabulary.arguments import check_plain_function
from trio_wsk._vocabulary.errors import OperationCancelledError, WskError
from trio_wsk._vocabulary.status import Status

from .callers import check_caller

if TYPE_CHECKING:
    from collections.abc import Callable

    from outcome import Outcome

    from .callers import Home

__all__ = ["Irp", "complete", "fail"]

T = TypeVar("T")


@final
class Irp(Generic[T]):
    """One queued operation, which completes exactly once.

    Made by the call that queues the operation, such as `ListeningSocket.queue_accept`.
    Whoever queued it owns what it completes with: an Irp that completed with a
    connection and is dropped leaves that connection open, and Python warns about it.
    """

    __slots__ = (
        "_error",
        "_finished",
        "_home",
        "_information",
        "_on_completion",
        "_status",
        "_waiters",
        "_withdraw",
        "context",
    )

    def __init__(
        self,
        *,
        home: Home,
        withdraw: Callable[[Irp[T]], bool],
        finished: Callable[[Irp[T]], None],
        context: object = None,
        on_completion: Callable[[Irp[T]], object] | None = None,
    ) -> None:
        """For who implements an operation.

        Args:
          home: The Trio run that the operation is of.
          withdraw: Takes the operation out of its queue; False if it is not there any more.
          finished: Sees to it that the completion routine is called later, on no caller's stack.
          context: The caller's own, handed through.
          on_completion: The completion routine: a plain function, called once with this Irp.
        """
        if on_completion is not None:
            check_plain_function("on_completion", on_completion)
        self._home = home
        self._withdraw = withdraw
        self._finished = finished
        self._status = Status.PENDING
        self._information: T | None = None
        self._error: WskError | None = None
        self._waiters: list[trio.lowlevel.Task] = []
        self.context: object = context
        """Whatever the caller gave; the library never looks at it."""
        self._on_completion = on_completion

    def __repr__(self) -> str:
        return f"<Irp {self._status.name}: {self._information!r}>"

    @property
    def on_completion(self) -> Callable[[Irp[T]], object] | None:
        """The completion routine that was given with the operation, if any."""
        return self._on_completion

    @property
    def status(self) -> Status:
        """`Status.PENDING`, then how the operation completed."""
        return self._status

    @property
    def information(self) -> T | None:
        """What the operation brought: a connection, a count of octets.

        None until then, and on failure.
        """
        return self._information

    @property
    def outcome(self) -> Outcome[T] | None:
        """The completion as an `outcome`: a ``Value``, or an ``Error`` holding a `WskError`.

        None while pending. A fresh one at each reading, so that reading and unwrapping
        it never uses it up for somebody else.
        """
        if self._status is Status.PENDING:
            return None
        if self._error is not None:
            return outcome.Error(self._error)
        return outcome.Value(self._information)  # type: ignore[arg-type]  # success brings a T

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> Outcome[T]:
        """Wait for the completion and return its outcome, without raising it.

        Any number of tasks may wait. Always a checkpoint. If cancelled, the operation
        stays queued: to take it back, call `cancel`.
        """
        check_caller(self._home, "irp.wait")
        if self._status is not Status.PENDING:
            await trio.lowlevel.checkpoint()
        else:
            task = trio.lowlevel.current_task()
            self._waiters.append(task)

            def _abort(_: object) -> trio.lowlevel.Abort:
                self._waiters.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(_abort)
        completed = self.outcome
        assert completed is not None
        return completed

    @trio.lowlevel.enable_ki_protection
    def cancel(self) -> bool:
        """Take the operation back, if it is still queued (IoCancelIrp).

        Returns:
          True if it was; it has then completed with `Status.CANCELLED`. False if it had
          completed already: what it completed with is the caller's all the same.

        Raises:
          RuntimeError: called from outside the Trio run.
        """
        check_caller(self._home, "irp.cancel")
        if self._status is not Status.PENDING or not self._withdraw(self):
            return False
        return fail(self, OperationCancelledError("the operation was cancelled by Irp.cancel()"))

    def _end(self, status: Status) -> None:
        self._status = status
        # What it could be taken back from refers to it: no cycle shall keep what it brought alive.
        self._withdraw = _withdraw_nothing
        waiters, self._waiters = self._waiters, []
        for task in waiters:
            trio.lowlevel.reschedule(task)
        if self._on_completion is not None:
            self._finished(self)


# Who implements an operation ends it with one of these; its users can't.


def complete(irp: Irp[T], information: T) -> bool:
    """Have an operation succeed with what it has brought; False if it had completed before."""
    if irp._status is not Status.PENDING:
        return False
    irp._information = information
    irp._end(Status.SUCCESS)
    return True


def fail(irp: Irp[Any], error: WskError) -> bool:
    """Have an operation fail; False if it had completed before."""
    if irp._status is not Status.PENDING:
        return False
    irp._error = error
    irp._end(error.status)
    return True


def _withdraw_nothing(_: Irp[Any]) -> bool:
    return False
