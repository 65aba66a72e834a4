"""The mode `pended`: thousands of requests that wait for their verdict at once.

A fresh server for each measurement, since memory that was used once is not given back. The
clients are in a process of their own: they connect, half of them leave, and the server lets
half of the rest through and turns the others away, in random order.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from ._measure import Bench
from ._processes import BenchmarkError, running

NAME: Final = "pended"

REQUESTS: Final = 8000
"""As many as the ports and the descriptors of one machine give without preparation."""

BASELINE: Final = "trio_tasks"
SERVERS: Final = (BASELINE, "wsk_async", "wsk_plain")

COLUMNS: Final = {
    "kib": "KiB each",
    "arrive_us": "us to pend",
    "abort_us": "us to abort",
    "accept_us": "us to accept",
    "reject_us": "us to reject",
}

SECONDS: Final = 60.0
"""For one step of one server; it takes about one."""

Samples = Mapping[str, Sequence[Mapping[str, float]]]


def measure_pended(bench: Bench, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Measure every server once in each round, in shuffled order.

    Raises:
      BenchmarkError: one of them did not last.
    """
    samples: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(rounds):
        bench.say(f"{NAME}: round {number + 1} of {rounds}")
        for server in random.sample(SERVERS, len(SERVERS)):
            samples[server].append(_measure(bench, server))
    return dict(samples)


def _measure(bench: Bench, name: str) -> dict[str, float]:
    programs = [sys.executable, "-m", f"{__package__}.pended.{name}", str(REQUESTS)]
    with running(programs, bench.cores.server) as server:
        port = server.read_line(SECONDS)
        command = [sys.executable, "-m", f"{__package__}.pended.clients", port, str(REQUESTS)]
        with running(command, bench.cores.client) as clients:
            _expect(clients.read_line(SECONDS), "connected")
            _expect(server.read_line(SECONDS), "waiting")
            clients.write(b"\n")
            _expect(clients.read_line(SECONDS), "left")
            result: dict[str, float] = json.loads(server.read_line(SECONDS))
            return result


def _expect(said: str, expected: str) -> None:
    if said != expected:
        raise BenchmarkError(f"said {said!r} instead of {expected!r}")


def table(samples: Samples) -> str:
    """Print medians, and each server's ratio to the baseline: less is better."""
    medians = {
        server: {
            column: statistics.median(sample[column] for sample in taken) for column in COLUMNS
        }
        for server, taken in samples.items()
    }
    heading = f"  {'contender':<12}" + "".join(f" {title:>22}" for title in COLUMNS.values())
    claim = (
        f"{NAME}: {REQUESTS} connections wait for their verdict at once; half leave, a quarter is"
        " accepted, a quarter rejected; ratios, less is better"
    )
    lines = [
        claim,
        heading,
    ]
    base = medians[BASELINE]
    for server in SERVERS:
        own = medians[server]
        cells = (f" {own[each]:13.2f} ({own[each] / base[each]:5.2f})" for each in COLUMNS)
        lines.append(f"  {server:<12}" + "".join(cells))
    return "\n".join(lines)
