"""A world in which requests are inspected: its network, its listening socket, all that is told."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final

import trio
import trio.testing
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from tests.helpers.guest_run import GuestRun
from tests.helpers.inspection_ledger import (
    ACCEPT,
    HERE,
    PEND,
    PLANS,
    SERVER,
    Client,
    Inspected,
    Plan,
    PlannedError,
)
from tests.helpers.inspection_truths import AFTER, BEFORE, GREETING, InspectionTruths
from trio_wsk import (
    ConnectionBrokenError,
    InspectAction,
    InspectPoint,
    InvalidDeviceStateError,
    ListenDispatch,
    Overflow,
    Status,
    Verdict,
    open_listening_socket,
)
from trio_wsk.observers import (
    AcceptBackoffEnded,
    AcceptBackoffStarted,
    CallbackFailed,
    ConnectionDropped,
    ListenerFailed,
    LoggingObserver,
    RequestAborted,
    RequestApproved,
    RequestRejected,
)
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.helpers.guest_run import Job
    from trio_wsk import Connection, ConnectionRequest, InspectId, ListeningSocket
    from trio_wsk.testing import MemoryTransport

QUIET: Final = logging.getLogger("trio_wsk.tests.quiet")
QUIET.disabled = True
LONG_ENOUGH: Final = 600.0
"""Longer than any timer of the network or of a listening socket runs, in seconds."""

POLICIES: Final = st.sampled_from(["wait", "wait", "reset", "evict"])


class InspectedWorld(InspectionTruths):
    """Does one thing after the other, and notes what comes of it."""

    steps = 0
    """How many there were, in all worlds."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = trio.testing.MockClock()
        self.run = GuestRun(self.clock, self.let_go)
        self.has_gone_wrong = False
        self.things = 0
        """How many there were in this world."""

    # --- The world ------------------------------------------------------------------------

    @initialize(
        point=st.sampled_from(InspectPoint),
        limits=st.tuples(
            st.sampled_from([1, 2, 3, 1024]),
            st.sampled_from([0, 1, 2, 128]),
            st.sampled_from([1, 3, 128]),
        ),
        pending=POLICIES,
        parked=POLICIES,
        half_close=st.sampled_from([None, None, True, False]),
        timeout=st.sampled_from([None, None, 5.0, 30.0]),
        network=st.sampled_from([(0.0, 0.0)] * 3 + [(0.05, 0.0), (0.0, 0.2), (0.05, 0.2)]),
        seed=st.integers(0, 3),
        hurry=st.sampled_from([1, 2, 5, 50]),
        first=st.lists(PLANS, max_size=5),
    )
    def begin(
        self,
        point: InspectPoint,
        limits: tuple[int, int, int],
        pending: Any,
        parked: Any,
        half_close: bool | None,  # noqa: FBT001 - drawn
        timeout: float | None,
        network: tuple[float, float],
        seed: int,
        hurry: int,
        first: list[Plan],
    ) -> None:
        """Open a listening socket in a world."""
        self.point = point
        self.max_pending, self.max_parked, self.backlog = limits
        self.overflow = Overflow(pending=pending, parked=parked)
        self.half_close = half_close
        self.hurry = hurry
        """After how many things everybody has all the turns they want."""
        self.timeout = timeout or {AFTER: 10.0, BEFORE: 2.0}[point]
        self.is_good = network == (0.0, 0.0)
        self.network = MemoryNetwork(latency=network[0], loss=network[1], seed=seed)
        self.transport: MemoryTransport = self.network.host(SERVER).transport(
            HERE[1], backlog=self.backlog
        )
        self.options: dict[str, Any] = {
            "inspect_point": point,
            "inspect_timeout": timeout,
            "max_pending": self.max_pending,
            "max_parked": self.max_parked,
            "overflow": self.overflow,
            "abort_on_half_close": half_close,
        }
        self.run.do(self._begin)
        self.do(lambda: self.connect(first))

    async def _begin(self) -> None:
        self.may_leave = trio.Event()
        self.is_open = trio.Event()
        self.is_over = trio.Event()
        self.nursery = self.run.nursery
        self.nursery.start_soon(self._live)
        await self.is_open.wait()

    async def _live(self) -> None:
        try:
            async with open_listening_socket(
                transport=self.transport,
                dispatch=ListenDispatch(
                    accept=self.on_accept,
                    inspect=self.on_inspect,
                    abort=self.on_abort,
                    failed=self.on_failed,
                ),
                observers=[self.observe, LoggingObserver(QUIET)],
                **self.options,
            ) as self.listening:
                self.is_open.set()
                await self.may_leave.wait()
                self.has_ended = True
        except OSError as error:
            self.block_error = error
        self.is_over.set()

    def do(self, job: Callable[[], object]) -> None:
        """Do one thing that needs no waiting, and see that everything is in order."""

        async def do_it() -> None:
            job()
            self.check()
            if self.things % self.hurry == 0:
                await self._settle()

        self._do(do_it)

    def _do(self, job: Job) -> None:
        type(self).steps += 1
        self.things += 1
        try:
            self.run.do(job)
        except BaseException:
            self.has_gone_wrong = True
            raise

    # --- What is told ---------------------------------------------------------------------

    def observe(self, record: object) -> None:
        """Note a record, and in the request's log what it says."""
        self.records[type(record)] += 1
        try:
            self._observe(record)
        except Exception as error:  # noqa: BLE001 - an observer's errors stay where they are
            self.unexpected.append(error)

    def _observe(self, record: object) -> None:
        if isinstance(record, RequestApproved):
            inspected = self.by_id[record.inspect_id]
            inspected.note("y")
            self.approved.append(inspected)
        elif isinstance(record, RequestRejected):
            inspected = self.by_id[record.inspect_id]
            inspected.note("n")
            inspected.rejected = record
            self.rejected[record.reason] += 1
            self.check_rejection(inspected, record)
        elif isinstance(record, RequestAborted):
            inspected = self.by_id[record.inspect_id]
            inspected.note("x")
            inspected.aborted = record
            self.aborted[record.reason.value] += 1

            assert record is inspected.request.aborted
        elif isinstance(record, ConnectionDropped):
            self.dropped[record.reason] += 1
            self.turned_away.add(record.remote_address)
        elif isinstance(record, CallbackFailed):
            is_nonsense = isinstance(record.error, TypeError) and "answered" in str(record.error)
            if not (is_nonsense or isinstance(record.error, PlannedError)):
                self.unexpected.append(record.error)
        elif isinstance(record, AcceptBackoffStarted):
            self.is_backing_off = True
        elif isinstance(record, AcceptBackoffEnded):
            self.is_backing_off = False
        elif isinstance(record, ListenerFailed):
            self.has_ended = True

    def on_inspect(self, request: ConnectionRequest) -> Any:
        """The inspector."""
        assert not self.has_ended, "inspected behind a closed socket"
        assert request.inspect_id not in self.by_id, "asked twice, or an id used twice"

        plan = self.plans.popleft() if self.plans else Plan("plain", PEND)
        inspected = Inspected(request, self.by_address[request.remote_address], plan)
        inspected.client.requests.append(inspected)
        self.inspected.append(inspected)
        self.by_id[inspected.inspect_id] = inspected
        if plan.early is not None:
            self.complete_now(inspected, plan.early)
        if plan.how == "plain":
            return self._answer(inspected)
        inspected.is_running = True
        return self._inspect(inspected)

    async def _inspect(self, inspected: Inspected) -> object:
        try:
            if inspected.plan.how == "stubborn":
                with trio.CancelScope(shield=True):
                    await inspected.may_answer.wait()
            else:
                await self._look(inspected)
                await inspected.may_answer.wait()
        except trio.Cancelled:
            assert "x" in inspected.log or self.has_ended, "cancelled though a verdict is wanted"
            raise
        finally:
            inspected.is_running = False
        return self._answer(inspected)

    async def _look(self, inspected: Inspected) -> None:
        if inspected.plan.how != "peek":
            return
        try:
            octets = await inspected.request.peek(3)
        except InvalidDeviceStateError:
            assert self.point is BEFORE
        else:
            client = inspected.client
            is_changing = client.is_sending or not self.is_good

            assert self.point is AFTER
            assert len(octets) == 3 or client.has_finished or client.left or is_changing
            assert client.sent.startswith(octets) or is_changing

    def _answer(self, inspected: Inspected) -> object:
        inspected.note(inspected.plan.letter)
        answer = inspected.plan.answer
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def on_abort(self, inspect_id: InspectId) -> None:
        """The abort callback: the request is still there, and says why."""
        inspected = self.by_id[inspect_id]
        inspected.note("a")

        assert inspected.request is self.listening.pending_inspections[inspect_id]
        assert inspected.aborted is inspected.request.aborted is not None
        assert not self.closing_took, "aborted after aclose() had returned"

    def on_failed(self, listening: ListeningSocket, error: OSError) -> None:
        """The listening socket has failed."""
        assert self.has_failed, "nothing has failed"
        assert self.has_ended, "its failure is told after its end"
        assert not self.failures_told, "told twice"
        assert [] == [each for each in self.inspected if each.is_waiting_for_its_abort]

        self.failures_told.append(error)

    def on_accept(self, connection: Connection) -> Status:
        """The accept event."""
        assert "trio_wsk: pump" == trio.lowlevel.current_task().name, "on somebody else's stack"
        assert self.is_enabled, "the event is disabled"
        assert 0 == self.listening.statistics().queued_accepts, "a queued accept wins"

        inspected = self.delivered_one(connection)
        self.indicated.append(inspected)
        answer = self.answer_of_event
        if isinstance(answer, BaseException):
            raise answer
        if answer is Status.REQUEST_NOT_ACCEPTED:
            return Status.REQUEST_NOT_ACCEPTED
        self.delivered["event"] += 1
        self.serve(connection)
        return Status.SUCCESS

    def delivered_one(self, connection: Connection) -> Inspected:
        """Somebody has a connection: note whose it is."""
        assert connection.inspect_id is not None

        inspected = self.by_id[connection.inspect_id]
        inspected.note("d")
        inspected.connection = connection

        assert inspected.request.remote_address == connection.remote_address
        assert not self.closing_took, "delivered after aclose() had returned"
        return inspected

    def connect(self, plans: Sequence[Plan]) -> None:
        """Have clients connect, and their requests inspected so."""
        for plan in plans:
            self.plans.append(plan)
            number = len(self.clients)
            client = Client(self.network.host(f"10.0.{number // 250}.{1 + number % 250}"))
            self.clients.append(client)
            self.by_address[client.stream.local_address] = client
            self.nursery.start_soon(client.live)

    def complete_now(self, inspected: Inspected, verdict: InspectAction | Verdict) -> None:
        """Complete a request, and see that the answer is right."""
        expected = self.expected_status(inspected)
        if expected is Status.SUCCESS:
            action = verdict.action if isinstance(verdict, Verdict) else verdict
            inspected.completed_with = verdict
            inspected.note("Y" if action is ACCEPT else "N")

        assert expected is self.listening.inspect_complete(inspected.inspect_id, verdict)

    def expected_status(self, inspected: Inspected) -> Status:
        """Say from its log what completing a request gives."""
        if "x" in inspected.log:
            return Status.CONNECTION_ABORTED
        if inspected.is_decided or "Y" in inspected.log or "N" in inspected.log:
            return Status.NOT_FOUND
        return Status.SUCCESS

    def serve(self, connection: Connection) -> None:
        """Greet a client, and listen to it until it ends."""
        self.connections.append(connection)
        try:
            connection.send_nowait(GREETING)
        except ConnectionBrokenError:
            connection.abort()

    def accepted(self, connection: Connection) -> Inspected:
        """An accept has been served."""
        self.delivered["accept"] += 1
        inspected = self.delivered_one(connection)
        self.serve(connection)
        return inspected

    # --- Time and the end -----------------------------------------------------------------

    async def _pass(self, seconds: float) -> None:
        self.clock.autojump_threshold = 0
        await trio.sleep(seconds)
        self.clock.autojump_threshold = math.inf

    async def _close(self) -> None:
        self.has_ended = True
        begun = trio.current_time()
        await self.listening.aclose()
        self.closing_took.append(trio.current_time() - begun)

        assert [] == [each for each in self.inspected if each.is_waiting_for_its_abort]

    def teardown(self) -> None:
        """Everything ends, and has ended."""
        try:
            if hasattr(self, "network") and not self.has_gone_wrong:
                self._do(self._end)
        finally:
            try:
                self.run.end()
            except BaseException:
                if not self.has_gone_wrong:
                    raise

    def let_go(self) -> None:
        """Let every inspector answer."""
        for inspected in self.inspected:
            inspected.may_answer.set()

    async def _end(self) -> None:
        self.may_leave.set()
        self.let_go()
        await self._pass(1.0)
        await trio.testing.wait_all_tasks_blocked()
        for client in self.clients:
            self.check_client(client)
        self.network.loss = 0.0
        for client in self.clients:
            client.host.plug_in()
            client.left = client.left or "reset"
            client.stream.reset()
        for connection in self.connections:
            connection.abort()
        await self._pass(LONG_ENOUGH)
        await trio.testing.wait_all_tasks_blocked()

        assert self.is_over.is_set(), "the block has not ended"

        self.check()
        self.check_end()
