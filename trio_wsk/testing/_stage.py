"""Where a check plays: a transport, an owner for it, and peers that connect to it.

The owner does what a listening block does: it sets `Transport.edge`, binds, listens, drives
the readiness in a task of its own, and takes requests until there are no more. And it keeps
its ears open: what a transport may not do at any time is noticed here, in every check.

PYTEST_DONT_REWRITE: what is asserted here has a sentence of its own, and its values can be long.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio
import trio.testing

from trio_wsk._engine.readiness import READ, WRITE, task_readiness
from trio_wsk._vocabulary.verdict import InspectPoint
from trio_wsk.transports._contract import PeerFaultError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator

    from trio_wsk import Address
    from trio_wsk._engine.readiness import Readiness, Watch
    from trio_wsk.transports._contract import Channel, PeerEnd, TransportRequest

    from ._harness import TransportHarness

__all__ = ["Ear", "Keeper", "Peer", "Stage", "Visitor", "now", "open_stage", "pattern"]

T = TypeVar("T")

LARGE: Final = 1 << 26
"""64 MiB: a channel that takes more than this, and nobody reads, never pushes back."""

POLL_SECONDS: Final = 0.001
"""How soon one looks again for what nobody announces; then less and less often."""

POLLS: Final = 100
"""How often one looks at least within the time that is given."""


def now(call: Callable[[], T]) -> T | None:
    """Return what a channel's method returns; None if it would have to wait."""
    try:
        return call()
    except BlockingIOError:
        return None


def pattern(start: int, size: int) -> bytes:
    """Return octets of an endless sequence in which each place can be told from its neighbours."""
    block = bytes(range(251))
    first = start % len(block)
    return (block * (size // len(block) + 2))[first : first + size]


class Peer:
    """A client, from the moment when it begins to connect."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._scope = trio.CancelScope()
        self._stream: trio.abc.HalfCloseableStream | None = None
        self._error: OSError | None = None
        self._is_answered = trio.Event()
        self._has_left = False

    async def connect(self, address: Address) -> None:
        """Connect, however long it takes."""
        with self._scope:
            try:
                self._stream = await self._stage.harness.connect(address)
            except OSError as error:
                self._error = error
        self._is_answered.set()
        await trio.lowlevel.checkpoint()

    @property
    def is_answered(self) -> bool:
        """Whether ``connect`` has ended, one way or the other."""
        return self._is_answered.is_set()

    @property
    def stream(self) -> trio.abc.HalfCloseableStream:
        """The client, which is connected by now."""
        assert self._stream is not None, f"the peer is not connected: {self._error!r}"
        return self._stream

    async def answered(self) -> None:
        """Wait until it is connected, or was turned away."""
        async with self._stage.within("a peer that was let through was not connected"):
            await self._is_answered.wait()

    async def connected(self) -> trio.abc.HalfCloseableStream:
        """Wait until it is connected."""
        await self.answered()
        return self.stream

    @asynccontextmanager
    async def _talking(self, failure: str) -> AsyncIterator[None]:
        """Give what is in the block a bounded time, and an end to its connection is a failure."""
        async with self._stage.within(failure):
            try:
                yield
            except trio.BrokenResourceError as error:
                raise AssertionError(f"{failure}: its connection is broken") from error

    async def send(self, data: bytes) -> None:
        """Send octets."""
        async with self._talking("a peer could not send"):
            await self.stream.send_all(data)

    async def receive(self, size: int) -> bytes:
        """Receive so many octets, fewer if the other side finishes."""
        data = bytearray()
        async with self._talking(f"a peer did not get {size} octets that were sent to it"):
            while len(data) < size:
                chunk = await self.stream.receive_some(size - len(data))
                if not chunk:
                    break
                data += chunk
        return bytes(data)

    async def finish(self) -> None:
        """Send FIN."""
        await self.stream.send_eof()

    async def leave(self) -> None:
        """Close in good order; one that is still connecting gives up."""
        self._has_left = True
        self._scope.cancel()
        await self._is_answered.wait()
        if self._stream is not None:
            await self._stream.aclose()

    def leave_with_reset(self) -> None:
        """Close with a reset; one that is still connecting gives up."""
        if self._has_left:
            return
        self._has_left = True
        self._scope.cancel()
        if self._stream is not None:
            self._stage.harness.reset(self._stream)

    async def fate(self) -> str:
        """Wait to be told how it ends: ``refused``, ``reset`` or ``fin``."""
        async with self._stage.within("a peer that was turned away was not told"):
            await self._is_answered.wait()
            if self._error is not None:
                # One that was reset as soon as it was connected may hear of both in one.
                is_reset = isinstance(self._error, ConnectionResetError)
                return "reset" if is_reset else "refused"
            try:
                while await self.stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                return "reset"
        return "fin"

    async def hears_nothing(self) -> bool:
        """Whether it is left in peace for as long as one can wait."""
        with trio.move_on_after(self._stage.harness.quiet_seconds) as scope:
            await self._is_answered.wait()
            if self._error is None:
                try:
                    await self.stream.receive_some()
                except trio.BrokenResourceError:
                    pass
        return scope.cancelled_caught


class Keeper:
    """A `RequestKeeper` that remembers what it was told."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.is_inside = False
        """``watch_end`` is running."""
        self.is_over = False
        """It is not to be told anything any more."""
        self.ends: list[PeerEnd] = []
        """How the peer has left, as it was told."""
        self.times_established = 0
        """How often it was told that the handshake is over."""

    def peer_ended(self, request: TransportRequest, end: PeerEnd) -> None:  # noqa: ARG002 - there is one
        """Take note."""
        self._listen(f"the peer's end ({end.value})")
        self.ends.append(end)

    def established(self, request: TransportRequest) -> None:  # noqa: ARG002 - there is one
        """Take note."""
        self._listen("the end of the handshake")
        self.times_established += 1

    def _listen(self, what: str) -> None:
        if self.is_inside:
            self._stage.complain("watch_end told the end from inside the call")
        if self.is_over:
            self._stage.complain(f"{what} was told although nobody watched any more")


class Ear:
    """A watch's sink that adds up the edges that it hears."""

    def __init__(self) -> None:
        self.edges = 0

    def on_edges(self, edges: int) -> None:
        """Take note."""
        self.edges |= edges


class Visitor:
    """A request that was taken, and the peer that it came from."""

    def __init__(self, stage: Stage, peer: Peer, request: TransportRequest) -> None:
        self._stage = stage
        self._watch: Watch | None = None
        self._channel: Channel | None = None
        self.peer = peer
        self.request = request
        self.keeper = Keeper(stage)
        self.is_answered = False
        """It has had its answer: by `reset` and its like, or by `accept`."""

    # --- Its end ---------------------------------------------------------------------------

    def watch_end(self) -> Keeper:
        """Want to be told when the peer leaves."""
        keeper = self.keeper
        keeper.is_inside = True
        try:
            self.request.watch_end(self._stage.readiness, keeper)
        finally:
            keeper.is_inside = False
        return keeper

    def unwatch_end(self) -> None:
        """Want it no more."""
        self.request.unwatch_end()
        self.keeper.is_over = True

    async def told(self, ends: Collection[PeerEnd], deed: str) -> None:
        """Wait for the next end to be told, and see that it is one of these."""
        keeper = self.keeper
        names = " or ".join(sorted(end.name for end in ends))
        await self._stage.until(lambda: keeper.ends, f"{deed}, and {names} was not told")
        told = keeper.ends.pop(0)
        assert told in ends, f"{deed}, and {told.name} was told instead of {names}"

    async def told_nothing(self, deed: str) -> None:
        """See that nothing is told within the time that one can wait."""
        await self._stage.quiet()
        told = [end.name for end in self.keeper.ends]
        assert not told, f"{deed}, and the keeper was told {', '.join(told)}"

    # --- Its answer ------------------------------------------------------------------------

    def answer(self, style: str) -> object:
        """Say no: ``reset``, ``finish`` or ``silence``, which never raise."""
        self.is_answered = True
        try:
            return getattr(self.request, style)()
        except Exception as error:
            raise AssertionError(f"{style}() raised {error!r}") from error

    async def approve(self) -> None:
        """Say yes, and wait until the handshake is over, if that is still to come."""
        await trio.lowlevel.checkpoint()
        if self.request.approve():
            return
        stage, keeper = self._stage, self.watch_end()
        await stage.until(
            lambda: keeper.times_established,
            "approve() returned False, and the keeper was never told that the handshake is over",
        )
        self.unwatch_end()

    def accept(self) -> Channel:
        """Take the channel of a request that was approved."""
        self.is_answered = True
        try:
            self._channel = self.request.accept()
        except Exception as error:
            raise AssertionError(f"accept() of an approved request raised {error!r}") from error
        return self._channel

    async def let_through(self) -> Channel:
        """Say yes, and take the channel; its peer is connected then."""
        await self.approve()
        channel = self.accept()
        await self.peer.connected()
        return channel

    # --- Its channel -----------------------------------------------------------------------

    @property
    def channel(self) -> Channel:
        """The channel that was taken."""
        assert self._channel is not None
        return self._channel

    @property
    def watch(self) -> Watch:
        """The channel's watch."""
        if self._watch is None:
            self._watch = self.request.watch(self.channel)
        return self._watch

    async def wait(self, edge: int, *, passed: bool = False) -> None:
        """Wait for an edge, as a task does that awaits a connection."""
        home = self.watch.home or task_readiness()
        await home.wait(self.watch, edge, passed=passed)

    def arm(self, edges: int) -> Ear:
        """Ask for edges, as a connection with events does."""
        ear = Ear()
        self.watch.sink = ear
        (self.watch.home or self._stage.readiness).arm(self.watch, edges)
        return ear

    async def wait_within(self, edge: int, deed: str) -> None:
        """Wait for an edge, as `wait` does, in bounded time."""
        async with self._stage.within(f"{deed}, and its wait never ended"):
            await self.wait(edge)

    def arm_again(self, edges: int) -> None:
        """Ask for edges again, for a readiness that tells each of them once."""
        home = self.watch.home or self._stage.readiness
        if not home.edge_triggered:
            home.arm(self.watch, edges)

    async def receive(self, size: int) -> bytes:
        """Receive so many octets from the channel, fewer if the peer finishes."""
        data = bytearray()
        async with self._stage.within(f"{size} octets that the peer has sent did not come"):
            while len(data) < size:
                chunk = now(partial(self.channel.recv, size - len(data)))
                if chunk is None:
                    await self.wait(READ)
                elif chunk:
                    data += chunk
                else:
                    break
        return bytes(data)

    async def send(self, data: bytes) -> None:
        """Send these octets through the channel."""
        rest = memoryview(data)
        async with self._stage.within("the channel did not take what its peer was reading"):
            while rest:
                sent = now(partial(self.channel.send, rest))
                if sent is None:
                    await self.wait(WRITE)
                else:
                    rest = rest[sent:]

    def fill(self, start: int = 0) -> int:
        """Send until the channel takes no more; return how many octets it took.

        They are those of `pattern`, from ``start`` on.
        """
        total = start
        while (sent := now(partial(self.channel.send, pattern(total, 1 << 16)))) is not None:
            assert sent > 0, "send() took nothing, and did not raise BlockingIOError"
            total += sent
            assert total < LARGE, f"send() took {total} octets that nobody reads: no back-pressure"
        return total - start

    def close(self) -> None:
        """Close what is open."""
        if not self.is_answered:
            self.request.reset()
        if self._watch is not None:
            self._watch.close()
        if self._channel is not None:
            self._channel.close()


class Stage:
    """A transport and its owner."""

    def __init__(
        self, harness: TransportHarness[Any], nursery: trio.Nursery, *, complaints: list[str]
    ) -> None:
        self.harness: Final = harness
        self.transport: Final = harness.transport()
        self.edges = 0
        """How often the transport has said that there may be something."""
        self.readiness: Readiness
        self._complaints = complaints
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

    # --- What must not be ------------------------------------------------------------------

    def complain(self, sentence: str) -> None:
        """Note that a rule was broken, from where one can't raise."""
        self._complaints.append(sentence)

    @asynccontextmanager
    async def within(self, failure: str) -> AsyncIterator[None]:
        """Give what is in the block a bounded time; if that is over, it has failed so."""
        with trio.move_on_after(self.harness.patience) as scope:
            yield
        assert not scope.cancelled_caught, failure

    async def until(self, condition: Callable[[], object], failure: str) -> None:
        """Wait for what nobody announces."""
        seconds, longest = POLL_SECONDS, self.harness.patience / POLLS
        async with self.within(failure):
            while not condition():
                await trio.sleep(seconds)
                seconds = min(2 * seconds, max(longest, POLL_SECONDS))

    async def quiet(self) -> None:
        """Wait until what is going to happen has happened."""
        await trio.sleep(self.harness.quiet_seconds)
        await trio.testing.wait_all_tasks_blocked()

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

    def attempt(self, address: Address) -> Peer:
        """Have a peer connect that may well be refused."""
        peer = Peer(self)
        self._peers.append(peer)
        self._nursery.start_soon(peer.connect, address)
        return peer

    async def visitor(self) -> Visitor:
        """Have a peer connect, and take its request."""
        peer = await self.peer()
        return self.take(peer, await self.request())

    def take(self, peer: Peer, request: TransportRequest) -> Visitor:
        """Keep a request together with its peer."""
        visitor = Visitor(self, peer, request)
        self._visitors.append(visitor)
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


@contextmanager
def _complaining(complaints: list[str]) -> Iterator[None]:
    """Raise the first complaint: what failed after it may have failed because of it."""
    try:
        yield
    except AssertionError as error:
        if complaints:
            raise AssertionError(complaints[0]) from error
        raise
    if complaints:
        raise AssertionError(complaints[0])


@asynccontextmanager
async def open_stage(harness: TransportHarness[Any]) -> AsyncIterator[Stage]:
    """Open a stage; its transport is neither bound nor listening."""
    complaints: list[str] = []
    async with trio.open_nursery() as nursery:
        stage = Stage(harness, nursery, complaints=complaints)
        with _complaining(complaints):
            try:
                yield stage
            finally:
                stage.close()
                nursery.cancel_scope.cancel()
