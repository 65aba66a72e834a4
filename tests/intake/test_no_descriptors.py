"""A server that may have 64 descriptors, and 200 clients: each policy does what it says.

The server is a program of its own (`scarce_server`); the clients live here.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers.places import ROOT
from tests.helpers.scarce_server import GREETING, IRPS, LIMIT, LOG_PREFIX
from tests.helpers.support import PATIENCE
from trio_wsk import Address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from typing_extensions import Self

CLIENTS = 200
STYLES = ["serve", "accept"]

LOG_LINES = 6
"""What the log must stay under; an error's traceback belongs to its line."""


class Client:
    """Somebody who wants to be greeted, to have something echoed, and to go."""

    def __init__(self, address: Address) -> None:
        peer = socket.socket()
        peer.settimeout(PATIENCE)
        self.was_reset = False
        try:
            peer.connect(address.sockaddr)
        except ConnectionResetError:
            self.was_reset = True  # so quickly that connect() comes too late to say yes
        self.sock = trio.socket.from_stdlib_socket(peer)
        self.said = repr(peer.getsockname()).encode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    async def greeted(self) -> bool:
        """Wait until the server takes it (True) or resets it."""
        try:
            return not self.was_reset and GREETING == await self._receive(len(GREETING))
        except ConnectionResetError:
            return False

    async def _receive(self, size: int) -> bytes:
        received = b""
        with trio.fail_after(PATIENCE):
            while len(received) < size:
                data = await self.sock.recv(size - len(received))

                assert data, received

                received += data
        return received

    async def echo(self) -> None:
        """Have something echoed, and finish; then the server has, and its descriptor is back."""
        await self.sock.send(self.said)

        assert self.said == await self._receive(len(self.said))

        self.sock.shutdown(socket.SHUT_WR)

        assert "fin" == await self.fate()

        self.sock.close()

    async def be_served(self) -> None:
        """Be what every client wants to be."""
        assert await self.greeted()

        await self.echo()

    async def fate(self) -> str:
        """Read to the end, and say which one it was: ``fin`` or ``reset``."""
        with trio.fail_after(PATIENCE):
            try:
                while await self.sock.recv(100):
                    pass
            except ConnectionResetError:
                return "reset"
        return "fin"


class ScarceServer:
    """The program, and everything that it has said so far."""

    def __init__(self, process: trio.Process, log: Path, at_the_end: ExitStack) -> None:
        self.said: list[dict[str, Any]] = []
        self.log = log
        self._process = process
        self._at_the_end = at_the_end
        self._rest = b""
        self._understood = 0

    async def hear(self, what: str) -> dict[str, Any]:
        """Wait for the next line that says this; what is said before it is in ``said`` only."""
        with trio.fail_after(PATIENCE):
            while True:
                while self._understood < len(self.said):
                    self._understood += 1
                    if self.said[self._understood - 1]["what"] == what:
                        return self.said[self._understood - 1]
                await self._read()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        data = await self._process.stdout.receive_some()

        assert data, f"the server ended: {self.log.read_text()}"

        *lines, self._rest = (self._rest + data).split(b"\n")
        self.said += map(json.loads, lines)

    def client(self) -> Client:
        """Connect a client, without giving anybody else a turn; it is closed at the end."""
        (listening,) = self.told("listening")
        return self._at_the_end.enter_context(Client(Address.parse(listening["address"])))

    async def resume(self) -> None:
        """Have it accept."""
        await self._tell(b"R")

    async def statistics(self) -> dict[str, Any]:
        """Ask for the statistics."""
        await self._tell(b"?")
        return await self.hear("statistics")

    async def _tell(self, what: bytes) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(what)

    async def statistics_when(self, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Ask again and again, until something holds that the server doesn't announce."""
        with trio.fail_after(PATIENCE):
            while not holds(statistics := await self.statistics()):  # noqa: ASYNC110 - as it says
                await trio.sleep(0.02)
        return statistics

    async def end(self) -> dict[str, Any]:
        """Have it end; return its last words."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        return await self.hear("ended")

    def told(self, record: str) -> list[dict[str, Any]]:
        """Return the records of one kind, of all that has been said."""
        return [each for each in self.said if each["what"] == record]


@asynccontextmanager
async def running(
    tmp_path: Path, policy: str, style: str, readiness: str
) -> AsyncIterator[ScarceServer]:
    """Run the server; at its end it must have let go of everything, and not have logged much."""
    command = [sys.executable, "-m", "tests.helpers.scarce_server", policy, style, readiness]
    path = tmp_path / "log"
    with trio.fail_after(30), path.open("wb") as log:
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=ROOT,
                )
            )
            with ExitStack() as at_the_end:
                server = ScarceServer(process, path, at_the_end)
                await server.hear("listening")
                yield server
                ended = await server.end()

            assert ended["before"] == ended["after"]

            await process.wait()
    text = path.read_text()

    assert 0 < text.count(LOG_PREFIX) < LOG_LINES, text


def most_attempts(seconds: float) -> int:
    """
    Return how often accepting may be tried in vain in this time: the waits grow, from 0.1
    seconds to one, and by chance they are up to a quarter shorter.
    """
    attempts, wait = 0, 0.1
    while seconds >= 0:
        attempts += 1
        seconds -= 0.75 * wait
        wait = min(2 * wait, 1)
    return attempts


async def all_backoffs(server: ScarceServer) -> list[dict[str, Any]]:
    """
    Wait until the bad time is over; return the records that ended one. They come in pairs,
    and their attempts are all that there were.
    """
    statistics = await server.statistics()
    while len(server.told("AcceptBackoffEnded")) < statistics["accept_backoffs"]:
        await server.hear("AcceptBackoffEnded")
    statistics = await server.statistics()
    told = [each["what"] for each in server.said if each["what"].startswith("AcceptBackoff")]

    assert ["AcceptBackoffStarted", "AcceptBackoffEnded"] * statistics["accept_backoffs"] == told

    ends = server.told("AcceptBackoffEnded")

    assert {"EMFILE": sum(each["attempts"] for each in ends)} == statistics["accept_errors"]

    return ends


@pytest.mark.parametrize("style", STYLES)
async def test_backoff_lets_clients_wait_and_serves_all(
    tmp_path: Path, style: str, readiness: str
) -> None:
    """
    With ``backoff``, those for whom there is no descriptor wait in the kernel's backlog. When
    descriptors come back they are served, all of them; then a new client is. Meanwhile accepting
    is tried no more often than the waits allow, and nothing else goes round.
    """
    async with running(tmp_path, "backoff", style, readiness) as server:
        clients = [server.client() for _ in range(CLIENTS // 2)]
        await server.resume()
        clients += [server.client() for _ in range(CLIENTS // 2)]
        started = await server.hear("AcceptBackoffStarted")

        assert ("EMFILE", "backoff") == (started["errno_name"], started["policy"])

        first = await server.statistics()
        asked = len(server.told("statistics"))
        later = await server.statistics_when(lambda now: now["accept_errors"]["EMFILE"] >= 3)
        asked = len(server.told("statistics")) - asked

        assert 0 < later["accepted"] < LIMIT
        assert CLIENTS == later["accepted"] + later["backlog"]
        # Asking takes a turn or two; so does each attempt, and each who was greeted meanwhile.
        assert later["turns"] - first["turns"] < 10 * (asked + 3) + LIMIT

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.be_served)
        ends = await all_backoffs(server)

        for end in ends:
            assert end["attempts"] <= most_attempts(end["seconds"])
        assert {0} == {end["shed"] for end in ends}

        await server.client().be_served()
        statistics = await server.statistics()

        assert CLIENTS + 1 == statistics["accepted"] == sum(statistics["delivered"].values())
        assert 0 == statistics["shed"]


@pytest.mark.parametrize("style", STYLES)
async def test_shed_resets_whom_it_has_no_descriptor_for(
    tmp_path: Path, style: str, readiness: str
) -> None:
    """
    With ``shed``, those for whom there is no descriptor are reset at once, and the others
    live. When descriptors come back, a new client is served.
    """
    async with running(tmp_path, "shed", style, readiness) as server:
        clients = [server.client() for _ in range(CLIENTS // 2)]
        await server.resume()
        clients += [server.client() for _ in range(CLIENTS // 2)]
        were_greeted: dict[Client, bool] = {}

        async def see(client: Client) -> None:
            were_greeted[client] = await client.greeted()

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(see, client)
        guests = [client for client in clients if were_greeted[client]]
        full = await server.statistics()

        assert 0 < len(guests) < LIMIT
        assert len(guests) == full["accepted"] == sum(full["delivered"].values())
        assert CLIENTS - len(guests) == full["shed"]
        assert ["shed"] == [each["policy"] for each in server.told("AcceptBackoffStarted")]
        assert [] == server.told("AcceptBackoffEnded")

        async with trio.open_nursery() as nursery:
            for guest in guests:
                nursery.start_soon(guest.echo)
        await server.client().be_served()
        (end,) = await all_backoffs(server)

        assert full["shed"] == end["shed"]
        # Who arrives is worth an attempt that resets somebody, and one that finds nobody left.
        assert end["attempts"] <= 2 * CLIENTS


@pytest.mark.parametrize("style", STYLES)
async def test_raise_ends_the_server(tmp_path: Path, style: str, readiness: str) -> None:
    """
    With ``raise``, the listening socket fails: `serve`, or the block, ends with the system's
    error and nothing else, and everybody who waits in the backlog is reset.
    """
    async with running(tmp_path, "raise", style, readiness) as server:
        clients = [server.client() for _ in range(CLIENTS)]
        await server.resume()
        failed = await server.hear("failed")

        assert "EMFILE" == failed["error"]
        assert ["EMFILE"] == [each["error"] for each in server.told("ListenerFailed")]
        assert [] == server.told("AcceptBackoffStarted")
        fates = [await client.fate() for client in clients]

        # Whoever has accepted a connection ends it: serve() resets it, our loop says good-bye.
        assert {"reset"} == set(fates if style == "serve" else fates[LIMIT:])


async def test_raise_completes_queued_accepts(tmp_path: Path, readiness: str) -> None:
    """
    With ``raise``, accepts that are queued complete with FILE_FORCED_CLOSED, and those
    that have a connection already keep it.
    """
    async with running(tmp_path, "raise", "queue", readiness) as server:
        for _ in range(CLIENTS):
            server.client()
        await server.resume()
        statuses = (await server.hear("irps"))["statuses"]
        taken = statuses.count("SUCCESS")

        assert 0 < taken < LIMIT
        assert ["SUCCESS"] * taken + ["FILE_FORCED_CLOSED"] * (IRPS - taken) == statuses
        assert "EMFILE" == (await server.hear("failed"))["error"]
