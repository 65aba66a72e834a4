"""A thousand clients at once, and clients that reset in every phase.

The server is an example, run in this process, where what it holds can be counted; the
clients are a program of their own (`clients`).
"""

from __future__ import annotations

import json
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_wsk
from tests.documentation.test_examples import ECHOES
from tests.helpers.clients import PHASES
from tests.helpers.examples import example
from tests.helpers.places import ROOT
from tests.helpers.scarcity import many_descriptors
from tests.helpers.support import held, until
from trio_wsk._engine import choice as _choice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("readiness")]

CLIENTS = 1000
OCTETS = 1 << 18
"""How much each client sends."""

GOOD = 200
RUDE = 100
"""How many clients leave in each phase, between so many good ones."""

DESCRIPTORS = 2 * CLIENTS
"""How many this process and the clients' are allowed to have."""

PATIENCE = 200
"""Seconds that the clients and the server may take; the clients give up a little earlier."""


@pytest.fixture(autouse=True)
def _descriptor_for_each_client() -> Iterator[None]:
    """Allow this process a descriptor for each client."""
    with many_descriptors(DESCRIPTORS):
        yield


@asynccontextmanager
async def running(
    name: str,
) -> AsyncIterator[trio_wsk.Server | trio_wsk.ListeningSocket]:
    """Run an example's main() in a nursery."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(partial(example(name).main, port=0))
            nursery.cancel_scope.cancel()


async def send_clients(port: int, *, good: int, rude: int) -> dict[str, int]:
    """Run the clients' program; return how many of them ended in which way."""
    command = [sys.executable, "-m", "tests.helpers.clients"]
    command += map(str, (port, good, OCTETS, rude))
    completed = await trio.run_process(command, cwd=ROOT, capture_stdout=True)
    fates: dict[str, int] = json.loads(completed.stdout)
    return fates


async def wait_for_held(server: object, expected: tuple[int, int]) -> tuple[int, int]:
    """Wait until so much is held, or for long enough; return what is held then."""
    with suppress(trio.TooSlowError):
        await until(lambda: held(server) == expected)
    return held(server)


def check_balance(server: trio_wsk.Server | trio_wsk.ListeningSocket) -> int:
    """Check that the statistics add up when all have left; return how many were accepted."""
    if isinstance(server, trio_wsk.Server):
        whole = server.statistics()
        listening = whole.listening

        assert 0 == whole.open_connections
        assert whole.served == listening.delivered["event"]
        assert 0 == whole.handler_failures
    else:
        listening = server.statistics()

    delivered, dropped = sum(listening.delivered.values()), sum(listening.dropped.values())

    assert listening.accepted == delivered + listening.parked + dropped
    assert 0 == listening.parked
    assert {} == listening.accept_errors

    return listening.accepted


@pytest.mark.parametrize("name", ECHOES)
async def test_load_of_a_thousand_clients(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """
    A thousand clients at once, each sending 256 KiB of its own, get back what they sent; then
    neither a descriptor nor a task is left of them, and all were counted.
    """
    async with running(name) as server:
        _choice.task_readiness()  # shared by all awaited connections of a run, until it ends
        await wait_all_tasks_blocked()
        before = held(server)
        fates = await send_clients(server.local_addresses[0].port, good=CLIENTS, rude=0)

        assert {"echoed": CLIENTS} == fates
        assert before == await wait_for_held(server, before)
        assert [] == caplog.messages
        assert CLIENTS == check_balance(server)
        if isinstance(server, trio_wsk.Server):
            assert CLIENTS == server.statistics().open_most


@pytest.mark.parametrize("name", ECHOES)
async def test_load_with_clients_that_reset(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """
    Clients that reset, in every phase, cost those between them nothing: these get back
    what they sent, and of the others neither a descriptor nor a task is left.
    """
    async with running(name) as server:
        _choice.task_readiness()  # shared by all awaited connections of a run, until it ends
        await wait_all_tasks_blocked()
        before = held(server)
        fates = await send_clients(server.local_addresses[0].port, good=GOOD, rude=RUDE)

        assert {"echoed": GOOD, **{f"left {phase}": RUDE for phase in PHASES}} == fates
        assert before == await wait_for_held(server, before)
        assert [] == caplog.messages

        # Whether one that left at once was there at all is the kernel's word against ours.
        assert GOOD + RUDE * (len(PHASES) - 1) <= check_balance(server) <= GOOD + RUDE * len(PHASES)
