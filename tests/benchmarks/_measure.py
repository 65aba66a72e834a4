"""
One round of one server, and rounds of all of them.

All servers of a mode run at the same time, idle but for the one that is measured, and
each round measures each of them once, in an order of its own. A neighbour that takes
the machine for a second then hits all alike, and what drifts over minutes cancels out
of a ratio taken within one round.

The server's CPU clock is read when the server is calm, before the client's window and
after it: what a server does for a connection after the client has left it is a cost of
that connection.

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
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import attrs

from ._contenders import Contender, Mode
from ._networks import Network, check_gate, own_network
from ._processes import BenchmarkError, Child, Cores, Programs, running, server_command

START_SECONDS: Final = 30.0
"""For all servers of a mode together, on one core; Python with uvloop needs about 0.3."""

READY_SECONDS: Final = 8.0
"""The client gives up on opening lasting connections after 5 s."""

RESULT_SECONDS: Final = 5.0
"""After the window: the client drains for at most 0.25 s and sorts its latencies."""

WARM_UP_SECONDS: Final = 0.2
"""Thousands of connections: imports, caches and specialised bytecode are in place."""

CALM_POLL_SECONDS: Final = 0.005
CALM_NS: Final = 50_000
"""A server that used less than 1 % of a poll has nothing left to do."""

CALM_POLLS: Final = 100
"""Half a second; a server that is never calm is measured all the same."""


@attrs.frozen
class CpuClock:
    """What the scheduler says about a process, summed over its threads."""

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
            threads = [
                path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")
            ]
            run_ns = sum(int(run) for run, _wait, _slices in threads)
            if run_ns:
                return cls(run_ns, sum(int(wait) for _run, wait, _slices in threads))
            return cls(_coarse_run_ns(pid), 0)
        except (FileNotFoundError, ProcessLookupError):
            raise BenchmarkError("the server ended") from None


def _coarse_run_ns(pid: int) -> int:
    """For kernels without schedstat: user and system time, in ticks of 10 ms.

    `os.times` would not do: it knows children only once they have ended.
    """
    # proc_pid_stat(5): utime and stime are fields 14 and 15; field 2 may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Sample:
    """One server in one round."""

    contender: str
    """Its name."""
    round: int
    """From 0."""
    rate: float
    """Exchanges (connections or round trips) per second, as the client saw them."""
    cpu_us: float
    """Microseconds of the server's CPU per exchange."""
    client_cpu_us: float
    """Microseconds of the client's CPU per exchange."""
    waited: float
    """Share of the window in which the server was ready to run and another ran."""
    client_busy: float
    """Share of the window in which the client was on its core."""
    latency_ms: dict[str, float]
    """Milliseconds from the begin of an exchange to its end: p50, p90, p99, max."""
    errors: int
    """Exchanges that failed."""
    unfinished: int
    """Exchanges that were still running 0.25 s after the window."""
    first_error: str
    """What the first failed one met, or nothing."""

    @property
    def utilisation(self) -> float:
        """Share of the window in which the server was on its core."""
        return self.rate * self.cpu_us / 1e6

    @property
    def both_cpu_us(self) -> float:
        """Microseconds of CPU per exchange, of server and client."""
        return self.cpu_us + self.client_cpu_us


@attrs.frozen
class Server:
    """A contender that has said its port."""

    contender: Contender
    child: Child
    port: int
    network: Network | None
    """Its own, where its clients have to be; None: where we are."""


@attrs.frozen
class Bench:
    """What all measurements of a run share."""

    programs: Programs
    cores: Cores
    say: Callable[[str], None]
    """Tells the person who waits how far it got."""


@attrs.define
class Outcome:
    """What one mode gave."""

    mode: Mode
    samples: list[Sample] = attrs.Factory(list)
    """In the order in which they were measured."""
    failures: dict[str, str] = attrs.Factory(dict)
    """Contender that could not start, or did not last: why."""
    left_out: dict[str, str] = attrs.Factory(dict)
    """Contender that needs what can't be had here: why."""


def measure_mode(
    bench: Bench,
    mode: Mode,
    contenders: Iterable[Contender],
    *,
    rounds: int,
    seconds: float,
) -> Outcome:
    """Start all `contenders`, warm them up, and measure `rounds` shuffled rounds.

    A contender that fails is left out from there on and named in the outcome.
    """
    outcome = Outcome(mode)
    with _servers(bench, outcome, contenders) as servers:
        for number in range(-1, rounds):
            bench.say(f"{mode.name}: round {number + 1} of {rounds}")
            random.shuffle(servers)
            for server in servers.copy():
                length = seconds if number >= 0 else WARM_UP_SECONDS
                try:
                    sample = _measure(bench, mode, server, number, length)
                except BenchmarkError as exc:
                    outcome.failures[server.contender.name] = str(exc)
                    servers.remove(server)
                else:
                    if number >= 0:
                        outcome.samples.append(sample)
    return outcome


@contextlib.contextmanager
def _servers(
    bench: Bench, outcome: Outcome, contenders: Iterable[Contender]
) -> Iterator[list[Server]]:
    """Run `contenders`, all at once; of those that cannot start the outcome says why."""
    mode = outcome.mode
    with contextlib.ExitStack() as stack:
        started = []
        for contender in contenders:
            try:
                network = _network(mode, contender, stack)
            except BenchmarkError as exc:
                outcome.left_out[contender.name] = str(exc)
                continue
            command = server_command(contender, mode.name, bench.programs)
            child = stack.enter_context(running(command, bench.cores.server, _place(network)))
            started.append((contender, child, network))
        deadline = time.monotonic() + START_SECONDS
        servers = []
        for contender, child, network in started:
            try:
                line = child.read_line(max(1.0, deadline - time.monotonic()))
            except BenchmarkError as exc:
                outcome.failures[contender.name] = str(exc)
            else:
                servers.append(Server(contender, child, int(line), network))
        yield servers


def _network(mode: Mode, contender: Contender, stack: contextlib.ExitStack) -> Network | None:
    """Make the network of a contender, if the mode is one that has them.

    Raises:
      BenchmarkError: the contender needs one with a gate, which can't be had.
    """
    if not mode.is_apart:
        return None
    try:
        network = stack.enter_context(own_network())
        if contender.takes_a_gate:
            check_gate(network)
    except BenchmarkError:
        if contender.takes_a_gate:
            raise
        return None
    return network


def _place(network: Network | None) -> AbstractContextManager[None]:
    return contextlib.nullcontext() if network is None else network.entered()


def _measure(bench: Bench, mode: Mode, server: Server, number: int, seconds: float) -> Sample:
    """Load one server for so many seconds.

    Raises:
      BenchmarkError: it ended, or answered nothing.
    """
    where = f"in round {number + 1}" if number >= 0 else "in the warm-up"
    why = ""
    result: dict[str, Any] = {}
    try:
        result, cpu = _load(bench, mode, server, seconds)
    except BenchmarkError as exc:
        why, cpu = str(exc), CpuClock(0, 0)
    if server.child.process.poll() is not None:  # the better reason, and half a round is none
        raise BenchmarkError(f"ended {where}: {server.child.last_words()}")
    if why or not result["completed"]:
        raise BenchmarkError(
            f"answered nothing {where}: {why or result['first_error'] or 'silent'}"
        )
    exchanges = result["completed"] + result["drained"]
    return Sample(
        contender=server.contender.name,
        round=number,
        rate=result["completed"] / result["window_seconds"],
        cpu_us=cpu.run_ns / 1e3 / exchanges,
        client_cpu_us=result["client_cpu_seconds"] * 1e6 / exchanges,
        waited=cpu.wait_ns / 1e9 / result["elapsed_seconds"],
        client_busy=result["client_cpu_seconds"] / result["elapsed_seconds"],
        latency_ms=result["latency_ms"],
        errors=result["errors"],
        unfinished=result["unfinished"],
        first_error=result["first_error"],
    )


def _load(
    bench: Bench, mode: Mode, server: Server, seconds: float
) -> tuple[dict[str, Any], CpuClock]:
    """What the client says, and what the server's clock gained meanwhile."""
    pid = server.child.process.pid
    argv: list[str | Path] = [
        bench.programs.load,
        server.contender.load or mode.name,
        str(server.port),
        str(mode.connections),
        str(seconds),
    ]
    with running(argv, bench.cores.client, _place(server.network)) as client:
        client.read_line(READY_SECONDS)
        before = _calm(pid)
        client.write(b"\n")
        result = json.loads(client.read_line(seconds + RESULT_SECONDS))
        after = _calm(pid)
    _calm(pid)  # what it does for the connections that the client just dropped
    return result, CpuClock(after.run_ns - before.run_ns, after.wait_ns - before.wait_ns)


def _calm(pid: int) -> CpuClock:
    """Wait until process `pid` has nothing left to do; its clock then."""
    clock = CpuClock.read(pid)
    for _ in range(CALM_POLLS):
        time.sleep(CALM_POLL_SECONDS)
        before, clock = clock, CpuClock.read(pid)
        if clock.run_ns - before.run_ns < CALM_NS:
            break
    return clock
