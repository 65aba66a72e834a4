"""A new supervisor in the place of an old one: for a program that has been replaced on disk.

The old one starts the command that it was started with itself, and passes its sockets. The new one
finds in its environment which they are, and says through a pair of sockets when all of its workers
serve. Until then the old one goes on, and it does so if the new one fails.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import trio

from .process import ending_of, interpreter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["Inheritance", "NoSuccessorError", "start_successor"]

_VARIABLE: Final = "TRIO_WSK_TAKEOVER"

_READY: Final = b"ready"
"""What the new one says: a word that no version may change, since the two are of different ones."""

_LATE: Final = 5.0
"""Seconds that the one before may take until it has left all to us: it has little to do."""

_WATCHED: Final = "WATCHDOG_PID"
"""Names us: the service manager's watchdog waits for who comes after us then."""


class NoSuccessorError(Exception):
    """A new supervisor could not take over: why."""


@final
@attrs.frozen
class Inheritance:
    """What a supervisor has from the one before it."""

    place: Sequence[object]
    """Where the sockets listen, in the words of a configuration."""
    descriptors: list[list[int]]
    """The sockets, by queue."""
    doors: dict[str, list[list[int]]]
    """Those at which the supervisor itself is spoken to, by what they are for."""
    channel: int
    """The descriptor to say through that the workers serve."""

    @classmethod
    def taken(cls) -> Inheritance | None:
        """Take what there is, once: nobody whom we start shall find it."""
        text = os.environ.pop(_VARIABLE, None)
        if text is None:
            return None
        found: dict[str, Any] = json.loads(text)
        return cls(**found)

    async def tell(self) -> None:  # noqa: ASYNC910 - once in a supervisor's life
        """Tell the one before that our workers serve; return when it has left all to us."""
        with socket.socket(fileno=self.channel) as channel, trio.move_on_after(_LATE):
            channel.settimeout(0)
            talk = trio.socket.from_stdlib_socket(channel)
            try:
                await talk.send(_READY)
                await talk.recv(1)  # nothing: its end is closed then
            except OSError:
                pass  # it has ended meanwhile, however: what it had is ours

    def close(self) -> None:
        """Have no one whom we start hold the channel open."""
        os.set_inheritable(self.channel, False)  # noqa: FBT003 - Python's signature


async def start_successor(
    place: Sequence[object],
    descriptors: list[list[int]],
    doors: dict[str, list[list[int]]],
    took_over: Callable[[int], Awaitable[object]],
) -> int:
    """Start a new supervisor, and wait until its workers serve; return its process's number.

    Args:
      place: Where the sockets listen, in the words of a configuration.
      descriptors: The sockets, by queue.
      doors: Those of the supervisor itself, by what they are for.
      took_over: Is awaited with that number, before the new one hears that all is its own.

    Raises:
      NoSuccessorError: it has ended before that.

    If cancelled, it is killed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    inherited = Inheritance(place, descriptors, doors, theirs.fileno())
    queues = [*descriptors, *(queue for each in doors.values() for queue in each)]
    with ours, theirs:
        try:
            process = await trio.lowlevel.open_process(
                [*interpreter(), *_arguments()],
                pass_fds=[theirs.fileno(), *(fd for queue in queues for fd in queue)],
                env=_environment(inherited),
            )
        except OSError as error:
            raise NoSuccessorError(f"it can't be started: {error.strerror}") from error
        theirs.close()
        await _until_it_serves(process, ours)
        await took_over(process.pid)
    return process.pid


def _environment(inherited: Inheritance) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name != _WATCHED}
    return {**ours, _VARIABLE: json.dumps(attrs.asdict(inherited))}


def _arguments() -> list[str]:
    """Return what followed the interpreter, and its options, on our command line."""
    module = sys.modules["__main__"].__spec__
    if module is None:
        return sys.argv
    return ["-m", module.name.removesuffix(".__main__"), *sys.argv[1:]]


async def _until_it_serves(process: trio.Process, ours: socket.socket) -> None:
    ours.settimeout(0)
    talk = trio.socket.from_stdlib_socket(ours)
    said = b""
    try:
        said = await talk.recv(len(_READY))
        if said != _READY:
            raise NoSuccessorError(f"it {ending_of(await process.wait())}")
    finally:
        if said != _READY and process.returncode is None:
            process.kill()
