"""`--reload`: real files that change, under a supervisor that says what it does."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.helpers.supervised import APP, ON_LINUX, ask, supervised
from trio_wsk.__main__ import main

pytest.importorskip("watchfiles")
pytestmark = ON_LINUX

ON = ("--host", "127.0.0.1", "--port", "0")


def write(path: Path, text: str) -> None:
    """Write a file as editors do: it is there as a whole, or not at all."""
    path.with_suffix(".new").write_text(text, "utf-8")
    path.with_suffix(".new").replace(path)


async def test_change_of_a_source_has_new_workers_take_over(tmp_path: Path) -> None:
    """
    What is watched is said. A source that changes has new workers take over, on the same port; one
    that is broken leaves the old ones where they are, and it is said why. Other files are nothing.
    It takes no other option, and ends as every server does.
    """
    app = tmp_path / "app.py"
    write(app, APP)
    async with supervised(tmp_path, "app:who", *ON, "--reload") as server:
        assert f"{tmp_path} for changes of *.py and *.toml" == await server.line("watching ")
        port = await server.port()

        assert (await ask(port)).endswith(" first")

        write(tmp_path / "notes.txt", "nothing")
        write(app, APP.replace('"first"', '"the second"'))

        assert " changed" == await server.line(str(app))
        assert "1 worker took over; those before finish" == await server.line("reloaded: ")
        assert (await ask(port)).endswith(" the second")

        write(app, "1 / 0\n")

        assert (await server.line("not reloaded, ")).endswith("division by zero")
        assert (await ask(port)).endswith(" the second")

        write(app, APP.replace('"first"', '"the very last"'))

        await server.line("reloaded: ")
        assert (await ask(port)).endswith(" the very last")

        server.send(signal.SIGTERM)
        assert 0 == await server.ends()
    assert [] == [line for line in server.heard if "notes" in line]


async def test_package_from_elsewhere_is_watched_too(tmp_path: Path) -> None:
    """A handler's package that is not in the working directory is watched where it is."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    (elsewhere / "far").mkdir(parents=True)
    init = elsewhere / "far" / "__init__.py"
    write(init, APP)
    path = {"PYTHONPATH": ":".join([str(elsewhere), *sys.path])}
    async with supervised(here, "far:who", *ON, "--reload", environment=path) as server:
        assert f"{here}, {elsewhere}/far for changes" in await server.line("watching ")
        port = await server.port()

        write(init, APP.replace('"first"', '"the second"'))

        assert " changed" == await server.line(str(init))
        await server.line("reloaded: ")
        assert (await ask(port)).endswith(" the second")


async def test_extra_that_is_missing_is_named(tmp_path: Path) -> None:
    """Without watchfiles nothing is started, and it is said how to get it."""
    without = "import sys; sys.modules['watchfiles'] = None\n"
    program = without + "from trio_wsk.__main__ import main; sys.exit(main(sys.argv[1:]))"
    async with supervised(tmp_path, "app:who", *ON, "--reload", before=program) as server:
        assert "pip install 'trio-wsk[reload]'" == await server.line(
            "--reload: reload needs watchfiles, which is not installed: "
        )
        assert 2 == await server.ends()


def test_check_names_the_extra_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would not start is said by `check`, too."""
    (tmp_path / "checked.py").write_text("async def who(stream): ...\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "watchfiles", None)

    assert 1 == main(["check", "checked:who", *ON, "--reload"])
    assert capsys.readouterr().out.startswith("--reload: reload needs watchfiles, which is not")
