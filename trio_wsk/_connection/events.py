"""The event side of a connection: which events are enabled, and what is indicated.

Everything here that calls user code runs in the pump, in `EventSide._turn`; nothing awaits.

The order that is kept:

* Octets are indicated in the order in which they came, and what a callback has not
  taken comes again before anything newer, to whoever asks first: the next indication
  after it is resumed, or a task's ``receive_some``. While a task receives, nothing is indicated.
* The peer's FIN is told after all data before it, so not while data is refused. A reset
  is told at once: nothing can be answered any more.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from trio_wsk._engine.pump import FAILED
from trio_wsk._engine.readiness import ENDED, READ, WRITE
from trio_wsk._vocabulary.arguments import are_events, shown
from trio_wsk._vocabulary.errors import (
    ConnectionBrokenError,
    InvalidParameterError,
    SocketClosedError,
)
from trio_wsk._vocabulary.status import (
    DISCONNECT,
    RECEIVE,
    SEND_BACKLOG,
    EventMask,
    Status,
)

from .dispatch import ConnectionDispatch, Taken
from .ending import GRACEFUL
from .sending import Sending
from .state import (
    END_TOLD,
    FIN_RECEIVED,
    FLOWING,
    IN_DOUBT,
    LINGERING,
    PEER_ENDING,
    REFUSED,
    RESUMED,
    THE_BLOCKS,
    TOLD,
)
from .wire import RECEIVE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CONNECTION_EVENTS", "EventSide"]

READS_PER_TURN: Final = 4
"""How often one connection is read before the others have their turn."""

CONNECTION_EVENTS: Final = RECEIVE | DISCONNECT | SEND_BACKLOG
"""The events that a connection has."""

_SLOTS: Final = {
    RECEIVE: "receive",
    DISCONNECT: "disconnect",
    SEND_BACKLOG: "send_backlog",
}


class EventSide(Sending):
    """A connection as what calls back."""

    __slots__ = ()

    # --- Enabling and disabling --------------------------------------------------------

    def _start_events(self, mask: int, dispatch: ConnectionDispatch) -> None:
        """In the pump: the block has this connection; enable events, and take the first turn.

        It is among the block's ``event_driven`` connections already.
        """
        if self._channel is None:  # the accept callback has closed it
            rare = self._rare_state()
            ended, rare.ended = rare.ended, None
            if dispatch.closed is not None and ended is not None:
                self._block.post(partial(self._tell_closed, dispatch.closed, ended))
            return
        self._dispatch = dispatch
        self._enabled |= mask | THE_BLOCKS
        if self._fin_sent:  # the accept callback has said good-bye
            self._wait_for_peer()
        if self._watch is not None:  # the accept callback has asked for the socket, perhaps
            self._listen_to_watch(self._watch)
        self._turn()  # without any events, too: its end is heard of

    def _hold_events(self, dispatch: ConnectionDispatch) -> None:
        """The block has this connection; enable its events, which begin in the pump's next turn."""
        if self._channel is not None:
            self._dispatch = dispatch
            self._enabled |= dispatch.mask | THE_BLOCKS
            self._belong_to_block()
            self._schedule(READ)

    def _enable(self, mask: EventMask, dispatch: ConnectionDispatch | None) -> None:
        """Enable events; what has come already is indicated in the next turn."""
        self._require_pump()
        if dispatch is not None and not isinstance(dispatch, ConnectionDispatch):
            raise InvalidParameterError(
                "enable_events takes the callbacks as ConnectionDispatch(receive=...),"
                f" not {dispatch!r}"
            )
        if not are_events(mask, CONNECTION_EVENTS):
            raise InvalidParameterError(
                f"{mask!r} are no events of a connection; enable any of"
                f" {EventMask(CONNECTION_EVENTS)!r}"
            )
        bits = int(mask) | self._enabled & CONNECTION_EVENTS
        callbacks = dispatch or self._dispatch
        missing = bits if callbacks is None else bits & ~callbacks.mask
        if missing:
            slot = _slot(missing)
            raise InvalidParameterError(
                f"{EventMask(missing)!r} has no callback; give one:"
                f" enable_events(..., ConnectionDispatch({slot}=...))"
                f"{'' if missing & mask else ', or disable it first, as it is enabled'}"
            )
        self._dispatch = callbacks
        self._enabled |= bits
        self._belong_to_block()
        self._schedule(READ)

    def _disable(self, event: EventMask) -> Status:
        """Disable one event."""
        if not are_events(event, CONNECTION_EVENTS) or int(event) not in _SLOTS:
            raise InvalidParameterError(
                f"{event!r} is not exactly one event of a connection; disable them one at a time"
            )
        self._enabled &= ~int(event)
        self._may_leave_block()
        if self._block.is_calling(_SLOTS[int(event)], self):
            return Status.EVENT_PENDING
        return Status.SUCCESS

    def _tell_drain(self, callback: Callable[..., object]) -> None:
        """In the pump: tell this connection that the server drains, if it has events."""
        if not self._enabled:
            return
        with suppress(ConnectionBrokenError):  # of which it is told in the turn that is due now
            answer = self._block.call("drain", self, self._own_context(), callback, self)
            if answer is FAILED:
                self.abort()

    # --- Turns -------------------------------------------------------------------------

    def _turn(self) -> None:
        """In the pump: do what is due, bounded."""
        due, self._due = self._due, 0
        if self._channel is None:
            return
        try:
            if self._rare is not None and self._rare.broken is not None:
                self._tell_reset()
                return
            if due & WRITE:
                self._flush()
                self._tell_backlog()
            if due & (READ | ENDED) and self._channel is not None:
                self._indicate(due)
                if self._rare is not None and self._rare.broken is not None:
                    self._tell_reset()
            if self._marks & LINGERING and not self._due & READ:
                self._bound_lingering()
        except (ConnectionBrokenError, SocketClosedError):
            # A break has been noted, so that another turn is due, which tells of it; who was closed
            # in the middle of this one needs none.
            return

    def _indicate(self, due: int) -> None:
        """Indicate what has come, if somebody wants it now; who wants it later asks for a turn."""
        for _ in range(READS_PER_TURN):
            if self._receiving:
                return
            rare = self._rare
            is_refused = rare is not None and rare.flow == REFUSED
            if is_refused or not (self._enabled & RECEIVE or self._lingering):
                self._look_for_end(due)
                return
            came_back = rare is not None and bool(rare.held)
            if self._marks & FIN_RECEIVED and not came_back:
                self._check_not_reset(due)
                data: bytes | None = b""
            else:
                data = self._receive_now(RECEIVE_SIZE, quietly=True)
            if data:
                self._tell_data(data)
            elif data is not None:
                self._tell_fin()
            if self._channel is None or (self._rare is not None and self._rare.broken):
                return
            # After a short read nothing is left; if something has come since, its edge is still
            # to come. The peer's end has no edge of its own, nor has what is behind a mark.
            in_doubt = came_back or self._marks & (PEER_ENDING | IN_DOUBT)
            if not data or not (in_doubt or len(data) == RECEIVE_SIZE):
                # Who looks again in the next turn need not be told before that.
                is_told = self._marks & TOLD and self._block.readiness.edge_triggered
                if not (is_told or self._due & READ):
                    self._hear_of_input()
                return
        self._schedule(READ)

    def _tell_data(self, data: bytes) -> None:
        """Indicate data; without a callback it is thrown away."""
        if self._marks & LINGERING:
            self._block.lingering.start(self)
        dispatch = self._dispatch
        if dispatch is not None and dispatch.receive is not None:
            context = self._context
            if context is None:
                context = self._own_context()
            answer = self._block.call("receive", self, context, dispatch.receive, self, data)
            if answer is not None and answer is not Status.SUCCESS:
                self._not_all_taken(data, answer)
            elif self._rare is not None:
                self._rare.flow = FLOWING  # `RESUMED` says nothing new

    def _not_all_taken(self, data: bytes, answer: object) -> None:
        """Keep what the receive callback has not taken, until it is resumed."""
        rare = self._rare_state()
        was_resumed = rare.flow == RESUMED
        rare.flow = FLOWING
        if answer is FAILED:
            self.abort()
        elif answer is Status.DATA_NOT_ACCEPTED:
            self._refuse(data, was_resumed=was_resumed)
        elif isinstance(answer, Taken) and answer.count <= len(data):
            if answer.count < len(data):
                self._refuse(data[answer.count :], was_resumed=was_resumed)
        else:
            self._nonsense(
                "receive",
                f"returned {shown(answer)}: return None or Status.SUCCESS (all taken), Taken(count)"
                f" (some, at most {len(data)} here), or Status.DATA_NOT_ACCEPTED (none)",
            )

    def _refuse(self, rest: bytes, *, was_resumed: bool) -> None:
        if self._channel is None:
            return
        rare = self._rare_state()
        rare.held = rest + rare.held
        if was_resumed:
            self._schedule(READ)
        else:
            rare.flow = REFUSED

    def _resume(self) -> None:
        """Indicate again."""
        if self._rare is not None and self._rare.flow == REFUSED:
            self._rare.flow = FLOWING
            self._schedule(READ)
        elif self._block.is_calling("receive", self):
            self._rare_state().flow = RESUMED

    def _task_received(self) -> None:
        """A task has finished receiving: it is the events' turn again."""
        if self._enabled:
            if self._marks & LINGERING:
                self._block.lingering.start(self)
            self._schedule(READ)

    def _look_for_end(self, due: int) -> None:
        """Nobody reads: see whether the peer has ended all the same."""
        self._check_not_reset(due)
        if not self._enabled:
            return
        found: bytes | None = b""
        if not self._marks & FIN_RECEIVED:
            found = self._peek_now()
            if found == b"":
                self._marks |= FIN_RECEIVED
            is_told_once = self._block.readiness.edge_triggered
            if not self._marks & TOLD if is_told_once else found is None:
                self._hear_of_input()
        if not self._has(RECEIVE):
            # Nobody may ever take what is before it.
            if found == b"" or (found and self._marks & PEER_ENDING):
                self._end_unreceived()
        elif self._marks & FIN_RECEIVED and (self._rare is None or not self._rare.held):
            if self._enabled & DISCONNECT:
                self._tell_fin()
            elif not self._has(DISCONNECT):
                self._close_if_over()

    def _check_not_reset(self, due: int) -> None:
        """If an end is due, see whether it is a reset."""
        if due & ENDED and self._request.was_reset():
            raise self._translated(OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))

    def _end_unreceived(self) -> None:
        """The peer of a connection without a receive callback has sent FIN."""
        # Only what is the block's is finished by itself: else there is a task that may still
        # answer.
        if self._enabled & (DISCONNECT | THE_BLOCKS):
            self._tell_fin()
        else:
            self._close_if_over()

    def _tell_fin(self) -> None:
        """The peer has sent FIN, and all data before it has been taken, or never will be."""
        if self._marks & END_TOLD:
            self._close_if_over()
            return
        dispatch = self._dispatch
        if dispatch is not None and dispatch.disconnect is not None:
            if not self._enabled & DISCONNECT:
                return  # told when it is enabled again
            self._marks |= END_TOLD
            if self._call("disconnect", dispatch.disconnect, GRACEFUL) is FAILED:
                self.abort()
        else:
            self._disconnect(b"")
        self._close_if_over()

    def _nonsense(self, name: str, what: str) -> None:
        nonsense = TypeError(f"the {name} callback {what}")
        self._block.report_callback(name, self, nonsense)
        self.abort()


def _slot(mask: int) -> str:
    return next(slot for event, slot in _SLOTS.items() if mask & event)
