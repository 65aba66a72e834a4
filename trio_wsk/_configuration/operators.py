"""What operators look into and steer a server by, made of what it is to be served with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_wsk.control import Control
from trio_wsk.inspectors import Penalties, Rules
from trio_wsk.inspectors._rules import Chain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_wsk._serving.server import Server
    from trio_wsk.metrics import Collector

    from .ready import Ready

__all__ = ["collector_of", "control_of", "opened"]

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
