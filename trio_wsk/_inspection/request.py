"""One connection request, as an inspector sees it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, final

from trio_wsk._connection.carried import Carried
from trio_wsk._engine.callers import check_caller
from trio_wsk._vocabulary.arguments import check_plain_function
from trio_wsk._vocabulary.errors import InvalidDeviceStateError
from trio_wsk._vocabulary.verdict import InspectId, InspectPoint

from .scope import VerdictScope
from .table import ENDED, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio
    from typing_extensions import TypeVarTuple, Unpack

    from trio_wsk._connection.block import Block
    from trio_wsk._listening.listening import ListeningSocket
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.credentials import PeerCredentials
    from trio_wsk._vocabulary.facts import Facts
    from trio_wsk._vocabulary.records import RequestAborted
    from trio_wsk._vocabulary.verdict import Verdict
    from trio_wsk.transports._contract import TransportRequest
    from trio_wsk.transports._syn import Syn

    Ts = TypeVarTuple("Ts")

__all__ = ["PEEK_LIMIT", "ConnectionRequest"]

PEEK_LIMIT = 16384
"""How many first octets can be looked at. A TLS record has no more, and TCP's receive buffer
holds them whatever the segments they came in, if nobody has made it smaller."""


class Inspector(Protocol):
    """Who asks about a request and carries the answer out: what a request needs to know of it."""

    key: int
    block: Block
    listening: ListeningSocket
    inspect_timeout: float

    peek: Callable[[ConnectionRequest, int, int | None], Awaitable[bytes]]
    """Looks at the first octets."""
    look: Callable[[ConnectionRequest, int], bytes]
    """Looks at what has come of them."""
    consume: Callable[[ConnectionRequest, int], None]
    """Takes octets that were looked at."""


@final
class ConnectionRequest:
    """A peer that wants to connect, and that has not been let through yet.

    An inspector is given one, and `ListeningSocket.pending_inspections` has those that wait
    for their verdict.
    """

    __slots__ = (
        "_carried",
        "_inspection",
        "_inspector",
        "_is_connected",
        "_is_watched",
        "_number",
        "_scope",
        "_state",
        "_transport_request",
        "_verdict",
        "aborted",
        "arrived_at",
    )

    def __init__(
        self, inspector: Inspector, transport_request: TransportRequest, arrived_at: float
    ) -> None:
        """Made by the listening socket, never by you."""
        self._inspector = inspector
        self._transport_request = transport_request
        self._number = transport_request.serial_number
        self._state = State.ARRIVED
        self._verdict: Verdict | None = None
        self._scope: VerdictScope | None = None  # once somebody needs it
        self._inspection: Any = None  # what an async inspector awaits, and then has answered
        self._is_watched = False
        self._is_connected = False  # established, of one that is asked about in two stages
        self._carried: Carried | None = None  # once it carries something
        self.arrived_at: float = arrived_at
        """When it arrived, in seconds on Trio's clock."""
        self.aborted: RequestAborted | None = None
        """Who left and when, once somebody has; None as long as there is a peer to answer to."""

    def __repr__(self) -> str:
        return f"<ConnectionRequest {self._state.value} from {self.remote_address}>"

    @property
    def inspect_id(self) -> InspectId:
        """What `ListeningSocket.inspect_complete` wants to know it by."""
        return InspectId(self._inspector.key, self._number)

    @property
    def local_address(self) -> Address:
        """Where the peer wants to connect to; where it has connected to a proxy, as that says."""
        carried = self._carried
        if carried is not None and carried.recovered is not None:
            return carried.recovered.local_address
        return self._transport_request.local_address

    @property
    def remote_address(self) -> Address:
        """Who wants to connect. Before the handshake it is not proven: anybody can write it.

        When a `~trio_wsk.inspectors.ProxyProtocol` has read whom a proxy speaks for, that one.
        """
        carried = self._carried
        if carried is not None and carried.recovered is not None:
            return carried.recovered.remote_address
        return self._transport_request.remote_address

    @property
    def transport_remote_address(self) -> Address:
        """Who wants to connect, as the kernel says: a proxy perhaps."""
        return self._transport_request.remote_address

    @property
    def transport_local_address(self) -> Address:
        """The address of this machine that it wants to connect to, as the kernel says."""
        return self._transport_request.local_address

    @property
    def peer_credentials(self) -> PeerCredentials | None:
        """The process, user and group of who wants to connect to a Unix socket; else None.

        As `Connection.peer_credentials`: the kernel vouches for them.
        """
        return self._transport_request.peer_credentials()

    @property
    def inspect_point(self) -> InspectPoint:
        """When it has appeared, and so what its peer knows by now.

        Of a listening socket that inspects before the handshake, a request may come after it all
        the same: when the kernel has used SYN cookies, or could not hold one more SYN.
        """
        return self._transport_request.inspect_point

    @property
    def stage(self) -> InspectPoint:
        """What is asked about it now: what can be known before its handshake, or after it.

        That is `inspect_point`, and later `InspectPoint.AFTER_HANDSHAKE` if it came before it and
        is asked about in two stages, as `~trio_wsk.inspectors.Rules` may: see
        :ref:`the order of stages <order-of-stages>`.
        """
        if self._is_connected:
            return InspectPoint.AFTER_HANDSHAKE
        return self._transport_request.inspect_point

    @property
    def syn(self) -> Syn | None:
        """What the peer's SYN says: window, options, how many hops are left.

        There before the handshake; None after it. None of it is proven.

        Source: RFC 9293, section 3.1.
        """
        return self._transport_request.syn

    @property
    def listening(self) -> ListeningSocket:
        """The listening socket that was asked."""
        return self._inspector.listening

    @property
    def context(self) -> object:
        """The listening socket's context: whatever `open_listening_socket` was given."""
        return self._inspector.listening.context

    @property
    def facts(self) -> Facts:
        """What was found out about the peer, by type.

        It goes on as `Connection.facts`: add to that when the request has become a connection.
        """
        return self._carries().facts

    def at_end(self, callback: Callable[[Unpack[Ts]], object], *args: Unpack[Ts]) -> None:
        """Have ``callback(*args)`` called once, however this request or its connection ends.

        So a rule gives back what it has taken: a place, a permit, an entry in a table. It is
        called in the pump when the request was rejected or aborted, or when its connection was
        closed on this side, handed over, or dropped; soon, if that was so already. Callbacks of
        one request are called in the order in which they were given. For a connection that has
        outlived its listening block there is no pump: then it is called where that is closed.

        What it raises is reported, and changes nothing.

        Args:
          callback: A plain function.
          args: What it is called with.

        Raises:
          InvalidParameterError: it is no plain function. (Yours.)
          InvalidDeviceStateError: the request has become a connection. (Yours.)
          RuntimeError: from outside the Trio run. (Yours.)
        """
        check_plain_function("request.at_end", callback)
        check_caller(self._inspector.block.home, "request.at_end")
        if self._state is State.DELIVERED:
            raise InvalidDeviceStateError(
                f"the request of {self.remote_address} has become a connection: what is taken from"
                " now on is to be given back by whoever has that"
            )
        self._carries().at_end(partial(callback, *args) if args else callback)

    def _carries(self) -> Carried:
        if self._carried is None:
            self._carried = Carried(self._inspector.block, self.remote_address)
            if self._state in ENDED:
                self._carried.end()
        return self._carried

    @property
    def deadline(self) -> float:
        """When the time for a verdict is over, in seconds on Trio's clock: of both stages."""
        return self.arrived_at + self._inspector.inspect_timeout

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """Cancelled when no verdict is wanted any more: `aborted` says why.

        An async inspector runs inside it. For one that pended it is there to be entered, once,
        by whoever works on the verdict. Where there are two stages each has its own, and all of
        them are cancelled.
        """
        if self._scope is None:
            self._scope = VerdictScope()
        return self._scope.shared()

    def _callback_failed(self, error: BaseException) -> None:
        """Take no note: that its inspector failed is its verdict."""

    async def peek(self, count: int, *, least: int | None = None) -> bytes:
        """Look at the first octets that the peer sends, and leave them for who accepts it.

        Waits until there are ``least`` or the peer has finished, and no longer than
        `deadline`, when the request is aborted and `cancel_scope` cancelled.

        Args:
          count: How many are wanted, 1 to 16384.
          least: How many are waited for, 1 to ``count``; without it, all of them.

        They wait in the kernel, which has so much room for what nobody takes: in TCP about half of
        what the listening socket's SO_RCVBUF says, which is enough for any count from 32768 on, as
        it is by default. On a Unix socket each piece that the peer sends takes 768 octets
        of its own SO_SNDBUF, however small it is: by default there is room for 250 pieces. Who
        asks for more than there is room for has the peer run out of time.

        Returns:
          ``count`` octets at most; fewer than ``least`` only if the peer has finished sending.

        Raises:
          InvalidParameterError: other counts. (Yours.)
          InvalidDeviceStateError: before the handshake there are no octets; or the request has
            had its verdict. (Yours.)
          SocketBusyError: another task is peeking. (Yours.)
          ConnectionBrokenError: the peer has left, or was sent away; so is one that has sent
            what can't be looked past: urgent data before Linux 6.9, and outside of Linux. In
            `cancel_scope` you are cancelled instead.

        Always a checkpoint. If cancelled, nothing was taken, as always.

        Source: MSG_PEEK, recv(2).
        """
        return await self._inspector.peek(self, count, least)
