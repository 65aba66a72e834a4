"""`max_lifetime`: a connection that has been open for long is told to finish, and no other is."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.pairs import receive_all
from tests.helpers.serving import HOST, Silent, Told, client_of, server_context, tls_over
from tests.helpers.support import PATIENCE
from trio_wsk import (
    ConnectionBrokenError,
    ConnectionDispatch,
    EndReason,
    ListenDispatch,
    More,
    Reader,
    Server,
    open_server,
)
from trio_wsk._connection.farewell import HEARD_SECONDS
from trio_wsk._connection.lifetimes import JITTER
from trio_wsk._engine.wheel import GRAIN
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

    from trio_wsk import Connection
    from trio_wsk.testing import MemoryHost

    Handler = Callable[[Any], Awaitable[object]] | ListenDispatch

pytestmark = pytest.mark.usefixtures("readiness")

HOUR = 3600
GRACE = 30
PLACE = ("192.0.2.1", 80)


@asynccontextmanager
async def memory_server(
    handler: Handler, **options: Any
) -> AsyncIterator[tuple[Server, MemoryHost, Told]]:
    """Serve in memory, for an hour each; a host for clients, and what happens."""
    network, told = MemoryNetwork(), Told()
    async with open_server(
        handler,
        transport=network.host(PLACE[0]).transport(PLACE[1]),
        **{"max_lifetime": HOUR, "grace": GRACE, "observers": [told, Silent()], **options},
    ) as server:
        yield server, network.host("192.0.2.2"), told


def is_due(*, grace: float = 0) -> bool:
    """Whether a connection that was opened at 0 has had its time about now.

    Of one from which nothing was heard, the first request is waited for for a second.
    """
    earliest = (1 - JITTER) * HOUR + grace
    return earliest <= trio.current_time() <= HOUR + grace + 2 * GRAIN + HEARD_SECONDS


async def answer_lines(stream: trio.abc.HalfCloseableStream) -> None:
    """Send each line back, as long as there are more."""
    reader = Reader(stream)
    async for line in reader.lines():
        await stream.send_all(line)
    assert More.DRAINING is reader.ended
    await stream.send_all(b"bye")


async def answer(connection: Connection) -> None:
    """Send back what comes, as long as there is more."""
    while more := await connection.more():
        await connection.send_all(await connection.receive_some())
    assert More.DRAINING is more
    assert connection.draining.is_set()
    await connection.send_all(b"bye")


# --- Handlers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [answer, answer_lines])
async def test_handler_that_waits_for_a_request_ends(
    handler: Handler, autojump_clock: MockClock
) -> None:
    """When its time is over, `more` and `lines` end as in a drain, and the handler may answer."""
    async with memory_server(handler) as (server, host, told):
        client = await host.connect(PLACE)

        assert b"bye" == await receive_all(client)
        assert is_due()
        await client.aclose()
        await wait_all_tasks_blocked()
        assert [EndReason.CLOSED] == [each.reason for each in told.of("ConnectionEnded")]
        counted = server.statistics()
        assert (1, 0, 0) == (counted.expired, counted.peers_left, counted.handler_failures)


async def test_lines_over_tls_end(autojump_clock: MockClock) -> None:
    """Over TLS the client sees the good-bye of TLS."""
    async with memory_server(answer_lines, ssl_context=server_context()) as (_, host, _told):
        client = await host.connect(PLACE)
        stream = tls_over(client)  # type: ignore[arg-type]

        assert b"bye" == await receive_all(stream)
        assert is_due()
        await client.aclose()


async def test_request_that_has_come_is_answered(autojump_clock: MockClock) -> None:
    """What is there when the time is over is still a request, and the last one."""

    async def handle(connection: Connection) -> None:
        await trio.sleep(HOUR + 1)
        await answer(connection)

    async with memory_server(handle, grace=HOUR) as (_, host, _told):
        client = await host.connect(PLACE)
        await client.send_all(b"request")

        assert b"requestbye" == await receive_all(client)
        await client.aclose()


async def test_only_the_one_whose_time_is_over_is_told(autojump_clock: MockClock) -> None:
    """Each connection has a `draining` of its own, and those that came later go on."""
    kept: list[Connection] = []

    async def handle(connection: Connection) -> None:
        kept.append(connection)
        await answer(connection)

    async with memory_server(handle) as (server, host, _):
        first = await host.connect(PLACE)
        await trio.sleep(HOUR / 2)
        second = await host.connect(PLACE)
        await wait_all_tasks_blocked()
        draining = [each.draining for each in kept]
        assert draining[0] is kept[0].draining is not draining[1]

        assert b"bye" == await receive_all(first)

        assert [True, False] == [each.is_set() for each in draining]
        await second.send_all(b"x")
        assert b"x" == await second.receive_some()
        assert 1 == len(server.connections)
        await first.aclose()
        await second.aclose()


async def test_drain_tells_those_as_well_that_have_their_own_event(
    autojump_clock: MockClock,
) -> None:
    """A drain sets the event of each, whether it was asked for before or after it."""
    kept: list[Connection] = []

    async def handle(connection: Connection) -> None:
        kept.append(connection)
        await connection.draining.wait()

    async with memory_server(handle) as (server, host, _):
        clients = [await host.connect(PLACE) for _ in range(2)]
        await wait_all_tasks_blocked()
        report = await server.drain()

        assert 2 == report.finished
        assert [True, True] == [each.draining.is_set() for each in kept]
        for client in clients:
            await client.aclose()


async def test_who_is_still_there_after_the_grace_is_reset(autojump_clock: MockClock) -> None:
    """After the server's grace it is reset, under a handler that finds it broken."""
    raised: list[ConnectionBrokenError] = []

    async def handle(connection: Connection) -> None:
        try:
            while await connection.receive_some():
                pass
        except ConnectionBrokenError as error:
            raised.append(error)
            raise

    async with memory_server(handle) as (server, host, told):
        client = await host.connect(PLACE)

        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()

        assert is_due(grace=GRACE)
        await wait_all_tasks_blocked()
        assert 1 == len(raised)
        assert [EndReason.EXPIRED] == [each.reason for each in told.of("ConnectionEnded")]
        counted = server.statistics()
        assert (1, 0, 0) == (counted.expired, counted.peers_left, counted.handler_failures)
        await client.aclose()


async def test_grace_without_end_resets_nobody(autojump_clock: MockClock) -> None:
    """With an endless grace, who was told may take all the time there is."""

    async def handle(connection: Connection) -> None:
        await connection.receive_some()

    async with memory_server(handle, grace=float("inf")) as (server, host, _):
        client = await host.connect(PLACE)
        await trio.sleep(20 * HOUR)
        assert 1 == len(server.connections)
        await client.aclose()


async def test_those_that_came_together_do_not_leave_together(autojump_clock: MockClock) -> None:
    """Each has up to a tenth less, by chance."""
    ends: list[float] = []

    async def handle(connection: Connection) -> None:
        await connection.more()
        ends.append(trio.current_time())

    async with memory_server(handle) as (server, host, _):
        clients = [await host.connect(PLACE) for _ in range(100)]
        await trio.sleep(HOUR + 2)

        assert 100 == len(ends) == server.statistics().expired
        # That all are within a fifth of that tenth comes once in 10 ** 68 times.
        assert max(ends) - min(ends) > JITTER * HOUR / 5
        assert (1 - JITTER) * HOUR <= min(ends) <= max(ends) <= HOUR + GRAIN + HEARD_SECONDS
        for client in clients:
            await client.aclose()


async def test_time_begins_before_the_handshake(autojump_clock: MockClock) -> None:
    """A connection that has had its time when TLS is there is told at once."""
    seen: list[bool] = []

    async def handle(connection: Connection) -> None:
        seen.append(connection.draining.is_set())

    async with memory_server(
        handle, ssl_context=server_context(), max_lifetime=10, handshake_timeout=60
    ) as (_, host, _told):
        client = await host.connect(PLACE)
        await trio.sleep(20)
        stream = tls_over(client)  # type: ignore[arg-type]

        assert b"" == await receive_all(stream)
        assert [True] == seen
        await client.aclose()


# --- Events ------------------------------------------------------------------------------------


async def test_drain_callback_is_called_for_it(autojump_clock: MockClock) -> None:
    """A connection with events is told by `ListenDispatch.drain`, once, also if a drain follows."""
    told: list[Connection] = []

    def drain(connection: Connection) -> None:
        told.append(connection)
        assert connection.draining.is_set()

    dispatch = ListenDispatch(accept=lambda _: ConnectionDispatch(), drain=drain)
    async with memory_server(dispatch, grace=10 * HOUR) as (server, host, _):
        clients = [await host.connect(PLACE)]
        await trio.sleep(HOUR / 2)
        clients.append(await host.connect(PLACE))
        await trio.sleep(HOUR / 2 + 1)
        assert 1 == len(told)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            await wait_all_tasks_blocked()
            assert 2 == len(told) == len(set(told))
            await trio.sleep(HOUR)
            assert 2 == len(told)
            for client in clients:
                await client.aclose()


async def test_connection_with_events_is_reset_after_the_grace(autojump_clock: MockClock) -> None:
    """If nobody ends it, `closed` says that it has expired."""
    how: list[EndReason] = []

    def accept(connection: Connection) -> ConnectionDispatch:
        return ConnectionDispatch(closed=lambda _, ended: how.append(ended.reason))

    async with memory_server(ListenDispatch(accept=accept)) as (server, host, _):
        client = await host.connect(PLACE)
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()

        assert is_due(grace=GRACE)
        await wait_all_tasks_blocked()
        assert [EndReason.EXPIRED] == how
        assert 1 == server.statistics().expired
        await client.aclose()


async def test_drain_callback_is_called_over_tls(autojump_clock: MockClock) -> None:
    """Over TLS, too; one that shakes hands when its time is over is told when it has."""
    dispatch = ListenDispatch(
        accept=lambda _: ConnectionDispatch(), drain=lambda connection: connection.disconnect()
    )
    async with memory_server(
        dispatch, ssl_context=server_context(), max_lifetime=10, handshake_timeout=60
    ) as (server, host, _):
        quick, slow = [tls_over(await host.connect(PLACE)) for _ in range(2)]  # type: ignore[arg-type]
        await quick.do_handshake()
        assert b"" == await quick.receive_some()
        assert 9 <= trio.current_time() <= 10 + GRAIN
        await trio.sleep(10)
        await slow.do_handshake()

        assert b"" == await slow.receive_some()
        assert trio.current_time() < 25
        for stream in (quick, slow):
            await stream.aclose()
        await wait_all_tasks_blocked()
        assert 2 == server.statistics().expired


# --- All the same ------------------------------------------------------------------------------


async def test_sockets_of_the_system() -> None:
    """On real sockets and a real clock, too."""
    with trio.fail_after(PATIENCE):
        async with open_server(answer, 0, host=HOST, max_lifetime=0.3, grace=30) as server:
            client = client_of(server)

            await client.send_all(b"x")
            assert b"xbye" == await receive_all(client)
            client.socket.close()


async def test_nothing_is_kept_of_connections_that_have_ended(autojump_clock: MockClock) -> None:
    """A connection that ends before its time is forgotten at once, with its event."""

    async def handle(connection: Connection) -> None:
        assert not connection.draining.is_set()

    async with memory_server(handle) as (server, host, _):
        for _ in range(3):
            client = await host.connect(PLACE)
            assert b"" == await client.receive_some()
            await client.aclose()
        await wait_all_tasks_blocked()
        core = server._core  # noqa: SLF001 - what is held is nowhere in public
        lifetimes = core.connections._lifetimes  # noqa: SLF001

        assert lifetimes is not None
        assert 3 == server.statistics().served
        assert 0 == len(lifetimes._wheel)  # noqa: SLF001


async def test_without_lifetimes_the_event_is_one_for_all(autojump_clock: MockClock) -> None:
    """Without the option nothing is made for each connection."""
    kept: list[Connection] = []

    async def handle(connection: Connection) -> None:
        kept.append(connection)
        await connection.receive_some()

    async with memory_server(handle, max_lifetime=float("inf")) as (_, host, _told):
        clients = [await host.connect(PLACE) for _ in range(2)]
        await wait_all_tasks_blocked()

        assert kept[0].draining is kept[1].draining
        for client in clients:
            await client.aclose()
