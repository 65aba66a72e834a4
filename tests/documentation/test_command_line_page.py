"""The terminal sessions of the pages about the command line are run, and show what stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from signal import SIGINT
from typing import TYPE_CHECKING

import pytest

from tests.helpers.places import DOCS
from tests.helpers.programs import LONG, reserved, running_python
from trio_wsk._configuration.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = (DOCS / "how-to" / "command-line.md").read_text("utf-8")
FILE = re.compile(r"^```(?:python|toml)\n# (?P<name>\S+)\n(?:.*\n)*?```$", re.MULTILINE)
SESSION = re.compile(r"^```console\n\$ (?P<command>.+)\n(?P<shown>(?:.*\n)*?)```$", re.MULTILINE)
WORKERS = (DOCS / "how-to" / "workers.md").read_text("utf-8")
SESSIONS = {
    match["command"]: match["shown"].splitlines()
    for page in (PAGE, WORKERS)
    for match in SESSION.finditer(page)
}
PORT = "7007"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[str]:
    """Write the files of the page, with a port that nobody has in place of its own; yield that."""
    with reserved() as sock:
        port = str(sock.getsockname()[1])
        for match in FILE.finditer(PAGE):
            text = match[0].split("\n", 1)[1].removesuffix("```")
            (tmp_path / match["name"]).write_text(text.replace(PORT, port), "utf-8")
        yield port


def split(command: str) -> tuple[dict[str, str], list[str]]:
    """Split a command into what stands in front for the environment, and what Python is given."""
    variables, _, arguments = command.partition("python ")
    return dict(each.split("=", 1) for each in variables.split()), arguments.split()


@pytest.mark.parametrize("command", SESSIONS)
def test_command_says_what_is_shown(command: str, port: str, tmp_path: Path) -> None:
    """Each command, typed as it stands beside the files of the page, says what the page shows."""
    shown = [line.replace(PORT, port) for line in SESSIONS[command]]
    environment, arguments = split(command.replace(PORT, port))
    with running_python(*arguments, folder=tmp_path, environment=environment) as program:
        said: list[str] = []
        if "^C" in shown:
            said = [program.next_error() for _ in range(shown.index("^C"))]
            shown.remove("^C")
            program.process.send_signal(SIGINT)
        _, output, errors = program.finish()

    assert shown == said + (output + errors).splitlines()


def test_page_has_every_option() -> None:
    """What can be given stands in the table; what stands there can be given."""
    table = PAGE.split("## Options")[1].split("## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {flag for row in rows for flag in re.findall(r"--[\w-]+", row)}

    assert {option.flag for option in OPTIONS.values() if option.metavar is not None} | {
        "--config"
    } == named


@pytest.mark.parametrize("command", ["serve", "check"])
def test_help_has_every_option(command: str) -> None:
    """The program's own help names each option."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "trio_wsk", command, "--help"],
        capture_output=True,
        timeout=LONG,
        check=True,
        encoding="utf-8",
    )

    assert {option.flag for option in OPTIONS.values() if option.metavar is not None} <= {
        word.strip("[],") for word in done.stdout.split()
    }
