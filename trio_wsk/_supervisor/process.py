"""One worker, seen from the supervisor: a process, and a pair of sockets to talk to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final, final

import trio

from .asking import Questions
from .channel import Channel
from .messages import Kind, Message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .messages import Job

__all__ = ["Worker", "ending_of", "interpreter", "start_worker"]

_NOT_THEIRS: Final = frozenset(
    {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
)
"""What a service manager says to the supervisor alone."""


def interpreter() -> list[str]:
    """Return the command of this Python, with its options."""
    return [sys.executable, *subprocess._args_from_interpreter_flags()]  # type: ignore[attr-defined] # as multiprocessing does


def environment() -> Mapping[str, str]:
    """Return what a worker finds in its environment."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_THEIRS}


async def start_worker(job: Job) -> Worker:
    """Start a process, and tell it what to do.

    It has a session of its own, so that Ctrl-C in a terminal is for the supervisor to hear.

    Raises:
      OSError: there can't be another process now. (The machine's.)
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            process = await trio.lowlevel.open_process(
                [*interpreter(), "-m", "trio_wsk._supervisor", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *job.sockets],
                start_new_session=True,
                env=environment(),
            )
        except BaseException:
            ours.close()
            raise
    worker = Worker(process, Channel(ours))
    worker.tell(Kind.JOB, job.packed())
    return worker


@final
class Worker:
    """A worker's process.

    Args:
      process: The process, which nobody else waits for.
      channel: Our end of the pair.
    """

    def __init__(self, process: trio.Process, channel: Channel) -> None:
        self.pid: Final = process.pid
        self.questions: Final = Questions(channel)
        """What one that serves is asked."""
        self.has_said_all: Final = trio.Event()
        """Set when nothing comes any more from one that has served."""
        self._process = process
        self._channel = channel

    def tell(self, kind: Kind, body: bytes = b"") -> None:
        """Say something to it, if it is still there."""
        self._channel.tell(Message(kind, body))

    async def failure(self) -> str | None:
        """Wait until it is prepared, or serves; return None then, or else why it is or does not."""
        said = await self._channel.hear()
        if said is None:
            return await self.wait()
        return said.body.decode(errors="replace") if said.kind is Kind.FAILED else None

    async def hear(self, left: trio.Event) -> None:
        """Hear what one says that serves, until it is gone.

        Args:
          left: Set when it takes nobody from the queues any more.
        """
        while (said := await self._channel.hear()) is not None:
            if said.kind is Kind.LEFT:
                left.set()
            elif said.kind in {Kind.PART, Kind.ANSWER}:
                self.questions.heard(said)
        self.questions.close()
        self.has_said_all.set()

    async def wait(self) -> str:
        """Wait for its end; return how it has ended, in words."""
        return ending_of(await self._process.wait())

    async def kill(self) -> None:
        """End it, if it has not ended, and forget it."""
        self.questions.close()
        self._channel.close()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


def ending_of(status: int) -> str:
    """Say how a process has ended."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
