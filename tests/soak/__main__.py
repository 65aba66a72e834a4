"""Soak a service: ``python -m tests.soak [--minutes NUMBER] [--seed NUMBER]``.

It says what it has seen, and the exit code is 1 if there is something that should not have been.
The seed that it prints makes the same things happen in the same order; when they do is the
machine's.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Final

import trio

from tests.helpers.programs import LONG

from .soaking import Length, Report, soaked

REPLACING: Final = 2 / 3
"""The part of the time in which workers are replaced; in the rest they live, and may gain."""


async def soak(minutes: float, seed: int) -> Report:
    """Soak a service for so long."""
    seconds = 60 * minutes
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        async with soaked(Path(folder), seed, say, patience=2 * seconds + LONG) as service:
            return await service.run(
                Length(seconds=REPLACING * seconds), Length(seconds=(1 - REPLACING) * seconds)
            )


def say(text: str) -> None:
    """Tell whoever waits for the end."""
    print(text, flush=True)


def main() -> None:
    """Soak a service, and report."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long, about")
    parser.add_argument("--seed", type=int, help="of a run that shall come again")
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed  # noqa: S311 - as is
    say(f"--seed {seed}")
    report = trio.run(soak, options.minutes, seed)
    for line in report.lines():
        say(line)
    sys.exit(1 if report.complaints else 0)


if __name__ == "__main__":
    main()
