"""The event side of a connection: indications, the send queue, and the end.

Made when a connection first needs it: it has events, or something of it is queued.
Nothing here awaits but `ConnectionEvents.wait_sent`; everything that calls user code
runs in the pump, in `ConnectionEvents._turn`.

The order that is kept:

* Octets are indicated in the order in which they came, and what a callback has not
  taken comes again before anything newer, to whoever asks first: the next indication
  after `resume`, or a task's ``receive_some``. While a task receives, nothing is indicated.
* The peer's FIN is told after all data before it, so not while data is refused. A reset
  is told at once: nothing can be answered any more.
* What is queued is sent in order, and a task's ``send_all`` stands in the same line.
* FIN is sent after all of it.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from ._block import FAILED
from ._dispatch import ConnectionDispatch
from ._errors import (
    ConnectionBrokenError,
    InvalidDeviceStateError,
    InvalidParameterError,
    OperationCancelledError,
    SocketClosedError,
)
from ._irp import Irp
from ._readiness import ENDED, READ, WRITE
from ._status import DISCONNECT, RECEIVE, SEND_BACKLOG, EventMask, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._block import Block
    from ._connection import Connection

    Octets = bytes | bytearray | memoryview

__all__ = ["ACTIVE", "CONNECTION_EVENTS", "IDLE", "LINGER_SECONDS", "WAITING", "ConnectionEvents"]

IDLE: Final = 0
"""No task is sending."""
WAITING: Final = 1
"""A task's ``send_all`` stands in line behind what was queued before it."""
ACTIVE: Final = 2
"""A task's ``send_all`` is sending; what is queued now stands in line behind it."""

GRACEFUL: Final = False
"""The peer has sent FIN."""
ABORTIVE: Final = True
"""The peer has reset the connection."""

RECEIVE_SIZE: Final = 65536
"""How much is read for one indication at most, in octets."""

READS_PER_TURN: Final = 4
"""How often one connection is read before the others have their turn."""

LINGER_SECONDS: Final = 5.0
"""How long a peer may be silent after our FIN before the connection is reset, in seconds
on Trio's clock: nginx's default for the same thing (``lingering_timeout``)."""

CONNECTION_EVENTS: Final = RECEIVE | DISCONNECT | SEND_BACKLOG
"""The events that a connection has."""

_MORE: Final = getattr(socket, "MSG_MORE", 0)
"""Hold the segment back: FIN follows and travels in it (Linux, tcp(7))."""


class _Unsent:
    """One piece of the send queue, or a task's place in it."""

    __slots__ = ("irp", "size", "turn", "view")

    def __init__(self, data: Octets, irp: Irp[int] | None, size: int) -> None:
        self.view = memoryview(data)
        """What the kernel has not taken yet."""
        self.irp = irp
        self.size = size
        """How much it was at first, in octets."""
        self.turn: trio.Event | None = None
        """Set when the queue has come to the task that stands in line here."""


class ConnectionEvents:
    """What a connection needs to call back and to send without waiting."""

    __slots__ = (
        "_block",
        "_connection",
        "_context",
        "_due",
        "_enabled",
        "_end_told",
        "_fin_wanted",
        "_heard_at",
        "_ideal",
        "_is_the_blocks",
        "_paused",
        "_posted",
        "_queue",
        "_routines_due",
        "_sent_waiters",
        "dispatch",
        "held",
        "unsent",
    )

    def __init__(self, connection: Connection, block: Block) -> None:
        self._connection = connection
        self._block = block
        self._context = block.context.copy()
        self._enabled = 0
        self._due = READ
        self._is_the_blocks = False
        self._posted = False
        self._paused = False
        self._end_told = False
        self._fin_wanted = False
        self._heard_at: float | None = None
        self._ideal = 0
        self._queue: deque[_Unsent] | None = None
        self._routines_due = 0
        self._sent_waiters: trio.Event | None = None
        self.dispatch: ConnectionDispatch | None = None
        """The callbacks; an event needs to be enabled, too."""
        self.held = b""
        """Received and not taken by the callback."""
        self.unsent = 0
        """Octets that are queued for sending."""

    # --- Enabling and disabling --------------------------------------------------------

    def enable(self, mask: int, dispatch: ConnectionDispatch | None) -> None:
        """Enable events; what has come already is indicated in the next turn."""
        self._accept_mask(mask, dispatch)
        self._schedule(READ)

    def start(self, mask: int, dispatch: ConnectionDispatch) -> None:
        """Enable events from within the pump, and take the first turn at once."""
        self.dispatch = dispatch
        self._is_the_blocks = True
        if self._connection.closed:
            return
        if self._connection._eof_sent:  # the accept callback has said good-bye
            self._wait_for_peer()
        self._enabled |= mask
        if self._enabled:
            self._belong_to_block()
            self._turn()

    def _accept_mask(self, mask: int, dispatch: ConnectionDispatch | None) -> None:
        self._require_pump()
        if dispatch is not None and not isinstance(dispatch, ConnectionDispatch):
            raise InvalidParameterError(
                "enable_events takes the callbacks as ConnectionDispatch(receive=...),"
                f" not {dispatch!r}"
            )
        if not mask or mask & ~CONNECTION_EVENTS:
            raise InvalidParameterError(
                f"{EventMask(mask)!r} are no events of a connection; enable any of"
                f" {EventMask(CONNECTION_EVENTS)!r}"
            )
        callbacks = dispatch or self.dispatch
        missing = mask if callbacks is None else mask & ~callbacks.mask
        if missing:
            slot = _slot(missing)
            raise InvalidParameterError(
                f"{EventMask(missing)!r} has no callback; give one:"
                f" enable_events(..., ConnectionDispatch({slot}=...))"
            )
        self.dispatch = callbacks
        self._enabled |= mask
        self._belong_to_block()

    def _belong_to_block(self) -> None:
        self._block.event_driven.add(self._connection)
        if self._connection._watch is not None:
            self._connection._watch.sink = self

    @property
    def _is_event_driven(self) -> bool:
        """Whether nobody but the block would end this connection."""
        return self._is_the_blocks or self._enabled != 0

    def _may_leave_block(self) -> None:
        """Nothing of this connection needs the pump: it is its owner's alone again.

        One that the accept event has taken has no other owner: it is the block's to the end,
        also while all of its events are disabled.
        """
        if not self._is_event_driven and not self.unsent:
            self._block.event_driven.discard(self._connection)

    def disable(self, event: int) -> Status:
        """Disable one event."""
        if event not in _SLOTS:
            raise InvalidParameterError(
                f"{EventMask(event)!r} is not exactly one event of a connection;"
                " disable them one at a time"
            )
        self._enabled &= ~event
        self._may_leave_block()
        if self._block.calling == (self._connection, _SLOTS[event]):
            return Status.EVENT_PENDING
        return Status.SUCCESS

    # --- Edges and turns ---------------------------------------------------------------

    def on_edges(self, edges: int) -> None:
        """Note what the channel has to say; the pump acts on it."""
        if edges & ENDED:
            edges |= READ
        self._schedule(edges)

    def broken(self) -> None:
        """The connection has turned out to be broken; whoever has events is told in its turn."""
        if self._is_event_driven or self.unsent:
            self._schedule(ENDED)

    def _schedule(self, due: int) -> None:
        self._due |= due
        if not self._posted and not self._block.ended:
            self._posted = True
            self._block.post(self._turn)

    def _turn(self) -> None:
        """In the pump: do what is due, bounded."""
        self._posted = False
        if self._connection._channel is None:
            return
        due, self._due = self._due, 0
        if self._connection._broken is not None:
            self._tell_reset()
            return
        try:
            if due & WRITE:
                self._flush()
                self._tell_backlog()
            if due & (READ | ENDED) and self._connection._channel is not None:
                left = self._indicate(due)  # which makes more due by itself, and by callbacks
                self._due |= left
        except ConnectionBrokenError:
            self._tell_reset()
        except SocketClosedError:
            self._connection.close()  # through the public socket

    def _indicate(self, due: int) -> int:
        """Indicate what has come; return what stays due because nobody wants it now."""
        connection = self._connection
        for _ in range(READS_PER_TURN):
            if connection._receiving:
                return READ
            if self._paused or not (self._enabled & RECEIVE or self._lingering):
                self._look_for_end(due)
                return READ
            nothing_left = self._indicate_once()
            if connection._channel is None:
                return 0
            if nothing_left:
                self._arm_for_input(readable=connection._eof_received)
                return 0
        self._schedule(READ)
        return 0

    @property
    def _lingering(self) -> bool:
        """Whether what comes is thrown away: after our FIN, without a receive callback."""
        return self._heard_at is not None and not self._has(RECEIVE)

    def _has(self, event: int) -> bool:
        """Whether there is a callback for an event, enabled or not."""
        return self.dispatch is not None and bool(self.dispatch.mask & event)

    def _indicate_once(self) -> bool:
        """Read and indicate once; True if there was nothing, or nothing is left."""
        connection = self._connection
        if connection._eof_received and not self.held:
            self._tell_fin()
            return True
        came_back = bool(self.held)
        data = connection._receive_now(RECEIVE_SIZE)
        if data is None:
            return True
        if not data:
            self._tell_fin()
            return True
        if self._heard_at is not None:
            self._heard_at = trio.current_time()
        if self._enabled & RECEIVE:
            self._receive(data)
        if came_back or len(data) == RECEIVE_SIZE:
            return False
        # After a short read nothing is left; if something has come since, arming the
        # watch says so, or its edge is still to come. The peer's end has no edge of its own.
        watch = connection._watch
        return watch is None or not watch.ended

    def _receive(self, data: bytes) -> None:
        """Call the receive callback, and keep what it has not taken."""
        dispatch = self.dispatch
        assert dispatch is not None
        assert dispatch.receive is not None
        self._paused = True  # until all is taken; that the callback resumes by itself counts
        answer = self.call("receive", dispatch.receive, data)
        if answer is None or answer is Status.SUCCESS:
            self._paused = False
        elif answer is FAILED:
            self._connection.abort()
        elif answer is Status.DATA_NOT_ACCEPTED:
            self._refuse(data)
        elif type(answer) is int and 0 <= answer <= len(data):
            if answer < len(data):
                self._refuse(data[answer:])
            else:
                self._paused = False
        else:
            self._nonsense(
                "receive",
                f"returned {answer!r}: return None or Status.SUCCESS (all taken), the number"
                f" of octets taken (at most {len(data)} here), or Status.DATA_NOT_ACCEPTED",
            )

    def _refuse(self, rest: bytes) -> None:
        if not self._connection.closed:
            self.held = rest + self.held

    def resume(self) -> None:
        """Indicate again."""
        if self._paused:
            self._paused = False
            self._schedule(READ)

    def _arm(self, edges: int) -> None:
        """Hear of the next edge, and of what is there already if this is the first time."""
        watch = self._connection._watched()
        (watch.home or self._block.readiness).arm(watch, edges)

    def _arm_for_input(self, *, readable: bool) -> None:
        """Hear of what comes; where there are no edges, not of what stays readable for ever."""
        watch = self._connection._watched()
        readiness = watch.home or self._block.readiness
        if readiness.edge_triggered or not readable:
            readiness.arm(watch, READ)

    # --- For the awaited side ----------------------------------------------------------

    def take_held(self, size: int) -> bytes:
        """Give a task what was held back; the event goes on after it."""
        data, self.held = self.held[:size], self.held[size:]
        self._paused = False
        return data

    def task_received(self) -> None:
        """A task has finished receiving: it is the events' turn again."""
        if self._enabled and not self._connection.closed:
            self._schedule(READ)

    def task_sent(self) -> None:
        """A task has finished sending: what was queued meanwhile is next."""
        if self._connection.closed:
            return
        if not self._block.ended:
            if self._queue is not None or self._fin_wanted:
                self._schedule(WRITE)
        elif self._fin_wanted:
            with suppress(ConnectionBrokenError):
                self._send_fin()

    async def wait_turn(self) -> None:
        """Stand in line: wait until what is queued now has been sent, and not what comes after."""
        queue = self._queue
        assert queue is not None
        place = _Unsent(b"", None, 0)
        place.turn = trio.Event()
        queue.append(place)
        try:
            await place.turn.wait()
        except BaseException:
            if place in queue:
                queue.remove(place)
            raise

    async def wait_sent(self) -> None:  # noqa: ASYNC910 - as it says
        """Wait until everything that is queued has been sent. A checkpoint, or it has been."""
        while self.unsent:
            if self._sent_waiters is None:
                self._sent_waiters = trio.Event()
            await self._sent_waiters.wait()

    # --- The peer's end ----------------------------------------------------------------

    def _look_for_end(self, due: int) -> None:
        """Nobody reads: see whether the peer has ended all the same."""
        connection = self._connection
        if due & ENDED and connection._request.was_reset():
            raise connection._translated(ConnectionResetError(errno.ECONNRESET, "reset by peer"))
        if not self._is_event_driven:
            return
        if not connection._eof_received:
            found = connection._peek_now()
            self._arm_for_input(readable=found is not None)
            connection._eof_received = found == b""
        if connection._eof_received and self._enabled & DISCONNECT and not self.held:
            self._tell_fin()

    def _tell_fin(self) -> None:
        """The peer has sent FIN, and all data before it has been taken."""
        if self._end_told:
            return
        dispatch = self.dispatch
        if dispatch is not None and dispatch.disconnect is not None:
            if not self._enabled & DISCONNECT:
                return  # told when it is enabled again
            self._end_told = True
            if self.call("disconnect", dispatch.disconnect, GRACEFUL) is FAILED:
                self._connection.abort()
        else:
            self._end_told = True
            self.disconnect(b"")
        self._close_if_over()

    def _tell_reset(self) -> None:
        """The connection is broken: say so, and let go of it."""
        connection = self._connection
        dispatch = self.dispatch
        if not self._end_told and dispatch is not None and dispatch.disconnect is not None:
            self._end_told = True
            if self._enabled & DISCONNECT:
                # That it tries to answer all the same is nothing to report.
                with suppress(ConnectionBrokenError):
                    self.call("disconnect", dispatch.disconnect, ABORTIVE)
        if self._is_event_driven:
            connection._lost = True
            connection.abort()
        else:
            self._drop_queue()  # the task that awaits this connection finds out by itself
            self._may_leave_block()

    # --- Sending -----------------------------------------------------------------------

    def send(self, data: Octets) -> int:
        """Send what goes at once, queue the rest; return how much is queued."""
        sent = self._send_first(data)
        if sent < len(data):
            self._enqueue(bytes(memoryview(data)[sent:]), None, len(data) - sent)
        return self.unsent

    def queue_send(
        self, data: Octets, context: object, on_completion: Callable[[Irp[int]], object] | None
    ) -> Irp[int]:
        """Send what goes at once, queue the rest; the Irp completes when all has gone."""
        irp = Irp[int](
            withdraw=self._withdraw,
            finished=self._completed,
            context=context,
            on_completion=on_completion,
        )
        size = len(data)
        sent = self._send_first(data)
        if sent == size and not self.unsent:
            irp._complete(size)
        else:
            self._enqueue(bytes(memoryview(data)[sent:]), irp, size)
        return irp

    def _send_first(self, data: Octets) -> int:
        """Send past an empty queue; 0 if something stands in line before it."""
        connection = self._connection
        if self._fin_wanted:
            raise SocketClosedError(
                f"this side has finished sending to {connection.remote_address} (disconnect)"
            )
        if self._block.ended:
            self._require_pump()
        if self.unsent or connection._sending:
            connection._open_for_sending()
            return 0
        return connection._send_now(data)

    def _require_pump(self) -> None:
        if self._block.ended:
            raise InvalidDeviceStateError(
                "the listening block has ended, and its pump with it, which calls back and"
                " empties the send queue; await this connection instead: receive_some(),"
                " send_all(data)"
            )

    def _enqueue(self, rest: bytes, irp: Irp[int] | None, size: int) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(_Unsent(rest, irp, size))
        self.unsent += len(rest)
        self._belong_to_block()
        self._schedule(WRITE)

    def _flush(self) -> None:
        """Send from the queue until the kernel takes no more; then whatever follows it."""
        connection = self._connection
        queue = self._queue
        if connection._sending == ACTIVE:
            return
        while queue:
            first = queue[0]
            if first.turn is not None:
                queue.popleft()
                connection._sending = ACTIVE
                first.turn.set()
                return
            more = _MORE if self._fin_wanted and len(queue) == 1 else 0
            taken = connection._send_now(first.view, more) if first.view else 0
            self.unsent -= taken
            first.view = first.view[taken:]
            if first.view:
                if not taken:
                    self._arm(WRITE)
                    return
                continue
            queue.popleft()
            if first.irp is not None:
                first.irp._complete(first.size)
        self._all_sent()

    def _all_sent(self) -> None:
        if self._sent_waiters is not None:
            self._sent_waiters.set()
            self._sent_waiters = None
        if self._fin_wanted:
            self._send_fin()
        self._may_leave_block()

    def _withdraw(self, irp: Irp[int]) -> bool:
        queue = self._queue or deque()
        for unsent in queue:
            if unsent.irp is irp and len(unsent.view) == unsent.size:
                queue.remove(unsent)
                self.unsent -= unsent.size
                if not self.unsent:
                    self._schedule(WRITE)
                return True
        return False

    def _completed(self, irp: Irp[int]) -> None:
        self._routines_due += 1
        self._block.post(lambda: self._run_completion(irp))

    def _run_completion(self, irp: Irp[int]) -> None:
        self._routines_due -= 1
        assert irp.on_completion is not None
        try:
            answer = self._block.call(
                "on_completion", self._connection, self._context, irp.on_completion, irp
            )
        except ConnectionBrokenError:
            self._tell_reset()
        else:
            if answer is FAILED:
                self._connection.abort()

    def _tell_backlog(self) -> None:
        """Say how much should be outstanding, if that has changed."""
        if self._connection.closed or not self._enabled & SEND_BACKLOG:
            return
        ideal = self._connection.ideal_send_backlog
        if ideal == self._ideal:
            return
        self._ideal = ideal
        assert self.dispatch is not None
        assert self.dispatch.send_backlog is not None
        if self.call("send_backlog", self.dispatch.send_backlog, ideal) is FAILED:
            self._connection.abort()

    # --- Our end -----------------------------------------------------------------------

    def disconnect(self, data: Octets) -> None:
        """Send what is queued, then ``data``, then FIN."""
        connection = self._connection
        if self._fin_wanted or connection._eof_sent:
            if data:
                raise SocketClosedError(
                    f"this side has finished sending to {connection.remote_address}, so it"
                    " can't send more data"
                )
            if self._fin_wanted:
                return
        if data:
            self._require_pump()
        sent = 0
        if data and not self.unsent and not connection._sending:
            sent = connection._send_now(data, _MORE)
        self._fin_wanted = True
        if sent < len(data):
            self._enqueue(bytes(memoryview(data)[sent:]), None, len(data) - sent)
        elif not self.unsent and not connection._sending:
            self._send_fin()

    def _send_fin(self) -> None:
        """Send FIN; a connection that is over is closed, which sends it as well."""
        connection = self._connection
        if connection._eof_received and self._is_event_driven:
            self._close_in_turn()
            return
        connection._shut_down_sending()
        self._wait_for_peer()

    def _wait_for_peer(self) -> None:
        """After our FIN: wait for the peer's, throwing away what it sends, and not for ever."""
        if self._is_event_driven and self._heard_at is None:
            self._heard_at = trio.current_time()
            self._block.call_at(self._heard_at + LINGER_SECONDS, self._linger)
            self._schedule(READ)

    def _linger(self) -> None:
        """In the pump, some time after our FIN: reset a peer that has been silent since."""
        if self._connection.closed:
            return
        assert self._heard_at is not None
        ends = self._heard_at + LINGER_SECONDS
        if trio.current_time() >= ends:
            self._connection.abort()
        else:
            self._block.call_at(ends, self._linger)

    def _close_if_over(self) -> None:
        """Both sides have ended: nothing is left to happen."""
        connection = self._connection
        if connection._eof_sent and connection._eof_received:
            self._close_in_turn()

    def _close_in_turn(self) -> None:
        """Close, which sends FIN, when the completion routines that are due have been called.

        Their Irps have succeeded, so they may rely on a connection that is open.
        """
        if self._routines_due:
            self._block.post(self._close_in_turn)
        elif not self._connection.closed:
            self._connection.close()

    def ended(self) -> None:
        """The connection has let go of its channel: nothing is sent or indicated any more."""
        self._block.event_driven.discard(self._connection)
        self._enabled = 0
        self.held = b""
        self._drop_queue()

    def _drop_queue(self) -> None:
        self.unsent = 0
        queue, self._queue = self._queue, None
        for unsent in queue or ():
            if unsent.irp is not None:
                unsent.irp._fail(self._why_unsent())
            if unsent.turn is not None:
                unsent.turn.set()
        if self._sent_waiters is not None:
            self._sent_waiters.set()
            self._sent_waiters = None

    def _why_unsent(self) -> OperationCancelledError | ConnectionBrokenError:
        broken = self._connection._broken
        if broken is not None:
            error = self._connection._translated(broken)
            assert isinstance(error, ConnectionBrokenError)
            return error
        return OperationCancelledError("the connection was closed before the data was sent")

    # --- Helpers -----------------------------------------------------------------------

    def tell_drain(self, callback: Callable[[Connection], object]) -> None:
        """In the pump: tell this connection that the server drains."""
        if self._connection.closed:
            return
        try:
            if self.call("drain", callback) is FAILED:
                self._connection.abort()
        except ConnectionBrokenError:
            self._tell_reset()

    def call(self, name: str, callback: Callable[..., object], *arguments: object) -> object:
        """In the pump: run a callback in this connection's context; see `Block.call`."""
        return self._block.call(
            name, self._connection, self._context, callback, self._connection, *arguments
        )

    def _nonsense(self, name: str, what: str) -> None:
        nonsense = TypeError(f"the {name} callback {what}")
        self._block.report_callback(name, self._connection, nonsense)
        self._connection.abort()


_SLOTS: Final = {
    RECEIVE: "receive",
    DISCONNECT: "disconnect",
    SEND_BACKLOG: "send_backlog",
}


def _slot(mask: int) -> str:
    return next(slot for event, slot in _SLOTS.items() if mask & event)
