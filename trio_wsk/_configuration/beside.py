"""What a server of one process has beside it, as far as its configuration says so."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_wsk._engine.pump import unwrapped
from trio_wsk.control import Control, serve_control
from trio_wsk.inspectors import Penalties, Rules
from trio_wsk.inspectors._rules import Chain

from .options import host_and_port
from .page import page_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from trio_wsk._serving.server import Server
    from trio_wsk.metrics import Collector

    from .configuration import Configuration
    from .ready import Ready

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["beside", "collector_of", "control_of", "opened"]

LISTENER = "server"
"""What the server is called, that has no other name."""


def control_of(ready: Ready) -> Control:
    """Make a control of what there is beside the server: the penalties among its rules."""
    control = Control()
    for name, penalties in _penalties(ready.options.get("inspect")):
        control.add_penalties(name, penalties)
    return control


def _penalties(inspector: object) -> Iterator[tuple[str, Penalties]]:
    """Yield the penalties among the rules of an inspector, each with a name of its own."""
    found = [each for each in _each(inspector) if isinstance(each, Penalties)]
    for number, penalties in enumerate(dict.fromkeys(found), 1):
        yield "penalties" if number == 1 else f"penalties-{number}", penalties


def _each(rule: object) -> Iterator[object]:
    yield rule
    for inner in rule.rules if isinstance(rule, Chain) else ():
        yield from _each(inner)


def collector_of(ready: Ready) -> Collector | None:
    """Register a collector with the process's registry, if metrics are wanted."""
    if ready.durations is None:
        return None
    from prometheus_client import REGISTRY  # noqa: PLC0415 - an extra

    from trio_wsk.metrics import Collector  # noqa: PLC0415 - as above

    collector = Collector()
    REGISTRY.register(collector)
    return collector


def opened(control: Control, collector: Collector | None, ready: Ready, server: Server) -> None:
    """Have a server steered, and its rules shown, where it has any; and what it counts."""
    inspector = ready.options.get("inspect")
    control.add(LISTENER, server, inspector if isinstance(inspector, Rules) else None)
    if collector is not None:
        collector.add(LISTENER, server, ready.durations)


async def _serve_metrics(  # noqa: ASYNC128 - whom it hands the status to calls it
    collector: Collector, address: str, *, task_status: trio.TaskStatus[Server]
) -> None:
    from trio_wsk.metrics import serve_metrics  # noqa: PLC0415 - as above

    host, port = host_and_port(address)
    await serve_metrics(port, host=host, unready=collector.unready, task_status=task_status)


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
    """
    error: BaseException | None = None
    page = page_of(configuration)
    try:
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
    except BaseExceptionGroup as group:
        error = unwrapped(group)
    try:
        if error is not None:
            raise error
    finally:
        del error
