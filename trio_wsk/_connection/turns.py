"""The turns that a connection has in the pump, and how its edges get it one.

Whatever comes is only noted (`Turns.on_edges`): what follows from it is done in the pump, one
bounded turn after the other. Nothing here awaits.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from trio_wsk._engine.readiness import ENDED, READ, URGENT, WRITE
from trio_wsk._vocabulary.errors import InvalidDeviceStateError

from .state import FIN_RECEIVED, IN_DOUBT, PEER_ENDING, POSTED, TOLD
from .wire import Wire

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

    from trio_wsk._engine.readiness import Watch
    from trio_wsk._vocabulary.end_reason import EndReason
    from trio_wsk.transports._contract import Channel

    from .dispatch import ConnectionDispatch

__all__ = ["Turns"]


class Turns(Wire):
    """A connection as what the pump serves."""

    __slots__ = ("_context", "_dispatch", "_due", "_enabled")

    _context: contextvars.Context | None
    """What its callbacks run in: a copy of the block's context, made for the first of them."""
    _dispatch: ConnectionDispatch | None
    """The callbacks; an event needs to be enabled, too."""
    _enabled: int
    """The events that are, and `THE_BLOCKS`: if it is 0, only what is queued needs the pump."""
    _due: int
    """The edges that have come and were not acted on, and `POSTED`."""

    # --- Whose it is --------------------------------------------------------------------

    def _belong_to_block(self) -> None:
        self._block.event_driven.add(self)
        if self._watch is not None:
            self._listen_to_watch(self._watch)

    def _listen_to_watch(self, watch: Watch) -> None:
        watch.sink = self
        if watch.ended:
            self._marks |= PEER_ENDING
        if watch.in_doubt:
            self._marks |= IN_DOUBT

    def _may_leave_block(self) -> None:
        """Nothing of this connection needs the pump: it is its owner's alone again.

        One that the accept event has taken has no other owner: it is the block's to the end,
        also while all of its events are disabled.
        """
        if not self._enabled and not self._unsent and self._owner is None:
            self._block.event_driven.discard(self)

    # --- Edges -------------------------------------------------------------------------

    def on_edges(self, edges: int) -> None:
        """Note what the channel has to say; the pump acts on it. For its readiness to call."""
        if edges & ENDED:
            self._marks |= PEER_ENDING
        if edges & URGENT:
            self._marks |= IN_DOUBT
        due = self._due
        self._due = due | edges | POSTED
        if not due & POSTED:
            self._block.post(self._turn)

    def _has_broken(self) -> None:
        """Whoever has events is told in its turn."""
        if self._enabled or self._unsent:
            self._schedule(ENDED)

    def _schedule(self, due: int) -> None:
        """Have a turn, as if these edges had come."""
        self.on_edges(due)

    def _hear_of_input(self) -> None:
        """Hear of what comes, and of what is there already if this is the first time.

        Where there are no edges, not of what stays readable for ever.
        """
        watch = self._watch
        if watch is None and not self._request.is_watched_by_descriptor:
            watch = self._watched()
        readiness = (watch and watch.home) or self._block.readiness
        if not readiness.edge_triggered and self._marks & FIN_RECEIVED:
            return
        if watch is not None:
            self._arm(readiness, watch, READ)
        else:
            self._be_told(readiness, self._open_channel().fileno(), self)
            self._marks |= TOLD
            if not self._request.short_read_is_all:
                self._marks |= IN_DOUBT

    def _hear_of_room(self) -> None:
        """Hear when the kernel takes more to send."""
        if not self._block.ended:  # else a task waits for that
            watch = self._watched()
            self._arm(watch.home or self._block.readiness, watch, WRITE)

    def _watched(self) -> Watch:
        if self._watch is not None:
            return self._watch
        was_told = self._hear_no_more(self._open_channel())
        watch = super()._watched()
        if self._enabled or self._unsent:
            self._listen_to_watch(watch)
        if was_told and not self._block.ended:
            self._hear_of_input()
        return watch

    def _hear_no_more(self, channel: Channel) -> bool:
        """Be told nothing directly; False if that was so already."""
        if not self._marks & TOLD:
            return False
        self._marks &= ~TOLD
        self._block.readiness.tell_no_more(channel.fileno(), self)
        return True

    # --- Callbacks ---------------------------------------------------------------------

    def _has(self, event: int) -> bool:
        """Whether there is a callback for an event, enabled or not."""
        return self._dispatch is not None and bool(self._dispatch.mask & event)

    def _own_context(self) -> contextvars.Context:
        if self._context is None:
            self._context = self._block.context.copy()
        return self._context

    def _call(self, name: str, callback: Callable[..., object], what: object) -> object:
        """In the pump: run one of this connection's callbacks; see `Pump.call`."""
        return self._block.call(name, self, self._own_context(), callback, self, what)

    def _callback_failed(self, error: BaseException) -> None:
        if self._channel is not None:
            self._rare_state().failure = error

    def _require_pump(self) -> None:
        if self._block.ended:
            raise InvalidDeviceStateError(
                "the connection is in no listening block, or that has ended, and its pump with it,"
                " which calls back and empties the send queue; await this connection instead:"
                " receive_some(), send_all(data)"
            )

    # --- What is done by the layers above ----------------------------------------------

    @abstractmethod
    def _turn(self) -> None:
        """In the pump: do what is due, bounded."""

    @abstractmethod
    def _abort(self, reason: EndReason, error: BaseException | None = None) -> None:
        """Reset the connection, if it is open, and say why."""

    @abstractmethod
    def _tell_drain(self, callback: Callable[..., object]) -> None:
        """In the pump: tell this connection that the server drains, if it has events."""

    @property
    @abstractmethod
    def _outlives_block(self) -> bool:
        """Whether it can go on without the pump when the block ends."""

    @abstractmethod
    def _leave_block(self) -> None:
        """Go on without the pump, which has ended."""
