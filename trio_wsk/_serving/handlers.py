"""The tasks of a server's handlers, one for each connection, and whose fault an error of theirs is.

A handler's crash is its connection's end, and is reported. That its own peer has gone is no
crash. Cancellation, Ctrl-C and their like go on.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import trio

from trio_wsk._connection import control
from trio_wsk._connection.faults import has_finished, is_cancelled, split_error, without_peers_end
from trio_wsk._engine.reused_tasks import ReusedTasks, cancel_status, forget_first_frame
from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.end_reason import EndReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._connection.block import Block
    from trio_wsk._connection.connection import Connection

    from .arguments import Handler
    from .connections import ServedConnections

__all__ = ["Handlers", "name_of"]


class Handlers(ReusedTasks["Connection"]):
    """The tasks of one server's handlers.

    Args:
      handler: What each connection is given to.
      name: What the tasks are called.
      nursery: Where they run.
      block: The listening block that their connections live in.
      connections: The account of the server's connections.
      abort: Ends the server at once.
      raises: Whether a crash ends the server with its error.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        name: str,
        nursery: trio.Nursery,
        block: Block,
        connections: ServedConnections,
        abort: Callable[[], None],
        raises: bool,
    ) -> None:
        super().__init__(nursery.start_soon, block.context, name)
        self.failures: int = 0
        """How many have crashed."""
        self.peers_left: int = 0
        """How many have ended because their peers went away."""
        self._handler = handler
        self._scope = nursery.cancel_scope
        self._block = block
        self._connections = connections
        self._abort_server = abort
        self._raises = raises

    runs_callbacks = False
    """See `Taker`: a handler's task is started, and runs later."""

    def take(self, connection: Connection) -> bool:
        """Have a connection handled."""
        self._connections.opened(connection)
        self.have_handled(connection)
        return True

    def have_handled(self, connection: Connection) -> None:
        """Have a connection handled that is in the account already."""
        try:
            self.start(connection)
        except RuntimeError:  # a handler's error is ending the server at this moment
            connection.abort()
            self._connections.ended(connection)

    # One coroutine for all of it: each more weighs on every connection that is open.
    async def _run(self, connection: Connection) -> None:  # noqa: ASYNC910 - a task of its own
        """Run one handler after the other, and do whatever comes of each."""
        task = trio.lowlevel.current_task()
        status = cancel_status(task)
        self._begin()
        while True:
            try:
                await self._handler(connection)
                if control.must_wait_to_part(connection):
                    await control.wait_to_part(connection)
                control.part(connection)
            except BaseException as error:  # noqa: BLE001 - parted into what is reported and what goes on
                forget_first_frame(error)
                left_open = cancel_status(task) is not status
                self._raised(connection, error, left_open=left_open)
            finally:
                control.end(connection, EndReason.ABORTED)
                self._connections.ended(connection)
            if not self._may_wait(status):
                break
            del connection  # a task that waits keeps none
            connection = await self._next()

    def _raised(self, connection: Connection, error: BaseException, *, left_open: bool) -> None:
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
            control.end(connection, EndReason.FAILED, crash)
            self._report(connection, crash)
            if self._raises:
                rest = crash if rest is None else error
        else:
            is_idle = rest is None and control.is_over_idle(connection)
            if has_finished(connection, error) or is_idle:
                control.part(connection)  # it has its answers, and may still be reading them
            else:
                control.end(
                    connection, EndReason.SERVER_ENDED if rest is not None else EndReason.ABORTED
                )
            is_ours = self._connections.have_been_reset or control.is_ended_by_server(connection)
            if rest is None and not is_ours:
                self._peer_left(connection)
        try:
            if rest is not None:
                self._abort_server()  # the error ends the server, which other handlers may hold up
                raise rest
        finally:
            del error, crash, rest  # or they would hold this frame, which holds them

    def _report(self, connection: Connection, crash: Exception) -> None:
        self.failures += 1
        self._block.tell(
            records.HandlerFailed, error=crash, remote_address=connection.remote_address
        )

    def _peer_left(self, connection: Connection) -> None:
        self.peers_left += 1
        self._block.tell(records.PeerLeft, remote_address=connection.remote_address)

    def _why_stray(self, *, left_open: bool) -> str | None:
        """Say why a cancellation that a handler lets out is nobody's; None if it is somebody's.

        Nobody would catch it: it would close the server without a word.
        """
        if self._scope.cancel_called:
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


def name_of(handler: object) -> str:
    """Name a handler, for its tasks."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return getattr(handler, "__qualname__", repr(handler))
