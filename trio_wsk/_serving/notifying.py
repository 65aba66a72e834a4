"""What a server tells the service manager that has started its process: ``Type=notify``.

That it serves, that it stops, in a line how it goes, and as often as the manager's watchdog wants
to hear, that the Trio run still goes round: this is a task of it, and tells nothing while another
one keeps it from its turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._engine.callers import check_caller
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk.transports._service_manager import ServiceManager

from .server import Server

if TYPE_CHECKING:
    from .core import ServerCore

__all__ = ["PERIOD", "notify_service_manager", "tell_manager"]

PERIOD: Final = 5.0
"""Seconds after which a line that has changed is told: often enough for people."""


async def notify_service_manager(server: Server) -> None:
    """Tell systemd, or whoever else has started this process with ``Type=notify``, of a server.

    ::

        async with trio_wsk.open_server(handler, 7007, signals=[signal.SIGTERM]) as server:
            await trio_wsk.notify_service_manager(server)

    Tells at once that the service is ready (``READY=1``), and when the server drains, that it
    stops (``STOPPING=1``). Meanwhile ``systemctl status`` shows where it listens and how many
    connections are open, as of the last five seconds. If the manager has a watchdog
    (``WATCHDOG_USEC``), it is told twice in that time that the Trio run goes round: a handler
    that blocks it has the service restarted.

    Without a manager (``NOTIFY_SOCKET``) nothing is told, and this waits in the same way. One that
    goes away is told nothing more. `run` does this by itself.

    Args:
      server: The server.

    Returns when the server has been drained or aborted.

    Raises:
      InvalidParameterError: that is no server. (Yours.) Or a variable of the manager's makes no
        sense. (The manager's.)
      RuntimeError: called from outside the Trio run that the server is in. (Yours.)

    Always a checkpoint. If cancelled, nothing more is told.

    Source: sd_notify(3), sd_watchdog_enabled(3); systemd.service(5).
    """
    given: object = server  # by a caller without a type checker, perhaps
    if not isinstance(given, Server):
        raise InvalidParameterError(
            "server is a Server: write async with trio_wsk.open_server(...) as server, not"
            f" {server!r}"
        )
    check_caller(server._core.block.home, "notify_service_manager")
    await tell_manager(ServiceManager.found(), server)


async def tell_manager(manager: ServiceManager | None, server: Server) -> None:
    """Tell a manager of a server, if there is one, until the server has ended."""
    core = server._core
    if manager is None:
        await core.over.wait()
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tell, manager, core)
        await core.over.wait()
        nursery.cancel_scope.cancel(reason="the server has ended")


async def _tell(manager: ServiceManager, core: ServerCore) -> None:
    draining = core.block.between.draining
    await _tell_until(draining, manager, core, "READY=1")
    await _tell_until(core.over, manager, core, "STOPPING=1")


async def _tell_until(
    event: trio.Event, manager: ServiceManager, core: ServerCore, first: str
) -> None:
    """Tell one thing first, and then that all is well, and how it goes."""
    told = _status_of(core)
    await manager.tell(first, told)
    while not event.is_set():
        with trio.move_on_after(period_of(manager)):
            await event.wait()
            return
        lines = ["WATCHDOG=1"] if manager.watchdog is not None else []
        status = _status_of(core)
        if status != told:
            lines.append(status)
            told = status
        if lines:
            await manager.tell(*lines)


def period_of(manager: ServiceManager) -> float:
    """Return after how many seconds to tell a manager again: half of what its watchdog waits."""
    return PERIOD if manager.watchdog is None else min(manager.watchdog / 2, PERIOD)


def _status_of(core: ServerCore) -> str:
    where = ", ".join(map(str, core.listening.local_addresses))
    what = "draining" if core.block.between.draining.is_set() else f"listening on {where}"
    open_connections = core.connections.open
    return f"STATUS={what}; {open_connections} connection{'s' * (open_connections != 1)} open"
