"""Who takes part: one row per server, and one per mode."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Final

import attrs

BASELINE: Final = "trio_serve_tcp"
"""What ratios are taken against, where a mode does not say otherwise."""


@attrs.frozen
class Mode:
    """One kind of load."""

    name: str
    """As the contenders know it, and `load.c` where a contender does not say otherwise."""
    connections: int
    """How many are open at once."""
    unit: str
    """What is counted, in the plural."""
    description: str
    """For the heading of the table."""
    baseline: str = BASELINE
    """What every ratio is taken against, in the same round; it always takes part."""
    is_apart: bool = False
    """Whether each server, with its client, has a network of its own."""
    counts_both: bool = False
    """Whether some servers do themselves what others leave to the client's processor; then
    the CPU of both sides is compared, too."""


@attrs.frozen
class Contender:
    """One server: a file in ``contenders/``, of its own unless it names another's."""

    name: str
    """Of the file, without its suffix."""
    modes: tuple[str, ...] = ("echo1", "pingpong")
    """Those it can answer."""
    is_ours: bool = False
    """Ours must start: when it cannot, the run ends with an error."""
    is_c: bool = False
    """Compiled before it is run."""
    program: str = attrs.field()
    """The file, where it serves more than one."""
    arguments: tuple[str, ...] = ()
    """What it is told besides the mode."""
    load: str | None = None
    """The row of ``MODES`` in ``load.c``, where it isn't the mode's name."""
    takes_a_gate: bool = False
    """Whether it has the kernel hold SYNs. Where that can't be had it is left out."""

    @program.default
    def _own_program(self) -> str:
        return self.name


def _inspected() -> Iterator[Contender]:
    """Make one for each way of inspecting requests."""
    ways = product(("after", "before"), ("sync", "async"), ("accept", "reject"))
    for point, form, verdict in ways:
        rejected = "reset" if point == "after" else "refused"
        yield Contender(
            f"{point}_{form}_{verdict}",
            modes=("handshake",),
            is_ours=True,
            program="wsk_inspected",
            arguments=(point, form, verdict),
            load="closed" if verdict == "accept" else rejected,
            takes_a_gate=point == "before",
        )


MODES: Final = (
    # Both numbers are those of the tables the project's targets were taken from.
    Mode("echo1", 64, "connections", "connect, 1 byte, echo, close; 64 at once"),
    Mode("pingpong", 100, "round trips", "64 B back and forth on 100 open connections"),
    Mode(
        "handshake",
        64,
        "connections",
        "connect, and be closed or turned away; inspected or not; 64 at once",
        baseline="plain",
        is_apart=True,
        counts_both=True,
    ),
)

CONTENDERS: Final = (
    Contender(BASELINE),
    Contender("asyncio_streams"),
    Contender("uvloop_streams"),
    Contender("uvloop_protocol"),
    Contender("wsk_serve", is_ours=True),
    Contender("wsk_events", is_ours=True),
    Contender("wsk_events_disconnect", modes=("echo1",), is_ours=True),
    Contender("c_epoll", is_c=True),
    Contender("plain", modes=("handshake",), is_ours=True, program="wsk_inspected", load="closed"),
    *_inspected(),
)
