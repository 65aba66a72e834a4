"""Programs that a test runs, as a user would: started, told by signals, and read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIG_DFL, SIGINT, signal
from threading import Timer
from typing import TYPE_CHECKING, Final

from .measuring import MEASURED
from .places import ROOT
from .support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

LONG: Final = 4 * PATIENCE
"""Seconds for a program's life: it, and the processes that it starts, take time to start."""


@dataclass
class Program:
    """A program that runs."""

    process: subprocess.Popen[str]

    def next_error(self) -> str:
        """Wait for the next line on standard error; ``""`` when it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.readline().removesuffix("\n")

    def next_line(self) -> str:
        """Wait for the next line on standard output; ``""`` when it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().removesuffix("\n")

    def finish(self) -> tuple[int, str, str]:
        """Wait for the end; return the exit status and what is left of the two outputs."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        # Not communicate(), which would miss what has been read ahead of the lines before.
        errors = self.process.stderr.read()
        output = self.process.stdout.read()
        return self.process.wait(PATIENCE), output, errors


def reserved() -> socket.socket:
    """Keep a free port from everybody but a server: bound, and not listening."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


@contextmanager
def running(source: str, *arguments: str) -> Iterator[Program]:
    """Run a program, and leave nothing of it; a line that never comes ends it."""
    with running_python("-c", source, *arguments) as program:
        yield program


@contextmanager
def running_python(
    *arguments: str,
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    patience: float = LONG,
) -> Iterator[Program]:
    """Run Python in a folder, with more in its environment, as `running` does."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, *arguments],
        cwd=folder,
        env={
            **os.environ,
            **MEASURED,
            "PYTHONPATH": os.pathsep.join(sys.path),
            **(environment or {}),
        },
        pass_fds=pass_fds,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,  # noqa: PLW1509 - it calls nothing that could hold a lock
    )
    timer = Timer(patience, process.kill)
    timer.start()
    with process:
        try:
            yield Program(process)
        finally:
            timer.cancel()
            process.kill()


def hear_ctrl_c() -> None:
    """In the new process: undo what a shell does that starts the tests in the background."""
    signal(SIGINT, SIG_DFL)
