"""Servers whose handlers' connections speak TLS: handshakes, and how both sides say good-bye."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.pairs import receive_exactly
from tests.helpers.scarcity import open_descriptors
from tests.helpers.serving import client_of, echo, server_context, serving, tls_over
from tests.helpers.streams import finish, read_to_good_end
from tests.helpers.support import PATIENCE, fate_of, read_to_end, reset, until
from tests.helpers.tls import OLD, client_context
from trio_wsk import Connection, ConnectionBrokenError, ConnectionState, EndReason

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

VERSIONS = pytest.mark.parametrize("version", [None, OLD], ids=["1.3", "1.2"])
MEBIBYTE = 1 << 20


async def test_tls() -> None:
    """
    The handler is given a connection that has shaken hands, with what was agreed on; its octets are
    plain ones, and counted as such; the end comes with close_notify.
    """
    seen: list[Connection] = []

    async def handler(connection: Connection) -> None:
        seen.append(connection)
        await connection.send_all(await connection.receive_some())

    async with serving(handler, ssl_context=server_context(alpn=["h2", "x"])) as (server, told):
        raw = client_of(server)
        client = tls_over(raw, ["x"])
        await client.send_all(b"secret")

        assert b"secret" == await client.receive_some()
        assert b"" == await client.receive_some()  # raises without a close_notify

        (connection,) = seen
        info = connection.tls
        assert info is not None
        assert ("x", "server.test") == (info.alpn, info.server_name)
        assert client.version() == info.version
        assert client.cipher()[0] == info.cipher
        assert info.peer_certificate() is None
        assert raw.socket.getsockname() == connection.remote_address.sockaddr

        await client.aclose()
        await until(lambda: server.statistics().served)

        (ended,) = told.of("ConnectionEnded")
        assert (6, 6) == (ended.octets_received, ended.octets_sent)
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

    async def handler(connection: object) -> None:
        started.append(connection)

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


async def test_alert_reaches_who_is_still_sending() -> None:
    """A client with which nothing can be agreed on is told why, also if it goes on sending."""
    context = server_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    said = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client_context(OLD).wrap_bio(
            ssl.MemoryBIO(), said, server_hostname="server.test"
        ).do_handshake()
    async with serving(ssl_context=context) as (server, _):
        client = client_of(server)
        await client.send_all(said.read())
        await until(lambda: server.statistics().served)
        await client.send_all(bytes(100_000))

        assert b"\x15\x03" == (await read_to_end(client))[:2]  # an alert

        await client.aclose()
        await until(lambda: not server.statistics().lingering)


async def test_no_task_waits_for_a_handshake(readiness: str) -> None:
    """A connection that shakes hands has no task, and no more than its permit."""
    async with serving(ssl_context=server_context(), max_connections=2) as (server, _):
        before = trio.lowlevel.current_statistics().tasks_living
        clients = [client_of(server) for _ in range(2)]
        await until(lambda: server.statistics().open_connections == 2)
        await wait_all_tasks_blocked()

        # The timers of the deadlines are one task, whoever they are for. Without epoll, each wait
        # for a descriptor is one.
        if readiness == "epoll":
            assert trio.lowlevel.current_statistics().tasks_living <= before + 1

        for client in clients:
            client.socket.close()
        await until(lambda: server.statistics().served == 2)
        third = tls_over(client_of(server))
        await third.send_all(b"x")

        assert b"x" == await third.receive_some()

        third.transport_stream.socket.close()


@pytest.mark.parametrize("how", ["reset", "ragged"])
async def test_peer_that_leaves_over_tls_is_no_crash(how: str) -> None:
    """A reset, and an end without close_notify, are the peer's going over TLS, too."""
    errors: list[ConnectionBrokenError] = []

    async def handler(connection: Connection) -> None:
        try:
            await echo(connection)
        except ConnectionBrokenError as error:
            errors.append(error)
            raise

    async with serving(handler, ssl_context=server_context()) as (server, told):
        raw = client_of(server)
        client = tls_over(raw)
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()

        if how == "reset":
            reset(raw)
        else:
            await raw.aclose()
        await until(lambda: server.statistics().served)

        assert (0, 1) == (server.statistics().handler_failures, server.statistics().peers_left)
        assert how == "reset" or "without TLS's good-bye" in str(errors[0])
        expected = EndReason.PEER_RESET if how == "reset" else EndReason.BROKEN
        assert [expected] == [record.reason for record in told.of("ConnectionEnded")]


async def test_ragged_end_after_the_handler_is_nobodys_fault() -> None:
    """A client that has its answer may end without close_notify: nothing of it was to be read."""
    may_return = trio.Event()

    async def handler(connection: Connection) -> None:
        await connection.send_all(await connection.receive_some())
        await may_return.wait()

    async with serving(handler, ssl_context=server_context()) as (server, told):
        raw = client_of(server)
        client = tls_over(raw)
        await client.send_all(b"x")
        assert b"x" == await client.receive_some()
        await raw.send_eof()
        await wait_all_tasks_blocked()
        may_return.set()
        assert b"" == await client.receive_some()
        await until(lambda: server.statistics().served)

        assert [EndReason.FINISHED] == [record.reason for record in told.of("ConnectionEnded")]
        assert (0, 0) == (server.statistics().handler_failures, server.statistics().peers_left)

        await raw.aclose()


async def test_end_without_good_bye_is_an_end_where_https_is_spoken() -> None:
    """With ``https_compatible`` a client that ends without close_notify has finished, not left."""
    told_to_handler = []

    async def handler(connection: Connection) -> None:
        async for data in connection:
            told_to_handler.append(data)
            await connection.send_all(b"answer")
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

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"answer")
        await connection.receive_some()

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


async def test_crash_over_tls() -> None:
    """A handler's own error is a crash over TLS as well, and its peer is reset."""

    async def handler(connection: Connection) -> None:
        await connection.receive_some()
        raise ZeroDivisionError

    async with serving(handler, ssl_context=server_context()) as (server, told):
        client = tls_over(client_of(server))
        await client.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
        await client.aclose()
        await until(lambda: told.of("HandlerFailed"))


# --- The stream ---------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("into_buffer", [False, True], ids=["some", "into"])
async def test_much_goes_both_ways(
    version: ssl.TLSVersion | None,
    into_buffer: bool,  # noqa: FBT001 - a case
) -> None:
    """Nothing is lost where the kernel is full in both directions, however it is received."""
    octets = bytes(range(251)) * (4 * MEBIBYTE // 251)

    async def handler(connection: Connection) -> None:
        buffer = bytearray(50_000)
        if not into_buffer:
            await echo(connection)
        while count := await connection.receive_into(buffer):
            await connection.send_all(memoryview(buffer)[:count])

    with trio.fail_after(PATIENCE):
        async with serving(handler, ssl_context=server_context()) as (server, told):
            client = trio.SSLStream(
                client_of(server), client_context(version), server_hostname="server.test"
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, octets)
                received = await receive_exactly(client, len(octets))

            assert octets == received

            await client.aclose()
            await until(lambda: server.statistics().served)
            (ended,) = told.of("ConnectionEnded")
            assert (len(octets), len(octets)) == (ended.octets_received, ended.octets_sent)
            assert EndReason.FINISHED is ended.reason


@VERSIONS
async def test_receives_as_much_as_is_wanted(version: ssl.TLSVersion | None) -> None:
    """What is left of a record is there for the next receive, without waiting."""
    pieces: list[bytes] = []

    async def handler(connection: Connection) -> None:
        while data := await connection.receive_some(2):
            pieces.append(data)

    async with serving(handler, ssl_context=server_context()) as (server, _):
        client = trio.SSLStream(
            client_of(server), client_context(version), server_hostname="server.test"
        )
        await client.send_all(b"secret!")
        await until(lambda: len(pieces) == 4)

        assert [b"se", b"cr", b"et", b"!"] == pieces

        await client.aclose()
        await until(lambda: server.statistics().served)


async def test_half_close_leaves_the_peer_its_time() -> None:
    """After `send_eof` the peer has close_notify and FIN, and what it still says comes in."""
    said: list[bytes] = []

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"answer")
        await connection.send_eof()
        assert ConnectionState.FINISHED is connection.state
        while data := await connection.receive_some():
            said.append(data)

    async with serving(handler, ssl_context=server_context()) as (server, told):
        client = tls_over(client_of(server))
        assert b"answer" == await client.receive_some()
        assert b"" == await client.receive_some()
        await client.send_all(b"and more")
        await until(lambda: said)
        await client.aclose()
        await until(lambda: server.statistics().served)

        assert [b"and more"] == said
        assert [EndReason.FINISHED] == [record.reason for record in told.of("ConnectionEnded")]
        assert 0 == server.statistics().peers_left


async def test_peer_that_has_half_closed_is_still_answered() -> None:
    """TLS 1.3 has a half-close: after the client's close_notify the server may go on."""

    async def handler(connection: Connection) -> None:
        said = b"".join([data async for data in connection])
        assert ConnectionState.PEER_FINISHED is connection.state
        await connection.send_all(said.upper() * 100_000)

    async with serving(handler, ssl_context=server_context()) as (server, _):
        raw = client_of(server)
        client = tls_over(raw)
        await client.send_all(b"answer")
        await finish(client)

        assert b"ANSWER" * 100_000 == await read_to_good_end(client)

        raw.socket.close()
        await until(lambda: server.statistics().served)


@VERSIONS
async def test_send_that_was_cut_short_means_a_reset(version: ssl.TLSVersion | None) -> None:
    """A part of something is never taken for all of it: no close_notify follows it, but a reset."""

    async def handler(connection: Connection) -> None:
        with trio.move_on_after(0.05):
            await connection.send_all(bytes(64 * MEBIBYTE))

    async with serving(handler, ssl_context=server_context()) as (server, told):
        client = trio.SSLStream(
            client_of(server), client_context(version), server_hostname="server.test"
        )
        await client.do_handshake()
        await until(lambda: server.statistics().served)

        assert [EndReason.ABORTED] == [record.reason for record in told.of("ConnectionEnded")]
        assert "reset" == await fate_of(client.transport_stream)

        await client.transport_stream.aclose()


async def test_wait_for_room() -> None:
    """`wait_send_all_might_not_block` waits while the kernel is full, and not before."""
    steps: list[str] = []

    async def handler(connection: Connection) -> None:
        await connection.wait_send_all_might_not_block()
        steps.append("room")
        while not connection.send_nowait(bytes(100_000)):
            pass
        steps.append("full")
        await connection.wait_send_all_might_not_block()
        steps.append("room again")
        await connection.send_all(b"!")

    async with serving(handler, ssl_context=server_context()) as (server, _):
        client = tls_over(client_of(server))
        await client.do_handshake()
        await until(lambda: len(steps) == 2)
        await wait_all_tasks_blocked()
        assert ["room", "full"] == steps

        received = await read_to_good_end(client)
        assert b"!" == received[-1:]
        assert ["room", "full", "room again"] == steps
        client.transport_stream.socket.close()
        await until(lambda: server.statistics().served)


@pytest.mark.parametrize("takes", ["receive", "send", "both"])
async def test_handler_may_hand_its_connection_to_tasks(takes: str) -> None:
    """One task receives while another one sends, over TLS as without."""
    octets = bytes(range(256)) * 4096

    async def handler(connection: Connection) -> None:
        received = bytearray()
        async with trio.open_nursery() as nursery:
            if takes != "receive":
                nursery.start_soon(connection.send_all, octets)
            if takes != "send":
                while len(received) < len(octets):
                    received += await connection.receive_some()
        assert received == (b"" if takes == "send" else octets)

    with trio.fail_after(PATIENCE):
        async with serving(handler, ssl_context=server_context()) as (server, told):
            client = tls_over(client_of(server))
            await client.do_handshake()
            async with trio.open_nursery() as nursery:
                if takes != "send":
                    nursery.start_soon(client.send_all, octets)
                expected = b"" if takes == "receive" else octets
                assert expected == await read_to_good_end(client)
            await client.aclose()
            await until(lambda: server.statistics().served)
            assert [] == told.of("HandlerFailed")


# --- Sessions -----------------------------------------------------------------------------------


@VERSIONS
async def test_sessions_are_resumed(version: ssl.TLSVersion | None) -> None:
    """A client that comes again with its ticket resumes its session, and proves no certificate."""
    async with serving(ssl_context=server_context()) as (server, _):
        context = client_context(version)
        session: Any = None
        for is_resumed in (False, True, True):
            resumed, session = await trio.to_thread.run_sync(
                _ask, context, server.local_addresses[0].sockaddr, session
            )
            assert is_resumed == resumed
        await until(lambda: server.statistics().served == 3)


def _ask(context: ssl.SSLContext, address: Any, session: Any) -> tuple[bool, Any]:
    """Ask once, in a thread; return whether the session was resumed, and which it is."""
    with (
        socket.create_connection(address, timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="server.test", session=session) as tls,
    ):
        tls.sendall(b"x")
        assert b"x" == tls.recv(1)
        return bool(tls.session_reused), tls.session


@VERSIONS
async def test_messages_after_the_handshake_are_no_requests(version: ssl.TLSVersion | None) -> None:
    """
    Tickets leave with the first octets that go the other way, and a client that asks for nothing
    gets no handler's attention.
    """
    seen: list[int] = []

    async def handler(connection: Connection) -> None:
        seen.append(connection.octets_received)
        await connection.receive_some()
        seen.append(connection.octets_received)

    async with serving(handler, ssl_context=server_context()) as (server, _):
        client = trio.SSLStream(
            client_of(server), client_context(version), server_hostname="server.test"
        )
        await client.do_handshake()
        await until(lambda: seen)
        await wait_all_tasks_blocked()
        assert [0] == seen

        await client.aclose()
        await until(lambda: server.statistics().served)
        assert [0, 0] == seen


# --- TLS by hand --------------------------------------------------------------------------------


async def test_stream_of_trio_over_a_connection() -> None:
    """Who wants a `trio.SSLStream` puts one over the connection of a server without TLS."""

    async def handler(connection: Connection) -> None:
        assert connection.tls is None
        stream = trio.SSLStream(connection, server_context(), server_side=True)
        await stream.send_all(await stream.receive_some())
        await stream.aclose()

    async with serving(handler) as (server, _):
        client = tls_over(client_of(server))
        await client.send_all(b"x")
        assert b"x" == await client.receive_some()
        assert b"" == await client.receive_some()
        await client.aclose()
        await until(lambda: server.statistics().served)
        assert 0 == server.statistics().handler_failures


# --- Descriptors --------------------------------------------------------------------------------


async def test_nothing_is_left_of_who_has_come_and_gone() -> None:
    """Whatever became of them, no descriptor is left of connections over TLS."""
    async with serving(ssl_context=server_context()) as (server, _):
        before = open_descriptors()
        for number in range(12):
            client = tls_over(client_of(server))
            how = number % 3
            if number % 2:
                await client.send_all(b"x")
                await client.receive_some()
            elif how == 1:
                await client.do_handshake()
            if how == 0:
                await client.transport_stream.aclose()
            elif how == 1:
                await client.aclose()
            else:
                reset(client.transport_stream)
        await until(lambda: server.statistics().served == 12)
        await until(lambda: not server.statistics().lingering)

        assert before == open_descriptors()
