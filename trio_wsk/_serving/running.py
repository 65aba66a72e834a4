"""`run`: the last line of a program that is a server, from its port to its exit status."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Final, overload

import trio

from trio_wsk._listening.options import check_options
from trio_wsk._vocabulary.errors import BindError, InspectPointError
from trio_wsk.observers import ConsoleObserver, LoggingObserver
from trio_wsk.transports._service_manager import ServiceManager

from .arguments import settings_for_either
from .notifying import tell_manager
from .opening import ours, run_server
from .signals import ENDING_SIGNALS, EndingSignals, check_main_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from typing_extensions import Unpack

    from trio_wsk._connection.connection import Connection
    from trio_wsk._listening.dispatch import ListenDispatch
    from trio_wsk._listening.options import EventServerOptions, ServerOptions
    from trio_wsk.observers import Observer

    from .arguments import Settings
    from .server import Server

__all__ = ["run", "run_beside"]

KILLED: Final = 128
"""What a shell adds to a signal's number, for the exit status of who was killed by it."""


@overload
def run(
    handler: Callable[[Connection], Awaitable[object]],
    port: int | None = None,
    **options: Unpack[ServerOptions],
) -> None: ...


@overload
def run(
    handler: ListenDispatch, port: int | None = None, **options: Unpack[EventServerOptions]
) -> None: ...


def run(
    handler: Callable[[Connection], Awaitable[object]] | ListenDispatch,
    port: int | None = None,
    **options: Unpack[ServerOptions],
) -> None:
    """Run Trio with a server in it, until a signal asks for its end: a program's last line.

    ::

        if __name__ == "__main__":
            trio_wsk.run(echo, 7007)

    The first signal drains the server: connections that are open are told, and given ``grace``
    seconds to finish. A second one aborts it. A third has the effect that it had before, and Ctrl-C
    then ends the process at once: for a handler that hangs.

    It says where it listens, that it drains, and what the drain did: to `logging`, as the other
    lines of a `trio_wsk.observers.LoggingObserver`, or to standard error if logging has not been
    set up. A service manager that has started it with ``Type=notify`` is told as by
    `notify_service_manager`.

    Args:
      handler: An async function, as for `serve`; or a `ListenDispatch`, as for `serve_events`.
      port: As for `open_listening_socket`.
      signals: What asks for the end; by default SIGINT, which is Ctrl-C, and SIGTERM (on Windows
        SIGBREAK, too). With ``()`` there is none, and Ctrl-C is Trio's `KeyboardInterrupt`.
      **options: As for `open_server`.

    Returns when the server has been drained, also if connections had to be reset when the grace had
    run out: the exit status is 0 then, since that is what was asked for.

    Raises:
      SystemExit: the address can't be had (`BindError`), or not inspected there
        (`InspectPointError`): with the message, so that the exit status is 1. Or the server
        was aborted by a second signal: with 128 and the signal's number, as if killed by it, so
        that what the program has still to clean up is cleaned up.
      RuntimeError: this is not the main thread, or in a Trio run already. (Yours.)
      InvalidParameterError, OSError: as for `open_listening_socket`.

    Who has a main of their own awaits `serve` in it, or opens a server by `open_server`, with
    ``signals=``.
    """
    run_beside(_nothing, handler, port, options)


def run_beside(
    beside: Callable[[], AbstractAsyncContextManager[Callable[[Server], object]]],
    handler: Callable[[Connection], Awaitable[object]] | ListenDispatch,
    port: int | None,
    options: ServerOptions,
) -> None:
    """Do as `run`, with something beside the server.

    Args:
      beside: Makes it: what is entered before the server listens, and left when that is over. It
        gives what is to be called with the server.
      handler: As for `run`.
      port: As for `run`.
      options: As for `run`.
    """
    options.setdefault("signals", ENDING_SIGNALS)
    with ours(options):
        check_options("run", options)
        options["observers"] = _with_console(options.get("observers", ()))
        settings = settings_for_either(handler, "run", **options)
        if trio.lowlevel.in_trio_run():
            raise RuntimeError(
                "run() starts Trio, which runs here already; write await trio_wsk.serve(...) in an"
                " async function"
            )
        if settings.signals:
            check_main_thread("run()")
    with _ctrl_c_kills(settings.signals), EndingSignals(settings.signals) as ending:
        try:
            trio.run(_serve_until_told, settings, port, ending, beside)
        except (BindError, InspectPointError) as error:
            raise SystemExit(str(error)) from error
    if len(ending.heard) > 1:
        raise SystemExit(KILLED + ending.heard[1])


def _nothing() -> AbstractAsyncContextManager[Callable[[Server], object]]:
    return nullcontext(lambda _: None)


async def _serve_until_told(
    settings: Settings,
    port: int | None,
    ending: EndingSignals,
    beside: Callable[[], AbstractAsyncContextManager[Callable[[Server], object]]],
) -> None:
    with trio.CancelScope() as opening:
        ending.tell(opening.cancel)  # as long as the server can't be told
        with ours(settings.listening):
            manager = ServiceManager.found()
        async with beside() as opened, run_server(settings, port, ending) as server:
            opened(server)
            await tell_manager(manager, server)


@contextmanager
def _ctrl_c_kills(signals: tuple[int, ...]) -> Iterator[None]:
    """Have Ctrl-C kill the process where it would raise KeyboardInterrupt.

    For where we don't hear it: without a traceback of ours or Trio's, and whatever hangs.
    """
    has_python_s = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if signal.SIGINT not in signals or not has_python_s:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _with_console(observers: Iterable[Observer]) -> Iterable[Observer]:
    """Add an observer that writes to standard error, if no log would get the same lines."""
    given: object = observers
    if not isinstance(given, Iterable):
        return observers  # as the listening socket will say
    told = list(observers)
    logging = [each for each in told if isinstance(each, LoggingObserver)] or [LoggingObserver()]
    if not any(each.logger.hasHandlers() for each in logging):
        told.append(ConsoleObserver())
    return told
