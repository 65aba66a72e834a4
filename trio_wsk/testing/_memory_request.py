"""Requests on the network in memory: a SYN that is not answered, or a connection."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import trio

from trio_wsk._vocabulary.errors import InvalidDeviceStateError
from trio_wsk._vocabulary.verdict import InspectPoint
from trio_wsk.transports._contract import (
    PeerEnd,
    PeerFaultError,
    TransportRequest,
    next_serial_number,
)

from ._channel import MemoryChannel
from ._endpoint import Endpoint, Phase
from ._handshake import Handshake
from ._memory_readiness import MemoryWatch
from ._memory_syn import syn_of
from ._segments import RECEIVE_BUFFER

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._engine.readiness import Readiness, Watch
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.transports._contract import Channel, RequestKeeper
    from trio_wsk.transports._syn import Syn

    from ._memory_readiness import MemoryReadiness
    from ._timers import Timer

__all__ = ["MemoryRequest", "RequestHome"]


class RequestHome(Protocol):
    """The transport, as its requests see it."""

    inspect_point: InspectPoint
    takes: Callable[[], bool]
    readiness: MemoryReadiness

    def forget(self, request: MemoryRequest) -> None:
        """A request has an answer, or its peer has left: it is neither held nor in want of room."""

    def wait_for_room(self, request: MemoryRequest) -> None:
        """A request is established, and would not be taken yet."""

    def soon_through(self, readiness: Readiness) -> Callable[[Callable[[], object]], None]:
        """Return how to tell something a moment later."""


class MemoryRequest(TransportRequest):
    """One request for a connection in memory.

    Args:
      home: The transport that it came to.
      end: A handshake whose answer is withheld, or a connection.
    """

    __slots__ = (
        "_end",
        "_established_untold",
        "_home",
        "_how_left",
        "_is_approving",
        "_keeper",
        "_more",
        "_overdue",
        "_seen",
        "_tell_soon",
        "_told",
        "serial_number",
    )

    serial_number: int

    def __init__(self, home: RequestHome, end: Handshake | Endpoint) -> None:
        self._home = home
        self._end = end
        self._keeper: RequestKeeper | None = None
        self._how_left: PeerEnd | None = None
        self._told: PeerEnd | None = None
        self._established_untold = False
        self._is_approving = False
        self._overdue: Timer | None = None
        self._more: trio.Event | None = None
        self._seen = (0, False)
        self.serial_number = next_serial_number()
        end.watcher = self

    def __repr__(self) -> str:
        return f"<MemoryRequest {self.serial_number} from {self.remote_address}>"

    @property
    def local_address(self) -> Address:
        """The address that the peer connected to."""
        return self._end.local_address

    @property
    def remote_address(self) -> Address:
        """The peer's address."""
        return self._end.remote_address

    @property
    def inspect_point(self) -> InspectPoint:
        """The transport's."""
        return self._home.inspect_point

    @property
    def syn(self) -> Syn | None:
        """What the peer's SYN says, before the handshake: its addresses, number and window."""
        if self.inspect_point is InspectPoint.AFTER_HANDSHAKE:
            return None
        return syn_of(self.remote_address, self.local_address, self._end.irs, RECEIVE_BUFFER)

    # --- Answers -----------------------------------------------------------------------

    def approve(self) -> bool:
        """Answer yes: before the handshake, with SYN-ACK. See `TransportRequest.approve`."""
        handshake = self._end
        if isinstance(handshake, Handshake) and handshake.is_held:
            self._is_held_no_more()
            self._is_approving = True
            handshake.answer()
            handshake.carrier.flush()
            self._is_approving = False
            if isinstance(self._end, Endpoint) and not self._home.takes():
                self._wait_for_room()
                return False
        return isinstance(self._end, Endpoint)

    def accept(self) -> MemoryChannel:
        """Return the connection, which is the caller's from now on.

        Raises:
          InvalidDeviceStateError: the handshake is not over. (The caller's.)
        """
        endpoint = self._end
        if not isinstance(endpoint, Endpoint):
            raise InvalidDeviceStateError("the handshake is not over: approve() comes first")
        self.unwatch_end()
        endpoint.watcher = None
        return MemoryChannel(endpoint)

    def reset(self) -> None:
        """Answer with RST; to a SYN, too, so that its ``connect()`` is refused."""
        self._let_go()
        self._end.reset()
        self._end.carrier.flush()

    def finish(self) -> None:
        """Send FIN, and drop what the peer has sent; before the handshake, reset."""
        endpoint = self._end
        if isinstance(endpoint, Endpoint) and endpoint.phase is Phase.OPEN:
            self._let_go()
            endpoint.receiving.discard()
            endpoint.let_go()
            endpoint.carrier.flush()
        else:
            self.reset()

    def silence(self) -> bool:
        """Send nothing, neither now nor in answer to what the peer still sends."""
        self._let_go()
        self._end.vanish()
        return True

    def refuse(self) -> None:
        """From the transport, which closes: answer with RST; `reset` has nothing to do then."""
        self._is_held_no_more()
        self._end.reset()

    def _let_go(self) -> None:
        self._is_held_no_more()
        self.unwatch_end()
        self._end.watcher = None

    def _is_held_no_more(self) -> None:
        self._stop_heartbeat()
        self._home.forget(self)

    # --- The peer ----------------------------------------------------------------------

    def was_reset(self) -> bool:
        """Whether the peer has reset it, also behind unread data."""
        return self._end.was_reset

    def watch_end(self, readiness: Readiness, keeper: RequestKeeper) -> None:
        """Tell ``keeper`` when the peer leaves; what is true already, with the next poll."""
        self._keeper = keeper
        self._told = None
        self._tell_soon = self._home.soon_through(readiness)
        if self._how_left is not None or self._established_untold:
            self._tell_soon(self._tell_what_is_true)
        elif isinstance(self._end, Handshake) and self._end.is_held:
            self._listen_for_heartbeat(self._end)

    def unwatch_end(self) -> None:
        """Tell nothing more."""
        self._keeper = None
        self._stop_heartbeat()
        self.more()

    def _tell_what_is_true(self) -> None:
        keeper = self._keeper
        if keeper is not None and self._established_untold:
            self._tell_established(keeper)
        if self._keeper is keeper is not None and self._how_left is not self._told:
            assert self._how_left is not None
            self._told = self._how_left
            keeper.peer_ended(self, self._how_left)

    def peer_left(self, end: PeerEnd) -> None:
        """From the handshake or the endpoint: the peer has left in this way."""
        self._how_left = end
        self._is_held_no_more()
        if self._keeper is not None:
            if self._is_approving:
                self._tell_soon(self._tell_what_is_true)
            else:
                self._tell_what_is_true()

    def on_established(self, endpoint: Endpoint) -> None:
        """From the handshake: it is over, after `approve`."""
        self._end = endpoint
        endpoint.watcher = self
        if self._is_approving:
            return  # approve() says so
        self._established_untold = True
        if self._keeper is not None:
            self._tell_established(self._keeper)

    def _tell_established(self, keeper: RequestKeeper) -> None:
        if self._home.takes():
            self._established_untold = False
            keeper.established(self)
        else:
            self._wait_for_room()

    def _wait_for_room(self) -> None:
        self._established_untold = True
        self._home.wait_for_room(self)

    def room_again(self) -> None:
        """From the transport: it may be that somebody takes it now."""
        if self._keeper is not None:  # or else `watch_end` tells
            self._tell_soon(self._tell_what_is_true)

    # --- The heartbeat of SYNs ---------------------------------------------------------

    def _listen_for_heartbeat(self, handshake: Handshake) -> None:
        when = handshake.heartbeat.asks_again_until
        self._overdue = handshake.carrier.timers.at(when, self._no_heartbeat)

    def _no_heartbeat(self) -> None:
        self._overdue = None
        handshake = self._end
        assert isinstance(handshake, Handshake)
        if trio.current_time() < handshake.heartbeat.asks_again_until:
            self._listen_for_heartbeat(handshake)
        else:
            # That SYNs were lost looks the same: the next one is a new request.
            handshake.miss()

    def _stop_heartbeat(self) -> None:
        if self._overdue is not None:
            self._end.carrier.timers.call_off(self._overdue)
            self._overdue = None

    # --- First octets ------------------------------------------------------------------

    def peek(self, count: int) -> tuple[bytes, bool]:
        """Return the first octets. See `TransportRequest.peek`."""
        endpoint = self._end
        if not isinstance(endpoint, Endpoint):
            return super().peek(count)  # which says why not
        if endpoint.error:
            raise PeerFaultError(OSError(endpoint.error, os.strerror(endpoint.error)))
        receiving = endpoint.receiving
        self._seen = (receiving.unread, receiving.is_finished)
        return receiving.look(count), receiving.is_finished

    def consume(self, count: int) -> None:
        """Take the first octets. See `TransportRequest.consume`."""
        endpoint = self._end
        if not isinstance(endpoint, Endpoint):
            super().consume(count)  # which says why not
            return
        if endpoint.error:
            raise PeerFaultError(OSError(endpoint.error, os.strerror(endpoint.error)))
        endpoint.take(count)
        endpoint.carrier.flush()

    async def wait_for_more(self) -> None:
        """Wait until more may have come than `peek` saw. See `TransportRequest.wait_for_more`."""
        endpoint = self._end
        if not isinstance(endpoint, Endpoint):
            await super().wait_for_more()  # which says why not
            return
        receiving = endpoint.receiving
        is_news = endpoint.error or (receiving.unread, receiving.is_finished) != self._seen
        if self._keeper is None or is_news:
            await trio.lowlevel.checkpoint()
            return
        if self._more is None:
            self._more = trio.Event()
        await self._more.wait()

    def more(self) -> None:
        """From the endpoint: something has come."""
        if self._more is not None:
            self._more.set()
            self._more = None

    # --- What was accepted -------------------------------------------------------------

    @property
    def short_read_is_all(self) -> bool:
        """Whatever is there is returned."""
        return True

    def watch(self, channel: Channel) -> Watch:  # noqa: ARG002 - there is one
        """Make the watch, whose home is this transport's readiness for good."""
        assert isinstance(self._end, Endpoint)
        return MemoryWatch(self._end, self._home.readiness)

    def traffic(self, channel: Channel) -> tuple[int, float] | None:  # noqa: ARG002 - there is one
        """What has passed on the connection, and how long ago, on Trio's clock."""
        endpoint = self._end
        assert isinstance(endpoint, Endpoint)
        return endpoint.passed, trio.current_time() - endpoint.passed_at

    def abort(self, channel: Channel) -> None:  # noqa: ARG002 - there is one
        """Reset the connection."""
        endpoint = self._end
        if isinstance(endpoint, Endpoint) and not endpoint.closed:
            endpoint.reset()
            endpoint.carrier.flush()
