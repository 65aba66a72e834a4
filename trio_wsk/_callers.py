"""Checks on who calls, and with what: mistakes that are told at the call, with the right one."""

from __future__ import annotations

import inspect

import trio

from ._errors import InvalidParameterError

__all__ = ["called_outside", "check_function", "check_plain_function", "in_trio", "runs_in"]


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


def check_function(name: str, callback: object) -> None:
    """Refuse a callback that nobody could call.

    Raises:
      InvalidParameterError: it is no function. (The caller's.)
    """
    if not callable(callback):
        raise InvalidParameterError(f"{name} takes a function, not {callback!r}")


def check_plain_function(name: str, callback: object) -> None:
    """Refuse a callback that nobody could call, or that would have to be awaited.

    Raises:
      InvalidParameterError: it is no plain function. (The caller's.)
    """
    check_function(name, callback)
    if inspect.iscoroutinefunction(callback):
        raise InvalidParameterError(
            f"{name} takes a plain function, not the async function {callback!r}: a callback"
            " starts things and never waits; let it start a task: nursery.start_soon(...)"
        )
