"""A transport whose peers do what a test says, in the order in which it says it.

It keeps the contract of `Transport` to the letter and no more than that: an edge comes once,
after there was nothing, and never from within a call. It holds its owner to the contract, too:
each request is answered once, and nothing is asked for before ``listen`` or after ``close``.
"""

from __future__ import annotations

import socket
from collections import deque
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import trio

from tests.helpers.blocking_peers import spin_until
from tests.helpers.resetting import close_with_reset
from tests.helpers.support import PATIENCE
from trio_wsk import Address
from trio_wsk.transports import (
    NoDescriptorsError,
    PeerEnd,
    PortableTransport,
    Transport,
    TransportRequest,
    Watch,
)
from trio_wsk.transports._contract import next_serial_number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_wsk.transports import Channel, Readiness, RequestKeeper
    from trio_wsk.transports._socket_request import SocketRequest

HERE = Address.tcp(IPv4Address("192.0.2.1"), 80)
THERE = IPv4Address("192.0.2.2")


class ScriptedRequest(TransportRequest):
    """A peer, and what it was answered. Its number is the port that it comes from."""

    def __init__(
        self, transport: ScriptedTransport, number: int, peer: socket.socket, channel: Channel
    ) -> None:
        self._transport = transport
        self._serial_number = next_serial_number()
        self.number = number
        self.peer = peer
        self._channel = channel
        self.has_reset = False
        """The peer has gone; the owner finds out when it looks, or is told if it watches."""
        self.answer: str | None = None
        """``accept`` or ``reset``, once there is one."""
        self.is_aborted = False
        self.is_refused = False
        """Nobody has ever seen it: it came too late, or waited when the transport was closed."""
        self._keeper: RequestKeeper | None = None

    def __repr__(self) -> str:
        return f"<ScriptedRequest {self.number} {self.answer}>"

    @property
    def serial_number(self) -> int:
        """This request's number among all."""
        return self._serial_number

    @property
    def local_address(self) -> Address:
        """Where the peer connected to."""
        return HERE

    @property
    def remote_address(self) -> Address:
        """Who wants to connect."""
        return Address.tcp(THERE, self.number)

    def accept(self) -> Channel:
        """Answer yes."""
        assert None is self._keeper, f"{self} is watched still"

        self._is_answered("accept")
        return self._channel

    def reset(self) -> None:
        """Answer no."""
        self._keeper = None
        self._is_answered("reset")
        self._channel.close()

    def _is_answered(self, answer: str) -> None:
        assert None is self.answer, f"{self} was answered {answer} after that"

        self.answer = answer
        self._transport.answered.append(self)

    def was_reset(self) -> bool:
        """Whether the peer has gone while the request waited."""
        assert None is self.answer

        return self.has_reset

    def watch_end(self, readiness: Readiness, keeper: RequestKeeper) -> None:
        """Tell when the peer goes; that it has gone already, as soon as the caller has returned."""
        assert None is self.answer
        assert None is self._keeper, f"{self} is watched already"

        self._keeper = keeper
        if self.has_reset:
            trio.lowlevel.current_trio_token().run_sync_soon(self._tell_end)

    def unwatch_end(self) -> None:
        """Tell nothing more."""
        self._keeper = None

    def _tell_end(self) -> None:
        if self._keeper is not None:
            self._keeper.peer_ended(self, PeerEnd.RESET)

    def watch(self, channel: Channel) -> Watch:
        """Make the watch of this channel."""
        return Watch(channel.fileno())

    def abort(self, channel: Channel) -> None:
        """Close with a reset."""
        assert "accept" == self.answer

        self.is_aborted = True
        channel.close()

    @property
    def is_open(self) -> bool:
        """Whether our side of it is open still."""
        return self._channel.fileno() >= 0

    def vanish(self) -> None:
        """The peer goes away, with a reset."""
        self.has_reset = True
        self._tell_end()

    def refuse(self) -> None:
        """What the kernel does with those whom nobody takes."""
        self.is_refused = True
        self._channel.close()

    def leave(self) -> None:
        """The test has no more use for this peer."""
        self.peer.close()


class ScriptedTransport(Transport):
    """Requests and faults, in the order in which a test put them there."""

    def __init__(self) -> None:
        self.script: deque[ScriptedRequest | Exception] = deque()
        """What comes next; no one has seen it yet."""
        self.taken: list[ScriptedRequest] = []
        """The requests that the owner has had, in order."""
        self.peers: list[ScriptedRequest] = []
        """All who ever came, in order."""
        self.answered: list[ScriptedRequest] = []
        """Those of them that were answered, in the order of the answers."""
        self.on_call: Callable[[str], object] = str
        """Called with the name, before anything that the owner asks for is done."""
        self.raised: list[Exception] = []
        """The faults that the owner has had."""
        self.short_since: float | None = None
        """When the owner was last told that there is no descriptor, on Trio's clock."""
        self._owner_looks = False
        self._is_listening = False
        self._is_closed = False

    # --- For the test -----------------------------------------------------------------------

    def arrive(self) -> ScriptedRequest:
        """A peer connects."""
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        request = ScriptedRequest(self, len(self.peers) + 1, theirs, ours)
        self.peers.append(request)
        self._append(request)
        return request

    def fault(self, error: Exception) -> None:
        """The next request is an error instead."""
        self._append(error)

    def forget(self, request: ScriptedRequest) -> None:
        """Hold the request no longer: whoever was given its channel is the only one who does."""
        for held in (self.peers, self.taken, self.answered):
            held.remove(request)
        request.leave()

    @property
    def waiting(self) -> int:
        """How much there is that nobody has seen."""
        return len(self.script)

    def cry_wolf(self) -> None:
        """An edge, and nothing behind it: the peer was gone before anybody looked."""
        if self._is_listening and not self._is_closed:
            self.edge()

    def _append(self, what: ScriptedRequest | Exception) -> None:
        if self._is_closed:  # the kernel refuses
            if isinstance(what, ScriptedRequest):
                what.refuse()
            return
        self.script.append(what)
        if not self._owner_looks:
            self._owner_looks = True
            if self._is_listening:
                self.edge()

    # --- The contract -----------------------------------------------------------------------

    async def bind(self) -> None:
        """Nothing is to be bound."""

    def listen(self, readiness: Readiness) -> None:
        """From now on edges come."""
        self._is_listening = True
        if self.script:
            self._owner_looks = True
            self.edge()

    @property
    def local_addresses(self) -> Sequence[Address]:
        """One."""
        return [HERE]

    def next_request(self) -> ScriptedRequest | None:
        """Do what the script says next."""
        assert self._is_listening
        assert not self._is_closed

        self.on_call("next_request")
        if not self.script:
            self._owner_looks = False  # so the next arrival is an edge
            return None
        what = self.script.popleft()
        if isinstance(what, Exception):
            self.raised.append(what)
            if isinstance(what, NoDescriptorsError):
                self.short_since = trio.current_time()
            raise what
        self.taken.append(what)
        return what

    def has_more(self) -> bool:
        """Whether there was an edge that nothing has followed yet."""
        self.on_call("has_more")
        return self._owner_looks and not self._is_closed

    def queue_depth(self) -> tuple[int, int]:
        """How many wait unseen."""
        return len(self.script), 1000

    def close(self) -> None:
        """Reset whoever waits unseen."""
        self._is_closed = True
        while self.script:
            what = self.script.popleft()
            if isinstance(what, ScriptedRequest):
                what.refuse()


class LoopbackRequest(ScriptedRequest):
    """A peer that is a real socket. Its number is ours; the kernel's port is nobody's business."""

    real: SocketRequest
    """What the kernel has accepted, once it has."""

    def was_taken(self, real: SocketRequest) -> None:
        """The kernel has accepted it."""
        self.real = real

    def accept(self) -> Channel:
        """Answer yes."""
        self._channel = self.real.accept()
        return super().accept()

    def reset(self) -> None:
        """Answer no."""
        self._is_answered("reset")
        self.real.reset()

    def was_reset(self) -> bool:
        """Whether the peer has gone: the kernel has to know, too."""
        has_reset = super().was_reset()

        assert has_reset is self.real.was_reset()

        return has_reset

    def watch_end(self, readiness: Readiness, keeper: RequestKeeper) -> None:
        """Have the kernel tell when the peer goes."""
        self._keeper = keeper
        self.real.watch_end(readiness, self)

    def unwatch_end(self) -> None:
        """Tell nothing more."""
        super().unwatch_end()
        self.real.unwatch_end()

    def peer_ended(self, request: TransportRequest, end: PeerEnd) -> None:
        """Pass on what the kernel has told."""
        assert self._keeper is not None

        self._keeper.peer_ended(self, end)

    def established(self, request: TransportRequest) -> None:
        """Never called: the kernel has shaken hands before."""

    def vanish(self) -> None:
        """Leave, where it can be seen when that has arrived."""
        if self in self._transport.taken and not self.has_reset:
            self.has_reset = True
            close_with_reset(self.peer)
            spin_until(self.real.was_reset)

    def watch(self, channel: Channel) -> Watch:
        """Make the watch of this channel."""
        return self.real.watch(channel)

    def abort(self, channel: Channel) -> None:
        """Close with a reset."""
        self.real.abort(channel)
        super().abort(channel)


class LoopbackTransport(ScriptedTransport):
    """The portable transport, and peers that come when a test says so. Only faults are not real."""

    def __init__(self) -> None:
        super().__init__()
        self._real = PortableTransport.tcp(0, host="127.0.0.1")
        self._port_of: dict[int, LoopbackRequest] = {}

    def _depth(self) -> int:
        depth = self._real.queue_depth()

        assert depth is not None

        return depth[0]

    @property
    def waiting(self) -> int:
        """How much there is that nobody has seen."""
        return len(self.script) + (0 if self._is_closed else self._depth())

    def arrive(self) -> ScriptedRequest:
        """A peer connects, and the kernel has it."""
        if self._is_closed:
            return super().arrive()
        depth = self._depth()
        peer = socket.create_connection(("127.0.0.1", self._real.local_addresses[0].port), PATIENCE)
        spin_until(lambda: depth < self._depth())
        # Until it is accepted, its end is the only one that we have.
        request = LoopbackRequest(self, len(self.peers) + 1, peer, peer)
        self.peers.append(request)
        self._port_of[peer.getsockname()[1]] = request
        return request

    def fault(self, error: Exception) -> None:
        """The next request is an error instead."""
        if not self._is_closed:
            self.script.append(error)
            self.edge()

    async def bind(self) -> None:
        """Take a port."""
        await self._real.bind()

    def listen(self, readiness: Readiness) -> None:
        """From now on edges come."""
        self._real.edge = self.edge
        self._is_listening = True
        self._real.listen(readiness)

    def next_request(self) -> ScriptedRequest | None:
        """Raise what the script says, or accept the next peer."""
        if self.script:
            return super().next_request()
        self.on_call("next_request")
        real = self._real.next_request()
        if real is None:
            return None
        request = self._port_of[real.remote_address.port]
        request.was_taken(real)
        self.taken.append(request)
        return request

    def has_more(self) -> bool:
        """Whether there is a fault, or a socket that has not said that it has no more."""
        self.on_call("has_more")
        return bool(self.script) or self._real.has_more()

    def close(self) -> None:
        """Have the kernel reset whoever waits unseen."""
        super().close()
        self._real.close()
        for request in self.peers:
            if request not in self.taken and not request.is_refused:
                request.refuse()
