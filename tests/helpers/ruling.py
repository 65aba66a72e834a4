"""A listening socket in memory that rules decide about, and visitors from any address."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.inspecting import Silent
from tests.helpers.memory_peers import PLACE, SERVER
from trio_wsk import (
    Connection,
    InspectPoint,
    ListeningSocket,
    WouldBlockError,
    open_listening_socket,
)
from trio_wsk._inspection.two_stages import TwoStages
from trio_wsk.inspectors import Need
from trio_wsk.observers import RequestAborted, RequestRejected
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from trio_wsk import Address, ConnectionRequest, InspectId
    from trio_wsk.observers import Observer, Record
    from trio_wsk.testing import MemoryStream

IN: Final = "in"
"""What becomes of a visitor that is let in."""
UNDECIDED: Final = "undecided"
"""What has become of one that waits."""


@attrs.define(eq=False)
class Visitor:
    """A client, and what has become of it."""

    stream: MemoryStream
    connection: Connection | None = None
    fate: str = UNDECIDED
    """`IN`, the reason of its rejection, or the one of its abort."""

    async def leave(self) -> None:
        """Close both ends, and wait until everybody has taken note."""
        if self.connection is not None:
            self.connection.close()
        await self.stream.aclose()
        await wait_all_tasks_blocked()


class Gate:
    """Where visitors come to."""

    def __init__(self, inspect: Any) -> None:
        self.network = MemoryNetwork()
        self.needs = getattr(inspect, "needs", Need.ADDRESSES)
        self.close_styles = getattr(inspect, "close_styles", ())
        self.stages: TwoStages | None = getattr(inspect, "stages", None)
        if self.stages is not None:
            self.stages = TwoStages(
                partial(self._ask, self.stages.before_handshake),
                partial(self._ask, self.stages.after_handshake),
            )
        self._inspector = inspect
        self._asking: dict[InspectId, Address] = {}
        self.records: list[Record] = []
        self.listening: ListeningSocket
        self.visitors: list[Visitor] = []
        """All that have come; else they would leave when nobody knows them."""
        self._waiting: dict[Any, Visitor] = {}

    async def come(self, host: str = "192.0.2.7") -> Visitor:
        """Have a client come from there; wait until nothing more happens."""
        (visitor,) = await self.come_together(host)
        return visitor

    async def come_together(self, *hosts: str) -> list[Visitor]:
        """Have clients come in the same moment; wait until nothing more happens."""
        visitors = []
        for host in hosts:
            stream = self.network.host(host).open_connection(PLACE)
            visitor = Visitor(stream)
            self._waiting[stream.local_address] = visitor
            visitors.append(visitor)
        self.visitors += visitors
        await self.look()
        return visitors

    async def come_all(self, *hosts: str) -> list[str]:
        """Have clients come one after the other; return what became of them."""
        return [(await self.come(host)).fate for host in hosts]

    async def look(self) -> None:
        """Wait until nothing more happens, and note what has become of those who wait."""
        await wait_all_tasks_blocked()
        while True:
            try:
                connection = self.listening.accept_nowait()
            except WouldBlockError:
                break
            visitor = self._waiting.pop(connection.transport_remote_address)
            visitor.connection, visitor.fate = connection, IN

    def __call__(self, request: ConnectionRequest) -> Any:
        """Note whose request it is, and ask the inspector."""
        return self._ask(self._inspector, request)

    def _ask(self, inspector: Any, request: ConnectionRequest) -> Any:
        self._asking[request.inspect_id] = request.transport_remote_address
        return inspector(request)

    def observe(self, record: Record) -> None:
        """Keep what is told."""
        self.records.append(record)
        if isinstance(record, RequestRejected):
            self._waiting.pop(self._asking[record.inspect_id]).fate = record.reason
        elif isinstance(record, RequestAborted):
            self._waiting.pop(self._asking[record.inspect_id]).fate = record.reason.value


@asynccontextmanager
async def gate(
    inspect: Any,
    point: InspectPoint = InspectPoint.AFTER_HANDSHAKE,
    observers: Sequence[Observer] = (),
) -> AsyncIterator[Gate]:
    """Open a listening socket in memory whose inspector this is."""
    opened = Gate(inspect)
    transport = opened.network.host(SERVER).transport(PLACE[1], backlog=1 << 16)
    async with open_listening_socket(
        transport=transport,
        inspect=opened,
        inspect_point=point,
        max_parked=1 << 16,
        observers=[opened.observe, *observers, Silent()],
    ) as opened.listening:
        yield opened
    await trio.lowlevel.checkpoint()
