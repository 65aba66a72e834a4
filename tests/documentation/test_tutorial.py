"""The tutorial's terminal sessions are run, and show what is printed there."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from itertools import takewhile, zip_longest
from pathlib import Path
from signal import SIG_DFL, SIGINT, signal
from threading import Thread
from time import monotonic, sleep

import pytest

from tests.helpers.places import ROOT
from tests.helpers.programs import reserved
from tests.helpers.support import PATIENCE

TUTORIAL = ROOT / "docs" / "tutorial"
PAGES = ["first-server.md", "conditional-accept.md"]
PORTS = ["7007", "7006"]
STEP = re.compile(r"^## (Step \d+.*)$", re.MULTILINE)
SESSION = re.compile(
    r"^```console\n(?:\$ (?P<command>.+)\n)?(?P<shown>(?:.*\n)*?)```$", re.MULTILINE
)


def steps() -> dict[str, str]:
    """Split the pages into their steps, by their headings."""
    found: dict[str, str] = {}
    for page in PAGES:
        _, *parts = STEP.split((TUTORIAL / page).read_text(encoding="utf-8"))
        found.update(zip(parts[::2], parts[1::2], strict=True))
    return found


def renamed(text: str, names: dict[str, str]) -> str:
    """Put other numbers for some numbers."""
    return re.sub(r"\d+", lambda found: names.get(found[0], found[0]), text)


class Terminal:
    """A reader's terminals: one for the server, one for each client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reserved = {port: reserved() for port in PORTS}
        self.ports = {port: str(it.getsockname()[1]) for port, it in self.reserved.items()}
        """Free ones for the tutorial's own, which may be taken on the machine of a test."""
        self.server: subprocess.Popen[str] | None = None
        self.listener: Thread | None = None
        self.shown: list[str] = []
        """What the server should have said so far."""
        self.said: list[str] = []
        """What it has said."""
        self.clients: list[socket.socket] = []
        self.waiting: socket.socket | None = None
        """The client that has typed something, and waits for the answer."""
        for program in (ROOT / "examples" / "tutorial").glob("*.py"):
            text = renamed(program.read_text(encoding="utf-8"), self.ports)
            (folder / program.name).write_text(text, encoding="utf-8")

    def command(self, command: str | None, shown: list[str]) -> None:
        """Do what the reader does."""
        match (command or "").split():
            case []:
                self.go_on(shown)
            case ["python", program] if program.endswith("rude.py"):
                assert ("", None) == self.start(program).communicate(timeout=10)
            case ["python", program]:
                self.server = self.start(program)
                self.shown = shown
                self.listener = Thread(target=self.listen, args=[self.server])
                self.listener.start()
            case ["nc", "localhost", port]:
                self.talk(self.connect(self.ports[port]), shown)
            case ["nc", "-s", source, "127.0.0.1", port]:
                self.talk(self.connect(self.ports[port], source), shown)
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
            preexec_fn=hear_ctrl_c,  # noqa: PLW1509 - it calls nothing that could hold a lock
        )

    def listen(self, server: subprocess.Popen[str]) -> None:
        """In a thread of its own: read what the server says, under the tutorial's ports."""
        assert server.stdout is not None
        ours = {free: port for port, free in self.ports.items()}
        self.said.extend(renamed(line.removesuffix("\n"), ours) for line in server.stdout)

    def connect(self, port: str, source: str = "127.0.0.1") -> socket.socket:
        """Connect, as soon as the server listens."""
        assert self.server is not None
        give_up = monotonic() + PATIENCE
        client: socket.socket | None = None
        while client is None:
            try:
                client = socket.create_connection(("127.0.0.1", int(port)), PATIENCE, (source, 0))
            except ConnectionRefusedError:
                assert self.server.poll() is None, self.said
                assert monotonic() < give_up
                sleep(0.01)
            except ConnectionResetError:  # before it could look: it has ended then, as `nc` does
                client, peer = socket.socketpair()
                peer.close()
        self.clients.append(client)
        return client

    def talk(self, client: socket.socket, shown: list[str]) -> None:
        """Type what the reader types in a client, and see what is answered."""
        if shown[-1:] == ["$"]:  # it ends by itself, after what it is told
            for line in [*shown[:-1], ""]:
                self.hear(client, line)
        elif shown[-1:] == ["^C"]:
            client.close()
        else:
            for typed, answer in zip_longest(shown[::2], shown[1::2]):
                client.sendall(f"{typed}\n".encode())
                if answer is None:
                    self.waiting = client
                else:
                    self.hear(client, answer)

    def hear(self, client: socket.socket, line: str) -> None:
        """See that a client is told a line, or, for an empty one, that it is told no more."""
        try:
            heard = client.recv(1000).decode()
        except ConnectionResetError:
            heard = ""

        assert without_client_ports(line) == without_client_ports(heard.removesuffix("\n"))

    def go_on(self, shown: list[str]) -> None:
        """Look at the terminal that has something to say: of who waits, else of the server."""
        if self.waiting is not None:
            (line,) = shown
            self.hear(self.waiting, line)
            self.waiting = None
        else:
            self.shown = self.shown + shown
            self.wait_for_server()

    def wait_for_server(self) -> None:
        """Wait until the server has said what it should have, up to where it is told to end."""
        assert self.server is not None
        assert self.listener is not None
        shown = [*takewhile(lambda line: line != "^C", self.shown)]
        give_up = monotonic() + PATIENCE
        while len(self.said) < len(shown) and monotonic() < give_up:
            if self.server.poll() is not None:
                self.listener.join()  # it has ended; all that it has said shall be seen
                break
            sleep(0.01)
        compare(shown, self.said)

    def finish(self) -> None:
        """End the server, and compare what it said with what the pages show."""
        assert self.server is not None
        assert self.listener is not None
        assert self.waiting is None
        if self.shown[:1] != ["..."]:  # else it ends by itself
            self.wait_for_server()
            if "^C" in self.shown:
                self.server.send_signal(SIGINT)
            else:
                self.server.kill()
        self.server.wait(PATIENCE)
        self.listener.join(PATIENCE)
        compare(self.shown, self.said)

    def close(self) -> None:
        """Leave nothing behind."""
        for sock in [*self.clients, *self.reserved.values()]:
            sock.close()
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            assert self.server.stdout is not None
            assert self.listener is not None
            self.listener.join()
            self.server.stdout.close()


def hear_ctrl_c() -> None:
    """In the new process: undo what a shell does that starts the tests in the background."""
    signal(SIGINT, SIG_DFL)


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
    line = re.sub(r"\[::1\]:7007,? |,? \[::1\]:7007", "", line)
    return re.sub(r":(?!7007\b)\d{4,5}\b", ":54321", line)


@pytest.mark.parametrize("step", steps())
def test_step_does_what_it_shows(step: str, tmp_path: Path) -> None:
    """Each command of a step, typed as it stands, shows what the page shows."""
    terminal = Terminal(tmp_path)
    try:
        for session in SESSION.finditer(steps()[step]):
            terminal.command(session["command"], session["shown"].splitlines())
        terminal.finish()
    finally:
        terminal.close()
