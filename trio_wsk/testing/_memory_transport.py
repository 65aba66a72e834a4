"""Listening on the network in memory: a `Transport`, and its requests."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final, cast, final

import trio

from trio_wsk._vocabulary.arguments import checked_count, whole_number
from trio_wsk._vocabulary.errors import (
    InvalidDeviceStateError,
    InvalidParameterError,
    SocketClosedError,
)
from trio_wsk._vocabulary.verdict import CloseStyle, InspectPoint
from trio_wsk.transports._accept_errors import failure_of
from trio_wsk.transports._contract import (
    PeerEnd,
    PeerFaultError,
    Transport,
    TransportFailedError,
    TransportRequest,
    next_serial_number,
)

from ._endpoint import RECEIVE_BUFFER, Endpoint, Phase
from ._memory_readiness import MemoryReadiness, MemoryWatch
from ._memory_syn import syn_of
from ._ports import checked_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_wsk._engine.readiness import Readiness, Watch
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.transports import Syn
    from trio_wsk.transports._contract import Channel, RequestKeeper

    from ._ports import Ports
    from ._segments import Packet
    from ._timers import Timer

__all__ = ["MemoryRequest", "MemoryTransport"]

_FIRST_REPEAT: Final = 3.5
"""Seconds within which a client that is there has sent its first SYN again: Linux after 1 s,
others after 3 s."""

_HIGHEST_ERRNO: Final = 4095
"""What the kernel can return as an error (Linux, MAX_ERRNO)."""


class MemoryRequest(TransportRequest):
    """One request for a connection in memory: a SYN that is not answered, or a connection."""

    __slots__ = (
        "_end",
        "_endpoint",
        "_established_untold",
        "_first_asked",
        "_gap",
        "_heartbeat",
        "_is_approving",
        "_keeper",
        "_last_asked",
        "_more",
        "_seen",
        "_tell_soon",
        "_told",
        "_transport",
        "serial_number",
    )

    serial_number: int

    def __init__(self, transport: MemoryTransport, endpoint: Endpoint) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._keeper: RequestKeeper | None = None
        self._end: PeerEnd | None = None
        self._told: PeerEnd | None = None
        self._established_untold = False
        self._is_approving = False
        self._heartbeat: Timer | None = None
        self._more: trio.Event | None = None
        self._seen = (0, False)
        self.serial_number = next_serial_number()
        endpoint.request = self

    def __repr__(self) -> str:
        return f"<MemoryRequest {self.serial_number} from {self.remote_address}>"

    @property
    def local_address(self) -> Address:
        """Where the peer connected to."""
        return self._endpoint.local_address

    @property
    def remote_address(self) -> Address:
        """Who wants to connect."""
        return self._endpoint.remote_address

    @property
    def inspect_point(self) -> InspectPoint:
        """The transport's."""
        return self._transport.inspect_point

    @property
    def syn(self) -> Syn | None:
        """What the peer's SYN says, before the handshake: its addresses, number and window."""
        if self.inspect_point is InspectPoint.AFTER_HANDSHAKE:
            return None
        return syn_of(self.remote_address, self.local_address, self._endpoint._irs, RECEIVE_BUFFER)

    # --- Answers -----------------------------------------------------------------------

    def approve(self) -> bool:
        """Answer yes: before the handshake, with SYN-ACK. See `TransportRequest.approve`."""
        endpoint = self._endpoint
        if endpoint.phase is not Phase.HELD:
            return endpoint.established
        self._is_held_no_more()
        self._is_approving = True
        endpoint.answer()
        endpoint.carrier.flush()
        self._is_approving = False
        if endpoint.established and not self._transport.takes():
            self._is_left_there()
            return False
        return endpoint.established

    def accept(self) -> Endpoint:
        """Return the connection, which is the caller's from now on.

        Raises:
          InvalidDeviceStateError: the handshake is not over. (The caller's.)
        """
        endpoint = self._endpoint
        if not endpoint.established:
            raise InvalidDeviceStateError("the handshake is not over: approve() comes first")
        self.unwatch_end()
        endpoint.request = None
        return endpoint

    def reset(self) -> None:
        """Answer with RST; to a SYN, too, so that its ``connect()`` is refused."""
        self._let_go()
        self._endpoint.reset()
        self._endpoint.carrier.flush()

    def finish(self) -> None:
        """Send FIN, and drop what the peer has sent; before the handshake, reset."""
        endpoint = self._endpoint
        if endpoint.phase is Phase.OPEN:
            self._let_go()
            endpoint.discard_unread()
            endpoint.let_go()
            endpoint.carrier.flush()
        else:
            self.reset()

    def silence(self) -> bool:
        """Send nothing, neither now nor in answer to what the peer still sends."""
        self._let_go()
        self._endpoint.vanish()
        return True

    def refuse(self) -> None:
        """From the transport, which closes: answer with RST; `reset` has nothing to do then."""
        self._is_held_no_more()
        self._endpoint.reset()

    def _let_go(self) -> None:
        self._is_held_no_more()
        self._transport._left.pop(self, None)
        self.unwatch_end()
        self._endpoint.request = None

    def _is_held_no_more(self) -> None:
        self._stop_heartbeat()
        self._transport._held.pop(self, None)

    # --- The peer ----------------------------------------------------------------------

    def was_reset(self) -> bool:
        """Whether the peer has reset it, also behind unread data."""
        return self._endpoint.was_reset

    def watch_end(self, readiness: Readiness, keeper: RequestKeeper) -> None:
        """Tell ``keeper`` when the peer leaves; what is true already, with the next poll."""
        self._keeper = keeper
        self._told = None
        self._tell_soon = self._transport._soon_through(readiness)
        if self._end is not None or self._established_untold:
            self._tell_soon(self._tell_what_is_true)
        elif self._endpoint.phase is Phase.HELD:
            self._listen_for_heartbeat()

    def unwatch_end(self) -> None:
        """Tell nothing more."""
        self._keeper = None
        self._stop_heartbeat()
        self.more()

    def _tell_what_is_true(self) -> None:
        keeper = self._keeper
        if keeper is not None and self._established_untold:
            self._tell_established(keeper)
        if self._keeper is keeper is not None and self._end is not self._told:
            assert self._end is not None
            self._told = self._end
            keeper.peer_ended(self, self._end)

    def peer_left(self, end: PeerEnd) -> None:
        """From the endpoint: the peer has left in this way."""
        self._end = end
        self._is_held_no_more()
        if self._keeper is not None:
            if self._is_approving:
                self._tell_soon(self._tell_what_is_true)
            else:
                self._tell_what_is_true()

    def on_established(self) -> None:
        """From the endpoint: the handshake is over, after `approve`."""
        if self._is_approving:
            return  # approve() says so
        self._established_untold = True
        if self._keeper is not None:
            self._tell_established(self._keeper)

    def _tell_established(self, keeper: RequestKeeper) -> None:
        if self._transport.takes():
            self._established_untold = False
            keeper.established(self)
        else:
            self._is_left_there()

    def _is_left_there(self) -> None:
        self._established_untold = True
        self._transport._left[self] = None

    def taken_again(self) -> None:
        """From the transport: it may be that somebody takes it now."""
        if self._keeper is not None:  # or else `watch_end` tells
            self._tell_soon(self._tell_what_is_true)

    # --- The heartbeat of SYNs ---------------------------------------------------------

    def first_asked(self) -> None:
        """From the transport: this is a SYN that is not answered."""
        self._first_asked = self._last_asked = trio.current_time()
        self._gap = 0.0

    def asked_again(self) -> None:
        """From the endpoint: the same SYN has come once more."""
        now = trio.current_time()
        self._gap = now - self._last_asked
        self._last_asked = now

    @property
    def _asks_again_until(self) -> float:
        """Until when a client that is still there has sent its SYN again.

        A client doubles the time between two at most; one second is for the way.
        """
        if self._last_asked == self._first_asked:
            return self._first_asked + _FIRST_REPEAT
        return self._last_asked + 2 * self._gap + 1

    def _listen_for_heartbeat(self) -> None:
        timers = self._endpoint.carrier.timers
        self._heartbeat = timers.at(self._asks_again_until, self._no_heartbeat)

    def _no_heartbeat(self) -> None:
        self._heartbeat = None
        if trio.current_time() < self._asks_again_until:
            self._listen_for_heartbeat()
        else:
            # That SYNs were lost looks the same: the next one is a new request.
            self._endpoint.miss()

    def _stop_heartbeat(self) -> None:
        if self._heartbeat is not None:
            self._endpoint.carrier.timers.call_off(self._heartbeat)
            self._heartbeat = None

    # --- First octets ------------------------------------------------------------------

    def peek(self, count: int) -> tuple[bytes, bool]:
        """Return the first octets. See `TransportRequest.peek`."""
        endpoint = self._endpoint
        if not endpoint.established:
            return super().peek(count)  # which says why not
        if endpoint.error:
            raise PeerFaultError(OSError(endpoint.error, os.strerror(endpoint.error)))
        self._seen = (endpoint.unread, endpoint.at_end)
        return endpoint.look(count), endpoint.at_end

    async def wait_for_more(self) -> None:
        """Wait until more may have come than `peek` saw. See `TransportRequest.wait_for_more`."""
        endpoint = self._endpoint
        if not endpoint.established:
            await super().wait_for_more()  # which says why not
        is_news = endpoint.error or (endpoint.unread, endpoint.at_end) != self._seen
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
        return MemoryWatch(self._endpoint, self._transport._readiness)

    def abort(self, channel: Channel) -> None:  # noqa: ARG002 - there is one
        """Reset the connection."""
        if not self._endpoint.closed:
            self._endpoint.reset()
            self._endpoint.carrier.flush()


@final
class MemoryTransport(Transport):
    """A listening socket of a `MemoryHost`; `MemoryHost.transport` makes it.

    After the handshake, a SYN is answered at once as long as there is room in the backlog,
    and a request appears when the handshake is over. Before the handshake (`inspect_at`) a request
    appears with the first SYN, which is answered by nothing but `TransportRequest.approve`,
    ``reset()`` and ``silence()``; when its sender repeats it, that is the same request.

    Closing resets what waits in the backlog and, before the handshake, every request that has no
    answer yet. Requests that were handed out after the handshake are whoever's took them.
    """

    def __init__(self, ports: Ports, port: int, *, backlog: int) -> None:
        """Made by `MemoryHost.transport`, never by you."""
        self._ports = ports
        self._port = checked_port(port)
        self._backlog = checked_count("backlog", backlog, least=1)
        self._queue: deque[MemoryRequest] = deque()
        self._half_open: dict[Endpoint, None] = {}
        self._held: dict[MemoryRequest, None] = {}
        self._left: dict[MemoryRequest, None] = {}
        self._failures: deque[OSError] = deque()
        self._failure: OSError | None = None
        self._address: Address | None = None
        self._is_closed = False
        self._keeps_spare = False
        self._is_listening = False
        # Where the channels of this transport are waited for, by tasks and by its block's pump.
        self._readiness = MemoryReadiness()

    def __repr__(self) -> str:
        return f"<MemoryTransport on {self._address or 'nothing yet'}>"

    # --- Binding and closing -----------------------------------------------------------

    def inspect_at(self, point: InspectPoint) -> None:
        """Have requests appear at this point, before the handshake or after it."""
        if self._is_listening:
            raise InvalidDeviceStateError("a transport that listens stays at its inspect point")
        self.inspect_point = point

    def close_styles(self) -> frozenset[CloseStyle]:
        """All there are after the handshake; before it, RESET and SILENT."""
        if self.inspect_point is InspectPoint.AFTER_HANDSHAKE:
            return frozenset(CloseStyle)
        return frozenset({CloseStyle.RESET, CloseStyle.SILENT})

    async def bind(self) -> None:
        """Take the port.

        Raises:
          BindError: another transport of this host has it (EADDRINUSE).

        Always a checkpoint. If it fails or is cancelled, the transport is closed.
        """
        self._check_open()
        if self._address is not None:
            raise InvalidDeviceStateError("this transport is bound already")
        try:
            await trio.lowlevel.checkpoint()
            self._check_open()
            self._address = self._ports.bind(self, self._port)
        except BaseException:
            self.close()
            raise

    def listen(self, readiness: Readiness) -> None:
        """From now on requests appear."""
        self._check_open()
        if self._is_listening or self._address is None:
            raise InvalidDeviceStateError("a transport listens once, after it is bound")
        if isinstance(readiness, MemoryReadiness):
            self._readiness = readiness
        self._is_listening = True

    def pump_readiness(
        self,
        start_soon: Callable[[Callable[..., Awaitable[object]], Watch, int], object],  # noqa: ARG002 - nothing has to be waited for
    ) -> MemoryReadiness:
        """Return the readiness of this transport's channels, which keep it to the end."""
        return self._readiness

    def _soon_through(self, readiness: Readiness) -> Callable[[Callable[[], object]], None]:
        """Return how to tell something a moment later: by the pump, or by a timer without one."""
        if isinstance(readiness, MemoryReadiness):
            return readiness.soon
        timers = self._ports.carrier.timers
        return lambda tell: cast("None", timers.after(0.0, tell))

    def _check_open(self) -> None:
        if self._is_closed:
            raise SocketClosedError("this transport is closed")

    @property
    def local_addresses(self) -> Sequence[Address]:
        """The address that is bound; none before `bind`."""
        return [] if self._address is None else [self._address]

    def close(self) -> None:
        """Stop listening, and reset what nobody has taken or answered. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._is_listening = False
        self._keeps_spare = False
        if self._address is not None:
            self._ports.release(self, self._address.port)
        queue, self._queue = self._queue, deque()
        for request in queue:
            request.reset()
        for request in list(self._held):
            request.refuse()
        half_open, self._half_open = self._half_open, {}
        for endpoint in half_open:
            endpoint.listener = None
            endpoint.abandon()
        self._ports.carrier.flush()

    # --- Requests ----------------------------------------------------------------------

    def _on_syn(self, packet: Packet) -> None:
        """From the carrier: a SYN has come for which there is no connection."""
        if len(self._queue) >= self._backlog:
            return
        key, _, isn, _, _, _ = packet
        carrier = self._ports.carrier
        endpoint = Endpoint(carrier, key, carrier.next_isn())
        if self.inspect_point is InspectPoint.BEFORE_HANDSHAKE:
            endpoint.be_called(isn, held=True)
            request = MemoryRequest(self, endpoint)
            request.first_asked()
            self._held[request] = None
            carrier.put(endpoint)
            self._appeared(request)
        elif len(self._half_open) < self._backlog:
            self._half_open[endpoint] = None
            endpoint.listener = self
            carrier.put(endpoint)
            endpoint.be_called(isn, held=False)

    def _has_room(self, endpoint: Endpoint) -> bool:  # noqa: ARG002 - all are alike
        """Whether one more connection can wait to be taken."""
        return len(self._queue) < self._backlog

    def _on_established(self, endpoint: Endpoint) -> None:
        """From an endpoint: its handshake is over."""
        self._half_open.pop(endpoint, None)
        self._appeared(MemoryRequest(self, endpoint))

    def _on_lost(self, endpoint: Endpoint) -> None:
        """From an endpoint: its handshake has failed."""
        self._half_open.pop(endpoint, None)

    def _appeared(self, request: MemoryRequest) -> None:
        self._queue.append(request)
        if len(self._queue) == 1:
            self.edge()

    def next_request(self) -> MemoryRequest | None:
        """Return the oldest request that nobody has taken. See `Transport.next_request`."""
        if self._failures or self._failure is not None:
            self._fail()
        return self._queue.popleft() if self._queue else None

    def fail_next(self, *errors: OSError | int) -> None:
        """Have the next calls of `next_request` fail, as accept(2) would have.

        An error that is the peer's fault (ECONNABORTED, …) takes the oldest connection that
        waits with it, if one does; its peer is reset. If no descriptor or no memory is left
        (EMFILE, …), peers stay in the backlog. All others (EBADF, …) mean that the
        transport has failed, for good.

        Args:
          errors: One for each call, in order: errors of the system, or their numbers.

        Raises:
          InvalidParameterError: an argument is neither. (Yours.)

        Nothing is announced: the first call is the one that would have been made anyway.

        Source: accept(2), "Error handling".
        """
        self._failures += [_as_oserror(error) for error in errors]

    def _fail(self) -> None:
        error = self._failure or self._failures.popleft()
        failure = failure_of(error)
        if isinstance(failure, PeerFaultError) and self._queue:
            self._queue.popleft().reset()
        elif isinstance(failure, TransportFailedError):
            self._failure = error
        raise failure from error

    def take_established(self) -> None:
        """Tell of those again that nobody took. See `Transport.take_established`."""
        left, self._left = self._left, {}
        for request in left:
            request.taken_again()

    def has_more(self) -> bool:
        """Whether a request waits."""
        return bool(self._queue)

    def keep_spare(self) -> bool:
        """Set aside what `shed` needs: here, there always is a descriptor to be had."""
        self._keeps_spare = True
        return True

    def shed(self) -> bool:
        """Reset the oldest request that waits. See `Transport.shed`."""
        if not self._keeps_spare or not self._queue or self._failure is not None:
            return False
        self._queue.popleft().reset()
        return True

    def queue_depth(self) -> tuple[int, int] | None:
        """How many requests wait to be taken, and how many may."""
        return (len(self._queue), self._backlog) if self._is_listening else None


def _as_oserror(error: object) -> OSError:
    if isinstance(error, OSError):
        return error
    if not whole_number(error) or not 0 < error <= _HIGHEST_ERRNO:
        raise InvalidParameterError(
            f"fail_next takes errors of the system, or their numbers, such as errno.EMFILE, not"
            f" {error!r}"
        )
    return OSError(error, os.strerror(error))
