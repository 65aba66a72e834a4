"""Thousands of requests at once under inspection, with their clients in a second process."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.inspecting import ACCEPT, PEND, REJECT, check_balance
from tests.helpers.places import ROOT
from tests.helpers.scarcity import many_descriptors
from tests.helpers.support import connect, held, read_to_end, until
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    ConnectionRequest,
    EventMask,
    InspectAction,
    InspectId,
    ListenDispatch,
    ListeningSocket,
    Status,
    open_listening_socket,
    open_server,
)
from trio_wsk._engine import choice as _choice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("readiness")]

REQUESTS = 8000
"""How many are pended at once: as many as the ports and descriptors of one machine give."""

CLIENTS = 1000
"""How many are inspected at once by tasks."""

FLOOD = 3000
"""How many come and go, if the machine is quick enough."""

DESCRIPTORS = REQUESTS + 500
"""How many this process and the clients' are allowed to have."""

PATIENCE = 200
"""Seconds that everything may take; the clients give up a little earlier."""

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def _descriptor_for_each_client() -> Iterator[None]:
    """Allow this process a descriptor for each client."""
    with many_descriptors(DESCRIPTORS):
        yield


class Program:
    """A program that talks in lines of JSON."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._heard = b""

    async def hear(self) -> Any:
        """Wait for its next line."""
        assert self._process.stdout is not None

        while b"\n" not in self._heard:
            data = await self._process.stdout.receive_some()
            assert data, "it has ended"
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    async def go_on(self) -> None:
        """Send it a line."""
        assert self._process.stdin is not None

        await self._process.stdin.send_all(b"\n")


@asynccontextmanager
async def running(module: str, *arguments: object) -> AsyncIterator[Program]:
    """Run a program of the tests'; it ends by itself."""
    command = [sys.executable, "-m", f"tests.helpers.{module}", *map(str, arguments)]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        assert process.stdin is not None
        assert process.stdout is not None

        async with process.stdin, process.stdout:
            yield Program(process)
            await process.wait()


class Gate:
    """Pends everybody, lets half of those who stay through, and keeps what becomes of them."""

    def __init__(self) -> None:
        self.listening: ListeningSocket
        self.pended: dict[int, InspectId] = {}
        """By the peer's port."""
        self.taken: list[InspectId | None] = []
        self.aborted: list[InspectId] = []

    def inspect(self, request: ConnectionRequest) -> InspectAction:
        """Decide later."""
        self.pended[request.remote_address.port] = request.inspect_id
        return PEND

    def abort(self, inspect_id: InspectId) -> None:
        """Note who has left."""
        assert self.listening.pending_inspections[inspect_id].aborted is not None

        self.aborted.append(inspect_id)

    def accept(self, connection: Connection) -> ConnectionDispatch:
        """Say yes, and good-bye."""
        self.taken.append(connection.inspect_id)
        connection.disconnect(data=b"yes")
        return ConnectionDispatch(receive=lambda connection, data: None)

    @property
    def dispatch(self) -> ListenDispatch:
        """Its callbacks."""
        return ListenDispatch(inspect=self.inspect, abort=self.abort, accept=self.accept)


async def test_thousands_pended_at_once_end_each_as_it_must(
    caplog: pytest.LogCaptureFixture, readiness: str
) -> None:
    """
    Of 8,000 requests that are pended at once half abort, while a quarter is rejected and a
    quarter accepted, in random order: every one ends right, its peer is told so, and of none
    is anything left.
    """
    gate = Gate()
    before = held()[0]
    with trio.fail_after(PATIENCE):
        async with open_listening_socket(
            0,
            host=HOST,
            dispatch=gate.dispatch,
            max_pending=REQUESTS,
            max_parked=REQUESTS,
            inspect_timeout=PATIENCE,
        ) as gate.listening:
            gate.listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
            port = gate.listening.local_addresses[0].port
            # Where nothing tells of an end behind data, each is looked at from time to time,
            # and so many at once would be a test of that alone.
            first = "unread" if readiness == "epoll" else ""
            async with running("crowd", "wait", port, REQUESTS, first) as crowd:
                ports = await crowd.hear()
                await until(lambda: len(gate.pended) == REQUESTS)

                assert REQUESTS == gate.listening.statistics().pending
                assert REQUESTS == len(gate.listening.pending_inspections)

                leaving = {gate.pended[port] for port in ports["leaving"]}
                staying = [gate.pended[port] for port in ports["staying"]]
                random.Random(0).shuffle(staying)  # noqa: S311 - it should be different, not secret
                await crowd.go_on()
                for count, inspect_id in enumerate(staying):
                    answer = REJECT if count % 2 else ACCEPT

                    assert Status.SUCCESS == gate.listening.inspect_complete(inspect_id, answer)

                    if count % 64 == 0:
                        await trio.lowlevel.checkpoint()
                fates = await crowd.hear()
            await until(lambda: len(gate.aborted) == len(leaving))
            await until(lambda: held()[0] <= before + 20)  # the epolls and the listening socket
            counted = gate.listening.statistics()

            assert REQUESTS == counted.pending_most == counted.inspected == counted.accepted
            assert 0 == counted.pending == counted.parked == len(gate.listening.pending_inspections)
            assert {"reset": REQUESTS // 2} == dict(counted.aborted)
            assert {"rejected": REQUESTS // 4} == dict(counted.rejected)
            assert {"accept": 0, "event": REQUESTS // 4} == dict(counted.delivered)
            check_balance(counted)

            assert leaving == set(gate.aborted)
            assert len(leaving) == len(gate.aborted)
            assert set(staying[::2]) == set(gate.taken)
            assert len(staying[::2]) == len(gate.taken)
            assert {"yes": REQUESTS // 4, "ConnectionResetError": REQUESTS // 4} == fates
            assert [] == caplog.messages

            for inspect_id in [*leaving][:100]:
                assert Status.CONNECTION_ABORTED == gate.listening.inspect_complete(
                    inspect_id, ACCEPT
                )
    assert before == held()[0]


async def echo(connection: Connection) -> None:
    """Send everything back."""
    async for data in connection:
        await connection.send_all(data)


async def test_slow_inspections_of_a_thousand_are_in_flight_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    An async inspector that takes its time, and goes on only when all have been asked about:
    none waits for another one, and all are served.
    """
    asked = 0
    all_asked = trio.Event()

    async def inspect(request: ConnectionRequest) -> InspectAction:
        nonlocal asked
        asked += 1
        if asked == CLIENTS:
            all_asked.set()
        await trio.sleep(0.2)
        await all_asked.wait()
        return ACCEPT

    with trio.fail_after(PATIENCE):
        async with open_server(
            echo, 0, host=HOST, inspect=inspect, inspect_timeout=PATIENCE, grace=0
        ) as server:
            port = server.local_addresses[0].port
            async with running("clients", port, CLIENTS, 1 << 10, 0) as clients:
                fates = await clients.hear()
            await until(lambda: not server.statistics().open_connections)
            counted = server.statistics()

            assert {"echoed": CLIENTS} == fates
            assert CLIENTS == counted.listening.pending_most == counted.listening.approved
            assert CLIENTS == counted.served
            assert 0 == counted.handler_failures
            assert [] == caplog.messages
            check_balance(counted.listening)


async def test_flood_neither_starves_a_steady_client_nor_leaks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    While clients come and go in every way there is, one that stays is let in and served again
    and again; in the end there are as many tasks and descriptors as in the beginning.
    """

    async def inspect(request: ConnectionRequest) -> InspectAction:

        return ACCEPT if await request.peek(6) == b"friend" else REJECT

    rounds = 0
    is_over = False

    async def be_steady() -> None:
        nonlocal rounds
        while not is_over:
            client = await connect(server.local_addresses[0])
            async with client:
                await client.send_all(b"friend")
                await client.send_eof()

                assert b"friend" == await read_to_end(client)
            rounds += 1

    with trio.fail_after(PATIENCE):
        async with open_server(
            echo, 0, host=HOST, inspect=inspect, inspect_timeout=5, grace=0
        ) as server:
            _choice.task_readiness()  # shared by all awaited connections of a run
            await wait_all_tasks_blocked()
            before = held(server)
            async with trio.open_nursery() as nursery:
                async with running(
                    "crowd", "flood", server.local_addresses[0].port, FLOOD
                ) as crowd:
                    nursery.start_soon(be_steady)
                    left = await crowd.hear()
                seen = rounds
                is_over = True
            await until(lambda: held(server) == before)
            counted = server.statistics().listening

            # Who finishes behind data is asked, or, where that can't be told from data, waited for.
            asked = counted.rejected["rejected"] + counted.aborted.get("timed-out", 0)
            came = sum(left.values())

            assert seen >= came // 100
            assert 0 == counted.pending == counted.parked == counted.straggling
            assert came + rounds == counted.accepted
            assert left["wait"] + left["close after data"] == asked
            assert left["close"] + left["half"] == counted.aborted["fin"]
            assert left["reset"] + left["reset after data"] == counted.aborted["reset"]
            # A machine that stalls for a second makes its inspectors late, too.
            assert [] == [line for line in caplog.messages if "goes on" not in line]
            check_balance(counted)
