"""
A server against what must be true of it: peers come, handlers end or crash, the server drains or is
aborted, in any order, and each peer is in one place.

Run it for longer with ``TRIO_WSK_EXAMPLES=5000 pytest tests/serving/test_server_model.py``.
"""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trio_wsk
from tests.helpers.scripted import ScriptedTransport
from trio_wsk import open_server
from trio_wsk._intake.intake import BATCH
from trio_wsk.observers import HandlerFailed, LoggingObserver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsk import Connection, DrainReport, Server

pytestmark = pytest.mark.usefixtures("no_leak_in_all")

EXAMPLES: Final = int(os.environ.get("TRIO_WSK_EXAMPLES", "0"))
"""How many sequences of operations; 0 is as many as are quick."""

QUIET: Final = logging.getLogger("trio_wsk.tests.quiet")
QUIET.disabled = True

GRACE: Final = 30.0
A_MINUTE: Final = 60


class PlannedError(Exception):
    """What handlers crash with."""


class Handled:
    """One peer's handler: running until it is told to end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.number = connection.remote_address.port
        self.may_end = trio.Event()
        self.crashes = False
        self.how: str | None = None
        """How it ended: ``returned``, ``crashed`` or ``cancelled``."""


class ServerLedger:
    """Does what Hypothesis says, and keeps account."""

    server: Server
    nursery: trio.Nursery

    def __init__(self, limit: int | None, clock: trio.testing.MockClock) -> None:
        self.transport = ScriptedTransport()
        self.clock = clock
        self.limit = limit
        self.handled: list[Handled] = []
        self.failures: list[BaseException] = []
        self.reports: list[tuple[int, DrainReport]] = []
        self.drains = 0
        self.is_ending = False
        self.is_paused = False
        self.is_leaving = False
        self.was_aborted = False

    def observe(self, record: object) -> None:
        """Note the crashes."""
        if isinstance(record, HandlerFailed):
            self.failures.append(record.error)

    async def handler(self, connection: Connection) -> None:
        """Every third peer's ends when the server drains, the others' when they may."""
        handled = Handled(connection)
        self.handled.append(handled)
        if self.is_leaving:  # nobody is there to end it
            handled.may_end.set()

        assert len(self.running) <= self.most

        end = connection.draining if handled.number % 3 == 0 else handled.may_end
        try:
            await end.wait()
        except trio.Cancelled:
            handled.how = "cancelled"
            raise
        handled.how = "crashed" if handled.crashes else "returned"
        if handled.crashes:
            raise PlannedError

    @property
    def most(self) -> float:
        """How many may be open at once; a drain takes some who wait beyond the limit."""
        if self.limit is None:
            return math.inf
        return self.limit + (max(self.limit, BATCH) if self.is_ending else 0)

    @property
    def running(self) -> list[Handled]:
        """The handlers that have not ended."""
        return [handled for handled in self.handled if handled.how is None]

    # --- What is done ---------------------------------------------------------------------

    def arrive(self, number: int) -> None:
        """Peers connect."""
        for _ in range(20 if number == 7 else number % 3 + 1):
            self.transport.arrive()

    def end(self, number: int) -> None:
        """A handler returns, or crashes."""
        if self.running:
            handled = self.running[number % len(self.running)]
            handled.crashes = number > 5
            handled.may_end.set()

    def pause(self, number: int) -> None:
        """The listening socket is paused, or goes on."""
        try:
            if number == 0:
                self.server.listening.pause()
            else:
                self.server.listening.resume()
            self.is_paused = number == 0
        except trio_wsk.SocketClosedError:
            assert self.is_ending

    def drain(self, number: int) -> None:
        """Somebody drains the server; one at a time may."""
        self.nursery.start_soon(self._drain, [0, GRACE, math.inf][number % 3])

    async def _drain(self, grace: float) -> None:
        self.drains += 1
        is_first = self.drains == 1
        self.is_ending = True
        before = self.server.statistics().served
        try:
            report = await self.server.drain(grace=grace)
        except trio_wsk.SocketBusyError:
            assert self.is_leaving or not is_first
        except trio_wsk.SocketClosedError:
            assert self.was_aborted or not is_first
        else:
            assert is_first

            self.reports.append((before, report))

    def abort(self, number: int) -> None:
        """The server is ended at once."""
        self.is_ending = True
        self.was_aborted = True
        self.server.abort()

    async def do(self, step: tuple[str, int]) -> None:
        """Do one thing, and see that everything is in order."""
        what, number = step
        if what == "settle":
            await trio.testing.wait_all_tasks_blocked()
            self.check_settled()
        elif what == "go_on":
            await trio.lowlevel.checkpoint()
        elif what == "time_passes":
            self.clock.jump(A_MINUTE)
            await trio.testing.wait_all_tasks_blocked()
        else:
            getattr(self, what)(number)
        self.check()

    # --- What must be true ----------------------------------------------------------------

    def check(self) -> None:
        """What is true at any time."""
        counted = self.server.statistics()

        assert counted.open_connections <= counted.open_most <= self.most
        assert len(self.transport.taken) == counted.listening.accepted
        assert counted.listening.accepted == (
            counted.listening.delivered["event"]
            + counted.listening.parked
            + sum(counted.listening.dropped.values())
        )
        assert counted.listening.delivered["event"] == counted.open_connections + counted.served
        if self.limit is not None and not self.is_ending:
            assert 0 == counted.listening.parked

    def check_settled(self) -> None:
        """Once everybody waits, nobody knocks while there is room."""
        counted = self.server.statistics()

        assert len(self.running) == counted.open_connections
        assert len(self.handled) == counted.open_connections + counted.served
        assert len(self.failures) == counted.handler_failures
        assert len(self.failures) == sum(handled.how == "crashed" for handled in self.handled)

        if self.is_ending:
            assert 0 == self.transport.waiting
            assert not counted.listening.parked or counted.open_connections == self.most
        elif not self.is_paused and counted.open_connections < (self.limit or math.inf):
            assert 0 == self.transport.waiting
            assert 0 == counted.listening.parked

    def check_end(self) -> None:
        """Each peer is in one place, each handler has ended, and the reports add up."""
        self.check()
        self.check_settled()
        places = sorted(
            [handled.number for handled in self.handled]
            + [peer.number for peer in self.transport.peers if peer.is_refused]
            + [peer.number for peer in self.transport.peers if peer.answer == "reset"]
        )

        assert [peer.number for peer in self.transport.peers] == places
        has_reset = self.was_aborted or any(report.reset for _, report in self.reports)

        assert [] == self.running
        assert all(handled.connection.closed for handled in self.handled)
        for handled in self.handled:
            peer = self.transport.peers[handled.number - 1]

            # One that was about to return when the server was aborted, or the grace was over, may
            # return yet, with a connection that has been reset.
            assert peer.is_aborted or handled.how == "returned"
            assert not peer.is_aborted or handled.how != "returned" or has_reset
        for before, report in self.reports:
            assert report.finished + report.reset == len(self.handled) - before
            if not self.was_aborted:
                cancelled = sum(each.how == "cancelled" for each in self.handled)

                assert cancelled <= report.reset

    async def run(self, steps: Sequence[tuple[str, int]]) -> None:
        """Do all of it in one server, and see how that ends."""
        try:
            async with (
                trio.open_nursery() as self.nursery,
                open_server(
                    self.handler,
                    transport=self.transport,
                    max_connections=self.limit,
                    grace=GRACE,
                    observers=[self.observe, LoggingObserver(QUIET)],
                ) as self.server,
            ):
                for step in steps:
                    await self.do(step)
                self.is_ending = self.is_leaving = True
                self.clock.autojump_threshold = 0
                for handled in self.running:
                    handled.may_end.set()
            self.check_end()
        finally:
            for peer in self.transport.peers:
                peer.leave()

        assert [] == [peer for peer in self.transport.peers if peer.is_open]


NUMBERS = st.integers(0, 7)
ACTIONS = st.tuples(st.sampled_from(["arrive", "arrive", "end", "end", "pause"]), NUMBERS)
TURNS = st.tuples(st.sampled_from(["settle", "settle", "go_on", "go_on"]), NUMBERS)
ENDS = st.tuples(st.sampled_from(["drain", "drain", "drain", "abort", "time_passes"]), NUMBERS)
SCRIPTS = st.builds(
    lambda rounds, ends: [step for each in [*rounds, *ends] for step in each],
    st.lists(st.tuples(ACTIONS, ACTIONS, TURNS), min_size=3, max_size=20),
    st.lists(st.tuples(ENDS, ACTIONS, TURNS), max_size=4),
)


@pytest.mark.usefixtures("readiness")
@settings(
    max_examples=EXAMPLES or 60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=SCRIPTS, limit=st.sampled_from([None, 1, 2, 5, 17]))
def test_everything_in_any_order(steps: list[tuple[str, int]], limit: int | None) -> None:
    """
    Peers, handlers that return and crash, pauses, draining with any grace, and abort: no more are
    open than may be, no peer waits beside room, each has one handler or none, and the report of
    the drain adds up.
    """
    clock = trio.testing.MockClock()
    trio.run(ServerLedger(limit, clock).run, steps, clock=clock)
