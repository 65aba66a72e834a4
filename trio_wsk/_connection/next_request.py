"""Waiting for the next request: what `more` and the loops of a reader do on a connection itself.

Over TLS and other streams it is `between` alone that waits.
"""

from __future__ import annotations

import math
from threading import get_ident

import trio

from trio_wsk._engine.callers import check_caller
from trio_wsk._engine.readiness import READ
from trio_wsk._engine.traps import let_others_run
from trio_wsk._vocabulary.arguments import checked_seconds
from trio_wsk._vocabulary.errors import ConnectionBrokenError, SocketClosedError
from trio_wsk._vocabulary.more import More

from .state import HAD_LAST_LOOK, INTERRUPTED, OVER_IDLE, RESTED, RETIRED
from .stream import Stream
from .wire import RECEIVE_SIZE

__all__ = ["NextRequest"]


class NextRequest(Stream):
    """A connection as where requests come from."""

    __slots__ = ()

    async def _receive_next(
        self, idle: float, *, in_loop: bool = False
    ) -> bytes | bytearray | More:
        """Receive the first octets of the next request, or say why there is none.

        What `Between.receive` does with `receive_some`, in one coroutine: here is where most
        connections wait, and where each request begins.

        Always a checkpoint; in a loop a cancel point alone, if a `send_all` has let other tasks
        run since the last time.
        """
        may_go_on = in_loop and self._marks & RESTED
        self._marks &= ~RESTED
        block = self._block
        between = block.between
        if (
            self._receiving
            or self._marks & (RETIRED | OVER_IDLE)
            or between.draining.is_set()
            or (idle != math.inf and not (idle and block.is_served))
            or get_ident() != block.home.thread
        ):
            is_heard = self._octets_in > 0
            return await between.receive(self, self.receive_some, idle, is_heard=is_heard)
        self._receiving = True
        between._waiting.add(self)
        if idle != math.inf:
            between._deadlines(idle).start(self)
        try:
            data = None
            watch = self._watch
            if watch is None or not watch.empty or self._rare is not None:
                await trio.lowlevel.checkpoint_if_cancelled()
                data = self._receive_now(RECEIVE_SIZE)
                if data is not None and not may_go_on:
                    await let_others_run()
            while data is None and not self._marks & INTERRUPTED:
                await self._wait(READ)
                data = self._receive_now(RECEIVE_SIZE)
        except (ConnectionBrokenError, SocketClosedError):
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            self._receiving = False
            between._waiting.discard(self)
            if idle != math.inf:
                between._deadlines(idle).forget(self)
            self._marks &= ~INTERRUPTED
            if self._enabled:
                self._task_received()
        if data is None:
            return await self._receive_last(idle)
        return data or More.FINISHED  # noqa: ASYNC910 - as in `receive_some`

    async def _receive_last(self, idle: float) -> bytes | bytearray | More:
        """Say why a wait for the next request was interrupted, after a last look if it is that."""
        between = self._block.between
        if not between.is_draining(self) or self._marks & OVER_IDLE:
            return More.IDLE  # noqa: ASYNC910 - it has waited for that
        is_heard = self._octets_in > 0
        return await between.receive(self, self.receive_some, idle, is_heard=is_heard)

    async def more(self, *, idle: float = math.inf) -> More:
        """Wait for the next request, and learn whether there will be one.

        ``while await connection.more(idle=60): ...`` is the loop of a handler that drains well.
        Nothing is taken: what has come is there for the next receive. The wait ends when
        the peer has finished, when it has said nothing for ``idle`` seconds, and when the server
        drains; no answer is cut short, since nothing is covered but the waiting.

        What has come when a drain begins is still a request, and from a connection that was never
        heard of one is waited for for a second. After that only what is here already is given.

        For lines and the like, and over TLS, it is `Reader.more`, or a loop over `Reader.lines`.

        Args:
          idle: Seconds on Trio's clock; 0 looks, and does not wait.

        Returns:
          `More.THERE`, which is true, or else why there is none.

        Raises, checkpoint: as for `receive_some`. If cancelled, nothing was received.
        """
        checked_seconds("idle", idle, endless="as long as it takes")
        check_caller(self._block.home, "connection.more")
        if self._marks & HAD_LAST_LOOK or (self._rare is not None and self._rare.held):
            await trio.lowlevel.checkpoint()
            is_there = self._rare is not None and self._rare.held
            return More.THERE if is_there else More.DRAINING
        received = await self._receive_next(idle)
        if self._block.between.is_draining(self):
            self._marks |= HAD_LAST_LOOK
        if isinstance(received, More):
            return received
        self._rare_state().held = bytes(received)
        return More.THERE
