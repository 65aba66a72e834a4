"""The programs of the pages are typed in as they stand, run and talked to.

The rest of the Python there runs block by block (see `conftest.py`); these are run whole, as a
reader runs them: up to where ``__main__`` is asked for.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.helpers.namespaces import in_own_namespace
from tests.helpers.places import ROOT
from tests.helpers.programs import reserved
from tests.helpers.redis_server import running_redis
from tests.helpers.support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = re.compile(r"\b(7007|8000)\b")

LAST = '\nif __name__ == "__main__":\n'
"""What a program ends with that does something when it is typed in."""


def blocks(page: Path) -> list[str]:
    """Read what a page shows of Python."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def programs() -> dict[str, str]:
    """Read the whole programs, by page: all that a page has shown up to the end of the first."""
    found: dict[str, str] = {}
    for page in PAGES:
        shown = blocks(page)
        ends = [number for number, block in enumerate(shown) if LAST in block]
        if ends:
            found[str(page.relative_to(ROOT))] = "\n".join(shown[: ends[0] + 1])
    return found


ECHOES = [
    "README.md",
    "docs/how-to/admission-rules.md",
    "docs/how-to/control.md",
    "docs/how-to/drain-on-signals.md",
    "docs/how-to/inspect-connections.md",
    "docs/how-to/limits.md",
    "docs/how-to/other-libraries.md",
    "docs/how-to/socket-activation.md",
    "docs/index.md",
]
OTHERS = [
    "docs/how-to/before-the-handshake.md",
    "docs/how-to/metrics.md",
    "docs/how-to/observe.md",
    "docs/how-to/share-limits.md",
    "docs/how-to/tls.md",
    "docs/how-to/unix-sockets.md",
    "docs/how-to/write-a-transport.md",
]
END_BY_SIGNAL = ["README.md", "docs/how-to/drain-on-signals.md", "docs/how-to/socket-activation.md"]

# A service manager in few lines: the socket is descriptor 3, then come the variables, then the
# service. The process is a new one, because only there is 3 free.
MANAGER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="echo")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def test_every_program_is_run() -> None:
    """A page that shows a ``main`` runs it, and each such page has its test here."""
    for page in PAGES:
        unfinished = [
            block for block in blocks(page) if re.search(r"def main\(", block) and LAST not in block
        ]

        assert [] == unfinished, page
    assert {*ECHOES, *OTHERS} == programs().keys()


class Place:
    """A port that nobody else has, until a program listens on it."""

    def __init__(self) -> None:
        self._sock = reserved()
        self.port: int = self._sock.getsockname()[1]

    def close(self) -> None:
        """Let go of it."""
        self._sock.close()


@contextmanager
def running(
    page: str, folder: Path, place: Place, *before: str, keep: Sequence[int] = (), text: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """Run a page's program, on a free port; end it if it has not ended."""
    program = folder / "program.py"
    program.write_text(text or PORT.sub(str(place.port), programs()[page]), encoding="utf-8")
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-W", "error", *before, str(program)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=keep,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def connected(process: subprocess.Popen[str], address: tuple[str, int] | str) -> socket.socket:
    """Connect as soon as the program listens."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    give_up = monotonic() + PATIENCE
    while True:
        client = socket.socket(family)
        client.settimeout(PATIENCE)
        try:
            client.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            client.close()
            if process.poll() is not None:
                assert process.stdout is not None
                pytest.fail(f"it has ended: {process.stdout.read()}")
            assert monotonic() < give_up
            sleep(0.01)
        else:
            return client


@pytest.fixture
def place() -> Iterator[Place]:
    """A port to run a program on."""
    free = Place()
    try:
        yield free
    finally:
        free.close()


@pytest.mark.parametrize("page", ECHOES)
def test_program_echoes(page: str, tmp_path: Path, place: Place) -> None:
    """Typed in as it stands, it serves at the port that it names."""
    with (
        running(page, tmp_path, place) as process,
        connected(process, ("127.0.0.1", place.port)) as client,
    ):
        client.sendall(b"hello")

        assert b"hello" == client.recv(100)


@pytest.mark.parametrize("page", END_BY_SIGNAL)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_program_drains_on_a_signal(
    page: str, number: signal.Signals, tmp_path: Path, place: Place
) -> None:
    """A signal has it answer what it was sent, and end well, and say no more than that."""
    with (
        running(page, tmp_path, place) as process,
        connected(process, ("127.0.0.1", place.port)) as client,
    ):
        client.sendall(b"hello")

        assert b"hello" == client.recv(100)

        client.sendall(b"and this")
        process.send_signal(number)

        assert b"and this" == client.recv(100)
        assert b"" == client.recv(100)
        assert process.stdout is not None
        listening, draining = process.stdout.readline(), process.stdout.readline()
        assert 0 == process.wait(PATIENCE)
        assert ["drained: 1 finished, 0 reset"] == process.stdout.read().splitlines()
        assert listening.startswith("listening on ")
        assert draining.startswith("draining: open connections (1) are given ")


@pytest.mark.skipif(sys.platform == "win32", reason="it has no descriptors to inherit")
def test_activated_program_takes_the_sockets_of_its_manager(tmp_path: Path, place: Place) -> None:
    """
    Started with a socket it serves that, and who comes while it restarts waits for the next one
    and is served: nobody is refused.
    """
    page = "docs/how-to/socket-activation.md"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        manager = ("-c", MANAGER, str(listening.fileno()))
        for _ in range(2):
            client = socket.create_connection(address, PATIENCE)
            with (
                client,
                running(page, tmp_path, place, *manager, keep=[listening.fileno()]) as process,
            ):
                client.sendall(b"hello")

                assert b"hello" == client.recv(100)

                process.send_signal(signal.SIGTERM)

                assert b"" == client.recv(100)
                assert 0 == process.wait(PATIENCE)


def test_program_observes(tmp_path: Path, place: Place) -> None:
    """It greets, with its observers in place."""
    with (
        running("docs/how-to/observe.md", tmp_path, place) as process,
        connected(process, ("127.0.0.1", place.port)) as client,
    ):
        assert b"hello" == client.recv(100)


def test_program_shows_metrics(tmp_path: Path, place: Place) -> None:
    """It answers its clients at one port, and probes at the other."""
    page = "docs/how-to/metrics.md"
    with closing(Place()) as pages:
        text = PORT.sub(str(place.port), programs()[page]).replace("9464", str(pages.port))
        with (
            running(page, tmp_path, place, text=text) as process,
            connected(process, ("127.0.0.1", place.port)) as client,
            connected(process, ("127.0.0.1", pages.port)) as probe,
        ):
            client.sendall(b"hello\n")

            assert b"HELLO\n" == client.recv(100)

            probe.sendall(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")

            assert probe.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_program_shares_limits(tmp_path: Path, place: Place) -> None:
    """It echoes, with its limits on a server of Redis."""
    page = "docs/how-to/share-limits.md"
    with running_redis(tmp_path) as redis:
        text = PORT.sub(str(place.port), programs()[page]).replace("6379", str(redis.port))
        with (
            running(page, tmp_path, place, text=text) as process,
            connected(process, ("127.0.0.1", place.port)) as client,
        ):
            client.sendall(b"hello")

            assert b"hello" == client.recv(100)


def test_program_speaks_tls(tmp_path: Path, place: Place) -> None:
    """It takes its certificate and its key from the files that it names."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for part in issued.cert_chain_pems:
        part.write_to_path(tmp_path / "certificate.pem", append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with (
        running("docs/how-to/tls.md", tmp_path, place) as process,
        connected(process, ("127.0.0.1", place.port)) as client,
        context.wrap_socket(client, server_hostname="localhost") as stream,
    ):
        assert stream.recv(100).startswith(b"hello 127.0.0.1:")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
def test_program_serves_on_a_path(tmp_path: Path, place: Place) -> None:
    """It serves on the path that it names; here that is one in a folder of its own."""
    page = "docs/how-to/unix-sockets.md"
    text = programs()[page]
    path = str(tmp_path / "echo.sock")

    assert 1 == text.count("/run/echo/echo.sock")

    with (
        running(page, tmp_path, place, text=text.replace("/run/echo/echo.sock", path)) as process,
        connected(process, path) as client,
    ):
        client.sendall(b"hello")

        assert b"hello" == client.recv(100)


def test_program_with_a_transport_of_its_own(tmp_path: Path, place: Place) -> None:
    """It says what its server has sent back, and ends."""
    with running("docs/how-to/write-a-transport.md", tmp_path, place) as process:
        said, _ = process.communicate(timeout=PATIENCE)

    assert (0, "b'HELLO'\n") == (process.returncode, said)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN")
@in_own_namespace
def test_program_inspects_before_the_handshake(tmp_path: Path) -> None:
    """In a network of its own it lets in who is on its list, and refuses everybody else."""
    with (
        closing(Place()) as place,  # in that network, and no argument: it can't be pickled
        running("docs/how-to/before-the-handshake.md", tmp_path, place) as process,
        connected(process, ("127.0.0.1", place.port)) as client,
    ):
        client.sendall(b"hello")

        assert b"hello" == client.recv(100)

        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", place.port), PATIENCE, ("127.0.0.2", 0))
