"""
A listening socket against what must be true of it, whatever is done to it and in what order.

Hypothesis invents the operations, some of them for the inside of callbacks. There is no second
implementation to compare with, but a ledger: what was asked for, which peers came, and what each
of them was answered. The listening socket's own words, `statistics()` first, have to agree with it.

Run it for longer with ``TRIO_WSK_EXAMPLES=5000 pytest tests/listening/test_model.py``.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections import Counter, deque
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trio_wsk
from tests.helpers.scripted import LoopbackTransport, ScriptedTransport
from trio_wsk import (
    ConnectionDispatch,
    EventMask,
    ListenDispatch,
    Status,
    open_listening_socket,
)
from trio_wsk.observers import (
    AcceptBackoffEnded,
    AcceptBackoffStarted,
    CallbackFailed,
    ConnectionAccepted,
    ConnectionDropped,
    LoggingObserver,
)
from trio_wsk.transports import NoDescriptorsError, PeerFaultError, TransportFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import outcome

    from tests.helpers.scripted import ScriptedRequest
    from trio_wsk import Connection, Irp, ListeningSocket

pytestmark = pytest.mark.usefixtures("no_leak_in_all")

BATCH: Final = 16
"""How many are accepted in a row at most: that of `trio_wsk._intake.intake`, said again."""

EXAMPLES: Final = int(os.environ.get("TRIO_WSK_EXAMPLES", "0"))
"""How many sequences of operations; 0 is as many as are quick."""

QUIET: Final = logging.getLogger("trio_wsk.tests.quiet")
QUIET.disabled = True

A_MINUTE: Final = 60
"""Longer than any back-off."""


class PlannedError(Exception):
    """What callbacks raise when they are told to raise."""


class Accept:
    """One accept: who asked, and how it ended."""

    def __init__(self, number: int) -> None:
        self.number = number
        """Its place in the order in which they were queued."""
        self.connection: Connection | None = None


class QueuedAccept(Accept):
    """An accept with an Irp."""

    irp: Irp[Connection]

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.routine_calls: list[Status] = []
        self.has_routine = True
        self.raises = False
        self.was_cancelled = False
        self.waits: list[trio.CancelScope] = []
        self.outcomes: list[outcome.Outcome[Connection]] = []
        self.waits_cancelled = 0


class AwaitedAccept(Accept):
    """A task in accept()."""

    def __init__(self, number: int, scope: trio.CancelScope) -> None:
        super().__init__(number)
        self.scope = scope
        self.is_over = False


class Ledger:
    """Does what Hypothesis says, and keeps account."""

    listening: ListeningSocket
    nursery: trio.Nursery

    def __init__(
        self, transport: ScriptedTransport, max_parked: int, clock: trio.testing.MockClock
    ) -> None:
        self.transport = transport
        self.transport.on_call = self._asked
        self.clock = clock
        self.max_parked = max_parked
        self.irps: list[QueuedAccept] = []
        self.tasks: list[AwaitedAccept] = []
        self.at_once: list[Accept] = []
        self.indicated: list[Connection] = []
        """What the accept callback was given, in order."""
        self.kept: list[Connection] = []
        """What of that it took."""
        self.failures_told = 0
        self.accepts = 0
        self.mode = "deliver"
        self.is_enabled = False
        self.is_closed = False
        self.is_calling = False
        self.answer = 0
        self.plans: deque[Sequence[Step]] = deque()
        """What callbacks do when they are called, one plan each."""
        self.dropped: list[tuple[int, str]] = []
        self.vanished_while_parked: list[ScriptedRequest] = []
        self.expected_failures = 0
        self.unexpected: list[BaseException] = []
        self.reported = 0
        self.parked_most = 0
        self.was_wanted = False
        self.taken_before = 0
        self.in_a_row = 0

    # --- What is told ---------------------------------------------------------------------

    def observe(self, record: object) -> None:
        """Note who was dropped, and which callbacks failed."""
        if isinstance(record, ConnectionDropped):
            self.dropped.append((record.remote_address.port, record.reason))
        elif isinstance(record, CallbackFailed):
            self.reported += 1
            if not isinstance(record.error, PlannedError):
                self.unexpected.append(record.error)

    def _asked(self, what: str) -> None:
        self._note_parked()
        if what == "next_request":
            assert "pause" != self.mode
            assert not self.is_backing_off, "there was no descriptor a moment ago"

    def on_failed(self, listening: ListeningSocket, error: OSError) -> None:
        """The listening socket has failed."""
        assert not self.is_calling, "a callback on the caller's stack"
        assert self.failure is error

        self.failures_told += 1

    def on_accept(self, connection: Connection) -> ConnectionDispatch | Status:
        """The accept event."""
        assert not self.is_calling, "a callback on the caller's stack"
        assert self.is_enabled, "the event is disabled"

        assert 0 == self.listening.statistics().queued_accepts, "a queued accept wins"
        assert [] == [each for each in self.irps if each.irp.status is Status.PENDING]

        self.indicated.append(connection)
        answer = self.answer
        self._follow_plan()
        if answer == 1:
            return Status.REQUEST_NOT_ACCEPTED
        if answer == 2:
            self.expected_failures += 1
            raise PlannedError
        self.kept.append(connection)
        if answer == 3:
            return ConnectionDispatch(receive=lambda _, __: None)
        return Status.SUCCESS

    def on_completion(self, accept: QueuedAccept) -> None:
        """A completion routine."""
        assert not self.is_calling, "a completion routine on the caller's stack"
        assert Status.PENDING is not accept.irp.status
        assert [] == accept.routine_calls, "a second completion"

        accept.routine_calls.append(accept.irp.status)
        self._follow_plan()
        if accept.raises:
            self.expected_failures += 1
            raise PlannedError

    def _follow_plan(self) -> None:
        if self.plans:
            for step in self.plans.popleft():
                self.do_now(step)

    # --- What is done ---------------------------------------------------------------------

    def call(self, function: Callable[[], object]) -> object:
        """Call the listening socket, which calls nobody back from here, and may be closed."""
        self.is_calling = True
        try:
            result = function()
        except (trio_wsk.SocketClosedError, trio_wsk.ForcedClosedError) as error:
            self._check_cause(error)
            return None
        finally:
            self.is_calling = False
        return result

    def _check_cause(self, error: trio_wsk.WskError) -> None:
        if self.failure is None:
            assert self.is_closed
            assert isinstance(error, trio_wsk.SocketClosedError)
        else:
            assert isinstance(error, trio_wsk.ForcedClosedError)
            assert self.failure is error.__cause__

    @property
    def failure(self) -> OSError | None:
        """What the transport failed with, before anybody closed the listening socket."""
        for raised in self.transport.raised:
            if isinstance(raised, TransportFailedError):
                return raised.error
        return None

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing to be had any more."""
        return self.is_closed or self.failure is not None

    def do_now(self, step: Step) -> None:
        """Do one thing that needs no waiting."""
        what, number = step
        getattr(self, what)(number)

    def arrive(self, number: int) -> None:
        """One peer connects, or enough of them for more than one batch."""
        for _ in range(2 * BATCH + 1 if number == 7 else 1 + number % 3):
            self.transport.arrive()

    def peer_resets(self, number: int) -> None:
        """A peer leaves who has had no answer."""
        waiting = [peer for peer in self.transport.peers if peer.answer is None]
        if number % 2:
            waiting = self.parked or waiting
        if waiting:
            peer = waiting[number % len(waiting)]
            peer.vanish()
            if peer.has_reset and peer in self.transport.taken:
                self.vanished_while_parked.append(peer)

    def false_alarm(self, number: int) -> None:
        """An edge, and nothing behind it."""
        self.transport.cry_wolf()

    def peers_fault(self, number: int) -> None:
        """Accepting fails for one peer, or for more than one batch of them."""
        for _ in range(BATCH + 1 if number == 7 else 1):
            self.transport.fault(PeerFaultError(OSError(errno.ECONNABORTED, "left")))

    def no_descriptors(self, number: int) -> None:
        """Accepting fails for want of a descriptor."""
        self.transport.fault(NoDescriptorsError(OSError(errno.EMFILE, "too many")))

    def fail(self, number: int) -> None:
        """The listening socket is going to fail."""
        self.transport.fault(TransportFailedError(OSError(errno.EINVAL, "broken")))

    def _next_number(self) -> int:
        self.accepts += 1
        return self.accepts

    def accept(self, number: int) -> None:
        """A task accepts."""
        self.was_wanted = True
        self.nursery.start_soon(self._accept)

    async def _accept(self) -> None:
        with trio.CancelScope() as scope:
            accept = AwaitedAccept(self._next_number(), scope)
            self.tasks.append(accept)
            try:
                accept.connection = await self.listening.accept(context=accept.number)
            except (trio_wsk.SocketClosedError, trio_wsk.ForcedClosedError) as error:
                self._check_cause(error)
        accept.is_over = True

    def cancel_task(self, number: int) -> None:
        """A task that accepts is cancelled, perhaps at the moment when it is served."""
        waiting = [task for task in self.tasks if not task.is_over]
        if waiting:
            waiting[number % len(waiting)].scope.cancel()

    def accept_nowait(self, number: int) -> None:
        """Somebody takes what is there."""
        self.was_wanted = True
        accept = Accept(self._next_number())

        def attempt() -> None:
            try:
                accept.connection = self.listening.accept_nowait(context=accept.number)
            except trio.WouldBlock:
                pass

        self.call(attempt)
        self.at_once.append(accept)

    def queue_accept(self, number: int) -> None:
        """Somebody queues an accept: with a completion routine, which may raise, or without."""
        self.was_wanted = True
        accept = QueuedAccept(self._next_number())
        accept.has_routine = number != 0
        accept.raises = number == 1

        def attempt() -> None:
            accept.irp = self.listening.queue_accept(
                context=accept.number,
                on_completion=(
                    (lambda _: self.on_completion(accept)) if accept.has_routine else None
                ),
            )
            self.irps.append(accept)

        self.call(attempt)

    def cancel_irp(self, number: int) -> None:
        """A queued accept is taken back, if it still can be."""
        if self.irps:
            accept = self.irps[-1 - number % len(self.irps)]
            was_pending = accept.irp.status is Status.PENDING

            assert was_pending == self.call(accept.irp.cancel)

            accept.was_cancelled |= was_pending

    def wait_irp(self, number: int) -> None:
        """A task waits for a queued accept."""
        if self.irps:
            self.nursery.start_soon(self._wait, self.irps[-1 - number % len(self.irps)])

    async def _wait(self, accept: QueuedAccept) -> None:
        with trio.CancelScope() as scope:
            accept.waits.append(scope)
            accept.outcomes.append(await accept.irp.wait())
        accept.waits_cancelled += scope.cancelled_caught

    def cancel_wait(self, number: int) -> None:
        """A task that waits for a queued accept is cancelled, which leaves that queued."""
        waited = [each for each in self.irps if len(each.waits) > len(each.outcomes)]
        if waited:
            accept = waited[number % len(waited)]
            status = accept.irp.status
            for scope in accept.waits:
                scope.cancel()

            assert status is accept.irp.status

    def enable(self, number: int) -> None:
        """The accept event is enabled, and others with it."""
        self.was_wanted = True
        mask = EventMask.ACCEPT | EventMask.RECEIVE if number % 2 else EventMask.ACCEPT
        if not self.has_ended:
            self.is_enabled = True
        self.call(lambda: self.listening.enable_events(mask))

    def disable(self, number: int) -> None:
        """The accept event is disabled: from here on it is silent."""
        self.is_enabled = False
        self.call(lambda: self.listening.disable_event_nowait(EventMask.ACCEPT))

    def pause(self, number: int) -> None:
        """Nothing is taken any more."""
        self._change_mode("pause")

    def resume(self, number: int) -> None:
        """Back to normal."""
        self._change_mode("deliver")

    def refuse(self, number: int) -> None:
        """Whoever comes is reset."""
        self.was_wanted = True
        self._change_mode("refuse")

    def _change_mode(self, mode: str) -> None:
        if not self.has_ended:
            self.mode = mode
        call = {
            "pause": self.listening.pause,
            "deliver": self.listening.resume,
            "refuse": self.listening.refuse,
        }[mode]
        self.call(call)

    def answer_next(self, number: int) -> None:
        """From now on the accept callback answers so."""
        self.answer = number % 4

    async def do(self, step: Step | Plan) -> None:
        """Do one thing, and see that everything is in order."""
        what, argument = step
        if isinstance(argument, list):
            self.plans.append(argument)
            self.was_wanted = True
        elif what == "settle":
            await self.settle()
        elif what == "go_on":
            await trio.lowlevel.checkpoint()
        elif what == "time_passes":
            self.clock.jump(A_MINUTE)
            await self.settle()
        elif what == "close":
            await self.close(argument)
        else:
            self.do_now((what, argument))
        self.check()

    async def close(self, number: int) -> None:
        """The listening socket is closed, perhaps by a task that is cancelled."""
        with trio.CancelScope() as scope:
            if number % 2:
                scope.cancel()
            self.is_closed = self.failure is None
            await self.listening.aclose()
            self.check_routines()

    # --- What must be true ----------------------------------------------------------------

    @property
    def parked(self) -> list[ScriptedRequest]:
        """Who was taken and has had no answer."""
        return [peer for peer in self.transport.taken if peer.answer is None]

    def _note_parked(self) -> None:
        self.parked_most = max(self.parked_most, len(self.parked))

    @property
    def taken_by(self) -> dict[str, int]:
        """How many connections each way has brought, as far as anybody has them by now."""
        accepted = [
            *[accept.irp.information for accept in self.irps],
            *[accept.connection for accept in [*self.tasks, *self.at_once]],
        ]
        return {
            "accept": sum(connection is not None for connection in accepted),
            "event": len(self.kept),
        }

    def check(self) -> None:
        """What is true at any time between two operations."""
        self._note_parked()
        if self.unexpected:
            raise self.unexpected[0]
        transport = self.transport
        counted = self.listening.statistics()
        reasons = Counter(reason for _, reason in self.dropped)

        assert len(transport.taken) == counted.accepted
        assert len(self.parked) == counted.parked <= self.max_parked
        assert self.parked_most == counted.parked_most
        assert reasons == counted.dropped
        assert self.kept == [each for each in self.kept if each in self.indicated]
        assert len(self.kept) == counted.delivered["event"]
        assert counted.accepted == (
            sum(counted.delivered.values()) + counted.parked + sum(counted.dropped.values())
        )
        assert not (counted.parked and counted.queued_accepts), (
            "somebody waits beside what is there"
        )
        assert self.expected_failures == self.reported
        order = [peer.number for peer in transport.answered if peer.answer == "accept"]

        assert sorted(order) == order, "somebody was overtaken"

    async def settle(self) -> None:
        """Once everybody waits, whatever could be done has been done."""
        await trio.testing.wait_all_tasks_blocked()
        self.check()
        counted = self.listening.statistics()
        pending = [each for each in self.irps if each.irp.status is Status.PENDING]
        waiting = [task for task in self.tasks if not task.is_over]

        assert self.taken_by == counted.delivered
        assert len(pending) + len(waiting) == counted.queued_accepts

        self.check_order([*pending, *waiting])
        self.check_routines()
        if self.has_ended:
            assert (0, 0) == (counted.parked, counted.queued_accepts)
        elif self.is_enabled:
            assert 0 == counted.parked, "the event is enabled and waits beside what is there"
        is_wanted = self.mode == "refuse" or self.is_enabled or counted.queued_accepts > 0
        if is_wanted and self.mode != "pause" and not self.is_backing_off:
            assert 0 == self.transport.waiting, "somebody waits beside who knocks"
        if not self.was_wanted:
            assert self.taken_before == counted.accepted, "nobody wanted that one"
        self.was_wanted = is_wanted
        self.taken_before = counted.accepted

    @property
    def is_backing_off(self) -> bool:
        """Whether accepting failed for want of a descriptor, and no time has passed since."""
        return self.transport.short_since == trio.current_time()

    def check_order(self, waiting: Sequence[Accept]) -> None:
        """Peers were served in the order in which they came, and so was who accepted them."""
        accepts: list[Accept] = [*self.irps, *self.tasks, *self.at_once]
        served = {
            (each.irp.information if isinstance(each, QueuedAccept) else each.connection): each
            for each in accepts
        }
        served.pop(None, None)
        by_peer = sorted((c.remote_address.port, a.number) for c, a in served.items() if c)

        assert all(mine < next_one for (_, mine), (_, next_one) in pairwise(by_peer))
        assert [number for _, number in by_peer] == [
            connection.context
            for connection in sorted(
                (each for each in served if each), key=lambda each: each.remote_address.port
            )
        ]
        if by_peer and waiting:
            assert by_peer[-1][1] < min(each.number for each in waiting)
        ports = [connection.remote_address.port for connection in self.indicated]

        assert sorted(ports) == ports

    def check_routines(self) -> None:
        """Each completion has been told once, to everybody who wanted to know."""
        for accept in self.irps:
            irp = accept.irp
            if irp.status is Status.PENDING:
                assert [] == accept.routine_calls
                assert [] == accept.outcomes
            else:
                assert accept.routine_calls == [irp.status] * accept.has_routine

    def check_end(self) -> None:
        """Everything has come to its end, once."""
        self.check()
        for accept in self.irps:
            self._check_irp(accept)
        self.check_routines()
        self.check_order([])

        assert all(task.is_over for task in self.tasks)
        assert self.taken_by == self.listening.statistics().delivered

        assert self.failures_told == (self.failure is not None)

        for peer in self.vanished_while_parked:
            assert "reset" == peer.answer, f"{peer} was handed out as if it lived"
        for number, reason in self.dropped:
            if reason == "reset-while-parked":
                assert self.transport.peers[number - 1].has_reset
        places = Counter(number for number, _ in self.dropped)
        places.update(peer.number for peer in self.transport.peers if peer.is_refused)
        places.update(connection.remote_address.port for connection in self.held)

        assert {peer.number: 1 for peer in self.transport.peers} == places
        for peer in self.transport.peers:
            assert (peer.answer is None) is peer.is_refused

    def _check_irp(self, accept: QueuedAccept) -> None:
        irp = accept.irp
        if irp.information is not None:
            assert Status.SUCCESS is irp.status
            assert irp.information.closed is accept.raises
        elif accept.was_cancelled or self.failure is None:
            assert Status.CANCELLED is irp.status
        else:
            assert Status.FILE_FORCED_CLOSED is irp.status
        assert len(accept.waits) == len(accept.outcomes) + accept.waits_cancelled
        for result in accept.outcomes:
            assert irp.outcome == result
            if irp.information is not None:
                assert irp.information is result.unwrap()

    @property
    def held(self) -> list[Connection]:
        """The connections that somebody was given."""
        given = [
            *[accept.irp.information for accept in self.irps],
            *[accept.connection for accept in [*self.tasks, *self.at_once]],
            *self.kept,
        ]
        return [connection for connection in given if connection is not None]

    async def run(self, steps: Sequence[Step | Plan]) -> None:
        """Do all of it in one listening block, and see how that ends."""
        try:
            with trio.CancelScope() as patience:
                async with trio.open_nursery() as self.nursery:
                    await self._run_block(steps)
                    # A task that waits still waits for ever; the clock goes on by itself.
                    self.clock.autojump_threshold = 0
                    patience.deadline = trio.current_time() + A_MINUTE

            assert not patience.cancelled_caught, "somebody was not told"

            self.check_end()
        finally:
            for connection in self.held:
                connection.close()
            for peer in self.transport.peers:
                peer.leave()

        assert [] == [peer for peer in self.transport.peers if peer.is_open]

    async def _run_block(self, steps: Sequence[Step | Plan]) -> None:
        failure: OSError | None = None
        try:
            async with open_listening_socket(
                transport=self.transport,
                dispatch=ListenDispatch(accept=self.on_accept, failed=self.on_failed),
                max_parked=self.max_parked,
                observers=[self.observe, LoggingObserver(QUIET)],
            ) as self.listening:
                for step in steps:
                    await self.do(step)
                self.is_closed = self.failure is None
        except OSError as error:
            failure = error

        assert self.failure is failure


Step = tuple[str, int]
Plan = tuple[str, list[Step]]

ANYWHERE = [
    *["arrive"] * 6,
    *["queue_accept"] * 4,
    *["accept", "accept_nowait", "cancel_irp", "cancel_task", "enable", "enable", "disable"] * 2,
    *["wait_irp", "wait_irp", "cancel_wait", "pause", "refuse"],
    *["resume"] * 5,
    *["answer_next", "peer_resets", "peer_resets", "false_alarm", "peers_fault", "no_descriptors"],
]
"""What can be done outside of callbacks and inside; the more often it is named, the more often."""

NUMBERS = st.integers(0, 7)
ACTIONS = st.tuples(st.sampled_from(ANYWHERE), NUMBERS)
PLANS = st.tuples(st.just("plan"), st.lists(ACTIONS, min_size=1, max_size=3))
TURNS = st.tuples(
    st.sampled_from(["settle", "settle", "settle", "go_on", "go_on", "time_passes"]), NUMBERS
)
ENDS = st.tuples(st.sampled_from(["close", "fail"]), NUMBERS)

# Rounds, so that enough is done at the same moment, and enough has time to happen.
ROUNDS = st.tuples(ACTIONS, ACTIONS | PLANS, ACTIONS, TURNS)
SCRIPTS = st.builds(
    lambda rounds, end, more: [step for each in [*rounds, end, *more] for step in each],
    st.lists(ROUNDS, min_size=5, max_size=25),
    st.lists(ENDS, max_size=1),
    st.lists(ROUNDS, max_size=2),
)


def run(transport: ScriptedTransport, steps: Sequence[Step | Plan], max_parked: int) -> None:
    """Run one script in a Trio of its own."""
    clock = trio.testing.MockClock()
    trio.run(Ledger(transport, max_parked, clock).run, steps, clock=clock)


in_any_order = given(steps=SCRIPTS, max_parked=st.sampled_from([0, 1, 3, 128]))


def examples(count: int) -> settings:
    """So many examples, or as many as the environment says, however long they take."""
    return settings(
        max_examples=EXAMPLES or count,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.mark.usefixtures("readiness")
@examples(100)
@in_any_order
def test_everything_in_any_order(steps: list[Step | Plan], max_parked: int) -> None:
    """
    Accepts of every kind, events, pauses, refusals, failures and closing, in any order and also
    from inside callbacks: each Irp completes once, each peer is in one place, nobody is
    overtaken, and nobody waits beside what is there.
    """
    run(ScriptedTransport(), steps, max_parked)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how many peers wait")
@pytest.mark.usefixtures("readiness")
@examples(25)
@in_any_order
def test_everything_in_any_order_on_loopback(steps: list[Step | Plan], max_parked: int) -> None:
    """The same is true of the portable transport and of peers that are real sockets."""
    run(LoopbackTransport(), steps, max_parked)


def test_shortage_inside_a_callback_ends_the_batch_outside() -> None:
    """
    An accept callback that queues an accept, which finds no descriptor: the batch that the callback
    was called from asks for no more either, and the bad time ends when its wait has.
    """
    told: list[type[object]] = []
    transport = ScriptedTransport()
    clock = trio.testing.MockClock()

    async def main() -> None:
        def accept(connection: Connection) -> Status:
            connection.close()
            irps.append(listening.queue_accept())
            return Status.SUCCESS

        irps: list[Irp[Connection]] = []
        async with open_listening_socket(
            transport=transport,
            dispatch=ListenDispatch(accept=accept),
            observers=[lambda record: told.append(type(record)), LoggingObserver(QUIET)],
        ) as listening:
            transport.arrive()
            transport.fault(NoDescriptorsError(OSError(errno.EMFILE, "too many")))
            transport.arrive()
            listening.enable_events(EventMask.ACCEPT)
            await trio.testing.wait_all_tasks_blocked()

            assert 1 == len(transport.taken)
            assert [ConnectionAccepted, AcceptBackoffStarted] == told

            clock.jump(A_MINUTE)
            connection = (await irps[0].wait()).unwrap()
            connection.close()

            assert [AcceptBackoffEnded] == told[3:]

    trio.run(main, clock=clock)
    for peer in transport.taken:
        peer.leave()


def test_failure_inside_a_callback_ends_the_batch_outside() -> None:
    """
    An accept callback that queues an accept, which finds that the transport has failed: that one
    completes so, and nothing more is asked for or indicated by the batch outside.
    """
    transport = ScriptedTransport()
    irps: list[Irp[Connection]] = []

    async def main() -> None:
        def accept(connection: Connection) -> Status:
            connection.close()
            irps.append(listening.queue_accept())
            return Status.SUCCESS

        async with open_listening_socket(
            transport=transport,
            dispatch=ListenDispatch(accept=accept),
            observers=[LoggingObserver(QUIET)],
        ) as listening:
            transport.arrive()
            transport.fault(TransportFailedError(OSError(errno.EINVAL, "broken")))
            transport.arrive()
            listening.enable_events(EventMask.ACCEPT)
            await trio.sleep_forever()

    with pytest.raises(OSError, match="broken"):
        trio.run(main)
    for peer in transport.peers:
        peer.leave()

    assert [Status.FILE_FORCED_CLOSED] == [irp.status for irp in irps]
    assert ["accept", None] == [peer.answer for peer in transport.peers]
