"""What a process weighs: its descriptors, its memory, its tasks; and what it may have gained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import attrs
import trio

from tests.helpers import changes
from tests.helpers.programs import LONG
from tests.helpers.support import read_to_end
from trio_wsk import Reader

GAIN: Final = 4096
"""KiB of memory that a process may have gained: the allocator keeps what the busiest moment took,
and that is not the same one twice. A hundred connections, some of them with octets that nobody
reads, take about half of it. What leaks with each connection comes to more in some ten thousand."""

HANDLER: Final = (
    changes.HANDLER
    + """
import gc, trio
from tests.helpers.support import timers
from trio_wsk._engine.reused_tasks import ReusedTasks

def answer(said):
    return b"%d\\n" % tasks() if said == b"tasks\\n" else b"done\\n"

def tasks():
    gc.collect()
    idle = sum(len(each._idle) for each in gc.get_objects() if isinstance(each, ReusedTasks))
    return trio.lowlevel.current_statistics().tasks_living - idle - timers()
"""
)
"""What counting clients talk to, as ``app:greet``; who says ``tasks`` hears how many tasks the
worker has, without those that wait for the next connection."""


@attrs.frozen
class Weight:
    """What one process weighs."""

    descriptors: int
    kib: int
    """Its memory that is no file's."""
    tasks: int
    """Of Trio; 0 for the supervisor, who can't be asked."""

    @classmethod
    def of(cls, pid: int, tasks: int = 0) -> Weight:
        """Weigh a process."""
        status = Path(f"/proc/{pid}/status").read_text("ascii")
        (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:"))
        return cls(len(list(Path(f"/proc/{pid}/fd").iterdir())), int(kib), tasks)

    def complaints(self, before: Weight) -> list[str]:
        """Say what it has gained that it may not."""
        found: list[str] = []
        if self.descriptors != before.descriptors:
            found.append(f"{before.descriptors} descriptors were {self.descriptors} in the end")
        if self.tasks != before.tasks:
            found.append(f"{before.tasks} tasks were {self.tasks} in the end")
        if self.kib > before.kib + GAIN:
            found.append(f"{before.kib} KiB were {self.kib} in the end")
        return found


async def weights_of(workers: Iterable[int], port: int) -> dict[int, Weight]:
    """Weigh workers, as soon as they serve nobody any more."""
    weights: dict[int, Weight] = {}
    for worker in workers:
        await _at_rest(worker)
        weights[worker] = Weight.of(worker)
    tasks = await _tasks(weights, port)
    return {worker: attrs.evolve(weights[worker], tasks=tasks[worker]) for worker in weights}


async def _at_rest(worker: int, *, but: int = 0) -> None:
    with trio.fail_after(LONG):
        while changes.connections_of(worker) > but:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.01)


async def _tasks(workers: Mapping[int, object], port: int) -> dict[int, int]:
    """Ask until each has said how many tasks it has; the kernel chooses who is asked."""
    tasks: dict[int, int] = {}
    with trio.fail_after(LONG):
        while not tasks.keys() >= workers.keys():
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                worker = int(await Reader(stream).read_line())
                await _at_rest(worker, but=1)
                await stream.send_all(b"tasks\n")
                tasks[worker] = int(await read_to_end(stream))
    return tasks
