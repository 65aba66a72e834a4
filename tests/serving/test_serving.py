"""Servers: a task per connection, and how many there are."""

from __future__ import annotations

import math
import os
import random
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_wsk
from tests.helpers.serving import client_of, echo, echo_events, serving
from tests.helpers.support import PATIENCE, fate_of, read_to_end, reset, until
from trio_wsk import Connection, ListenDispatch, Server, open_server, serve, serve_events

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[Any], Awaitable[object]]

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


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
