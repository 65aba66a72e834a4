"""Intake: when connections are taken from the transport, and how many at once.

accept(2) is called only while somebody wants a connection or an inspector is there to be
asked about it, and for `BATCH` connections in a row at most. What was read ahead of anybody
who wants it is parked.

Here are also the three modes (deliver, pause, refuse), what a drain still takes, and what is done
when the machine has no descriptor left for another connection, or accepting fails again and again.
Where a connection goes is decided elsewhere.
"""

from __future__ import annotations

import enum
import errno
import math
import random
from typing import TYPE_CHECKING, Final, Literal

import trio

from trio_wsk._delivery.contract import BATCH
from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.verdict import InspectPoint
from trio_wsk.transports._contract import (
    FAULTS_IN_A_ROW,
    NoDescriptorsError,
    PeerFaultError,
    TransportFailedError,
)

from .backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._connection.block import Block
    from trio_wsk._delivery.dropping import Dropping
    from trio_wsk._engine.readiness import Readiness
    from trio_wsk._vocabulary.statistics import ListeningCounters
    from trio_wsk.transports._contract import Transport, TransportRequest

    from .admission import Admission

__all__ = ["BATCH", "NO_DESCRIPTORS_POLICIES", "REFUSE", "Intake", "Mode", "NoDescriptorsPolicy"]

LAST_MOST: Final = 4096
"""How many are still taken in a drain where nobody can tell how many wait (Unix sockets): as many
as a backlog holds by default on Linux (``net.core.somaxconn``)."""

NoDescriptorsPolicy = Literal["backoff", "shed", "raise"]

NO_DESCRIPTORS_POLICIES: Final = ("backoff", "shed", "raise")


class Mode(enum.Enum):
    """What happens to new connections."""

    DELIVER = "deliver"
    PAUSE = "pause"
    REFUSE = "refuse"
    LAST = "last"
    """The server drains: those who wait already are taken, paused or not, and then nobody."""


# Members of an enum are looked up anew each time, which adds up over all that is asked for
# each connection; a name of the module is not.
DELIVER: Final = Mode.DELIVER
PAUSE: Final = Mode.PAUSE
REFUSE: Final = Mode.REFUSE
LAST: Final = Mode.LAST


class Intake:
    """Takes connections from one listening socket's transport.

    Args:
      transport: Where they come from.
      admission: Where they go.
      block: Whose pump takes them.
      counters: Where they are counted.
      dropping: Where they go while they are refused.
      policy: What to do when there is no descriptor for another one.
      failed: Called when the transport itself has failed.
    """

    def __init__(
        self,
        transport: Transport,
        admission: Admission,
        block: Block,
        counters: ListeningCounters,
        dropping: Dropping,
        *,
        policy: NoDescriptorsPolicy,
        failed: Callable[[OSError], object],
    ) -> None:
        self.mode = DELIVER
        """What happens to new connections; `set_mode` changes it."""
        self._transport = transport
        self._admission = admission
        self._block = block
        self._counters = counters
        self._dropping = dropping
        self._policy = policy
        self._has_failed = failed
        self._backoff = Backoff()
        self._backing_off = False
        self._shed_since_backoff = 0
        self._faults_in_a_row = 0
        self._turn_posted = False
        self._is_open = False
        self._wants_room = False  # something was left in the transport for want of it
        self._left = math.inf  # how many more may be taken: in a drain, a number
        self.finished: trio.Event | None = None
        """In a drain: set when there is nobody left who may become a connection."""
        admission.watched_by(self)

    def open(self, readiness: Readiness) -> None:
        """Have the transport listen."""
        self._is_open = True
        transport = self._transport
        transport.edge = self.on_edge
        transport.takes = self._takes_approved
        if self._policy == "shed":
            transport.keep_spare()
        transport.listen(readiness)
        if transport.has_more():  # there may be a queue already, and an inspector for it
            self.on_edge()

    def close(self) -> None:
        """Take nothing more."""
        self._is_open = False
        if self.finished is not None:
            self.finished.set()

    def set_mode(self, mode: Mode) -> None:
        """Have something else happen to new connections."""
        self.mode = mode
        self.post_turn()

    # --- One turn ----------------------------------------------------------------------

    def on_edge(self) -> None:
        """The transport has something; look at it, if anybody wants it."""
        if self._wants_requests():
            self.post_turn()

    def room_again(self) -> None:
        """There may be room again for what was left in the transport, or nobody left at all."""
        if self._wants_room:
            self._wants_room = False
            if self._is_open:
                self._come_back_for_more()
                self._transport.take_established()
        if self.finished is not None:
            self._look_for_end()

    def _wants_requests(self) -> bool:
        """Whether the transport is to be asked for more, by the pump."""
        return self.mode is REFUSE or self._finds_room(ahead=False)

    def _finds_room(self, *, ahead: bool) -> bool:
        """In the pump: whether there is room for one more; if not, `room_again` says when."""
        has_room = self._admission.has_room(in_pump=True, ahead=ahead)
        if not has_room:
            self._wants_room = True
        return has_room

    def _takes_approved(self) -> bool:
        """For the transport: whether to take the connection of a request that was approved."""
        has_place = self._admission.has_place()
        if not has_place:
            self._wants_room = True
        return has_place

    def post_turn(self) -> None:
        """Have the pump look."""
        if not self._turn_posted and self._is_open:
            self._turn_posted = True
            self._block.post(self._accept_turn)

    def _accept_turn(self) -> None:
        """In the pump: take what is wanted, one bounded batch, and come back for more."""
        self._turn_posted = False
        if not self._is_open:
            return
        if self.mode is not PAUSE and not self._backing_off and self._wants_requests():
            self._take_batch(in_pump=True)
            self._come_back_for_more()
        if self.mode is LAST and self._left <= 0:
            self._take_no_more()
        if self.finished is not None:
            self._look_for_end()

    def _come_back_for_more(self) -> None:
        """What is left of an edge is not announced again."""
        if self._transport.has_more():
            self.on_edge()

    def take_for_caller(self, *, waits: bool) -> None:
        """Somebody has queued an accept: look at once, on their stack, for what is there.

        Callbacks run in the pump only: with an inspector, it is the pump that looks.

        Args:
          waits: Whether they wait for what is to come. If not, the system is asked, at the
            price of an accept(2) that finds nothing.
        """
        if not self._admission.has_room(in_pump=False, ahead=False):
            self.room_again()
        elif self.mode is DELIVER and not self._backing_off:
            if not waits:
                self._transport.look()
            if self._transport.has_more():
                self._take_batch(in_pump=False)
                self._come_back_for_more()

    def _take_batch(self, *, in_pump: bool) -> None:
        """Take up to `BATCH` requests from the transport, and each to its place.

        Each is in its place before the next one is asked for, so an error in the middle
        finds everything before it delivered.

        Args:
          in_pump: Whether callbacks may be called.
        """
        try:
            self._take_one_by_one(in_pump=in_pump)
        finally:
            self._transport.flush()

    def _take_one_by_one(self, *, in_pump: bool) -> None:
        is_asked = self._transport.has_more()  # else None is not the kernel's word
        has_answered = False
        for _ in range(BATCH):
            if not self._takes_more(in_pump=in_pump):
                break
            try:
                request = self._transport.next_request()
            except PeerFaultError as fault:
                self._left -= 1
                self._ignore(fault.error)
                continue
            except NoDescriptorsError as shortage:
                farewells = self._block.farewells
                if farewells is not None and farewells.make_room():
                    continue  # who waits comes before who is only waited for
                self._out_of_descriptors(shortage.error)
                return
            except TransportFailedError as failure:
                self._has_failed(failure.error)
                return
            has_answered = True
            self._faults_in_a_row = 0
            if request is None:
                if is_asked:
                    self._nobody_waits()
                break
            self._left -= 1
            self._arrived(request, in_pump=in_pump)
        # A descriptor is reserved before the queue is looked at, so that even "nobody waits"
        # says that there is one (accept4, net/socket.c).
        if is_asked and has_answered and not self._backing_off:
            self._recovered()

    def _nobody_waits(self) -> None:
        """The kernel says so: in a drain, there were not as many left as was thought."""
        if self.mode is LAST:
            self._left = 0

    def _arrived(self, request: TransportRequest, *, in_pump: bool) -> None:
        self._counters.accepted += 1
        if records.ConnectionAccepted in self._block.observers.wanting:
            self._block.tell(records.ConnectionAccepted, remote_address=request.remote_address)
        if self.mode is REFUSE:
            self._dropping.drop(request, "refused")
        else:
            self._admission.take(request, in_pump=in_pump)

    def _takes_more(self, *, in_pump: bool) -> bool:
        """Whether one more request has a place to go to."""
        if not self._is_open or self.mode is PAUSE or self._backing_off:
            return False  # a callback has just said so, or found no descriptor for an accept
        if self.mode is REFUSE:
            return in_pump
        if self._left <= 0:
            return False
        if in_pump:
            return self._finds_room(ahead=True)
        return self._admission.has_room(in_pump=False, ahead=True)

    # --- The last ones -----------------------------------------------------------------

    def finish(self) -> None:
        """The server drains: take who waits already, and refuse who is new.

        What others share, or have after us, is left to them.
        """
        self.finished = trio.Event()
        is_left = self._transport.leave()
        if not is_left:
            self._transport.look()  # for those of whom no edge has told yet
        else:
            self._admission.leave()
        self._block.post(self._take_last)

    def _take_last(self) -> None:
        """In the pump: note how many wait, and begin with them.

        They are counted, so that peers who keep coming can't keep a server from ending. Several
        sockets are asked in turn, so that each may have as many newcomers in front of the rest.
        """
        self._left = 0 if self.mode is REFUSE else self._count_those_who_wait()
        self.mode = LAST
        self._admission.take_last()
        self._accept_turn()

    def _count_those_who_wait(self) -> int:
        depth = self._transport.queue_depth()
        if depth is not None:
            return depth[0] * len(self._transport.local_addresses)
        return LAST_MOST if self._transport.has_more() else 0

    def _take_no_more(self) -> None:
        """In the pump: those who were waiting have been taken; have others refused from now on."""
        if self._transport.inspect_point is InspectPoint.AFTER_HANDSHAKE:
            self.mode = PAUSE
            self._transport.close()  # those who were taken are not touched by that
        else:
            self.set_mode(REFUSE)  # there may be handshakes to be finished

    def _look_for_end(self) -> None:
        """In a drain: see whether anybody is left who may become a connection."""
        is_taken = self._left <= 0 and self.mode is not LAST
        if is_taken and not self._admission.waiting:
            assert self.finished is not None
            self.finished.set()

    # --- When accepting fails ----------------------------------------------------------

    def _ignore(self, error: OSError) -> None:
        """One peer's fault: counted, and on to the next; if that goes on and on, later."""
        name = self._count_error(error)
        self._faults_in_a_row += 1
        if self._faults_in_a_row < FAULTS_IN_A_ROW:
            self._block.tell(records.AcceptErrorIgnored, errno_name=name)
        else:  # whatever the policy: it is for want of descriptors, and there may be plenty
            self._back_off(self._failed(name, "backoff"))

    def _count_error(self, error: OSError) -> str:
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        self._counters.accept_errors[name] += 1
        return name

    def _out_of_descriptors(self, error: OSError) -> None:
        """No descriptor or no memory for another connection: do what the policy says."""
        name = self._count_error(error)
        # A drain takes more than there may be otherwise: that is no reason to fail.
        if self._policy == "raise" and self.finished is None:
            self._has_failed(error)
            return
        wait = self._failed(name, self._policy)
        if self._policy == "shed" and self._shed_some():
            self.post_turn()
        else:
            self._back_off(wait)

    def _failed(self, name: str, policy: str) -> float:
        """Accepting has failed by nobody's fault who is gone now; return how long to wait."""
        if not self._backoff.active:
            self._counters.accept_backoffs += 1
            self._block.tell(records.AcceptBackoffStarted, errno_name=name, policy=policy)
        # Chance, not secrecy: it keeps several sockets from trying at the same moment.
        return self._backoff.failed(trio.current_time(), random.random())  # noqa: S311

    def _back_off(self, seconds: float) -> None:
        self._backing_off = True
        self._block.call_at(trio.current_time() + seconds, self._try_again)

    def _shed_some(self) -> bool:
        """Reset peers that wait; False if some do, and there is no descriptor even for that."""
        for shed in range(BATCH):
            if self.mode is LAST and self._left <= 0:
                break  # who comes now was not waiting when the drain began
            if not self._transport.shed():
                if self._transport.has_more():
                    return shed > 0
                self._nobody_waits()
                break
            self._left -= 1
            self._counters.shed += 1
            self._shed_since_backoff += 1
        return True

    def _try_again(self) -> None:
        self._backing_off = False
        self.post_turn()

    def _recovered(self) -> None:
        """The kernel has answered without an error, so a bad time is over."""
        if self._backoff.active:
            recovery = self._backoff.worked()
            assert recovery is not None
            self._block.tell(
                records.AcceptBackoffEnded,
                seconds=recovery.seconds,
                attempts=recovery.attempts,
                shed=self._shed_since_backoff,
            )
            self._shed_since_backoff = 0
