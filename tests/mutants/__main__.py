"""Try the tests on mutants: ``python -m tests.mutants [WORD ...]``.

Words choose the modules with such a word in their path; without any it is all of them. Whoever
survives is named, and then the exit code is 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections import Counter
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from time import monotonic
from typing import Final

from tests.helpers.places import PACKAGE
from tests.mutants.operators import Mutant, mutants_of
from tests.mutants.targets import SAME, TARGETS, Target
from tests.mutants.worker import prepare, try_mutant, try_sound

PATIENCE: Final = 3.0
"""How many times as long as sound code a mutant may take, beyond `START`: then it hangs."""

START: Final = 20.0
"""Seconds that starting may take on a machine that is busy."""


def try_all(target: Target, pool: Executor) -> list[str]:
    """Try the mutants of a module; print and return who survives."""
    start = monotonic()
    if not pool.submit(try_sound, target.tests).result():
        sys.exit(f"{target.module}: its tests fail without any mutant")
    timeout = START + PATIENCE * (monotonic() - start)
    mutants = chosen(target)
    trying = partial(try_mutant, target.module, target.tests, timeout)
    fates: Counter[str] = Counter()
    survivors = []
    for mutant, fate in zip(mutants, pool.map(trying, mutants), strict=True):
        fates[fate] += 1
        if fate == "survived" and f"{target.module} {mutant}" not in SAME:
            survivors.append(f"{target.module}:{mutant.line} {mutant}")
            print(f"  survived: {survivors[-1]}", flush=True)
    print(f"{target.module}: {dict(fates)} in {monotonic() - start:.0f} s", flush=True)
    return survivors


def chosen(target: Target) -> list[Mutant]:
    """Return the mutants of a module, or so many of them from all over it."""
    mutants = mutants_of((PACKAGE / target.module).read_bytes())
    step = max(1.0, len(mutants) / target.most)
    return [mutants[int(number * step)] for number in range(min(target.most, len(mutants)))]


def main() -> None:
    """Try the mutants of the modules that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, metavar="NUMBER")
    options = parser.parse_args()
    words: list[str] = options.words
    targets = [
        target for target in TARGETS if not words or any(word in target.module for word in words)
    ]
    tests = sorted({name for target in targets for name in target.tests})
    survivors = []
    with ProcessPoolExecutor(
        options.at_once, multiprocessing.get_context("spawn"), prepare, (tests,)
    ) as pool:
        for target in targets:
            survivors += try_all(target, pool)
    sys.exit(f"{len(survivors)} survived" if survivors else 0)


if __name__ == "__main__":
    main()
