"""`Connection`: one accepted connection, a half-closeable Trio stream.

The awaited calls are here, and all that its users see; below are the events (`events`) and the
bytes (`wire`).

How an awaited call keeps Trio's contract: it first looks for a cancellation (a cancel
point that costs almost nothing), then does the I/O, and then lets other tasks run if it
did not have to wait. A cancelled call has therefore taken no byte.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, final

import trio

from trio_wsk._engine.callers import check_caller, check_ending_caller
from trio_wsk._engine.readiness import READ, WRITE
from trio_wsk._vocabulary.arguments import check_flag, whole_number
from trio_wsk._vocabulary.end_reason import EndReason
from trio_wsk._vocabulary.errors import (
    ConnectionBrokenError,
    InvalidParameterError,
    NoSocketError,
    SocketBusyError,
    SocketClosedError,
)

from .block import TAKING_SECONDS
from .events import EventSide, takes
from .farewell import FINISHED
from .public_socket import PublicSocket
from .wire import (
    ACTIVE,
    FIN_SENT,
    HALFWAY,
    IDLE,
    RECEIVE_SIZE,
    WAITING,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._engine.irp import Irp
    from trio_wsk._listening.listening import ListeningSocket
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.status import EventMask, Status
    from trio_wsk._vocabulary.verdict import InspectId
    from trio_wsk.transports._contract import Channel, TransportRequest

    from .block import Block
    from .dispatch import ConnectionDispatch

    Octets = bytes | bytearray | memoryview

__all__ = ["Connection"]


@final
class Connection(EventSide):
    """One accepted connection: a half-closeable stream, and an event source.

    You get one from `ListeningSocket.accept`, a completed `Irp`, an accept callback, or as
    the argument of your handler. One task may receive while another one sends; two tasks
    that do the same thing at once get `SocketBusyError`.

    A connection that was awaited belongs to whoever took it, and outlives the listening
    block; what is in its send queue is sent, or it is reset if the run of Trio ends before. One
    that has events enabled, or a completion routine that is due, belongs to the block and is reset
    when it ends.
    """

    __slots__ = ("__weakref__", "context")

    def __init__(
        self, channel: Channel, request: TransportRequest, block: Block, context: object = None
    ) -> None:
        """Made by the listening socket, never by you."""
        self._channel = channel
        self._request = request
        self._block = block
        self._watch = None
        self._annex = None
        self._owner = None
        self._marks = 0
        self._receiving = False
        self._sending = IDLE
        self._context = None
        self._dispatch = None
        self._enabled = 0
        self._due = READ
        self._octets_in = 0
        self._octets_out = 0
        self._opened = trio.current_time()
        self.context: object = context
        """Whatever belongs to this connection for you; the library never looks at it.

        At first what ``queue_accept(context=)`` or ``accept(context=)`` was given.
        """

    def __repr__(self) -> str:
        state = "closed" if self._channel is None else "open"
        return f"<Connection {state} from {self.remote_address}>"

    # --- Who and where -----------------------------------------------------------------

    @property
    def local_address(self) -> Address:
        """The address that the peer connected to."""
        return self._request.local_address

    @property
    def listening(self) -> ListeningSocket:
        """The listening socket that this connection came through."""
        return self._block.listening

    @property
    def inspect_id(self) -> InspectId | None:
        """What its request was inspected by; None if its listening socket has no inspector.

        Source: SIO_WSK_QUERY_INSPECT_ID.
        """
        return self._inspect_id()

    @property
    def draining(self) -> trio.Event:
        """Set when the server drains: finish what you are doing, and end.

        Every connection of one listening block shares this event.
        """
        return self._block.draining

    @property
    def socket(self) -> trio.socket.SocketType:
        """The connection's Trio socket, for options and for libraries that insist on one.

        ``trio.SocketStream(connection.socket)`` works, too. Connection and socket are one
        descriptor: closing either closes both, and FIN that one has sent the other has.

        ``connection.socket.detach()`` hands the connection over: it returns the descriptor, which
        is not blocking and the caller's to close, and the connection is closed without it. That is
        the way to give it to a child process or to another owner. A copy of the descriptor isn't
        (``dup()``, a child's ``stdin``): this connection's end is the copy's end, too.

        Raises:
          NoSocketError: the connection is closed, so that there is none any more. It is an
            AttributeError as well: ``getattr(connection, "socket", None)`` is None then.
          AttributeError: the transport's connections are no sockets.
        """
        check_caller(self._block.home, "connection.socket")
        channel = self._channel
        if channel is None:
            reason = self._closed_here()
            raise NoSocketError(f"{reason}, and so has no socket any more") from reason
        annex = self._annexed()
        if annex.socket is None:
            watch = self._watched()  # which knows the descriptor when its owner has closed it
            self._channel, inner = self._request.public_socket(channel)
            annex.socket = PublicSocket(inner, self)
            self._share_fin(annex.socket)
            # Whoever waits looks again, and waits where the socket's owner can end it.
            watch.on_edges(READ | WRITE)
        return annex.socket

    # --- Receiving ---------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive up to ``max_bytes`` octets; ``b""`` after the peer's FIN.

        Args:
          max_bytes: At least 1; by default 98304.

        Raises:
          ConnectionBrokenError: the peer reset the connection, or the network did.
          SocketClosedError: this side closed it, before or meanwhile.
          SocketBusyError: another task is receiving, or waits for `socket` itself to be readable.

        Always a checkpoint. If cancelled, nothing was received. What an event callback
        has refused comes first.
        """
        size = RECEIVE_SIZE if max_bytes is None else _checked_size(max_bytes)
        if get_ident() != self._block.home.thread:
            check_caller(self._block.home, "connection.receive_some")
        if self._receiving:
            await trio.lowlevel.checkpoint()
            raise _busy("receive_some")
        self._receiving = True
        try:
            data = None
            watch = self._watch
            # If nothing is known to be there, waiting comes first, which is a cancel point, too.
            if watch is None or not watch.drained or self._annex is not None:
                await trio.lowlevel.checkpoint_if_cancelled()
                data = self._receive_now(size)
                if data is not None:
                    await trio.lowlevel.cancel_shielded_checkpoint()
            while data is None:
                await self._wait(READ)
                data = self._receive_now(size)
        except (ConnectionBrokenError, SocketClosedError):
            # Who goes on after each error must not stop the run.
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            self._receiving = False
            if self._enabled:
                self._task_received()
        return data  # noqa: ASYNC910 - received and let others run, or waited

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Receive into ``buffer``, as much as is there and fits.

        Returns:
          How many octets; 0 after the peer's FIN.

        Raises, checkpoint, cancellation: as for `receive_some`; a `TypeError` if ``buffer`` can't
        be written to.
        """
        try:
            view = memoryview(buffer).cast("B")
        except TypeError:
            raise _not_writable(buffer) from None
        with view:  # a traceback that outlives this call does not hold the buffer
            if view.readonly:
                raise _not_writable(buffer)
            if not view.nbytes:
                raise InvalidParameterError(
                    f"receive_into({buffer!r}): a buffer without room; write bytearray(65536)"
                )
            return await self._receive_into(view)

    async def _receive_into(self, view: memoryview) -> int:
        if get_ident() != self._block.home.thread:
            check_caller(self._block.home, "connection.receive_into")
        if self._receiving:
            await trio.lowlevel.checkpoint()
            raise _busy("receive_into")
        self._receiving = True
        try:
            count = None
            watch = self._watch
            if watch is None or not watch.drained or self._annex is not None:
                await trio.lowlevel.checkpoint_if_cancelled()
                count = self._receive_into_now(view)
                if count is not None:
                    await trio.lowlevel.cancel_shielded_checkpoint()
            while count is None:
                await self._wait(READ)
                count = self._receive_into_now(view)
        except (ConnectionBrokenError, SocketClosedError):
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            self._receiving = False
            if self._enabled:
                self._task_received()
        return count  # noqa: ASYNC910 - as in `receive_some`

    # --- Sending -----------------------------------------------------------------------

    async def send_all(self, data: Octets) -> None:
        """Send all of ``data``, after whatever was queued before it.

        Returns when the kernel has taken the last octet, which says nothing about the
        peer (WskSend completes later than that).

        Raises:
          ConnectionBrokenError: the peer or the network reset the connection.
          SocketClosedError: this side closed it, or has sent FIN.
          SocketBusyError: another task is sending, or waits for `socket` itself to be writable.

        Always a checkpoint. If cancelled, any part of ``data`` may have been sent: the
        only thing to do with the connection then is to close it. If a part was, ending it in any
        way with nothing sent since resets it, so that the peer can't take the part for all of it.
        So does closing it while this is sending.
        """
        if get_ident() != self._block.home.thread:
            check_caller(self._block.home, "connection.send_all")
        if self._sending:
            await trio.lowlevel.checkpoint()
            raise _busy("send_all")
        view = None
        if type(data) is not bytes:
            data = view = _octets(data)
        self._sending = WAITING
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._channel is None or self._annex is not None or self._marks & FIN_SENT:
                self._open_for_sending()  # or why not
            if self._annex is not None and self._annex.unsent:
                await self._wait_turn()
            self._sending = ACTIVE
            sent = self._send_now(data)
            if sent == len(data):
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                with memoryview(data) as octets:
                    await self._send_rest(octets, sent)
        except (ConnectionBrokenError, SocketClosedError):
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            if view is not None:
                view.release()
            self._sending = IDLE
            if self._annex is not None:
                self._task_sent()

    async def _send_rest(self, view: memoryview, sent: int) -> None:  # noqa: ASYNC910 - one of the two
        # A short send is followed by another try: only a refused one makes the kernel
        # promise an edge.
        blocked = waited = False
        try:
            while sent < view.nbytes:
                if blocked:
                    if sent:
                        self._marks |= HALFWAY
                    await self._wait(WRITE)
                    waited = True
                with view[sent:] as rest:
                    taken = self._send_now(rest)
                blocked = taken == 0
                sent += taken
        except BaseException:
            if sent:
                self._annexed().cut_at = self._octets_out
            raise
        finally:
            self._marks &= ~HALFWAY
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until ``send_all`` might go through without waiting.

        Raises, checkpoint: as for `send_all`. Cancelling it changes nothing.
        """
        check_caller(self._block.home, "connection.wait_send_all_might_not_block")
        if self._sending:
            await trio.lowlevel.checkpoint()
            raise _busy("wait_send_all_might_not_block")
        self._sending = WAITING
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._open_for_sending()
            if self._unsent:
                await self._wait_sent()
                self._open_for_sending()  # it may have ended meanwhile
            self._sending = ACTIVE
            await self._wait(WRITE, passed=True)
            self._open_for_sending()
        except (ConnectionBrokenError, SocketClosedError):
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            self._sending = IDLE
            if self._annex is not None:
                self._task_sent()

    async def send_eof(self) -> None:
        """Send FIN after everything that was sent before; receiving goes on.

        Does nothing if it has been sent already. A connection that an accept event has taken is
        then bounded as after `disconnect`; another one is yours to close.

        Raises:
          ConnectionBrokenError: the peer or the network reset the connection.
          SocketClosedError: this side closed it; or a `send_all` was cut short with nothing sent
            since, for which the connection is reset now.
          SocketBusyError: another task is sending.

        Always a checkpoint. If cancelled, FIN has not been sent.
        """
        check_caller(self._block.home, "connection.send_eof")
        if self._sending:
            await trio.lowlevel.checkpoint()
            raise _busy("send_eof")
        self._sending = WAITING
        try:
            await trio.lowlevel.checkpoint()
            self._open_channel()
            if self._unsent:
                await self._wait_sent()
                self._open_channel()
            if not self._fin_sent and self._is_cut_short:
                self._abort(EndReason.ABORTED)
                raise SocketClosedError(
                    f"a send_all to {self.remote_address} was cut short, and FIN would say that"
                    " the part was all: the connection has been reset"
                )
            self._shut_down_sending()
            self._has_half_closed()
        finally:
            self._sending = IDLE
            if self._annex is not None:
                self._task_sent()

    # --- Ending ------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the connection, after what was queued has been sent.

        The peer sees FIN; it sees a reset if input was left unread (RFC 1122 4.2.2.13:
        it must learn that data was lost), but not from a handler of `serve`, where what it
        still sends is thrown away, after this has returned. It is reset, too, if it has not
        taken what was queued, for 30 seconds, or if another task's `send_all` is under way and
        has sent a part. Idempotent; other tasks' calls on this connection raise
        `SocketClosedError`.

        That ends it for everybody who has a copy of its descriptor, a child process or another
        socket. ``connection.socket.detach()`` closes it here alone.

        Always a checkpoint. If cancelled, the connection is closed all the same; it is
        reset if something queued was not sent.
        """
        check_ending_caller(self._block.home, "connection.aclose")
        try:
            if self._channel is not None and self._unsent:
                await self._wait_taken()
        finally:
            self._part()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close the connection at once, without waiting: `aclose` for plain functions.

        The peer sees what it sees after `aclose`, but the connection is reset if something was
        not sent to its end, so that the peer can't take part of it for all of it: queued data, or
        that of a `send_all` that is under way, or was cut short if nothing was sent since.
        Idempotent.
        """
        check_ending_caller(self._block.home, "connection.close")
        self._part()

    @property
    def _may_send(self) -> bool:
        """Whether this side has neither closed nor finished sending."""
        is_finished = self._annex is not None and self._annex.fin_wanted
        return self._channel is not None and not self._fin_sent and not is_finished

    async def _wait_taken(self) -> None:  # noqa: ASYNC910 - as `_wait_sent`
        """Wait until everything that is queued has been sent; reset if the peer doesn't take it."""
        annex = self._annexed()
        while annex.unsent:
            before = self._octets_out
            with trio.move_on_after(TAKING_SECONDS) as scope:
                await self._wait_sent()
            if scope.cancelled_caught and annex.unsent and not takes(before, self._octets_out):
                self._abort(EndReason.TIMED_OUT)

    def _part(self) -> None:
        """Close without waiting; a peer that has not finished is let do so in nobody's time."""
        farewells = self._block.farewells
        channel = self._channel
        if farewells is None or self._is_cut_short or self._peer_ended or self._block.ended:
            self._close()
        elif channel is not None:
            # What a task has left unread is thrown away, too: it must not turn FIN into a reset.
            discarded = self._discard_now(channel, farewells)
            if discarded[1] != FINISHED and self._finish_sending():
                watch, self._watch = self._watch, None  # it goes with the channel
                if watch is not None:
                    watch.release()
                self._let_go(EndReason.CLOSED)
                private = self._request.private_channel(channel)
                farewells.part(private, self._request, watch, self._block.readiness, discarded)
            else:
                self._close()

    def _close_by_socket(self) -> None:
        check_ending_caller(self._block.home, "connection.socket.close")
        self._part()

    def _detach_by_socket(self) -> None:
        check_ending_caller(self._block.home, "connection.socket.detach")
        if self._channel is not None:
            self._let_go(EndReason.CLOSED)

    def _shut_down_by_socket(self, inner: trio.socket.SocketType, how: int) -> None:
        check_ending_caller(self._block.home, "connection.socket.shutdown")
        inner.shutdown(how)
        if self._fin_sent:
            self._has_half_closed()

    def _finish_sending(self) -> bool:
        try:
            self._shut_down_sending()
        except (ConnectionBrokenError, SocketClosedError):
            return False
        return True

    def disconnect(self, *, abortive: bool = False, data: Octets = b"") -> None:
        """Start the end of the connection; never blocks.

        Everything queued is sent, then ``data``, in the same segment as FIN where it
        fits. Receiving goes on. A connection that has events is closed by itself when
        the peer has finished too; it is reset if that has been silent for five seconds, or has
        gone on for 30. One that is awaited is yours to close. Either is reset if the peer has
        not taken what is queued, for 30 seconds; and in place of FIN if a `send_all` was cut short
        with nothing sent since.

        Args:
          abortive: Reset instead, at once. Excludes ``data``.
          data: Last octets.

        Raises:
          InvalidParameterError: ``data`` with ``abortive``.
          SocketClosedError: this side has closed, or has sent FIN and ``data`` is given.
          ConnectionBrokenError: the peer or the network reset the connection.

        Source: WskDisconnect.
        """
        check_flag("abortive", abortive)
        if abortive:
            if data:
                raise InvalidParameterError(
                    "an abortive disconnect drops what was not sent, so it takes no data;"
                    " write disconnect(data=...) or disconnect(abortive=True)"
                )
            self.abort()
        else:
            self._check_usable("connection.disconnect")
            with _octets(data) as octets:
                self._disconnect(octets)

    # --- Events ------------------------------------------------------------------------

    def enable_events(self, mask: EventMask, dispatch: ConnectionDispatch | None = None) -> None:
        """Have callbacks called for these events from now on.

        Args:
          mask: Any of `EventMask.RECEIVE`, `EventMask.DISCONNECT`, `EventMask.SEND_BACKLOG`.
          dispatch: The callbacks; needed the first time, replaces the earlier ones after it.

        Raises:
          InvalidParameterError: an event has no callback, or is none of a connection.
          InvalidDeviceStateError: the listening block has ended, and its pump with it.
          SocketClosedError: this side has closed the connection.

        A task that waits in ``receive_some`` is served before the event.

        Source: SO_WSK_EVENT_CALLBACK.
        """
        self._check_usable("connection.enable_events")
        self._enable(mask, dispatch)

    async def disable_event(self, event: EventMask) -> None:
        """Disable one event; afterwards its callback does not run and will not.

        Raises:
          InvalidParameterError: not exactly one event.

        Always a checkpoint; the event is disabled even if it is cancelled.
        """
        try:
            self.disable_event_nowait(event)
        except (ConnectionBrokenError, SocketClosedError):
            await trio.lowlevel.checkpoint()  # noqa: ASYNC120 - as it says
            raise
        await trio.lowlevel.checkpoint()

    def disable_event_nowait(self, event: EventMask) -> Status:
        """Disable one event.

        Returns:
          `Status.SUCCESS`, or `Status.EVENT_PENDING` inside that callback itself, which
          is then its last call.

        Raises:
          InvalidParameterError: not exactly one event.
        """
        self._check_usable("connection.disable_event_nowait")
        return self._disable(event)

    def resume_receive(self) -> None:
        """Indicate data again, after a callback took less than all of it.

        What was left comes first. Does nothing if nothing was refused.
        (WSK: a zero-length WskReceive.)
        """
        check_caller(self._block.home, "connection.resume_receive")
        self._resume()

    def send_nowait(self, data: Octets) -> int:
        """Send what the kernel takes now and queue the rest; never blocks.

        Returns:
          How many octets are queued now, of all that was sent so far. More than
          `ideal_send_backlog` means that the peer reads too slowly: send less, or read
          less from it.

        Raises: as for `send_all`. Nothing is sent then.
        """
        check_caller(self._block.home, "connection.send_nowait")
        view = None
        if type(data) is not bytes:
            data = view = _octets(data)
        try:
            if self._annex is None and not self._sending and not self._block.ended:
                sent = self._send_now(data)  # nothing can stand in line before it
            else:
                self._open_channel()
                sent = self._send_first(data)
            if sent < len(data):
                self._enqueue(bytes(memoryview(data)[sent:]), None, len(data) - sent)
        finally:
            if view is not None:
                view.release()
        return 0 if self._annex is None else self._annex.unsent

    def queue_send(
        self,
        data: Octets,
        *,
        context: object = None,
        on_completion: Callable[[Irp[int]], object] | None = None,
    ) -> Irp[int]:
        """Queue ``data`` for sending, after what was queued before (WskSend).

        Returns:
          An `Irp` that completes with the count of octets when the kernel has them all.
          Cancelling it takes it back if none of it was sent yet.

        Raises: as for `send_all`. Nothing is sent then.
        """
        self._check_usable("connection.queue_send")
        with _octets(data) as octets:
            return self._send_with_irp(octets, context, on_completion)

    @property
    def ideal_send_backlog(self) -> int:
        """How many octets should be outstanding to keep the path busy.

        Source: SIO_WSK_QUERY_IDEAL_SEND_BACKLOG; here congestion window times segment
        size (TCP_INFO, tcp(7)), or what the transport says.
        """
        return self._request.ideal_send_backlog(self._open_channel())

    def _check_usable(self, call: str) -> None:
        check_caller(self._block.home, call)
        self._open_channel()

    # --- Helpers -----------------------------------------------------------------------


def _checked_size(max_bytes: int) -> int:
    if not whole_number(max_bytes):  # a TypeError is what Trio's streams raise
        raise TypeError(f"max_bytes takes an int, not {max_bytes!r}")
    if max_bytes < 1:
        raise InvalidParameterError(f"max_bytes must be at least 1, not {max_bytes}")
    return max_bytes


def _not_writable(buffer: object) -> TypeError:
    return TypeError(
        f"receive_into takes a buffer to write to, not {buffer!r}; write bytearray(65536)"
    )


def _octets(data: Octets) -> memoryview:
    """Return a view whose len() counts octets; release it on every path.

    A traceback that outlives the call would else hold the caller's buffer: a ``bytearray`` that is
    looked at can't be emptied.
    """
    try:
        return memoryview(data).cast("B")
    except TypeError:  # Python's word for it, and Trio's
        given: object = data
        right = "; write data.encode()" if isinstance(given, str) else ""
        raise TypeError(
            f"data to send is octets: bytes, bytearray or a memoryview, not {data!r}{right}"
        ) from None


def _busy(call: str) -> SocketBusyError:
    direction = "receiving from" if call.startswith("receive") else "sending to"
    return SocketBusyError(
        f"{call}() while another task is {direction} this connection; let one task do it,"
        " or share a trio.Lock"
    )
