"""`ListeningSocket`, and the block that it lives in.

It drives a transport, asks `_delivery.delivery` where each request goes, and does it. The
decisions are there, the I/O is in the transport, the callbacks run in the block's pump;
what is left here is to connect them.

When a connection is taken from the transport is decided in `_intake`, whether it is let
through in `_inspection`.
"""

from __future__ import annotations

import enum
from functools import partial
from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._connection import control
from trio_wsk._connection.block import Block
from trio_wsk._connection.connecting import queue_connect
from trio_wsk._connection.connection import Connection
from trio_wsk._connection.control import (
    call_accept,
    give_dispatch,
    start_events,
    start_without_events,
)
from trio_wsk._connection.dispatch import ConnectionDispatch
from trio_wsk._connection.events import CONNECTION_EVENTS
from trio_wsk._connection.public_socket import PublicSocket
from trio_wsk._delivery.acceptors import Acceptor, IrpAcceptor, TaskAcceptor
from trio_wsk._delivery.delivery import Delivery, Way
from trio_wsk._engine.callers import check_caller, check_ending_caller
from trio_wsk._engine.irp import Irp
from trio_wsk._engine.pump import FAILED
from trio_wsk._inspection.driver import PendingInspections
from trio_wsk._intake.intake import BATCH, REFUSE, Intake, Mode
from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.arguments import are_events, shown
from trio_wsk._vocabulary.errors import (
    ConnectionBrokenError,
    ForcedClosedError,
    InvalidDeviceStateError,
    InvalidParameterError,
    NoSocketError,
    SocketClosedError,
    WouldBlockError,
    WskError,
)
from trio_wsk._vocabulary.statistics import ListeningCounters, ListeningStatistics
from trio_wsk._vocabulary.status import ACCEPT, EventMask, Status
from trio_wsk._vocabulary.verdict import AbortReason
from trio_wsk.transports._connecting import HAPPY_EYEBALLS_DELAY, target_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from trio_wsk._inspection.driver import ConditionalAccept
    from trio_wsk._intake.intake import NoDescriptorsPolicy
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.verdict import InspectAction, InspectId, InspectPoint, Verdict
    from trio_wsk.observers import Observer
    from trio_wsk.transports._contract import Transport, TransportRequest

    from .dispatch import ListenDispatch

__all__ = ["ListeningSocket"]


class _State(enum.Enum):
    """What has become of the listening socket."""

    LISTENING = "listening"
    CLOSED = "closed"
    FAILED = "failed"


# Members of an enum are looked up anew each time, which adds up over all that is asked for
# each connection; a name of the module is not.
_LISTENING: Final = _State.LISTENING
_CLOSED: Final = _State.CLOSED
_FAILED: Final = _State.FAILED
_TO_EVENT: Final = Way.EVENT


@final
class ListeningSocket(trio.abc.Listener[Connection]):
    """A socket that listens, made by `open_listening_socket`.

    Connections leave it in one of two ways. Whoever wants the next one queues for it:
    `accept` awaits it, `queue_accept` leaves an `Irp`. Or the accept event is enabled, and
    the callback `ListenDispatch.accept` gets every connection that nobody is queued for.
    With neither, connections wait in the kernel's backlog.

    With an inspector every connection is asked about first, by conditional accept, and only
    what it lets through is delivered.

    It is a `trio.abc.Listener`, so `trio.serve_listeners`, `trio.SSLListener` and what is
    built on them take it. Unlike other listeners it lets several tasks accept at once;
    they are served in order.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        dispatch: ListenDispatch,
        context: object,
        max_parked: int,
        on_no_descriptors: NoDescriptorsPolicy,
        observers: Iterable[Observer],
    ) -> None:
        """Made by `open_listening_socket`, never by you."""
        self.context: object = context
        """Whatever `open_listening_socket` was given; the library never looks at it."""
        self._transport = transport
        self._dispatch = dispatch
        self._counters = ListeningCounters()
        self._block = Block(self, observers, self._counters.callback_failures)
        self._delivery: Delivery[Acceptor, TransportRequest] = Delivery(max_parked)
        self._state = _LISTENING
        self._failure: OSError | None = None
        self._public: list[PublicSocket] = []
        self._connection_events = 0
        self._intake = Intake(self, on_no_descriptors)
        self._admit: Callable[[Connection], bool] | None = None
        self._admits_anywhere = False
        self._conditional: ConditionalAccept | None = None
        self._nursery: trio.Nursery

    def __repr__(self) -> str:
        where = ", ".join(str(address) for address in self.local_addresses)
        return f"<ListeningSocket {self._state.value} on {where}>"

    # --- Where it listens --------------------------------------------------------------

    @property
    def local_addresses(self) -> list[Address]:
        """Where it listens; with the port that the kernel chose, if it was asked to."""
        return list(self._transport.local_addresses)

    @property
    def socket(self) -> trio.socket.SocketType:
        """The first of `sockets`.

        Raises:
          NoSocketError: this listening socket is closed, or has failed. It is an
            AttributeError as well: ``getattr(listening, "socket", None)`` is None then.
          AttributeError: the transport has no sockets.
        """
        if self._state is not _LISTENING:
            reason = self._why_not()
            raise NoSocketError(f"{reason}, and so has no socket any more") from reason
        sockets = self.sockets
        if not sockets:
            raise AttributeError(f"{type(self._transport).__name__} has no sockets")
        return sockets[0]

    @property
    def sockets(self) -> list[trio.socket.SocketType]:
        """The listening sockets themselves, one for each of `local_addresses`.

        For those who look at them: none if the transport has none, or when this is closed. Who
        closes one has closed this listening socket, as with `aclose`; both from inside the Trio
        run only. To hand a descriptor over, duplicate it with ``os.dup``: ``detach()`` raises
        `InvalidDeviceStateError` for as long as this listens.

        Of a Unix socket, ``getsockname()`` gives the temporary name that it was bound to
        before it was renamed; `local_addresses` has its path.
        """
        if self._state is _LISTENING and not self._public:
            inner = self._transport.public_sockets()
            self._public = [PublicSocket(each, self) for each in inner]
        return list(self._public)

    def _close_by_socket(self) -> None:
        check_ending_caller(self._block.home, "listening.socket.close")
        self._close()

    def _shut_down_by_socket(self, inner: trio.socket.SocketType, how: int) -> None:
        """Shut it down: nothing listens there any more, which the next accept finds out."""
        check_ending_caller(self._block.home, "listening.socket.shutdown")
        inner.shutdown(how)

    def _detach_by_socket(self) -> None:
        """Refuse: without its descriptor it would listen in name only."""
        check_ending_caller(self._block.home, "listening.socket.detach")
        if self._state is _LISTENING:
            raise InvalidDeviceStateError(
                "a listening socket keeps its descriptor for as long as it listens; to hand it"
                " over, duplicate it and close this one: os.dup(listening.socket.fileno()), then"
                " await listening.aclose()"
            )

    @property
    def draining(self) -> trio.Event:
        """Set when the server that this socket belongs to drains."""
        return self._block.draining

    # --- Conditional accept ------------------------------------------------------------

    @property
    def inspect_point(self) -> InspectPoint:
        """When requests appear here: what their peers see of an inspection follows from it."""
        return self._transport.inspect_point

    @property
    def pending_inspections(self) -> PendingInspections:
        """The requests that wait for their verdict, by `InspectId`; a view, always current.

        One that was aborted stays in it until ``dispatch.abort`` has returned.
        """
        return PendingInspections(self._conditional)

    @trio.lowlevel.enable_ki_protection
    def inspect_complete(self, inspect_id: InspectId, answer: InspectAction | Verdict) -> Status:
        """Decide about a request whose inspector has answered `InspectAction.PEND`.

        In any order, from any task; from a thread through ``trio.from_thread.run_sync``. It
        may come before the inspector has answered: then it counts when that answers PEND, and
        not if it answers ACCEPT or REJECT by itself.

        Args:
          inspect_id: Which request.
          answer: `InspectAction.ACCEPT` or `InspectAction.REJECT`, or a `Verdict` with one.

        Returns:
          `Status.SUCCESS`: the inspection is over; that does not say that the connection is
          established. `Status.CONNECTION_ABORTED`: too late, the request is over, and nothing
          has happened. `Status.NOT_FOUND`: it was never pended, or has been completed.
          `Status.INVALID_PARAMETER`: that is no verdict.

        Raises:
          RuntimeError: called from outside the Trio run.

        Source: PFN_WSK_INSPECT_COMPLETE.
        """
        check_caller(self._block.home, "listening.inspect_complete")
        if self._conditional is None:
            return Status.NOT_FOUND
        return self._conditional.complete(inspect_id, answer)

    # --- Accepting ---------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def accept(
        self, *, context: object = None, dispatch: ConnectionDispatch | None = None
    ) -> Connection:
        """Wait for the next connection and return it (WskAccept, awaited).

        Any number of tasks may wait; they are served in the order in which they came. The
        connection has no events enabled, whatever the listening socket has enabled.

        Args:
          context: Becomes ``connection.context``.
          dispatch: The callbacks of the connection's events, for when they are enabled.

        Raises:
          SocketClosedError: the listening socket was closed, before or meanwhile.
          ForcedClosedError: it has failed.
          InvalidParameterError: ``dispatch`` is no `ConnectionDispatch`.

        Always a checkpoint. If cancelled, no connection was taken: the next one in line
        is still first in line.

        Source: PFN_WSK_ACCEPT.
        """
        _check_connection_dispatch("accept", dispatch)
        check_caller(self._block.home, "listening.accept")
        await trio.lowlevel.checkpoint_if_cancelled()
        acceptor = TaskAcceptor(context, dispatch)
        try:
            self._enqueue(acceptor)
        except (SocketClosedError, ForcedClosedError):
            # Who goes on after each error must not stop the run.
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        if acceptor.connection is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return acceptor.connection
        return await acceptor.wait(self._delivery)

    @trio.lowlevel.enable_ki_protection
    def accept_nowait(
        self, *, context: object = None, dispatch: ConnectionDispatch | None = None
    ) -> Connection:
        """Return a connection that is there already.

        The system is asked, so that who waits in its backlog is found, at the price of an
        accept(2) for each call. With an inspector only what it has let through is there.

        Raises:
          WouldBlockError: none is there, or others are queued for it.
          SocketClosedError, ForcedClosedError, InvalidParameterError: as for `accept`.
        """
        check_caller(self._block.home, "listening.accept_nowait")
        _check_connection_dispatch("accept_nowait", dispatch)
        acceptor = TaskAcceptor(context, dispatch)
        self._enqueue(acceptor, waits=False)
        if acceptor.connection is None:
            self._delivery.withdraw(acceptor)
            if acceptor.error is not None:
                raise acceptor.error
            raise WouldBlockError("no connection is waiting to be accepted")
        return acceptor.connection

    @trio.lowlevel.enable_ki_protection
    def queue_accept(
        self,
        *,
        context: object = None,
        dispatch: ConnectionDispatch | None = None,
        on_completion: Callable[[Irp[Connection]], object] | None = None,
    ) -> Irp[Connection]:
        """Queue an accept and return at once (WskAccept).

        Args:
          context: Becomes ``connection.context``, and ``irp.context`` until then.
          dispatch: The callbacks of the connection's events, for when they are enabled;
            none of them is enabled by this.
          on_completion: The completion routine: called in the pump, once, with the Irp.

        Returns:
          An `Irp` that completes with the connection; with `Status.CANCELLED` when it is
          cancelled or the listening socket is closed, with `Status.FILE_FORCED_CLOSED`
          when that fails.

        Raises:
          SocketClosedError, ForcedClosedError: as for `accept`; then there is no Irp.
          InvalidParameterError: ``on_completion`` is no plain function, or ``dispatch`` no
            `ConnectionDispatch`.

        Source: PFN_WSK_ACCEPT.
        """
        check_caller(self._block.home, "listening.queue_accept")
        _check_connection_dispatch("queue_accept", dispatch)
        acceptor = IrpAcceptor(context, dispatch)
        acceptor.irp = Irp(
            home=self._block.home,
            withdraw=lambda _: self._delivery.withdraw(acceptor),
            finished=partial(control.post_completion, self._block),
            context=context,
            on_completion=on_completion,
        )
        self._enqueue(acceptor)
        return acceptor.irp

    def queue_connect(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        path: str | bytes | os.PathLike[str] | None = None,
        local_address: str | None = None,
        happy_eyeballs_delay: float = HAPPY_EYEBALLS_DELAY,
        dispatch: ConnectionDispatch | None = None,
        context: object = None,
        on_completion: Callable[[Irp[Connection]], object] | None = None,
    ) -> Irp[Connection]:
        """Open a connection that lives in this block, and return at once (WskSocketConnect).

        The way in which callbacks open one: a task connects, and ends when that is over. What this
        socket's server counts and limits are the connections that it takes, and not these.

        Args:
          host: As for `trio_wsk.connect`.
          port: As for `trio_wsk.connect`.
          path: As for `trio_wsk.connect`.
          local_address: As for `trio_wsk.connect`.
          happy_eyeballs_delay: As for `trio_wsk.connect`.
          dispatch: The callbacks of the connection; all events that have one are enabled, and begin
            when ``on_completion`` has returned. The connection belongs to the block then: it is
            reset when that ends. Without a dispatch it is yours, as one that was awaited.
          context: Becomes ``connection.context``, and ``irp.context`` until then.
          on_completion: The completion routine: called in the pump, once, with the Irp.

        Returns:
          An `Irp` that completes with the connection; with a `ConnectError` when there is none;
          with `Status.CANCELLED` when it is cancelled, or the block ends.

        Raises:
          SocketClosedError, ForcedClosedError: as for `accept`; then there is no Irp.
          InvalidParameterError: an argument is wrong. (Yours.)

        Source: PFN_WSK_SOCKET_CONNECT.
        """
        check_caller(self._block.home, "listening.queue_connect")
        _check_connection_dispatch("queue_connect", dispatch)
        self._check_listening()
        target = target_of(
            host,
            port,
            path=path,
            local_address=local_address,
            happy_eyeballs_delay=happy_eyeballs_delay,
        )
        return queue_connect(
            self._block,
            target,
            dispatch=dispatch,
            context=context,
            on_completion=on_completion,
        )

    def _enqueue(self, acceptor: Acceptor, *, waits: bool = True) -> None:
        """Serve the acceptor from what is there, or queue it."""
        self._check_listening()
        while True:
            request = self._delivery.queue(acceptor)
            if request is None:
                break
            if self._is_alive(request):
                self._hand_over(acceptor, request)
                return
        self._intake.take_for_caller(waits=waits)

    def _is_alive(self, request: TransportRequest) -> bool:
        """See whether a parked request is still worth having; drop it if not."""
        if not request.was_reset():
            return True
        if self._conditional is None:
            self._drop(request, "reset-while-parked")
        else:
            self._conditional.lost_while_parked(request)
        return False

    def _check_listening(self) -> None:
        if self._state is not _LISTENING:
            raise self._why_not()

    def _why_not(self) -> SocketClosedError | ForcedClosedError:
        if self._state is _FAILED:
            error = ForcedClosedError(f"the listening socket has failed: {self._failure}")
            error.__cause__ = self._failure
            return error
        return SocketClosedError("the listening socket is closed")

    # --- Events ------------------------------------------------------------------------

    def enable_events(self, mask: EventMask) -> None:
        """Enable events; what is parked is indicated, in the order in which it came.

        Args:
          mask: `EventMask.ACCEPT` has ``dispatch.accept`` called for connections that
            nobody is queued for. The others are inherited by the connections that this
            callback takes, as far as the dispatch that it returns has callbacks for them;
            they can't be disabled here again, but on each connection.

        Raises:
          InvalidParameterError: `EventMask.ACCEPT` without ``dispatch.accept``.
          SocketClosedError, ForcedClosedError: as for `accept`.

        Source: SO_WSK_EVENT_CALLBACK.
        """
        check_caller(self._block.home, "listening.enable_events")
        self._check_listening()
        if not are_events(mask, CONNECTION_EVENTS | ACCEPT):
            raise InvalidParameterError(
                f"{mask!r} are no events of a listening socket; write"
                " listening.enable_events(EventMask.ACCEPT)"
            )
        bits = int(mask)
        if bits & ACCEPT and self._dispatch.accept is None:
            raise InvalidParameterError(
                f"{EventMask.ACCEPT!r} has no callback; give one:"
                " open_listening_socket(..., dispatch=ListenDispatch(accept=...))"
            )
        self._connection_events |= bits & CONNECTION_EVENTS
        if bits & ACCEPT:
            self._delivery.event_enabled = True
            self._intake.post_turn()

    async def disable_event(self, event: EventMask) -> None:
        """Disable the accept event; afterwards its callback does not run and will not.

        Connections that nobody is queued for wait in the backlog again.

        Raises:
          InvalidParameterError, InvalidDeviceStateError: as for `disable_event_nowait`.

        Always a checkpoint; the event is disabled even if it is cancelled.
        """
        try:
            self.disable_event_nowait(event)
        except WskError:
            await trio.lowlevel.checkpoint()  # noqa: ASYNC120 - as it says
            raise
        await trio.lowlevel.checkpoint()

    def disable_event_nowait(self, event: EventMask) -> Status:
        """Disable the accept event.

        Returns:
          `Status.SUCCESS`, or `Status.EVENT_PENDING` inside the accept callback itself,
          which is then its last call.

        Raises:
          InvalidParameterError: ``event`` is not `EventMask.ACCEPT` alone. Events that
            connections inherit are disabled on each connection.
          InvalidDeviceStateError: the socket is a server's, which lives on this event: pause it.
        """
        check_caller(self._block.home, "listening.disable_event_nowait")
        if event != EventMask.ACCEPT:
            raise InvalidParameterError(
                f"only {EventMask.ACCEPT!r} can be disabled on a listening socket, not {event!r};"
                " events that connections inherit are disabled on each connection:"
                " connection.disable_event(...)"
            )
        if self._admit is not None:
            raise InvalidDeviceStateError(
                "the server takes its connections by this event, so it stays enabled; to take no"
                " more for a while, write server.listening.pause(), and resume() after it"
            )
        self._delivery.event_enabled = False
        is_own = self._block.calling == "accept"
        return Status.EVENT_PENDING if is_own else Status.SUCCESS

    def _indicate(self, request: TransportRequest) -> None:
        """In the pump: hand a connection to the accept event."""
        if self._conditional is not None:
            self._conditional.taken(request)
        connection = Connection(request.accept(), request, self._block)
        if self._admit is not None and self._admit(connection):
            self._counters.to_event += 1
            return
        callback = self._dispatch.accept
        assert callback is not None
        try:
            answer = call_accept(connection, callback)
        except ConnectionBrokenError:
            answer = Status.SUCCESS  # it came, and it went while it was being taken
            connection.abort()
        except BaseException:  # Ctrl-C and its like: they go on, and nobody has this connection
            connection.abort()
            raise
        if isinstance(answer, ConnectionDispatch):
            self._counters.to_event += 1
            start_events(connection, self._connection_events & answer.mask, answer)
        elif answer is Status.SUCCESS:
            self._counters.to_event += 1
            start_without_events(connection)
        else:
            self._not_accepted(connection, answer)

    def _not_accepted(self, connection: Connection, answer: object) -> None:
        if answer is not FAILED and answer is not Status.REQUEST_NOT_ACCEPTED:
            nonsense = TypeError(
                f"the accept callback returned {shown(answer)}: return a ConnectionDispatch (its"
                " events), Status.SUCCESS (taken, without events), or"
                " Status.REQUEST_NOT_ACCEPTED (to have it reset)"
            )
            self._block.report_callback("accept", connection, nonsense)
        connection.abort()
        self._count_dropped(
            connection.remote_address, "accept-failed" if answer is FAILED else "not-accepted"
        )

    # --- Pausing and refusing ----------------------------------------------------------

    def pause(self) -> None:
        """Take no new connections: they wait in the kernel's backlog, which fills.

        What was parked before can still be accepted. Peers see connections that are
        established and silent, and at last, on Linux, connection attempts that time out.
        """
        self._set_mode("listening.pause", Mode.PAUSE)

    def resume(self) -> None:
        """Back to normal after `pause` or `refuse`."""
        self._set_mode("listening.resume", Mode.DELIVER)

    def refuse(self) -> None:
        """Reset every new connection, until `resume`.

        Peers know at once that nobody is there for them. What was parked before can
        still be accepted.

        Source: SO_PAUSE_ACCEPT.
        """
        self._set_mode("listening.refuse", Mode.REFUSE)

    def _set_mode(self, call: str, mode: Mode) -> None:
        check_caller(self._block.home, call)
        self._check_listening()
        if self._intake.finished is not None:
            raise SocketClosedError(f"{call}() of a listening socket whose server drains")
        self._intake.set_mode(mode)

    # --- Delivering --------------------------------------------------------------------

    def _indicate_parked(self) -> None:
        """In the pump: hand what is parked to the accept event, if it takes it."""
        for _ in range(BATCH):
            request = self._delivery.unpark_for_event()
            if request is None:
                return
            if self._is_alive(request):
                self._indicate(request)
            else:
                self._delivery.permits += 1
        self._intake.post_turn()

    def _arrived(self, request: TransportRequest) -> None:
        """Put a new request where it belongs."""
        self._counters.accepted += 1
        if records.ConnectionAccepted in self._block.observers.wanting:
            self._block.tell(records.ConnectionAccepted, remote_address=request.remote_address)
        if self._intake.mode is REFUSE:
            self._drop(request, "refused")
        elif self._conditional is not None:
            self._conditional.take(request)
        else:
            self._deliver(request, to_event=True)

    def _deliver(self, request: TransportRequest, *, to_event: bool) -> bool:
        """Give the connection to whoever is to have it.

        Args:
          request: It, approved and established.
          to_event: Whether the accept event may be called now: in the pump only.

        Returns:
          Whether it waits for somebody to take it.
        """
        place = self._delivery.place(request, to_event=to_event)
        if place is _TO_EVENT:
            self._indicate(request)
        elif isinstance(place, Acceptor):
            self._hand_over(place, request)
        else:
            if self._delivery.event_takes:
                self._intake.post_turn()
            return True
        return False

    def _hand_over(self, acceptor: Acceptor, request: TransportRequest) -> None:
        if self._conditional is not None:
            self._conditional.taken(request)
        connection = Connection(request.accept(), request, self._block, acceptor.context)
        if acceptor.dispatch is not None:
            give_dispatch(connection, acceptor.dispatch)
        self._counters.to_accept += 1
        acceptor.give(connection)

    def _drop(self, request: TransportRequest, reason: str) -> None:
        request.reset()
        self._count_dropped(request.remote_address, reason)

    def _count_dropped(self, remote_address: Address, reason: str) -> None:
        self._counters.dropped[reason] += 1
        self._block.tell(records.ConnectionDropped, remote_address=remote_address, reason=reason)

    # --- When the listening socket fails -----------------------------------------------

    def _fail(self, error: OSError) -> None:
        """The listening socket itself has failed: tell everybody, once."""
        if self._state is not _LISTENING:
            return
        self._failure = error
        self._end(_FAILED, "failed")
        self._block.tell(records.ListenerFailed, error=error)
        self._block.post(self._indicate_failure)

    def _indicate_failure(self) -> None:
        callback = self._dispatch.failed
        if callback is not None:
            context = self._block.context.copy()
            self._block.call("failed", None, context, callback, self, self._failure)
        self._nursery.cancel_scope.cancel()

    # --- Closing -----------------------------------------------------------------------

    async def aclose(self) -> None:
        """Stop listening, and end every request and Irp.

        The kernel resets what is in its backlog, and what is parked is reset. Requests that
        are inspected are cancelled, aborted and reset. Queued
        Irps complete with `Status.CANCELLED`, tasks in `accept` get `SocketClosedError`;
        completion routines and abort callbacks have run when this returns. Connections that
        were delivered are not touched. Idempotent.

        It is bounded: an inspector that does not end when it is cancelled is waited for
        one second, and reported (`InspectorStraggles`). Leaving the block waits for it.

        Always a checkpoint. If cancelled, the socket is closed all the same, and what is left to be
        called is called soon.

        Source: PFN_WSK_CLOSE_SOCKET.
        """
        check_caller(self._block.home, "listening.aclose")
        self._close()
        if self._conditional is not None:
            await self._conditional.settle()
        await self._block.settle()

    def _close(self) -> None:
        self._end(_CLOSED, "closed")

    @trio.lowlevel.enable_ki_protection  # or Ctrl-C would leave half of it open
    def _end(self, state: _State, reason: str) -> None:
        if self._state is not _LISTENING:
            return
        self._state = state
        self._intake.close()
        self._transport.leave()  # first: who may ask others again is not refused by us
        if self._conditional is not None:
            is_failed = state is _FAILED
            self._conditional.close(AbortReason.FAILED if is_failed else AbortReason.CLOSED)
        self._transport.close()
        self._public = []
        acceptors, parked = self._delivery.drain()
        for request in parked:
            self._drop(request, reason)
        for acceptor in acceptors:
            acceptor.fail(self._why_not())

    def statistics(self) -> ListeningStatistics:
        """Return what was counted since the socket was opened, and what is true now."""
        return self._counters.picture(
            parked=self._delivery.parked,
            parked_most=self._delivery.parked_most,
            queued_accepts=self._delivery.acceptors,
            pending=0 if self._conditional is None else self._conditional.pending,
            straggling=0 if self._conditional is None else self._conditional.straggling,
            queue_depth=(self._transport.queue_depth() if self._state is _LISTENING else None),
            transport=self._transport.counters(),
        )

    # --- For the block and the server --------------------------------------------------

    def _listen(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        readiness = self._transport.pump_readiness(nursery.start_soon)
        self._block.start(nursery, readiness)
        self._intake.open(readiness)

    def _finish(self, more_permits: float) -> None:
        """For a server that drains: take who waits already, and then nobody more.

        Args:
          more_permits: How many of them may be open beyond the limit.
        """
        if self._state is _LISTENING:
            self._delivery.permits += more_permits
            self._intake.finish()

    async def _wait_finished(self) -> None:  # noqa: ASYNC910 - a drain has other checkpoints
        """For a server, after `_finish`: wait until nobody is left who may become a connection.

        And until those who are turned away have read why.
        """
        finished = self._intake.finished
        if finished is not None:
            await finished.wait()
        if self._conditional is not None:
            await self._conditional.wait_read()

    def _serve(
        self, admit: Callable[[Connection], bool], max_connections: float, *, anywhere: bool
    ) -> None:
        """For a server: have every connection admitted, and no more at once than that.

        Args:
          admit: Called in the pump with each connection that the accept event would get;
            True if that is all, False to go on with the accept callback.
          max_connections: How many permits there are; one is taken before each accept.
          anywhere: Whether ``admit`` runs no callbacks, so that what was inspected needs not wait
            for the pump.
        """
        self._admit = admit
        self._admits_anywhere = anywhere
        self._delivery.permits = max_connections
        self._delivery.event_enabled = True
        self._connection_events = CONNECTION_EVENTS
        self._intake.post_turn()

    def _return_permit(self) -> None:
        """For a server: a connection has ended, so another one may come."""
        delivery = self._delivery
        delivery.permits += 1
        if delivery.permits == 1:
            self._intake.post_turn()
        elif self._conditional is not None:
            self._conditional.has_room_again()


def _check_connection_dispatch(call: str, dispatch: object) -> None:
    if dispatch is not None and not isinstance(dispatch, ConnectionDispatch):
        raise InvalidParameterError(
            "dispatch is of the connection that is accepted:"
            f" {call}(dispatch=ConnectionDispatch(receive=...)), not {dispatch!r}"
        )
