"""Where a check plays: a transport, an owner for it, and peers that connect to it.

The owner does what a listening block does: it sets `Transport.edge`, binds, listens, drives
the readiness in a task of its own, and takes requests until there are no more. And it keeps
its ears open: what a transport may not do at any time is noticed here, in every check.

PYTEST_DONT_REWRITE: what is asserted here has a sentence of its own, and its values can be long.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio
import trio.testing

from trio_wsk._vocabulary.verdict import InspectPoint
from trio_wsk.transports._contract import PeerFaultError

from ._peer import Peer
from ._referee import Referee, complaining
from ._visitor import Visitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_wsk._engine.readiness import Readiness
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.transports._contract import TransportRequest

    from ._harness import TransportHarness

__all__ = ["Stage", "open_stage"]


class Stage(Referee):
    """A transport and its owner, who is the referee as well."""

    def __init__(
        self, harness: TransportHarness[Any], nursery: trio.Nursery, *, complaints: list[str]
    ) -> None:
        super().__init__(harness, complaints)
        self.transport: Final = harness.transport()
        self.edges = 0
        """How often the transport has said that there may be something."""
        self.readiness: Readiness
        self._nursery = nursery
        self._edge = trio.Event()
        self._is_asking = False
        self._peers: list[Peer] = []
        self._visitors: list[Visitor] = []
        self._others: list[Stage] = []
        if harness.inspect_point is not self.transport.inspect_point:
            self.transport.inspect_at(harness.inspect_point)
        self.transport.edge = self._on_edge

    def _on_edge(self) -> None:
        if self._is_asking:
            self.complain("edge was called from within next_request")
        self.edges += 1
        self._edge.set()

    # --- The owner -------------------------------------------------------------------------

    async def bind(self) -> None:
        """Bind the transport."""
        async with self.within("bind() did not return"):
            await self.transport.bind()

    def make_readiness(self) -> Readiness:
        """Make the pump's readiness, and the pump."""
        self.readiness = self.transport.pump_readiness(self._nursery.start_soon)
        self._nursery.start_soon(self._pump)
        return self.readiness

    async def _pump(self) -> None:  # noqa: ASYNC910 - it never returns
        readiness = self.readiness
        try:
            while True:
                await readiness.park()
                readiness.poll()
        finally:
            readiness.close()

    async def listen(self) -> None:
        """Bind, and have requests appear."""
        await self.bind()
        self.transport.listen(self.make_readiness())

    async def another(self) -> Stage:
        """Have one more transport of the same harness listen."""
        other = Stage(self.harness, self._nursery, complaints=self._complaints)
        self._others.append(other)
        await other.listen()
        return other

    @property
    def address(self) -> Address:
        """The address to connect to."""
        return self.transport.local_addresses[0]

    def next_request(self) -> TransportRequest | None:
        """Ask for the next request, once; what failed by its own fault is none."""
        self._is_asking = True
        try:
            return self.transport.next_request()
        except PeerFaultError:
            return self.next_request()
        finally:
            self._is_asking = False
            self.transport.flush()  # each is a batch of its own

    async def request(self) -> TransportRequest:
        """Wait for the next request, as a pump does."""
        async with self.within("a peer has connected, and no request came: no edge was told"):
            while (request := self.next_request()) is None:
                await self.edge()
        return request

    async def edge(self) -> None:
        """Wait for the next edge, or for the last one that nobody has waited for."""
        await self._edge.wait()
        self._edge = trio.Event()

    def drain(self) -> None:
        """Ask until there is nothing; what there is, is turned away."""
        while (request := self.next_request()) is not None:
            request.reset()

    # --- Peers -----------------------------------------------------------------------------

    async def peer(self, address: Address | None = None) -> Peer:
        """Have a peer connect; return when its request is on its way."""
        peer = Peer(self)
        self._peers.append(peer)
        self._nursery.start_soon(peer.connect, address or self.address)
        if self.harness.inspect_point is InspectPoint.AFTER_HANDSHAKE:
            await peer.answered()
        else:
            await trio.testing.wait_all_tasks_blocked()
        return peer

    def attempt(self, address: Address, source: Address | None = None) -> Peer:
        """Have a peer connect that may well be refused, or has to wait."""
        peer = Peer(self)
        self._peers.append(peer)
        self._nursery.start_soon(peer.connect, address, source)
        return peer

    async def visitor(self) -> Visitor:
        """Have a peer connect, and take its request."""
        peer = await self.peer()
        return self.take(peer, await self.request())

    def take(self, peer: Peer, request: TransportRequest) -> Visitor:
        """Keep a request together with its peer."""
        visitor = Visitor(self, self.readiness, peer, request)
        self._visitors.append(visitor)
        return visitor

    async def established(self) -> Visitor:
        """Have a peer connect, take its request, and watch it until its handshake is over.

        Then its listening socket may ask about it again, if it appeared before that.
        """
        visitor = await self.visitor()
        visitor.watch_end()
        await visitor.establish()
        return visitor

    async def connection(self) -> Visitor:
        """Have a peer connect, and let it through."""
        visitor = await self.visitor()
        await visitor.let_through()
        return visitor

    @property
    def ends_of_turned_away(self) -> set[str]:
        """How a peer may see that it was turned away with a reset."""
        if self.harness.inspect_point is InspectPoint.BEFORE_HANDSHAKE:
            return {"refused"}
        return {"reset"} if self.harness.has_reset else {"reset", "fin"}

    # --- The end ---------------------------------------------------------------------------

    def close(self) -> None:
        """Let everything go."""
        for other in self._others:
            other.close()
        for visitor in self._visitors:
            visitor.close()
        for peer in self._peers:
            peer.leave_with_reset()
        self.transport.close()


@asynccontextmanager
async def open_stage(harness: TransportHarness[Any]) -> AsyncIterator[Stage]:
    """Open a stage; its transport is neither bound nor listening."""
    complaints: list[str] = []
    async with trio.open_nursery() as nursery:
        stage = Stage(harness, nursery, complaints=complaints)
        with complaining(complaints):
            try:
                yield stage
            finally:
                stage.close()
                nursery.cancel_scope.cancel()
