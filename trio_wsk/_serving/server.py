"""`Server`: what users see of a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_wsk._engine.callers import check_caller

from .arguments import checked_grace
from .draining import drain

if TYPE_CHECKING:
    from collections.abc import Collection

    from trio_wsk._connection.connection import Connection
    from trio_wsk._listening.listening import ListeningSocket
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.statistics import DrainReport, ServerStatistics

    from .core import ServerCore

__all__ = ["Server"]


class Server:
    """A running server, made by `open_server`, `serve` and `serve_events`."""

    def __init__(self, core: ServerCore) -> None:
        """Made by `open_server`, never by you."""
        self.listening: Final[ListeningSocket] = core.listening
        """The listening socket: pause it, refuse with it, look at its statistics."""
        self._core = core

    def __repr__(self) -> str:
        where = ", ".join(str(address) for address in self.local_addresses)
        return f"<Server on {where}, {self._core.connections.open} open connections>"

    @property
    def local_addresses(self) -> list[Address]:
        """Where it listens; with the port that the kernel chose, if it was asked to."""
        return self.listening.local_addresses

    @property
    def connections(self) -> Collection[Connection]:
        """The connections that are open now: a live view, which costs nothing until one looks.

        As many as ``statistics().open_connections``. Each says who and how it is: by
        ``remote_address``, ``opened_at``, ``idle_seconds``, ``state``, and counts of octets. Who
        goes through them may await meanwhile, and is given none that has ended. Those that linger
        after their handlers have returned are not among them.
        """
        return self._core.connections.view

    def statistics(self) -> ServerStatistics:
        """Return what was counted since the server was opened, and what is true now."""
        return self._core.statistics()

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
        core = self._core
        check_caller(core.block.home, "server.drain")
        return await drain(core, core.settings.grace if grace is None else checked_grace(grace))

    def abort(self) -> None:
        """End at once: close the listening socket, cancel handlers, reset connections.

        Every connection is reset when this returns, whoever still holds it: a handler that a
        thread or a shield keeps from ending finds it broken. Leaving the server's block, or the
        return of `serve`, waits for the handlers. What lingers after a handler is closed, too.
        Idempotent.

        Raises:
          RuntimeError: called from outside the Trio run.
        """
        check_caller(self._core.block.home, "server.abort")
        self._core.abort()
