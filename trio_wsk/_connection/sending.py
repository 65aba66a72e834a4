"""What a connection sends without a task that waits: now if it goes, else from its queue.

What is queued is sent in order, and a task's ``send_all`` stands in the same line; FIN is sent
after all of it. The pump empties the queue. When the listening block has ended, and its pump with
it, a task of the run's goes on with what is left.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._engine.irp import Irp, complete
from trio_wsk._engine.pump import FAILED
from trio_wsk._engine.readiness import LOOK_SECONDS, WRITE
from trio_wsk._vocabulary.end_reason import EndReason
from trio_wsk._vocabulary.errors import (
    ConnectionBrokenError,
    SocketBusyError,
    SocketClosedError,
)
from trio_wsk._vocabulary.status import SEND_BACKLOG

from .block import TAKING_OCTETS, TAKING_SECONDS
from .ending import Ending
from .send_queue import A_TASK_IS_NEXT, ALL_SENT, NO_ROOM, SendQueue
from .state import ACTIVE, HALF_CLOSED

if TYPE_CHECKING:
    from collections.abc import Callable

    from .state import RareState

    Octets = bytes | bytearray | memoryview

__all__ = ["Sending"]

_MORE: Final = getattr(socket, "MSG_MORE", 0)
"""Hold the segment back: FIN follows and travels in it (Linux, tcp(7))."""


class Sending(Ending):
    """A connection as what it sends."""

    __slots__ = ()

    # --- Queueing ----------------------------------------------------------------------

    def _send_with_irp(
        self, data: Octets, context: object, on_completion: Callable[[Irp[int]], object] | None
    ) -> Irp[int]:
        """Send what goes at once, queue the rest; the Irp completes when all has gone."""
        irp = Irp[int](
            home=self._block.home,
            withdraw=self._withdraw,
            finished=self._completed,
            context=context,
            on_completion=on_completion,
        )
        size = len(data)
        sent = self._send_first(data)
        if sent == size and not self._unsent:
            complete(irp, size)
        else:
            self._enqueue(bytes(memoryview(data)[sent:]), irp, size)
        return irp

    def _send_first(self, data: Octets) -> int:
        """Send past an empty queue; 0 if something stands in line before it."""
        rare = self._rare
        if rare is not None and rare.fin_wanted:
            raise SocketClosedError(
                f"this side has finished sending to {self.remote_address} (disconnect)"
            )
        if self._block.ended:
            self._require_pump()
        if self._sending or self._unsent:
            self._open_for_sending()
            return 0
        return self._send_now(data)

    def _enqueue(self, rest: bytes, irp: Irp[int] | None, size: int) -> None:
        rare = self._rare_state()
        if rare.queue is None:
            rare.queue = SendQueue()
        rare.queue.append(rest, irp, size)
        self._belong_to_block()
        self._schedule(WRITE)

    def _withdraw(self, irp: Irp[int]) -> bool:
        rare = self._rare_state()
        has_begun = self._sending < ACTIVE and self._is_halfway
        if rare.queue is None or not rare.queue.withdraw(irp, has_begun=has_begun):
            return False
        if not rare.queue.octets:
            if rare.sender is not None:
                rare.sender.cancel()
            else:
                self._schedule(WRITE)
        return True

    def _completed(self, irp: Irp[int]) -> None:
        self._rare_state().routines_due += 1
        self._block.post(lambda: self._run_completion(irp))

    def _run_completion(self, irp: Irp[int]) -> None:
        self._rare_state().routines_due -= 1
        assert irp.on_completion is not None
        try:
            answer = self._block.call(
                "on_completion", self, self._own_context(), irp.on_completion, irp
            )
        except ConnectionBrokenError:
            self._tell_reset()
        else:
            if answer is FAILED:
                self.abort()

    # --- In the pump -------------------------------------------------------------------

    def _flush(self) -> None:
        """Send from the queue until the kernel takes no more; then whatever follows it."""
        rare = self._rare
        if rare is None or self._sending >= ACTIVE:
            return
        stopped = ALL_SENT if rare.queue is None else rare.queue.flush(self._send_piece)
        if stopped == ALL_SENT:
            self._all_sent(rare)
        elif stopped == NO_ROOM:
            self._hear_of_room()
        else:
            assert stopped == A_TASK_IS_NEXT
            self._sending = ACTIVE

    def _send_piece(self, data: memoryview, is_last: bool) -> int:  # noqa: FBT001 - for `SendQueue.flush`
        rare = self._rare
        follows = is_last and rare is not None and rare.fin_wanted
        return self._send_now(data, _MORE if follows else 0)

    def _all_sent(self, rare: RareState) -> None:
        if rare.queue is not None:
            rare.queue.tell_sent()
        if rare.fin_wanted:
            self._block.taking.forget(self)
            self._send_fin()
        self._may_leave_block()

    def _tell_backlog(self) -> None:
        """Say how much should be outstanding, if that has changed."""
        if self._channel is None or not self._enabled & SEND_BACKLOG:
            return
        ideal = self._request.ideal_send_backlog(self._channel)
        rare = self._rare_state()
        if ideal == rare.ideal:
            return
        rare.ideal = ideal
        assert self._dispatch is not None
        callback = self._dispatch.send_backlog
        assert callback is not None
        if self._call("send_backlog", callback, ideal) is FAILED:
            self.abort()

    # --- For tasks ---------------------------------------------------------------------

    def _task_sent(self) -> None:
        """A task has finished sending: what was queued meanwhile is next."""
        rare = self._rare
        if rare is None or self._channel is None:
            return
        if not self._block.ended:
            if rare.queue is not None or rare.fin_wanted:
                self._schedule(WRITE)
        elif self._unsent:
            self._leave_block()
        elif rare.fin_wanted:
            with suppress(ConnectionBrokenError):
                self._send_fin()

    async def _wait_turn(self) -> None:
        """Stand in line: wait until what is queued now has been sent, and not what comes after."""
        queue = self._rare_state().queue
        assert queue is not None
        await queue.wait_turn()

    async def _wait_sent(self) -> None:  # noqa: ASYNC910 - as it says
        """Wait until everything that is queued has been sent. A checkpoint, or it has been."""
        queue = self._rare_state().queue
        if queue is not None:
            await queue.wait_sent()

    async def _wait_taken(self) -> None:  # noqa: ASYNC910 - as `_wait_sent`
        """Wait until everything that is queued has been sent; reset if the peer doesn't take it."""
        while self._unsent:
            before = self._octets_out
            with trio.move_on_after(TAKING_SECONDS) as scope:
                await self._wait_sent()
            if scope.cancelled_caught and self._unsent and not _takes(before, self._octets_out):
                self._abort(EndReason.TIMED_OUT)

    async def _wait_good_bye(self) -> None:  # noqa: ASYNC910 - `aclose` has another checkpoint
        """Send FIN with TLS's good-bye before it; reset if the peer makes no room for that."""
        with trio.move_on_after(TAKING_SECONDS), suppress(ConnectionBrokenError, SocketClosedError):
            while self._channel is not None and not (self._sending or self._is_cut_short):
                if self._shut_down_sending():
                    break
                await self._wait(WRITE)
            return  # noqa: ASYNC910 - as it says
        self._abort(EndReason.TIMED_OUT)

    @property
    def _must_wait_to_part(self) -> bool:
        """Whether something is to be sent before this side closes, and has no room now."""
        if self._unsent:
            return True
        if self._channel is None or self._request.tls is None:
            return False
        return not (self._fin_sent or self._is_cut_short or self._says_good_bye(self._channel))

    async def _wait_to_part(self) -> None:  # noqa: ASYNC910 - as `_wait_sent`
        """Wait until everything has been sent, with TLS's good-bye; reset if that fails."""
        await self._wait_taken()
        if self._request.tls is not None:
            await self._wait_good_bye()

    # --- FIN after it ------------------------------------------------------------------

    def _half_close(self) -> None:
        """Send what is queued, then FIN, and leave the peer all its time."""
        rare = self._rare
        if not (self._fin_sent or (rare is not None and rare.fin_wanted)):
            self._marks |= HALF_CLOSED
            self._finish_with(b"")

    def _disconnect(self, data: Octets) -> None:
        """Send what is queued, then ``data``, then FIN; from here on the peer's time is bounded."""
        if self._marks & HALF_CLOSED:
            self._marks &= ~HALF_CLOSED
            self._bound_taking()
        self._finish_with(data)

    def _finish_with(self, data: Octets) -> None:
        """Send what is queued, then ``data``, then FIN."""
        rare = self._rare
        is_wanted = rare is not None and rare.fin_wanted
        if is_wanted or self._fin_sent:
            if data:
                raise SocketClosedError(
                    f"this side has finished sending to {self.remote_address}, so it"
                    " can't send more data"
                )
            if is_wanted:
                return
        if data:
            self._require_pump()
        is_first = not self._sending and not self._unsent
        sent = self._send_now(data, _MORE) if data and is_first else 0
        if sent < len(data):
            self._rare_state().fin_wanted = True
            self._enqueue(bytes(memoryview(data)[sent:]), None, len(data) - sent)
            self._bound_taking()
        elif is_first:
            self._send_fin()
        else:
            self._rare_state().fin_wanted = True
            self._bound_taking()

    def _bound_taking(self) -> None:
        """Have the peer take what is unsent before FIN, in good time."""
        rare = self._rare_state()
        waits = self._unsent or self._good_bye_waits
        if waits and rare.fin_wanted and not self._marks & HALF_CLOSED:
            rare.octets_then = self._octets_out
            if rare.sender is not None:
                rare.sender.deadline = trio.current_time() + TAKING_SECONDS
            else:
                self._block.taking.start(self)

    def _check_taking(self) -> None:
        """In the pump: see whether the peer has taken enough since, or all."""
        takes = _takes(self._rare_state().octets_then, self._octets_out)
        if self._good_bye_waits or (self._unsent and not takes):
            self._abort(EndReason.TIMED_OUT)
        else:
            self._bound_taking()

    # --- After the block ---------------------------------------------------------------

    @property
    def _outlives_block(self) -> bool:
        """Whether only what is queued needs the pump, and nobody to call back when it is sent."""
        rare = self._rare
        return (
            not self._enabled
            and self._owner is None
            and rare is not None
            and not rare.routines_due
            and not (rare.queue is not None and rare.queue.has_routines())
        )

    def _leave_block(self) -> None:
        """The block has ended: what is queued is sent by a task of the run's, one at a time."""
        self._block.event_driven.discard(self)
        if self._watch is not None:
            self._watch.sink = None
        rare = self._rare_state()
        if rare.sender is None:
            rare.sender = trio.CancelScope()
            trio.lowlevel.spawn_system_task(
                self._send_queue,
                rare.sender,
                name="trio_wsk: send queue of a connection that outlives its block",
            )

    async def _send_queue(self, bound: trio.CancelScope) -> None:  # noqa: ASYNC910 - a task of its own
        """Send what is queued, while no task stands in line that does it.

        The deadline of what it is bound by is the peer's, to take some before FIN; who withdraws
        the last of the queue cancels its wait.
        """
        rare = self._rare_state()
        try:
            self._bound_taking()
            while self._channel is not None:
                self._flush()
                if not self._unsent or self._sending >= ACTIVE:
                    break
                if _takes(rare.octets_then, self._octets_out):
                    self._bound_taking()
                elif trio.current_time() >= bound.deadline:
                    self._abort(EndReason.TIMED_OUT)
                    break
                bound = rare.sender = trio.CancelScope(deadline=bound.deadline)
                with bound:
                    try:
                        await self._wait(WRITE, passed=True)
                    except SocketBusyError:  # somebody waits for the public socket
                        await trio.sleep(LOOK_SECONDS)
        except (ConnectionBrokenError, SocketClosedError):
            self._drop_queue()  # whoever awaits this connection finds out by himself
        except trio.Cancelled:  # the run ends, and with it who could send the rest
            self._abort(EndReason.ABORTED)
            raise
        finally:
            rare.sender = None


def _takes(before: int, now: int) -> bool:
    """Whether a peer has taken enough in `TAKING_SECONDS`, by the octets that were sent in all.

    Not by those that are queued: a task's ``send_all`` may stand before them, and go on.
    """
    return now >= before + TAKING_OCTETS
