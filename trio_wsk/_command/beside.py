"""What a server of one process has beside it, as far as its configuration says so."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_wsk._configuration.operators import collector_of, control_of, opened
from trio_wsk._configuration.options import host_and_port
from trio_wsk._configuration.page import page_of
from trio_wsk._engine.pump import Unwrapping
from trio_wsk._supervisor.storing import take_stored
from trio_wsk.control import serve_control
from trio_wsk.transports._service_manager import ServiceManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio_wsk._configuration.configuration import Configuration
    from trio_wsk._configuration.ready import Ready
    from trio_wsk._serving.server import Server
    from trio_wsk.metrics import Collector

__all__ = ["beside"]


@asynccontextmanager
async def beside(
    configuration: Configuration, ready: Ready, say: Callable[[str], object]
) -> AsyncIterator[Callable[[Server], object]]:
    """Serve what stands beside a server, for as long as the block lasts.

    It gives what is to be called when there is the server.

    Args:
      configuration: What to serve there.
      ready: What the server is opened with.
      say: Is given what an operator should know.

    Raises:
      BindError: a place can't be had.
      ConfigurationError: see `page_of`.
      InvalidParameterError: the service manager contradicts itself.
    """
    page = page_of(configuration)
    await take_stored(ServiceManager.found(), None)  # of a supervisor, which this server is not
    with Unwrapping():
        control, collector = control_of(ready), collector_of(ready)
        async with trio.open_nursery() as nursery:
            if configuration.control is not None:
                await nursery.start(serve_control, control, configuration.control)
            if page is not None:
                where = {"host": page.host, "port": page.port}
                server = await nursery.start(page.serve, control, where)
                say(page.line(server.local_addresses[0]))
            if collector is not None and configuration.metrics is not None:
                await nursery.start(_serve_metrics, collector, configuration.metrics)
            yield partial(opened, control, collector, ready)
            nursery.cancel_scope.cancel(reason="the server is over")


async def _serve_metrics(  # noqa: ASYNC128 - whom it hands the status to calls it
    collector: Collector, address: str, *, task_status: trio.TaskStatus[Server]
) -> None:
    from trio_wsk.metrics import serve_metrics  # noqa: PLC0415 - as above

    host, port = host_and_port(address)
    await serve_metrics(port, host=host, unready=collector.unready, task_status=task_status)
