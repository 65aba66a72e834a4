"""The server's side of a check: a request that was taken, its keeper and its channel.

PYTEST_DONT_REWRITE: what is asserted here has a sentence of its own, and its values can be long.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from trio_wsk._engine.choice import task_readiness
from trio_wsk._engine.readiness import READ, WRITE
from trio_wsk._vocabulary.verdict import InspectPoint

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from trio_wsk._engine.readiness import Readiness, Watch
    from trio_wsk.transports._contract import Channel, PeerEnd, TransportRequest

    from ._peer import Peer
    from ._referee import Referee

__all__ = ["Ear", "Keeper", "Visitor", "now", "pattern"]

T = TypeVar("T")

LARGE: Final = 1 << 26
"""64 MiB: a channel that takes more than this, and nobody reads, never pushes back."""


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


class Keeper:
    """A `RequestKeeper` that remembers what it was told."""

    def __init__(self, referee: Referee) -> None:
        self._referee = referee
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
            self._referee.complain("watch_end told the end from inside the call")
        if self.is_over:
            self._referee.complain(f"{what} was told although nobody watched any more")


class Ear:
    """A watch's sink that adds up the edges that it hears."""

    def __init__(self) -> None:
        self.edges = 0

    def on_edges(self, edges: int) -> None:
        """Take note."""
        self.edges |= edges


class Visitor:
    """A request that was taken, and the peer that it came from."""

    def __init__(
        self, referee: Referee, readiness: Readiness, peer: Peer, request: TransportRequest
    ) -> None:
        self._referee = referee
        self._readiness = readiness
        self._watch: Watch | None = None
        self._channel: Channel | None = None
        self.peer = peer
        self.request = request
        self.keeper = Keeper(referee)
        self.is_answered = False
        """It has had its answer: by `reset` and its like, or by `accept`."""

    # --- Its end ---------------------------------------------------------------------------

    def watch_end(self) -> Keeper:
        """Want to be told when the peer leaves."""
        keeper = self.keeper
        keeper.is_inside = True
        try:
            self.request.watch_end(self._readiness, keeper)
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
        await self._referee.until(lambda: keeper.ends, f"{deed}, and {names} was not told")
        told = keeper.ends.pop(0)
        assert told in ends, f"{deed}, and {told.name} was told instead of {names}"

    async def told_nothing(self, deed: str) -> None:
        """See that nothing is told within the time that one can wait."""
        await self._referee.quiet()
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

    async def establish(self) -> None:
        """Say yes to a watched request whose handshake is to come, and wait until that is over.

        It goes on being watched, and can be answered again.
        """
        await trio.lowlevel.checkpoint()
        if self.request.inspect_point is InspectPoint.BEFORE_HANDSHAKE:
            keeper = self.keeper
            is_over = self.request.approve()
            await self._referee.until(
                lambda: is_over or keeper.times_established,
                "approve() returned False, and the end of the handshake was never told",
            )
            await self.peer.connected()

    async def approve(self) -> None:
        """Say yes, and wait until the handshake is over, if that is still to come."""
        await trio.lowlevel.checkpoint()
        if self.request.approve():
            return
        keeper = self.watch_end()
        await self._referee.until(
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
        (self.watch.home or self._readiness).arm(self.watch, edges)
        return ear

    async def wait_within(self, edge: int, deed: str) -> None:
        """Wait for an edge, as `wait` does, in bounded time."""
        async with self._referee.within(f"{deed}, and its wait never ended"):
            await self.wait(edge)

    def arm_again(self, edges: int) -> None:
        """Ask for edges again, for a readiness that tells each of them once."""
        home = self.watch.home or self._readiness
        if not home.edge_triggered:
            home.arm(self.watch, edges)

    async def receive(self, size: int) -> bytes:
        """Receive so many octets from the channel, fewer if the peer finishes."""
        data = bytearray()
        async with self._referee.within(f"{size} octets that the peer has sent did not come"):
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
        async with self._referee.within("the channel did not take what its peer was reading"):
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
