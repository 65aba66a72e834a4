"""``ctl``: the program's own entry, in a thread, asks a server that runs here."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers.places import DOCS
from tests.helpers.serving import stay
from tests.helpers.support import connect_now
from trio_wsk import open_server
from trio_wsk.__main__ import main
from trio_wsk.control import Control, serve_control

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

PAGE = (DOCS / "how-to" / "control.md").read_text("utf-8")
SESSION = re.compile(
    r"^```console\n\$ python -m trio_wsk (?P<command>ctl .+)\n(?P<shown>(?:.*\n)*?)```$",
    re.MULTILINE,
)
SESSIONS = [(each["command"], each["shown"]) for each in SESSION.finditer(PAGE)]
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@asynccontextmanager
async def served(path: Path) -> AsyncGenerator[None]:
    """Have a server with a control socket, and a client that has been answered."""
    control = Control()
    async with open_server(stay, 0, host="127.0.0.1") as server, trio.open_nursery() as nursery:
        control.add("server", server)
        await nursery.start(serve_control, control, path)
        client = connect_now(server.local_addresses[0])
        await client.send_all(b"hello")
        await client.receive_some()
        yield
        await client.aclose()
        nursery.cancel_scope.cancel()


async def ctl(*arguments: str) -> int:
    """Run the command, as from a shell."""
    with trio.fail_after(30):
        return await trio.to_thread.run_sync(partial(main, ["ctl", *arguments]))


@pytest.mark.parametrize(("command", "shown"), SESSIONS)
async def test_page_shows_what_is_printed(
    command: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each command of the page prints what stands there, but for the numbers."""
    monkeypatch.chdir(tmp_path)
    async with served(tmp_path / "control.sock"):
        await ctl(*command.split()[1:])

        printed = capsys.readouterr()

    assert NUMBER.sub("N", shown) == NUMBER.sub("N", printed.out + printed.err)


async def test_what_is_done_and_what_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    What a command answers is printed as JSON, nothing if it has nothing to say, with status 0; what
    can't be done is said in the server's words, with status 1; what is no argument, with 2.
    """
    path = tmp_path / "control.sock"
    where = ["--control", str(path)]

    assert 1 == await ctl(*where, "statistics")
    assert str(path) in capsys.readouterr().err

    async with served(path):
        assert 0 == await ctl(*where, "statistics", 'listener="server"')
        assert 1 == json.loads(capsys.readouterr().out)["server"]["open_connections"]

        assert 0 == await ctl(*where, "pause")
        assert ("", "") == capsys.readouterr()

        assert 1 == await ctl(*where, "abort", "id=99")
        assert (
            "",
            "no open connection has the id 99; connections lists them\n",
        ) == capsys.readouterr()

        assert 1 == await ctl(*where, "connections", "listener=mail")
        assert ("", "there is no listener 'mail', but server\n") == capsys.readouterr()

        for wrong in ("most", "=1", "command=drain"):
            assert 2 == await ctl(*where, "connections", wrong)
            assert (
                "",
                f"a command takes NAME=VALUE, such as most=10, not {wrong!r}\n",
            ) == capsys.readouterr()
