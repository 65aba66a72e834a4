"""Opening a server: a task per connection (`serve`), or callbacks (`serve_events`)."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, overload

import trio

from trio_wsk._engine.callers import check_in_trio
from trio_wsk._engine.pump import Unwrapping
from trio_wsk._listening.dispatch import ListenDispatch
from trio_wsk._listening.opening import open_listening_socket
from trio_wsk._listening.options import check_options
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk.transports._choosing import closing_if_wrong

from .arguments import settings_for_either, settings_for_events, settings_for_handler
from .core import ServerCore
from .draining import finish
from .server import Server
from .signals import EndingSignals, check_main_thread

if sys.version_info < (3, 11):
    pass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from typing_extensions import Unpack

    from trio_wsk._connection.connection import Connection
    from trio_wsk._listening.options import EventServerOptions, ListeningOptions, ServerOptions

    from .arguments import Settings

__all__ = ["open_server", "ours", "run_server", "serve", "serve_events"]


@overload
def open_server(
    handler: Callable[[Connection], Awaitable[object]],
    port: int | None = None,
    **options: Unpack[ServerOptions],
) -> AbstractAsyncContextManager[Server]: ...


@overload
def open_server(
    handler: ListenDispatch, port: int | None = None, **options: Unpack[EventServerOptions]
) -> AbstractAsyncContextManager[Server]: ...


def open_server(
    handler: Callable[[Connection], Awaitable[object]] | ListenDispatch,
    port: int | None = None,
    **options: Unpack[ServerOptions],
) -> AbstractAsyncContextManager[Server]:
    """Serve for as long as the block lasts: `serve` as a block, or `serve_events` as one.

    Leaving the block normally drains the server with its ``grace``; leaving it by an
    exception, or cancelled, aborts it.

    Args:
      handler: An async function, as for `serve`; or a `ListenDispatch`, as for
        `serve_events`, which has no use for what belongs to handlers: ``dispatch`` and
        ``on_handler_error``.
      port: As for `open_listening_socket`.
      **options: As for `serve`.

    Returns:
      An async context manager that gives the `Server`.
    """
    with ours(options):
        check_options("open_server", options)
        settings = settings_for_either(handler, "open_server", **options)
        return run_server(settings, port)


async def serve(  # noqa: ASYNC128 - whom it hands the status to calls it
    handler: Callable[[Connection], Awaitable[object]],
    port: int | None = None,
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ServerOptions],
) -> None:
    """Listen, and run ``handler(connection)`` in a task of its own for each connection.

    Args:
      handler: An async function, which is given a `Connection`.
      port: As for `open_listening_socket`, and so are all options that are not below (``host``,
        ``path``, ``sockets``, ``backlog``, ``inspect``, ``observers``, …).
      dispatch: The callbacks of conditional accept, ``inspect`` and ``abort``, and ``failed``;
        with ``inspect`` alone, ``inspect=`` is shorter.
      ssl_context: Speak TLS, with a server's context that has a certificate. The connection is the
        same as without, and what is received and sent are plain octets: `Connection.tls` has what
        was agreed on, ``send_eof`` and every end but a reset say good-bye (close_notify) before
        FIN, and a peer that ends without one has broken the connection. The handshake is done
        before the handler is started; its failure is a count in ``statistics()``, not a crash.
      handshake_timeout: Seconds on Trio's clock for that; 30 by default.
      https_compatible: Take an end of the connection for the end of what the client says, and
        end without a good-bye, as HTTPS does. Only for protocols that say
        themselves how long a message is, as HTTP does: without close_notify, whoever is between
        the two can cut a message short (RFC 8446 6.1).
      max_connections: How many connections may be open at once; by default, and with None, as
        many as come. The permit is taken before accept and given back when the handler has
        ended; further peers wait in the kernel's backlog. What is being inspected after the
        handshake has one, too. A drain serves those who wait beyond it: see `Server.drain`.
      idle_timeout: Seconds on Trio's clock, for which nothing may pass on a connection, either way;
        by default there is no limit. Then it is ended in good order, as far as the peer lets that
        be: a handler that waits to receive hears of an end as if the peer had finished, and may
        still send. It is reset if the peer does not take what is being sent, and if it is still
        there when nothing has passed for as long again. The end comes up to a quarter of a second
        late; where the system can't tell when something has passed (Unix sockets), a second more.
      max_lifetime: Seconds on Trio's clock, for which a connection may be open; by default there is
        no limit. Then, or up to a tenth earlier, so that those who came together don't leave
        together, it is told as by a drain, but alone: `Connection.more` ends, and
        ``connection.draining`` is set. It is reset if it is still open ``grace`` later.
      grace: Seconds that a drain gives open connections, unless it says otherwise; 30 by
        default. ``max_lifetime`` gives as much.
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
    with ours(options):
        check_options("serve", options)
        settings = settings_for_handler(handler, **options)
    await _serve_until_over(settings, port, task_status)


async def serve_events(  # noqa: ASYNC128, D417 - as for `serve`
    dispatch: ListenDispatch,
    port: int | None = None,
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[EventServerOptions],
) -> None:
    """Listen, and have callbacks called: no task per connection.

    All events are enabled: ``dispatch.accept`` is called for each connection, and the
    callbacks of the `ConnectionDispatch` that it returns for what happens on it.

    Args:
      dispatch: The callbacks. ``accept`` is needed; ``drain`` is called for each connection
        when the server drains.
      port: As for `serve`, and so are all options but those of handlers: ``dispatch`` and
        ``on_handler_error``. A permit of ``max_connections`` is given back when its connection has
        been closed. With ``idle_timeout``, a connection on which nothing passes is ended as by
        `Connection.disconnect`, or reset if the peer does not take what is queued. With
        ``max_lifetime``, ``dispatch.drain`` is called for each that has had it.
      ssl_context: As for `serve`. A connection is accepted when it has shaken hands, and an end
        without a good-bye is an abortive one.
      handshake_timeout: As for `serve`.
      https_compatible: As for `serve`.

    Returns when the server has been drained or aborted; cancelling it aborts.

    Raises:
      InvalidParameterError, BindError, OSError: as for `open_listening_socket`.
    """
    with ours(options):
        check_options("serve_events", options)
        settings = settings_for_events(dispatch, **options)
    await _serve_until_over(settings, port, task_status)


@trio.lowlevel.enable_ki_protection
async def _serve_until_over(
    settings: Settings, port: int | None, task_status: trio.TaskStatus[Server]
) -> None:
    with ours(settings.listening):
        check_task_status(task_status)
    async with run_server(settings, port) as server:
        task_status.started(server)
        await server._core.over.wait()


def check_task_status(task_status: object) -> None:
    """Refuse what can't be told that the server is there.

    Raises:
      InvalidParameterError: it is not Trio's. (The caller's.)
    """
    if not callable(getattr(task_status, "started", None)):
        raise InvalidParameterError(
            "task_status is given by Trio: write await nursery.start(trio_wsk.serve, handler,"
            f" port), or leave it out, not {task_status!r}"
        )


def ours(options: ListeningOptions) -> AbstractContextManager[None]:
    """Close what is given to be listened at if something turns out to be wrong."""
    return closing_if_wrong(options.get("sockets"), options.get("transport"))


@asynccontextmanager
@trio.lowlevel.enable_ki_protection  # as for `open_listening_socket`
async def run_server(
    settings: Settings, port: int | None, ending: EndingSignals | None = None
) -> AsyncIterator[Server]:
    """Run a server for as long as the block lasts; leaving it normally drains.

    Args:
      settings: What it is opened with.
      port: Where, if that is no other option.
      ending: Who hears the signals already; if nobody does, they are heard for as long as the
        server listens.
    """
    with ours(settings.listening):
        check_in_trio("a server")
        if settings.signals:
            check_main_thread("a server with signals=")
        opening = open_listening_socket(port, dispatch=settings.dispatch, **settings.listening)
    with Unwrapping():
        async with trio.open_nursery() as outer, opening as listening:
            handlers = await outer.start(_hold_nursery)
            core = ServerCore(settings, listening, handlers)
            core.start()
            hearing = EndingSignals(settings.signals) if ending is None else nullcontext(ending)
            try:
                with trio.CancelScope() as body, hearing as heard:
                    heard.tell(
                        partial(outer.start_soon, _drain_and_leave, core, body),
                        partial(outer.start_soon, _abort, core),
                    )
                    yield Server(core)
                    if not core.over.is_set():
                        await finish(core)
            finally:
                core.abort()


async def _drain_and_leave(  # noqa: ASYNC910 - a task of its own
    core: ServerCore, body: trio.CancelScope
) -> None:
    """For who was told to by a signal: drain, and then leave the server's block."""
    if not core.over.is_set():
        await finish(core)
    body.cancel(reason="the server has ended, as a signal has asked for")


async def _abort(core: ServerCore) -> None:  # noqa: ASYNC910 - a task of its own
    """For who was told to by a second signal."""
    core.abort()


@trio.lowlevel.enable_ki_protection  # it does nothing that could be interrupted
async def _hold_nursery(  # noqa: ASYNC910 - it sleeps until it is cancelled
    *, task_status: trio.TaskStatus[trio.Nursery]
) -> None:
    """Keep a nursery open for handlers, with a cancel scope of their own."""
    with Unwrapping():  # Ctrl-C in a handler is a KeyboardInterrupt, and not a group in a group
        async with trio.open_nursery(strict_exception_groups=True) as handlers:
            task_status.started(handlers)
            await trio.sleep_forever()
