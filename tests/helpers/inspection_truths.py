"""What must be true of conditional accept, whatever was done to it.

Counters, views and clients agree with the ledger.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

import trio
import trio.testing
from hypothesis.stateful import RuleBasedStateMachine

from tests.helpers.inspection_ledger import IN_ORDER, MESSAGE
from trio_wsk import AbortReason, CloseStyle, InspectPoint, Status
from trio_wsk.observers import CloseStyleUnavailable, ConnectionAccepted, ListenerFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.helpers.inspection_ledger import Client, Inspected, Plan
    from trio_wsk import Connection, InspectId, Irp, ListeningSocket, Overflow
    from trio_wsk._vocabulary.statistics import ListeningStatistics
    from trio_wsk.observers import RequestAborted, RequestRejected

BEFORE: Final = InspectPoint.BEFORE_HANDSHAKE
AFTER: Final = InspectPoint.AFTER_HANDSHAKE
TURNED_AWAY: Final = {BEFORE: "refused", AFTER: "reset"}
GREETING: Final = b"welcome\r\n"

SELDOM: Final = 7.0
"""After so many seconds a client's next SYN comes later than the first repetition ever does."""


class InspectionTruths(RuleBasedStateMachine):
    """Keeps the ledger of one world, and holds its listening socket to it."""

    # Of the world, which begins later.
    listening: ListeningSocket
    nursery: trio.Nursery
    point: InspectPoint
    max_pending: int
    max_parked: int
    overflow: Overflow
    half_close: bool | None
    timeout: float
    is_good: bool
    """Whether everything that is sent has arrived at once."""

    def __init__(self) -> None:
        super().__init__()
        self.clients: list[Client] = []
        self.by_address: dict[object, Client] = {}
        self.inspected: list[Inspected] = []
        self.by_id: dict[InspectId, Inspected] = {}
        self.plans: deque[Plan] = deque()
        self.connections: list[Connection] = []
        self.records: Counter[type[object]] = Counter()
        self.approved: list[Inspected] = []
        self.turned_away: set[object] = set()
        self.dropped: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.aborted: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.indicated: list[Inspected] = []
        self.routines: list[Inspected] = []
        self.unexpected: list[BaseException] = []
        self.accepts: list[trio.CancelScope] = []
        self.irps: list[Irp[Connection]] = []
        self.answer_of_event: object = None
        self.is_enabled = False
        self.is_paused = False
        self.is_backing_off = False
        self.has_faulted = False
        self.has_ended = False
        self.has_failed = False
        self.failures_told: list[OSError] = []
        self.block_error: BaseException | None = None
        self.closing_took: list[float] = []

    @property
    def undecided(self) -> list[Inspected]:
        """The requests that wait for their verdict."""
        return [each for each in self.inspected if not each.is_decided]

    def check(self) -> None:
        """What is true at any time between two happenings."""
        if self.unexpected:
            raise self.unexpected[0]
        counted = self.listening.statistics()
        waiting = [*self.undecided]
        waiting += [each for each in self.inspected if each.is_waiting_for_its_abort]
        establishing = counted.pending - len(self.undecided)

        assert counted.accepted == (
            sum(counted.delivered.values())
            + counted.parked
            + counted.pending
            + sum(counted.rejected.values())
            + sum(counted.aborted.values())
            + sum(counted.dropped.values())
        )
        assert self.records[ConnectionAccepted] == counted.accepted
        assert len(self.inspected) == counted.inspected
        assert len(self.approved) == counted.approved
        assert self.rejected == counted.rejected
        assert self.aborted == counted.aborted
        assert self.dropped == counted.dropped
        assert self.records[CloseStyleUnavailable] == counted.close_fallbacks
        assert counted.pending <= counted.pending_most
        assert len(self.undecided) <= self.max_pending
        # Those whose handshake is not over are pending, too, and have had their verdict.
        had = len(self.approved) if self.point is BEFORE else 0
        assert counted.pending_most <= self.max_pending + had
        assert 0 <= establishing <= (len(self.approved) if self.point is BEFORE else 0)
        assert {each.inspect_id: each.request for each in waiting} == dict(
            self.listening.pending_inspections
        )
        assert len(waiting) == len(self.listening.pending_inspections)
        assert not (counted.parked and counted.queued_accepts), (
            "somebody waits beside what is there"
        )
        assert all(seconds <= 1.0 for seconds in self.closing_took)

    async def _settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked()
        self.check()
        self.check_settled()

    def check_settled(self) -> None:
        """Once everybody waits, whatever could be done has been done."""
        counted = self.listening.statistics()
        now = trio.current_time()
        waiting = [irp for irp in self.irps if irp.status is Status.PENDING]

        assert {"accept": 0, "event": 0, **self.delivered} == counted.delivered
        assert len(self.accepts) + len(waiting) == counted.queued_accepts
        assert [] == [each for each in self.inspected if each.is_waiting_for_its_abort]
        assert [] == [each for each in self.undecided if each.request.deadline <= now]
        assert counted.straggling == sum(
            each.is_running and "x" in each.log for each in self.inspected
        )
        if self.has_ended:
            assert (0, 0, 0) == (counted.parked, counted.queued_accepts, counted.pending)
        elif self.is_enabled:
            assert 0 == counted.parked, "the event is enabled and waits beside what is there"
        self.check_order(self.indicated)
        self.check_order(self.routines)
        self.check_room(counted)
        for client in self.clients:
            self.check_client(client)

    def check_order(self, told: Sequence[Inspected]) -> None:
        """After the handshake what is let through comes out in the order in which it was."""
        if self.point is AFTER:
            places = {id(each): place for place, each in enumerate(self.approved)}
            order = [places[id(each)] for each in told]

            assert sorted(order) == order, "somebody was overtaken"

    def check_room(self, counted: ListeningStatistics) -> None:
        """Nobody knocks while there is room."""
        if self.has_ended or self.is_paused or self.is_backing_off:
            return
        is_wanted = self.is_enabled or counted.queued_accepts > 0
        if self.max_parked == 0:
            demand = math.inf if self.is_enabled else counted.queued_accepts
            coming = counted.pending if self.point is AFTER else 0
            has_room = coming + counted.parked < demand
        else:
            is_full = counted.parked >= self.max_parked and not is_wanted
            has_room = not is_full or self.overflow.parked != "wait"
        if counted.pending >= self.max_pending and self.overflow.pending == "wait":
            has_room = False
        if counted.straggling >= self.max_pending:
            has_room = False
        if has_room:
            assert 0 == counted.backlog, "somebody knocks while there is room"

    def check_client(self, client: Client) -> None:
        """What a client sees fits what has become of its requests."""
        logs = [each.log for each in client.requests]
        closes = {each.rejected.close for each in client.requests if each.rejected is not None}
        if client.received:
            assert client.received in {GREETING, MESSAGE}
            assert client.received != MESSAGE or CloseStyle.MESSAGE in closes
            assert client.received != GREETING or any("d" in log for log in logs)
        if client.fate == "fin":
            assert closes & {CloseStyle.FIN, CloseStyle.MESSAGE}
        if client.fate == "refused":
            assert not any("d" in log for log in logs)
        if self.is_good and not client.was_unplugged:
            self.check_client_on_a_good_network(client)

    def check_client_on_a_good_network(self, client: Client) -> None:
        """What is sent arrives, so a client knows at once, and so does the listening socket."""
        is_gone = client.left == "reset" or (client.has_finished and self.counts_as_gone(client))
        if is_gone:
            assert not client.is_kept, f"{client.stream!r} has gone, and is waited for"
        if client.left:
            return
        expected = self.expected_fates(client)

        assert client.fate in expected, f"{client.stream!r} of {client.requests}: {expected}"

    def counts_as_gone(self, client: Client) -> bool:
        """Whether a client that has finished sending counts as gone."""
        return self.half_close is True or (self.half_close is None and not client.sent)

    def expected_fates(self, client: Client) -> set[str]:
        """Say what may have become of a client that is there."""
        if not client.requests:
            if client.stream.local_address in self.turned_away:
                return {TURNED_AWAY[self.point]}
            # Whose SYN is never taken, for want of room, gives up after two minutes.
            waits = {"", "timed out"} if self.point is BEFORE else {""}
            # Those in the backlog are reset when it closes, or by a fault of accept.
            return {*waits, "refused", "reset"} if self.has_ended or self.has_faulted else waits
        last = client.requests[-1]
        if last.rejected is not None:
            close = last.rejected.close

            assert client.received == (MESSAGE if close is CloseStyle.MESSAGE else b"")
            return self.fates_of_a_rejected(close)
        if last.connection is not None:
            is_taken = last.connection in self.connections

            assert client.is_connected
            assert client.received == (GREETING if is_taken else b"")
            return {""} if is_taken else {"reset"}
        if last.aborted is not None:
            return self.fates_of_an_aborted(client, last.aborted.reason)
        assert client.is_connected is ("y" in last.log or self.point is AFTER)
        return {""}

    @staticmethod
    def fates_of_an_aborted(client: Client, reason: AbortReason) -> set[str]:
        """Say what may have become of a client that is there, and whose request was aborted."""
        if reason is AbortReason.SILENT:  # wrongly, and it goes on asking
            return {"", "refused", "timed out"}
        return {"reset"} if client.is_connected else {"refused"}

    def fates_of_a_rejected(self, close: CloseStyle) -> set[str]:
        """Say what may have become of a client that was turned away so."""
        if close is CloseStyle.RESET:
            return {TURNED_AWAY[self.point]}
        if close is CloseStyle.SILENT:
            return {"", "timed out"} if self.point is BEFORE else {""}
        return {"fin"}

    def check_end(self) -> None:
        """Everything has come to its end, once."""
        counted = self.listening.statistics()

        assert [] == [each for each in self.inspected if each.log not in IN_ORDER]
        assert [] == [each for each in self.inspected if each.is_running]
        assert (0, 0, 0) == (counted.pending, counted.parked, counted.straggling)
        assert {} == dict(self.listening.pending_inspections)
        assert [] == self.accepts
        assert all(irp.status is not Status.PENDING for irp in self.irps)
        assert (self.block_error is not None) is bool(self.records[ListenerFailed])
        assert set(self.dropped) <= {"refused", "overflowed", "not-accepted", "accept-failed"}
        for inspected in self.inspected:
            if inspected.aborted is not None:
                self.check_abort(inspected, inspected.aborted)

        ours = [task.name for task in _all_tasks() if task.name.startswith("trio_wsk")]

        assert [] == ours, "a task is left, or a timer of the network"
        assert set() == self.nursery.child_tasks

    def check_rejection(self, inspected: Inspected, rejected: RequestRejected) -> None:
        """The peer was told as the verdict says, or as can be, and for its reason."""
        verdict = inspected.verdict
        if verdict is None:
            assert ("inspector-failed", CloseStyle.RESET) == (rejected.reason, rejected.close)
            return
        is_had = self.point is AFTER or verdict.style is CloseStyle.SILENT
        expected = {verdict.style if is_had else CloseStyle.RESET}
        if verdict.style is CloseStyle.MESSAGE and inspected.client.left:
            # Its end may be all that is known of it: what is sent to it then is met by a reset.
            expected.add(CloseStyle.RESET)

        assert (verdict.reason or "rejected") == rejected.reason
        assert rejected.close in expected

    def check_abort(self, inspected: Inspected, aborted: RequestAborted) -> None:
        """The reason that a request was aborted for is true."""
        client = inspected.client
        reason = aborted.reason
        is_lossy = client.was_unplugged or not self.is_good

        assert inspected.request.remote_address == aborted.remote_address
        if reason is AbortReason.TIMED_OUT:
            assert inspected.request.arrived_at + self.timeout == aborted.at
        elif reason is AbortReason.EVICTED:
            assert "evict" in (self.overflow.pending, self.overflow.parked) or (
                "y" in inspected.log and self.overflow.parked == "reset"
            )
        elif reason is AbortReason.FAILED:
            assert self.records[ListenerFailed]
        elif reason is AbortReason.CLOSED:
            assert self.has_ended
            assert not self.records[ListenerFailed]
        elif reason is AbortReason.SILENT:
            # Of a client whose first SYNs were dropped, for want of room, nobody knows that it
            # asks seldom by now: its next SYN is a new request.
            seldom = inspected.request.arrived_at - client.began >= SELDOM

            assert self.point is BEFORE
            assert is_lossy or seldom or client.left in {"vanish", "abandon"}
        elif reason is AbortReason.FIN:
            assert self.half_close is not False
            assert is_lossy or client.has_finished or client.left == "abandon"
            assert is_lossy or self.counts_as_gone(client)
        else:
            assert is_lossy or client.left


def _all_tasks() -> Iterator[trio.lowlevel.Task]:
    """Go through all tasks of the run."""
    root = trio.lowlevel.current_root_task()
    waiting = [root] if root is not None else []
    while waiting:
        task = waiting.pop()
        yield task
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)
