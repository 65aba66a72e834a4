"""What the tests of the portable transport share: an owner for it, and a keeper."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from tests.helpers.driven import driven
from tests.helpers.support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.transports import PeerEnd, PortableTransport, Readiness, TransportRequest
    from trio_wsk.transports._socket_request import SocketRequest


class Owner:
    """What a listening block is to its transport: it waits for edges and takes requests."""

    def __init__(self, transport: PortableTransport, readiness: Readiness) -> None:
        self.transport = transport
        self.readiness = readiness
        self.edges = 0
        """How often the transport has said that there may be something."""
        self._edge = trio.Event()
        transport.edge = self._on_edge

    def _on_edge(self) -> None:
        self.edges += 1
        self._edge.set()

    @property
    def address(self) -> Address:
        """The address that is bound, of a transport that has one."""
        (address,) = self.transport.local_addresses
        return address

    async def request(self) -> SocketRequest:
        """Return the next request, waiting for it as a pump would."""
        with trio.fail_after(PATIENCE):
            while (request := self.transport.next_request()) is None:
                await self.edge()
        return request

    async def edge(self) -> None:
        """Wait for the next edge, or the last one that nobody has waited for."""
        with trio.fail_after(PATIENCE):
            await self._edge.wait()
        self._edge = trio.Event()


class Keeper:
    """Who keeps a request, and writes down what it is told of its peer's end."""

    def __init__(self) -> None:
        self.told: list[PeerEnd] = []
        """The ways in which the peer has left, in order."""
        self.is_calling = False
        """Set it around a call, to have being told from inside of it fail."""
        self._is_told = trio.Event()

    def peer_ended(self, request: TransportRequest, end: PeerEnd) -> None:
        """Write it down."""
        assert not self.is_calling, "told from inside a call"
        assert end not in self.told, "told twice"

        self.told.append(end)
        self._is_told.set()

    def established(self, request: TransportRequest) -> None:
        """Never called: the kernel has shaken hands before there is a request."""
        raise AssertionError

    def watch(self, request: TransportRequest, readiness: Readiness) -> None:
        """Ask to be told."""
        self.is_calling = True
        request.watch_end(readiness, self)
        self.is_calling = False

    async def is_told(self, end: PeerEnd) -> None:
        """Wait until this is the last that was told."""
        with trio.fail_after(PATIENCE):
            while self.told[-1:] != [end]:
                await self._is_told.wait()
                self._is_told = trio.Event()


@asynccontextmanager
async def owning(
    transport: PortableTransport, *, edge_triggered: bool = True
) -> AsyncIterator[Owner]:
    """Bind the transport, let it listen, and close it at the end."""
    async with driven(edge_triggered=edge_triggered) as readiness:
        owner = Owner(transport, readiness)
        try:
            await transport.bind()
            transport.listen(readiness)
            yield owner
        finally:
            transport.close()
