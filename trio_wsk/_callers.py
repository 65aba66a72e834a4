"""Checks on who calls: from outside the Trio run nobody may."""

from __future__ import annotations

import trio

__all__ = ["called_outside", "in_trio", "runs_in"]


def in_trio(call: str) -> None:
    """Refuse calls from outside the Trio run: another thread would race with the pump.

    Args:
      call: What was called, as its caller would write it, such as ``server.abort``.

    Raises:
      RuntimeError: it was called from outside. (The caller's.)
    """
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        raise called_outside(call) from None


def called_outside(call: str) -> RuntimeError:
    """Make the error for a call from outside the Trio run."""
    return RuntimeError(
        f"{call}() was called from outside the Trio run;"
        f" from a thread, write trio.from_thread.run_sync({call})"
    )


def runs_in(nursery: trio.Nursery) -> bool:
    """Whether the current task was started in this nursery, or somewhere below it.

    The nursery waits for it then, so it can't wait for the nursery.
    """
    within = trio.lowlevel.current_task().parent_nursery
    while within is not None and within is not nursery:
        within = within.parent_task.parent_nursery
    return within is nursery
