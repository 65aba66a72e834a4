"""Waiting for channels: many waiters, one Trio wait.

Theory of operation
-------------------
Trio arms a descriptor for one wake-up at a time, so a task that waits for a socket
costs Trio an ``epoll_ctl`` and its bookkeeping at every wait. Here a channel is
registered once, edge-triggered, in an epoll of our own; that epoll is itself a
descriptor, and one task waits for it on Trio. When it is readable, ``poll()`` tells
each `Watch` which of its edges have come; or a `Sink` by itself, where no task ever waits
and a watch would only be weight (`EpollReadiness.tell`).

There are two drivers of the same mechanism. Connections that tasks await share one
epoll per Trio run, driven by a system task that runs no user code: it reschedules
tasks. A listening block has an epoll of its own, driven by the block's pump, which
is also where its callbacks run.

The rules of edge triggering, each of which cost a hang or a lost wake-up once:

* An edge is told once. Whoever was told reads until the kernel has no more, or
  remembers that there is more and comes back by itself (a bounded drain is requeued).
* After a short read the channel is known to be drained, and the next receive may
  wait without asking the kernel first: asking costs 0.8 us, a twentieth of what an exchange
  takes. An edge that arrives while nobody waits clears that knowledge, or the next receive
  would sleep beside its data. So does one that arrives during the read: a channel that is no
  descriptor may take a call for the moment to let its peer go on, and what comes then is
  newer than what the read returns.
* Not every short read says that nothing is left. Data and the peer's FIN may share one edge;
  a read stops before an octet that was sent as urgent; on a Unix socket it stops after a
  message that carries descriptors. After an edge that says the peer has ended or has sent
  something urgent, and always on a channel whose request does not vouch for its short reads,
  nothing counts as drained: read until the kernel has no more.
* Registering reports what is true already, so "the kernel had nothing, register,
  park" loses nothing, provided that nothing is awaited in between.
* An edge may be a stranger's. Who duplicates a descriptor and closes the first leaves its
  entry behind, under a number that is another channel's soon. So an edge is a hint: before
  something ends by it, the descriptor itself is asked (`ended_now`).

Where there is no epoll, and for a waiter who is alone in its run (a second epoll
only adds a pass to it), Trio's own waits serve: level-triggered, so nothing is
ever taken for drained there.

Source: epoll(7), "Questions and answers"; epoll_ctl(2).
"""

from __future__ import annotations

import select
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import trio

from trio_wsk._vocabulary.errors import SocketBusyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = [
    "ENDED",
    "HUNG_UP",
    "LOOK",
    "LOOK_SECONDS",
    "READ",
    "URGENT",
    "WRITE",
    "EpollReadiness",
    "Readiness",
    "Sink",
    "TrioReadiness",
    "Watch",
    "ended_now",
    "open_pump_readiness",
    "task_readiness",
]

# epoll's own bits, so that nothing is translated on the way from the kernel.
READ: Final = 0x001
URGENT: Final = 0x002
"""The peer has sent an octet as urgent, EPOLLPRI: a read stops before it, and the next one begins
with it. A peer that makes up its segments can have a mark that this edge does not tell (the
urgent pointer comes after the octet): what it has sent behind it waits for its next segment."""
WRITE: Final = 0x004
ENDED: Final = 0x008 | 0x010 | 0x2000
"""The peer has finished sending or is gone: EPOLLERR, EPOLLHUP or EPOLLRDHUP."""

HUNG_UP: Final = 0x010
"""Both directions have ended, EPOLLHUP: also how a Unix socket's peer that has closed shows."""

LOOK: Final = 0x10000
"""Ours, not epoll's: the peer may have ended, and only a look at the channel can tell."""

LOOK_SECONDS: Final = 0.1
"""How often a channel is looked at where no edge tells: of the end behind unread data, or of
anything, while a task of the user's waits for its descriptor."""

_DOUBTFUL: Final = ENDED | URGENT
"""After these a short read does not say that nothing is left."""

EVENTS_PER_POLL: Final = 64
"""A bound on one turn; what is left over keeps the epoll readable."""

HAVE_EPOLL = sys.platform == "linux" and hasattr(select, "epoll")
"""Whether readiness is edge-triggered here. Trio's own waits serve everywhere."""


class Descriptor(Protocol):
    """What has a descriptor to wait for."""

    def fileno(self) -> int:
        """Return the descriptor."""


class Sink(Protocol):
    """Who is told of edges: of those of a watch that no task waits for, or of a descriptor's."""

    def on_edges(self, edges: int) -> None:
        """Take note; never runs user code."""


class Watch:
    """One channel's edges, and who waits for them."""

    __slots__ = (
        "direct",
        "drained",
        "ended",
        "fd",
        "home",
        "in_doubt",
        "interest",
        "news",
        "reader",
        "sink",
        "writer",
    )

    def __init__(self, fd: int, sink: Sink | None = None) -> None:
        self.fd: int = fd
        """The channel's descriptor, or -1 for a channel that has none."""
        self.sink = sink
        self.home: Readiness | None = None
        """Where edges come from; None while nothing is armed."""
        self.interest: int = 0
        """The edges that ``home`` has been asked for."""
        self.reader: trio.lowlevel.Task | None = None
        self.writer: trio.lowlevel.Task | None = None
        self.direct: int = 0
        """How many tasks wait for the descriptor straight on Trio."""
        self.drained: bool = False
        """The kernel is known to have nothing to read until the next edge."""
        self.ended: bool = False
        """An edge said that the peer has ended."""
        self.news: bool = False
        """There is something to read that came after the last read began. Whoever reads clears it
        before, for an edge may come from inside the call."""
        self.in_doubt: bool = False
        """A short read says nothing, here or since an edge: nothing counts as drained any more."""

    def read_short(self) -> None:
        """Say that a read got less than it asked for, so nothing is left."""
        # Only an edge that was asked for can clear the knowledge again.
        if self.interest & READ and not (self.news or self.in_doubt):
            home = self.home
            if home is not None and home.edge_triggered:
                self.drained = True

    def release(self) -> None:
        """Have who waits look again: the channel gets another owner, with this watch."""
        self.sink = None
        if self.direct:
            trio.lowlevel.notify_closing(self.fd)
        self.drained = False
        self.on_edges(READ | WRITE)

    def close(self) -> None:
        """Report nothing more; the tasks that wait look again and find the channel closed.

        Call it before the channel is closed: the number of a closed descriptor is given
        to the next one that is opened.
        """
        self.sink = None
        if self.direct:
            trio.lowlevel.notify_closing(self.fd)
        if self.home is not None:
            self.home.disarm(self)

    def park(self, edge: int) -> Awaitable[None]:
        """Put the current task in the place of ``edge``; await what this returns at once.

        Raises:
          SocketBusyError: another task is there, who would never be woken.
        """
        task = trio.lowlevel.current_task()
        if edge == READ:
            if self.reader is not None:
                raise _taken(self.reader)
            self.reader = task
            return trio.lowlevel.wait_task_rescheduled(self._reader_cancelled)  # noqa: ASYNC105 - by our caller
        if self.writer is not None:
            raise _taken(self.writer)
        self.writer = task
        return trio.lowlevel.wait_task_rescheduled(self._writer_cancelled)  # noqa: ASYNC105 - as above

    def _reader_cancelled(self, _: object) -> trio.lowlevel.Abort:
        self.reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _writer_cancelled(self, _: object) -> trio.lowlevel.Abort:
        self.writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def wait_on_trio(self, edge: int) -> None:  # noqa: ASYNC910 - a closed wait is one, too
        """Wait with Trio's own waits; returns when the watch is being closed, too.

        Raises:
          SocketBusyError: another task waits for the descriptor itself. (The caller's.)
        """
        self.direct += 1
        try:
            if edge == READ:
                await trio.lowlevel.wait_readable(self.fd)
            else:
                await trio.lowlevel.wait_writable(self.fd)
        except trio.ClosedResourceError:
            pass  # close() says so
        except trio.BusyResourceError as error:
            # Trio says so without a checkpoint: who goes on after it must not stop the run.
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise SocketBusyError(
                "another task waits for this socket itself (trio.lowlevel.wait_readable or"
                " wait_writable, or a stream made of it), and Trio has one task at a time do that"
            ) from error
        finally:
            self.direct -= 1
            self.drained = False

    def on_edges(self, edges: int) -> None:
        """Wake who waits for these edges; what nobody waits for goes to the sink."""
        if edges & _DOUBTFUL:
            self.in_doubt = True
            if edges & ENDED:
                self.ended = True
                edges |= READ | WRITE
        if edges & READ:
            self.drained = False
            self.news = True
            if self.reader is not None:
                trio.lowlevel.reschedule(self.reader)
                self.reader = None
                edges &= ~READ
        if edges & WRITE and self.writer is not None:
            trio.lowlevel.reschedule(self.writer)
            self.writer = None
            edges &= ~WRITE
        if edges and self.sink is not None:
            self.sink.on_edges(edges)


def _taken(task: trio.lowlevel.Task) -> SocketBusyError:
    return SocketBusyError(f"{task.name} waits for this edge already")


class Readiness(ABC):
    """Tells watches about edges, and parks tasks until one comes."""

    edge_triggered: bool = True
    """Whether an edge is told once. If not, ``arm`` again after each."""

    @abstractmethod
    def arm(self, watch: Watch, edges: int) -> None:
        """Report these edges of ``watch`` from now on, and what is true already."""

    @abstractmethod
    def disarm(self, watch: Watch) -> None:
        """Report nothing more, and wake the tasks that wait, who look again."""

    def rearm(self, watch: Watch, edges: int) -> None:
        """Like `arm`, and report once more what is true now, though its edge has passed."""
        self.arm(watch, edges)

    def arm_end(self, watch: Watch) -> None:
        """Report from now on that the peer has ended, and what is true already.

        The edges are among ``ENDED``, or ``LOOK`` where nothing tells them from data.
        """
        self.arm(watch, 0)

    def wait(self, watch: Watch, edge: int, *, passed: bool = False) -> Awaitable[None]:
        """Have the current task woken when ``edge`` comes, or the watch is closed.

        A plain function, so that a parked task is one coroutine smaller: await what it
        returns, and await nothing in between.

        With ``passed``, the edge may have been told before: what is true now counts too.
        A wake-up says "look again", no more. Always a checkpoint; cancelling it leaves
        the watch as it was. One task at a time waits for one edge: the next one gets
        `SocketBusyError`.
        """
        home = watch.home or self
        if passed:
            home.rearm(watch, edge)
        else:
            home.arm(watch, edge)
        return watch.park(edge)

    async def park(self) -> None:
        """Wait for an edge or for `wake`. For the one task that drives this readiness."""
        raise RuntimeError(f"{type(self).__name__} is not driven by a pump")

    def wake(self) -> None:  # noqa: B027 - a readiness whose driver never parks has nobody to wake
        """Return the driver from `park`; does nothing while it is not parked there."""

    def poll(self) -> bool:
        """Tell the watches about the edges that have come; bounded.

        Returns:
          Whether so much goes on that it is worth looking again before `park`, which costs more
          than a pass of the scheduler.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """Let every watch go. Tasks that wait look again and find another home."""


def _asked_of_epoll(edges: int) -> int:
    """Return what to ask epoll for: the peer's end always, urgent data with what is to read."""
    flags = edges | select.EPOLLRDHUP | select.EPOLLET
    return flags | URGENT if edges & READ else flags


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
        """Tell somebody of these edges of a descriptor, and of its end, without a watch.

        For those who never wait: of thousands of idle connections a watch would be a fifth.
        """
        self._epoll.register(fd, _asked_of_epoll(edges))
        self._remember(fd, sink)

    def tell_no_more(self, fd: int, sink: Sink) -> None:
        """Tell it nothing more; call it before the descriptor is closed."""
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
        watch.drained = False
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


class TrioReadiness(Readiness):
    """Trio's own waits: level-triggered, one task per armed watch.

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
        self._driver: trio.lowlevel.Task | None = None

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

    async def park(self) -> None:
        """Wait for `wake`; the reporting tasks' notifications end in one."""

        def _abort(_: object) -> trio.lowlevel.Abort:
            self._driver = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._driver = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(_abort)

    def wake(self) -> None:
        """Return the driver from `park`."""
        if self._driver is not None:
            trio.lowlevel.reschedule(self._driver)
            self._driver = None

    def close(self) -> None:
        """Let every watch go."""
        for watch in list(self._armed):
            self.disarm(watch)


def ended_now(fd: int) -> int:
    """Return which of ``ENDED`` are true of this descriptor; an edge only says that one may be.

    It is asked by poll(2), which costs one call.
    """
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)  # the others are told unasked
    for _, events in poll.poll(0):
        return events & ENDED
    return 0


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
