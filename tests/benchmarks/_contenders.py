"""Who takes part: one row per server, and one per mode."""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen
class Mode:
    """One kind of load, a row of ``MODES`` in ``load.c``."""

    name: str
    """As `load.c` and the contenders know it."""
    connections: int
    """How many are open at once."""
    unit: str
    """What is counted, in the plural."""
    description: str
    """For the heading of the table."""


@attrs.frozen
class Contender:
    """One server: a file of its own in ``contenders/``."""

    name: str
    """Of the file, without its suffix."""
    modes: tuple[str, ...] = ("echo1", "pingpong")
    """Those it can answer."""
    is_ours: bool = False
    """Ours must start: when it cannot, the run ends with an error."""
    is_c: bool = False
    """Compiled before it is run."""


MODES: Final = (
    # Both numbers are those of the tables the project's targets were taken from.
    Mode("echo1", 64, "connections", "connect, 1 byte, echo, close; 64 at once"),
    Mode("pingpong", 100, "round trips", "64 B back and forth on 100 open connections"),
)

BASELINE: Final = Contender("trio_serve_tcp")
"""What every ratio is taken against, in the same round; it always takes part."""

CONTENDERS: Final = (
    BASELINE,
    Contender("asyncio_streams"),
    Contender("uvloop_streams"),
    Contender("uvloop_protocol"),
    Contender("wsk_serve", is_ours=True),
    Contender("wsk_events", is_ours=True),
    Contender("wsk_events_disconnect", modes=("echo1",), is_ours=True),
    Contender("c_epoll", is_c=True),
)
