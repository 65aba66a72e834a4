"""Reloads, upgrades and kills, while clients come again and again and count what they lose."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest

from tests.helpers.changes import HANDLER, WORKERS, Changing, excess_of, load
from tests.helpers.counting_clients import Wanted
from tests.helpers.programs import LONG
from tests.helpers.serving import CA, SERVER_CERTIFICATE
from tests.helpers.supervised import Supervised, supervised

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.heavy

IS_FULL: Final = bool(os.environ.get("TRIO_WSK_ALL_CHANGES"))
"""Whether each change is made as often as the library promises it, under as much load: minutes."""
RELOADS, UPGRADES, KILLS = (10, 3, 5) if IS_FULL else (1, 1, 1)
BETWEEN: Final = 1000 if IS_FULL else 200
"""How many clients are answered from one change to the next."""
PATIENCE: Final = 10 * LONG if IS_FULL else LONG
"""Seconds after which a supervisor is killed."""
PER_SECOND: Final = 2000.0 if IS_FULL else 200.0

ON = ("--host", "127.0.0.1", "--port", "0")
PLACES: Final = {
    "own queues": ON,
    "one queue": (*ON, "--shared-queue"),
    "path": ("--path", "s"),
    "descriptor": ("--fd", "3"),
    "activation": ("--socket-name", "web"),
    "tls": (*ON, "--tls-cert", "cert.pem", "--tls-key", "key.pem"),
}
ADOPTED: Final = ("descriptor", "activation")
SHARED: Final = ("one queue", "path", *ADOPTED)

AS_A_SERVICE_MANAGER: Final = """
import os, sys
os.dup2(int(sys.argv.pop()), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(sys.executable, [sys.executable, "-m", "trio_wsk", *sys.argv[1:]])
"""


@pytest.mark.parametrize("place", PLACES)
async def test_changes_lose_nobody_and_kills_only_who_was_open(place: str, tmp_path: Path) -> None:
    """
    While workers are reloaded, and while a new supervisor takes over, no connection is refused,
    reset or unanswered, and the new workers serve. A worker that is killed takes with it no more
    connections than it had open, and no one else's.
    """
    (tmp_path / "app.py").write_text(HANDLER, "utf-8")
    async with server_at(place, tmp_path) as server:
        changing = Changing(server)
        wanted = await wanted_at(place, server)
        async with aclosing(changing), load(wanted) as clients:
            await clients.answers(BETWEEN)
            for _ in range(RELOADS):
                await changing.reload()
                await clients.answers(BETWEEN)
            for _ in range(UPGRADES):
                await changing.upgrade()
                await clients.answers(BETWEEN)

            assert {} == clients.counted.lost

            for number in range(KILLS):
                await changing.kill(number % WORKERS)
                await clients.until_served_by(await changing.workers(), share=place in SHARED)
                await clients.answers(BETWEEN)
            await changing.reload()
            await clients.until_served_by(await changing.workers(), share=place in SHARED)
            counted = await clients.end()

    assert {} == excess_of(counted, changing.were_open)
    assert counted.begun == counted.answered + counted.lost.total()


@asynccontextmanager
async def server_at(place: str, folder: Path) -> AsyncIterator[Supervised]:
    """Run a supervisor with two workers; ends of connections have all the time they need."""
    SERVER_CERTIFICATE.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    SERVER_CERTIFICATE.private_key_pem.write_to_path(folder / "key.pem")
    CA.cert_pem.write_to_path(folder / "ca.pem")
    arguments = ["app:greet", *PLACES[place], "--workers", str(WORKERS), "--grace", "600"]
    if place not in ADOPTED:
        async with supervised(folder, *arguments, patience=PATIENCE) as server:
            yield server
        return
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as sock:
        arguments.append(str(sock.fileno()))
        given = [sock.fileno()]
        async with supervised(
            folder, *arguments, pass_fds=given, before=AS_A_SERVICE_MANAGER, patience=PATIENCE
        ) as server:
            yield server


async def wanted_at(place: str, server: Supervised) -> Wanted:
    """Say what clients shall do, once the server listens."""
    if place == "path":
        await server.line("listening on ")
        return Wanted(str(server.folder / "s"), per_second=PER_SECOND)
    authority = str(server.folder / "ca.pem") if place == "tls" else None
    return Wanted(await server.port(), per_second=PER_SECOND, authority=authority)


FAILING: Final = """
import os, socket, time

def is_new():
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with sock:
            if sock.family == socket.AF_INET and sock.getsockname()[1]:
                return not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)

if is_new():
    open("new", "w").close()
else:
    while not os.path.exists("new"):
        time.sleep(0.01)
    raise SystemExit(7)
"""
"""What only a worker with a new queue can import; the others end when it has."""


async def test_reload_that_fails_loses_nobody(tmp_path: Path) -> None:
    """
    Where some of the new workers can't start, and others, with new queues, could, no connection is
    refused, reset or unanswered: nobody comes to a worker that will not stay.
    """
    app = tmp_path / "app.py"
    app.write_text(HANDLER, "utf-8")
    config = tmp_path / "a.toml"
    text = 'handler = "app:greet"\nhost = "127.0.0.1"\nport = 0\nworkers = 2\ngrace = 600\n'
    config.write_text(text, "utf-8")
    async with (
        supervised(tmp_path, "--config", "a.toml") as server,
        load(Wanted(await server.port(), per_second=PER_SECOND)) as clients,
    ):
        await clients.answers(BETWEEN)
        app.write_text(FAILING + HANDLER, "utf-8")
        config.write_text(text.replace("workers = 2", "workers = 4"), "utf-8")
        server.send(signal.SIGHUP)
        await server.line("not reloaded, the workers from before go on: ")
        await clients.answers(BETWEEN)
        app.write_text(HANDLER, "utf-8")
        server.send(signal.SIGHUP)
        await server.line("reloaded: ")
        await clients.until_served_by(server.workers())
        counted = await clients.end()

    assert {} == counted.lost
