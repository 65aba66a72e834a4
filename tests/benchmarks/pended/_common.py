"""What the servers of this mode share: phases, what each costs, and what is said."""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import trio

T = TypeVar("T")

HOST: Final = "127.0.0.1"

PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def count() -> int:
    """How many connections are to wait at once."""
    return int(sys.argv[1])


def take_descriptors() -> None:
    """Let this process open as many as it may."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def resident() -> int:
    """Octets of this process in memory, rubbish not counted."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


class Phases:
    """What the phases of one run cost."""

    def __init__(self) -> None:
        take_descriptors()
        self._memory = resident()
        self._clock = time.process_time()
        self.result: dict[str, float] = {}

    def announce(self, port: int) -> None:
        """Say where to connect to."""
        print(port, flush=True)

    def begin(self) -> None:
        """From here on the phase's processor time counts."""
        self._clock = time.process_time()

    def end(self, name: str, per: int) -> None:
        """The phase is over; it was about so many connections."""
        self.result[f"{name}_us"] = (time.process_time() - self._clock) / per * 1e6
        self._clock = time.process_time()

    def all_wait(self, per: int) -> None:
        """All are waiting: see what they weigh, and have the client's half leave."""
        self.end("arrive", per)
        self.result["kib"] = (resident() - self._memory) / per / 1024
        print("waiting", flush=True)
        self.begin()

    def say(self) -> None:
        """Say what it was."""
        print(json.dumps(self.result), flush=True)


async def until(condition: Callable[[], bool]) -> None:
    """Look again every now and then: what is waited for comes from another process."""
    while not condition():  # noqa: ASYNC110 - nobody announces it
        await trio.sleep(0.02)


def halves(waiting: Sequence[T]) -> tuple[list[T], list[T]]:
    """Part them at random: who is let through, who is turned away."""
    mixed = list(waiting)
    random.shuffle(mixed)
    middle = len(mixed) // 2
    return mixed[:middle], mixed[middle:]
