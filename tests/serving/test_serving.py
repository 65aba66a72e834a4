"""Servers: a task or callbacks per connection, limits, TLS, and all the ways in which it ends."""

from __future__ import annotations

import math
import os
import random
import socket
import ssl
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme

import trio_wsk
from tests.helpers.support import (
    PATIENCE,
    FaultyTransport,
    connect_now,
    fate_of,
    read_to_end,
    reset,
    shown,
    until,
)
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    DrainReport,
    InspectAction,
    ListenDispatch,
    Server,
    Status,
    open_server,
    serve,
    serve_events,
)
from trio_wsk._engine import readiness as _readiness
from trio_wsk._serving import tls
from trio_wsk.transports._contract import TransportFailedError

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio_wsk._vocabulary.records import Record

    Handler = Callable[[Any], Awaitable[object]]

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"

CA = trustme.CA()
SERVER_CERTIFICATE = CA.issue_cert("server.test")


def tasks() -> int:
    """How many tasks this Trio run has."""
    return trio.lowlevel.current_statistics().tasks_living


class Told:
    """An observer that keeps what it is told, in place of the log."""

    def __init__(self) -> None:
        self.records: Any = None  # everything
        self.heard: list[Record] = []

    def __call__(self, record: Record) -> None:
        """Take note."""
        self.heard.append(record)

    def of(self, name: str) -> list[Any]:
        """Return the records of one class."""
        return [record for record in self.heard if type(record).__name__ == name]


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    """Send everything back."""
    while data := await stream.receive_some():
        await stream.send_all(data)


@asynccontextmanager
async def serving(handler: Handler = echo, **options: Any) -> AsyncIterator[tuple[Server, Told]]:
    """Run a server, count its tasks before and after, and don't give it time to drain."""
    before = tasks()
    told = Told()
    options.setdefault("grace", 0)
    if "transport" not in options:
        options = {"port": 0, "host": HOST, **options}
    async with open_server(handler, observers=[told, Silent()], **options) as server:
        yield server, told
    await until(lambda: tasks() <= before + 1)  # the readiness of awaited connections stays
    counted = server.statistics()

    assert 0 == counted.open_connections
    assert counted.served == sum(counted.listening.delivered.values()) + sum(
        number for reason, number in counted.listening.dropped.items() if "accept" in reason
    )


class Silent(trio_wsk.observers.LoggingObserver):
    """Replaces the default observer, so that what fails on purpose isn't logged."""

    def __call__(self, record: Record) -> None:
        """Say nothing."""


def client_of(server: Server) -> trio.SocketStream:
    """Connect a client."""
    return connect_now(server.local_addresses[0])


# --- A task per connection --------------------------------------------------------------------


async def test_handler_serves_each_connection_in_its_own_task() -> None:
    """Many clients are served side by side, and are counted."""
    async with serving() as (server, told):
        clients = [client_of(server) for _ in range(10)]
        for number, client in reversed(list(enumerate(clients))):
            await client.send_all(b"%d" % number)

            assert b"%d" % number == await client.receive_some()

        assert 10 == server.statistics().open_connections == server.statistics().open_most

        for client in clients:
            await client.send_eof()

            assert b"" == await read_to_end(client)

            await client.aclose()
        await until(lambda: not server.statistics().open_connections)

        assert 10 == server.statistics().served == len(told.of("ConnectionEnded"))
        assert 0 == server.statistics().handler_failures + server.statistics().peers_left


async def test_serve_says_when_it_listens() -> None:
    """nursery.start() returns the Server; serve() returns when it has been drained."""
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(partial(serve, echo, 0, host=HOST))
        client = client_of(server)
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()
        assert f":{server.local_addresses[0].port}, 1 open" in repr(server)

        await client.send_eof()
        await server.drain()
        await client.aclose()
    assert 1 == server.statistics().served


async def test_crash_ends_its_own_connection_alone() -> None:
    """A handler that raises has its peer reset, is counted and reported; others don't notice."""

    async def handler(connection: Connection) -> None:
        async for data in connection:
            if data == b"crash":
                raise ZeroDivisionError("on purpose")
            await connection.send_all(data)

    async with serving(handler) as (server, told):
        bystander, victim = client_of(server), client_of(server)
        await victim.send_all(b"crash")

        assert "reset" == await fate_of(victim)

        await bystander.send_all(b"fine")

        assert b"fine" == await bystander.receive_some()
        assert 1 == server.statistics().handler_failures
        assert ["on purpose"] == [str(record.error) for record in told.of("HandlerFailed")]
        assert victim.socket.getsockname() == told.of("HandlerFailed")[0].remote_address.sockaddr

        await victim.aclose()
        await bystander.aclose()


async def gone(connection: Connection) -> None:
    """Go on with a peer until it is gone."""
    while True:
        await connection.receive_some()
        await connection.send_all(b"x" * 100_000)


async def gone_with_a_cause(connection: Connection) -> None:
    """Say it in other words, as a protocol library does."""
    try:
        await gone(connection)
    except trio.BrokenResourceError as error:
        raise ConnectionError("the other side") from error


@pytest.mark.parametrize("handler", [gone, gone_with_a_cause])
async def test_peer_that_leaves_is_no_crash(handler: Handler) -> None:
    """That the handler's own peer goes away is a count, and nobody is alarmed."""
    async with serving(handler) as (server, told):
        client = client_of(server)
        await client.send_all(b"x")
        await client.receive_some()
        reset(client)
        await until(lambda: server.statistics().served)

        assert 1 == server.statistics().peers_left == len(told.of("PeerLeft"))
        assert 0 == server.statistics().handler_failures
        assert [] == told.of("HandlerFailed")


async def test_peer_that_leaves_is_no_crash_in_a_group_either() -> None:
    """In an ExceptionGroup within a group, too; a crash beside it is reported without it."""
    crash = False

    async def handler(connection: Connection) -> None:
        try:
            await gone(connection)
        except trio.BrokenResourceError as error:
            errors: list[Exception] = [ExceptionGroup("inner", [error])]
            if crash:
                errors.append(ZeroDivisionError("beside it"))
            raise ExceptionGroup("outer", errors) from None

    async with serving(handler) as (server, told):
        for crash in (False, True):
            client = client_of(server)
            await client.send_all(b"x")
            await client.receive_some()
            reset(client)
            await until(lambda: server.statistics().served == 1 + crash)  # noqa: B023

        assert 1 == server.statistics().peers_left
        assert 1 == server.statistics().handler_failures
        (record,) = told.of("HandlerFailed")
        assert [ZeroDivisionError] == [type(each) for each in record.error.exceptions]


async def test_another_connections_peer_is_a_crash() -> None:
    """That somebody else's peer went away is a crash of this handler."""
    others: list[Connection] = []

    async def handler(connection: Connection) -> None:
        if not others:
            others.append(connection)
            await connection.draining.wait()
        await gone(others[0])

    async with serving(handler) as (server, told):
        first = client_of(server)
        await until(lambda: others)
        second = client_of(server)
        await until(lambda: server.statistics().open_connections == 2)
        reset(first)
        await until(lambda: told.of("HandlerFailed"))

        assert 0 == server.statistics().peers_left

        await second.aclose()


@pytest.mark.parametrize(
    ("error", "policy"),
    [(ZeroDivisionError, "raise"), (KeyboardInterrupt, "report"), (SystemExit, "raise")],
)
async def test_handler_errors_can_be_raised(error: type[BaseException], policy: str) -> None:
    """
    With on_handler_error="raise" the server ends with the handler's exception, as it is; with
    what concerns the process it does in any case.
    """

    async def handler(connection: Connection) -> None:
        raise error

    with pytest.raises(error):  # noqa: PT012
        async with serving(handler, on_handler_error=policy) as (server, _):
            client = client_of(server)
            try:
                await trio.sleep(PATIENCE)
            finally:
                client.socket.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_concerns_the_process_goes_on(error: type[BaseException]) -> None:
    """KeyboardInterrupt and SystemExit from a handler end the server, with "report" too."""

    async def handler(connection: Connection) -> None:
        raise BaseExceptionGroup("both", [error(), ZeroDivisionError()])

    with pytest.raises(BaseException) as caught:  # noqa: PT011, PT012
        async with serving(handler) as (server, told):
            client = client_of(server)
            try:
                await trio.sleep(PATIENCE)
            finally:
                client.socket.close()

                assert 1 == server.statistics().handler_failures
                assert 1 == len(told.of("HandlerFailed"))

    assert isinstance(caught.value, BaseExceptionGroup)
    assert None is not caught.value.subgroup(error)
    assert None is caught.value.subgroup(ZeroDivisionError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_process_comes_out_bare(error: type[BaseException]) -> None:
    """Ctrl-C inside a handler is a KeyboardInterrupt to whoever serves, and not a group of one."""

    async def interrupted(connection: Connection) -> None:
        await connection.receive_some()
        raise error

    async def serve_one_client() -> None:
        async with (
            open_server(interrupted, 0, host=HOST) as server,
            client_of(server) as client,
        ):
            await client.send_all(b"x")
            await trio.sleep_forever()

    with pytest.raises(error):
        await serve_one_client()


async def test_handlers_own_cancellation_is_its_own() -> None:
    """A handler that cancels itself and one that is cancelled from outside are no crashes."""

    async def handler(connection: Connection) -> None:
        with trio.move_on_after(0):
            await trio.sleep_forever()
        await connection.send_all(b"done")

    async with serving(handler) as (server, _):
        client = client_of(server)

        assert b"done" == await read_to_end(client)

        await client.aclose()
        await until(lambda: server.statistics().served)

        assert 0 == server.statistics().handler_failures


async def test_unread_input_does_not_cost_the_answer() -> None:
    """
    A handler that answers without reading all: the client gets the whole answer and FIN, no
    reset, though it had sent more.
    """
    answer = os.urandom(500_000)

    async def handler(connection: Connection) -> None:
        await connection.receive_some(1)
        await connection.send_all(answer)

    async with serving(handler) as (server, _):
        client = client_of(server)
        await client.send_all(b"x" * 100_000)

        assert answer == await read_to_end(client)

        await client.aclose()
        await until(lambda: server.statistics().served)


# --- Limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_never_more_than_max_connections(seed: int) -> None:
    """
    With max_connections=N no more than N are ever open or accepted, clients beyond it wait in
    the backlog, and all are served in the end.
    """
    chance = random.Random(seed)  # noqa: S311 - so that a failure can be repeated
    limit = chance.randrange(1, 5)
    count = 30
    now = most = 0

    async def handler(connection: Connection) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            await connection.send_all(b"hello")
            for _ in range(chance.randrange(5)):
                await trio.lowlevel.checkpoint()
            if chance.random() < 0.2:
                raise ZeroDivisionError
        finally:
            now -= 1

    async with serving(handler, max_connections=limit) as (server, _):

        async def client() -> None:
            stream = client_of(server)
            async with stream:
                assert b"hello" == await stream.receive_some()
                for _ in range(chance.randrange(5)):
                    await trio.lowlevel.checkpoint()

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(client)
        await until(lambda: server.statistics().served == count)

        assert most <= limit
        assert limit == server.statistics().open_most
        assert 0 == server.statistics().listening.parked_most


async def test_waiting_clients_are_served_when_a_permit_comes_back() -> None:
    """The client beyond the limit is connected and unserved, until another one ends."""
    async with serving(max_connections=1) as (server, _):
        first, second = client_of(server), client_of(server)
        await first.send_all(b"1")
        await second.send_all(b"2")

        assert b"1" == await first.receive_some()
        assert 1 == server.statistics().listening.accepted

        await first.aclose()

        assert b"2" == await second.receive_some()

        await second.aclose()


# --- TLS --------------------------------------------------------------------------------------


def server_context(**options: Any) -> ssl.SSLContext:
    """Make a context that has a certificate for server.test."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    SERVER_CERTIFICATE.configure_cert(context)
    if alpn := options.get("alpn"):
        context.set_alpn_protocols(alpn)
    return context


def tls_over(client: trio.SocketStream, alpn: list[str] | None = None) -> trio.SSLStream[Any]:
    """Make the client's side of TLS."""
    context = ssl.create_default_context()
    CA.configure_trust(context)
    if alpn:
        context.set_alpn_protocols(alpn)
    return trio.SSLStream(client, context, server_hostname="server.test")


async def test_tls() -> None:
    """
    The handshake is over before the handler starts, ALPN is visible, and the end comes with
    close_notify.
    """
    seen: list[Any] = []

    async def handler(stream: trio.SSLStream[Connection]) -> None:
        seen.append((stream.selected_alpn_protocol(), stream.transport_stream.remote_address))
        await echo_once(stream)

    async def echo_once(stream: trio.abc.Stream) -> None:
        await stream.send_all(await stream.receive_some())

    async with serving(handler, ssl_context=server_context(alpn=["h2", "x"])) as (server, _):
        raw = client_of(server)
        client = tls_over(raw, ["x"])
        await client.send_all(b"secret")

        assert b"secret" == await client.receive_some()
        assert b"" == await client.receive_some()  # raises without a close_notify
        assert [("x", raw.socket.getsockname())] == [(seen[0][0], seen[0][1].sockaddr)]

        await client.aclose()
        await until(lambda: server.statistics().served)

        assert {} == server.statistics().handshake_failures
        assert 0 == server.statistics().handler_failures + server.statistics().peers_left


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"\x00garbage\xff" * 10, "protocol"),
        (b"GET / HTTP/1.1\r\nHost: server.test\r\n\r\n", "protocol"),
        (None, "peer-left"),
        (b"\x16\x03\x01", "peer-left"),
        ("reset", "peer-left"),
        ("nothing", "timeout"),
    ],
)
async def test_failed_handshakes_are_counts(says: Any, reason: str) -> None:
    """Whatever goes wrong in a handshake is counted by its reason, and is no crash."""
    started = []

    async def handler(stream: object) -> None:
        started.append(stream)

    async with serving(
        handler, ssl_context=server_context(), handshake_timeout=0.05 if says == "nothing" else 10
    ) as (server, told):
        client = client_of(server)
        if says == "reset":
            await client.send_all(b"\x16\x03\x01")
            await until(lambda: server.statistics().open_connections)
            reset(client)
        elif says != "nothing":
            if says:
                await client.send_all(says)
            if reason == "peer-left":
                await client.send_eof()
        await until(lambda: server.statistics().served)

        assert {reason: 1} == server.statistics().handshake_failures
        assert [reason] == [record.reason for record in told.of("HandshakeFailed")]
        assert [] == started
        assert [] == told.of("HandlerFailed")
        assert 0 == server.statistics().handler_failures

        await client.aclose()


@pytest.mark.parametrize("how", ["reset", "ragged"])
async def test_peer_that_leaves_over_tls_is_no_crash(how: str) -> None:
    """A reset, and an end without close_notify, are the peer's going over TLS, too."""
    async with serving(ssl_context=server_context()) as (server, _):
        raw = client_of(server)
        client = tls_over(raw)
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()

        if how == "reset":
            reset(raw)
        else:
            await raw.aclose()
        await until(lambda: server.statistics().served)

        assert 0 == server.statistics().handler_failures
        # Some builds of Python (Debian's) take an end without close_notify for a clean one.
        assert how == "ragged" or 1 == server.statistics().peers_left


async def test_end_without_good_bye_is_an_end_where_https_is_spoken() -> None:
    """With ``https_compatible`` a client that ends without close_notify has finished, not left."""
    told_to_handler = []

    async def handler(stream: trio.SSLStream[Connection]) -> None:
        async for data in stream:
            told_to_handler.append(data)
            await stream.send_all(b"answer")
        told_to_handler.append(b"")

    async with serving(handler, ssl_context=server_context(), https_compatible=True) as (server, _):
        raw = client_of(server)
        client = tls_over(raw)
        await client.send_all(b"x")

        assert b"answer" == await client.receive_some()

        await raw.aclose()
        await until(lambda: server.statistics().served)

        assert [b"x", b""] == told_to_handler
        assert (0, 0) == (server.statistics().peers_left, server.statistics().handler_failures)


@pytest.mark.parametrize("is_https", [False, True], ids=["close_notify", "https"])
async def test_server_says_good_bye_unless_https_is_spoken(
    is_https: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The last that comes is close_notify, so that the end is no truncation; over HTTPS nothing."""

    async def handler(stream: trio.SSLStream[Connection]) -> None:
        await stream.send_all(b"answer")
        await stream.receive_some()

    async with serving(handler, ssl_context=server_context(), https_compatible=is_https) as (
        server,
        _,
    ):
        raw = client_of(server)
        client = tls_over(raw)

        assert b"answer" == await client.receive_some()

        await client.send_all(b"thanks")

        assert is_https == (not await read_to_end(raw))

        await raw.aclose()


async def test_good_bye_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that reads nothing can't keep the server from closing: close_notify has its time."""
    monkeypatch.setattr(tls, "CLOSE_NOTIFY_TIMEOUT", 0.05)

    async def handler(stream: trio.SSLStream[Connection]) -> None:
        # Beneath TLS, for which a send that was cancelled would be the end.
        stream.transport_stream.send_nowait(bytes(1 << 24))

    async with serving(handler, ssl_context=server_context()) as (server, _):
        raw = client_of(server)
        await tls_over(raw).do_handshake()
        await until(lambda: server.statistics().served)

        assert 0 == server.statistics().handler_failures

        await raw.aclose()


async def test_crash_over_tls() -> None:
    """A handler's own error is a crash over TLS as well."""

    async def handler(stream: trio.SSLStream[Connection]) -> None:
        await stream.receive_some()
        raise ZeroDivisionError

    async with serving(handler, ssl_context=server_context()) as (server, told):
        client = tls_over(client_of(server))
        await client.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
        await client.aclose()
        await until(lambda: told.of("HandlerFailed"))


# --- Draining ---------------------------------------------------------------------------------


async def test_drain_lets_connections_finish() -> None:
    """
    drain() refuses new peers, sets `draining`, waits for those that are open, and reports
    them as finished.
    """

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"hello")
        await connection.draining.wait()
        await connection.send_all(b"bye")

    async with serving(handler) as (server, told):
        clients = [client_of(server) for _ in range(3)]
        for client in clients:
            assert b"hello" == await client.receive_some()

        report = await server.drain(grace=PATIENCE)

        assert DrainReport(finished=3, reset=0) == report
        assert [b"bye"] * 3 == [await read_to_end(client) for client in clients]
        assert 3 == told.of("DrainStarted")[0].open_connections
        assert 3 == told.of("DrainFinished")[0].finished
        with pytest.raises(OSError, match="refused"):
            client_of(server)
        for client in clients:
            await client.aclose()


async def test_drain_refuses_who_comes_while_it_waits_for_a_verdict() -> None:
    """Nobody listens any more then: who is new is refused; who was there has its verdict."""
    may_answer = trio.Event()

    async def inspect(_: object) -> InspectAction:
        await may_answer.wait()
        return InspectAction.ACCEPT

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"welcome")

    async with open_server(handler, 0, host=HOST, inspect=inspect) as server:
        first = connect_now(server.local_addresses[0])
        await until(lambda: server.statistics().listening.pending)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ConnectionRefusedError):
                connect_now(server.local_addresses[0])
            may_answer.set()
            assert b"welcome" == await read_to_end(first)
        await first.aclose()

    assert {} == server.statistics().listening.dropped


async def test_drain_takes_what_the_kernel_has_accepted() -> None:
    """Clients whose connections are established when the drain begins are served."""
    count = 40

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"served")

    async with serving(handler) as (server, _):
        clients = [client_of(server) for _ in range(count)]  # nobody else has had a turn
        report = await server.drain(grace=PATIENCE)

        assert [b"served"] * count == [await read_to_end(client) for client in clients]
        assert DrainReport(finished=count, reset=0) == report

        for client in clients:
            await client.aclose()


async def test_drain_resets_what_is_left(autojump_clock: trio.testing.MockClock) -> None:
    """When the grace has run out, handlers are cancelled and peers reset; they are reported."""

    async def handler(connection: Connection) -> None:
        if await connection.receive_some() == b"stay":
            await trio.sleep_forever()
        await connection.draining.wait()

    async with serving(handler) as (server, _):
        stays, goes = client_of(server), client_of(server)
        await stays.send_all(b"stay")
        await goes.send_all(b"go")
        await until(lambda: server.statistics().open_connections == 2)
        await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
        report = await server.drain(grace=7)

        assert 7 == pytest.approx(trio.current_time() - before)
        assert DrainReport(finished=1, reset=1) == report
        assert "reset" == await fate_of(stays)
        assert "fin" == await fate_of(goes)

        await stays.aclose()
        await goes.aclose()


async def test_drain_can_wait_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    """grace=math.inf waits for as long as a handler takes."""
    async with serving() as (server, _), trio.open_nursery() as nursery:
        client = client_of(server)
        await client.send_all(b"x")
        await client.receive_some()
        reports: list[DrainReport] = []

        @nursery.start_soon
        async def drain() -> None:
            reports.append(await server.drain(grace=math.inf))

        await trio.testing.wait_all_tasks_blocked()
        autojump_clock.jump(1e9)
        await trio.testing.wait_all_tasks_blocked()

        assert [] == reports

        with pytest.raises(trio.BusyResourceError, match="once"):
            await server.drain()
        await client.aclose()
        await until(lambda: reports)

        assert [DrainReport(finished=1, reset=0)] == reports


async def test_cancelled_drain_resets() -> None:
    """A drain that is cancelled resets what is open, and the server ends."""

    async def handler(connection: Connection) -> None:
        await trio.sleep_forever()

    async with serving(handler) as (server, _):
        client = client_of(server)
        await until(lambda: server.statistics().open_connections)
        with trio.move_on_after(0.01) as scope:
            await server.drain(grace=math.inf)

        assert scope.cancelled_caught
        assert "reset" == await fate_of(client)

        await client.aclose()


async def test_nothing_to_drain() -> None:
    """Draining without connections ends at once, is a checkpoint, and checks its argument."""
    async with serving() as (server, _):
        for grace in (-1, math.nan):
            with pytest.raises(trio_wsk.InvalidParameterError, match="grace"):
                await server.drain(grace=grace)
        with trio.testing.assert_checkpoints():
            assert DrainReport(finished=0, reset=0) == await server.drain()


async def test_leaving_the_block_drains_with_its_grace() -> None:
    """Leaving open_server normally lets handlers finish what they do."""

    async def handler(connection: Connection) -> None:
        await connection.draining.wait()
        await connection.send_all(b"bye")

    async with serving(handler, grace=PATIENCE) as (server, _):
        client = client_of(server)
        await until(lambda: server.statistics().open_connections)

    assert b"bye" == await read_to_end(client)

    await client.aclose()


@pytest.mark.parametrize("way", ["abort", "cancel", "raise"])
async def test_ending_at_once(way: str) -> None:
    """abort(), cancelling the block, and leaving it by an exception reset everybody at once."""
    cancelled = []

    async def handler(connection: Connection) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(connection)
            raise

    scope = trio.CancelScope()
    client = None
    try:
        with scope:
            async with serving(handler, grace=PATIENCE) as (server, _):
                client = client_of(server)
                await until(lambda: server.statistics().open_connections)
                if way == "cancel":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
                elif way == "raise":
                    raise ZeroDivisionError  # noqa: TRY301 - it is to leave the block
                server.abort()
                server.abort()
    except ZeroDivisionError:
        assert "raise" == way

    assert client is not None
    assert (way == "cancel") == scope.cancelled_caught
    assert "reset" == await fate_of(client)
    assert 1 == len(cancelled)

    await client.aclose()


async def test_abort_from_a_thread_is_refused() -> None:
    """abort() belongs to the Trio run, and says how a thread calls it."""
    async with serving() as (server, _):
        with pytest.raises(RuntimeError, match=r"from_thread.run_sync\(server.abort\)"):
            await trio.to_thread.run_sync(server.abort)


async def test_failed_listening_socket_ends_the_server() -> None:
    """When the listening socket fails, handlers are cancelled and the OSError comes out.

    A dispatch beside the handler is told of it.
    """
    failures: list[tuple[object, OSError]] = []

    async def handler(connection: Connection) -> None:
        await trio.sleep_forever()

    dispatch = ListenDispatch(failed=lambda listening, error: failures.append((listening, error)))
    with pytest.raises(OSError, match="Invalid argument") as raised:  # noqa: PT012
        transport = FaultyTransport.tcp(0, host=HOST)
        assert isinstance(transport, FaultyTransport)
        async with serving(handler, transport=transport, dispatch=dispatch) as (server, _):
            client = client_of(server)
            try:
                await until(lambda: server.statistics().open_connections)
                transport.faults.append(TransportFailedError(OSError(22, "Invalid argument")))
                other = client_of(server)
                other.socket.close()
                await trio.sleep(PATIENCE)
            finally:
                client.socket.close()

    assert [(server.listening, raised.value)] == failures


# --- Events -----------------------------------------------------------------------------------


@asynccontextmanager
async def serving_events(dispatch: ListenDispatch, **options: Any) -> AsyncIterator[Server]:
    """Run serve_events() and abort it at the end."""
    before = tasks()
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(serve_events, dispatch, 0, host=HOST, observers=[Silent()], **options)
        )
        yield server
        server.abort()
    await until(lambda: tasks() <= before + 1)

    assert 0 == server.statistics().open_connections


def echo_events(connection: Connection) -> ConnectionDispatch:
    """Send everything back, by callbacks."""
    return ConnectionDispatch(receive=send_back)


def send_back(connection: Connection, data: bytes) -> None:
    """Send it back."""
    connection.send_nowait(data)


async def test_events_serve_without_tasks() -> None:
    """Many clients are served by callbacks, with no task for any of them."""
    async with serving_events(ListenDispatch(accept=echo_events)) as server:
        before = tasks()
        clients = [client_of(server) for _ in range(10)]
        for client in clients:
            await client.send_all(b"x")

            assert b"x" == await client.receive_some()

        if _readiness.HAVE_EPOLL:
            assert before == tasks()
        assert 10 == server.statistics().open_connections

        for client in clients:
            await client.send_eof()

            assert b"" == await read_to_end(client)

            await client.aclose()
        await until(lambda: not server.statistics().open_connections)

        assert 10 == server.statistics().served


async def test_server_of_events_is_a_block_too() -> None:
    """open_server() takes a ListenDispatch in place of a handler, and drains at the end."""
    async with open_server(ListenDispatch(accept=echo_events), 0, host=HOST) as server:
        client = client_of(server)
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()

        await client.send_eof()

        assert b"" == await read_to_end(client)

        await client.aclose()

    assert (1, 0) == (server.statistics().served, server.statistics().open_connections)


async def test_server_of_events_speaks_no_tls() -> None:
    """TLS needs a task for each connection, so a ListenDispatch with it is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(trio_wsk.InvalidParameterError, match="needs a task"):
        open_server(ListenDispatch(accept=echo_events), 0, ssl_context=context)  # type: ignore[call-overload]  # on purpose


async def test_drain_takes_the_backlog_of_a_paused_server() -> None:
    """Who waits in the kernel because the server is paused is served before it ends."""
    async with open_server(echo, 0, host=HOST) as server:
        server.listening.pause()
        async with client_of(server) as client:
            await client.send_all(b"x")
            await client.send_eof()

            assert DrainReport(finished=1, reset=0) == await server.drain()
            assert b"x" == await read_to_end(client)


async def test_abort_during_a_drain_is_in_its_report() -> None:
    """What abort() cuts off while the server drains has been reset, and has not finished."""
    async with open_server(echo, 0, host=HOST) as server, client_of(server) as client:
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(abort_when_draining, server)

            assert DrainReport(finished=0, reset=1) == await server.drain(grace=math.inf)


async def abort_when_draining(server: Server) -> None:
    """Lose patience with a drain at once."""
    await server.listening.draining.wait()
    server.abort()


async def test_drain_tells_event_driven_connections() -> None:
    """ListenDispatch.drain is called once for each connection that is open, and they can finish."""
    told: list[Connection] = []

    def drain(connection: Connection) -> None:
        told.append(connection)
        connection.disconnect(data=b"bye")

    async with serving_events(ListenDispatch(accept=echo_events, drain=drain)) as server:
        clients = [client_of(server) for _ in range(3)]
        await until(lambda: server.statistics().open_connections == 3)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                for client in clients:
                    assert b"bye" == await read_to_end(client)

                    await client.aclose()

            report = await server.drain(grace=PATIENCE)

        assert DrainReport(finished=3, reset=0) == report
        assert 3 == len(told) == len(set(told))


@pytest.mark.parametrize("answer", [ConnectionDispatch(receive=send_back), Status.SUCCESS])
async def test_drain_resets_connections_without_events_too(answer: Any) -> None:
    """A connection that the callback took without events is reset with the others."""
    async with serving_events(ListenDispatch(accept=lambda _: answer)) as server:
        client = client_of(server)
        await until(lambda: server.statistics().open_connections)
        with trio.fail_after(PATIENCE):
            assert DrainReport(finished=0, reset=1) == await server.drain(grace=0)

        assert "reset" == await fate_of(client)

        await client.aclose()


async def test_permits_of_events() -> None:
    """
    max_connections counts event-driven connections: a permit comes back when one is closed or
    was not accepted.
    """
    answers: list[Any] = [Status.REQUEST_NOT_ACCEPTED, Status.SUCCESS, Status.SUCCESS]
    taken: list[Connection] = []

    def accept(connection: Connection) -> Any:
        taken.append(connection)
        return answers[len(taken) - 1]

    async with serving_events(ListenDispatch(accept=accept), max_connections=1) as server:
        clients = [client_of(server) for _ in range(3)]
        await until(lambda: len(taken) == 2)
        await shown(server.listening.socket.fileno())

        assert 2 == server.statistics().listening.accepted
        assert 1 == server.statistics().open_most

        taken[1].close()
        await until(lambda: len(taken) == 3)
        taken[2].close()
        for client in clients:
            await client.aclose()


# --- Called wrongly ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"handler": 7}, "7"),
        ({"max_connections": 0}, "0"),
        ({"max_connections": 1.5}, "1.5"),
        ({"on_handler_error": "ignore"}, "'ignore'"),
        ({"grace": -1}, "grace"),
        ({"handshake_timeout": math.nan}, "nan"),
        ({"port": 70000}, "70000"),
    ],
)
async def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    """A wrong argument of a server is an InvalidParameterError that shows it."""
    with pytest.raises(trio_wsk.InvalidParameterError, match=message):
        async with open_server(**{"handler": echo, "port": 0, **options}):
            raise AssertionError("it was opened")


@pytest.mark.parametrize("dispatch", [None, echo_events, ListenDispatch()])
async def test_events_need_their_callback(dispatch: Any) -> None:
    """serve_events() without an accept callback shows the right call."""
    with pytest.raises(trio_wsk.InvalidParameterError, match=r"ListenDispatch\(accept=...\)"):
        await serve_events(dispatch, 0)


async def test_bind_error_comes_out_bare() -> None:
    """An address that is in use is a BindError, not in a group, and nothing is left running."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(trio_wsk.BindError, match=HOST):
            await serve(echo, taken.getsockname()[1], host=HOST)
