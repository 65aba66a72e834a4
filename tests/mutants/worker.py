"""A process that runs tests on one mutant after the other.

It has a copy of the repository, so that ours is never changed, and forks for each mutant: to start
Python and to import what is nobody's mutant would take longer than most of the tests do. Who hangs
is killed with all that it has started.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep
from typing import Final, NoReturn

from tests.helpers.places import ROOT
from tests.mutants.operators import Mutant

__all__ = ["prepare", "try_mutant", "try_sound"]

OURS: Final = ("trio_wsk", "tests", "conftest")
"""What is imported anew for each mutant."""

COPIED: Final = ("trio_wsk", "tests", "conftest.py", "pyproject.toml")

EARLY: Final = ("pytest_trio", "hypothesis.stateful", "sybil", "trio.testing", "trustme", "xdist")
"""What most tests import, and what is not ours."""

HANGING: Final = 30
"""Seconds after which one test hangs, and ends its process: several times what the slowest takes
on a machine that is busy."""

PYTEST: Final = (
    *("-x", "-q", "-p", "no:cacheprovider", "-p", "tests.mutants.quickly"),
    *("-m", "not heavy and not kernel"),
    *("-o", f"faulthandler_timeout={HANGING}"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # which is about what came early
)

_folder: tempfile.TemporaryDirectory[str] | None = None


def prepare(tests: Sequence[str]) -> None:
    """Make the copy, once for each process, and the bytecode of these tests and what they import.

    What is no mutant's is compiled only here: that takes longer than to notice a mutant. A mutant
    finds no bytecode, being of another time than the module that it stands in for.
    """
    global _folder  # noqa: PLW0603 - a pool of processes has no other place for it
    _folder = tempfile.TemporaryDirectory(prefix="mutants-")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, _copy() / name)
    for name in EARLY:
        import_module(name)
    _run(tests, None, collects=True)


def try_sound(tests: Sequence[str]) -> bool:
    """Whether the tests pass as everything is."""
    return _run(tests, None) == 0


def try_mutant(module: str, tests: Sequence[str], timeout: float, mutant: Mutant) -> str:
    """Say what becomes of a mutant: it was killed, it hung, or it survived."""
    path = _copy() / "trio_wsk" / module
    sound = path.read_bytes()
    path.write_bytes(mutant.source)
    try:
        code = _run(tests, timeout)
    finally:
        path.write_bytes(sound)
    return "hung" if code is None else "killed" if code else "survived"


def _copy() -> Path:
    assert _folder is not None
    return Path(_folder.name)


def _run(tests: Sequence[str], timeout: float | None, *, collects: bool = False) -> int | None:
    """Run tests in a process of their own; return its exit code, or None if it has hung."""
    child = os.fork()
    if child == 0:
        sys.dont_write_bytecode = not collects
        what = ["--collect-only"] if collects else []
        _become_pytest([*PYTEST, *what, *(f"tests/{name}" for name in tests)])
    end = None if timeout is None else monotonic() + timeout
    while end is None or monotonic() < end:
        finished, code = os.waitpid(child, os.WNOHANG)
        if finished:
            return code
        sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _become_pytest(arguments: list[str]) -> NoReturn:
    """Forget whose process this was, and run the tests of the copy."""
    try:
        os.setsid()  # so that who kills it kills the programs that tests start, too
        for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
            del sys.modules[name]
        os.chdir(_copy())
        sys.path[:] = [str(_copy()), *(entry for entry in sys.path if entry not in {"", str(ROOT)})]
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(silence, descriptor)
        code = import_module("pytest").main(arguments)
    except BaseException:  # noqa: BLE001 - whatever it was, the tests have not passed
        code = 1
    os._exit(int(code))
