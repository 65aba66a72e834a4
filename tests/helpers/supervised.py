"""A supervisor that a test runs, as a user would."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.helpers.programs import LONG, Program, running_python
from tests.helpers.support import PATIENCE, read_to_end

ON_LINUX = [
    pytest.mark.programs,
    pytest.mark.skipif(
        not hasattr(socket, "SOCK_SEQPACKET") or not Path("/proc/self/task").exists(),
        reason="workers are known to run on Linux",
    ),
]
"""Marks of what starts a supervisor."""

APP = """
import os, trio_wsk

VERSION = "first"

async def who(stream):
    if await stream.receive_some():
        await stream.send_all(f"{os.getpid()} {VERSION}\\n".encode())

async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)

async def die(stream):
    if await stream.receive_some():
        os._exit(3)
"""


class Supervised:
    """A supervisor that runs, in a folder with ``app.py``."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.folder = folder
        self.heard: list[str] = []
        """What it has said so far."""

    @property
    def pid(self) -> int:
        """The supervisor's process."""
        return self.program.process.pid

    def send(self, number: int) -> None:
        """Send the supervisor a signal."""
        self.program.process.send_signal(number)

    async def line(self, beginning: str) -> str:
        """Wait for the next line that begins so; return what follows."""
        with trio.fail_after(LONG):
            while True:
                line = await trio.to_thread.run_sync(
                    self.program.next_error, abandon_on_cancel=True
                )
                self.heard.append(line)

                assert line, self.heard

                if line.startswith(beginning):
                    return line.removeprefix(beginning)

    async def port(self) -> int:
        """Read where it listens."""
        where = await self.line("listening on 127.0.0.1:")
        return int(where.partition(",")[0])

    def workers(self) -> list[int]:
        """Return the processes that the supervisor has started."""
        return children(self.pid)

    async def ends(self) -> int:
        """Wait for its end, and return its status."""
        with trio.fail_after(LONG):
            return await trio.to_thread.run_sync(self.program.process.wait, abandon_on_cancel=True)


@asynccontextmanager
async def supervised(
    folder: Path,
    *arguments: str,
    pass_fds: Sequence[int] = (),
    before: str | None = None,
    how: Sequence[str] = ("-m", "trio_wsk"),
    environment: Mapping[str, str] | None = None,
    patience: float = LONG,
) -> AsyncIterator[Supervised]:
    """Run a supervisor; kill what is left of it in the end.

    Args:
      folder: Where.
      *arguments: What stands behind ``serve``.
      pass_fds: Descriptors that it is given.
      before: A program in place of the package's own.
      how: Or one that Python is given in this way.
      environment: What it finds in its environment, beside ours.
      patience: Seconds after which it is killed.
    """
    if not (folder / "app.py").exists():
        (folder / "app.py").write_text(APP, "utf-8")
    if before is not None:
        (folder / "before.py").write_text(before, "utf-8")
        how = ["before.py"]
    with running_python(
        *how,
        "serve",
        *arguments,
        folder=folder,
        environment=environment,
        pass_fds=pass_fds,
        patience=patience,
    ) as program:
        supervisor = Supervised(program, folder)
        try:
            yield supervisor
        finally:
            for pid in _descendants(supervisor.pid):
                kill(pid)


def children(pid: int) -> list[int]:
    """Return the processes that a process's threads have started; none if it has ended."""
    try:
        texts = [each.read_text("ascii") for each in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(each) for text in texts for each in text.split()]


def _descendants(pid: int) -> list[int]:
    """Return a process's children, and theirs."""
    return [each for child in children(pid) for each in (child, *_descendants(child))]


def kill(pid: int) -> None:
    """Kill a process, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


async def gone(pid: int) -> None:
    """Wait until a process that is nobody's of ours has ended."""
    with trio.fail_after(LONG):
        while "Z" != state_of(pid):  # noqa: ASYNC110 - no event tells of others' children
            await trio.sleep(0.01)


def state_of(pid: int) -> str:
    """Return the letter for a process's state; that of the dead if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


async def ask(address: int | str) -> str:
    """Ask who serves, at a port of 127.0.0.1 or a path; return the worker, and its version."""
    if isinstance(address, str):
        stream = await trio.open_unix_socket(address)
    else:
        stream = await trio.open_tcp_stream("127.0.0.1", address)
    async with stream:
        await stream.send_all(b"?")
        return (await read_to_end(stream)).decode().strip()


def connected(port: int) -> socket.socket:
    """Connect a client that waits for nothing longer than a test has patience."""
    return socket.create_connection(("127.0.0.1", port), PATIENCE)
