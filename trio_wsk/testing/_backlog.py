"""The backlog of a listening socket in memory, as a kernel keeps one."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, cast

from trio_wsk._vocabulary.verdict import InspectPoint

from ._handshake import Handshake
from ._memory_readiness import MemoryReadiness
from ._memory_request import MemoryRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._engine.readiness import Readiness

    from ._carrier import Carrier
    from ._endpoint import Endpoint
    from ._segments import Packet

__all__ = ["Backlog"]


class Backlog:
    """The requests of one transport that wait to be taken, and those whose SYN is not answered.

    Args:
      carrier: The network.
      most: How many may wait to be taken, and how many handshakes may be under way.
      edge: Called when a request has come after there was none.
      takes: Says whether an established connection would be taken now, as `Transport.takes` does.
    """

    def __init__(
        self,
        carrier: Carrier,
        most: int,
        *,
        edge: Callable[[], object],
        takes: Callable[[], bool],
    ) -> None:
        self.most: Final = most
        self.takes: Callable[[], bool] = takes
        self.inspect_point: InspectPoint = InspectPoint.AFTER_HANDSHAKE
        self.is_listening: bool = False
        """Whether SYNs are looked at."""
        self.requests: deque[MemoryRequest] = deque()
        """The requests that wait to be taken, the oldest first."""
        self.readiness: MemoryReadiness = MemoryReadiness()
        """Where the channels of the connections are waited for, by tasks and by a block's pump."""
        self._carrier = carrier
        self._edge = edge
        self._half_open: dict[Handshake, None] = {}
        self._held: dict[MemoryRequest, None] = {}
        self._in_want_of_room: dict[MemoryRequest, None] = {}

    def listen(self, readiness: Readiness, point: InspectPoint) -> None:
        """Let requests appear from now on, at this point."""
        if isinstance(readiness, MemoryReadiness):
            self.readiness = readiness
        self.inspect_point = point
        self.is_listening = True

    def close(self) -> None:
        """Reset what waits to be taken, and every SYN that has no answer. Flush afterwards."""
        self.is_listening = False
        requests, self.requests = self.requests, deque()
        for request in requests:
            request.reset()
        for request in list(self._held):
            request.refuse()
        half_open, self._half_open = self._half_open, {}
        for handshake in half_open:
            handshake.abandon()

    def offer_again(self) -> None:
        """Tell once more of the established connections that were not taken."""
        waiting, self._in_want_of_room = self._in_want_of_room, {}
        for request in waiting:
            request.room_again()

    # --- From the carrier and from handshakes ------------------------------------------

    def on_syn(self, packet: Packet) -> None:
        """A SYN has come for which there is no connection."""
        if not self.has_room():
            return
        key, _, irs, _, _, _ = packet
        if self.inspect_point is InspectPoint.BEFORE_HANDSHAKE:
            handshake = Handshake(self._carrier, key, irs)
            request = MemoryRequest(self, handshake)
            self._held[request] = None
            self._carrier.put(handshake)
            self._appeared(request)
        elif len(self._half_open) < self.most:
            handshake = Handshake(self._carrier, key, irs, home=self)
            self._half_open[handshake] = None
            self._carrier.put(handshake)
            handshake.answer()

    def has_room(self) -> bool:
        """Whether one more request can wait to be taken."""
        return len(self.requests) < self.most

    def on_established(self, handshake: Handshake, endpoint: Endpoint) -> None:
        """A handshake is over, and there is a connection."""
        self._half_open.pop(handshake, None)
        self._appeared(MemoryRequest(self, endpoint))

    def on_lost(self, handshake: Handshake) -> None:
        """A handshake has failed."""
        self._half_open.pop(handshake, None)

    def _appeared(self, request: MemoryRequest) -> None:
        self.requests.append(request)
        if len(self.requests) == 1:
            self._edge()

    # --- From requests -----------------------------------------------------------------

    def forget(self, request: MemoryRequest) -> None:
        """A request has an answer, or its peer has left: it is neither held nor in want of room."""
        self._held.pop(request, None)
        self._in_want_of_room.pop(request, None)

    def wait_for_room(self, request: MemoryRequest) -> None:
        """A request is established, and would not be taken yet."""
        self._in_want_of_room[request] = None

    def soon_through(self, readiness: Readiness) -> Callable[[Callable[[], object]], None]:
        """Return how to tell something a moment later: by the pump, or by a timer without one."""
        if isinstance(readiness, MemoryReadiness):
            return readiness.soon
        timers = self._carrier.timers
        return lambda tell: cast("None", timers.after(0.0, tell))
