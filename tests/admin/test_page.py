"""The page in a real browser: what is to be seen, and what can be done there."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.lowlevel

from tests.helpers.browser import chromium, opened
from tests.helpers.serving import stay
from tests.helpers.supervised import connected, gone, supervised
from tests.helpers.support import connect_now, fate_of, until
from trio_wsk import ConnectionRequest, InspectAction, Server, open_server
from trio_wsk.admin import serve_admin
from trio_wsk.control import Control
from trio_wsk.inspectors import Rules, all_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.helpers.browser import Tab

pytestmark = pytest.mark.programs

TOKEN = "0123456789abcdef"  # noqa: S105 - a test's
HOSTILE = "<img src=x onerror=evil=1>"
LIVE = "document.getElementById('state').textContent === 'live'"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One browser for all of these; each test has a tab that knows nothing of the others'."""
    with chromium(tmp_path_factory.mktemp("browser")) as url:
        yield url


@attrs.frozen
class World:
    """A server that is looked at, and the tab that shows its page."""

    server: Server
    tab: Tab


def cell(table: str, head: str) -> str:
    """Write a program that reads the first row of a table, in the column with this head."""
    return f"({column(table, head)}[0] ?? null)"


def press(text: str) -> str:
    """Write a program that presses the first button that begins so and is to be seen."""
    return (
        f"[...document.querySelectorAll('button')].filter((each) => each.offsetParent).find((each)"
        f" => each.textContent.startsWith({json.dumps(text)})).click()"
    )


def level(name: str) -> str:
    """Write a program that reads one of the large numbers."""
    return (
        "[...document.querySelectorAll('#levels div')].find((each) => each.firstChild.textContent"
        f" === {json.dumps(name)}).lastChild.textContent"
    )


@asynccontextmanager
async def shown(browser: str, **options: Any) -> AsyncIterator[World]:
    """Serve the page of one server, and open it."""
    control = Control()
    async with open_server(stay, 0, host="127.0.0.1") as server, trio.open_nursery() as nursery:
        control.add("mail", server)
        page = await nursery.start(partial(serve_admin, control, 0, **options))
        async with opened(browser) as tab:
            await tab.go(f"http://localhost:{page.local_addresses[0].port}/")
            await tab.until(LIVE)
            yield World(server, tab)
        nursery.cancel_scope.cancel()


async def test_numbers_follow_the_traffic(browser: str) -> None:
    """
    What is open is shown, in the large numbers, in the table and in a plot, and changes with it;
    the browser has nothing to complain of.
    """
    async with shown(browser) as world:
        tab = world.tab
        await tab.until(f"{level('Open')} === '0'")
        clients = [connect_now(world.server.local_addresses[0]) for _ in range(7)]
        await tab.until(f"{level('Open')} === '7'")
        assert "7" == await tab.until(cell("places", "Open"))
        assert "mail" == await tab.until(cell("places", "Listener"))
        await tab.until("document.querySelectorAll('svg path').length >= 5")
        await tab.until(
            "[...document.querySelectorAll('.key')].some((each) => each.textContent === 'open 7')"
        )
        for client in clients:
            await client.aclose()
        await tab.until(f"{level('Open')} === '0'")

        assert [] == tab.complaints


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
async def test_page_fits(browser: str, width: int, scheme: str) -> None:
    """On a desk and on a telephone, by day and by night, nothing is wider than the window."""
    async with shown(browser, token=TOKEN) as world:
        tab = world.tab
        await tab.looks_like(width, scheme)
        await tab.run("document.getElementById('open').open = true")
        await tab.until("document.querySelectorAll('svg text').length > 8")
        wide = "document.documentElement.scrollWidth"

        assert await tab.run(f"{wide} <= window.innerWidth")
        ground = await tab.run("getComputedStyle(document.body).backgroundColor")
        assert ("rgb(17, 20, 24)" if scheme == "dark" else "rgb(245, 246, 248)") == ground
        assert [] == tab.complaints


async def test_names_are_text(browser: str, tmp_path: Path) -> None:
    """
    What a peer, or anybody, can name is shown as it is written, and is no markup: the address of a
    peer, a listener, a rule, a reason.
    """

    async def slow(_: ConnectionRequest) -> InspectAction | None:
        await trio.lowlevel.checkpoint()
        return None

    control = Control()
    rules = Rules(all_of(slow, name=HOSTILE))
    async with (
        open_server(stay, path=tmp_path / "s", inspect=rules) as server,
        trio.open_nursery() as nursery,
    ):
        control.add(HOSTILE, server, rules)
        page = await nursery.start(partial(serve_admin, control, 0))
        async with opened(browser) as tab:
            await tab.go(f"http://127.0.0.1:{page.local_addresses[0].port}/")
            await tab.until(LIVE)
            peer = socket.socket(socket.AF_UNIX)
            peer.bind(str(tmp_path / HOSTILE))
            peer.connect(str(tmp_path / "s"))
            await tab.run("document.getElementById('open').open = true")
            address = await tab.until(cell("connections", "Peer"))
            listener = await tab.until(cell("places", "Listener"))
            rule = await tab.until(cell("waits", "Rule"))
            peer.close()

            assert HOSTILE in address
            assert [HOSTILE] * 2 == [listener, rule]
            assert 0 == await tab.run("document.images.length")
            assert await tab.run("typeof evil === 'undefined'")
            assert [] == tab.complaints
        nursery.cancel_scope.cancel()


async def test_policy_keeps_strangers_programs_out(browser: str) -> None:
    """Even if markup got into the page, the browser would run nothing of it, and ask nobody."""
    async with shown(browser) as world:
        markup = '<img src="x" onerror="evil=1"><script>evil=1<\\/script><b style="color:red">'
        await world.tab.run(f"document.body.insertAdjacentHTML('beforeend', '{markup}')")
        await world.tab.until("document.images.length")

        assert await world.tab.run("typeof evil === 'undefined'")


async def test_who_has_the_token_steers(browser: str) -> None:
    """
    Without the token there are no buttons. With a wrong one they do nothing, and it is said why;
    with the right one a listener is paused, and, asked twice, a connection reset.
    """
    async with shown(browser, token=TOKEN) as world:
        tab, listening = world.tab, world.server.listening

        async def use(token: str) -> None:
            await tab.run(f"document.getElementById('token').value = {json.dumps(token)}")
            await tab.run(press("Use"))

        await tab.until(cell("places", "Listener"))
        assert not await tab.run(
            "[...document.querySelectorAll('td button')].some((e) => e.offsetParent)"
        )

        await use("wrong")
        await tab.run(press("Pause"))
        await tab.until("/wants its token/.test(document.getElementById('message').textContent)")
        assert "listening" == listening.statistics().state.value

        await use(TOKEN)
        await tab.run(press("Pause"))
        await tab.until(f"{cell('places', 'State')} === 'paused'")
        assert "paused" == listening.statistics().state.value
        await tab.run(press("Resume"))
        await tab.until(f"{cell('places', 'State')} === 'listening'")

        client = connect_now(world.server.local_addresses[0])
        await until(lambda: world.server.connections)
        await tab.run("document.getElementById('open').open = true")
        await tab.until(cell("connections", "Peer"))
        await tab.run(press("Reset"))
        assert 1 == len(world.server.connections)
        await tab.run(press("Reset: sure?"))
        assert "reset" == await fate_of(client)
        await client.aclose()


async def test_workers_are_shown_and_steered(browser: str, tmp_path: Path) -> None:
    """
    The page of a supervisor has a row for each worker, with its process, and steers one of them:
    it is paused, and the other one listens; a connection is reset in the worker that has it. A new
    supervisor takes the page over with the rest.
    """
    (tmp_path / "token").write_text(f"{TOKEN}\n", "ascii")
    where = ["--host", "127.0.0.1", "--port", "0", "--admin", "0", "--admin-token-file", "token"]
    async with (
        supervised(tmp_path, "app:echo", *where, "--workers", "2") as server,
        opened(browser) as tab,
    ):
        page = await server.line("admin page on ")
        port = await server.port()
        await tab.go(page)
        await tab.until(LIVE)
        await tab.run(f"document.getElementById('token').value = {json.dumps(TOKEN)}")
        await tab.run(press("Use"))
        await tab.until(states("listening", "listening"))
        processes = await tab.run(column("places", "Process"))
        assert {str(each) for each in server.workers()} == set(processes)

        with connected(port) as client:
            client.sendall(b"x")
            await trio.to_thread.run_sync(client.recv, 1)
            await tab.run("document.getElementById('open').open = true")
            await tab.until(cell("connections", "Peer"))
            await tab.run(press("Reset"))
            await tab.run(press("Reset: sure?"))
            with pytest.raises(ConnectionResetError):
                await trio.to_thread.run_sync(client.recv, 1)

        await tab.run(press("Pause"))
        await tab.until(states("paused", "listening"))

        server.send(signal.SIGUSR2)
        successor = int((await server.line("the new supervisor, process ")).partition(",")[0])
        try:
            assert 0 == await server.ends()
            await tab.until(f"!{json.dumps(processes)}.includes({cell('places', 'Process')})")
            await tab.until(LIVE)
        finally:
            os.kill(successor, signal.SIGTERM)
        await gone(successor)


def column(table: str, head: str) -> str:
    """Write a program that reads a column of a table."""
    return (
        f"(() => {{ const table = document.getElementById({json.dumps(table)});"
        f" const heads = [...table.tHead.rows[0].cells].map((each) => each.textContent);"
        f" return [...table.tBodies[0].rows].map((row) => row.cells[heads.indexOf("
        f"{json.dumps(head)})].textContent); }})()"
    )


def states(*expected: str) -> str:
    """Write a program that asks whether the listeners are in these states."""
    return f"{column('places', 'State')}.join() === {json.dumps(','.join(expected))}"


async def test_page_comes_back_with_its_server(browser: str) -> None:
    """When the server is gone, that is said, and when it is back, the page goes on."""
    control = Control()
    async with opened(browser) as tab:
        port = 0
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                page: Server = await nursery.start(partial(serve_admin, control, port))
                if not port:
                    port = page.local_addresses[0].port
                    await tab.go(f"http://localhost:{port}/")
                await tab.until(LIVE)
                nursery.cancel_scope.cancel()
            await tab.until("/trying again/.test(document.getElementById('state').textContent)")
