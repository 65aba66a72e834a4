"""Checks on who calls: whoever is not in the Trio run that something lives in may not."""

from __future__ import annotations

import sys
from threading import get_ident
from typing import TYPE_CHECKING, Final, final

import trio
from trio.lowlevel import current_task, current_trio_token

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Home", "check_caller", "check_ending_caller", "check_in_trio", "runs_in"]


@final
class Home:
    """The Trio run that something lives in: the one of the task that makes this."""

    __slots__ = ("_token", "thread")

    def __init__(self) -> None:
        self.thread: Final = get_ident()
        """Its thread's number."""
        self._token = current_trio_token()

    def run_soon(self, work: Callable[[], object]) -> None:
        """Have something done by that run, from whatever thread; here, if the run has ended."""
        try:
            self._token.run_sync_soon(work)
        except trio.RunFinishedError:
            work()

    def is_over(self) -> bool:
        """Whether that run has ended."""
        try:
            self._token.run_sync_soon(int)
        except trio.RunFinishedError:
            return True
        return False


def check_caller(home: Home, call: str) -> None:
    """Refuse a call from anywhere but a task of the Trio run that something lives in.

    Another thread, or another run in one, would race with the pump; and where a guest run's host
    has its turn, asyncio perhaps, nobody is woken. For the first line of a call: nothing has
    changed when it is refused.

    A thread has one run at a time, so a task in the right thread is in the right run, or in a later
    one, where nobody races any more. The number of a thread is cheaper to ask for than the run.

    Args:
      home: The run.
      call: What was called, as its caller would write it, such as ``server.abort``.

    Raises:
      RuntimeError: it was called from elsewhere. (The caller's.)
    """
    try:
        current_task()
        if get_ident() == home.thread:
            return
    except RuntimeError:
        pass
    raise _called_elsewhere(call)


def check_ending_caller(home: Home, call: str) -> None:
    """Like `check_caller`, and let anybody end what has outlived its run: nobody races with him."""
    try:
        check_caller(home, call)
    except RuntimeError:
        if not home.is_over():
            raise


def check_in_trio(what: str) -> None:
    """Refuse to open something outside of Trio.

    Raises:
      RuntimeError: this is no task of a Trio run. (The caller's.)
    """
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError(
            f"{what} needs Trio, and this is outside of a Trio run{_where()}: open it in an async"
            " function that trio.run(...) runs"
        )


def _called_elsewhere(call: str) -> RuntimeError:
    if trio.lowlevel.in_trio_task():
        return RuntimeError(
            f"{call} was used from another Trio run than its own; hand the call over, with the"
            f" trio.lowlevel.current_trio_token() of that run: token.run_sync_soon({call})"
        )
    return RuntimeError(
        f"{call} was used from outside the Trio run{_where()};"
        f" from a thread, write trio.from_thread.run_sync({call})"
    )


def _where() -> str:
    """Say where this is, if it is a place that is taken for Trio."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return ""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return ""
    return " (under asyncio, which can't take its place)"


def runs_in(nursery: trio.Nursery) -> bool:
    """Whether the current task was started in this nursery, or somewhere below it.

    The nursery waits for it then, so it can't wait for the nursery.
    """
    within = trio.lowlevel.current_task().parent_nursery
    while within is not None and within is not nursery:
        within = within.parent_task.parent_nursery
    return within is nursery
