"""A service manager, for programs that tell one how they are: a real socket, and what came."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from tests.helpers.programs import LONG

MOST_DESCRIPTORS = 253
"""In one message: SCM_MAX_FD."""

WITH_PASSED = """
import os, sys
count, names, kept = int(sys.argv[1]), sys.argv[2], sys.argv[3].split(",")
for target, fd in enumerate(map(int, kept), 100):
    os.dup2(fd, target)
for number in range(count):
    os.dup2(100 + number, 3 + number)
os.closerange(3 + count, max(100 + count, *map(int, kept)) + 1)
os.environ.update(LISTEN_FDS=str(count), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, *sys.argv[4:]])
"""
"""Passes descriptors as systemd does: from 3 on, with the number of the process that gets them."""


class Manager:
    """A service manager that keeps what it is sent.

    Args:
      address: Where it is told, as in NOTIFY_SOCKET.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.kept: list[tuple[str, int]] = []
        """The names and numbers of descriptors that it was given to keep."""
        self.told: list[dict[str, str]] = []
        """All that it was told."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.settimeout(LONG)

    def environment(self, **more: str) -> Mapping[str, str]:
        """Return what a service finds in its environment."""
        return {"NOTIFY_SOCKET": self.address, **more}

    def next(self) -> dict[str, str]:
        """Wait for what it is told next, and keep what comes with it."""
        text, descriptors, _, _ = socket.recv_fds(self._socket, 65536, MOST_DESCRIPTORS)
        lines = dict(line.split("=", 1) for line in text.decode().split("\n"))
        self.told.append(lines)
        self.kept += [(lines["FDNAME"], fd) for fd in descriptors]
        if "FDSTOREREMOVE" in lines:
            self._forget(lines["FDNAME"])
        return lines

    def _forget(self, name: str) -> None:
        for each in [each for each in self.kept if each[0] == name]:
            self.kept.remove(each)
            os.close(each[1])

    def until(self, name: str) -> dict[str, str]:
        """Wait until it is told of something."""
        while name not in (lines := self.next()):
            pass
        return lines

    def hear_all(self) -> list[dict[str, str]]:
        """Hear all that it was told already."""
        heard = []
        self._socket.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                heard.append(self.next())
        self._socket.settimeout(LONG)
        return heard

    def fill_up(self) -> None:
        """Tell it things until its queue is full."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, suppress(BlockingIOError):
            other.settimeout(0)
            while True:
                other.sendto(b"STATUS=full", self.address)

    async def hears(self, name: str) -> dict[str, str]:
        """Wait until it is told of something, in Trio."""
        return await trio.to_thread.run_sync(self.until, name, abandon_on_cancel=True)

    def heard(self, name: str) -> list[str]:
        """Return what was said of one thing so far."""
        return [lines[name] for lines in self.told if name in lines]

    def passing(self, *arguments: str) -> list[str]:
        """Return the arguments of a Python that passes all that is kept to another one."""
        names = ":".join(name for name, _ in self.kept)
        numbers = ",".join(str(fd) for _, fd in self.kept)
        return ["-c", WITH_PASSED, str(len(self.kept)), names, numbers, *arguments]

    def close(self) -> None:
        """End it, with all that it keeps."""
        self._socket.close()
        while self.kept:
            os.close(self.kept.pop()[1])


@contextmanager
def managing(folder: Path, address: str | None = None) -> Iterator[Manager]:
    """Run a service manager."""
    manager = Manager(address or str(folder / "notify"))
    try:
        yield manager
    finally:
        manager.close()
