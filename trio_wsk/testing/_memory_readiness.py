"""Waiting for channels that have no descriptor.

An edge is told where it happens, in the call that sends the segment: that reschedules a task,
or leaves a note with the sink. What is true already when a watch is armed is told by the pump's
next poll, as epoll does, so that no call that arms tells an edge itself.

Tasks need no pump for that: `MemoryReadiness.wait` looks before it parks, with nothing awaited
in between. That is why a watch keeps its home when the listening block, and its pump, are gone.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, cast

import trio

from trio_wsk._engine.readiness import ENDED, READ, WRITE, ParkingReadiness, Readiness, Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["MemoryReadiness", "MemoryWatch", "Watched"]

_TOLD_PER_POLL: Final = 64
"""A bound on one turn of the pump; what is left over keeps it from parking."""


class Watched(Protocol):
    """An end of a connection in memory, as its watch sees it."""

    watch: MemoryWatch | None

    def edges(self) -> int:
        """Return the edges that are true now."""


class MemoryWatch(Watch):
    """The edges of one end of a connection in memory."""

    __slots__ = ("endpoint",)

    def __init__(self, endpoint: Watched, home: MemoryReadiness) -> None:
        super().__init__(-1)
        self.home: Readiness | None = home
        self.endpoint: Watched | None = endpoint
        endpoint.watch = self

    def true_now(self) -> int:
        """Return the edges that would be told if they came now."""
        return 0 if self.endpoint is None else self.endpoint.edges()


class MemoryReadiness(ParkingReadiness):
    """Edges of connections in memory: driven by a pump for as long as there is one."""

    def __init__(self) -> None:
        self._soon: deque[Callable[[], object]] = deque()
        self._is_closed = False

    def soon(self, tell: Callable[[], object]) -> None:
        """Have something told by the next poll; it runs no user code."""
        if not self._is_closed:
            self._soon.append(tell)
            self.wake()

    def arm(self, watch: Watch, edges: int) -> None:
        """Report these edges from now on; what is true already, with the next poll."""
        new = edges & ~watch.interest
        watch.interest |= edges
        if new:
            self._tell_what_is_true(watch, new)

    def arm_end(self, watch: Watch) -> None:
        """Report from now on that the peer has ended, and what is true already."""
        self.arm(watch, ENDED)

    def rearm(self, watch: Watch, edges: int) -> None:
        """Report what is true now once more, with the next poll."""
        watch.interest |= edges
        self._tell_what_is_true(watch, watch.interest)

    def _tell_what_is_true(self, watch: Watch, edges: int) -> None:
        watch = cast("MemoryWatch", watch)
        if watch.true_now() & (edges | ENDED):

            def tell() -> None:
                true = watch.true_now() & (edges | ENDED)
                if watch.interest and true:
                    watch.on_edges(true)

            self.soon(tell)

    def disarm(self, watch: Watch) -> None:
        """Report nothing more, and wake the tasks that wait. The watch stays here."""
        watch = cast("MemoryWatch", watch)
        if watch.endpoint is not None:
            watch.endpoint.watch = None
            watch.endpoint = None  # the two refer to each other
        watch.interest = 0
        watch.empty = False
        watch.on_edges(READ | WRITE)

    def wait(self, watch: Watch, edge: int, *, passed: bool = False) -> Awaitable[None]:
        """Park until ``edge`` comes, unless it is true now and was never told. See `Readiness`."""
        watch = cast("MemoryWatch", watch)
        is_news = passed or not watch.interest & edge
        watch.interest |= edge
        if is_news and watch.true_now() & edge:
            return trio.lowlevel.checkpoint()  # noqa: ASYNC105 - our caller awaits it
        return watch.park(edge)

    async def park(self) -> None:
        """Wait for `wake`, or for what is to be told. For the pump."""
        if self._soon:
            await trio.lowlevel.checkpoint()
            return
        await super().park()

    def poll(self) -> bool:
        """Tell what is to be told; bounded."""
        soon = self._soon
        for _ in range(min(len(soon), _TOLD_PER_POLL)):
            soon.popleft()()
        return False

    def close(self) -> None:
        """Forget what is to be told, since there is no pump any more; the watches stay."""
        self._is_closed = True
        self._soon.clear()
