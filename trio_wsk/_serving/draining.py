"""The drain: the way of a server to an orderly end, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_wsk._engine.callers import runs_in
from trio_wsk._intake.intake import BATCH
from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.errors import (
    InvalidDeviceStateError,
    SocketBusyError,
    SocketClosedError,
    WskError,
)
from trio_wsk._vocabulary.statistics import DrainReport

if TYPE_CHECKING:
    from .core import ServerCore

__all__ = ["drain", "finish"]


async def drain(server: ServerCore, grace: float) -> DrainReport:
    """Drain a server, once; see `Server.drain`."""
    try:
        _check_may_drain(server)
    except WskError:
        # Who tries again after each error must not stop the run.
        await trio.lowlevel.checkpoint()  # noqa: ASYNC120 - as it says
        raise
    server.is_draining = True
    try:
        return await _go_through(server, grace)
    finally:
        server.end()


async def finish(server: ServerCore) -> None:
    """Drain a server, or wait until whoever drains it already has."""
    if server.is_draining:
        await server.over.wait()
    else:
        await drain(server, server.settings.grace)


def _check_may_drain(server: ServerCore) -> None:
    if runs_in(server.nursery) or server.admitting.is_called_from_within:
        raise InvalidDeviceStateError(
            "drain() would wait for the handler or the inspector that calls it; have a task"
            " outside of the server do it, in a nursery that was opened before the server:"
            " nursery.start_soon(server.drain)"
        )
    if server.over.is_set():
        raise SocketClosedError("drain() of a server that has ended: it was drained or aborted")
    if server.is_draining:
        raise SocketBusyError("drain() while another task drains this server; once is enough")


async def _go_through(server: ServerCore, grace: float) -> DrainReport:
    """Go through the steps; those that wait share one deadline."""
    block, listening, connections = server.block, server.listening, server.connections
    served_before = connections.served
    deadline = trio.current_time() + grace

    # Everybody is told: tasks, observers, callbacks. Who is taken later is told then.
    block.between.drain()
    block.tell(records.DrainStarted, open_connections=connections.open, grace=grace)
    connections.tell_drain()

    # Who waits already is taken, or has its verdict; then nobody listens any more.
    with trio.move_on_at(deadline):
        more_permits = _permits_beyond(server.settings.max_connections)
        await server.admitting.stop_admitting(more_permits=more_permits)
        await listening.aclose()

        # Who is open finishes, and who still sends after its handler has returned.
        await connections.wait_none_open()
        if block.farewells is not None:
            await block.farewells.wait_none_sends()

    # The grace has run out, or nobody is left: what is left is closed, cancelled, reset.
    server.admitting.close()
    server.reset_all()
    await listening.aclose()
    await connections.wait_none_open()

    report = DrainReport(
        finished=connections.served - served_before - connections.were_reset,
        reset=connections.were_reset,
    )
    block.tell(records.DrainFinished, finished=report.finished, reset=report.reset)
    return report


def _permits_beyond(max_connections: float) -> float:
    """Say how many connections a drain may have open beyond the limit.

    Those who wait in the queue when it begins would otherwise depend on those who are open, and
    who may stay for the whole grace. As many again are no surprise to a machine; and small limits
    get a batch, so that one who stays doesn't keep all others from their turn.
    """
    return max(max_connections, BATCH)
