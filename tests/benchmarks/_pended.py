"""
The procedure `PENDED`: thousands of requests that wait for their verdict at once.

A fresh server for each measurement, since memory that was used once is not given back. The
clients are in a process of their own: they connect, half of them leave, and the server lets
half of the rest through and turns the others away, in random order.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from functools import partial
from typing import Final

from ._contenders import Contender
from ._modes import Mode
from ._outcome import Measures, Outcome, Reading
from ._processes import Bench, BenchmarkError, running, server_command

SECONDS: Final = 60.0
"""For one step of one server; it takes about one."""


@contextlib.contextmanager
def fresh_servers_pending(bench: Bench, outcome: Outcome) -> Iterator[Measures]:
    """Have a server started for each measurement."""
    yield {
        contender.name: partial(_measure, bench, outcome.mode, contender)
        for contender in outcome.contenders
    }


def _measure(bench: Bench, mode: Mode, contender: Contender, _seconds: float) -> Reading:
    program = server_command(contender, mode.task, bench.programs)
    with running(program, bench.cores.server) as server:
        port = server.read_line(SECONDS)
        number = str(mode.connections)
        command = [sys.executable, "-m", f"{__package__}.pended.clients", port, number]
        with running(command, bench.cores.client) as clients:
            _expect(clients.read_line(SECONDS), "connected")
            _expect(server.read_line(SECONDS), "waiting")
            clients.write(b"\n")
            _expect(clients.read_line(SECONDS), "left")
            return Reading(json.loads(server.read_line(SECONDS)))


def _expect(said: str, expected: str) -> None:
    if said != expected:
        raise BenchmarkError(f"said {said!r} instead of {expected!r}")
