"""Connections that we open (WskSocketConnect): awaited, or with callbacks in a listening block.

One that is awaited has no block: it is its owner's alone. One that a block has asked for lives in
that block, as what its accept event takes does, with the same events, and without a task.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._engine.callers import check_in_trio
from trio_wsk._engine.irp import Irp, complete, fail
from trio_wsk._vocabulary.end_reason import EndReason
from trio_wsk._vocabulary.errors import OperationCancelledError, WskError
from trio_wsk.transports._connecting import HAPPY_EYEBALLS_DELAY, target_of

from . import control
from .block import Block
from .connection import Connection

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from trio_wsk.transports._connecting import Target

    from .dispatch import ConnectionDispatch

__all__ = ["connect", "queue_connect"]

_no_block: Final[trio.lowlevel.RunVar[Block]] = trio.lowlevel.RunVar("trio_wsk: no block")


@trio.lowlevel.enable_ki_protection
async def connect(
    host: str | None = None,
    port: int | None = None,
    *,
    path: str | bytes | os.PathLike[str] | None = None,
    local_address: str | None = None,
    happy_eyeballs_delay: float = HAPPY_EYEBALLS_DELAY,
    context: object = None,
) -> Connection:
    """Open a connection (WskSocketConnect, awaited).

    It is a `Connection` as an accepted one that was awaited is: yours, to be closed by you. It has
    no events, which need a listening block: `ListeningSocket.queue_connect` opens one that has.

    Args:
      host: A name or an address. All addresses of a name are tried, the next one beside the one
        before, until one answers (RFC 8305, Happy Eyeballs), as by `trio.open_tcp_stream`.
      port: 1 to 65535.
      path: The path of a Unix socket, in place of host and port.
      local_address: An address of this machine to connect from.
      happy_eyeballs_delay: Seconds that one address has before the next one is tried, too.
      context: Becomes ``connection.context``.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
      ConnectError: nobody is there, the name is unknown, there is no way, or the peer has gone
        again. It is an `OSError`, whose cause has the error of each attempt.

    Always a checkpoint. If cancelled, there is no connection.

    Source: PFN_WSK_SOCKET_CONNECT.
    """
    check_in_trio("connect()")
    target = target_of(
        host,
        port,
        path=path,
        local_address=local_address,
        happy_eyeballs_delay=happy_eyeballs_delay,
    )
    request = await target.connect()
    return Connection(request.accept(), request, _block_of_none(), context)


def _block_of_none() -> Block:
    """Return the block of those that have none: it has no pump, and has ended from the start."""
    try:
        return _no_block.get()
    except LookupError:
        block = Block(None, (), Counter())
        block.end()
        _no_block.set(block)
        return block


def queue_connect(
    block: Block,
    target: Target,
    *,
    dispatch: ConnectionDispatch | None,
    context: object,
    on_completion: Callable[[Irp[Connection]], object] | None,
) -> Irp[Connection]:
    """Have a block open a connection; see `ListeningSocket.queue_connect`."""
    attempt = _Attempt(block, target, dispatch)
    attempt.irp = Irp(
        home=block.home,
        withdraw=attempt.withdraw,
        finished=partial(control.post_completion, block),
        context=context,
        on_completion=on_completion,
    )
    block.start_task(attempt.run, name=f"trio_wsk: connecting to {target}")
    return attempt.irp


@final
class _Attempt:
    """One connection that a block opens: the task that connects, and its Irp."""

    irp: Irp[Connection]

    def __init__(self, block: Block, target: Target, dispatch: ConnectionDispatch | None) -> None:
        self._block = block
        self._target = target
        self._dispatch = dispatch
        self._scope = trio.CancelScope()

    def withdraw(self, _: Irp[Connection]) -> bool:
        """Stop connecting: what comes all the same is ended."""
        self._scope.cancel()
        return True

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:  # noqa: ASYNC910 - a task of its own
        """Connect, and complete the Irp."""
        try:
            with self._scope:
                request = await self._target.connect()
                self._opened(Connection(request.accept(), request, self._block, self.irp.context))
        except WskError as error:
            fail(self.irp, error)
        finally:
            fail(self.irp, OperationCancelledError("the listening block has ended"))

    def _opened(self, connection: Connection) -> None:
        if not complete(self.irp, connection):  # cancelled, when it was connected already
            control.end(connection, EndReason.ABORTED)
        elif self._dispatch is not None:
            # The completion routine is called first, and the events after it.
            control.hold_events(connection, self._dispatch)
