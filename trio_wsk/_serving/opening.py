"""Servers: a task per connection (`serve`), or callbacks (`serve_events`).

A server is a listening socket whose accept event starts a handler, and the care around
it: one connection's trouble stays its own, no more are open at once than there are
permits, TLS is shaken hands over under a deadline, and ending is orderly.

Two nurseries, handlers outside and the listening block inside: closing the listening
socket can't touch a handler, and cancelling the handlers can't touch who drains.
"""

from __future__ import annotations

import functools
import math
import ssl
import sys
from collections import Counter
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, overload

import trio

from trio_wsk._connection.connection import Connection
from trio_wsk._connection.control import (
    end,
    end_by_server,
    is_owned_by,
    may_send,
    own,
    part,
    tell_drain,
    unsent,
    wait_taken,
)
from trio_wsk._connection.farewell import Farewells
from trio_wsk._connection.faults import (
    is_cancelled,
    split_error,
    why_no_handshake,
    without_peers_end,
)
from trio_wsk._engine.callers import check_caller, check_in_trio, runs_in
from trio_wsk._engine.pump import unwrapped
from trio_wsk._engine.reused_tasks import ReusedTasks, cancel_status, forget_first_frame
from trio_wsk._intake.intake import BATCH
from trio_wsk._listening.dispatch import ListenDispatch
from trio_wsk._listening.listening import ListeningSocket
from trio_wsk._listening.opening import open_listening_socket
from trio_wsk._listening.options import check_options
from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.arguments import (
    check_async_function,
    check_flag,
    checked_count,
    checked_seconds,
)
from trio_wsk._vocabulary.end_reason import EndReason
from trio_wsk._vocabulary.errors import (
    InvalidDeviceStateError,
    InvalidParameterError,
    SocketBusyError,
    SocketClosedError,
    WskError,
)
from trio_wsk._vocabulary.statistics import DrainReport, ServerStatistics
from trio_wsk.transports._choosing import closing_if_wrong

from .server_context import check_server_context

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from typing_extensions import Unpack

    from trio_wsk._connection.block import Block
    from trio_wsk._connection.events import EventSide
    from trio_wsk._listening.options import ListeningOptions, OnHandlerError
    from trio_wsk._vocabulary.addresses import Address

    PlainHandler = Callable[[Connection], Awaitable[object]]
    TLSHandler = Callable[[trio.SSLStream[Connection]], Awaitable[object]]
    EitherHandler = Callable[[Connection | trio.SSLStream[Connection]], Awaitable[object]]

__all__ = ["Server", "open_server", "serve", "serve_events"]

DEFAULT_GRACE: Final = 30.0
"""Seconds that open connections are given to finish when a server drains."""

DEFAULT_HANDSHAKE_TIMEOUT: Final = 30.0
"""Seconds for a TLS handshake: anyio's; hypercorn and asyncio give 60, Ranch 5."""

_FOR_EVENTS: Final = (DEFAULT_HANDSHAKE_TIMEOUT, False, "report")
"""What the options of handlers have to be where there is none: what they are if left out."""

CLOSE_NOTIFY_TIMEOUT: Final = 5.0
"""Seconds for saying good-bye over TLS, after the handler has returned."""


class Server:
    """A running server, made by `open_server`, `serve` and `serve_events`."""

    def __init__(
        self,
        *,
        handler: Callable[[Any], Awaitable[object]] | None,
        ssl_context: ssl.SSLContext | None,
        handshake_timeout: float,
        https_compatible: bool,
        max_connections: float,
        grace: float,
        on_handler_error: OnHandlerError,
    ) -> None:
        """Made by `open_server`, never by you."""
        self.listening: ListeningSocket
        """The listening socket: pause it, refuse with it, look at its statistics."""
        self._handler = handler
        self._ssl_context = ssl_context
        self._handshake_timeout = handshake_timeout
        self._https_compatible = https_compatible
        self._max_connections = max_connections
        self._gives_permits = False
        self._grace = grace
        self._raise_errors = on_handler_error == "raise"
        self._handlers: trio.Nursery
        self._tasks: _Handlers
        self._block: Block
        self._owner: Final = _EventDriven(self)
        self._open = 0
        self._open_most = 0
        self._handled: set[Connection] = set()  # by handlers: a reset reaches them all
        self._served = 0
        self._handler_failures = 0
        self._peers_left = 0
        self._handshake_failures: Counter[str] = Counter()
        self._draining = False
        self._has_reset = False
        self._were_reset = 0
        self._none_open: trio.Event | None = None
        self._over = trio.Event()

    def __repr__(self) -> str:
        where = ", ".join(str(address) for address in self.local_addresses)
        return f"<Server on {where}, {self._open} open connections>"

    @property
    def local_addresses(self) -> list[Address]:
        """Where it listens; with the port that the kernel chose, if it was asked to."""
        return self.listening.local_addresses

    def statistics(self) -> ServerStatistics:
        """Return what was counted since the server was opened, and what is true now."""
        listening = self.listening.statistics()
        return ServerStatistics(
            listening=listening,
            open_connections=self._open,
            open_most=self._open_most,
            lingering=len(self._block.farewells or ()),
            served=self._served,
            handler_failures=self._handler_failures,
            peers_left=self._peers_left,
            handshake_failures=MappingProxyType(dict(self._handshake_failures)),
            callback_failures=sum(listening.callback_failures.values()),
        )

    # --- Ending ------------------------------------------------------------------------

    async def drain(self, *, grace: float | None = None) -> DrainReport:
        """Stop admitting, let open connections finish, then reset the rest.

        Every connection is told at once: ``connection.draining`` is set, and
        ``ListenDispatch.drain`` called for those that are event-driven. Who waits in the queue is
        still taken; then nobody listens any more, and new peers are refused. Within the grace
        connections finish, those that are taken yet have their turn, requests that are being
        inspected have their verdict, and handshakes come to their end. When the grace has run
        out, the handlers that are left are cancelled, and all that is left is reset. Then
        `serve` returns.

        Within the grace, too, peers whose handlers have returned are let finish what they are
        sending: those that have been heard, until they are silent for five seconds, and for a
        second at most those that were not heard yet.

        Who waits in the queue when the drain begins is taken also if the listening socket is
        paused, and beyond ``max_connections``: by as many connections again, or by 16 if that is
        more. Of sockets that others share or have after us nobody is taken any more: those
        that were given as ``sockets=``, and with ``reuse_port=True`` where the kernel gives the
        queue to the others (``net.ipv4.tcp_migrate_req``).

        Args:
          grace: Seconds on Trio's clock that open connections are given; by default what
            the server was opened with. ``0`` resets them at once; ``math.inf`` waits for
            as long as they take.

        Returns:
          How many connections finished and how many were reset; they add up to
          ``statistics().open_connections`` at the call, and what was taken since. Who was not
          taken in time is in ``statistics().listening``, as dropped or aborted.

        Raises:
          InvalidDeviceStateError: called by a handler or an inspector of this server, for which
            it would wait. Start it outside of them: ``nursery.start_soon(server.drain)``. (Yours.)
          SocketBusyError: another task is draining this server. (Yours.)
          SocketClosedError: this server has ended, drained or aborted. (Yours.)
          InvalidParameterError: ``grace`` is no time, or below zero. (Yours.)

        Always a checkpoint. If cancelled, what is still open is reset.
        """
        check_caller(self._block.home, "server.drain")
        grace = self._grace if grace is None else _checked_grace(grace)
        try:
            self._check_may_drain()
        except WskError:
            # Who tries again after each error must not stop the run.
            await trio.lowlevel.checkpoint()  # noqa: ASYNC120 - as it says
            raise
        self._draining = True
        try:
            return await self._drain(grace)
        finally:
            self._end()

    def _check_may_drain(self) -> None:
        if runs_in(self._handlers) or runs_in(self.listening._nursery):
            raise InvalidDeviceStateError(
                "drain() would wait for the handler or the inspector that calls it; have a task"
                " outside of the server do it, in a nursery that was opened before the server:"
                " nursery.start_soon(server.drain)"
            )
        if self._over.is_set():
            raise SocketClosedError("drain() of a server that has ended: it was drained or aborted")
        if self._draining:
            raise SocketBusyError("drain() while another task drains this server; once is enough")

    async def _drain(self, grace: float) -> DrainReport:
        """Go through a drain, step by step; what is waited for shares one deadline."""
        deadline = trio.current_time() + grace
        ended_before = self._served
        self._tell_all(grace)
        self.listening._finish(more_permits=self._permits_of_drain)
        with trio.move_on_at(deadline):
            await self.listening._wait_finished()
            await self.listening.aclose()
            await self._wait_none_open()
            if self._block.farewells is not None:
                await self._block.farewells.wait_none_sends()
        self.listening._close()
        self._reset_all()
        await self.listening.aclose()
        await self._wait_none_open()
        ended = self._served - ended_before
        report = DrainReport(finished=ended - self._were_reset, reset=self._were_reset)
        self._block.tell(records.DrainFinished, finished=report.finished, reset=report.reset)
        return report

    def _tell_all(self, grace: float) -> None:
        """Tell every connection that is open; those that are taken later are told then."""
        self._block.tell(records.DrainStarted, open_connections=self._open, grace=grace)
        self._block.draining.set()
        for connection in self._block.event_driven:
            if is_owned_by(connection, self._owner):
                self._tell(connection)

    def _tell(self, connection: EventSide) -> None:
        """Have one event-driven connection told, after whatever it is being told now."""
        callback = self.listening._dispatch.drain
        if callback is not None:
            self._block.post(functools.partial(tell_drain, connection, callback))

    @property
    def _permits_of_drain(self) -> float:
        """How many connections a drain may have open beyond ``max_connections``.

        Those who wait in the queue when it begins would otherwise depend on those who are open,
        and who may stay for the whole grace. As many again are no surprise to a machine; and
        small limits get a batch, so that one who stays doesn't keep all others from their turn.
        """
        return max(self._max_connections, BATCH)

    async def _finish(self) -> None:
        """Drain, or wait until whoever drains already has."""
        if self._draining:
            await self._over.wait()
        else:
            await self.drain()

    def abort(self) -> None:
        """End at once: close the listening socket, cancel handlers, reset connections.

        Every connection is reset when this returns, whoever still holds it: a handler that a
        thread or a shield keeps from ending finds it broken. Leaving the server's block, or the
        return of `serve`, waits for the handlers. What lingers after a handler is closed, too.
        Idempotent.

        Raises:
          RuntimeError: called from outside the Trio run.
        """
        check_caller(self._block.home, "server.abort")
        if self._block.farewells is not None:
            self._block.farewells.close()
        self._end()

    def _end(self) -> None:
        self.listening._close()
        self._reset_all()
        self._over.set()

    def _reset_all(self) -> None:
        if not self._has_reset:  # abort() during a drain comes first
            self._has_reset = True
            self._were_reset = self._open - sum(each.closed for each in self._handled)
        # First, so that who waits in a handler is cancelled, and hears of no error.
        self._handlers.cancel_scope.cancel()
        for handled in self._handled:
            end_by_server(handled)
        for connection in list(self._block.event_driven):
            end(connection, EndReason.SERVER_ENDED)

    async def _wait_none_open(self) -> None:  # noqa: ASYNC910 - a drain has other checkpoints
        while self._open:
            if self._none_open is None:
                self._none_open = trio.Event()
            await self._none_open.wait()

    # --- Connections -------------------------------------------------------------------

    def _start(self, listening: ListeningSocket, handlers: trio.Nursery) -> None:
        self.listening = listening
        self._block = listening._block
        self._block.is_served = True
        self._handlers = handlers
        self._gives_permits = self._max_connections < math.inf or listening._conditional is not None
        if self._handler is None:
            listening._serve(self._admit_event_driven, self._max_connections, anywhere=False)
        else:
            handler = self._handler if self._ssl_context is None else self._handle_tls
            self._tasks = _Handlers(self, handlers, handler)
            self._block.farewells = Farewells(self._block.call_at, self._block.post)
            listening._serve(self._admit_to_handler, self._max_connections, anywhere=True)

    def _opened(self) -> None:
        self._open += 1
        if self._open > self._open_most:  # noqa: PLR1730 - max() costs more, each time
            self._open_most = self._open

    def _connection_ended(self, connection: Connection) -> None:
        self._open -= 1
        self._served += 1
        self._handled.discard(connection)
        if not self._open and self._none_open is not None:
            self._none_open.set()
            self._none_open = None
        if self._gives_permits:
            self.listening._return_permit()

    def _admit_event_driven(self, connection: Connection) -> bool:
        own(connection, self._owner)
        self._opened()
        if self._draining:
            self._tell(connection)
        return False

    def _admit_to_handler(self, connection: Connection) -> bool:
        self._opened()
        self._handled.add(connection)
        try:
            self._tasks.start(connection)
        except RuntimeError:  # a handler's error is ending the server at this moment
            connection.abort()
            self._connection_ended(connection)
        return True

    async def _handle_tls(self, connection: Connection) -> None:
        assert self._handler is not None
        assert self._ssl_context is not None
        stream = trio.SSLStream(
            connection,
            self._ssl_context,
            server_side=True,
            https_compatible=self._https_compatible,
        )
        if await self._shake_hands(stream):
            await self._handler(stream)
            if may_send(connection):
                await self._say_good_bye(stream)

    async def _say_good_bye(  # noqa: ASYNC910 - `_Handlers._run` needs none
        self, stream: trio.SSLStream[Connection]
    ) -> None:
        """Send close_notify, if it can still be sent: the handler may have ended its transport."""
        with (
            trio.move_on_after(CLOSE_NOTIFY_TIMEOUT),
            suppress(trio.ClosedResourceError),  # through the public socket
        ):
            await stream.aclose()

    async def _shake_hands(self, stream: trio.SSLStream[Connection]) -> bool:
        """Do the TLS handshake; its failure is a count, not a crash."""
        error: Exception | None = None
        with trio.move_on_after(self._handshake_timeout):
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as broken:
                error = broken
            else:
                return True
        reason = why_no_handshake(stream.transport_stream, error)
        self._handshake_failures[reason] += 1
        self._block.tell(
            records.HandshakeFailed,
            remote_address=stream.transport_stream.remote_address,
            reason=reason,
            error=error,
        )
        return False  # noqa: ASYNC910 - running out of time is a checkpoint, too

    def _handler_raised(
        self, connection: Connection, error: BaseException, *, left_open: bool
    ) -> None:
        """Report what is a crash, forget what is only the peer's going, and raise the rest.

        Args:
          connection: The handler's.
          error: What it raised.
          left_open: Whether it has left a cancel scope open in the current task.
        """
        crash, rest = split_error(error, self._why_stray(left_open=left_open))
        if crash is not None:
            crash = without_peers_end(connection, crash)
        if crash is not None:
            end(connection, EndReason.FAILED, crash)
        else:
            end(connection, EndReason.SERVER_ENDED if rest is not None else EndReason.ABORTED)
        if crash is None and rest is None and not self._has_reset:
            self._peers_left += 1
            self._block.tell(records.PeerLeft, remote_address=connection.remote_address)
        if crash is not None:
            self._handler_failures += 1
            self._block.tell(
                records.HandlerFailed, error=crash, remote_address=connection.remote_address
            )
            if self._raise_errors:
                rest = crash if rest is None else error
        try:
            if rest is not None:
                self.abort()  # it ends the server, which other handlers may hold up
                raise rest
        finally:
            del error, crash, rest  # or they would hold this frame, which holds them

    def _why_stray(self, *, left_open: bool) -> str | None:
        """Say why a cancellation that a handler lets out is nobody's; None if it is somebody's.

        Nobody would catch it: it would close the server without a word.
        """
        if self._handlers.cancel_scope.cancel_called:
            return None
        if left_open:
            return (
                "the handler has left a cancel scope open, and was cancelled by it; an async"
                " generator with a scope or a nursery inside has to be finished:"
                " async with contextlib.aclosing(...)"
            )
        if is_cancelled():
            return None
        return "the handler has raised a cancellation outside of the scope that it was for"


class _EventDriven:
    """The owner of a server's event-driven connections."""

    delivers = True

    def __init__(self, server: Server) -> None:
        self._server = server

    def ended(self, connection: Connection) -> None:
        """Take note: it is closed."""
        self._server._connection_ended(connection)


class _Handlers(ReusedTasks[Connection]):
    """The tasks of one server's handlers."""

    def __init__(self, server: Server, handlers: trio.Nursery, handler: PlainHandler) -> None:
        name = f"trio_wsk: {_name_of(server._handler)}"
        super().__init__(handlers.start_soon, server._block.context, name)
        self._server = server
        self._handler = handler

    # One coroutine for all of it: each more weighs on every connection that is open.
    async def _run(self, connection: Connection) -> None:  # noqa: ASYNC910 - a task of its own
        """Run one handler after the other, and do whatever comes of each."""
        task = trio.lowlevel.current_task()
        status = cancel_status(task)
        self._begin()
        while True:
            try:
                await self._handler(connection)
                if unsent(connection):
                    await wait_taken(connection)
                part(connection)
            except BaseException as error:  # noqa: BLE001 - parted into what is reported and what goes on
                forget_first_frame(error)
                left_open = cancel_status(task) is not status
                self._server._handler_raised(connection, error, left_open=left_open)
            finally:
                end(connection, EndReason.ABORTED)
                self._server._connection_ended(connection)
            if not self._may_wait(status):
                break
            del connection  # who waits keeps none
            connection = await self._next()


def _name_of(handler: object) -> str:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return getattr(handler, "__qualname__", repr(handler))


def _checked_grace(grace: float) -> float:
    return checked_seconds("grace", grace, endless="as long as they take")


def _checked_server(
    handler: Callable[[Any], Awaitable[object]] | None,
    *,
    max_connections: int | None,
    ssl_context: ssl.SSLContext | None,
    handshake_timeout: float,
    https_compatible: bool,
    grace: float,
    on_handler_error: OnHandlerError,
) -> Server:
    """Make a server, or say which argument is wrong; a handler has been checked before."""
    if max_connections is not None:
        checked_count("max_connections", max_connections, least=1, or_none=", or None for no limit")
    context: object = ssl_context
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise InvalidParameterError(
            f"ssl_context is an ssl.SSLContext with a certificate, or None, not {ssl_context!r}"
        )
    if ssl_context is not None:
        check_server_context(ssl_context)
    check_flag("https_compatible", https_compatible)
    if on_handler_error not in ("report", "raise"):
        raise InvalidParameterError(
            f"on_handler_error is 'report' or 'raise', not {on_handler_error!r}"
        )
    return Server(
        handler=handler,
        ssl_context=ssl_context,
        handshake_timeout=checked_seconds(
            "handshake_timeout", handshake_timeout, endless="as long as it takes"
        ),
        https_compatible=https_compatible,
        max_connections=math.inf if max_connections is None else max_connections,
        grace=_checked_grace(grace),
        on_handler_error=on_handler_error,
    )


def _checked_events_server(
    dispatch: ListenDispatch, *, max_connections: int | None, grace: float
) -> Server:
    """Make a server without handlers, or say which argument is wrong."""
    given: object = dispatch  # by a caller without a type checker, perhaps
    if not isinstance(given, ListenDispatch) or given.accept is None:
        raise InvalidParameterError(
            "a server of events takes ListenDispatch(accept=...) with an accept callback,"
            f" not {dispatch!r}"
        )
    return _checked_server(
        None,
        max_connections=max_connections,
        ssl_context=None,
        handshake_timeout=DEFAULT_HANDSHAKE_TIMEOUT,
        https_compatible=False,
        grace=grace,
        on_handler_error="report",
    )


def _checked_conditional(dispatch: ListenDispatch | None) -> ListenDispatch | None:
    """Let a dispatch beside a handler have no callback that takes connections."""
    given: object = dispatch  # by a caller without a type checker, perhaps
    if given is not None and not (
        isinstance(given, ListenDispatch) and given.accept is None and given.drain is None
    ):
        raise InvalidParameterError(
            "beside a handler, dispatch takes ListenDispatch(inspect=..., abort=..., failed=...):"
            f" connections go to the handler, which sees connection.draining, not {dispatch!r}"
        )
    return dispatch


def _ours(options: ListeningOptions) -> AbstractContextManager[None]:
    """Close what is given to be listened at if something turns out to be wrong."""
    return closing_if_wrong(options.get("sockets"), options.get("transport"))


@asynccontextmanager
@trio.lowlevel.enable_ki_protection  # as for `open_listening_socket`
async def _run(
    server: Server,
    port: int | None,
    dispatch: ListenDispatch | None,
    options: ListeningOptions,
) -> AsyncIterator[Server]:
    """Run a server for as long as the block lasts; leaving it normally drains."""
    if server._max_connections is not math.inf:
        # What is read ahead of a permit would be a connection beyond the limit.
        options = {**options, "max_parked": 0}
    with _ours(options):
        check_in_trio("a server")
        opening = open_listening_socket(port, dispatch=dispatch, **options)
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as outer, opening as listening:
            handlers = await outer.start(_hold_nursery)
            server._start(listening, handlers)
            try:
                yield server
                if not server._over.is_set():
                    await server._finish()
            finally:
                server.abort()
    except BaseExceptionGroup as group:
        error = unwrapped(group)
    try:
        if error is not None:
            raise error
    finally:
        del error


@trio.lowlevel.enable_ki_protection  # it does nothing that could be interrupted
async def _hold_nursery(  # noqa: ASYNC910 - it sleeps until it is cancelled
    *, task_status: trio.TaskStatus[trio.Nursery]
) -> None:
    """Keep a nursery open for handlers, with a cancel scope of their own."""
    error: BaseException | None = None
    try:
        async with trio.open_nursery(strict_exception_groups=True) as handlers:
            task_status.started(handlers)
            await trio.sleep_forever()
    except BaseExceptionGroup as group:
        error = unwrapped(group)
    try:
        if error is not None:
            raise error  # Ctrl-C in a handler is a KeyboardInterrupt, and not a group in a group
    finally:
        del error


@overload
def open_server(
    handler: PlainHandler,
    port: int | None = None,
    *,
    dispatch: ListenDispatch | None = ...,
    ssl_context: None = None,
    handshake_timeout: float = ...,
    https_compatible: bool = ...,
    max_connections: int | None = ...,
    grace: float = ...,
    on_handler_error: OnHandlerError = ...,
    **options: Unpack[ListeningOptions],
) -> AbstractAsyncContextManager[Server]: ...


@overload
def open_server(
    handler: TLSHandler,
    port: int | None = None,
    *,
    dispatch: ListenDispatch | None = ...,
    ssl_context: ssl.SSLContext,
    handshake_timeout: float = ...,
    https_compatible: bool = ...,
    max_connections: int | None = ...,
    grace: float = ...,
    on_handler_error: OnHandlerError = ...,
    **options: Unpack[ListeningOptions],
) -> AbstractAsyncContextManager[Server]: ...


@overload
def open_server(
    handler: EitherHandler,
    port: int | None = None,
    *,
    dispatch: ListenDispatch | None = ...,
    ssl_context: ssl.SSLContext | None,
    handshake_timeout: float = ...,
    https_compatible: bool = ...,
    max_connections: int | None = ...,
    grace: float = ...,
    on_handler_error: OnHandlerError = ...,
    **options: Unpack[ListeningOptions],
) -> AbstractAsyncContextManager[Server]: ...


@overload
def open_server(
    handler: ListenDispatch,
    port: int | None = None,
    *,
    max_connections: int | None = ...,
    grace: float = ...,
    **options: Unpack[ListeningOptions],
) -> AbstractAsyncContextManager[Server]: ...


def open_server(
    handler: Callable[[Any], Awaitable[object]] | ListenDispatch,
    port: int | None = None,
    *,
    dispatch: ListenDispatch | None = None,
    ssl_context: ssl.SSLContext | None = None,
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
    https_compatible: bool = False,
    max_connections: int | None = None,
    grace: float = DEFAULT_GRACE,
    on_handler_error: OnHandlerError = "report",
    **options: Unpack[ListeningOptions],
) -> AbstractAsyncContextManager[Server]:
    """Serve for as long as the block lasts: `serve` as a block, or `serve_events` as one.

    Leaving the block normally drains the server with its ``grace``; leaving it by an
    exception, or cancelled, aborts it.

    Args:
      handler: An async function, as for `serve`; or a `ListenDispatch`, as for
        `serve_events`, which has no use for ``dispatch``, ``ssl_context``,
        ``handshake_timeout``, ``https_compatible`` and ``on_handler_error``.
      port: As for `open_listening_socket`, and so are all ``options``.
      dispatch: As for `serve`.
      ssl_context: As for `serve`.
      handshake_timeout: As for `serve`.
      https_compatible: As for `serve`.
      max_connections: As for `serve`.
      grace: As for `serve`.
      on_handler_error: As for `serve`.
      **options: As for `open_listening_socket`.

    Returns:
      An async context manager that gives the `Server`.
    """
    with _ours(options):
        check_options("open_server", options)
        if isinstance(handler, ListenDispatch):
            if dispatch is not None:
                raise InvalidParameterError(
                    "open_server takes one ListenDispatch, in the place of the handler, not another"
                    " one as dispatch="
                )
            if ssl_context is not None:
                raise InvalidParameterError(
                    "ssl_context= needs a task for each connection: open_server(handler, ...)"
                    f" with an async handler, not with {handler!r}"
                )
            if (handshake_timeout, https_compatible, on_handler_error) != _FOR_EVENTS:
                raise InvalidParameterError(
                    "handshake_timeout=, https_compatible= and on_handler_error= are of handlers,"
                    " and there is none in a server of events; leave them out"
                )
            server = _checked_events_server(handler, max_connections=max_connections, grace=grace)
            return _run(server, port, handler, options)
        check_async_function("handler", handler)
        server = _checked_server(
            handler,
            max_connections=max_connections,
            ssl_context=ssl_context,
            handshake_timeout=handshake_timeout,
            https_compatible=https_compatible,
            grace=grace,
            on_handler_error=on_handler_error,
        )
        return _run(server, port, _checked_conditional(dispatch), options)


@overload
async def serve(
    handler: PlainHandler,
    port: int | None = None,
    *,
    dispatch: ListenDispatch | None = ...,
    ssl_context: None = None,
    handshake_timeout: float = ...,
    https_compatible: bool = ...,
    max_connections: int | None = ...,
    grace: float = ...,
    on_handler_error: OnHandlerError = ...,
    task_status: trio.TaskStatus[Server] = ...,
    **options: Unpack[ListeningOptions],
) -> None: ...


@overload
async def serve(
    handler: TLSHandler,
    port: int | None = None,
    *,
    dispatch: ListenDispatch | None = ...,
    ssl_context: ssl.SSLContext,
    handshake_timeout: float = ...,
    https_compatible: bool = ...,
    max_connections: int | None = ...,
    grace: float = ...,
    on_handler_error: OnHandlerError = ...,
    task_status: trio.TaskStatus[Server] = ...,
    **options: Unpack[ListeningOptions],
) -> None: ...


@overload
async def serve(
    handler: EitherHandler,
    port: int | None = None,
    *,
    dispatch: ListenDispatch | None = ...,
    ssl_context: ssl.SSLContext | None,
    handshake_timeout: float = ...,
    https_compatible: bool = ...,
    max_connections: int | None = ...,
    grace: float = ...,
    on_handler_error: OnHandlerError = ...,
    task_status: trio.TaskStatus[Server] = ...,
    **options: Unpack[ListeningOptions],
) -> None: ...


async def serve(  # noqa: ASYNC128 - whom it hands the status to calls it
    handler: Callable[[Any], Awaitable[object]],
    port: int | None = None,
    *,
    dispatch: ListenDispatch | None = None,
    ssl_context: ssl.SSLContext | None = None,
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
    https_compatible: bool = False,
    max_connections: int | None = None,
    grace: float = DEFAULT_GRACE,
    on_handler_error: OnHandlerError = "report",
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ListeningOptions],
) -> None:
    """Listen, and run ``handler(connection)`` in a task of its own for each connection.

    Args:
      handler: An async function. It is given a `Connection`, or with ``ssl_context`` a
        ``trio.SSLStream`` over one that has shaken hands. Whether there is a context may be
        known later: then the handler takes either, a ``trio.abc.Stream`` for one.
      port: As for `open_listening_socket`, and so are all ``options`` (``host``, ``path``,
        ``sockets``, ``backlog``, ``inspect``, ``observers``, …).
      dispatch: The callbacks of conditional accept, ``inspect`` and ``abort``, and ``failed``;
        with ``inspect`` alone, ``inspect=`` is shorter.
      ssl_context: Speak TLS, with a server's context that has a certificate. The handshake is
        done before the handler is started; its failure is a count in ``statistics()``, not a
        crash.
      handshake_timeout: Seconds on Trio's clock for that.
      https_compatible: Take an end of the connection for the end of what the client says, and
        end without a good-bye, as HTTPS does; see `trio.SSLStream`. Only for protocols that say
        themselves how long a message is, as HTTP does: without close_notify, whoever is between
        the two can cut a message short (RFC 8446 6.1).
      max_connections: How many connections may be open at once. The permit is taken before
        accept and given back when the handler has ended; further peers wait in the
        kernel's backlog. What is being inspected after the handshake has one, too.
        A drain serves those who wait beyond it: see `Server.drain`.
      grace: Seconds that a drain gives open connections, unless it says otherwise.
      on_handler_error: A handler that crashes ends its own connection, with a reset, and
        is reported to the observers. With ``"raise"`` the server then ends with its
        exception, as a nursery would.
      task_status: For ``nursery.start(trio_wsk.serve, ...)``, which returns the `Server`
        when it listens.

    Returns when the server has been drained or aborted; cancelling it aborts.

    Raises:
      InvalidParameterError, BindError, OSError: as for `open_listening_socket`.

    A handler has a context of its own, a fresh copy of the one that the server was opened in. Its
    task may be used again for a later connection, unless something is left in it, or somebody still
    refers to it: a lock that the handler has not released is broken, as by the end of any task.

    Resource handling: when the handler returns, its connection is closed. That its peer is still
    sending doesn't cost that the answer: FIN is sent, and what comes is thrown away until the
    peer has finished or a bounded time has passed. No task and no permit are held meanwhile. A
    handler that gives its connection to a child process, or to another owner, first takes the
    descriptor out: ``connection.socket.detach()``.

    Error handling: that a connection's own peer goes away, or breaks TLS, is no crash, also
    inside an exception group. Cancellation, `KeyboardInterrupt` and `SystemExit` go on; a
    cancellation out of a scope that the handler has left open is a crash.
    """
    with _ours(options):
        check_options("serve", options)
        check_async_function("handler", handler)
        server = _checked_server(
            handler,
            max_connections=max_connections,
            ssl_context=ssl_context,
            handshake_timeout=handshake_timeout,
            https_compatible=https_compatible,
            grace=grace,
            on_handler_error=on_handler_error,
        )
        dispatch = _checked_conditional(dispatch)
    await _serve_until_over(server, port, dispatch, options, task_status)


async def serve_events(  # noqa: ASYNC128, D417 - as for `serve`
    dispatch: ListenDispatch,
    port: int | None = None,
    *,
    max_connections: int | None = None,
    grace: float = DEFAULT_GRACE,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ListeningOptions],
) -> None:
    """Listen, and have callbacks called: no task per connection.

    All events are enabled: ``dispatch.accept`` is called for each connection, and the
    callbacks of the `ConnectionDispatch` that it returns for what happens on it.

    Args:
      dispatch: The callbacks. ``accept`` is needed; ``drain`` is called for each connection
        when the server drains.
      port, max_connections, grace, task_status, options: as for `serve`. A permit is given
        back when its connection has been closed.

    Returns when the server has been drained or aborted; cancelling it aborts.

    Raises:
      InvalidParameterError, BindError, OSError: as for `open_listening_socket`.
    """
    with _ours(options):
        check_options("serve_events", options)
        server = _checked_events_server(dispatch, max_connections=max_connections, grace=grace)
    await _serve_until_over(server, port, dispatch, options, task_status)


@trio.lowlevel.enable_ki_protection
async def _serve_until_over(
    server: Server,
    port: int | None,
    dispatch: ListenDispatch | None,
    options: ListeningOptions,
    task_status: trio.TaskStatus[Server],
) -> None:
    with _ours(options):
        if not callable(getattr(task_status, "started", None)):
            raise InvalidParameterError(
                "task_status is given by Trio: write await nursery.start(trio_wsk.serve, handler,"
                f" port), or leave it out, not {task_status!r}"
            )
    async with _run(server, port, dispatch, options):
        task_status.started(server)
        await server._over.wait()
