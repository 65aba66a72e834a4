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

from trio_wsk import Address
from trio_wsk._readiness import Watch
from trio_wsk._transport import next_serial_number
from trio_wsk.transports import NoDescriptorsError, Transport, TransportRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_wsk._readiness import Readiness
    from trio_wsk.transports import Channel

HERE = Address.tcp(IPv4Address("192.0.2.1"), 80)
THERE = IPv4Address("192.0.2.2")


class ScriptedRequest(TransportRequest):
    """A peer, and what it was answered. Its number is the port that it comes from."""

    def __init__(self, transport: ScriptedTransport, number: int) -> None:
        self._transport = transport
        self._serial_number = next_serial_number()
        self.number = number
        ours, self.peer = socket.socketpair()
        ours.settimeout(0)
        self._channel = ours
        self.has_reset = False
        """The peer has gone; the owner finds out when it looks."""
        self.answer: str | None = None
        """``accept`` or ``reset``, once there is one."""
        self.is_aborted = False
        self.is_refused = False
        """Nobody has ever seen it: it came too late, or waited when the transport was closed."""

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
        self._is_answered("accept")
        return self._channel

    def reset(self) -> None:
        """Answer no."""
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
        self.answered: list[ScriptedRequest] = []
        """Those of them that were answered, in the order of the answers."""
        self.on_call: Callable[[str], object] = str
        """Called with the name, before anything that the owner asks for is done."""
        self.raised: list[Exception] = []
        """The faults that the owner has had."""
        self.short_since: float | None = None
        """When the owner was last told that there is no descriptor, on Trio's clock."""
        self.arrived = 0
        self._owner_looks = False
        self._is_listening = False
        self._is_closed = False

    # --- For the test -----------------------------------------------------------------------

    def arrive(self) -> ScriptedRequest:
        """A peer connects."""
        self.arrived += 1
        request = ScriptedRequest(self, self.arrived)
        self._append(request)
        return request

    def fault(self, error: Exception) -> None:
        """The next request is an error instead."""
        self._append(error)

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
