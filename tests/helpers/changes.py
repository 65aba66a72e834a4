"""A supervised server that is changed while clients come: reloaded, replaced, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import trio

from tests.helpers.counting_clients import Counted, Wanted
from tests.helpers.places import ROOT
from tests.helpers.programs import LONG
from tests.helpers.supervised import Supervised, children, gone, kill, state_of
from trio_wsk import Reader

WORKERS: Final = 2
"""How many there are."""

HANDLER: Final = """
import os

def answer(said):
    return b"done\\n"

async def greet(stream):
    await stream.send_all(b"%d\\n" % os.getpid())
    said = b""
    while b"\\n" not in said:
        octets = await stream.receive_some(100)
        if not octets:
            return
        said += octets
    await stream.send_all(answer(said))
"""
"""What counting clients talk to, as ``app:greet``."""


class Load:
    """Clients that come from another process.

    Args:
      process: That process.
    """

    def __init__(self, process: trio.Process) -> None:
        self.counted = Counted()
        """What they have said last."""
        self._process = process
        self._heard = trio.Event()

    async def listen(self) -> None:
        """Hear what they have counted, until they have nothing more to say."""
        assert self._process.stdout is not None
        async for line in Reader(self._process.stdout).lines():
            self.counted = Counted.read(line)
            self._heard.set()
            self._heard = trio.Event()
        assert self.counted.over, "the clients have ended before their time"

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until what was counted is so."""
        with trio.move_on_after(LONG) as scope:
            while not condition():
                await self._heard.wait()
        assert not scope.cancelled_caught, self.counted

    async def answers(self, count: int) -> None:
        """Wait until so many more clients have had their answers."""
        enough = self.counted.answered + count
        await self.until(lambda: self.counted.answered >= enough)

    async def until_served_by(self, workers: Sequence[int], *, share: bool = False) -> None:
        """Wait until each of these workers has answered somebody.

        Args:
          workers: Their processes.
          share: Whether they take from one queue, of which one may have all: then one suffices.
        """
        wanted = {str(worker) for worker in workers}
        some = wanted.intersection if share else wanted.issubset
        await self.until(lambda: some(self.counted.by.keys()))

    async def end(self) -> Counted:
        """Have no more of them come; wait for the end of those who have, and return the account."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        await self.until(lambda: self.counted.over)
        return self.counted


@asynccontextmanager
async def load(wanted: Wanted) -> AsyncIterator[Load]:
    """Have clients come; in the end there are none any more."""
    command = [sys.executable, "-m", "tests.helpers.counting_clients", json.dumps(asdict(wanted))]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        async with trio.open_nursery() as nursery:
            clients = Load(process)
            nursery.start_soon(clients.listen)
            yield clients
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


class Changing:
    """What is done to a server while clients come.

    Args:
      server: The supervisor that was started, with `WORKERS` workers.
    """

    def __init__(self, server: Supervised) -> None:
        self._server = server
        self.supervisor = server.pid
        """The process that supervises now."""
        self.were_open: dict[int, int] = {}
        """How many connections each worker had that was killed."""

    async def reload(self) -> None:
        """Have new workers take over."""
        os.kill(self.supervisor, signal.SIGHUP)
        await self._server.line("reloaded: ")

    async def upgrade(self) -> None:
        """Have a new supervisor take over, and wait until the old one has ended."""
        old = self.supervisor
        os.kill(old, signal.SIGUSR2)
        line = await self._server.line("the new supervisor, process ")
        self.supervisor = int(line.partition(",")[0])
        if old == self._server.pid:
            assert 0 == await self._server.ends()
        else:
            await gone(old)

    async def kill(self, which: int) -> None:
        """Kill one of the workers, and note how many connections it had."""
        worker = (await self.workers())[which]
        os.kill(worker, signal.SIGSTOP)
        with trio.fail_after(LONG):
            while state_of(worker) != "T":  # noqa: ASYNC110 - nobody announces it
                await trio.sleep(0.001)
        self.were_open[worker] = connections_of(worker)
        kill(worker)
        await gone(worker)

    async def workers(self) -> list[int]:
        """Return the processes of the workers, when there are as many as there should be.

        Those of a generation that ends have ended then, and who was killed has a successor.
        """
        with trio.fail_after(LONG):
            while len(found := self._alive()) != WORKERS:  # noqa: ASYNC110 - as well
                await trio.sleep(0.01)
        return found

    def _alive(self) -> list[int]:
        return [pid for pid in children(self.supervisor) if state_of(pid) != "Z"]

    async def aclose(self) -> None:
        """End a supervisor that is not the test's own child."""
        if self.supervisor != self._server.pid:
            os.kill(self.supervisor, signal.SIGTERM)
            with trio.move_on_after(LONG, shield=True):
                await gone(self.supervisor)


def excess_of(counted: Counted, were_open: Mapping[int, int]) -> dict[int, int]:
    """Say what was lost without a right to be, by worker: beyond those who were open at its kill.

    Who had not been greeted may have been any killed worker's; who was refused was nobody's.
    """
    had: Counter[int] = Counter(were_open)
    lost: Counter[int] = Counter()
    beyond: Counter[int] = Counter()
    for what, count in counted.lost.items():
        worker, how = what.split()
        (beyond if "Refused" in how else lost)[int(worker)] += count
    nameless = lost.pop(0, 0)
    beyond += lost - had
    beyond[0] += max(0, nameless - (had - lost).total())
    return dict(+beyond)


def connections_of(pid: int) -> int:
    """Count the connections of a process that it has accepted, by the kernel's own tables."""
    return len(_sockets_of(pid) & (_tcp_connections() | _unix_connections()))


def _sockets_of(pid: int) -> set[str]:
    targets = [_target(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
    return {each[8:-1] for each in targets if each.startswith("socket:[")}


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:
        return ""  # it was closed since it was listed


def _tcp_connections() -> set[str]:
    rows = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
    return {row.split()[9] for row in rows if row.split()[3] != "0A"}


def _unix_connections() -> set[str]:
    """Accepted ones have their listening socket's path, and the pairs of a process have none."""
    rows = Path("/proc/net/unix").read_text("utf-8").splitlines()[1:]
    return {row.split()[6] for row in rows if row.split()[3] == "00000000" and len(row.split()) > 7}
