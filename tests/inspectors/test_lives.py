"""
Lives of requests at random, as many as are wanted: whatever was taken for them is back in the end.

``TRIO_WSK_LIVES=1000000 pytest -s`` and this file has a million at each point, and says so.
"""

from __future__ import annotations

import os
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.inspecting import ACCEPT, PEND, REJECT, Silent
from tests.helpers.memory_peers import PLACE, SERVER
from trio_wsk import Address, InspectPoint, WouldBlockError, open_listening_socket
from trio_wsk.inspectors import ConnectionLimit, Rules, SourceLimit, SourceRateLimit
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from trio_wsk import Connection, ConnectionRequest, ListeningSocket
    from trio_wsk.testing import MemoryStream

LIVES: Final = int(os.environ.get("TRIO_WSK_LIVES", "1024"))
"""How many, at each point."""
TOGETHER: Final = 32
"""How many live at one time."""
HOSTS: Final = 8
IN_ALL: Final = 20
BY_SOURCE: Final = 4
SOURCES: Final = 6
LONG_ENOUGH: Final = 600.0
"""Longer than any timer of the network or of a listening socket runs, in seconds."""


class PlannedError(Exception):
    """What the last rule raises when its turn is to."""


class Fates:
    """What becomes of requests, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.draw = Random(seed)  # noqa: S311 - it is to be repeatable
        self.given_back = 0
        self.asked = 0

    def decide(self, request: ConnectionRequest) -> Any:
        """Be the last rule."""
        self.asked += 1
        request.at_end(self._note)
        answer = self.draw.choice([None, None, None, ACCEPT, REJECT, PEND, PEND, "raise", "async"])
        if answer == "raise":
            raise PlannedError
        return self._think(request) if answer == "async" else answer

    def _note(self) -> None:
        self.given_back += 1

    async def _think(self, request: ConnectionRequest) -> Any:
        if self.draw.random() < 0.5:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        request.at_end(self._note)
        self.asked += 1
        return self.draw.choice([None, REJECT, PEND])

    def complete_some(self, listening: ListeningSocket) -> None:
        """Complete some of those that wait, whether they were pended or not."""
        for inspect_id in listening.pending_inspections:
            if self.draw.random() < 0.6:
                listening.inspect_complete(inspect_id, self.draw.choice([ACCEPT, REJECT]))

    def end_some(self, streams: list[MemoryStream], held: list[Connection]) -> None:
        """Have some leave, on either side, in one of the ways that there are."""
        for each in (*streams, *held):
            if self.draw.random() < 0.2:
                getattr(each, self.draw.choice(_ways(each)))()


def _ways(end: object) -> list[str]:
    return ["reset", "abandon", "vanish"] if hasattr(end, "vanish") else ["close", "abort"]


def take(listening: ListeningSocket, held: list[Connection]) -> None:
    """Take what is there."""
    with suppress(WouldBlockError):
        while True:
            held.append(listening.accept_nowait())


@pytest.mark.parametrize("point", list(InspectPoint), ids=lambda point: point.value)
async def test_everything_is_back_after_lives_at_random(
    point: InspectPoint, autojump_clock: trio.testing.MockClock
) -> None:
    """
    Requests that are let in, turned away, pended, thought about, or lost at any moment: never more
    have a place than there are, no table has more than its bound, each callback is called once, and
    when all have ended, every place is free.
    """
    fates = Fates(seed=7)
    in_all, by_source = ConnectionLimit(IN_ALL), SourceLimit(BY_SOURCE, most_sources=SOURCES)
    rate = SourceRateLimit(20, most_sources=SOURCES)
    network = MemoryNetwork()
    names = [f"192.0.2.{number + 10}" for number in range(HOSTS)]
    hosts = [network.host(name) for name in names]
    addresses = [Address.tcp(name, 1) for name in names]
    async with open_listening_socket(
        transport=network.host(SERVER).transport(PLACE[1], backlog=TOGETHER),
        inspect=Rules(rate, in_all, by_source, fates.decide),
        inspect_point=point,
        observers=[Silent()],
    ) as listening:
        for _ in range(0, LIVES, TOGETHER):
            held: list[Connection] = []
            streams = [fates.draw.choice(hosts).open_connection(PLACE) for _ in range(TOGETHER)]
            for _ in range(6):
                await trio.lowlevel.checkpoint()
                fates.complete_some(listening)
                take(listening, held)
                fates.end_some(streams, held)

                assert in_all.open <= IN_ALL
                assert len(by_source) <= SOURCES
                assert len(rate) <= SOURCES
                assert max(map(by_source.open_from, addresses)) <= BY_SOURCE

            for stream in streams:
                stream.reset()
            await wait_all_tasks_blocked()
            take(listening, held)
            for connection in held:
                connection.abort()
            await trio.sleep(LONG_ENOUGH)
            await wait_all_tasks_blocked()

            assert (0, 0) == (in_all.open, len(by_source))
            assert fates.given_back == fates.asked
            assert {} == dict(listening.pending_inspections)

    print(f"\n{listening.statistics().accepted} lives")  # noqa: T201 - for -s

    assert listening.statistics().accepted > LIVES // 2
