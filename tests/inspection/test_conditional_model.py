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
import logging
import math
import os
import queue
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import outcome
import trio
import trio.testing
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.inspection.test_inspection_walk import IN_ORDER as LOGS_IN_ORDER
from trio_wsk import (
    AbortReason,
    CloseStyle,
    ConnectionBrokenError,
    EventMask,
    ForcedClosedError,
    InspectAction,
    InspectId,
    InspectPoint,
    InvalidDeviceStateError,
    ListenDispatch,
    ListeningSocket,
    Overflow,
    SocketClosedError,
    Status,
    Verdict,
    WouldBlockError,
    open_listening_socket,
)
from trio_wsk.observers import (
    AcceptBackoffEnded,
    AcceptBackoffStarted,
    CallbackFailed,
    CloseStyleUnavailable,
    ConnectionAccepted,
    ConnectionDropped,
    ListenerFailed,
    LoggingObserver,
    RequestAborted,
    RequestApproved,
    RequestRejected,
)
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from trio_wsk import Connection, ConnectionRequest, Irp
    from trio_wsk._vocabulary.statistics import ListeningStatistics
    from trio_wsk.testing import MemoryHost, MemoryStream, MemoryTransport

EXAMPLES: Final = int(os.environ.get("TRIO_WSK_EXAMPLES", "0"))
"""How many worlds; 0 is as many as are quick."""

BATCH: Final = 500
"""So many worlds at a time: Hypothesis remembers all that it has tried."""

QUIET: Final = logging.getLogger("trio_wsk.tests.quiet")
QUIET.disabled = True

SERVER: Final = "192.0.2.1"
HERE: Final = (SERVER, 80)
BEFORE: Final = InspectPoint.BEFORE_HANDSHAKE
AFTER: Final = InspectPoint.AFTER_HANDSHAKE
TURNED_AWAY: Final = {BEFORE: "refused", AFTER: "reset"}
GREETING: Final = b"welcome\r\n"
MESSAGE: Final = b"421 busy\r\n"
ACCEPT_MASK: Final = EventMask.ACCEPT

ACCEPT: Final = InspectAction.ACCEPT
REJECT: Final = InspectAction.REJECT
PEND: Final = InspectAction.PEND

LONG_ENOUGH: Final = 600.0
"""Longer than any timer of the network or of a listening socket runs, in seconds."""

SELDOM: Final = 7.0
"""After so many seconds a client's next SYN comes later than the first repetition ever does."""

# The model sees one cancellation as little as its inspector does that does not await.
IN_ORDER: Final = frozenset(log.replace("c", "") for log in LOGS_IN_ORDER)
SO_FAR_IN_ORDER: Final = frozenset(log[:end] for log in IN_ORDER for end in range(len(log) + 1))


Job: TypeAlias = "Callable[[], Awaitable[None]]"


class PlannedError(Exception):
    """What inspectors and callbacks raise when they are told to raise."""


class GuestRun:
    """A Trio run whose host loop is here: each job runs in it, and then it waits."""

    nursery: trio.Nursery

    def __init__(self, clock: trio.abc.Clock, let_go: Callable[[], object]) -> None:
        self._let_go = let_go
        """What has to be done for tasks to end that don't want to, when the run ends."""
        self._due: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._outcome: outcome.Outcome[None] | None = None
        self._of_job: outcome.Outcome[None] | None = None
        self._jobs: trio.MemorySendChannel[Job] | None = None
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._due.put,
            done_callback=self._done,
            clock=clock,
            host_uses_signal_set_wakeup_fd=True,
            strict_exception_groups=True,
        )
        while self._jobs is None:
            self._due.get()()

    def _done(self, result: outcome.Outcome[None]) -> None:
        self._outcome = result

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        jobs, due = trio.open_memory_channel[Job](1)
        async with trio.open_nursery() as self.nursery:
            self._jobs = jobs
            try:
                async for job in due:
                    self._of_job = await outcome.acapture(job)
                    await trio.lowlevel.checkpoint_if_cancelled()  # some other task has crashed
                self.nursery.cancel_scope.cancel()
            finally:
                self._let_go()

    def do(self, job: Job) -> None:
        """Run one async function to its end; raise what it raises, or any other task."""
        assert self._jobs is not None
        self._of_job = None
        self._token.run_sync_soon(self._jobs.send_nowait, job)
        while self._outcome is None:
            self._due.get()()
            of_job = self._of_job
            if of_job is not None and not _is_cancelled(of_job):
                of_job.unwrap()
                return
        self._outcome.unwrap()

    def end(self) -> None:
        """Cancel what is left, and end the run."""
        assert self._jobs is not None
        if self._outcome is None:
            self._token.run_sync_soon(self._jobs.close)
            while self._outcome is None:
                self._due.get()()
            self._outcome.unwrap()


def _is_cancelled(result: outcome.Outcome[None]) -> bool:
    return isinstance(result, outcome.Error) and isinstance(result.error, trio.Cancelled)


class Client:
    """One client, and what it has seen."""

    def __init__(self, host: MemoryHost) -> None:
        self.host = host
        self.stream: MemoryStream = host.open_connection(HERE)
        self.began = trio.current_time()
        self.is_connected = False
        self.received = b""
        self.sent = b""
        self.fate = ""
        """``refused``, ``timed out``, ``reset``, ``fin``; or nothing has become of it."""
        self.left = ""
        """How it has left by itself: ``reset``, ``closed`` or ``vanished``."""
        self.has_finished = False
        self.is_unplugged = False
        self.was_unplugged = False
        self.is_sending = False
        self.requests: list[Inspected] = []

    @property
    def is_there(self) -> bool:
        """Whether it still wants something, and nothing has become of it."""
        return not self.left and not self.fate

    @property
    def is_kept(self) -> bool:
        """Whether it has a request that has come to no end."""
        return any(not set("nxd") & set(each.log) for each in self.requests)

    @property
    def can_send(self) -> bool:
        """Whether it is connected, and nothing is on its way."""
        return self.is_connected and not self.is_sending and not self.has_finished

    async def live(self) -> None:
        """Connect, read to the end, and note what comes of it."""
        try:
            await self.stream.established()
            self.is_connected = True
            while data := await self.stream.receive_some():
                self.received += data
            self.fate = "fin"
        except ConnectionRefusedError:
            self.fate = "refused"
        except TimeoutError:
            self.fate = "timed out"
        except trio.BrokenResourceError:
            self.fate = "reset"
        except trio.ClosedResourceError:
            assert self.left

    async def send(self, data: bytes) -> None:
        """Send a few octets."""
        self.is_sending = True
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        else:
            self.sent += data
        self.is_sending = False

    async def finish(self) -> None:
        """Send FIN."""
        self.is_sending = True
        try:
            await self.stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        else:
            self.has_finished = True
        self.is_sending = False


class Inspected:
    """One request, as the ledger has it."""

    def __init__(self, request: ConnectionRequest, client: Client, plan: Plan) -> None:
        self.request = request
        self.inspect_id: InspectId = request.inspect_id
        self.client = client
        self.plan = plan
        self.log = "I"
        self.rejected: RequestRejected | None = None
        self.aborted: RequestAborted | None = None
        self.connection: Connection | None = None
        self.completed_with: object = None
        self.may_answer = trio.Event()
        self.is_running = False
        """Whether its async inspector is."""
        self.entered: trio.CancelScope | None = None

    def __repr__(self) -> str:
        return f"<Inspected {self.log} by {self.client.stream!r}>"

    def note(self, what: str) -> None:
        """Add to the log, which stays in order."""
        self.log += what

        assert self.log in SO_FAR_IN_ORDER, f"out of order: {self}"

    @property
    def is_decided(self) -> bool:
        """Whether it was let through, or has ended."""
        return any(each in self.log for each in "ynx")

    @property
    def verdict(self) -> Verdict | None:
        """What its last word was; None if that was none: the inspector has failed."""
        word = self.completed_with if "P" in self.log else self.plan.answer
        return Verdict(word) if isinstance(word, InspectAction) else _verdict_or_none(word)

    @property
    def is_waiting_for_its_abort(self) -> bool:
        """Whether it was aborted, and the callback has not been called."""
        return "x" in self.log and "a" not in self.log


def _verdict_or_none(word: object) -> Verdict | None:
    return word if isinstance(word, Verdict) else None


class Plan:
    """What an inspector is going to do about the request that it is asked about next."""

    def __init__(self, how: str, answer: object, *, early: InspectAction | None = None) -> None:
        self.how = how
        """``plain``, ``async``, ``peek`` (async, and looks first) or ``stubborn``."""
        self.answer = answer
        self.early = early
        """What it completes its own request with, before it answers."""

    def __repr__(self) -> str:
        return f"Plan({self.how!r}, {self.answer!r}, early={self.early!r})"

    @property
    def letter(self) -> str:
        """What its answer is in a log: whatever is none counts as a rejection."""
        answer = self.answer.action if isinstance(self.answer, Verdict) else self.answer
        return (
            {ACCEPT: "A", PEND: "P"}.get(answer, "R") if isinstance(answer, InspectAction) else "R"
        )


VERDICTS: Final = st.sampled_from(
    [
        REJECT,
        Verdict(REJECT, "over-quota"),
        Verdict(REJECT, "busy", MESSAGE),
        Verdict(REJECT, "finished", CloseStyle.FIN),
        Verdict(REJECT, "ignored", CloseStyle.SILENT),
    ]
)
ANSWERS: Final = st.one_of(
    st.sampled_from([PEND, ACCEPT]),
    st.sampled_from([PEND, ACCEPT, Verdict(ACCEPT, "known")]),
    VERDICTS | st.sampled_from([None, True, PlannedError()]),
)
HOWS: Final = st.sampled_from(["plain"] * 4 + ["async"] * 4 + ["peek", "peek", "stubborn"])
EARLY: Final = st.sampled_from([None, None, None, None, ACCEPT, REJECT])
PLANS: Final = st.builds(Plan, HOWS, ANSWERS, early=EARLY)
NUMBERS: Final = st.integers(0, 7)
POLICIES: Final = st.sampled_from(["wait", "wait", "reset", "evict"])


class ConditionalAcceptMachine(RuleBasedStateMachine):
    """Does what Hypothesis says, and keeps the ledger."""

    steps = 0
    """How many there were, in all worlds."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = trio.testing.MockClock()
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
        """Whether everything that is sent has arrived at once."""
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
            self.check_rejection(inspected.verdict, record)
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

    def connect(self, plans: Sequence[Plan]) -> None:
        """Have clients connect, and their requests inspected so."""
        for plan in plans:
            self.plans.append(plan)
            number = len(self.clients)
            client = Client(self.network.host(f"10.0.{number // 250}.{1 + number % 250}"))
            self.clients.append(client)
            self.by_address[client.stream.local_address] = client
            self.nursery.start_soon(client.live)

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

    def serve(self, connection: Connection) -> None:
        """Greet a client, and listen to it until it ends."""
        self.connections.append(connection)
        try:
            connection.send_nowait(GREETING)
        except ConnectionBrokenError:
            connection.abort()

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

    def accepted(self, connection: Connection) -> Inspected:
        """An accept has been served."""
        self.delivered["accept"] += 1
        inspected = self.delivered_one(connection)
        self.serve(connection)
        return inspected

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

    async def _pass(self, seconds: float) -> None:
        self.clock.autojump_threshold = 0
        await trio.sleep(seconds)
        self.clock.autojump_threshold = math.inf

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

    # --- What must be true ----------------------------------------------------------------

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

    def check_rejection(self, verdict: Verdict | None, rejected: RequestRejected) -> None:
        """The peer was told as the verdict says, or as can be, and for its reason."""
        if verdict is None:
            assert ("inspector-failed", CloseStyle.RESET) == (rejected.reason, rejected.close)
            return
        is_had = self.point is AFTER or verdict.style is CloseStyle.SILENT

        assert (verdict.reason or "rejected") == rejected.reason
        assert (verdict.style if is_had else CloseStyle.RESET) is rejected.close

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
