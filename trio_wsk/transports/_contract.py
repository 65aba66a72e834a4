"""The contract of a transport: how connection requests appear, and how they are answered.

A transport decides nothing. A transport binds, listens, yields requests, and gives each one the
answer that the listening socket, whose policy that is, has decided on.

Three shapes have to fit through here, so nothing in the contract is a socket:

* the portable transport, whose request is an accepted connection that nobody has
  seen yet, and whose channel is a non-blocking ``_socket.socket`` as it stands;
* a network in memory, whose channels have no descriptor;
* inspection before the handshake, where a request exists before any socket does.

`Transport` stands here, `TransportRequest` and what belongs to it in `_transport_request`, and
what can fail in `_failures`. All of them are imported from here, which is the door of this room.

To make your own, subclass `Transport` and `TransportRequest` and hand the transport to
``open_listening_socket(transport=...)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from trio_wsk._engine.choice import open_pump_readiness
from trio_wsk._vocabulary.errors import InspectPointError
from trio_wsk._vocabulary.verdict import CloseStyle, InspectPoint

from ._failures import FAULTS_IN_A_ROW, NoDescriptorsError, PeerFaultError, TransportFailedError
from ._transport_request import (
    IDEAL_SEND_BACKLOG,
    Channel,
    PeerEnd,
    RequestKeeper,
    TransportRequest,
    next_serial_number,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import trio

    from trio_wsk._engine.readiness import Readiness, Watch
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.refused import RefusedNetworks, RefusedSources

__all__ = [
    "FAULTS_IN_A_ROW",
    "IDEAL_SEND_BACKLOG",
    "Channel",
    "NoDescriptorsError",
    "PeerEnd",
    "PeerFaultError",
    "RequestKeeper",
    "Transport",
    "TransportFailedError",
    "TransportRequest",
    "next_serial_number",
]


def _always() -> bool:
    return True


class Transport(ABC):
    """Where requests come from. One listening block owns it, from bind to close."""

    edge: Callable[[], None]
    """Set by the owner before `listen`: call it when `next_request` may have something
    after it had nothing.

    The owner may stop asking before it has seen None. Then a new arrival is an edge, too,
    unless `has_more` has been true all the while."""

    inspect_point: InspectPoint = InspectPoint.AFTER_HANDSHAKE
    """When requests appear. `inspect_at` changes it."""

    takes: Callable[[], bool] = staticmethod(_always)
    """Set by the owner before `listen`: whether it takes one more connection that was approved.

    A transport whose requests appear before the handshake asks each time before it takes such a
    connection from the system, and says that it is `~RequestKeeper.established`. If not, the
    connection stays where it is until `take_established`."""

    def take_established(self) -> None:  # noqa: B027 - most transports leave none behind
        """Take from the system again what `takes` has left there.

        Nothing is told from inside this call. Never raises.
        """

    def inspect_at(self, point: InspectPoint) -> None:
        """Have requests appear at this point; called before `bind`.

        Raises:
          InspectPointError: that can't be had here; the message says why.
        """
        if point is not InspectPoint.AFTER_HANDSHAKE:
            raise InspectPointError(
                f"{type(self).__name__} sees connections after the kernel has answered the"
                " handshake, and can't be asked before it"
            )

    def refuse_sources(self, refused: Sequence[RefusedNetworks | RefusedSources]) -> None:  # noqa: B027 - it need not
        """Be told whom the inspector's rules refuse by their address alone; before `listen`.

        A transport may refuse those by itself from now on until it is closed, without a request,
        if that is cheaper: in the order of the rules, as each says, and nobody else. What it can't
        have it leaves to the rules, which are asked about whoever comes through. Never raises.

        Args:
          refused: What each rule says, which changes: see `RefusedNetworks` and `RefusedSources`.
        """

    def close_styles(self) -> frozenset[CloseStyle]:
        """Return how a peer can be turned away here, at the present `inspect_point`.

        `CloseStyle.RESET` is always among them. Where `CloseStyle.FIN` is, there can be a
        message before it: that is the listening socket's work.
        """
        return frozenset({CloseStyle.RESET})

    def close_styles_when_established(self) -> frozenset[CloseStyle]:
        """Return how a peer can be turned away here whose handshake is over.

        Where requests appear before the handshake that may be in more ways than `close_styles` has:
        of those that were approved, and are turned away all the same.
        """
        return self.close_styles()

    @abstractmethod
    async def bind(self) -> None:
        """Take the addresses. No request appears yet.

        Raises:
          BindError: an address can't be had. The transport is closed then, as it is
            when this is cancelled.
          InspectPointError: requests can't be inspected at the point that was chosen; so, too.
        """

    @abstractmethod
    def listen(self, readiness: Readiness) -> None:
        """From now on requests appear; ``readiness`` is the owner's pump's.

        Raises:
          BindError: somebody was faster between `bind` and here: on Linux two sockets may
            be bound to one port, and the second to listen is told. The transport is closed.
        """

    @property
    @abstractmethod
    def local_addresses(self) -> Sequence[Address]:
        """The addresses that are bound, with the port the kernel chose."""

    @abstractmethod
    def next_request(self) -> TransportRequest | None:
        """Return the next request, or None; after None `edge` is called for the next one.

        Raises:
          PeerFaultError: this one request failed; go on.
          NoDescriptorsError: try again later, or `shed`.
          TransportFailedError: the transport itself has failed.
        """

    def flush(self) -> None:  # noqa: B027 - most transports answer at once
        """Say what was answered since the last `next_request`.

        A transport may hold answers back from the moment when `next_request` returns a
        request until the owner calls this, which it does after each batch of requests; so that
        it can say many at once. Never raises.
        """

    @abstractmethod
    def has_more(self) -> bool:
        """Whether `next_request` is worth asking without an edge."""

    def look(self) -> None:  # noqa: B027 - most transports know at once who has come
        """Find who has come, also where no edge has told of it yet: somebody wants to know now.

        Afterwards `has_more` and `next_request` know of every connection that the system has
        by then, if requests appear after the handshake. Never waits, and tells no edge.
        """

    def keep_spare(self) -> bool:
        """Set a descriptor aside for `shed`; False if there is none to be had."""
        return False

    def shed(self) -> bool:
        """Out of descriptors: reset the oldest waiting request with the one set aside.

        Returns:
          Whether one was. Not without a spare descriptor, not if nobody waits, and not if
          the transport has failed, which the next `next_request` says.
        """
        return False

    def queue_depth(self) -> tuple[int, int] | None:
        """How many connections wait in the kernel for accept, and how many may; None if unknown."""
        return None

    def counters(self) -> Mapping[str, int]:
        """What this transport has counted by itself, by names of its own."""
        return {}

    def public_sockets(self) -> Sequence[trio.socket.SocketType]:
        """The listening sockets, for those who look at them."""
        return ()

    def leave(self) -> bool:
        """Leave what is queued to others, if others take it: a drain begins, or the end.

        They are processes that share the queue, or have it after us.

        Returns:
          Whether the transport has stopped listening. Then no more requests appear, those that
          are connections go on, and those whose handshake is not over are gone from here: their
          peers hear nothing, and may ask the others again. If not, nothing has happened: the
          queue is the owner's to take before it closes. Never raises.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """Stop listening; the kernel resets what it has queued. Never raises, idempotent."""

    def pump_readiness(
        self, start_soon: Callable[[Callable[..., Awaitable[object]], Watch, int], object]
    ) -> Readiness:
        """Make the readiness that the listening block's pump drives."""
        return open_pump_readiness(start_soon)
