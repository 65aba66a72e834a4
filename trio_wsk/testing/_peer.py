"""The clients of a check.

PYTEST_DONT_REWRITE: what is asserted here has a sentence of its own, and its values can be long.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_wsk._vocabulary.addresses import Address

    from ._referee import Referee

__all__ = ["Peer"]


class Peer:
    """A client, from the moment when it begins to connect."""

    def __init__(self, referee: Referee) -> None:
        self._referee = referee
        self._scope = trio.CancelScope()
        self._stream: trio.abc.HalfCloseableStream | None = None
        self._error: OSError | None = None
        self._is_answered = trio.Event()
        self._has_left = False

    async def connect(self, address: Address, source: Address | None = None) -> None:
        """Connect, however long it takes; from where the harness chooses, or from ``source``."""
        harness = self._referee.harness
        with self._scope:
            try:
                if source is None:
                    self._stream = await harness.connect(address)
                else:
                    self._stream = await harness.connect_from(source, address)
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
        async with self._referee.within("a peer that was let through was not connected"):
            await self._is_answered.wait()

    async def connected(self) -> trio.abc.HalfCloseableStream:
        """Wait until it is connected."""
        await self.answered()
        return self.stream

    @asynccontextmanager
    async def _talking(self, failure: str) -> AsyncIterator[None]:
        """Give what is in the block a bounded time, and an end to its connection is a failure."""
        async with self._referee.within(failure):
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
            self._referee.harness.reset(self._stream)

    async def fate(self) -> str:
        """Wait to be told how it ends: ``refused``, ``reset`` or ``fin``."""
        async with self._referee.within("a peer that was turned away was not told"):
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
        with trio.move_on_after(self._referee.harness.quiet_seconds) as scope:
            await self._is_answered.wait()
            if self._error is None:
                try:
                    await self.stream.receive_some()
                except trio.BrokenResourceError:
                    pass
        return scope.cancelled_caught
