"""`ListeningSocket`: what users see of a listening socket, over the stages that work behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from trio_wsk._connection.block import Block
from trio_wsk._connection.connecting import queue_connect
from trio_wsk._connection.connection import Connection
from trio_wsk._connection.dispatch import ConnectionDispatch
from trio_wsk._connection.events import CONNECTION_EVENTS
from trio_wsk._delivery.acceptors import IrpAcceptor, TaskAcceptor
from trio_wsk._engine.callers import check_caller
from trio_wsk._inspection.pending import PendingInspections
from trio_wsk._intake.intake import Mode
from trio_wsk._vocabulary.arguments import are_events
from trio_wsk._vocabulary.errors import (
    ForcedClosedError,
    InvalidDeviceStateError,
    InvalidParameterError,
    SocketClosedError,
    WouldBlockError,
    WskError,
)
from trio_wsk._vocabulary.statistics import ListeningCounters, ListeningStatistics
from trio_wsk._vocabulary.status import ACCEPT, EventMask, Status
from trio_wsk.transports._connecting import HAPPY_EYEBALLS_DELAY, target_of

from .arguments import check_connection_dispatch
from .public_sockets import PublicSockets
from .stages import Stages, new_inspect_key

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from trio_wsk._engine.irp import Irp
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.verdict import InspectAction, InspectId, InspectPoint, Verdict

    from .stages import Plan

__all__ = ["ListeningSocket"]


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

    def __init__(self, plan: Plan, nursery: trio.Nursery) -> None:
        """Made by `open_listening_socket`, never by you."""
        self.context: object = plan.context
        """Whatever `open_listening_socket` was given; the library never looks at it."""
        counters = ListeningCounters()
        failures, key = counters.callback_failures, new_inspect_key(plan)
        self._block = Block(self, plan.observers, failures, key)
        self._stages = Stages(plan, self._block, counters, nursery)
        self._public = PublicSockets(self._stages)

    def __repr__(self) -> str:
        where = ", ".join(str(address) for address in self.local_addresses)
        return f"<ListeningSocket {self._stages.state.value} on {where}>"

    # --- Where it listens --------------------------------------------------------------

    @property
    def local_addresses(self) -> list[Address]:
        """Where it listens; with the port that the kernel chose, if it was asked to."""
        return list(self._stages.transport.local_addresses)

    @property
    def socket(self) -> trio.socket.SocketType:
        """The first of `sockets`.

        Raises:
          NoSocketError: this listening socket is closed, or has failed. It is an
            AttributeError as well: ``getattr(listening, "socket", None)`` is None then.
          AttributeError: the transport has no sockets.
        """
        return self._public.first()

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
        return self._public.all()

    @property
    def draining(self) -> trio.Event:
        """Set when the server that this socket belongs to drains."""
        return self._block.between.draining

    # --- Conditional accept ------------------------------------------------------------

    @property
    def inspect_point(self) -> InspectPoint:
        """When requests appear here: what their peers see of an inspection follows from it."""
        return self._stages.transport.inspect_point

    @property
    def pending_inspections(self) -> PendingInspections:
        """The requests that wait for their verdict, by `InspectId`; a view, always current.

        One that was aborted stays in it until ``dispatch.abort`` has returned.
        """
        return PendingInspections(self._stages.inspection)

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
        return self._stages.inspection.complete(inspect_id, answer)

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
        check_connection_dispatch("accept", dispatch)
        check_caller(self._block.home, "listening.accept")
        await trio.lowlevel.checkpoint_if_cancelled()
        acceptor = TaskAcceptor(context, dispatch)
        try:
            self._stages.queue(acceptor)
        except (SocketClosedError, ForcedClosedError):
            # Who goes on after each error must not stop the run.
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        if acceptor.connection is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return acceptor.connection
        return await acceptor.wait(self._stages.handing_over.withdraw)

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
        check_connection_dispatch("accept_nowait", dispatch)
        acceptor = TaskAcceptor(context, dispatch)
        self._stages.queue(acceptor, waits=False)
        if acceptor.connection is not None:
            return acceptor.connection
        self._stages.handing_over.withdraw(acceptor)
        raise acceptor.error or WouldBlockError("no connection is waiting to be accepted")

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
        check_connection_dispatch("queue_accept", dispatch)
        acceptor = IrpAcceptor(
            context,
            dispatch,
            block=self._block,
            withdraw=self._stages.handing_over.withdraw,
            on_completion=on_completion,
        )
        self._stages.queue(acceptor)
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
          SocketClosedError, ForcedClosedError: the block has ended, which a drain has not.
          InvalidParameterError: an argument is wrong. (Yours.)

        Source: PFN_WSK_SOCKET_CONNECT.
        """
        check_caller(self._block.home, "listening.queue_connect")
        check_connection_dispatch("queue_connect", dispatch)
        self._stages.check_running()
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
        self._stages.check_listening()
        if not are_events(mask, CONNECTION_EVENTS | ACCEPT):
            raise InvalidParameterError(
                f"{mask!r} are no events of a listening socket; write"
                " listening.enable_events(EventMask.ACCEPT)"
            )
        bits = int(mask)
        handing_over = self._stages.handing_over
        if bits & ACCEPT and not handing_over.event.has_callback:
            raise InvalidParameterError(
                f"{EventMask.ACCEPT!r} has no callback; give one:"
                " open_listening_socket(..., dispatch=ListenDispatch(accept=...))"
            )
        handing_over.event.inherited |= bits & CONNECTION_EVENTS
        if bits & ACCEPT:
            handing_over.enable_event()

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
        if self._stages.handing_over.has_taker:
            raise InvalidDeviceStateError(
                "the server takes its connections by this event, so it stays enabled; to take no"
                " more for a while, write server.listening.pause(), and resume() after it"
            )
        self._stages.handing_over.disable_event()
        return Status.EVENT_PENDING if self._block.calling == "accept" else Status.SUCCESS

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
        self._stages.check_listening()
        if self._stages.intake.finished is not None:
            raise SocketClosedError(f"{call}() of a listening socket whose server drains")
        self._stages.intake.set_mode(mode)

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
        await self._stages.aclose()

    def statistics(self) -> ListeningStatistics:
        """Return what was counted since the socket was opened, and what is true now."""
        return self._stages.statistics()
