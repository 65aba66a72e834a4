"""How a connection ends: FIN, a reset, and the last that is said of it.

Nothing here awaits.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._engine.callers import check_ending_caller
from trio_wsk._engine.readiness import READ
from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.end_reason import EndReason
from trio_wsk._vocabulary.errors import ConnectionBrokenError, OperationCancelledError
from trio_wsk._vocabulary.records import ConnectionEnded
from trio_wsk._vocabulary.status import DISCONNECT, RECEIVE
from trio_wsk._vocabulary.verdict import InspectId

from .state import (
    FIN_RECEIVED,
    HALF_CLOSED,
    LINGERING,
    LOST,
    OVER_IDLE,
    RESET_HERE,
    THE_BLOCKS,
    TOLD,
)
from .turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk.transports._contract import Channel

__all__ = ["ABORTIVE", "GRACEFUL", "Ending"]

GRACEFUL: Final = False
"""The peer has sent FIN."""
ABORTIVE: Final = True
"""The peer has reset the connection."""

_RESET: Final = frozenset({errno.ECONNRESET, errno.EPIPE})
"""What a peer's reset looks like; EPIPE if it comes after its FIN, or while we send."""

_OURS_ALONE: Final = frozenset(
    {
        EndReason.SERVER_ENDED,
        EndReason.BLOCK_ENDED,
        EndReason.TIMED_OUT,
        EndReason.IDLE,
        EndReason.EXPIRED,
    }
)
"""What is so whatever else is known of the connection."""

_IN_THE_END: Final = frozenset({EndReason.CLOSED, EndReason.FINISHED, EndReason.TIMED_OUT})
"""How a connection may end that is ended because it is idle."""


class Ending(Turns):
    """A connection as what ends."""

    __slots__ = ()

    def _send_fin(self) -> None:
        """Send FIN, or reset after a part of something.

        A connection that is over is closed, which does either as well.
        """
        is_over = self._marks & FIN_RECEIVED and self._enabled
        if is_over and self._request.tls is None:
            self._close_in_turn()
        elif self._is_cut_short:
            self._abort(EndReason.ABORTED)
        elif self._shut_down_sending():
            if is_over:
                self._close_in_turn()
            else:
                self._wait_for_peer()
        else:
            self._rare_state().fin_wanted = True
            self._hear_of_room()
            if not self._marks & HALF_CLOSED:
                self._block.taking.start(self)

    @property
    def _good_bye_waits(self) -> bool:
        """Whether all has been sent but the good-bye of TLS, for which there was no room."""
        rare = self._rare
        is_due = rare is not None and rare.fin_wanted and not (self._unsent or self._sending)
        return is_due and self._request.tls is not None and not self._fin_sent

    def _has_half_closed(self) -> None:
        """After FIN that leaves the rest to who has this connection: the block's has only that."""
        if self._enabled & THE_BLOCKS:
            self._wait_for_peer()

    def _wait_for_peer(self) -> None:
        """After our FIN: wait for the peer's, throwing away what it sends, and not for ever."""
        if self._enabled and not self._marks & (LINGERING | HALF_CLOSED):
            self._marks |= LINGERING
            if self._channel is not None:
                self._request.waive_good_bye(self._channel)
            self._schedule(READ)

    def _bound_lingering(self) -> None:
        """In the pump: begin the peer's time, once it was looked for in vain.

        Most peers have finished by then, and need no timer.
        """
        block = self._block
        if self._channel is not None and self not in block.lingering_in_all:
            block.lingering.start(self)
            block.lingering_in_all.start(self)

    def _close_if_over(self) -> None:
        """Both sides have ended: nothing is left to happen."""
        if self._fin_sent and self._marks & FIN_RECEIVED:
            self._close_in_turn()

    def _close_in_turn(self) -> None:
        """Close, which sends FIN, when the completion routines that are due have been called.

        Their Irps have succeeded, so they may rely on a connection that is open.
        """
        if self._rare is not None and self._rare.routines_due:
            self._rare.fin_wanted = True  # nothing is sent any more
            self._block.post(self._close_in_turn)
        else:
            self._close()

    def _close(self) -> None:
        if self._is_cut_short:
            self._abort(EndReason.ABORTED)
        elif self._channel is not None:
            self._let_go(EndReason.CLOSED).close()

    def abort(self) -> None:
        """Reset the connection and close it; what was queued is dropped. Idempotent.

        Source: WskDisconnect with WSK_FLAG_ABORTIVE; RFC 9293 3.10.5 (ABORT).
        """
        check_ending_caller(self._block.home, "connection.abort")
        self._abort(EndReason.ABORTED)

    def _abort(self, reason: EndReason, error: BaseException | None = None) -> None:
        if self._channel is not None:
            self._request.abort(self._let_go(reason, error))

    def _reset_by_server(self, reason: EndReason) -> None:
        """Reset it under whoever holds it, and finds it broken: he has not closed it."""
        if self._channel is not None:
            rare = self._rare_state()
            if rare.broken is None:
                rare.broken = OSError(errno.ECONNABORTED, "this server has reset it")
            self._marks |= LOST | RESET_HERE
            self._abort(reason)

    def _let_go(self, reason: EndReason, error: BaseException | None = None) -> Channel:
        """Let go of everything but the channel, which the caller closes."""
        channel = self._channel
        assert channel is not None
        self._channel = None
        if self._watch is not None:
            self._watch.close()
        elif self._marks & TOLD:
            self._hear_no_more(channel)
        has_events, self._enabled = bool(self._enabled), 0
        block = self._block
        block.event_driven.discard(self)
        if self._marks & LINGERING:
            block.lingering.forget(self)
            block.lingering_in_all.forget(self)
        rare = self._rare
        if rare is not None:
            block.taking.forget(self)
            if rare.socket is not None:
                # Wakes tasks that wait through the public socket, and closes the channel,
                # which is the same descriptor.
                trio.lowlevel.notify_closing(rare.socket)
            rare.held = b""
            self._drop_queue()
        self._say_ended(reason, error, has_events=has_events)
        if block.carried:
            self._give_back()
        if self._owner is not None:
            self._owner.ended(self)
        return channel

    def _give_back(self) -> None:
        """Have it given back what its request has taken."""
        carried = self._block.carried.pop(self._request.serial_number, None)
        if carried is not None:
            if carried.says_something:
                self._rare_state().carried = carried  # its facts are facts still
            carried.end()

    def _say_ended(
        self, reason: EndReason, error: BaseException | None, *, has_events: bool
    ) -> None:
        """Tell the observers and the closed callback, if there are any; forget the callbacks."""
        block = self._block
        dispatch = self._dispatch
        closed = dispatch.closed if has_events and dispatch is not None else None
        is_news = (
            block.is_served
            and records.ConnectionEnded in block.observers.wanting
            and (self._owner is None or self._owner.delivers)
            and not self._request.is_opened_here
        )
        is_accepting = block.is_calling("accept", self)
        if is_news or closed is not None or is_accepting:
            ended = self._how_it_ended(reason, error)
            if is_news:
                block.observers.tell(ended)
            if is_accepting:
                self._rare_state().ended = ended
            if closed is not None and not block.ended:
                block.post(partial(self._tell_closed, closed, ended))
                return
        if self._rare is not None and self._rare.routines_due:
            block.post(self._forget)  # the routines have been called by then
        else:
            self._forget()

    def _how_it_ended(self, reason: EndReason, error: BaseException | None) -> ConnectionEnded:
        rare = self._rare
        if rare is not None and reason not in _OURS_ALONE:
            if rare.broken is not None:
                is_reset = rare.broken.errno in _RESET
                reason = EndReason.PEER_RESET if is_reset else EndReason.BROKEN
                error = rare.broken
            elif rare.failure is not None:
                reason, error = EndReason.FAILED, rare.failure
        if reason is EndReason.CLOSED and self._marks & FIN_RECEIVED:
            reason = EndReason.FINISHED
        if self._marks & OVER_IDLE and reason in _IN_THE_END:
            reason = EndReason.IDLE
        return ConnectionEnded(
            at=trio.current_time(),
            remote_address=self.remote_address,
            inspect_id=self._inspect_id(),
            opened_at=self._opened,
            octets_received=self._octets_in,
            octets_sent=self._octets_out,
            reason=reason,
            error=error,
        )

    def _inspect_id(self) -> InspectId | None:
        key = self._block.inspect_key
        if key is None or self._request.is_opened_here:
            return None
        return InspectId(key, self._request.serial_number)

    def _tell_closed(self, callback: Callable[..., object], ended: ConnectionEnded) -> None:
        """In the pump: the last call of all."""
        try:
            # That it tries to send all the same is nothing to report.
            with suppress(ConnectionBrokenError):
                self._block.call("closed", self, self._own_context(), callback, self, ended)
        finally:
            self._forget()

    def _forget(self) -> None:
        """Nothing is called any more: keep nothing alive that may hold this connection."""
        self._dispatch = None
        self._context = None
        if self._rare is not None:
            self._rare.failure = None

    def _drop_queue(self) -> None:
        """Nothing is sent any more: tell who waits for it."""
        rare = self._rare
        if rare is not None and rare.queue is not None:
            queue, rare.queue = rare.queue, None
            queue.drop(self._why_unsent)

    def _why_unsent(self) -> OperationCancelledError | ConnectionBrokenError:
        broken = self._broken
        if broken is not None:
            error = self._translated(broken)
            assert isinstance(error, ConnectionBrokenError)
            return error
        return OperationCancelledError("the connection was closed before the data was sent")

    def _tell_reset(self) -> None:
        """The connection is broken: say so, also if its FIN was told, and let go of it."""
        if self._channel is None:
            return
        dispatch = self._dispatch
        if self._enabled & DISCONNECT and dispatch is not None and dispatch.disconnect is not None:
            try:
                self._call("disconnect", dispatch.disconnect, ABORTIVE)
            except ConnectionBrokenError:
                pass  # that it tries to answer all the same is nothing to report
        if self._enabled:
            self._marks |= LOST
            self.abort()
        else:
            self._drop_queue()  # the task that awaits this connection finds out by itself
            self._may_leave_block()

    @property
    def _lingering(self) -> bool:
        """Whether what comes is thrown away: after our FIN, without a receive callback."""
        return bool(self._marks & LINGERING) and not self._has(RECEIVE)
