"""
The procedure `IDLE`: what a server weighs with thousands of connections that do nothing.

A fresh server for each measurement, since memory that was used once is not given back. It
answers each connection once, so that each handler is where it waits for more. What the kernel
keeps for a connection is the same for all, and not in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ._contenders import Contender
from ._load import READY_SECONDS, START_SECONDS, Server, load_command
from ._outcome import Measures, Outcome, Reading
from ._processes import Bench, BenchmarkError, NotHereError, running, server_command


@contextlib.contextmanager
def fresh_servers_idle(bench: Bench, outcome: Outcome) -> Iterator[Measures]:
    """Have a server started for each measurement."""
    measures = {}
    for contender in outcome.contenders:
        try:
            command = server_command(contender, outcome.mode.task, bench.programs)
        except NotHereError as exc:
            outcome.left_out[contender.name] = str(exc)
        else:
            measures[contender.name] = partial(_measure, bench, outcome, contender, command)
    yield measures


def _measure(
    bench: Bench, outcome: Outcome, contender: Contender, command: list[str | Path], _seconds: float
) -> Reading:
    mode = outcome.mode
    with running(command, bench.cores.server) as child:
        server = Server(contender, child, int(child.read_line(START_SECONDS)), None)
        # A first crowd, of a hundredth: imports and caches are in place.
        few = max(1, mode.connections // 100)
        with running(load_command(bench, mode, server, 1, few), bench.cores.client) as client:
            client.read_line(READY_SECONDS)
        before = anonymous_kib(child.process.pid)
        with running(load_command(bench, mode, server, 1), bench.cores.client) as client:
            client.read_line(READY_SECONDS)
            after = anonymous_kib(child.process.pid)
    return Reading({"kib": (after - before) / mode.connections})


def anonymous_kib(pid: int) -> int:
    """KiB of a process in memory that no file backs: its heap and its stacks.

    Raises:
      BenchmarkError: there is no such process any more.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except FileNotFoundError:
        raise BenchmarkError("the server ended") from None
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1])
