"""
The procedure `LOAD`: one server under the load generator for some time.

All servers of a mode run at the same time, idle but for the one that is measured. The
server's CPU clock is read when the server is calm, before the client's window and after it:
what a server does for a connection after the client has left it is a cost of that connection.

It is the kernel's account of the process. What the kernel does for packets in between
(softirq) is on the account of whoever runs at that moment. Over loopback that is the sender:
a client pays for a whole handshake, unless the server has the SYN held and then lets it
through, which makes the rest of the handshake the server's. So modes that have both kinds
also compare the CPU of server and client together.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from ._contenders import Contender
from ._modes import Mode
from ._networks import Network, check_gate, own_network
from ._outcome import Measures, Outcome, Reading
from ._processes import Bench, BenchmarkError, Child, NotHereError, running, server_command

START_SECONDS: Final = 30.0
"""For all servers of a mode together, on one core; Python with uvloop needs about 0.3."""

READY_SECONDS: Final = 25.0
"""The client gives up on opening lasting connections after 20 s."""

RESULT_SECONDS: Final = 5.0
"""After the window: the client drains for at most 0.25 s and sorts its latencies."""

TOLD_SECONDS: Final = 5.0
"""For a server that measures something itself to say what it was."""

CALM_POLL_SECONDS: Final = 0.005
CALM_NS: Final = 50_000
"""A server that used less than 1 % of a poll has nothing left to do."""

CALM_POLLS: Final = 100
"""Half a second; a server that is never calm is measured all the same."""


@attrs.frozen
class CpuClock:
    """What the scheduler says about a process, summed over its threads and its workers."""

    run_ns: int
    """Nanoseconds on a core."""
    wait_ns: int
    """Nanoseconds ready to run with no core to run on: somebody else's doing."""

    @classmethod
    def read(cls, pid: int) -> CpuClock:
        """Read the clock of process `pid`.

        Raises:
          BenchmarkError: there is no such process any more.
        """
        try:
            # A thread that ends takes its time with it; no contender ends threads.
            family = [pid, *descendants_of(pid)]
            threads = [
                path.read_text().split()
                for each in family
                for path in Path(f"/proc/{each}/task").glob("*/schedstat")
            ]
            run_ns = sum(int(run) for run, _wait, _slices in threads)
            if run_ns:
                return cls(run_ns, sum(int(wait) for _run, wait, _slices in threads))
            return cls(sum(map(_coarse_run_ns, family)), 0)
        except (FileNotFoundError, ProcessLookupError):
            raise BenchmarkError("the server ended") from None


def descendants_of(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    children = [int(child) for text in texts for child in text.split()]
    return [each for child in children for each in (child, *descendants_of(child))]


def _coarse_run_ns(pid: int) -> int:
    """For kernels without schedstat: user and system time, in ticks of 10 ms.

    `os.times` would not do: it knows children only once they have ended.
    """
    # proc_pid_stat(5): utime and stime are fields 14 and 15; field 2 may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Server:
    """A contender that has said its port."""

    contender: Contender
    child: Child
    port: int
    network: Network | None
    """Its own, where its clients have to be; None: where we are."""


@contextlib.contextmanager
def servers_under_load(bench: Bench, outcome: Outcome) -> Iterator[Measures]:
    """Run all contenders at once; of those that cannot start the outcome says why."""
    mode = outcome.mode
    with contextlib.ExitStack() as stack:
        started = []
        for contender in outcome.contenders:
            try:
                network = _network(mode, contender, stack)
                command = server_command(contender, mode.task, bench.programs)
            except NotHereError as exc:
                outcome.left_out[contender.name] = str(exc)
                continue
            cores = bench.cores.both if mode.spreads else bench.cores.server
            child = stack.enter_context(running(command, cores, _place(network)))
            started.append((contender, child, network))
        deadline = time.monotonic() + START_SECONDS
        measures = {}
        for contender, child, network in started:
            try:
                line = child.read_line(max(1.0, deadline - time.monotonic()))
            except BenchmarkError as exc:
                outcome.failures[contender.name] = str(exc)
            else:
                server = Server(contender, child, int(line), network)
                measures[contender.name] = partial(_measure, bench, mode, server)
        yield measures


def _network(mode: Mode, contender: Contender, stack: contextlib.ExitStack) -> Network | None:
    """Make the network of a contender, if the mode is one that has them.

    Raises:
      NotHereError: the contender needs one with a gate, which can't be had.
    """
    if not mode.is_apart:
        return None
    try:
        network = stack.enter_context(own_network())
        if contender.takes_a_gate:
            check_gate(network)
    except NotHereError:
        if contender.takes_a_gate:
            raise
        return None
    return network


def _place(network: Network | None) -> AbstractContextManager[None]:
    return contextlib.nullcontext() if network is None else network.entered()


def _measure(bench: Bench, mode: Mode, server: Server, seconds: float) -> Reading:
    """Load one server for so many seconds.

    Raises:
      BenchmarkError: it ended, or answered nothing.
    """
    why = ""
    result: dict[str, Any] = {}
    told: dict[str, float] = {}
    try:
        result, told, cpu = _load(bench, mode, server, seconds)
    except BenchmarkError as exc:
        why, cpu = str(exc), CpuClock(0, 0)
    if server.child.process.poll() is not None:  # the better reason, and half a round is none
        raise BenchmarkError(f"ended: {server.child.last_words()}")
    if why or not result["completed"]:
        raise BenchmarkError(f"answered nothing: {why or result['first_error'] or 'silent'}")
    return read_result(result, told, cpu)


def read_result(result: Mapping[str, Any], told: Mapping[str, float], cpu: CpuClock) -> Reading:
    """Make figures of what the client counted, the server told, and its clock gained."""
    exchanges = result["completed"] + result["drained"]
    rate = result["completed"] / result["window_seconds"]
    cpu_us = cpu.run_ns / 1e3 / exchanges
    client_cpu_us = result["client_cpu_seconds"] * 1e6 / exchanges
    values = {
        "rate": rate,
        "cpu_us": cpu_us,
        "client_cpu_us": client_cpu_us,
        "both_cpu_us": cpu_us + client_cpu_us,
        "utilisation": rate * cpu_us / 1e6,
        "waited": cpu.wait_ns / 1e9 / result["elapsed_seconds"],
        "client_busy": result["client_cpu_seconds"] / result["elapsed_seconds"],
        "all_ms": result["window_seconds"] * 1e3,
        "background_rate": result["background"] / result["window_seconds"],
        **{f"{name}_ms": value for name, value in result["latency_ms"].items()},
        **told,
    }
    return Reading(
        values=values,
        errors=result["errors"],
        unfinished=result["unfinished"] + result["missed"],
        first_error=result["first_error"],
    )


def _load(
    bench: Bench, mode: Mode, server: Server, seconds: float
) -> tuple[dict[str, Any], dict[str, float], CpuClock]:
    """What the client says, what the server tells, and what its clock gained meanwhile."""
    pid = server.child.process.pid
    told: dict[str, float] = {}
    with running(
        load_command(bench, mode, server, seconds), bench.cores.client, _place(server.network)
    ) as client:
        client.read_line(READY_SECONDS)
        before = _calm(pid)
        if mode.tells:
            server.child.write(b"start\n")
        client.write(b"\n")
        try:
            result = json.loads(client.read_line(seconds + RESULT_SECONDS))
        finally:
            if mode.tells:
                told = ask(server.child)
        after = _calm(pid)
    _calm(pid)  # what it does for the connections that the client just dropped
    cpu = CpuClock(after.run_ns - before.run_ns, after.wait_ns - before.wait_ns)
    return result, told, cpu


def load_command(
    bench: Bench, mode: Mode, server: Server, seconds: float, connections: int | None = None
) -> list[str | Path]:
    """How to start the load generator for `server`, with the mode's connections or others."""
    options = []
    if mode.per_second:
        options += ["-p", str(mode.per_second)]
    if mode.busy:
        options += ["-b", str(mode.busy)]
    load = server.contender.load or mode.load
    numbers = (str(server.port), str(connections or mode.connections), str(seconds))
    return [bench.programs.load, *options, load, *numbers]


def ask(child: Child) -> dict[str, float]:
    """Have a server say what it measured since it was started to, and stop that."""
    child.write(b"tell\n")
    told: dict[str, float] = json.loads(child.read_line(TOLD_SECONDS))
    return told


def _calm(pid: int) -> CpuClock:
    """Wait until process `pid` has nothing left to do; its clock then."""
    clock = CpuClock.read(pid)
    for _ in range(CALM_POLLS):
        time.sleep(CALM_POLL_SECONDS)
        before, clock = clock, CpuClock.read(pid)
        if clock.run_ns - before.run_ns < CALM_NS:
            break
    return clock
