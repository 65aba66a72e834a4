"""``--admin``: the page of a server without a program of its own, and of a supervisor."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.programs import running_python
from tests.helpers.scraping import Scraper
from tests.helpers.support import connect_now
from trio_wsk import Address
from trio_wsk.__main__ import main
from trio_wsk._configuration.options import WrongValueError, host_and_port

if TYPE_CHECKING:
    from pathlib import Path

APP = """
async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a module of a handler, and a file with a token."""
    (tmp_path / "app.py").write_text(APP, "utf-8")
    (tmp_path / "token").write_text("0123456789abcdef\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    return tmp_path


async def test_one_process_has_its_page(folder: Path) -> None:
    """A server says where its page is, and shows it there, on the loopback address alone."""
    arguments = ["serve", "app:echo", "--host", "127.0.0.1", "--port", "0", "--admin", "0"]
    with running_python("-m", "trio_wsk", *arguments, folder=folder) as server:
        where = server.next_error()
        assert server.next_error().startswith("listening on ")
        found = re.fullmatch(r"admin page on http://(127\.0\.0\.1:\d+)/", where)
        assert found is not None
        client = Scraper(connect_now(Address.parse(found[1])))
        page = await client.get("/")
        await client.stream.aclose()

    assert (200, True) == (page.status, b"<title>trio_wsk</title>" in page.content)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--admin", "0.0.0.0:80"], "others than the users of this machine reach 0.0.0.0, so"),
        (["--admin", "[::]:80"], "others than the users of this machine reach ::, so there"),
        (["--admin", "admin.example:80"], "reach admin.example, so there has to be an admin_token"),
        (["--admin", "http"], "admin is a host and a port, 127.0.0.1:8080"),
        (["--admin", "::1:80"], "admin is a host and a port, 127.0.0.1:8080"),
        (["--admin", "80", "--admin-token-file", "none"], "none can't be read: No such file"),
        (["--admin", "80", "--admin-token-file", "app.py"], "app.py has no token, which is 16"),
        (["--admin-token-file", "token"], "admin_token_file goes with admin, which is not given"),
        (["--admin", "80", "--admin-token-file", "token"], None),
        (["--admin", "0.0.0.0:80", "--admin-token-file", "token"], None),
        (["--admin", "localhost:80"], None),
        (["--admin", "[::1]:80"], None),
    ],
)
def test_check_says_what_is_wrong(
    folder: Path, arguments: list[str], says: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    ``check`` says what the page lacks: a place, a token that is one, and where others can connect,
    or may by what is known of a name, a token at all.
    """
    status = main(["check", "app:echo", "--port", "1", *arguments])
    said = capsys.readouterr().out

    assert (0 if says is None else 1) == status
    assert (says or "nothing is wrong") in said


def test_missing_h11_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without h11, ``check`` says what to install; without the page nobody asks for it."""
    monkeypatch.setitem(sys.modules, "h11", None)
    for name in [each for each in sys.modules if each.startswith("trio_wsk.admin")]:
        monkeypatch.delitem(sys.modules, name)
    statuses = [
        main(["check", "app:echo", "--port", "1", *more]) for more in (["--admin", "80"], [])
    ]

    assert [1, 0] == statuses
    assert "--admin: trio_wsk.admin needs h11" in capsys.readouterr().out


@given(
    st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str), st.just("a.example")),
    st.integers(0, 65535),
)
def test_host_and_port_are_read_as_they_are_written(host: str, port: int) -> None:
    """Whatever is written as an address and a port is read as these."""
    written = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    assert (host, port) == host_and_port(written)
    assert ("127.0.0.1", port) == host_and_port(f"{port}")


@given(st.text())
def test_anything_else_is_refused(text: str) -> None:
    """Whatever else is written is refused, or has a host, and a port that can be one."""
    try:
        host, port = host_and_port(text)
    except WrongValueError:
        return
    assert host
    assert 0 <= port <= 65535
