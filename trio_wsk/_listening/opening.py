"""`open_listening_socket`: a listening socket's block, and whose errors come out of it."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._engine.callers import check_in_trio
from trio_wsk._engine.pump import unwrapped
from trio_wsk._inspection.conditions import DEFAULT_MAX_PENDING, conditions_of
from trio_wsk._vocabulary.arguments import checked_count
from trio_wsk._vocabulary.errors import ForcedClosedError
from trio_wsk._vocabulary.verdict import InspectPoint
from trio_wsk.observers import checked_observers
from trio_wsk.transports._choosing import transport_at

from .arguments import checked_dispatch, checked_inspector, checked_policy
from .listening import ListeningSocket
from .stages import Plan

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    import os
    import socket as stdlib_socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from trio_wsk._inspection.request import ConnectionRequest
    from trio_wsk._intake.intake import NoDescriptorsPolicy
    from trio_wsk._vocabulary.verdict import InspectAction, Overflow, OverflowPolicy, Verdict
    from trio_wsk.observers import Observer
    from trio_wsk.transports._contract import Transport

    from .dispatch import ListenDispatch

    Answer = InspectAction | Verdict

__all__ = ["open_listening_socket"]

DEFAULT_MAX_PARKED: Final = 128
"""How many connections may wait here for somebody to take them. Only what one batch reads
ahead gets parked as a rule, and each holds a descriptor."""


@asynccontextmanager
@trio.lowlevel.enable_ki_protection  # or Ctrl-C would leave what is bound and not in the block yet
async def open_listening_socket(
    port: int | None = None,
    *,
    host: str | Sequence[str] | None = None,
    path: str | bytes | os.PathLike[str] | None = None,
    mode: int | None = None,
    sockets: Sequence[stdlib_socket.socket | trio.socket.SocketType | int] | None = None,
    transport: Transport | None = None,
    backlog: int | None = None,
    reuse_port: bool = False,
    socket_options: Sequence[tuple[int, int, int | bytes]] = (),
    context: object = None,
    dispatch: ListenDispatch | None = None,
    inspect: Callable[[ConnectionRequest], Answer | Awaitable[Answer]] | None = None,
    inspect_point: InspectPoint = InspectPoint.AFTER_HANDSHAKE,
    inspect_timeout: float | None = None,
    max_pending: int = DEFAULT_MAX_PENDING,
    max_parked: int = DEFAULT_MAX_PARKED,
    overflow: Overflow | OverflowPolicy = "wait",
    abort_on_half_close: bool | None = None,
    on_no_descriptors: NoDescriptorsPolicy = "backoff",
    observers: Iterable[Observer] = (),
) -> AsyncIterator[ListeningSocket]:
    r"""Open a socket that listens for as long as the block lasts.

    Leaving the block closes it, resets the connections that have events, and waits for
    the block's own tasks. Connections that were awaited are whoever's took them, and
    outlive it.

    Args:
      port: The TCP port, 0 to 65535; 0 has the kernel choose one, the same for all hosts
        and both families.
      host: A name or an address, or several; None for every address of the machine.
      path: Instead of a port, a Unix socket's path; ``"\0name"`` is an abstract one. What
        a dead process left there is replaced; a socket that somebody listens on is not.
      mode: The permissions of ``path``, such as ``0o660``.
      sockets: Instead of a port, sockets or descriptors that are bound already, such as
        those of `listen_fds`. They belong to the listening socket from the moment that the
        block is entered, or `serve` is called: it closes them, also if it can't be opened,
        whichever argument is wrong.
      transport: Instead of a port, anyone's `Transport`; its owner is the listening socket,
        as for ``sockets``.
      backlog: How many connections the kernel keeps for us; the largest it allows by default.
      reuse_port: Share the port with other processes that say so, too (SO_REUSEPORT).
      socket_options: Triples for ``setsockopt``, set before bind.
      context: Becomes ``listening.context``.
      dispatch: The callbacks of the listening socket's events.
      inspect: Called first for each connection request, an async function in a task of its
        own: who is to be let through? Short for ``dispatch.inspect``.
      inspect_point: Whether it is asked before the handshake is answered, which its peers
        wait for, or after. Never another one than this.
      inspect_timeout: Seconds on Trio's clock from a request's arrival to its verdict, pended
        or not; then it is aborted. By default 10 after the handshake and 2 before it.
      max_pending: How many requests may wait for their verdict at once.
      max_parked: How many accepted connections may wait for somebody to take them; 0 never
        takes one from the kernel that nobody wants: then no more are inspected at once than
        would be taken, either, unless that is before the handshake.
      overflow: What happens to requests beyond ``max_pending`` and, with an inspector, beyond
        ``max_parked``: ``"wait"``, ``"reset"`` or ``"evict"``, or an `Overflow` that chooses
        for each.
      abort_on_half_close: Whether a peer that finishes sending (FIN) before it was let through
        counts as gone. None: if it had sent nothing. True: always; False: never.
      on_no_descriptors: When there is no descriptor or no memory for another connection:
        ``"backoff"`` waits, longer each time, while peers wait in the backlog;
        ``"shed"`` resets them with a descriptor set aside for that; ``"raise"`` has the
        listening socket fail.
      observers: Called with what happens; see `trio_wsk.observers`. A
        `trio_wsk.observers.LoggingObserver` among them replaces the default one.

    Raises:
      InvalidParameterError: an argument is wrong; the message shows a right call.
      InspectPointError: requests can't be inspected at that point; the message says why.
      BindError: the address can't be had.
      OSError: out of the block, if the listening socket has failed meanwhile. The body is
        cancelled then.

    The body's exceptions come out as they are, not in a group, unless the listening
    socket has failed as well.
    """
    chosen = transport_at(
        port=port,
        path=path,
        sockets=sockets,
        transport=transport,
        tcp={
            "host": host,
            "reuse_port": reuse_port,
            "socket_options": socket_options,
        },
        mode=mode,
        backlog=backlog,
        inspect_point=inspect_point,
    )
    try:
        check_in_trio("open_listening_socket()")
        dispatch = checked_dispatch(dispatch)
        plan = Plan(
            transport=chosen,
            dispatch=dispatch,
            context=context,
            max_parked=checked_count("max_parked", max_parked, least=0),
            on_no_descriptors=checked_policy(on_no_descriptors),
            observers=checked_observers(observers),
            conditions=conditions_of(
                inspect=checked_inspector(dispatch, inspect),
                abort=dispatch.abort,
                inspect_point=inspect_point,
                inspect_timeout=inspect_timeout,
                max_pending=max_pending,
                overflow=overflow,
                abort_on_half_close=abort_on_half_close,
            ),
        )
        # Without an inspector, too: a transport may have no other point than one before delivery.
        chosen.inspect_at(inspect_point)
        await chosen.bind()
    except BaseException:
        chosen.close()
        raise
    async with _running(plan) as listening:
        yield listening


@asynccontextmanager
async def _running(plan: Plan) -> AsyncIterator[ListeningSocket]:
    """Run a listening socket's block: its tasks, its end, and whose errors come out."""
    error: BaseException | None = None
    listening: ListeningSocket | None = None
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            try:
                listening = ListeningSocket(plan, nursery)
                listening._stages.open()
                yield listening
            finally:
                _close(plan, listening)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error = unwrapped(group)
    finally:
        _close(plan, listening)
        if listening is not None:
            listening._block.finish()
    failure = None if listening is None else listening._stages.failure
    try:
        raise_both(failure, error)
    finally:
        del error  # or it would hold this frame, which holds it


def _close(plan: Plan, listening: ListeningSocket | None) -> None:
    """Close what has been opened: there is no listening socket if the inspector can't have one."""
    if listening is None:
        plan.transport.close()
    else:
        listening._stages.close()


def raise_both(failure: BaseException | None, error: BaseException | None) -> None:
    """Raise the listening socket's failure, the body's error, or both as a group.

    That the body found the socket failed, too, is no news.
    """
    try:
        if failure is not None:
            error = _without_news_of(failure, error)
        if failure is not None and error is not None:
            raise BaseExceptionGroup(
                "the listening socket failed, and the body too", [failure, error]
            )
        error = failure or error
        if error is not None:
            raise error
    finally:
        del failure, error


def _without_news_of(failure: BaseException, error: BaseException | None) -> BaseException | None:
    """Take out of a body's error what only says that the listening socket has failed."""

    def says_so(each: BaseException) -> bool:
        return isinstance(each, ForcedClosedError) and each.__cause__ is failure

    if isinstance(error, BaseExceptionGroup):
        return error.split(says_so)[1]
    return None if error is None or says_so(error) else error
