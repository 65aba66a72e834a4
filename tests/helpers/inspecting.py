"""What the tests of conditional accept share: a listening socket with an inspector, and its story.

`Desk` keeps what its inspector was asked and what its abort callback was told, connects
clients, and waits for what happens without ever looking at a clock. In the end it checks what
has to be true of every story: each request ended once, nothing followed a rejection, and the
counters add up.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from tests.helpers.support import PATIENCE
from trio_wsk import (
    InspectAction,
    InspectId,
    ListenDispatch,
    ListeningSocket,
    Status,
    Verdict,
    open_listening_socket,
)
from trio_wsk._inspection.two_stages import TwoStages, stages_of
from trio_wsk.inspectors import Need
from trio_wsk.observers import LoggingObserver, RequestAborted, RequestPended, RequestRejected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio_wsk import ConnectionRequest
    from trio_wsk._vocabulary.statistics import ListeningStatistics
    from trio_wsk.observers import Record

    R = TypeVar("R", bound=Record)

ACCEPT = InspectAction.ACCEPT
REJECT = InspectAction.REJECT
PEND = InspectAction.PEND


class Silent(LoggingObserver):
    """Replaces the default observer, so that what fails on purpose isn't logged."""

    def __call__(self, record: Record) -> None:
        """Say nothing."""


def check_balance(counted: ListeningStatistics) -> None:
    """Every request is in exactly one place."""
    assert counted.accepted == (
        sum(counted.delivered.values())
        + counted.parked
        + counted.pending
        + sum(counted.rejected.values())
        + sum(counted.aborted.values())
        + sum(counted.dropped.values())
    )


class Desk:
    """A listening socket whose inspector and abort callback are watched.

    Args:
      inspect: The inspector: a function, or an answer that it always gives.
    """

    def __init__(
        self, inspect: Callable[[ConnectionRequest], Any] | InspectAction | Verdict
    ) -> None:
        self._inspect = inspect
        self.needs = getattr(inspect, "needs", Need.ADDRESSES)
        self.stages: TwoStages | None = None
        stages = stages_of(inspect)
        if stages is not None:
            self.stages = TwoStages(
                partial(self._ask, stages.before_handshake), stages.after_handshake
            )
        self.listening: ListeningSocket
        self.asked: list[ConnectionRequest] = []
        """The requests that the inspector was asked about, in order."""
        self.told_abort: list[InspectId] = []
        """What the abort callback was called with, in order."""
        self.aborts: list[RequestAborted] = []
        """What was known of each of these inside that call."""
        self.failures = 0
        """How often the listening socket was said to have failed."""
        self.records: list[Record] = []
        self.on_abort: Callable[[ConnectionRequest], object] | None = None
        """Called inside the abort callback."""
        self._pended: set[InspectId] = set()
        self._clients: list[trio.SocketStream] = []
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return "Desk"

    def __call__(self, request: ConnectionRequest) -> Any:
        """Note the request, and ask the inspector."""
        return self._ask(self._inspect, request)

    def _ask(self, inspect: Any, request: ConnectionRequest) -> Any:
        self._note()
        self.asked.append(request)
        return inspect if isinstance(inspect, (InspectAction, Verdict)) else inspect(request)

    def abort(self, inspect_id: InspectId) -> None:
        """Note the call, and what can be known during it."""
        request = self.listening.pending_inspections[inspect_id]

        assert request.inspect_id == inspect_id
        assert request.aborted is not None
        assert inspect_id == request.aborted.inspect_id
        assert inspect_id not in self.told_abort, f"{request} was aborted twice"

        self.told_abort.append(inspect_id)
        self.aborts.append(request.aborted)
        self._note()
        if self.on_abort is not None:
            self.on_abort(request)

    def failed(self, listening: ListeningSocket, error: OSError) -> None:
        """Note that the listening socket has failed."""
        assert self.listening is listening

        self.failures += 1
        self._note()

    def complete(self, request: ConnectionRequest, answer: Any) -> Status:
        """Complete an inspection."""
        return self.listening.inspect_complete(request.inspect_id, answer)

    def statistics(self) -> ListeningStatistics:
        """Return what the listening socket has counted."""
        return self.listening.statistics()

    def observe(self, record: Record) -> None:
        """Keep a record."""
        self.records.append(record)
        if isinstance(record, RequestPended):
            self._pended.add(record.inspect_id)
        self._note()

    def told(self, kind: type[R]) -> list[R]:
        """Return the records of one kind."""
        return [record for record in self.records if isinstance(record, kind)]

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def when(self, condition: Callable[[], object]) -> None:
        """Wait until something has happened that makes this true."""
        with trio.fail_after(PATIENCE):
            while not condition():
                await self._changed.wait()

    def client(self, first: bytes = b"") -> trio.SocketStream:
        """Connect a client that has sent something when this returns; it is closed in the end."""
        address = self.listening.local_addresses[0]
        peer = socket.socket(address.family)
        peer.settimeout(PATIENCE)
        peer.connect(address.sockaddr)
        peer.sendall(first)
        client = trio.SocketStream(trio.socket.from_stdlib_socket(peer))
        self._clients.append(client)
        return client

    async def ask(self, first: bytes = b"") -> tuple[trio.SocketStream, ConnectionRequest]:
        """Connect a client, and wait until the inspector was asked about it."""
        count = len(self.asked)
        client = self.client(first)
        await self.when(lambda: len(self.asked) > count)
        return client, self.asked[count]

    async def pended(self, first: bytes = b"") -> tuple[trio.SocketStream, ConnectionRequest]:
        """Connect a client whom the inspector pends."""
        client, request = await self.ask(first)
        inspect_id = request.inspect_id
        await self.when(lambda: inspect_id in self._pended)
        return client, request

    async def parked(self, first: bytes = b"") -> tuple[trio.SocketStream, ConnectionRequest]:
        """Connect a client who is let through, and waits for somebody to take the connection."""
        count = self.statistics().parked
        client, request = await self.ask(first)
        await self.when(lambda: self.statistics().parked > count)
        return client, request

    async def aborted(self, count: int = 1) -> RequestAborted:
        """Wait until so many requests were aborted and told; return what became of the last one."""
        await self.when(lambda: len(self.aborts) >= count)
        return self.aborts[count - 1]

    def close_clients(self) -> None:
        """Close what is left of the clients."""
        for client in self._clients:
            client.socket.close()

    def check(self) -> None:
        """Check what holds at every stop."""
        counted = self.statistics()
        check_balance(counted)

        assert counted.pending <= counted.pending_most
        assert counted.inspected == len(self.asked)
        assert sum(counted.aborted.values()) == len(self.told(RequestAborted))

    def check_in_the_end(self) -> None:
        """Check what holds when everything is over."""
        self.check()
        counted = self.statistics()
        rejected = {record.inspect_id for record in self.told(RequestRejected)}

        assert 0 == counted.pending + counted.parked
        assert 0 == len(self.listening.pending_inspections)
        assert sum(counted.rejected.values()) == len(rejected)
        assert [record.inspect_id for record in self.told(RequestAborted)] == self.told_abort
        assert not rejected & set(self.told_abort)


@asynccontextmanager
async def inspecting(
    inspect: Callable[[ConnectionRequest], Any] | InspectAction | Verdict = PEND,
    port: int | None = 0,
    **options: Any,
) -> AsyncIterator[Desk]:
    """Open a listening socket on the loopback address, with an inspector."""
    desk = Desk(inspect)
    dispatch = ListenDispatch(
        inspect=desk,
        abort=desk.abort,
        failed=desk.failed,
        accept=options.pop("accept", None),
    )
    if port is not None:
        options.setdefault("host", "127.0.0.1")
    try:
        async with open_listening_socket(
            port, dispatch=dispatch, observers=[desk.observe, Silent()], **options
        ) as desk.listening:
            yield desk
            desk.check()
            await desk.listening.aclose()
            desk.check_in_the_end()
    finally:
        desk.close_clients()
    desk.check_in_the_end()
