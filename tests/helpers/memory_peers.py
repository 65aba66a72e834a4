"""What the tests of the network in memory share: an owner for its transport, a keeper, peers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from tests.helpers.driven import drive
from trio_wsk._vocabulary.verdict import InspectPoint
from trio_wsk.testing import MemoryNetwork, SegmentKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_wsk._engine.readiness import Readiness
    from trio_wsk.testing import MemoryStream, MemoryTransport, Segment
    from trio_wsk.testing._carrier import Carrier
    from trio_wsk.testing._channel import MemoryChannel
    from trio_wsk.testing._endpoint import Endpoint
    from trio_wsk.testing._memory_request import MemoryRequest
    from trio_wsk.transports._contract import PeerEnd, TransportRequest

SERVER: Final = "192.0.2.1"
CLIENT: Final = "192.0.2.2"
PLACE: Final = (SERVER, 80)

BEFORE: Final = InspectPoint.BEFORE_HANDSHAKE
AFTER: Final = InspectPoint.AFTER_HANDSHAKE


class Keeper:
    """A `RequestKeeper` that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[PeerEnd | str] = []
        """Ends, and ``"established"``."""
        self.at: list[float] = []
        """When."""

    def peer_ended(self, request: TransportRequest, end: PeerEnd) -> None:
        """Take note."""
        self.told.append(end)
        self.at.append(trio.current_time())

    def established(self, request: TransportRequest) -> None:
        """Take note."""
        self.told.append("established")
        self.at.append(trio.current_time())


class Scene:
    """A network with one listening transport, which its owner asks when it says so."""

    def __init__(self, network: MemoryNetwork, transport: MemoryTransport) -> None:
        self.network = network
        self.transport = transport
        self.trace: list[Segment] = []
        """Every segment since `record`."""
        self.edges = 0
        """How often the transport has said that there may be something."""
        self.readiness: Readiness
        transport.edge = self._on_edge

    def _on_edge(self) -> None:
        self.edges += 1

    def record(self) -> None:
        """Take note of all segments from now on."""
        self.network.on_segment = self.trace.append

    def sent(self, *kinds: SegmentKind, by: str | None = None) -> list[float]:
        """Return when segments of these kinds were sent, by this host or by any."""
        return [
            segment.at
            for segment in self.trace
            if segment.kind in kinds and (by is None or str(segment.source.host) == by)
        ]

    def open(self, client: str = CLIENT) -> MemoryStream:
        """Have a client send its first SYN."""
        return self.network.host(client).open_connection(PLACE)

    def request(self) -> MemoryRequest:
        """Return the next request, which is there."""
        request = self.transport.next_request()
        assert request is not None
        return request

    @property
    def carrier(self) -> Carrier:
        """What is behind the network."""
        return self.network._carrier  # noqa: SLF001 - to see that nothing is left

    def endpoint_of(self, stream: MemoryStream) -> Endpoint:
        """Return what is behind a stream."""
        return stream._endpoint  # noqa: SLF001 - what it shows of itself is less

    def come_from(self, stream: MemoryStream) -> None:
        """Have the next client come from the same port as this one did, which knows no more."""
        self.carrier.ends.pop(self.endpoint_of(stream).key, None)
        host = self.network.host(CLIENT)
        host._ports.next = stream.local_address.port  # noqa: SLF001 - chance would take long

    def fill(self, stream: MemoryStream) -> int:
        """Send until there is no room; return how many octets."""
        total = 0
        while taken := self.endpoint_of(stream).put(bytes(10_000)):
            self.carrier.flush()
            total += taken
        return total

    async def arrived(self) -> MemoryRequest:
        """Wait for the next request."""
        while not self.transport.has_more():  # noqa: ASYNC110 - of an edge only the owner is told
            await trio.sleep(0.371)
        return self.request()

    async def pair(self) -> tuple[MemoryStream, MemoryChannel]:
        """Connect a client; return its stream and the server's channel."""
        stream = await self.network.host(CLIENT).connect(PLACE)
        request = await self.arrived()
        request.approve()
        return stream, request.accept()

    def watched(self) -> tuple[MemoryRequest, Keeper]:
        """Return the next request, and who is told of its end from now on."""
        request, keeper = self.request(), Keeper()
        request.watch_end(self.readiness, keeper)
        return request, keeper


@asynccontextmanager
async def scene(
    *,
    point: InspectPoint = AFTER,
    backlog: int = 128,
    latency: float = 0.0,
    loss: float = 0.0,
    seed: int = 0,
) -> AsyncIterator[Scene]:
    """Have a server on `PLACE`, whose readiness is driven as a listening block does it."""
    network = MemoryNetwork(latency=latency, loss=loss, seed=seed)
    transport = network.host(SERVER).transport(80, backlog=backlog)
    result = Scene(network, transport)
    transport.inspect_at(point)
    await transport.bind()
    async with trio.open_nursery() as nursery:
        result.readiness = transport.pump_readiness(nursery.start_soon)
        transport.listen(result.readiness)
        nursery.start_soon(drive, result.readiness)
        yield result
        transport.close()
        nursery.cancel_scope.cancel()
    result.readiness.close()


async def fate_of(client: MemoryStream) -> str:
    """Wait until a client knows what has become of it, and say that in one word."""
    try:
        await client.established()
        while await client.receive_some():
            pass
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "timed out"
    except trio.BrokenResourceError:
        return "reset"
    return "fin"
