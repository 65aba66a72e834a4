"""The tutorial's terminal sessions are run, and show what is printed there."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial" / "index.md"
PORT = "7007"
STEP = re.compile(r"^## (Step \d+.*)$", re.MULTILINE)
SESSION = re.compile(r"^```console\n\$ (?P<command>.*)\n(?P<shown>(?:.*\n)*?)```$", re.MULTILINE)


def steps() -> dict[str, str]:
    """Split the page into its steps, by their headings."""
    _, *parts = STEP.split(TUTORIAL.read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


@contextmanager
def free_port() -> Iterator[str]:
    """Find a port, since the tutorial's own may be taken on the machine of a test."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    yield str(port)


class Terminal:
    """A reader's terminals: one for the server, one for each client."""

    def __init__(self, folder: Path, port: str) -> None:
        self.folder = folder
        self.port = port
        self.server: subprocess.Popen[str] | None = None
        self.shown: list[str] = []
        self.clients: list[socket.socket] = []
        for program in (ROOT / "examples" / "tutorial").glob("*.py"):
            text = program.read_text(encoding="utf-8")
            (folder / program.name).write_text(text.replace(PORT, port), encoding="utf-8")

    def command(self, command: str, shown: list[str]) -> None:
        """Do what the reader does."""
        match command.split():
            case ["python", program] if program.endswith("rude.py"):
                assert ("", None) == self.start(program).communicate(timeout=10)
            case ["python", program]:
                self.server = self.start(program)
                self.shown = shown
            case ["nc", "localhost", "7007"]:
                client = self.connect()
                self.clients.append(client)
                for typed, answer in zip(shown[::2], shown[1::2], strict=True):
                    client.sendall(f"{typed}\n".encode())

                    assert f"{answer}\n".encode() == client.recv(1000)
            case _:
                pytest.fail(f"the tutorial has a command that no test knows: {command}")

    def start(self, program: str) -> subprocess.Popen[str]:
        """Start one of the programs."""
        return subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, self.folder / Path(program).name],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def connect(self) -> socket.socket:
        """Connect, as soon as the server listens."""
        assert self.server is not None
        give_up = monotonic() + 10
        while True:
            try:
                return socket.create_connection(("127.0.0.1", int(self.port)), timeout=10)
            except ConnectionRefusedError:
                assert self.server.poll() is None, self.server.communicate()
                assert monotonic() < give_up
                sleep(0.01)

    def finish(self) -> None:
        """End the server, and compare what it said with what the page shows."""
        assert self.server is not None
        if "^C" in self.shown:
            self.server.send_signal(SIGINT)
        elif self.shown[:1] != ["..."]:  # else it ends by itself
            self.server.kill()
        said, _ = self.server.communicate(timeout=10)
        compare(self.shown, said.replace(self.port, PORT).splitlines())

    def close(self) -> None:
        """Leave nothing behind."""
        for client in self.clients:
            client.close()
        if self.server is not None:
            self.server.kill()
            self.server.communicate()


def compare(shown: list[str], said: list[str]) -> None:
    """Compare, but for clients' ports, and for what ``...`` stands for."""
    rest = [without_client_ports(line) for line in said]
    exact = True
    for line in map(without_client_ports, shown):
        if line == "^C":
            continue
        if line == "...":
            exact = False
            continue

        assert line in (rest[:1] if exact else rest), said

        rest = rest[rest.index(line) + 1 :]
        exact = True

    assert not exact or [] == rest


def without_client_ports(line: str) -> str:
    """Forget the ports that the kernel chose, and that `localhost` may be two addresses."""
    line = line.replace(f"[::1]:{PORT} ", "").replace(f" [::1]:{PORT}", "")
    return re.sub(rf":(?!{PORT}\b)\d{{4,5}}\b", ":54321", line)


@pytest.mark.parametrize("step", steps())
def test_step_does_what_it_shows(step: str, tmp_path: Path) -> None:
    """Each command of a step, typed as it stands, shows what the page shows."""
    with free_port() as port:
        terminal = Terminal(tmp_path, port)
    try:
        for session in SESSION.finditer(steps()[step]):
            terminal.command(session["command"], session["shown"].splitlines())
        terminal.finish()
    finally:
        terminal.close()
