"""A network in memory, a listening socket on it that inspects, and what became of its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
import trio.testing

from tests.helpers.memory_peers import AFTER, BEFORE, CLIENT, PLACE, SERVER
from trio_wsk import (
    AbortReason,
    InspectAction,
    InspectId,
    ListenDispatch,
    ListeningSocket,
)
from trio_wsk.testing import MemoryNetwork, SegmentKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import ConnectionRequest, ListeningSocket
    from trio_wsk.testing import MemoryStream, MemoryTransport, Segment

ACCEPT: Final = InspectAction.ACCEPT
REJECT: Final = InspectAction.REJECT
PEND: Final = InspectAction.PEND

LONG: Final = 1000.0
"""A time for a verdict that is longer than anything here takes."""


class Scene:
    """A network, who comes from where, and notes of what happened."""

    def __init__(self, *, latency: float = 0.0, loss: float = 0.0, seed: int = 0) -> None:
        self.network = MemoryNetwork(latency=latency, loss=loss, seed=seed)
        self.segments: list[Segment] = []
        self.network.on_segment = self.segments.append
        self.requests: list[ConnectionRequest] = []
        """What the inspector was asked about."""
        self.aborts: list[tuple[InspectId, AbortReason]] = []
        """What the abort callback was called with, and what the request said then."""
        self.records: list[object] = []
        self.listening: ListeningSocket

    def transport(self, *, backlog: int = 128) -> MemoryTransport:
        """Make the server's transport."""
        return self.network.host(SERVER).transport(PLACE[1], backlog=backlog)

    def open(self) -> MemoryStream:
        """Have a client send its SYN."""
        return self.network.host(CLIENT).open_connection(PLACE)

    async def connect(self) -> MemoryStream:
        """Connect a client."""
        return await self.network.host(CLIENT).connect(PLACE)

    def sent_by_server(self, *kinds: SegmentKind) -> list[float]:
        """When the server has sent segments of these kinds, or any."""
        return [
            segment.at
            for segment in self.segments
            if segment.source.port == PLACE[1] and (not kinds or segment.kind in kinds)
        ]

    def sent_by_clients(self, *kinds: SegmentKind) -> list[float]:
        """When clients have sent segments of these kinds, or any."""
        return [
            segment.at
            for segment in self.segments
            if segment.source.port != PLACE[1] and (not kinds or segment.kind in kinds)
        ]

    def pend(self, request: ConnectionRequest) -> InspectAction:
        """Inspect: note the request, and answer later."""
        self.requests.append(request)
        return PEND

    def abort(self, inspect_id: InspectId) -> None:
        """Note that a request was aborted; it is still to be found meanwhile."""
        record = self.listening.pending_inspections[inspect_id].aborted

        assert record is not None

        self.aborts.append((inspect_id, record.reason))

    def dispatch(
        self,
        inspect: Callable[[ConnectionRequest], object] | None = None,
        failed: Callable[[ListeningSocket, OSError], object] | None = None,
    ) -> ListenDispatch:
        """Make the callbacks: an inspector that pends by default, and one that notes aborts."""
        return ListenDispatch(inspect=inspect or self.pend, abort=self.abort, failed=failed)  # type: ignore[arg-type]  # what it answers is part of what is tested

    def told(self, kind: type[object]) -> list[object]:
        """Return the records of one kind."""
        return [record for record in self.records if isinstance(record, kind)]


settled = trio.testing.wait_all_tasks_blocked

TURNED_AWAY: Final = {BEFORE: "refused", AFTER: "reset"}
"""What becomes of a client by a rejection or an abort, at each inspect point."""
