"""Conditional accept over real sockets: how many are inspected, pended and parked at a time."""

from __future__ import annotations

import errno
import gc
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.inspecting import ACCEPT, PEND, REJECT, inspecting
from tests.helpers.support import FaultyTransport, fate_of, reset, take_into, until
from tests.helpers.undecided import INSPECTORS, bring, ignore_cancellation, waiting
from trio_wsk import (
    AbortReason,
    Connection,
    ConnectionRequest,
    EventMask,
    InspectId,
    Overflow,
    Status,
)
from trio_wsk._engine.reused_tasks import MOST_IDLE
from trio_wsk._inspection.driver import ConditionalAccept
from trio_wsk.observers import RequestApproved
from trio_wsk.transports._contract import NoDescriptorsError, PeerFaultError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import InspectAction

    Inspect = Callable[[ConnectionRequest], Any]

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


# --- Budgets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["inspected", "pended"])
async def test_newcomers_wait_in_the_backlog_while_too_many_are_pending(stage: str) -> None:
    """``overflow="wait"``: there is room again when one is decided, or has gone."""
    async with inspecting(INSPECTORS[stage], max_pending=3) as desk:
        requests = [await bring(desk, stage) for _ in range(3)]
        await waiting(desk, 3)

        assert 3 == len(desk.asked) == desk.statistics().pending

        reset(requests[0][0])
        await desk.when(lambda: len(desk.asked) == 4)
        if stage == "pended":
            desk.complete(requests[1][1], ACCEPT)
            desk.complete(requests[2][1], REJECT)
        else:
            reset(requests[1][0])
            reset(requests[2][0])
        await desk.when(lambda: len(desk.asked) == 6)

        assert 3 == desk.statistics().pending_most == desk.statistics().pending
        assert 0 == desk.statistics().backlog
        assert {} == dict(desk.statistics().dropped)


@pytest.mark.parametrize("stage", ["inspected", "pended"])
async def test_newcomers_are_reset_while_too_many_are_pending(stage: str) -> None:
    """``overflow="reset"``: they are not asked about, and counted as dropped."""
    overflow = Overflow(pending="reset")
    async with inspecting(INSPECTORS[stage], max_pending=2, overflow=overflow) as desk:
        for _ in range(2):
            await bring(desk, stage)
        for _ in range(3):
            assert "reset" == await fate_of(desk.client())

        assert 2 == len(desk.asked) == desk.statistics().pending == desk.statistics().pending_most
        assert {"overflowed": 3} == dict(desk.statistics().dropped)
        assert [] == desk.told_abort


@pytest.mark.parametrize("stage", ["inspected", "pended"])
async def test_oldest_makes_room_while_too_many_are_pending(stage: str) -> None:
    """``overflow="evict"``: its work is cancelled, its abort told, its peer reset."""
    overflow = Overflow(pending="evict")
    async with inspecting(INSPECTORS[stage], max_pending=2, overflow=overflow) as desk:
        clients = [(await bring(desk, stage))[0] for _ in range(5)]
        await desk.aborted(3)

        assert [request.inspect_id for request in desk.asked[:3]] == desk.told_abort
        assert {AbortReason.EVICTED} == {each.reason for each in desk.aborts}
        assert {"evicted": 3} == dict(desk.statistics().aborted)
        assert 2 == desk.statistics().pending == desk.statistics().pending_most
        assert all(request.cancel_scope.cancel_called for request in desk.asked[:3])
        for client in clients[:3]:
            assert "reset" == await fate_of(client)


async def test_evicted_inspectors_that_go_on_are_bounded_too() -> None:
    """
    No more of them than ``max_pending``: a flood of newcomers can't fill the memory with tasks
    that don't end. Newcomers wait until some have.
    """
    go_on = trio.Event()

    async def inspect(request: ConnectionRequest) -> InspectAction:
        await ignore_cancellation(go_on)
        return ACCEPT

    async with inspecting(inspect, max_pending=3, overflow="evict") as desk:
        for _ in range(6):
            await desk.ask()
        await waiting(desk, 2)

        assert 3 == desk.statistics().straggling == len(desk.told_abort)
        assert 3 == desk.statistics().pending

        go_on.set()
        await desk.when(lambda: len(desk.told(RequestApproved)) == 5)

        assert 0 == desk.statistics().straggling
        assert 3 == len(desk.told_abort)


async def test_newcomers_wait_in_the_backlog_while_too_many_are_parked(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """``overflow="wait"``: there is room again when one is taken, or has gone."""
    async with inspecting(inspector(ACCEPT), max_parked=2) as desk:
        parked = [(await desk.parked())[0] for _ in range(2)]
        await waiting(desk, 1)

        assert 2 == len(desk.asked) == desk.statistics().parked

        connection = await desk.listening.accept()
        await desk.when(lambda: len(desk.asked) == 3)
        await desk.when(lambda: desk.statistics().parked == 2)

        assert desk.asked[0].inspect_id == connection.inspect_id

        await waiting(desk, 1)

        assert 3 == len(desk.asked)

        reset(parked[1])
        await desk.when(lambda: len(desk.asked) == 4)
        await desk.when(lambda: desk.statistics().parked == 2)

        assert 2 == desk.statistics().parked_most

        connection.close()


async def test_inspections_that_are_under_way_may_all_end_well() -> None:
    """``max_parked`` says when no more are asked about: whoever was let through is parked."""
    async with inspecting(PEND, max_parked=2) as desk:
        for _ in range(5):
            await desk.pended()
        for request in desk.asked:
            assert Status.SUCCESS == desk.complete(request, ACCEPT)
        await waiting(desk, 1)

        assert 5 == desk.statistics().parked == len(desk.asked)

        for _ in range(4):
            (await desk.listening.accept()).close()
        await desk.when(lambda: len(desk.asked) == 6)


@pytest.mark.parametrize(
    ("policy", "gone", "stay"), [("reset", [2, 3], [0, 1]), ("evict", [0, 1], [2, 3])]
)
async def test_approved_connections_beyond_what_may_be_parked(
    policy: Any, gone: list[int], stay: list[int], inspector: Callable[[InspectAction], Inspect]
) -> None:
    """``"reset"``: the newcomer goes; ``"evict"``: the oldest. Either was approved, so aborted."""
    overflow = Overflow(parked=policy)
    async with inspecting(inspector(ACCEPT), max_parked=2, overflow=overflow) as desk:
        clients = [(await desk.parked())[0] for _ in range(2)]
        for count in range(1, 3):
            clients.append((await desk.ask())[0])
            await desk.aborted(count)
        ids = [request.inspect_id for request in desk.asked]

        assert [ids[index] for index in gone] == desk.told_abort
        assert {"evicted": 2} == dict(desk.statistics().aborted)
        assert 4 == desk.statistics().approved
        for index in gone:
            assert "reset" == await fate_of(clients[index])

        connections = [desk.listening.accept_nowait() for _ in range(2)]

        assert [ids[index] for index in stay] == [each.inspect_id for each in connections]

        for connection in connections:
            connection.close()


@pytest.mark.parametrize("policy", ["reset", "evict"])
async def test_event_that_takes_everybody_has_no_limit_of_what_is_parked(policy: Any) -> None:
    """Approved connections that only wait for the callback's turn are not too many."""
    taken: list[Connection] = []
    async with inspecting(PEND, max_parked=1, overflow=policy, accept=take_into(taken)) as desk:
        desk.listening.enable_events(EventMask.ACCEPT)
        for _ in range(50):
            await desk.pended()
        for request in desk.asked:
            desk.complete(request, ACCEPT)
        await until(lambda: len(taken) == 50)

        assert {} == dict(desk.statistics().aborted)

        for connection in taken:
            connection.close()


@pytest.mark.parametrize("overflow", ["wait", "reset", "evict"])
async def test_nobody_is_inspected_ahead_of_an_accept_if_nothing_may_be_parked(
    overflow: Any,
) -> None:
    """``max_parked=0``: no more are inspected at once than accepts are queued."""
    answers = [REJECT, PEND, ACCEPT, ACCEPT]
    async with inspecting(
        lambda _: answers[len(desk.asked) - 1], max_parked=0, overflow=overflow
    ) as desk:
        await waiting(desk, 4)

        assert [] == desk.asked

        irps = [desk.listening.queue_accept()]
        await desk.when(lambda: len(desk.asked) == 2)
        await wait_all_tasks_blocked()

        assert 2 == len(desk.asked)  # the rejected one has cost no accept

        irps.append(desk.listening.queue_accept())
        await desk.when(lambda: len(desk.asked) == 3)
        await irps[0].wait()
        await wait_all_tasks_blocked()

        assert 3 == len(desk.asked)
        assert Status.SUCCESS == desk.complete(desk.asked[1], ACCEPT)
        assert irps[1].information is not None

        connection = await desk.listening.accept()

        assert desk.asked[3].inspect_id == connection.inspect_id
        assert 0 == desk.statistics().parked_most
        assert {} == dict(desk.statistics().aborted) == dict(desk.statistics().dropped)

        for each in (irps[0].information, irps[1].information, connection):
            assert each is not None

            each.close()


async def test_event_takes_who_is_asked_about_if_nothing_may_be_parked(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """``max_parked=0`` and the accept event: everybody is inspected, and taken."""
    taken: list[Connection] = []
    async with inspecting(inspector(ACCEPT), max_parked=0, accept=take_into(taken)) as desk:
        await waiting(desk, 2)
        desk.listening.enable_events(EventMask.ACCEPT)
        await until(lambda: len(taken) == 2)
        desk.client()
        await until(lambda: len(taken) == 3)

        for connection in taken:
            connection.close()


async def test_accept_loops_get_everybody_who_was_let_through(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """Several tasks that accept one connection after the other, within small limits."""
    served: list[InspectId | None] = []
    decide = {action: inspector(action) for action in (ACCEPT, REJECT)}

    def inspect(request: ConnectionRequest) -> Any:
        return decide[REJECT if len(desk.asked) % 5 == 0 else ACCEPT](request)

    async def accept() -> None:
        while True:
            connection = await desk.listening.accept()
            await trio.lowlevel.checkpoint()
            served.append(connection.inspect_id)
            connection.close()

    async with (
        inspecting(inspect, max_pending=3, max_parked=2) as desk,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(accept)
        clients = [desk.client() for _ in range(100)]
        ends = [await fate_of(client) for client in clients]
        nursery.cancel_scope.cancel()

    assert 80 == len(served) == len(set(served)) == ends.count("fin")
    assert {"rejected": 20} == dict(desk.statistics().rejected)
    assert desk.statistics().pending_most <= 3


# --- Pausing and refusing ---------------------------------------------------------------------


async def test_paused_socket_inspects_nobody_and_goes_on_with_whom_it_has() -> None:
    """Newcomers wait in the backlog; those that are pending can be decided and taken."""
    async with inspecting(PEND) as desk:
        client, request = await desk.pended()
        _, other = await desk.pended()
        desk.listening.pause()
        await waiting(desk, 2)

        assert 2 == len(desk.asked)
        assert Status.SUCCESS == desk.complete(request, ACCEPT)

        (await desk.listening.accept()).close()

        assert Status.SUCCESS == desk.complete(other, REJECT)
        assert 2 == len(desk.asked)

        desk.listening.resume()
        await desk.when(lambda: len(desk.asked) == 4)
        reset(client)


async def test_refusing_socket_asks_about_nobody() -> None:
    """Newcomers are reset without a question; those that are pending stay."""
    async with inspecting(PEND) as desk:
        _, request = await desk.pended()
        desk.listening.refuse()
        for _ in range(3):
            assert "reset" == await fate_of(desk.client())

        assert 1 == len(desk.asked) == desk.statistics().pending
        assert {"refused": 3} == dict(desk.statistics().dropped)

        desk.listening.resume()
        await desk.ask()

        assert Status.SUCCESS == desk.complete(request, ACCEPT)


# --- Errors of accepting ----------------------------------------------------------------------


async def test_errors_of_accepting_cost_no_inspection() -> None:
    """A peer's fault is passed over, and want of descriptors is waited out; then it goes on."""
    transport = FaultyTransport.tcp(0, host=HOST)
    assert isinstance(transport, FaultyTransport)

    async with inspecting(PEND, port=None, transport=transport) as desk:
        transport.faults += [
            PeerFaultError(OSError(errno.ECONNABORTED, "its fault")),
            None,
            NoDescriptorsError(OSError(errno.EMFILE, "nobody's fault")),
        ]
        for _ in range(3):
            desk.client()
        await desk.when(lambda: len(desk.asked) == 3)

        assert {"ECONNABORTED": 1, "EMFILE": 1} == dict(desk.statistics().accept_errors)
        assert 1 == desk.statistics().accept_backoffs


# --- Many that come and go --------------------------------------------------------------------


async def test_flood_of_peers_that_come_and_go_leaves_nothing_behind() -> None:
    """Neither tasks nor requests, and a peer who stays is served between them."""

    async def inspect(request: ConnectionRequest) -> InspectAction:
        return ACCEPT if await request.peek(4) == b"stay" else REJECT

    async with inspecting(inspect) as desk:
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(20):
            for first in (b"", b"x", b"leave"):
                client = desk.client(first)
                reset(client)
            await desk.parked(b"stay")
            (await desk.listening.accept()).close()
        await desk.when(lambda: not desk.statistics().pending)
        inspection = desk.listening._stages.inspection  # noqa: SLF001 - nothing of it shows

        assert isinstance(inspection, ConditionalAccept)

        idle = inspection._tasks._idle  # noqa: SLF001 - tasks that wait for the next request
        await until(
            lambda: trio.lowlevel.current_statistics().tasks_living <= before + 1 + len(idle)
        )

        assert len(idle) <= MOST_IDLE
        assert 20 == desk.statistics().delivered["accept"]
        assert 80 == desk.statistics().accepted


async def test_requests_leave_no_garbage_in_cycles() -> None:
    """What was decided is freed without the garbage collector, so that a flood fills no memory."""
    answers = [ACCEPT, REJECT, PEND]
    gc.collect()
    gc.disable()
    try:
        async with inspecting(lambda _: answers[len(desk.asked) % 3]) as desk:
            for _ in range(9):
                await desk.ask()
            await wait_all_tasks_blocked()
            for request in desk.asked:
                desk.complete(request, REJECT)
            desk.asked.clear()
            kept = [each for each in gc.get_objects() if isinstance(each, ConnectionRequest)]

            assert desk.statistics().parked == len(kept)

            desk.asked += kept * 9  # what the desk counts in the end
            del desk.asked[9:]
            del kept
    finally:
        gc.enable()
