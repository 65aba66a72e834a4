"""Which readiness serves: one for each listening block, one for the tasks of each Trio run."""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING

import trio

from .epoll_readiness import EpollReadiness
from .trio_readiness import TrioReadiness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .readiness import Readiness, Watch

__all__ = ["HAVE_EPOLL", "open_pump_readiness", "task_readiness"]

HAVE_EPOLL = sys.platform == "linux" and hasattr(select, "epoll")
"""Whether readiness is edge-triggered here. Trio's own waits serve everywhere."""


def open_pump_readiness(
    start_soon: Callable[[Callable[..., Awaitable[object]], Watch, int], object],
) -> Readiness:
    """Make the readiness of one listening block, which the block's pump drives and closes."""
    return EpollReadiness() if HAVE_EPOLL else TrioReadiness(start_soon)


_of_this_run: trio.lowlevel.RunVar[Readiness | None] = trio.lowlevel.RunVar(
    "trio_wsk.readiness", default=None
)


def task_readiness() -> Readiness:
    """Return the readiness that awaited connections of this Trio run share."""
    readiness = _of_this_run.get()
    if readiness is None:
        try:
            readiness = _dispatched() if HAVE_EPOLL else TrioReadiness(None)
        except OSError:
            # No descriptor is left for it (a flood of connections came before the first of
            # them had to wait): this wait is Trio's, and the next one tries again.
            return TrioReadiness(None)
        _of_this_run.set(readiness)
    return readiness


def _dispatched() -> Readiness:
    readiness = EpollReadiness()
    trio.lowlevel.spawn_system_task(
        _dispatch, readiness, name="trio_wsk: readiness of awaited connections"
    )
    return readiness


async def _dispatch(readiness: EpollReadiness) -> None:
    try:
        is_busy = False
        while True:
            if is_busy:
                await trio.lowlevel.checkpoint()
            else:
                await readiness.park()
            is_busy = readiness.poll()
    finally:
        # The run is ending. Whoever still waits (another system task) goes on with Trio's waits.
        _of_this_run.set(TrioReadiness(None))
        readiness.close()
