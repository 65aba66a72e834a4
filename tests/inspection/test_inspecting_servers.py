"""Conditional accept over real sockets: servers that inspect, and how they drain."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

import trio_wsk
from tests.helpers.inspecting import ACCEPT, PEND, REJECT, Desk, Silent, check_balance
from tests.helpers.support import PATIENCE, fate_of, read_to_end, reset, until
from tests.helpers.undecided import wait_for_cancellation, waiting
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    ConnectionRequest,
    InspectId,
    ListenDispatch,
    Status,
    Verdict,
    open_server,
    serve,
    serve_events,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import InspectAction

    Inspect = Callable[[ConnectionRequest], Any]

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


async def echo(stream: trio.abc.Stream) -> None:
    """Send everything back."""
    async for data in stream:
        await stream.send_all(data)


class Bouncer(Desk):
    """An inspector for servers, whose listening socket is known when the server is open."""

    @property
    def options(self) -> dict[str, Any]:
        """What a server is opened with."""
        return {
            "port": 0,
            "host": HOST,
            "inspect": self,
            "observers": [self.observe, Silent()],
        }


async def ask_for_the_word(request: ConnectionRequest) -> InspectAction | Verdict:
    """Let those through who begin with the right word."""
    if await request.peek(4) == b"word":
        return ACCEPT
    return Verdict(REJECT, "wrong-word", b"no\n")


async def test_server_serves_whom_its_inspector_lets_through(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """A handler per connection, behind an inspector: the handler reads from the first octet."""
    bouncer = Bouncer(ask_for_the_word)
    async with open_server(echo, grace=0, **bouncer.options) as server:
        bouncer.listening = server.listening
        friend, stranger = bouncer.client(b"words"), bouncer.client(b"wrong")
        with trio.fail_after(PATIENCE):
            assert b"words" == await friend.receive_some()
        assert b"no\n" == await read_to_end(stranger)
        assert 1 == server.statistics().open_connections
        assert {"wrong-word": 1} == dict(server.statistics().listening.rejected)

        await friend.send_eof()

        assert b"" == await read_to_end(friend)
    bouncer.close_clients()
    check_balance(server.statistics().listening)


async def test_inspector_may_look_at_a_tls_handshake() -> None:
    """What it has peeked at is there for TLS: the first octet says that it is a handshake."""

    async def inspect(request: ConnectionRequest) -> InspectAction:
        return ACCEPT if await request.peek(1) == b"\x16" else REJECT

    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.test").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    bouncer = Bouncer(inspect)
    async with open_server(echo, ssl_context=server_side, grace=0, **bouncer.options) as server:
        bouncer.listening = server.listening
        stream = trio.SSLStream(
            bouncer.client(), client_side, server_hostname="server.test", https_compatible=True
        )
        with trio.fail_after(PATIENCE):
            await stream.send_all(b"secret")

            assert b"secret" == await stream.receive_some()

            await stream.aclose()
        assert "reset" == await fate_of(bouncer.client(b"GET /"))
    bouncer.close_clients()


async def test_serve_takes_an_inspector() -> None:
    """And the handler knows under which id its connection was let through."""
    ids: list[InspectId | None] = []

    async def handler(connection: Connection) -> None:
        ids.append(connection.inspect_id)

    bouncer = Bouncer(ACCEPT)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve, handler, **bouncer.options))
        bouncer.listening = server.listening
        for _ in range(3):
            assert b"" == await read_to_end(bouncer.client())
        await server.drain()
    bouncer.close_clients()

    assert [request.inspect_id for request in bouncer.asked] == ids


async def test_serve_events_takes_an_inspector_and_an_abort_callback() -> None:
    """All of them in one dispatch table: inspect, abort, accept."""
    bouncer = Bouncer(PEND)
    received: list[bytes] = []

    def receive(connection: Connection, data: bytes) -> None:
        received.append(data)
        connection.disconnect(data=data.upper())

    dispatch = ListenDispatch(
        inspect=bouncer,
        abort=bouncer.abort,
        accept=lambda _: ConnectionDispatch(receive=receive),
    )
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(serve_events, dispatch, 0, host=HOST, observers=[bouncer.observe, Silent()])
        )
        bouncer.listening = server.listening
        client, request = await bouncer.pended(b"hello")
        gone, _ = await bouncer.pended()

        assert [] == received
        assert Status.SUCCESS == bouncer.complete(request, ACCEPT)
        assert b"HELLO" == await read_to_end(client)

        client.socket.close()
        reset(gone)
        await bouncer.aborted()
        await server.drain()
    bouncer.check_in_the_end()
    bouncer.close_clients()


@pytest.mark.parametrize("way", ["serve", "serve_events"])
async def test_limit_of_connections_counts_those_that_are_inspected(way: str) -> None:
    """``max_connections``: no more than that many are open, inspected and let through at once."""
    most = 0

    def look() -> None:
        nonlocal most
        counted = server.statistics()
        most = max(
            most,
            counted.open_connections + counted.listening.pending + counted.listening.parked,
        )

    async def inspect(request: ConnectionRequest) -> InspectAction:
        number = bouncer.asked.index(request) + 1
        look()
        await request.peek(1)
        look()
        return REJECT if number % 4 == 0 else ACCEPT

    async def handler(connection: Connection) -> None:
        look()
        await echo(connection)

    def accept(connection: Connection) -> ConnectionDispatch:
        look()
        return ConnectionDispatch(receive=lambda connection, data: connection.disconnect(data=data))

    bouncer = Bouncer(inspect)
    opened: Any = (
        open_server(handler, max_connections=3, grace=0, **bouncer.options)
        if way == "serve"
        else open_server(
            ListenDispatch(accept=accept), max_connections=3, grace=0, **bouncer.options
        )
    )
    async with opened as server:
        bouncer.listening = server.listening
        clients = [bouncer.client() for _ in range(40)]
        await until(lambda: server.statistics().listening.pending == 3)
        await wait_all_tasks_blocked()

        assert 37 == server.statistics().listening.backlog

        ends = []
        for client in clients:
            await client.send_all(b"x")
            with suppress(OSError):  # it was rejected already
                client.socket.shutdown(socket.SHUT_WR)
            ends.append(await fate_of(client))

        assert 3 == most == server.statistics().listening.pending_most
        assert 10 == ends.count("reset") == server.statistics().listening.rejected["rejected"]
        assert 30 == ends.count("fin")
        assert {} == dict(server.statistics().listening.aborted)
        assert {} == dict(server.statistics().listening.dropped)
    bouncer.close_clients()


@pytest.mark.parametrize(("overflow", "stay"), [("evict", [3, 4]), ("reset", [1, 2])])
async def test_permits_are_room_for_so_many_requests_and_no_more(
    overflow: Any, stay: list[int]
) -> None:
    """
    With ``max_connections`` below ``max_pending`` the permits that are left are the room for
    requests without a verdict: beyond it the oldest goes, or the newcomer is reset.
    """
    bouncer = Bouncer(PEND)
    async with open_server(
        echo, max_connections=3, overflow=overflow, grace=0, **bouncer.options
    ) as server:
        bouncer.listening = server.listening
        counted = server.listening.statistics
        first, request = await bouncer.pended(b"hello")

        assert Status.SUCCESS == bouncer.complete(request, ACCEPT)
        assert b"hello" == await first.receive_some()

        clients = [bouncer.client() for _ in range(4)]
        gone = (
            {"aborted": {"evicted": 2}, "dropped": {}}
            if overflow == "evict"
            else {"aborted": {}, "dropped": {"overflowed": 2}}
        )
        await until(lambda: gone == {name: dict(getattr(counted(), name)) for name in gone})
        await until(lambda: len(server.listening.pending_inspections) == 2)  # those are told, too

        assert 2 == counted().pending == counted().pending_most
        assert stay == [
            number
            for number, client in enumerate(clients, 1)
            if client.socket.getsockname()[1]
            in {each.remote_address.port for each in server.listening.pending_inspections.values()}
        ]

        for each in list(server.listening.pending_inspections.values()):
            assert Status.SUCCESS == bouncer.complete(each, ACCEPT)
        ends = []
        for number, client in enumerate(clients, 1):
            if number in stay:
                await client.send_all(b"x")

                assert b"x" == await client.receive_some()
            else:
                ends.append(await fate_of(client))

        assert ["reset"] * 2 == ends
        assert 3 == server.statistics().open_connections == server.statistics().open_most
    bouncer.close_clients()


@pytest.mark.parametrize("overflow", ["wait", "reset", "evict"])
async def test_newcomers_wait_while_no_permit_is_left(overflow: Any) -> None:
    """When connections hold them all, nobody could make room: newcomers stay in the backlog."""
    bouncer = Bouncer(ACCEPT)
    async with open_server(
        echo, max_connections=1, overflow=overflow, grace=0, **bouncer.options
    ) as server:
        bouncer.listening = server.listening
        first = bouncer.client(b"hello")

        assert b"hello" == await first.receive_some()

        second = bouncer.client(b"hello")
        await wait_all_tasks_blocked()

        assert 1 == len(bouncer.asked) == server.listening.statistics().backlog

        first.socket.close()

        assert b"hello" == await second.receive_some()
        assert {} == dict(server.listening.statistics().aborted)
        assert {} == dict(server.listening.statistics().dropped)
    bouncer.close_clients()


@pytest.mark.parametrize("way", ["serve", "serve_events"])
@pytest.mark.parametrize("limit", [None, 50])
async def test_drain_waits_for_what_is_being_inspected(way: str, limit: int | None) -> None:
    """Whoever is let through within the grace is served, however many of them at once."""
    bouncer = Bouncer(PEND)
    count = 40
    served: list[Connection] = []

    async def handler(connection: Connection) -> None:
        served.append(connection)
        await connection.send_all(b"served")

    def accept(connection: Connection) -> ConnectionDispatch:
        served.append(connection)
        connection.disconnect(data=b"served")
        return ConnectionDispatch(receive=lambda connection, data: None)

    async with trio.open_nursery() as nursery:
        server: Any = await nursery.start(
            partial(serve, handler, max_connections=limit, **bouncer.options)
            if way == "serve"
            else partial(
                serve_events,
                ListenDispatch(accept=accept),
                max_connections=limit,
                **bouncer.options,
            )
        )
        bouncer.listening = server.listening
        clients = [(await bouncer.pended())[0] for _ in range(count)]
        nursery.start_soon(partial(server.drain, grace=PATIENCE))
        await wait_all_tasks_blocked()

        assert [] == served

        for request in bouncer.asked:
            assert Status.SUCCESS == bouncer.complete(request, ACCEPT)
        for client in clients:
            assert b"served" == await read_to_end(client)
            client.socket.close()

    assert count == len(served) == server.statistics().served
    assert {} == dict(server.statistics().listening.aborted)
    check_balance(server.statistics().listening)


async def test_drain_takes_and_inspects_what_was_in_the_backlog() -> None:
    """The kernel has let them in already: they get their inspection, and their handler."""
    bouncer = Bouncer(ask_for_the_word)
    async with trio.open_nursery() as nursery:
        server: Any = await nursery.start(partial(serve, echo, **bouncer.options))
        bouncer.listening = server.listening
        server.listening.pause()
        clients = await waiting(bouncer, 3)
        nursery.start_soon(partial(server.drain, grace=PATIENCE))
        await bouncer.when(lambda: len(bouncer.asked) == 3)
        for client in clients:
            await client.send_all(b"word")
            await client.send_eof()

            assert b"word" == await read_to_end(client)
    bouncer.close_clients()

    assert 3 == server.statistics().served


async def test_drain_whose_grace_runs_out_aborts_what_is_being_inspected() -> None:
    """Whoever has no verdict by then is aborted, and reset."""
    bouncer = Bouncer(wait_for_cancellation)
    async with trio.open_nursery() as nursery:
        server: Any = await nursery.start(partial(serve, echo, **bouncer.options))
        bouncer.listening = server.listening
        client, _ = await bouncer.ask()
        report = await server.drain(grace=0.05)

        assert trio_wsk.DrainReport(finished=0, reset=0) == report
        assert "reset" == await fate_of(client)
    bouncer.close_clients()

    assert {"closed": 1} == dict(server.statistics().listening.aborted)


async def test_server_that_is_aborted_ends_its_inspections() -> None:
    """abort() asks nobody anything: the peers are reset."""
    bouncer = Bouncer(lambda request: wait_for_cancellation(request) if bouncer.asked[1:] else PEND)
    async with open_server(echo, **bouncer.options) as server:
        bouncer.listening = server.listening
        clients = [(await bouncer.ask())[0] for _ in range(2)]
        server.abort()
        for client in clients:
            assert "reset" == await fate_of(client)
    bouncer.close_clients()

    assert {"closed": 2} == dict(server.statistics().listening.aborted)
