"""
Children: compiled, started on the core they belong on, read with a time limit, killed.

Every child is a context manager, so that leaving the block by any way ends it. What a
killed runner leaves behind ends by itself: the kernel tells it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Final

import attrs

from ._contenders import CONTENDERS, Contender, Language

HERE: Final = Path(__file__).parent

ROOT: Final = HERE.parent.parent
"""Of the repository: children import `tests` and `trio_wsk` from there."""

DISTORTING_VARIABLES: Final = (
    "PYTHONASYNCIODEBUG",
    "PYTHONDEVMODE",
    "PYTHONPROFILEIMPORTTIME",
    "PYTHONTRACEMALLOC",
    "PYTHONWARNINGS",
    "COVERAGE_PROCESS_START",
)
"""Kept from children: each slows a server down or stops it, for a caller's reason."""

COMPILE_SECONDS: Final = 60.0
"""A source of some hundred lines takes less than one."""

KILLED_SECONDS: Final = 5.0
"""A killed process is gone in milliseconds, unless the machine is in trouble."""

SPARE_DESCRIPTORS: Final = 200
"""What a process has open besides connections is a fraction of it."""


class BenchmarkError(Exception):
    """The run cannot go on; the message is for the person who started it."""


class NotHereError(BenchmarkError):
    """Something can't be had on this machine, and it is nobody's fault."""


@attrs.frozen
class Cores:
    """Which processors the two sides run on."""

    server: frozenset[int]
    """One core, or all there are."""
    client: frozenset[int]
    """Another core, or the same set."""

    @property
    def both(self) -> frozenset[int]:
        """For servers of several processes: their clients need little, but not nothing."""
        return self.server | self.client

    @property
    def are_separate(self) -> bool:
        """Whether the client takes nothing from the server."""
        return self.server.isdisjoint(self.client)

    @classmethod
    def choose(cls) -> Cores:
        """Take the first two cores this process may use, if there are two."""
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            return cls(frozenset(allowed), frozenset(allowed))
        return cls(frozenset(allowed[:1]), frozenset(allowed[1:2]))


@attrs.frozen
class Programs:
    """What was compiled."""

    load: Path
    """The load generator."""
    speaks_tls: bool
    """Whether it was compiled with OpenSSL."""
    servers: dict[str, Path]
    """The contenders written in C, by name."""


@attrs.frozen
class Bench:
    """What all measurements of a run share."""

    programs: Programs
    cores: Cores
    say: Callable[[str], None]
    """Tells the person who waits how far it got."""


@attrs.frozen
class Child:
    """A running child and what it says."""

    process: subprocess.Popen[bytes]
    """Its standard input and output are pipes."""
    errors: IO[bytes]
    """Where its standard error goes."""

    def read_line(self, seconds: float) -> str:
        """Wait for one line of its output.

        Raises:
          BenchmarkError: it ended, with the last line it left on standard error,
            or said nothing for so many seconds.
        """
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            remaining = max(0.0, deadline - time.monotonic())
            if not select.select([fd], [], [], remaining)[0]:
                raise BenchmarkError(f"said nothing for {seconds:g} s")
            data = os.read(fd, 65536)
            if not data:
                raise BenchmarkError(self.last_words())
            line += data
        return line.decode().strip()

    def write(self, data: bytes) -> None:
        """Say `data` to its standard input."""
        assert self.process.stdin is not None
        try:
            os.write(self.process.stdin.fileno(), data)
        except BrokenPipeError:
            raise BenchmarkError(self.last_words()) from None

    def last_words(self) -> str:
        """Why it ended, as far as it said so."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1)
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").splitlines()
        # An exception group's traceback has its last words inside a frame of "| +-".
        words = [line.strip(" |+-") for line in lines if line.strip(" |+-")]
        return words[-1] if words else f"status {self.process.returncode}"


@contextlib.contextmanager
def running(
    argv: Sequence[str | Path],
    cores: frozenset[int],
    place: AbstractContextManager[None] | None = None,
) -> Iterator[Child]:
    """Run `argv` on `cores`; leaving the block kills it.

    Args:
      argv: The program and its arguments.
      cores: Where it may run.
      place: Where this process goes to start it, which is then where it stays.
    """
    environment = {k: v for k, v in os.environ.items() if k not in DISTORTING_VARIABLES}
    with tempfile.TemporaryFile() as errors:
        # Both are inherited, by threads that do not exist yet as well.
        with place or contextlib.nullcontext(), _on(cores):
            process = subprocess.Popen(  # noqa: S603 - our own programs
                argv,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the runner, which kills us
            )
        try:
            yield Child(process, errors)
        finally:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            process.wait(timeout=KILLED_SECONDS)


@contextlib.contextmanager
def _on(cores: frozenset[int]) -> Iterator[None]:
    """Move this process to `cores` while the block runs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def compile_programs(directory: Path) -> Programs:
    """Compile the load generator and the contenders in C into `directory`.

    Raises:
      BenchmarkError: not Linux, no compiler, or the load generator does not compile.
    """
    if sys.platform != "linux":
        raise BenchmarkError(
            f"the load generator needs Linux (epoll, 127.0.0.0/8), not {sys.platform}"
        )
    if shutil.which("cc") is None:
        raise BenchmarkError(
            "the load generator is written in C, and there is no `cc` on the PATH; "
            "on Debian: apt install gcc libc6-dev"
        )
    source = HERE / "load.c"
    speaks_tls = True
    try:
        load = _compile(source, directory, "-DTLS", "-lssl", "-lcrypto")
    except BenchmarkError:  # perhaps only OpenSSL's headers are missing
        speaks_tls = False
        load = _compile(source, directory)
    return Programs(
        load,
        speaks_tls,
        {
            c.name: _compile(HERE / "contenders" / f"{c.name}.c", directory)
            for c in CONTENDERS
            if c.language is Language.C
        },
    )


def _compile(source: Path, directory: Path, *options: str) -> Path:
    program = directory / source.stem
    # -O2 as distributions build servers; nothing for this very machine.
    command = ["cc", "-O2", "-o", str(program), str(source), *options]
    try:
        subprocess.run(  # noqa: S603 - our own source
            command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS
        )
    except subprocess.CalledProcessError as exc:
        raise BenchmarkError(f"`{' '.join(command)}` failed:\n{exc.stderr}") from exc
    except subprocess.TimeoutExpired as exc:
        raise BenchmarkError(f"`{' '.join(command)}` took too long") from exc
    return program


def server_command(contender: Contender, task: str, programs: Programs) -> list[str | Path]:
    """How to start `contender` for `task`.

    Raises:
      NotHereError: what runs it is not installed.
    """
    if contender.needs and shutil.which(contender.needs) is None:
        raise NotHereError(f"there is no `{contender.needs}` on the PATH")
    if contender.language is Language.C:
        return [programs.servers[contender.name], task]
    if contender.language is Language.NODE:
        node = shutil.which("node")
        if node is None:
            raise NotHereError("there is no `node` on the PATH")
        return [node, HERE / contender.folder / f"{contender.program}.js", task]
    module = f"{__package__}.{contender.folder}.{contender.program}"
    behind = [programs.servers[contender.behind]] if contender.behind else []
    return [sys.executable, "-m", module, task, *contender.arguments, *behind]


def take_descriptors(number: int) -> None:
    """Let this process, and so each of its children, open `number` and some more.

    Raises:
      NotHereError: it may not.
    """
    needed = number + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        raise NotHereError(f"needs {needed} descriptors, and may have {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
