"""`Connection`: one accepted connection, a half-closeable Trio stream.

Here is what it is, and what is called without waiting; the layers below have the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from trio_wsk._engine.callers import check_caller, check_ending_caller
from trio_wsk._engine.pump import OVER
from trio_wsk._engine.readiness import READ, WRITE
from trio_wsk._protocols.proxy_header import ProxyHeader
from trio_wsk._vocabulary.arguments import check_flag
from trio_wsk._vocabulary.end_reason import EndReason
from trio_wsk._vocabulary.errors import (
    ConnectionBrokenError,
    InvalidDeviceStateError,
    InvalidParameterError,
    NoSocketError,
    SocketClosedError,
)

from .carried import Carried
from .known import Known
from .public_socket import PublicSocket, SocketBelowTLS
from .state import IDLE
from .stream import octets_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._engine.irp import Irp
    from trio_wsk._listening.listening import ListeningSocket
    from trio_wsk._vocabulary.facts import Facts
    from trio_wsk._vocabulary.status import EventMask, Status
    from trio_wsk.transports._contract import Channel, TransportRequest

    from .block import Block
    from .dispatch import ConnectionDispatch

    Octets = bytes | bytearray | memoryview

__all__ = ["Connection"]


@final
class Connection(Known):
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
        self._rare = None
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
        if block.carried:
            carried = block.carried.get(request.serial_number)
            if carried is not None:
                carried.belong_to(self)
        self.context: object = context
        """Whatever belongs to this connection for you; the library never looks at it.

        At first what ``queue_accept(context=)`` or ``accept(context=)`` was given.
        """

    def __repr__(self) -> str:
        state = "closed" if self._channel is None else "open"
        return f"<Connection {state} from {self.remote_address}>"

    # --- Where it belongs -----------------------------------------------------------------

    @property
    def facts(self) -> Facts:
        """What rules have found out about the peer (`ConnectionRequest.facts`), and what you add.

        It stays when the connection is closed.
        """
        carried = self._carries
        if carried is None:
            carried = Carried(self._block, self.remote_address)
            if self._channel is None:
                self._rare_state().carried = carried
            else:
                carried.belong_to(self)
        return carried.facts

    @property
    def listening(self) -> ListeningSocket:
        """The listening socket that this connection came through, or in whose block it lives.

        Raises:
          InvalidDeviceStateError: this side has opened it, with `trio_wsk.connect`.
        """
        listening = self._block.listening
        if listening is None:
            raise InvalidDeviceStateError(
                f"the connection to {self.remote_address} came through no listening socket: this"
                " side has opened it"
            )
        return listening

    @property
    def draining(self) -> trio.Event:
        """Set when the server drains: finish what you are doing, and end.

        So it is when the connection has had its ``max_lifetime``. `more` ends by it where a handler
        waits for a next request, and cuts nothing short. Every connection of one listening block
        shares this event, unless they have lifetimes.
        """
        return self._block.between.draining_of(self)

    @property
    def socket(self) -> trio.socket.SocketType:
        """The connection's Trio socket, for options and for libraries that insist on one.

        ``trio.SocketStream(connection.socket)`` works, too. Connection and socket are one
        descriptor: closing either closes both, and FIN that one has sent the other has.

        ``connection.socket.detach()`` hands the connection over: it returns the descriptor, which
        is not blocking and the caller's to close, and the connection is closed without it. That is
        the way to give it to a child process or to another owner. A copy of the descriptor isn't
        (``dup()``, a child's ``stdin``): this connection's end is the copy's end, too.

        What goes through the socket is in no count of octets.

        Over TLS (`tls`) it is for options alone: what would send, receive or detach raises
        `InvalidDeviceStateError`, also for those libraries.

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
        rare = self._rare_state()
        if rare.socket is None:
            watch = self._watched()  # which knows the descriptor when its owner has closed it
            self._channel, inner = self._request.public_socket(channel)
            kind = PublicSocket if self._request.lowest(channel) is channel else SocketBelowTLS
            rare.socket = kind(inner, self)
            self._share_fin(rare.socket)
            # Whoever waits looks again, and waits where the socket's owner can end it.
            watch.on_edges(READ | WRITE)
        return rare.socket

    # --- Ending ------------------------------------------------------------------------

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
            with octets_of(data) as octets:
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
            data = view = octets_of(data)
        try:
            if self._rare is None and not self._sending and self._block.life is not OVER:
                sent = self._send_now(data)  # nothing can stand in line before it
            else:
                self._open_channel()
                sent = self._send_first(data)
            if sent < len(data):
                self._enqueue(bytes(memoryview(data)[sent:]), None, len(data) - sent)
        finally:
            if view is not None:
                view.release()
        return self._unsent

    def send_eof_nowait(self) -> None:
        """Send FIN after everything that was queued, and go on receiving; never blocks.

        `send_eof` for callbacks. The peer has all its time to go on, where after `disconnect`,
        which may be called at any time, it has five seconds. When it has finished, too, the
        connection is closed by itself. Does nothing if this side has finished already.

        Raises: as for `disconnect`; and as there, a `send_all` that was cut short means a reset.

        Source: shutdown(2), SHUT_WR.
        """
        self._check_usable("connection.send_eof_nowait")
        self._half_close()

    async def send_proxy_header(self, header: ProxyHeader) -> None:
        """Say whom this connection speaks for, before anything else is sent.

        ::

            backend = await trio_wsk.connect("10.0.0.7", 25)
            header = ProxyHeader.v2(client.remote_address, client.local_address)
            await backend.send_proxy_header(header)

        In callbacks it is ``send_nowait(bytes(header))``.

        Raises: as for `send_all`, and
          InvalidParameterError: it is no `~trio_wsk.inspectors.ProxyHeader`. (Yours.)
          InvalidDeviceStateError: something was sent already. (Yours.)

        Always a checkpoint. If cancelled, a part may have been sent.

        Source: HAProxy's proxy-protocol.txt, section 2.
        """
        if not isinstance(header, ProxyHeader):
            raise InvalidParameterError(
                f"header is a ProxyHeader, such as ProxyHeader.local(), not {header!r}"
            )
        check_caller(self._block.home, "connection.send_proxy_header")
        if self._octets_out or self._unsent:
            await trio.lowlevel.checkpoint()
            raise InvalidDeviceStateError(
                "a PROXY header comes before anything else, and something was sent already"
            )
        await self.send_all(header.octets)

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
        with octets_of(data) as octets:
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
