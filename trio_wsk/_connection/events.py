"""The event side of a connection: indications, the send queue, and the end.

The middle layer of a `Connection`, which needs a listening block's pump. Nothing here awaits but
`EventSide._wait_sent` and `EventSide._wait_turn`; everything that calls user code runs in the
pump, in `EventSide._turn`.

The order that is kept:

* Octets are indicated in the order in which they came, and what a callback has not
  taken comes again before anything newer, to whoever asks first: the next indication
  after it is resumed, or a task's ``receive_some``. While a task receives, nothing is indicated.
* The peer's FIN is told after all data before it, so not while data is refused. A reset
  is told at once: nothing can be answered any more.
* What is queued is sent in order, and a task's ``send_all`` stands in the same line.
* FIN is sent after all of it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_wsk._engine.callers import check_ending_caller
from trio_wsk._engine.irp import Irp, complete, fail
from trio_wsk._engine.pump import FAILED
from trio_wsk._engine.readiness import (
    ENDED,
    LOOK_SECONDS,
    READ,
    URGENT,
    WRITE,
    EpollReadiness,
)
from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.arguments import are_events, shown
from trio_wsk._vocabulary.end_reason import EndReason
from trio_wsk._vocabulary.errors import (
    ConnectionBrokenError,
    InvalidDeviceStateError,
    InvalidParameterError,
    OperationCancelledError,
    SocketBusyError,
    SocketClosedError,
)
from trio_wsk._vocabulary.records import ConnectionEnded
from trio_wsk._vocabulary.status import (
    DISCONNECT,
    RECEIVE,
    SEND_BACKLOG,
    EventMask,
    Status,
)
from trio_wsk._vocabulary.verdict import InspectId

from .block import (
    LINGER_SECONDS,
    TAKING_OCTETS,
    TAKING_SECONDS,
)
from .dispatch import ConnectionDispatch, Taken
from .wire import (
    ACTIVE,
    END_TOLD,
    ENDING,
    FIN_RECEIVED,
    IN_DOUBT,
    LINGERING,
    LOST,
    RECEIVE_SIZE,
    REFUSED,
    RESUMED,
    TOLD,
    Unsent,
    Wire,
)

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

    from trio_wsk._engine.readiness import Watch
    from trio_wsk.transports._contract import Channel

    from .wire import Annex

    Octets = bytes | bytearray | memoryview

__all__ = ["CONNECTION_EVENTS", "LINGER_SECONDS", "EventSide", "takes"]

GRACEFUL: Final = False
"""The peer has sent FIN."""
ABORTIVE: Final = True
"""The peer has reset the connection."""

GONE: Final = 0x008 | 0x010
"""Among the edges: EPOLLERR and EPOLLHUP. A reset comes with both, a FIN with neither."""

READS_PER_TURN: Final = 4
"""How often one connection is read before the others have their turn."""

CONNECTION_EVENTS: Final = RECEIVE | DISCONNECT | SEND_BACKLOG
"""The events that a connection has."""

# Bits that no event and no edge has, and that leave small numbers small: Python keeps one object
# for each number up to 256.
_THE_BLOCKS: Final = 1
"""Among the enabled events: nobody but the block would end this connection."""

_POSTED: Final = 0x20
"""Among the edges that are due: the pump has been asked for a turn."""

_MORE: Final = getattr(socket, "MSG_MORE", 0)
"""Hold the segment back: FIN follows and travels in it (Linux, tcp(7))."""


class EventSide(Wire):
    """What a connection does by callbacks, and without waiting."""

    __slots__ = ("_context", "_dispatch", "_due", "_enabled")

    _context: contextvars.Context | None
    """What its callbacks run in: a copy of the block's context, made for the first of them."""
    _dispatch: ConnectionDispatch | None
    """The callbacks; an event needs to be enabled, too."""
    _enabled: int
    """The events that are, and `_THE_BLOCKS`: if it is 0, only what is queued needs the pump."""
    _due: int
    """The edges that have come and were not acted on, and `_POSTED`."""

    # --- Enabling and disabling --------------------------------------------------------

    def _start_events(self, mask: int, dispatch: ConnectionDispatch) -> None:
        """In the pump: the block has this connection; enable events, and take the first turn.

        It is among the block's ``event_driven`` connections already.
        """
        if self._channel is None:  # the accept callback has closed it
            annex = self._annexed()
            ended, annex.ended = annex.ended, None
            if dispatch.closed is not None and ended is not None:
                self._block.post(partial(self._tell_closed, dispatch.closed, ended))
            return
        self._dispatch = dispatch
        self._enabled |= mask | _THE_BLOCKS
        if self._fin_sent:  # the accept callback has said good-bye
            self._wait_for_peer()
        if self._watch is not None:  # the accept callback has asked for the socket, perhaps
            self._listen_to_watch(self._watch)
        self._turn()  # without any events, too: its end is heard of

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
        bits = int(mask)
        callbacks = dispatch or self._dispatch
        missing = bits if callbacks is None else bits & ~callbacks.mask
        if missing:
            slot = _slot(missing)
            raise InvalidParameterError(
                f"{EventMask(missing)!r} has no callback; give one:"
                f" enable_events(..., ConnectionDispatch({slot}=...))"
            )
        self._dispatch = callbacks
        self._enabled |= bits
        self._belong_to_block()
        self._schedule(READ)

    def _belong_to_block(self) -> None:
        self._block.event_driven.add(self)
        if self._watch is not None:
            self._listen_to_watch(self._watch)

    def _listen_to_watch(self, watch: Watch) -> None:
        watch.sink = self
        if watch.ended:
            self._marks |= ENDING
        if watch.in_doubt:
            self._marks |= IN_DOUBT

    def _may_leave_block(self) -> None:
        """Nothing of this connection needs the pump: it is its owner's alone again.

        One that the accept event has taken has no other owner: it is the block's to the end,
        also while all of its events are disabled.
        """
        if not self._enabled and not self._unsent and self._owner is None:
            self._block.event_driven.discard(self)

    @property
    def _outlives_block(self) -> bool:
        """Whether only what is queued needs the pump, and nobody to call back when it is sent."""
        annex = self._annex
        return (
            not self._enabled
            and self._owner is None
            and annex is not None
            and not annex.routines_due
            and not any(each.irp and each.irp.on_completion for each in annex.queue or ())
        )

    def _leave_block(self) -> None:
        """The block has ended: what is queued is sent by a task of the run's, one at a time."""
        self._block.event_driven.discard(self)
        if self._watch is not None:
            self._watch.sink = None
        annex = self._annexed()
        if annex.sender is None:
            annex.sender = trio.CancelScope()
            trio.lowlevel.spawn_system_task(
                self._send_queue,
                annex.sender,
                name="trio_wsk: send queue of a connection that outlives its block",
            )

    async def _send_queue(self, bound: trio.CancelScope) -> None:  # noqa: ASYNC910 - a task of its own
        """Send what is queued, while no task stands in line that does it.

        The deadline of what it is bound by is the peer's, to take some before FIN; who withdraws
        the last of the queue cancels its wait.
        """
        annex = self._annexed()
        try:
            self._bound_taking()
            while self._channel is not None:
                self._flush()
                if not annex.unsent or self._sending == ACTIVE:
                    break
                if takes(annex.octets_then, self._octets_out):
                    self._bound_taking()
                elif trio.current_time() >= bound.deadline:
                    self._abort(EndReason.TIMED_OUT)
                    break
                bound = annex.sender = trio.CancelScope(deadline=bound.deadline)
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
            annex.sender = None

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

    # --- Edges and turns ---------------------------------------------------------------

    def on_edges(self, edges: int) -> None:
        """Note what the channel has to say; the pump acts on it. For its readiness to call."""
        if edges & ENDED:
            self._marks |= ENDING
        if edges & URGENT:
            self._marks |= IN_DOUBT
        due = self._due
        self._due = due | edges | _POSTED
        if not due & _POSTED:
            self._block.post(self._turn)

    def _has_broken(self) -> None:
        """Whoever has events is told in its turn."""
        if self._enabled or self._unsent:
            self._schedule(ENDED)

    def _schedule(self, due: int) -> None:
        """Have a turn, as if these edges had come."""
        self.on_edges(due)

    def _turn(self) -> None:
        """In the pump: do what is due, bounded."""
        due, self._due = self._due, 0
        if self._channel is None:
            return
        try:
            if self._annex is not None and self._annex.broken is not None:
                self._tell_reset()
                return
            if due & WRITE:
                self._flush()
                self._tell_backlog()
            if due & (READ | ENDED) and self._channel is not None:
                left = self._indicate(due)  # which makes more due by itself, and by callbacks
                self._due |= left
        except ConnectionBrokenError:
            self._tell_reset()
        except SocketClosedError:
            self._close()  # through the public socket

    def _indicate(self, due: int) -> int:
        """Indicate what has come; return what stays due because nobody wants it now."""
        for _ in range(READS_PER_TURN):
            if self._receiving:
                return READ
            if self._marks & REFUSED or not (self._enabled & RECEIVE or self._lingering):
                self._look_for_end(due)
                return READ
            annex = self._annex
            came_back = annex is not None and bool(annex.held)
            if self._marks & FIN_RECEIVED and not came_back:
                self._check_not_reset(due & GONE)
                data: bytes | None = b""
            else:
                data = self._receive_now(RECEIVE_SIZE)
            if data:
                self._tell_data(data)
            elif data is not None:
                self._tell_fin()
            if self._channel is None:
                return 0
            # After a short read nothing is left; if something has come since, its edge is still
            # to come. The peer's end has no edge of its own, nor has what is behind a mark.
            in_doubt = came_back or self._marks & (ENDING | IN_DOUBT)
            if not data or not (in_doubt or len(data) == RECEIVE_SIZE):
                if not self._marks & TOLD:
                    self._hear_of_input()
                return 0
        self._schedule(READ)
        return 0

    @property
    def _lingering(self) -> bool:
        """Whether what comes is thrown away: after our FIN, without a receive callback."""
        return bool(self._marks & LINGERING) and not self._has(RECEIVE)

    def _has(self, event: int) -> bool:
        """Whether there is a callback for an event, enabled or not."""
        return self._dispatch is not None and bool(self._dispatch.mask & event)

    def _tell_data(self, data: bytes) -> None:
        """Indicate data, if that is enabled; or it is thrown away."""
        if self._marks & LINGERING:
            self._block.lingering.start(self)
        dispatch = self._dispatch
        if dispatch is not None and dispatch.receive is not None and self._enabled & RECEIVE:
            context = self._context
            if context is None:
                context = self._own_context()
            answer = self._block.call("receive", self, context, dispatch.receive, self, data)
            if answer is not None and answer is not Status.SUCCESS:
                self._not_all_taken(data, answer)
            elif self._marks & RESUMED:
                self._marks &= ~RESUMED

    def _not_all_taken(self, data: bytes, answer: object) -> None:
        """Keep what the receive callback has not taken, until it is resumed."""
        was_resumed = self._marks & RESUMED
        self._marks &= ~RESUMED
        if answer is FAILED:
            self.abort()
        elif answer is Status.DATA_NOT_ACCEPTED:
            self._refuse(data, was_resumed=bool(was_resumed))
        elif isinstance(answer, Taken) and answer.count <= len(data):
            if answer.count < len(data):
                self._refuse(data[answer.count :], was_resumed=bool(was_resumed))
        else:
            self._nonsense(
                "receive",
                f"returned {shown(answer)}: return None or Status.SUCCESS (all taken), Taken(count)"
                f" (some, at most {len(data)} here), or Status.DATA_NOT_ACCEPTED (none)",
            )

    def _refuse(self, rest: bytes, *, was_resumed: bool) -> None:
        if self._channel is None:
            return
        annex = self._annexed()
        annex.held = rest + annex.held
        if was_resumed:
            self._schedule(READ)
        else:
            self._marks |= REFUSED

    def _resume(self) -> None:
        """Indicate again."""
        if self._marks & REFUSED:
            self._marks &= ~REFUSED
            self._schedule(READ)
        elif self._block.is_calling("receive", self):
            self._marks |= RESUMED

    def _hear_of_input(self) -> None:
        """Hear of what comes, and of what is there already if this is the first time.

        Where there are no edges, not of what stays readable for ever.
        """
        watch = self._watch
        if watch is not None:
            readiness = watch.home or self._block.readiness
            if readiness.edge_triggered or not self._marks & FIN_RECEIVED:
                self._arm(readiness, watch, READ)
            return
        readiness = self._block.readiness
        if self._request.is_watched_by_descriptor and isinstance(readiness, EpollReadiness):
            self._be_told(readiness, self._open_channel().fileno(), self)
            self._marks |= TOLD
            if not self._request.short_read_is_all:
                self._marks |= IN_DOUBT
        else:
            self._watched()
            self._hear_of_input()

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
        readiness = self._block.readiness
        assert isinstance(readiness, EpollReadiness)
        readiness.tell_no_more(channel.fileno(), self)
        return True

    # --- For the awaited side ----------------------------------------------------------

    def _task_received(self) -> None:
        """A task has finished receiving: it is the events' turn again."""
        if self._enabled and self._channel is not None:
            if self._marks & LINGERING:
                self._block.lingering.start(self)
            self._schedule(READ)

    def _task_sent(self) -> None:
        """A task has finished sending: what was queued meanwhile is next."""
        annex = self._annex
        if annex is None or self._channel is None:
            return
        if not self._block.ended:
            if annex.queue is not None or annex.fin_wanted:
                self._schedule(WRITE)
        elif annex.unsent:
            self._leave_block()
        elif annex.fin_wanted:
            with suppress(ConnectionBrokenError):
                self._send_fin()

    async def _wait_turn(self) -> None:
        """Stand in line: wait until what is queued now has been sent, and not what comes after."""
        queue = self._annexed().queue
        assert queue is not None
        place = Unsent(b"", None, 0)
        place.turn = trio.Event()
        queue.append(place)
        try:
            await place.turn.wait()
        except BaseException:
            if place in queue:
                queue.remove(place)
            raise

    async def _wait_sent(self) -> None:  # noqa: ASYNC910 - as it says
        """Wait until everything that is queued has been sent. A checkpoint, or it has been."""
        annex = self._annexed()
        while annex.unsent:
            if annex.sent_waiters is None:
                annex.sent_waiters = trio.Event()
            await annex.sent_waiters.wait()

    # --- The peer's end ----------------------------------------------------------------

    def _look_for_end(self, due: int) -> None:
        """Nobody reads: see whether the peer has ended all the same."""
        self._check_not_reset(due & ENDED)
        if not self._enabled:
            return
        found: bytes | None = b""
        if not self._marks & FIN_RECEIVED:
            found = self._peek_now()
            if found == b"":
                self._marks |= FIN_RECEIVED
            is_news = found is None or self._block.readiness.edge_triggered
            if is_news and not self._marks & TOLD:
                self._hear_of_input()
        if not self._has(RECEIVE):
            # Nobody may ever take what is before it.
            if found == b"" or (found and self._marks & ENDING):
                self._end_unreceived()
        elif self._marks & FIN_RECEIVED and (self._annex is None or not self._annex.held):
            if self._enabled & DISCONNECT:
                self._tell_fin()
            elif not self._has(DISCONNECT):
                self._close_if_over()

    def _check_not_reset(self, edges: int) -> None:
        """If these edges can come with a reset, see whether there was one."""
        if edges and self._request.was_reset():
            raise self._translated(OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))

    def _end_unreceived(self) -> None:
        """The peer of a connection without a receive callback has sent FIN."""
        # Only what is the block's is finished by itself: else there is a task that may still
        # answer.
        if self._enabled & (DISCONNECT | _THE_BLOCKS):
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
            self._marks |= END_TOLD
            self._disconnect(b"")
        self._close_if_over()

    def _tell_reset(self) -> None:
        """The connection is broken: say so, also if its FIN was told, and let go of it."""
        if self._channel is None:
            return
        dispatch = self._dispatch
        if self._enabled & DISCONNECT and dispatch is not None and dispatch.disconnect is not None:
            # That it tries to answer all the same is nothing to report.
            with suppress(ConnectionBrokenError):
                self._call("disconnect", dispatch.disconnect, ABORTIVE)
        if self._enabled:
            self._marks |= LOST
            self.abort()
        else:
            self._drop_queue()  # the task that awaits this connection finds out by itself
            self._may_leave_block()

    # --- Sending -----------------------------------------------------------------------

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
        annex = self._annex
        if annex is not None and annex.fin_wanted:
            raise SocketClosedError(
                f"this side has finished sending to {self.remote_address} (disconnect)"
            )
        if self._block.ended:
            self._require_pump()
        if self._sending or (annex is not None and annex.unsent):
            self._open_for_sending()
            return 0
        return self._send_now(data)

    def _require_pump(self) -> None:
        if self._block.ended:
            raise InvalidDeviceStateError(
                "the listening block has ended, and its pump with it, which calls back and"
                " empties the send queue; await this connection instead: receive_some(),"
                " send_all(data)"
            )

    def _enqueue(self, rest: bytes, irp: Irp[int] | None, size: int) -> None:
        annex = self._annexed()
        if annex.queue is None:
            annex.queue = deque()
        annex.queue.append(Unsent(rest, irp, size))
        annex.unsent += len(rest)
        self._belong_to_block()
        self._schedule(WRITE)

    def _flush(self) -> None:
        """Send from the queue until the kernel takes no more; then whatever follows it."""
        annex = self._annex
        if annex is None or self._sending == ACTIVE:
            return
        queue = annex.queue
        while queue:
            first = queue[0]
            if first.turn is not None:
                queue.popleft()
                self._sending = ACTIVE
                first.turn.set()
                return
            more = _MORE if annex.fin_wanted and len(queue) == 1 else 0
            taken = self._send_now(first.view, more) if first.view else 0
            annex.unsent -= taken
            first.view = first.view[taken:]
            if first.view:
                if not taken:
                    self._hear_of_room()
                    return
                continue
            queue.popleft()
            if first.irp is not None:
                complete(first.irp, first.size)
        self._all_sent(annex)

    def _all_sent(self, annex: Annex) -> None:
        if annex.sent_waiters is not None:
            annex.sent_waiters.set()
            annex.sent_waiters = None
        if annex.fin_wanted:
            self._block.taking.forget(self)
            self._send_fin()
        self._may_leave_block()

    def _withdraw(self, irp: Irp[int]) -> bool:
        annex = self._annexed()
        queue = annex.queue or deque()
        for unsent in queue:
            if unsent.irp is irp and len(unsent.view) == unsent.size:
                queue.remove(unsent)
                annex.unsent -= unsent.size
                if not annex.unsent:
                    if annex.sender is not None:
                        annex.sender.cancel()
                    else:
                        self._schedule(WRITE)
                return True
        return False

    def _completed(self, irp: Irp[int]) -> None:
        self._annexed().routines_due += 1
        self._block.post(lambda: self._run_completion(irp))

    def _run_completion(self, irp: Irp[int]) -> None:
        self._annexed().routines_due -= 1
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

    def _tell_backlog(self) -> None:
        """Say how much should be outstanding, if that has changed."""
        if self._channel is None or not self._enabled & SEND_BACKLOG:
            return
        ideal = self._request.ideal_send_backlog(self._channel)
        annex = self._annexed()
        if ideal == annex.ideal:
            return
        annex.ideal = ideal
        assert self._dispatch is not None
        callback = self._dispatch.send_backlog
        assert callback is not None
        if self._call("send_backlog", callback, ideal) is FAILED:
            self.abort()

    # --- Our end -----------------------------------------------------------------------

    def _disconnect(self, data: Octets) -> None:
        """Send what is queued, then ``data``, then FIN."""
        annex = self._annex
        is_wanted = annex is not None and annex.fin_wanted
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
            self._annexed().fin_wanted = True
            self._enqueue(bytes(memoryview(data)[sent:]), None, len(data) - sent)
            self._bound_taking()
        elif is_first:
            self._send_fin()
        else:
            self._annexed().fin_wanted = True
            self._bound_taking()

    def _bound_taking(self) -> None:
        """Have the peer take what is unsent before FIN, in good time."""
        annex = self._annexed()
        if annex.unsent and annex.fin_wanted:
            annex.octets_then = self._octets_out
            if annex.sender is not None:
                annex.sender.deadline = trio.current_time() + TAKING_SECONDS
            else:
                self._block.taking.start(self)

    def _check_taking(self) -> None:
        """In the pump: see whether the peer has taken enough since, or all."""
        annex = self._annexed()
        if annex.unsent and not takes(annex.octets_then, self._octets_out):
            self._abort(EndReason.TIMED_OUT)
        else:
            self._bound_taking()

    def _send_fin(self) -> None:
        """Send FIN, or reset after a part of something.

        A connection that is over is closed, which does either as well.
        """
        if self._marks & FIN_RECEIVED and self._enabled:
            self._close_in_turn()
        elif self._is_cut_short:
            self._abort(EndReason.ABORTED)
        else:
            self._shut_down_sending()
            self._wait_for_peer()

    def _has_half_closed(self) -> None:
        """After FIN that leaves the rest to who has this connection: the block's has only that."""
        if self._enabled & _THE_BLOCKS:
            self._wait_for_peer()

    def _wait_for_peer(self) -> None:
        """After our FIN: wait for the peer's, throwing away what it sends, and not for ever."""
        if self._enabled and not self._marks & LINGERING:
            self._marks |= LINGERING
            self._block.lingering.start(self)
            self._block.lingering_in_all.start(self)
            self._schedule(READ)

    def _close_if_over(self) -> None:
        """Both sides have ended: nothing is left to happen."""
        if self._fin_sent and self._marks & FIN_RECEIVED:
            self._close_in_turn()

    def _close_in_turn(self) -> None:
        """Close, which sends FIN, when the completion routines that are due have been called.

        Their Irps have succeeded, so they may rely on a connection that is open.
        """
        if self._annex is not None and self._annex.routines_due:
            self._annex.fin_wanted = True  # nothing is sent any more
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

    def _reset_by_server(self) -> None:
        """Reset it under whoever holds it, and finds it broken: he has not closed it."""
        if self._channel is not None:
            annex = self._annexed()
            if annex.broken is None:
                annex.broken = OSError(errno.ECONNABORTED, "this server has reset it")
            self._marks |= LOST
            self._abort(EndReason.SERVER_ENDED)

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
        annex = self._annex
        if annex is not None:
            block.taking.forget(self)
            if annex.socket is not None:
                # Wakes tasks that wait through the public socket, and closes the channel,
                # which is the same descriptor.
                trio.lowlevel.notify_closing(annex.socket)
            annex.held = b""
            self._drop_queue()
        self._say_ended(reason, error, has_events=has_events)
        if self._owner is not None:
            self._owner.ended(self)
        return channel

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
        )
        is_accepting = block.is_calling("accept", self)
        if is_news or closed is not None or is_accepting:
            ended = self._how_it_ended(reason, error)
            if is_news:
                block.observers.tell(ended)
            if is_accepting:
                self._annexed().ended = ended
            if closed is not None and not block.ended:
                block.post(partial(self._tell_closed, closed, ended))
                return
        if self._annex is not None and self._annex.routines_due:
            block.post(self._forget)  # the routines have been called by then
        else:
            self._forget()

    def _how_it_ended(self, reason: EndReason, error: BaseException | None) -> ConnectionEnded:
        annex = self._annex
        if annex is not None and reason not in _OURS_ALONE:
            if annex.broken is not None:
                is_reset = annex.broken.errno in _RESET
                reason = EndReason.PEER_RESET if is_reset else EndReason.BROKEN
                error = annex.broken
            elif annex.failure is not None:
                reason, error = EndReason.FAILED, annex.failure
        if reason is EndReason.CLOSED and self._marks & FIN_RECEIVED:
            reason = EndReason.FINISHED
        return ConnectionEnded(
            at=trio.current_time(),
            remote_address=self.remote_address,
            inspect_id=self._inspect_id(),
            opened=self._opened,
            octets_received=self._octets_in,
            octets_sent=self._octets_out,
            reason=reason,
            error=error,
        )

    def _inspect_id(self) -> InspectId | None:
        key = self._block.inspect_key
        return None if key is None else InspectId(key, self._request.serial_number)

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
        if self._annex is not None:
            self._annex.failure = None

    def _drop_queue(self) -> None:
        """Nothing is sent any more: tell who waits for it."""
        annex = self._annex
        if annex is None:
            return
        annex.unsent = 0
        queue, annex.queue = annex.queue, None
        for unsent in queue or ():
            if unsent.irp is not None:
                fail(unsent.irp, self._why_unsent())
            if unsent.turn is not None:
                unsent.turn.set()
        if annex.sent_waiters is not None:
            annex.sent_waiters.set()
            annex.sent_waiters = None

    def _why_unsent(self) -> OperationCancelledError | ConnectionBrokenError:
        broken = self._broken
        if broken is not None:
            error = self._translated(broken)
            assert isinstance(error, ConnectionBrokenError)
            return error
        return OperationCancelledError("the connection was closed before the data was sent")

    # --- Helpers -----------------------------------------------------------------------

    def _own_context(self) -> contextvars.Context:
        if self._context is None:
            self._context = self._block.context.copy()
        return self._context

    def _call(self, name: str, callback: Callable[..., object], what: object) -> object:
        """In the pump: run one of this connection's callbacks; see `Pump.call`."""
        return self._block.call(name, self, self._own_context(), callback, self, what)

    def _tell_drain(self, callback: Callable[[Any], object]) -> None:
        """In the pump: tell this connection that the server drains, if it has events."""
        if self._channel is None or not self._enabled:
            return
        try:
            answer = self._block.call("drain", self, self._own_context(), callback, self)
            if answer is FAILED:
                self.abort()
        except ConnectionBrokenError:
            self._tell_reset()

    def _callback_failed(self, error: BaseException) -> None:
        if self._channel is not None:
            self._annexed().failure = error

    def _nonsense(self, name: str, what: str) -> None:
        nonsense = TypeError(f"the {name} callback {what}")
        self._block.report_callback(name, self, nonsense)
        self.abort()


_RESET: Final = frozenset({errno.ECONNRESET, errno.EPIPE})
"""What a peer's reset looks like; EPIPE if it comes after its FIN, or while we send."""

_OURS_ALONE: Final = frozenset({EndReason.SERVER_ENDED, EndReason.BLOCK_ENDED, EndReason.TIMED_OUT})
"""What is so whatever else is known of the connection."""

_SLOTS: Final = {
    RECEIVE: "receive",
    DISCONNECT: "disconnect",
    SEND_BACKLOG: "send_backlog",
}


def takes(before: int, now: int) -> bool:
    """Whether a peer has taken enough in `TAKING_SECONDS`, by the octets that were sent in all.

    Not by those that are queued: a task's ``send_all`` may stand before them, and go on.
    """
    return now >= before + TAKING_OCTETS


def _slot(mask: int) -> str:
    return next(slot for event, slot in _SLOTS.items() if mask & event)
