"""Thousands of SYNs at once before the handshake.

Where a claim needs all of them to be there, a flood goes on when what it has sent was asked about:
how fast the machine is must not matter.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

from tests.helpers.gated import queues, tables_of
from tests.helpers.inspecting import ACCEPT, PEND, REJECT, Silent, check_balance
from tests.helpers.namespaces import in_own_namespace
from tests.helpers.support import connect, until
from tests.helpers.wire import flood, send_flood
from trio_wsk import (
    Address,
    ConnectionRequest,
    InspectAction,
    InspectPoint,
    ListeningSocket,
    Status,
    open_listening_socket,
)
from trio_wsk.inspectors import Penalties, Rules, SourceRateLimit
from trio_wsk.transports import LinuxTransport

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN"),
    pytest.mark.heavy,
    pytest.mark.usefixtures("no_leak_in_all"),
]

HOST = "127.0.0.1"
FLOODERS = ["127.1.0.1", "127.1.0.2", "127.1.0.3", "127.1.0.4"]
"""Whom SYNs come from that no socket has sent; what is answered to them is reset."""

PENDED = 10_000
"""How many are pended at once."""

FLOOD = 20_000
"""How many ask beside the client that comes again and again."""

PATIENCE = 200
"""Seconds for everything: several times what it takes on a machine with other work."""

AT_ONCE = 500
"""How many SYNs are sent before what was sent has to be asked about."""

FORGED = [
    f"127.{second}.{third}.{fourth}"
    for second in (2, 3)
    for third in range(40)
    for fourth in range(1, 251)
]
"""More sources than there is room for, for a flood in which none of them comes twice."""

MOST_SOURCES = 8192
"""Room for so many sources."""

GROWN_AT_MOST = 96 << 20
"""Octets for all that a flood can have us remember, however long it goes on: requests and verdicts
of which there are some ten thousand each, and tables of rules."""

OCTETS = 16 << 10
"""What one that is pended may cost us: several times what it does."""


def gated(
    inspect: Callable[..., Any],
    transport: LinuxTransport | None = None,
    **options: Any,
) -> AbstractAsyncContextManager[ListeningSocket]:
    """Open a listening socket that inspects before the handshake."""
    return open_listening_socket(
        transport=transport or LinuxTransport.tcp(0, host=HOST),
        inspect=inspect,
        inspect_point=InspectPoint.BEFORE_HANDSHAKE,
        observers=[Silent()],
        **options,
    )


class Asked:
    """Counts who was asked about."""

    def __init__(self) -> None:
        self._count = 0
        self._wanted = 0
        self._are_there = trio.Event()

    def note(self) -> None:
        """One more."""
        self._count += 1
        if self._count == self._wanted:
            self._are_there.set()

    async def so_many(self, count: int) -> None:
        """Wait until there are so many."""
        if self._count < count:
            self._wanted, self._are_there = count, trio.Event()
            await self._are_there.wait()


def resident() -> int:
    """Return how many octets of memory this process has."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def held_by_the_kernel() -> int:
    """Return how many packets wait in the one queue that there is."""
    (line,) = queues().splitlines()
    return int(line.split()[2])


@in_own_namespace
def test_ten_thousand_are_pended_at_once_and_nothing_leaks() -> None:
    """
    10,000 requests are pended at once. Half of them are rejected; the others are approved and,
    since nobody is there, never established, which is noticed. Nothing stays behind.
    """
    clock = MockClock()
    trio.run(pend_ten_thousand, clock, clock=clock)


async def pend_ten_thousand(clock: MockClock) -> None:
    """
    Be what the test runs. Until all are pended time stands still, since a client that is there
    asks again and again, and whoever doesn't in time is taken for dead.
    """
    asked = Asked()

    def _inspect(request: ConnectionRequest) -> InspectAction:
        asked.note()
        return PEND

    assert "" == queues()  # an ordinary user may not read that

    gc.collect()
    before = resident()
    with trio.fail_after(PATIENCE):
        async with gated(_inspect, max_pending=PENDED, inspect_timeout=2 * PATIENCE) as listening:
            for sent in range(0, PENDED, AT_ONCE):
                send_flood(listening.local_addresses[0], FLOODERS, AT_ONCE, first=sent)
                await asked.so_many(sent + AT_ONCE)
            each = (resident() - before) / PENDED
            print(f"{each:.0f} octets for each that is pended")  # noqa: T201 - to be seen

            assert PENDED == listening.statistics().pending == held_by_the_kernel()
            assert OCTETS > each

            for number, inspect_id in enumerate([*listening.pending_inspections]):
                answer = REJECT if number % 2 else ACCEPT

                assert Status.SUCCESS is listening.inspect_complete(inspect_id, answer)

            clock.rate = 1
            await until(lambda: not listening.statistics().pending)
            counted = listening.statistics()
            check_balance(counted)

            assert (PENDED, PENDED) == (counted.inspected, counted.pending_most)
            assert {"rejected": PENDED // 2} == counted.rejected
            assert PENDED // 2 == sum(counted.aborted.values())
            assert {"reset", "silent"} >= counted.aborted.keys()
            assert (PENDED, 0, 0) == tuple(
                counted.transport[name] for name in ("held", "overflowed", "queue_lost")
            )
            assert 0 == held_by_the_kernel()
    gc.collect()

    assert [] == tables_of(0)
    assert "" == queues()
    assert 0 == sum(isinstance(each, ConnectionRequest) for each in gc.get_objects())


@in_own_namespace
async def test_flood_does_not_starve_a_steady_client() -> None:
    """
    While a flood fills ``max_pending`` many times over, and the oldest goes for the newest, a
    client who comes again and again gets in each time; and nobody else does.
    """
    asked = Asked()
    is_over = False
    steady = 0

    def _inspect(request: ConnectionRequest) -> InspectAction:
        if str(request.remote_address.host) == HOST:
            return ACCEPT
        asked.note()
        return PEND

    async def _flood(target: Address) -> None:
        nonlocal is_over
        for sent in range(0, FLOOD, AT_ONCE):
            before = steady
            send_flood(target, FLOODERS, AT_ONCE, first=sent)
            await asked.so_many(sent + AT_ONCE)
            await until(lambda: before < steady)  # noqa: B023 - it is asked here and now
        is_over = True

    with trio.fail_after(PATIENCE):
        async with gated(
            _inspect, max_pending=64, overflow="evict", inspect_timeout=2 * PATIENCE
        ) as listening:
            place = listening.local_addresses[0]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_flood, place)
                while not is_over:
                    async with await connect(place) as client, await listening.accept() as taken:
                        name = client.socket.getsockname()

                        assert Address.from_sockaddr(socket.AF_INET, name) == taken.remote_address

                        steady += 1
            counted = listening.statistics()

            assert FLOOD // AT_ONCE <= steady
            assert counted.pending_most <= 65
            assert 50 * 64 < counted.aborted["evicted"]
            assert steady == counted.delivered["accept"]


@in_own_namespace
async def test_clients_behind_a_flood_wait_for_their_turn() -> None:
    """
    Beyond ``max_pending`` SYNs wait in the order in which they came; when those before it have
    run out of time, a client's gets its turn.
    """

    def _inspect(request: ConnectionRequest) -> InspectAction:
        return ACCEPT if str(request.remote_address.host) == HOST else PEND

    with trio.fail_after(PATIENCE):
        async with gated(_inspect, max_pending=64, inspect_timeout=0.1) as listening:
            place = listening.local_addresses[0]
            await flood(place, FLOODERS, 1000)
            async with await connect(place), await listening.accept():
                counted = listening.statistics()

                assert 900 <= counted.aborted["timed-out"]
                assert 64 == counted.pending_most


@in_own_namespace
async def test_limit_keeps_a_flood_from_us() -> None:
    """
    Of a flood we see what ``most_syns_per_second`` lets through; the rest the kernel has
    dropped, and counted.
    """
    transport = LinuxTransport.tcp(0, host=HOST, most_syns_per_second=100)
    with trio.fail_after(PATIENCE):
        async with gated(lambda _: REJECT, transport) as listening:
            start = trio.current_time()
            await flood(listening.local_addresses[0], FLOODERS, 10_000)
            most = 100 * (trio.current_time() - start + 2)
            await until(lambda: 10_000 <= seen(listening))
            held = listening.statistics().transport["held"]

            assert 100 <= held <= most
            assert 10_000 == seen(listening)


@in_own_namespace
async def test_forged_sources_neither_fill_memory_nor_keep_a_client_out() -> None:
    """
    Of a flood of forged sources, 50,000 a second where the machine can, a part has penalties, and
    the others are more than the table of a rate has room for. What we keep stays bounded, whatever
    has come; and a client who comes again and again gets in each time.
    """
    penalties = Penalties(threshold=1, when_full="pass", most_sources=MOST_SOURCES)
    # So slow that nobody is forgotten in time, and nobody comes too often.
    rates = SourceRateLimit(10_000, per=10_000 * PATIENCE, burst=100_000, most_sources=MOST_SOURCES)
    for host in FORGED[::4]:
        penalties.add(Address.tcp(host, 1), 10 * PATIENCE, "x")
    steady = 0
    is_over = False

    async def _flood(target: Address) -> None:
        nonlocal is_over
        for _ in range(2):  # once more the same: by now all tables are full
            await flood(target, FORGED, len(FORGED), per_second=50_000)
        is_over = True

    with trio.fail_after(PATIENCE):
        async with gated(Rules(penalties, rates)) as listening:
            gc.collect()
            before = resident()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_flood, listening.local_addresses[0])
                while not is_over:
                    place = listening.local_addresses[0]
                    async with await connect(place) as client, await listening.accept() as taken:
                        name = client.socket.getsockname()

                        assert Address.from_sockaddr(socket.AF_INET, name) == taken.remote_address

                        steady += 1
            counted = listening.statistics()
            grown = resident() - before
            print(f"{steady} came in, {grown >> 20} MiB, {counted.transport}")  # noqa: T201

            assert 0 < steady == counted.delivered["accept"]
            assert 0 < counted.transport["refused_in_kernel"] <= 2 * len(FORGED[::4])
            assert MOST_SOURCES == len(rates)
            assert MOST_SOURCES >= len(penalties)
            assert GROWN_AT_MOST >= grown


def seen(listening: ListeningSocket) -> int:
    """Return how many SYNs have been held or dropped."""
    counted = listening.statistics().transport
    return counted["held"] + counted["limited"]
