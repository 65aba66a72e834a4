"""The units in `examples/systemd/` are right by systemd's own tools, and start what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.places import DOCS, EXAMPLES
from tests.helpers.support import PATIENCE
from trio_wsk.__main__ import main
from trio_wsk._serving.arguments import DEFAULT_GRACE
from trio_wsk._supervisor.generation import LATE

UNITS = sorted((EXAMPLES / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
PAGE = (DOCS / "how-to" / "systemd.md").read_text("utf-8")

MOST_EXPOSED = "15"
"""What `systemd-analyze security` may count for, of 100: below 20 it calls a service well kept."""


def value(unit: Path, name: str) -> str:
    """Return what a unit says for one name."""
    lines = unit.read_text("utf-8").splitlines()
    (found,) = [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]
    return found


@pytest.fixture(scope="module")
def analyze() -> str:
    """Find systemd's tool."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        if os.environ.get("CI"):
            pytest.fail("there is no systemd-analyze")
        pytest.skip("there is no systemd-analyze")
    return tool


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the units where there is nothing but Python; return the folder."""
    folder = tmp_path_factory.mktemp("units")
    for unit in UNITS:
        text = unit.read_text("utf-8").replace("/opt/echo/bin/python", sys.executable)
        text = text.replace("/opt/%i/bin/python", sys.executable)
        (folder / unit.name.replace("@", "@mail")).write_text(text, "utf-8")
    return folder


def test_units_are_right(analyze: str, installed: Path) -> None:
    """systemd finds nothing wrong with any of them, nor does one name a unit that isn't there."""
    names = [each.name for each in installed.iterdir()]
    done = subprocess.run(  # noqa: S603 - as an operator would
        [analyze, "verify", "--man=no", *names],
        cwd=installed,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        text=True,
    )

    assert (0, "") == (done.returncode, done.stdout + done.stderr)


@pytest.mark.parametrize("service", SERVICES, ids=lambda unit: unit.name)
def test_services_are_hardened(service: Path, analyze: str, installed: Path) -> None:
    """What a service could do beyond its task is little, as systemd counts."""
    name = service.name.replace("@", "@mail")
    how = ["security", "--offline=true", f"--threshold={MOST_EXPOSED}", name]
    done = subprocess.run(  # noqa: S603 - as an operator would
        [analyze, *how], cwd=installed, capture_output=True, timeout=PATIENCE, check=False
    )

    assert 0 == done.returncode, done.stdout.decode()


@pytest.mark.parametrize("service", SERVICES, ids=lambda unit: unit.name)
def test_services_start_what_there_is(
    service: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command line of each service is right, with the page's configuration."""
    text = PAGE.partition("# trio-wsk.toml\n")[2].partition("```")[0]
    (tmp_path / "trio-wsk.toml").write_text(text, "utf-8")
    (tmp_path / "app.py").write_text("async def echo(connection): ...\n", "utf-8")
    _, module, *arguments = value(service, "ExecStart").partition(" ")[2].split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    given = ["trio-wsk.toml" if each.endswith(".toml") else each for each in arguments[1:]]

    assert ("trio_wsk", "serve") == (module, arguments[0])
    assert 0 == main(["check", *given]), capsys.readouterr().out


@pytest.mark.parametrize("service", SERVICES, ids=lambda unit: unit.name)
def test_services_are_given_time_to_drain(service: Path) -> None:
    """systemd kills a service only when its grace is over, and what hangs has been killed."""
    assert DEFAULT_GRACE + LATE < float(value(service, "TimeoutStopSec"))


def test_page_shows_every_unit() -> None:
    """All of the units are in the guide."""
    assert [] == [unit.name for unit in UNITS if f"examples/systemd/{unit.name}\n" not in PAGE]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Forget the module that a command has imported."""
    yield
    sys.modules.pop("app", None)
