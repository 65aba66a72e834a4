"""Reloads, upgrades and kills, while clients come again and again and count what they lose."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers.programs import LONG
from tests.helpers.serving import CA, SERVER_CERTIFICATE
from tests.helpers.supervised import APP, Clients, Supervised, gone, kill, supervised

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.heavy

ON = ("--host", "127.0.0.1", "--port", "0")
TASKS = 30
"""How many clients there are at once."""

PLACES = {
    "own queues": [*ON],
    "one queue": [*ON, "--shared-queue"],
    "path": ["--path", "s"],
    "descriptor": ["--fd"],
    "tls": [*ON, "--tls-cert", "cert.pem", "--tls-key", "key.pem"],
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    """Each kind of place to listen at."""
    name: str = request.param
    return name


@pytest.fixture
def listening() -> socket.socket:
    """A socket of somebody else's, which is passed on."""
    return socket.create_server(("127.0.0.1", 0), backlog=1000)


def arguments_for(place: str, folder: Path, listening: socket.socket) -> list[str]:
    """Write what stands behind ``serve``."""
    SERVER_CERTIFICATE.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    SERVER_CERTIFICATE.private_key_pem.write_to_path(folder / "key.pem")
    more = [str(listening.fileno())] if place == "descriptor" else []
    return ["app:who", *PLACES[place], *more, "--workers", "2"]


async def clients_of(place: str, server: Supervised) -> Clients:
    """Make clients for the place that is listened at."""
    if place == "path":
        await server.line("listening on ")
        return Clients(str(server.folder / "s"))
    context = None
    if place == "tls":
        context = ssl.create_default_context()
        CA.configure_trust(context)
    return Clients(await server.port(), context)


async def test_reloads_lose_nobody(place: str, tmp_path: Path, listening: socket.socket) -> None:
    """While workers are replaced, twice, no connection is refused, reset or unanswered."""
    arguments = arguments_for(place, tmp_path, listening)
    pass_fds = [listening.fileno()]
    with listening:
        async with supervised(tmp_path, *arguments, pass_fds=pass_fds) as server:
            clients = await clients_of(place, server)
            async with clients.asking(TASKS):
                for version in ("second", "the-third"):
                    program = APP.replace('"first"', f'"{version}"')
                    (tmp_path / "app.py").write_text(program, "utf-8")
                    server.send(signal.SIGHUP)
                    await server.line("reloaded")
                    await clients.until(partial(has_answered, clients, version))

    assert {} == clients.lost
    assert {"first", "second", "the-third"} == clients.versions()


async def test_upgrades_lose_nobody(place: str, tmp_path: Path, listening: socket.socket) -> None:
    """While a new supervisor takes over, no connection is refused, reset or unanswered."""
    arguments = arguments_for(place, tmp_path, listening)
    pass_fds = [listening.fileno()]
    with listening:
        async with supervised(tmp_path, *arguments, pass_fds=pass_fds) as server:
            clients = await clients_of(place, server)
            before = server.workers()
            successor = 0
            try:
                async with clients.asking(TASKS):
                    server.send(signal.SIGUSR2)
                    line = await server.line("the new supervisor, process ")
                    successor = int(line.partition(",")[0])

                    assert 0 == await server.ends()

                    clients.answers.clear()
                    await clients.until(lambda: clients.answers.total() > TASKS)
            finally:
                if successor:
                    os.kill(successor, signal.SIGTERM)
                    with trio.move_on_after(LONG, shield=True):
                        await gone(successor)

    assert {} == clients.lost
    assert not {*before} & {int(answer.split()[0]) for answer in clients.answers}


async def test_kill_loses_only_who_was_open_there(
    place: str, tmp_path: Path, listening: socket.socket
) -> None:
    """
    A worker that is killed takes with it, at most, the connections that it had open; nobody is
    refused, and its successor serves.
    """
    arguments = arguments_for(place, tmp_path, listening)
    pass_fds = [listening.fileno()]
    with listening:
        async with supervised(tmp_path, *arguments, pass_fds=pass_fds) as server:
            clients = await clients_of(place, server)
            async with clients.asking(TASKS):
                for _ in range(2):
                    await clients.until(lambda: len(clients.answers) > 1)
                    kill(server.workers()[0])
                    await server.line("worker ")
                    clients.answers.clear()
                    await clients.until(lambda: len(clients.answers) > 1)

    assert not any("Refused" in why for why in clients.lost)
    assert 2 * TASKS >= clients.lost.total()


def has_answered(clients: Clients, version: str) -> bool:
    """Whether a version of the program serves."""
    return version in clients.versions()
