"""Readiness by Trio's own waits: where there is no epoll, and for tasks that wait by themselves."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_wsk._vocabulary.errors import SocketBusyError

from .readiness import LOOK, LOOK_SECONDS, READ, WRITE, ParkingReadiness, Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


__all__ = ["TrioReadiness"]


class TrioReadiness(ParkingReadiness):
    """Trio's own waits: level-triggered, one task per armed watch.

    Whatever is reported meanwhile ends in one return of its driver.

    Args:
      start_soon: Starts the task that waits for an armed edge (a nursery's method).
        None where only tasks wait, which wait by themselves.
    """

    edge_triggered = False

    def __init__(
        self, start_soon: Callable[[Callable[..., Awaitable[object]], Watch, int], object] | None
    ) -> None:
        self._start_soon = start_soon
        self._armed: set[Watch] = set()

    def arm(self, watch: Watch, edges: int) -> None:
        """Start a task that reports the edge, once."""
        if self._start_soon is None:
            raise RuntimeError("this readiness serves tasks that wait by themselves")
        watch.home = self
        self._armed.add(watch)
        for edge in (READ, WRITE):
            if edges & edge and not watch.interest & edge:
                watch.interest |= edge
                self._start_soon(self._report, watch, edge)

    async def _report(self, watch: Watch, edge: int) -> None:  # noqa: ASYNC910 - a task of its own
        if watch.home is self:
            try:
                await watch.wait_on_trio(edge)
            except SocketBusyError:  # a task of the user's waits for the public socket
                await trio.sleep(LOOK_SECONDS)
        if watch.home is self:
            watch.interest &= ~edge
            watch.on_edges(edge)

    def arm_end(self, watch: Watch) -> None:
        """Start a task that says when to look.

        Unread data hides the end from a level-triggered wait, so from then on it says so
        every `LOOK_SECONDS`. A FIN behind data can't be seen at all.
        """
        assert self._start_soon is not None
        watch.home = self
        watch.interest |= READ  # whoever waits to read waits for this task's word
        self._armed.add(watch)
        self._start_soon(self._report_end, watch, READ)

    async def _report_end(self, watch: Watch, edge: int) -> None:  # noqa: ASYNC910 - a task of its own
        while watch.home is self:
            with suppress(SocketBusyError):  # as in `_report`
                await watch.wait_on_trio(edge)
            if watch.home is not self:
                break
            watch.on_edges(edge | LOOK)
            await trio.sleep(LOOK_SECONDS)

    def disarm(self, watch: Watch) -> None:
        """End the tasks that wait for this descriptor."""
        self._armed.discard(watch)
        watch.home = None
        watch.interest = 0
        if watch.direct:
            trio.lowlevel.notify_closing(watch.fd)
        watch.on_edges(READ | WRITE)

    def wait(
        self,
        watch: Watch,
        edge: int,
        *,
        passed: bool = False,  # noqa: ARG002 - for Trio, what is true now always counts
    ) -> Awaitable[None]:
        """Wait on Trio, or for the task that reports this edge: Trio takes one at a time."""
        if watch.interest & edge:
            return watch.park(edge)
        return watch.wait_on_trio(edge)

    def close(self) -> None:
        """Let every watch go."""
        for watch in list(self._armed):
            self.disarm(watch)
