"""Inspectors that go on after they were cancelled."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers.inspecting import Silent
from tests.helpers.scripted import ScriptedTransport
from trio_wsk import InspectAction, Status, open_listening_socket
from trio_wsk._inspection.stragglers import STRAGGLE_SECONDS
from trio_wsk.observers import InspectorStraggles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.helpers.scripted import ScriptedRequest
    from trio_wsk import ConnectionRequest, ListeningSocket
    from trio_wsk.observers import Record

JUST = 0.001
"""A moment, on the virtual clock."""


class Office:
    """A listening socket whose inspectors end when a test says so, and not when cancelled."""

    listening: ListeningSocket

    def __init__(self) -> None:
        self.transport = ScriptedTransport()
        self.requests: list[ConnectionRequest] = []
        self.reports: list[InspectorStraggles] = []
        self.goes_home = True
        """Whether all inspectors end when the block does."""
        self._leave: list[trio.Event] = []

    async def inspect(self, request: ConnectionRequest) -> InspectAction:
        """Go on until the test says that it is enough."""
        leave = trio.Event()
        self.requests.append(request)
        self._leave.append(leave)
        with trio.CancelScope(shield=True):
            await leave.wait()
        return InspectAction.ACCEPT

    def leave(self, number: int = 0) -> None:
        """Have an inspector answer."""
        self._leave[number].set()

    def observe(self, record: Record) -> None:
        """Keep the reports."""
        if isinstance(record, InspectorStraggles):
            self.reports.append(record)

    @property
    def straggling(self) -> int:
        """How many inspectors were cancelled and go on."""
        return self.listening.statistics().straggling

    async def arrive(self, count: int = 1) -> list[ScriptedRequest]:
        """Have peers come, one after the other, and each of them asked about."""
        peers = []
        for _ in range(count):
            peers.append(self.transport.arrive())
            await wait_all_tasks_blocked()
        return peers


@asynccontextmanager
async def working(**options: Any) -> AsyncIterator[Office]:
    """Open an office; all its inspectors go home in the end."""
    office = Office()
    try:
        async with open_listening_socket(
            transport=office.transport,
            inspect=office.inspect,
            observers=[office.observe, Silent()],
            **options,
        ) as office.listening:
            try:
                yield office
            finally:
                for number in range(len(office.requests) if office.goes_home else 0):
                    office.leave(number)
    finally:
        for peer in office.transport.peers:
            peer.leave()


async def test_inspector_that_is_not_cancelled_does_not_straggle(autojump_clock: MockClock) -> None:
    """However long it takes within its time, it is not counted."""
    async with working() as office:
        await office.arrive()
        await trio.sleep(5 * STRAGGLE_SECONDS)

        assert 0 == office.straggling

        office.leave()
        await wait_all_tasks_blocked()

        assert 1 == office.listening.statistics().parked
        assert [] == office.reports


async def test_who_has_had_no_turn_is_not_reported(mock_clock: MockClock) -> None:
    """
    When the whole run has stood still since the cancellation, the inspector had no turn to end
    in: its time begins anew.
    """
    async with working() as office:
        (peer,) = await office.arrive()
        peer.vanish()
        mock_clock.jump(2 * STRAGGLE_SECONDS)
        await wait_all_tasks_blocked()

        assert [] == office.reports
        assert 1 == office.straggling

        mock_clock.jump(STRAGGLE_SECONDS)
        await wait_all_tasks_blocked()

        assert 1 == len(office.reports)


async def test_inspector_that_goes_on_is_counted_at_once_and_reported_later(
    autojump_clock: MockClock,
) -> None:
    """
    A cancelled inspector counts as straggling until it ends; it is reported once, when it has
    had `STRAGGLE_SECONDS`, by the request that it was asked about.
    """
    async with working() as office:
        (peer,) = await office.arrive()
        began = trio.current_time()
        peer.vanish()

        assert 1 == office.straggling

        await trio.sleep(STRAGGLE_SECONDS - JUST)

        assert [] == office.reports

        await trio.sleep(2 * JUST)
        (report,) = office.reports
        (request,) = office.requests

        assert request.inspect_id == report.inspect_id
        assert peer.remote_address == report.remote_address
        assert STRAGGLE_SECONDS == pytest.approx(report.seconds)
        assert began + STRAGGLE_SECONDS == pytest.approx(report.at)

        await trio.sleep(10 * STRAGGLE_SECONDS)

        assert 1 == len(office.reports)
        assert 1 == office.straggling

        office.leave()
        await wait_all_tasks_blocked()

        assert 0 == office.straggling
        assert {"reset": 1} == office.listening.statistics().aborted


async def test_inspector_that_ends_soon_is_not_reported(autojump_clock: MockClock) -> None:
    """Who cleans up for less than `STRAGGLE_SECONDS` is counted meanwhile, and that is all."""
    async with working() as office:
        (peer,) = await office.arrive()
        peer.vanish()
        await trio.sleep(STRAGGLE_SECONDS - JUST)

        assert 1 == office.straggling

        office.leave()
        await trio.sleep(10 * STRAGGLE_SECONDS)

        assert 0 == office.straggling
        assert [] == office.reports


@pytest.mark.parametrize("start", [step / 10 for step in range(30)])
async def test_each_inspector_has_its_own_time(start: float, autojump_clock: MockClock) -> None:
    """
    Inspectors that were cancelled one after the other are reported one after the other, each
    when its time has come and no later, whatever the clock says; who ends between is not.
    """
    autojump_clock.jump(start - trio.current_time())
    async with working() as office:
        peers = await office.arrive(4)
        began = trio.current_time()
        for peer in peers:
            peer.vanish()
            await trio.sleep(0.3)
        office.leave(2)
        await trio.sleep(10)

        assert [office.requests[number].inspect_id for number in (0, 1, 3)] == [
            report.inspect_id for report in office.reports
        ]
        assert [STRAGGLE_SECONDS, STRAGGLE_SECONDS + 0.3, STRAGGLE_SECONDS + 0.9] == pytest.approx(
            [report.at - began for report in office.reports]
        )


async def test_inspector_that_has_answered_does_not_straggle(autojump_clock: MockClock) -> None:
    """A request that ends while it is pended has nobody at work who could."""
    reports: list[Record] = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        await trio.lowlevel.checkpoint()
        return InspectAction.PEND

    transport = ScriptedTransport()
    async with open_listening_socket(
        transport=transport, inspect=inspect, observers=[reports.append, Silent()]
    ) as listening:
        peer = transport.arrive()
        await wait_all_tasks_blocked()
        peer.vanish()

        assert 0 == listening.statistics().straggling

        await trio.sleep(2 * STRAGGLE_SECONDS)
    peer.leave()

    assert [] == [report for report in reports if isinstance(report, InspectorStraggles)]


async def test_late_answer_of_a_straggler_is_not_listened_to(autojump_clock: MockClock) -> None:
    """Its request has ended: nothing is delivered, and it is told so to who completes it."""
    async with working() as office:
        (peer,) = await office.arrive()
        peer.vanish()
        await trio.sleep(2 * STRAGGLE_SECONDS)
        inspect_id = office.requests[0].inspect_id

        assert Status.CONNECTION_ABORTED is office.listening.inspect_complete(
            inspect_id, InspectAction.ACCEPT
        )

        office.leave()
        await wait_all_tasks_blocked()
        counted = office.listening.statistics()

        assert (0, 0, 0) == (counted.approved, counted.parked, counted.pending)
        assert "reset" == peer.answer


async def test_closing_waits_so_long_and_reports_who_is_left(autojump_clock: MockClock) -> None:
    """
    Closing waits `STRAGGLE_SECONDS` and no longer, whatever else has been cancelled before;
    who goes on then is reported, once.
    """
    async with working() as office:
        peers = await office.arrive(3)
        peers[0].vanish()
        await trio.sleep(2 * STRAGGLE_SECONDS)
        peers[1].vanish()
        await trio.sleep(STRAGGLE_SECONDS / 2)

        assert 1 == len(office.reports)

        began = trio.current_time()
        await office.listening.aclose()

        assert began + STRAGGLE_SECONDS == pytest.approx(trio.current_time())
        assert [request.inspect_id for request in office.requests] == [
            report.inspect_id for report in office.reports
        ]
        assert 3 == office.straggling

        await trio.sleep(10 * STRAGGLE_SECONDS)

        assert 3 == len(office.reports)


async def test_closing_goes_on_when_the_last_inspector_has_ended(autojump_clock: MockClock) -> None:
    """Every task that closes waits for the last inspector to end, and for no clock."""
    ended: list[float] = []

    async with working() as office:

        async def _close() -> None:
            await office.listening.aclose()
            ended.append(trio.current_time())

        await office.arrive(2)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_close)
            nursery.start_soon(_close)
            await trio.sleep(STRAGGLE_SECONDS / 4)
            office.leave(0)
            await trio.sleep(STRAGGLE_SECONDS / 4)

            assert [] == ended

            office.leave(1)

        assert [began + STRAGGLE_SECONDS / 2] * 2 == pytest.approx(ended)
        assert [] == office.reports


async def test_closing_without_inspectors_waits_for_nothing(autojump_clock: MockClock) -> None:
    """With no inspector running, closing takes no time on the clock."""
    async with working() as office:
        await office.arrive()
        office.leave()
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await office.listening.aclose()

        assert began == trio.current_time()


async def test_closing_that_is_cancelled_waits_no_longer(autojump_clock: MockClock) -> None:
    """Whoever closes can be cancelled while it waits; the others wait on."""
    async with working() as office:
        await office.arrive()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(office.listening.aclose)
            with trio.move_on_after(STRAGGLE_SECONDS / 2) as scope:
                await office.listening.aclose()

            assert scope.cancelled_caught
            assert began + STRAGGLE_SECONDS / 2 == pytest.approx(trio.current_time())

        assert began + STRAGGLE_SECONDS == pytest.approx(trio.current_time())
        assert 1 == len(office.reports)


async def test_leaving_the_block_waits_for_a_straggler(autojump_clock: MockClock) -> None:
    """As any nursery would: what an inspector does, it does inside the block."""
    async with trio.open_nursery() as nursery:
        async with working() as office:
            await office.arrive()

            async def _leave_later() -> None:
                await trio.sleep(60)
                office.leave()

            nursery.start_soon(_leave_later)
            office.goes_home = False
            began = trio.current_time()

        assert began + 60 == pytest.approx(trio.current_time())


@pytest.mark.parametrize("limit", [1, 3])
async def test_stragglers_are_bounded(limit: int, autojump_clock: MockClock) -> None:
    """
    While as many inspectors straggle as may be pending, nobody else is asked about; when one
    has ended, as many are as may be pending.
    """
    async with working(max_pending=limit) as office:
        for peer in await office.arrive(limit):
            peer.vanish()
        await office.arrive(limit + 1)
        await trio.sleep(2 * STRAGGLE_SECONDS)

        assert limit == len(office.requests) == office.straggling

        office.leave(0)
        await wait_all_tasks_blocked()

        assert 2 * limit == len(office.requests)
        assert limit == office.listening.statistics().pending
