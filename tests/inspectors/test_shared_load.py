"""Two processes that share a limit, and thousands of clients that count for themselves."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest
import trio

from tests.helpers.places import ROOT
from tests.helpers.redis_server import HOST, RedisServer, running_redis
from tests.helpers.support import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONNECTIONS: Final = 20_000
ADDRESSES: Final = [f"127.0.1.{number}" for number in range(1, 101)]
LIMIT: Final = 10
AT_ONCE: Final = 14  # from each address, so that some are too many
LEASE: Final = 3.0

SERVER = """
import sys, coredis, trio, trio_wsk
from trio_wsk.inspectors import Rules, Shared, SourceLimit

async def handler(connection):
    await connection.send_all(b"+")
    await connection.receive_some()

async def main(redis_port, limit, lease):
    client = coredis.Redis("127.0.0.1", redis_port)
    async with client, Shared(client, SourceLimit(limit), timeout=60, lease=lease) as shared:
        async with trio_wsk.open_server(
            handler, 0, host="127.0.0.1", inspect=Rules(shared), inspect_timeout=60
        ) as server:
            print(server.local_addresses[0].port, flush=True)
            await trio.to_thread.run_sync(sys.stdin.read)

trio.run(main, int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
"""


class Process:
    """One that serves, in a process of its own."""

    def __init__(self, redis_port: int) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", SERVER, *map(str, (redis_port, LIMIT, LEASE))],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()
        self._process.communicate()

    def finish(self) -> int:
        """Have it end in good order."""
        self._process.communicate()
        return self._process.returncode


@contextmanager
def processes(redis_port: int) -> Iterator[list[Process]]:
    """Run two of them."""
    running: list[Process] = []
    try:
        while len(running) < 2:
            running.append(Process(redis_port))
        yield running
    finally:
        for each in running:
            each.kill()


class Crowd:
    """Clients of one address, who keep their connections as long as others come."""

    def __init__(self, address: str, ports: list[int]) -> None:
        self.address = address
        self.answers: Counter[bytes] = Counter()
        self.most = 0
        """How many were let in at once, at most."""
        self._ports = ports
        self._open = 0
        self._left = CONNECTIONS // len(ADDRESSES)
        self._coming = 0
        self._parked = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Have all come, so many at once."""
        async with trio.open_nursery() as nursery:
            for number in range(AT_ONCE):
                nursery.start_soon(self._one_after_the_other, number)

    async def _one_after_the_other(self, number: int) -> None:
        while self._left:
            self._left -= 1
            number += 1
            await self._come(self._ports[number % len(self._ports)])

    async def _come(self, port: int) -> None:
        self._coming += 1
        client, answer = await connected(self.address, port)
        self._coming -= 1
        self.answers[answer] += 1
        self._parked.unpark_all()
        if answer == b"+":
            self._open += 1
            self.most = max(self.most, self._open)
            seen = self.answers.total()
            while self._coming and self.answers.total() < seen + 3:
                await self._parked.park()
            self._open -= 1
        client.close()


async def connected(address: str, port: int) -> tuple[trio.socket.SocketType, bytes]:
    """Connect from an address; return the answer, b"" if there was none but an end."""
    client = trio.socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await client.bind((address, 0))
    try:
        await client.connect((HOST, port))
        return client, await client.recv(1)
    except ConnectionResetError:
        return client, b"reset"


def places(server: RedisServer) -> int:
    """Return how many places the server knows of."""
    values = [value for key in server.ask("KEYS", "*") for value in server.ask("HVALS", key)]
    return sum(int(value.partition(b" ")[0]) for value in values)


@pytest.mark.heavy
async def test_two_processes_share_a_limit(tmp_path: Path) -> None:
    """
    Twenty thousand connections from a hundred addresses: each has an answer, none of the
    addresses has more than ten at once by the clients' own count, and in the end nothing is
    held. What a process held that was killed is free again when its leases are over.
    """
    with running_redis(tmp_path) as redis, processes(redis.port) as running:
        ports = [each.port for each in running]
        crowds = [Crowd(address, ports) for address in ADDRESSES]
        async with trio.open_nursery() as nursery:
            for crowd in crowds:
                nursery.start_soon(crowd.run)

        answers = sum((crowd.answers for crowd in crowds), Counter[bytes]())
        assert CONNECTIONS == answers.total()
        assert {b"+", b"reset"} == {*answers}
        assert LIMIT == max(crowd.most for crowd in crowds)
        await until(lambda: places(redis) == 0)

        held = [await connected(address, ports[0]) for address in ADDRESSES for _ in range(LIMIT)]
        assert {b"+"} == {answer for _, answer in held}
        for address in ADDRESSES:
            client, answer = await connected(address, ports[1])
            assert b"reset" == answer
            client.close()
        running[0].kill()
        assert all(0 < redis.ask("PTTL", key) <= LEASE * 1000 for key in redis.ask("KEYS", "*"))
        await until(lambda: not redis.ask("KEYS", "*"))
        for client, _ in held:
            client.close()

        again = [await connected(address, ports[1]) for address in ADDRESSES for _ in range(LIMIT)]
        assert {b"+"} == {answer for _, answer in again}
        for client, _ in again:
            client.close()
        await until(lambda: places(redis) == 0)
        assert 0 == running[1].finish()
