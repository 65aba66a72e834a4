"""Waiting for channels: many waiters, one Trio wait.

Theory of operation
-------------------
Trio arms a descriptor for one wake-up at a time, so a task that waits for a socket
costs Trio an ``epoll_ctl`` and its bookkeeping at every wait. Here a channel is
registered once, edge-triggered, in an epoll of our own; that epoll is itself a
descriptor, and one task waits for it on Trio. When it is readable, ``poll()`` tells
each `Watch` which of its edges have come; or a `Sink` by itself, where no task ever waits
and a watch would only be weight (`Readiness.tell`).

There are two drivers of the same mechanism. Connections that tasks await share one
epoll per Trio run, driven by a system task that runs no user code: it reschedules
tasks. A listening block has an epoll of its own, driven by the block's pump, which
is also where its callbacks run.

The rules of edge triggering, each of which cost a hang or a lost wake-up once:

* An edge is told once. Whoever was told reads until the kernel has no more, or
  remembers that there is more and comes back by itself (a bounded turn is requeued).
* After a short read the channel is known to be empty, and the next receive may
  wait without asking the kernel first: asking costs 0.8 us, a twentieth of what an exchange
  takes. An edge that arrives while nobody waits clears that knowledge, or the next receive
  would sleep beside its data. So does one that arrives during the read: a channel that is no
  descriptor may take a call for the moment to let its peer go on, and what comes then is
  newer than what the read returns.
* Not every short read says that nothing is left. Data and the peer's FIN may share one edge;
  a read stops before an octet that was sent as urgent; on a Unix socket it stops after a
  message that carries descriptors. After an edge that says the peer has ended or has sent
  something urgent, and always on a channel whose request does not vouch for its short reads,
  nothing counts as empty: read until the kernel has no more.
* Registering reports what is true already, so "the kernel had nothing, register,
  park" loses nothing, provided that nothing is awaited in between.
* An edge may be a stranger's. Who duplicates a descriptor and closes the first leaves its
  entry behind, under a number that is another channel's soon. So an edge is a hint: before
  something ends by it, the descriptor itself is asked (`ended_now`).

Where there is no epoll, and for a waiter who is alone in its run (a second epoll
only adds a pass to it), Trio's own waits serve: level-triggered, so nothing is
ever taken for empty there.

Source: epoll(7), "Questions and answers"; epoll_ctl(2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Protocol

import trio

from trio_wsk._vocabulary.errors import SocketBusyError

from .traps import WOKEN, parked, trap_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from .traps import Trap

__all__ = [
    "ENDED",
    "HUNG_UP",
    "LOOK",
    "LOOK_SECONDS",
    "READ",
    "URGENT",
    "WRITE",
    "ParkingReadiness",
    "Readiness",
    "Sink",
    "Watch",
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


class Sink(Protocol):
    """Who is told of edges: of those of a watch that no task waits for, or of a descriptor's."""

    def on_edges(self, edges: int) -> None:
        """Take note; never runs user code."""


class Watch:
    """One channel's edges, and who waits for them."""

    __slots__ = (
        "direct",
        "empty",
        "ended",
        "fd",
        "home",
        "in_doubt",
        "interest",
        "news",
        "reader",
        "sink",
        "to_read",
        "to_write",
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
        self.to_read: Trap | None = None
        """What the reader waits with, once there was one. It refers to the watch, until `close`."""
        self.to_write: Trap | None = None
        self.direct: int = 0
        """How many tasks wait for the descriptor straight on Trio."""
        self.empty: bool = False
        """The kernel is known to have nothing to read until the next edge."""
        self.ended: bool = False
        """An edge said that the peer has ended."""
        self.news: bool = False
        """There is something to read that came after the last read began. Whoever reads clears it
        before, for an edge may come from inside the call."""
        self.in_doubt: bool = False
        """A short read says nothing, here or since an edge: nothing counts as empty any more."""

    def read_short(self) -> None:
        """Say that a read got less than it asked for, so nothing is left."""
        # Only an edge that was asked for can clear the knowledge again.
        if self.interest & READ and not (self.news or self.in_doubt):
            home = self.home
            if home is not None and home.edge_triggered:
                self.empty = True

    def release(self) -> None:
        """Have who waits look again: the channel gets another owner, with this watch."""
        self.sink = None
        if self.direct:
            trio.lowlevel.notify_closing(self.fd)
        self.empty = False
        self.on_edges(READ | WRITE)

    def look_again(self) -> None:
        """Have the task that waits to read look again, though nothing has come."""
        if self.reader is not None:
            trio.lowlevel.reschedule(self.reader, WOKEN)
            self.reader = None
        elif self.direct:
            trio.lowlevel.notify_closing(self.fd)

    def close(self) -> None:
        """Report nothing more; the tasks that wait look again and find the channel closed.

        Call it before the channel is closed: the number of a closed descriptor is given
        to the next one that is opened.
        """
        self.sink = self.to_read = self.to_write = None
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
            if self.to_read is None:
                self.to_read = trap_of(self._reader_cancelled)
            return parked(self.to_read)
        if self.writer is not None:
            raise _taken(self.writer)
        self.writer = task
        if self.to_write is None:
            self.to_write = trap_of(self._writer_cancelled)
        return parked(self.to_write)

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
            self.empty = False

    def on_edges(self, edges: int) -> None:
        """Wake who waits for these edges; what nobody waits for goes to the sink."""
        if edges == READ and self.reader is not None:  # as nearly always, and as below
            self.empty = False
            self.news = True
            trio.lowlevel.reschedule(self.reader, WOKEN)
            self.reader = None
            return
        if edges & _DOUBTFUL:
            self.in_doubt = True
            if edges & ENDED:
                self.ended = True
                edges |= READ | WRITE
        if edges & READ:
            self.empty = False
            self.news = True
            if self.reader is not None:
                trio.lowlevel.reschedule(self.reader, WOKEN)
                self.reader = None
                edges &= ~READ
        if edges & WRITE and self.writer is not None:
            trio.lowlevel.reschedule(self.writer, WOKEN)
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

    _told: dict[int, Watch] | None = None
    """The watches that are kept here for those who keep none, by their descriptors."""

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

    def tell(self, fd: int, edges: int, sink: Sink) -> None:
        """Tell somebody of these edges of a descriptor, and of its end, who keeps no watch.

        With no edges, of the end alone, as `arm_end` does. Where an edge is not told once, ask
        again after each, as with `arm`.
        """
        if self._told is None:
            self._told = {}
        watch = self._told.get(fd)
        if watch is None or watch.sink is not sink:
            if watch is not None:  # its owner has closed the descriptor behind our back
                watch.close()
            watch = self._told[fd] = Watch(fd, sink)
        if edges:
            self.arm(watch, edges)
        else:
            self.arm_end(watch)

    def tell_no_more(self, fd: int, sink: Sink) -> None:
        """Tell the sink nothing more of this descriptor; call it before that is closed."""
        watch = None if self._told is None else self._told.get(fd)
        if self._told is not None and watch is not None and watch.sink is sink:
            del self._told[fd]
            watch.close()

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


class ParkingReadiness(Readiness):
    """A readiness whose driver has nothing to wait on: it is parked until somebody wakes it."""

    _driver: trio.lowlevel.Task | None = None

    async def park(self) -> None:
        """Wait for `wake`."""

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
