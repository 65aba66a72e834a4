"""``top``: asked for once, and live on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers.places import DOCS, ROOT
from tests.helpers.programs import LONG
from tests.helpers.serving import stay
from tests.helpers.support import connect_now
from trio_wsk import Connection, open_server
from trio_wsk.__main__ import main
from trio_wsk._command import top
from trio_wsk.control import Control, serve_control

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@asynccontextmanager
async def steered(path: Path, clients: int) -> AsyncIterator[None]:
    """Serve so many clients, and have a control socket."""
    control = Control()
    async with open_server(stay, 0, host="127.0.0.1") as server, trio.open_nursery() as nursery:
        control.add("mail", server)
        await nursery.start(partial(serve_control, control, path))
        streams = [connect_now(server.local_addresses[0]) for _ in range(clients)]
        while len(server.connections) < clients:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)
        yield
        for stream in streams:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def asked(*arguments: str) -> int:
    """Run the command in a thread."""
    return await trio.to_thread.run_sync(main, ["top", *arguments])


# --- Once -------------------------------------------------------------------------------------


async def test_once_prints_what_happens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--once`` looks twice, and prints what is so, and what has happened between."""
    async with steered(tmp_path / "c", 3):
        status = await asked("--control", str(tmp_path / "c"), "--once", "--interval", "0.1")
    shown = capsys.readouterr().out

    assert 0 == status
    assert "open 3  pending 0  parked 0" in shown
    assert "accepted 0.0/s" in shown
    assert re.search(rf"- +{os.getpid()} +mail +listening +3 +0 +0 +0\.0", shown)


@pytest.mark.parametrize("arguments", [(), ("--once",)])
def test_nobody_answers(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody listens, that is said, and the status is 1; also into a pipe."""
    status = main(["top", "--control", str(tmp_path / "none"), *arguments])
    shown = capsys.readouterr()

    assert (1, "") == (status, shown.out)
    assert re.fullmatch(r"no answer: cannot connect to unix:.*none: .*\n", shown.err)


async def test_who_answers_is_no_server_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever else is at the path, it is said that there is no answer."""

    async def talk(connection: Connection) -> None:
        await connection.send_all(b"220 mail.example ESMTP\r\n")

    async with open_server(talk, path=tmp_path / "other"):
        status = await asked("--control", str(tmp_path / "other"), "--once")

    assert 1 == status
    assert capsys.readouterr().err.startswith("no answer: ")


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf"])
def test_interval_is_a_time(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An interval that is none is refused, with what is right."""
    assert 2 == main(["top", "--control", "x", "--interval", interval])
    assert capsys.readouterr().err.startswith("--interval is 0.1 or more, in seconds, not ")


def test_missing_rich_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without rich, the command says what to install."""
    monkeypatch.setitem(sys.modules, "rich.console", None)

    assert 2 == main(["top", "--control", "x"])
    assert "top needs rich" in capsys.readouterr().err


def test_serving_needs_no_rich() -> None:
    """What the other commands import does not have rich among it."""
    assert not any(name.startswith("rich") for name in vars(top))


# --- Live -------------------------------------------------------------------------------------


class Terminal:
    """A terminal, and the command that runs in it."""

    def __init__(self, keyboard: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._keyboard = keyboard
        self.shown = b""

    async def until(self, pattern: bytes) -> bytes:
        """Wait until something is shown since the last time; return all that was."""
        with trio.fail_after(LONG):
            while not (found := re.search(pattern, self.shown, re.DOTALL)):
                await trio.lowlevel.wait_readable(self._keyboard)
                self.shown += os.read(self._keyboard, 65536)
        shown, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return shown

    async def to_the_end(self) -> bytes:
        """Read what is shown up to the end; return it when the process has ended."""
        with trio.fail_after(LONG):
            try:
                while True:
                    await trio.lowlevel.wait_readable(self._keyboard)
                    self.shown += os.read(self._keyboard, 65536)
            except OSError:  # Linux says so when nobody has the other side any more
                pass
            await trio.to_thread.run_sync(self.process.wait)
        return self.shown

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self._keyboard, key)

    def resize(self, lines: int, columns: int) -> None:
        """Give it another size; the kernel tells the process."""
        fcntl.ioctl(self._keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextmanager
def terminal(path: Path) -> Iterator[Terminal]:
    """Run the command in a terminal."""
    keyboard, screen = pty.openpty()
    size = struct.pack("HHHH", 24, 80, 0, 0)
    fcntl.ioctl(keyboard, termios.TIOCSWINSZ, size)
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "trio_wsk", "top", "--control", str(path)]
    process = subprocess.Popen(  # noqa: S603 - our own program
        [*command, "--interval", "0.1"],
        cwd=ROOT,
        env=environment,
        stdin=screen,
        stdout=screen,
        stderr=screen,
        preexec_fn=own_terminal,  # noqa: PLW1509 - it calls nothing that could hold a lock
    )
    os.close(screen)
    try:
        yield Terminal(keyboard, process)
    finally:
        process.kill()
        process.wait()
        os.close(keyboard)


def own_terminal() -> None:
    """In the new process: have the terminal, so that the kernel tells of its size and Ctrl-C."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


ALTERNATE, BACK = rb"\x1b\[\?1049h", b"\x1b[?1049l"


@pytest.mark.programs
async def test_live_view(tmp_path: Path) -> None:
    """
    On a terminal the numbers are live; a server that is gone is said, one that is back is seen; the
    picture has the size that the terminal has got; q ends it, and leaves the terminal as it was.
    """
    path = tmp_path / "c"
    with terminal(path) as screen:
        await screen.until(ALTERNATE)
        await screen.until(rb"no answer: .*; trying again")
        async with steered(path, 2):
            await screen.until(rb"open 2 .*accepted 0\.0/s")
            screen.resize(40, 140)
            shown = await screen.until(rb" {70,}\x1b\[0m +max ")
        await screen.until(rb"no answer")
        async with steered(path, 3):
            await screen.until(rb"open 3 ")
            screen.press(b"q")
            left = await screen.to_the_end()

    assert shown
    assert BACK in left
    assert 0 == screen.process.returncode


@pytest.mark.programs
async def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    """Ctrl-C ends it without a traceback; a key that means nothing does not."""
    with terminal(tmp_path / "none") as screen:
        await screen.until(rb"trying again")
        screen.press(b"x")
        await screen.until(rb"trying again")
        screen.press(b"\x03")
        left = await screen.to_the_end()

    assert BACK in left
    assert b"Traceback" not in left
    assert 0 == screen.process.returncode


# --- The guide --------------------------------------------------------------------------------


async def test_guide_shows_what_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the guide shows of a server with two clients is what is printed."""
    page = (DOCS / "how-to" / "watch.md").read_text("utf-8")
    session = r"^\$ python -m trio_wsk top --control (\S+) --once\n(.*?)```"
    [shown] = re.findall(session, page, re.MULTILINE | re.DOTALL)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    async with steered(tmp_path / shown[0], 2):
        assert 0 == await asked("--control", shown[0], "--once", "--interval", "0.1")
    # The process has another number, which may be longer.
    printed = capsys.readouterr().out.replace(str(os.getpid()), "4711")

    assert words(shown[1]) == words(printed)


def words(text: str) -> list[list[str]]:
    """Split lines into words."""
    return [line.split() for line in text.splitlines()]
