"""Readiness by an edge-triggered epoll of our own. Linux.

Its rules, and why there is one, stand in `readiness`.

Source: epoll(7), epoll_ctl(2), poll(2).
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final

import trio

from .readiness import ENDED, READ, URGENT, WRITE, Readiness, Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from .readiness import Sink

__all__ = ["EpollReadiness", "ended_now"]

EVENTS_PER_POLL: Final = 64
"""A bound on one turn; what is left over keeps the epoll readable."""


class EpollReadiness(Readiness):
    """An edge-triggered epoll, waited for through its own descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._fd = self._epoll.fileno()
        # Watches and others, by descriptor. The kernel gives out the lowest numbers that are free,
        # so a list is smaller than a dict, and faster.
        self._sinks: list[Sink | None] = []
        self._armed = 0
        self._parked = False
        self._lone = False

    @property
    def closed(self) -> bool:
        """Whether the epoll is gone; nothing can be armed any more."""
        return self._epoll.closed

    def arm(self, watch: Watch, edges: int) -> None:
        """Register with the kernel, once; a repeated call costs one comparison."""
        wanted = watch.interest | edges
        if watch.home is self and wanted == watch.interest:
            return
        if watch.home is self:
            self._epoll.modify(watch.fd, _asked_of_epoll(wanted))
        else:
            self._epoll.register(watch.fd, _asked_of_epoll(wanted))
            self._remember(watch.fd, watch)
            watch.home = self
        watch.interest = wanted

    def _remember(self, fd: int, sink: Sink) -> None:
        sinks = self._sinks
        if fd >= len(sinks):
            sinks.extend([None] * (fd + 1 - len(sinks)))
        if sinks[fd] is None:  # else its owner has closed the descriptor behind our back
            self._armed += 1
        sinks[fd] = sink

    def tell(self, fd: int, edges: int, sink: Sink) -> None:
        """Tell somebody of these edges, without a watch.

        Of thousands of idle connections a watch would be a fifth.
        """
        self._epoll.register(fd, _asked_of_epoll(edges))
        self._remember(fd, sink)

    def tell_no_more(self, fd: int, sink: Sink) -> None:
        """Take the descriptor out of the kernel's set, if it is still the sink's."""
        sinks = self._sinks
        # The owner may have closed the descriptor behind our back (through
        # `Connection.socket`). Then the kernel has forgotten it already, and its number
        # may be another channel's by now.
        if 0 <= fd < len(sinks) and sinks[fd] is sink:
            sinks[fd] = None
            self._armed -= 1
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass

    def rearm(self, watch: Watch, edges: int) -> None:
        """Have the kernel look again: changing an entry reports what is true."""
        if watch.home is self:
            watch.interest |= edges
            self._epoll.modify(watch.fd, _asked_of_epoll(watch.interest))
        else:
            self.arm(watch, edges)

    def disarm(self, watch: Watch) -> None:
        """Take the descriptor out of the kernel's set."""
        self.tell_no_more(watch.fd, watch)
        self._release(watch)

    @staticmethod
    def _release(watch: Watch) -> None:
        watch.home = None
        watch.interest = 0
        watch.empty = False
        if watch.reader is not None or watch.writer is not None or watch.sink is not None:
            watch.on_edges(READ | WRITE)

    def wait(self, watch: Watch, edge: int, *, passed: bool = False) -> Awaitable[None]:
        """Park in the epoll, or straight on Trio while there is nobody else to share it with."""
        home = watch.home
        if home is self and watch.interest & edge and not passed:
            return watch.park(edge)  # as nearly always
        if home is None and not self._armed and not self._lone:
            return self._wait_alone(watch, edge)
        return super().wait(watch, edge, passed=passed)

    async def _wait_alone(self, watch: Watch, edge: int) -> None:
        self._lone = True
        try:
            await watch.wait_on_trio(edge)
        finally:
            self._lone = False

    async def park(self) -> None:  # noqa: ASYNC910 - a closed wait is one, too
        """Wait until the epoll has events or somebody calls `wake`."""
        self._parked = True
        try:
            await trio.lowlevel.wait_readable(self._fd)
        except trio.ClosedResourceError:
            pass  # wake() says so
        finally:
            self._parked = False

    def wake(self) -> None:
        """Return the driver from `park`.

        Trio's "this descriptor is about to close" is its one way to end somebody
        else's wait without a cancel scope, which would cost ten times as much at
        each wait. We don't close it; the next wait registers it again.
        """
        if self._parked:
            self._parked = False
            trio.lowlevel.notify_closing(self._fd)

    def poll(self) -> bool:
        """Tell everybody what the kernel has for them, `EVENTS_PER_POLL` at most."""
        sinks = self._sinks
        found = self._epoll.poll(0, EVENTS_PER_POLL)
        for fd, events in found:
            # An earlier notification of this turn may have closed this one.
            sink = sinks[fd]
            if sink is not None:
                sink.on_edges(events)
        return len(found) > 1

    def close(self) -> None:
        """Close the epoll; whoever waited through it looks again elsewhere."""
        self._epoll.close()
        sinks, self._sinks, self._armed = self._sinks, [], 0
        for sink in sinks:
            if isinstance(sink, Watch):
                self._release(sink)


def _asked_of_epoll(edges: int) -> int:
    """Return what to ask epoll for: the peer's end always, urgent data with what is to read."""
    flags = edges | select.EPOLLRDHUP | select.EPOLLET
    return flags | URGENT if edges & READ else flags


def ended_now(fd: int) -> int:
    """Return which of ``ENDED`` are true of this descriptor; an edge only says that one may be.

    It is asked by poll(2), which costs one call.
    """
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)  # the others are told unasked
    for _, events in poll.poll(0):
        return events & ENDED
    return 0
