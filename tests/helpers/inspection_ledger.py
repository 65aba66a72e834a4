"""The ledger of conditional accept: clients, their requests, and what was said and done about each.

Each request has a log, in the words of `test_inspection_walk`, and only some logs are in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
from hypothesis import strategies as st

from tests.inspection.test_inspection_walk import IN_ORDER as LOGS_IN_ORDER
from trio_wsk import CloseStyle, InspectAction, InspectId, Verdict

if TYPE_CHECKING:
    from trio_wsk import Connection, ConnectionRequest
    from trio_wsk.observers import RequestAborted, RequestRejected
    from trio_wsk.testing import MemoryHost, MemoryStream

SERVER: Final = "192.0.2.1"
HERE: Final = (SERVER, 80)
MESSAGE: Final = b"421 busy\r\n"

ACCEPT: Final = InspectAction.ACCEPT
REJECT: Final = InspectAction.REJECT
PEND: Final = InspectAction.PEND

# The model sees one cancellation as little as its inspector does that does not await.
IN_ORDER: Final = frozenset(log.replace("c", "") for log in LOGS_IN_ORDER)
SO_FAR_IN_ORDER: Final = frozenset(log[:end] for log in IN_ORDER for end in range(len(log) + 1))


class PlannedError(Exception):
    """What inspectors and callbacks raise when they are told to raise."""


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
