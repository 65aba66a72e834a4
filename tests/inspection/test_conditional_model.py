"""
Conditional accept against what must be true of it, whatever is done to it and in what order.

Hypothesis chooses the world (when requests are inspected, the limits and what happens beyond them,
a good network or a bad one), and then what happens in it, one thing after the other. What is true
is known from a ledger: each request has a log of what was said and done about it, in the words of
`test_inspection_walk`, and only some logs are in order. Counters, views and clients have to agree
with the ledger.

The machine is the host loop of a guest Trio run, so that Hypothesis sees what has come of
one thing before it chooses the next; the clock goes only when it is told to.

Run it for longer with ``nox -s model``, or ``TRIO_WSK_EXAMPLES=5000 pytest -s`` and this file.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Final

import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from tests.helpers.inspected_world import InspectedWorld
from tests.helpers.inspection_ledger import (
    ACCEPT,
    MESSAGE,
    PEND,
    PLANS,
    REJECT,
    VERDICTS,
    Plan,
    PlannedError,
)
from trio_wsk import (
    CloseStyle,
    EventMask,
    ForcedClosedError,
    InspectId,
    InspectPoint,
    SocketClosedError,
    Status,
    Verdict,
    WouldBlockError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.inspection_ledger import Client, Inspected
    from trio_wsk import Connection, InspectAction, Irp

EXAMPLES: Final = int(os.environ.get("TRIO_WSK_EXAMPLES", "0"))
"""How many worlds; 0 is as many as are quick."""

BATCH: Final = 500
"""So many worlds at a time: Hypothesis remembers all that it has tried."""
ACCEPT_MASK: Final = EventMask.ACCEPT
NUMBERS: Final = st.integers(0, 7)


class ConditionalAcceptMachine(InspectedWorld):
    """Does what Hypothesis says."""

    # --- Clients --------------------------------------------------------------------------

    @rule(plans=st.lists(PLANS, min_size=1, max_size=3))
    def arrive(self, plans: list[Plan]) -> None:
        """Clients connect, one for each plan."""
        self.do(lambda: self.connect(plans))

    # Hypothesis leaves rules out at random, and a world without clients is a dull one.
    @rule(plans=st.lists(PLANS, min_size=2, max_size=6))
    def arrive_together(self, plans: list[Plan]) -> None:
        """More of them connect."""
        self.do(lambda: self.connect(plans))

    def do_with_client(self, number: int, job: Callable[[Client], object]) -> None:
        """Have one of the clients do something, if there still is one."""

        def do_it() -> None:
            there = [client for client in self.clients if client.is_there]
            kept = [client for client in there if client.is_kept]
            chosen = kept if kept and number % 2 else there
            if chosen:
                job(chosen[-1 - number % len(chosen)])

        self.do(do_it)

    def has_clients(self) -> bool:
        """Whether somebody is there."""
        return any(client.is_there for client in self.clients)

    @precondition(has_clients)
    @rule(number=NUMBERS, way=st.sampled_from(["reset", "reset", "abandon", "vanish"]))
    def leave(self, number: int, way: str) -> None:
        """A client leaves: with a reset, as who closes its socket, or without a word."""

        def leave(client: Client) -> None:
            client.left = way
            getattr(client.stream, way)()

        self.do_with_client(number, leave)

    @precondition(has_clients)
    @rule(number=NUMBERS, size=st.integers(0, 5))
    def send(self, number: int, size: int) -> None:
        """A client sends something, or FIN."""

        def send(client: Client) -> None:
            if client.can_send and size:
                self.nursery.start_soon(client.send, b"x" * size)
            elif client.can_send:
                self.nursery.start_soon(client.finish)

        self.do_with_client(number, send)

    @precondition(has_clients)
    @rule(number=NUMBERS)
    def unplug(self, number: int) -> None:
        """A client's cable is pulled, or plugged in again."""

        def unplug(client: Client) -> None:
            client.is_unplugged = not client.is_unplugged
            client.was_unplugged = True
            if client.is_unplugged:
                client.host.unplug()
            else:
                client.host.plug_in()

        self.do_with_client(number, unplug)

    # --- Verdicts -------------------------------------------------------------------------

    def has_running(self) -> bool:
        """Whether an async inspector is at it."""
        return any(each.is_running for each in self.inspected)

    @precondition(has_running)
    @rule(number=NUMBERS)
    def answer(self, number: int) -> None:
        """An async inspector answers, perhaps late."""

        def do_it() -> None:
            running = [each for each in self.inspected if each.is_running]
            if running:
                running[number % len(running)].may_answer.set()

        self.do(do_it)

    def has_inspected(self) -> bool:
        """Whether there ever was a request."""
        return bool(self.inspected)

    @precondition(has_inspected)
    @rule(number=NUMBERS, verdict=st.one_of(st.just(ACCEPT), st.just(ACCEPT), VERDICTS))
    def complete(self, number: int, verdict: InspectAction | Verdict) -> None:
        """Somebody completes a request: early, in time, late or twice."""

        def do_it() -> None:
            undecided = [each for each in self.inspected if not each.is_decided]
            chosen = undecided if undecided and number < 6 else self.inspected
            self.complete_now(chosen[number % len(chosen)], verdict)

        self.do(do_it)

    @precondition(has_inspected)
    @rule(backwards=st.booleans(), verdict=st.one_of(st.just(ACCEPT), VERDICTS))
    def complete_all(self, backwards: bool, verdict: InspectAction | Verdict) -> None:  # noqa: FBT001 - drawn
        """Somebody completes all there are, in this order or that."""

        def do_it() -> None:
            undecided = [each for each in self.inspected if not each.is_decided]
            for each in reversed(undecided) if backwards else undecided:
                self.complete_now(each, verdict)

        self.do(do_it)

    @rule(number=NUMBERS)
    def complete_nonsense(self, number: int) -> None:
        """Somebody completes what never was, or with what is no verdict."""

        def do_it() -> None:
            complete: Callable[[Any, Any], Status] = self.listening.inspect_complete

            assert Status.NOT_FOUND is complete(InspectId(-1, number), ACCEPT)
            for each in self.inspected[-1:]:
                unknown = InspectId(each.inspect_id.key, 1 << 60)

                assert Status.NOT_FOUND is complete(unknown, REJECT)
                assert Status.INVALID_PARAMETER is complete(each.inspect_id, PEND)

        self.do(do_it)

    @precondition(has_inspected)
    @rule(number=NUMBERS)
    def work_on(self, number: int) -> None:
        """Somebody works on a pended request, inside its cancel scope."""

        def do_it() -> None:
            chosen = self.inspected[-1 - number % len(self.inspected)]
            if chosen.plan.how == "plain" and chosen.entered is None:
                chosen.entered = chosen.request.cancel_scope
                self.nursery.start_soon(self._work_on, chosen)

        self.do(do_it)

    async def _work_on(self, inspected: Inspected) -> None:
        assert inspected.entered is not None
        with inspected.entered:
            await self.may_leave.wait()
        if inspected.entered.cancelled_caught:
            assert "x" in inspected.log

    # --- Taking connections ---------------------------------------------------------------

    def few_are_waiting(self) -> bool:
        """Whether there is a chance that something gets parked."""
        return len(self.accepts) + sum(irp.status is Status.PENDING for irp in self.irps) < 2

    @precondition(few_are_waiting)
    @rule(how=st.sampled_from(["await", "queue", "nowait"]))
    def accept(self, how: str) -> None:
        """Somebody accepts: a task, an Irp, or whoever wants what is there now."""

        def do_it() -> None:
            try:
                if how == "await":
                    self.nursery.start_soon(self._accept)
                elif how == "queue":
                    irp = self.listening.queue_accept(on_completion=self._on_completion)
                    self.irps.append(irp)
                else:
                    self.accepted(self.listening.accept_nowait())
            except (SocketClosedError, ForcedClosedError):
                assert self.has_ended
            except WouldBlockError:
                pass

        self.do(do_it)

    async def _accept(self) -> None:
        with trio.CancelScope() as scope:
            self.accepts.append(scope)
            try:
                connection = await self.listening.accept()
            except (SocketClosedError, ForcedClosedError):
                assert self.has_ended
            else:
                self.accepted(connection)
            finally:
                self.accepts.remove(scope)

    def _on_completion(self, irp: Irp[Connection]) -> None:
        if irp.information is not None:
            self.routines.append(self.accepted(irp.information))

    @precondition(lambda self: self.accepts or self.irps)
    @rule(number=NUMBERS)
    def cancel_accept(self, number: int) -> None:
        """Who accepts thinks better of it, perhaps at the moment when it is served."""

        def do_it() -> None:
            if self.accepts and (number % 2 or not self.irps):
                self.accepts[number % len(self.accepts)].cancel()
            elif self.irps:
                self.irps[-1 - number % len(self.irps)].cancel()

        self.do(do_it)

    @rule(
        is_enabled=st.sampled_from([False, False, True]),
        answer=st.sampled_from([None, None, None, Status.REQUEST_NOT_ACCEPTED, PlannedError()]),
    )
    def switch_event(self, is_enabled: bool, answer: object) -> None:  # noqa: FBT001 - drawn
        """The accept event is enabled, with a callback that may not take them, or disabled."""

        def do_it() -> None:
            self.answer_of_event = answer
            try:
                if is_enabled:
                    self.listening.enable_events(ACCEPT_MASK)
                else:
                    self.listening.disable_event_nowait(ACCEPT_MASK)
            except (SocketClosedError, ForcedClosedError):
                assert self.has_ended
            else:
                self.is_enabled = is_enabled

        self.do(do_it)

    @rule(mode=st.sampled_from(["pause", "refuse", "resume", "resume", "resume"]))
    def switch(self, mode: str) -> None:
        """The listening socket pauses, refuses, or goes on."""

        def do_it() -> None:
            try:
                getattr(self.listening, mode)()
            except (SocketClosedError, ForcedClosedError):
                assert self.has_ended
            else:
                self.is_paused = mode == "pause"

        self.do(do_it)

    @rule(error=st.sampled_from([errno.EMFILE, errno.ECONNABORTED, errno.ECONNABORTED]))
    def fault(self, error: int) -> None:
        """The next accept is going to fail."""

        def do_it() -> None:
            self.has_faulted = True
            self.transport.fail_next(error)

        self.do(do_it)

    # --- Time -----------------------------------------------------------------------------

    @rule()
    def go_on(self) -> None:
        """Everybody has one turn."""

        async def go_on() -> None:
            await trio.lowlevel.checkpoint()
            self.check()

        self._do(go_on)

    @rule()
    def settle(self) -> None:
        """Everybody has as many turns as they want."""
        self._do(self._settle)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 1.0, 2.5, 11.0]))
    def time_passes(self, seconds: float) -> None:
        """Time passes, and what is due in it happens when it is due."""

        async def wait() -> None:
            await self._pass(seconds)
            await self._settle()

        self._do(wait)

    # --- Ending ---------------------------------------------------------------------------

    @precondition(lambda self: self.inspected and not self.has_ended)
    @rule(rarely=st.integers(0, 7))
    def close(self, rarely: int) -> None:
        """The listening socket is closed, or its transport is going to fail for good."""
        if rarely == 0:
            self.do(lambda: self.nursery.start_soon(self._close))
        elif rarely == 1:
            self.has_failed = self.has_faulted = True
            self.do(lambda: self.transport.fail_next(errno.ENOTSOCK))


def test_conditional_accept_in_any_order() -> None:
    """
    Arrivals, verdicts, completions, peers that leave, deadlines, limits, accepts of every kind,
    faults and closing, in any order, before the handshake and after it: every request ends once,
    in order, its peer sees what it should, counters and views agree, and nothing is left.
    """
    ConditionalAcceptMachine.steps = 0
    left = EXAMPLES or 60
    while left > 0:
        run_state_machine_as_test(
            ConditionalAcceptMachine,
            settings=settings(
                max_examples=min(left, BATCH),
                stateful_step_count=50,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
        left -= BATCH

    print(f"\n{ConditionalAcceptMachine.steps} steps")  # noqa: T201 - for -s

    assert ConditionalAcceptMachine.steps > 0


def test_message_to_who_has_closed_meanwhile() -> None:
    """
    Where a peer's FIN does not count as its end, one that has closed altogether is not known to
    be gone until something is sent: a message is met by a reset then, and so it is told.
    """
    world = ConditionalAcceptMachine()
    world.begin(
        point=InspectPoint.AFTER_HANDSHAKE,
        limits=(1, 1, 1),
        pending="wait",
        parked="wait",
        half_close=False,
        timeout=None,
        network=(0.0, 0.0),
        seed=0,
        hurry=1,
        first=[Plan("async", Verdict(REJECT, "busy", MESSAGE))],
    )
    world.leave(0, "abandon")
    world.answer(0)
    rejected = world.inspected[0].rejected
    world.teardown()

    assert rejected is not None
    assert rejected.close is CloseStyle.RESET
