"""A Redis server that a test starts, stops and kills: Debian's ``redis-server``.

It keeps nothing, can be asked directly, and has a port of its own. Where it is missing its tests
are skipped, and fail in CI.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from .blocking_peers import PATIENCE
from .foreign import foreign

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["HOST", "RedisError", "RedisServer", "running_cluster", "running_redis"]

HOST: Final = "127.0.0.1"
QUIET: Final = ("--save", "", "--appendonly", "no", "--bind", HOST, "--loglevel", "warning")


class RedisError(Exception):
    """The server has answered with an error."""


class RedisServer:
    """A server, by its port.

    Args:
      folder: Where it may write, if it is told to.
      options: What it is told besides.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._peer: socket.socket | None = None

    def start(self) -> None:
        """Run it, on the port that it had before if it had one, and wait until it answers."""
        if self.port:
            self._run()
            return
        while not self._process:
            with socket.create_server((HOST, 0)) as listener:
                self.port = listener.getsockname()[1]
            self._run()  # which fails when somebody else has taken the port meanwhile

    def stop(self) -> None:
        """Have it stand still: it answers nothing, and the kernel takes what comes."""
        os.kill(self._running.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it go on."""
        os.kill(self._running.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def ask(self, *words: object) -> Any:
        """Ask it, and wait for the answer.

        Raises:
          RedisError: what it has answered.
        """
        if self._peer is None:
            self._peer = socket.create_connection((HOST, self.port), PATIENCE)
        texts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        parts = b"".join(b"$%d\r\n%b\r\n" % (len(text), text) for text in texts)
        self._peer.sendall(b"*%d\r\n%b" % (len(texts), parts))
        with self._peer.makefile("rb") as file:
            return _reply(file)

    def calls(self, command: str) -> int:
        """Return how often it was told this, with whatever success."""
        for line in self.ask("INFO", "commandstats").decode().splitlines():
            if line.startswith(f"cmdstat_{command}:calls="):
                return int(line.partition("=")[2].partition(",")[0])
        return 0

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _run(self) -> None:
        program = foreign("redis-server")
        self._process = process = subprocess.Popen(  # noqa: S603 - found above
            [program, *QUIET, "--port", str(self.port), "--dir", str(self.folder), *self.options],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None:
            try:
                if b"process_id:%d\r\n" % process.pid in self.ask("INFO", "server"):
                    return
            except OSError:
                pass
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.01)
        self.kill()


def _reply(file: Any) -> Any:
    kind, rest = (line := file.readline())[:1], line[1:-2]
    if kind == b"-":
        raise RedisError(rest.decode())
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else file.read(int(rest) + 2)[:-2]
    if kind == b"*":
        return [_reply(file) for _ in range(int(rest))]
    return rest


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Run one."""
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def running_cluster(folder: Path, nodes: int = 3) -> Iterator[list[RedisServer]]:
    """Run a cluster without replicas, each node of which has as many slots."""
    servers: list[RedisServer] = []
    try:
        for number in range(nodes):
            server = RedisServer(
                folder,
                *("--cluster-enabled", "yes", "--cluster-config-file", f"nodes-{number}.conf"),
                *("--cluster-port", str(_free_port())),
            )
            servers.append(server)
            server.start()
            first, last = number * 16384 // nodes, (number + 1) * 16384 // nodes - 1
            server.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
            bus = server.ask("CONFIG", "GET", "cluster-port")[1].decode()
            servers[0].ask("CLUSTER", "MEET", HOST, server.port, bus)
        deadline = time.monotonic() + PATIENCE
        while any(b"cluster_state:ok" not in each.ask("CLUSTER", "INFO") for each in servers):
            assert time.monotonic() < deadline, "they don't meet"
            time.sleep(0.01)
        yield servers
    finally:
        for each in servers:
            each.kill()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
