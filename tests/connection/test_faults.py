"""Whose fault it is: crashes are told from a peer's going, and from what concerns neither."""

from __future__ import annotations

import contextlib
import gc
import signal
import ssl
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme

from tests.helpers.pairs import open_pair, plain
from tests.helpers.serving import Silent, client_of, server_context, serving, tls_over
from tests.helpers.support import (
    PATIENCE,
    connect,
    connect_now,
    fate_of,
    leave_open,
    read_to_end,
    reset,
    until,
)
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    EventMask,
    InspectAction,
    Irp,
    ListenDispatch,
    Status,
    open_listening_socket,
    open_server,
)
from trio_wsk._connection.faults import is_peer_gone, split_error
from trio_wsk._serving.server_context import check_server_context
from trio_wsk.transports import PortableTransport
from trio_wsk.transports._socket_request import SocketRequest

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from trio_wsk import ConnectionRequest, Server
    from trio_wsk.transports import Channel

    Stream = Connection | trio.SSLStream[Connection]

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"
OTHERS = trustme.CA()


# --- Chains of causes -------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 5])
async def test_chain_of_causes_may_be_a_circle(length: int) -> None:
    """`raise error from error` is a crash like any other, and nobody goes round in it for ever."""

    async def handler(connection: Connection) -> None:
        errors = [OSError(str(number)) for number in range(length)]
        for error, cause in zip(errors, [*errors[1:], errors[0]], strict=True):
            error.__cause__ = cause
        raise errors[0]

    async with serving(handler) as (server, told):
        async with client_of(server) as client:
            assert "reset" == await fate_of(client)
        await until(lambda: server.statistics().served)

        assert ["0"] == [str(record.error) for record in told.of("HandlerFailed")]


async def test_peers_end_is_found_in_a_chain_that_ends_in_a_circle() -> None:
    """What is before the circle counts."""
    async with open_pair() as (connection, client):
        reset(client)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await connection.receive_some()
        caught.value.__cause__ = caught.value
        error = ConnectionError("in other words")
        error.__cause__ = caught.value

        assert is_peer_gone(connection, error)


# --- TLS: the peer's doing --------------------------------------------------------------------


async def speak(stream: Stream) -> None:
    """Answer, and let every error through."""
    while data := await stream.receive_some():
        await stream.send_all(data)


async def speak_with_a_cause(stream: Stream) -> None:
    """Say errors in other words, as a protocol library does."""
    try:
        await speak(stream)
    except trio.BrokenResourceError as error:
        raise ConnectionError("the other side") from error


async def speak_in_a_group(stream: Stream) -> None:
    """Have two tasks, so that errors come in a group."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak, stream)
        nursery.start_soon(trio.sleep_forever)


@pytest.mark.parametrize("handler", [speak, speak_with_a_cause, speak_in_a_group])
@pytest.mark.parametrize("policy", ["report", "raise"])
@pytest.mark.parametrize(
    "nonsense", [b"nonsense", b"\x17\x03\x03\x00\x20" + b"x" * 32, b"\x15\x03\x03\x00\x02\x02\x28"]
)
async def test_record_that_cannot_be_decrypted_is_the_peers_doing(
    handler: Callable[[Any], Awaitable[object]], policy: str, nonsense: bytes
) -> None:
    """Octets that are no record of this TLS connection end it, and are no crash of the handler."""
    async with serving(handler, ssl_context=server_context(), on_handler_error=policy) as (
        server,
        told,
    ):
        raw = client_of(server)
        client = tls_over(raw)
        await client.send_all(b"x")
        assert b"x" == await client.receive_some()
        await raw.send_all(nonsense)
        await until(lambda: server.statistics().served)

        assert (0, 1) == (server.statistics().handler_failures, server.statistics().peers_left)
        assert [] == told.of("HandlerFailed")

        await raw.aclose()


async def test_tls_that_a_handler_has_started_by_itself_is_its_peers_too() -> None:
    """STARTTLS: the stream was made by the handler, and is over its connection all the same."""

    async def handler(connection: Connection) -> None:
        await connection.receive_some()
        await connection.send_all(b"go ahead")
        await speak(trio.SSLStream(connection, server_context(), server_side=True))

    async with serving(handler) as (server, told):
        raw = client_of(server)
        await raw.send_all(b"STARTTLS")
        assert b"go ahead" == await raw.receive_some()
        client = tls_over(raw)
        await client.send_all(b"x")
        assert b"x" == await client.receive_some()
        await raw.send_all(b"nonsense")
        await until(lambda: server.statistics().served)

        assert 1 == server.statistics().peers_left
        assert [] == told.of("HandlerFailed")

        await raw.aclose()


# --- TLS: not the peer's doing ----------------------------------------------------------------


async def ask_backend(address: Any) -> None:
    """Be a TLS client of a backend that does not speak TLS."""
    context = ssl.create_default_context()
    async with await connect(address) as stream:
        await trio.SSLStream(stream, context, server_hostname="backend.test").do_handshake()


@pytest.mark.parametrize("has_ended", [False, True])
@pytest.mark.parametrize("is_tls", [False, True])
async def test_tls_of_another_connection_is_a_crash(*, has_ended: bool, is_tls: bool) -> None:
    """
    The handler's own backend fails in TLS: a crash, whether the handler's peer has finished
    sending by then or not, with TLS or without.
    """

    async def plain(connection: Connection) -> None:
        await connection.send_all(b"answer")

    async def handler(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"hello")
        if has_ended:
            with contextlib.suppress(trio.BrokenResourceError):  # without close_notify
                assert not await stream.receive_some()
        await ask_backend(backend.local_addresses[0])

    context = server_context() if is_tls else None
    async with (
        serving(handler, ssl_context=context) as (server, told),
        open_server(plain, 0, host=HOST) as backend,
    ):
        raw = client_of(server)
        client = tls_over(raw) if is_tls else raw
        assert b"hello" == await client.receive_some()
        if has_ended:
            await raw.send_eof()
        await until(lambda: server.statistics().served)

        assert (1, 0) == (server.statistics().handler_failures, server.statistics().peers_left)
        (record,) = told.of("HandlerFailed")
        assert isinstance(record.error.__cause__, ssl.SSLError)

        await raw.aclose()


# --- TLS: a handler that ends its connection --------------------------------------------------


async def abort(connection: Connection) -> None:
    """Reset."""
    connection.abort()


async def close(connection: Connection) -> None:
    """Close."""
    connection.close()


async def aclose(connection: Connection) -> None:
    """Close, and wait."""
    await connection.aclose()


async def disconnect(connection: Connection) -> None:
    """Send FIN, as WSK does."""
    connection.disconnect()


async def send_eof(connection: Connection) -> None:
    """Send FIN, as Trio does."""
    await connection.send_eof()


async def close_socket(connection: Connection) -> None:
    """Close the descriptor."""
    connection.socket.close()


ENDS = [abort, close, aclose, disconnect, send_eof, close_socket]


@pytest.mark.parametrize("end", ENDS)
async def test_tls_handler_may_end_its_connection(
    end: Callable[[Connection], Awaitable[object]],
) -> None:
    """Whoever has said enough over TLS ends the connection in any way, and returns: no crash."""

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"answer")
        await end(connection)

    async with serving(handler, ssl_context=server_context(), on_handler_error="raise") as (
        server,
        told,
    ):
        raw = client_of(server)
        client = tls_over(raw)
        if end is not abort:
            assert b"answer" == await client.receive_some()
        else:
            with contextlib.suppress(trio.BrokenResourceError):
                await client.do_handshake()
        await until(lambda: server.statistics().served)

        assert (0, 0) == (server.statistics().handler_failures, server.statistics().peers_left)
        assert [] == told.of("HandlerFailed")

        await raw.aclose()


async def test_tls_handler_that_has_sent_fin_does_not_lose_its_answer() -> None:
    """The peer is still sending: the connection lingers, and the answer comes, as without TLS."""
    answer = bytes(200_000)

    async def handler(connection: Connection) -> None:
        await connection.receive_some(1)
        await connection.send_all(answer)
        await connection.send_eof()

    async with serving(handler, ssl_context=server_context()) as (server, _):
        raw = client_of(server)
        client = tls_over(raw)
        await client.send_all(b"x" * 100_000)
        await until(lambda: server.statistics().open_connections)
        received = bytearray()
        with trio.fail_after(PATIENCE):
            while len(received) < len(answer):
                received += await client.receive_some()

        assert answer == received

        await raw.aclose()


# --- Contexts that can't serve ----------------------------------------------------------------


def contexts_without_certificate() -> dict[str, ssl.SSLContext]:
    """Make contexts for servers that have nothing to show to a client."""
    contexts = {
        name: ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        for name in ("plain", "at most 1.2", "at least 1.3", "asks for a certificate")
    }
    contexts["at most 1.2"].maximum_version = ssl.TLSVersion.TLSv1_2
    contexts["at least 1.3"].minimum_version = ssl.TLSVersion.TLSv1_3
    contexts["asks for a certificate"].verify_mode = ssl.CERT_REQUIRED
    return contexts


@pytest.mark.parametrize("name", contexts_without_certificate())
async def test_context_without_certificate_is_refused(name: str) -> None:
    """It would refuse every client; whoever opens the server is told, with the right call."""
    context = contexts_without_certificate()[name]
    with pytest.raises(ValueError, match=r"no certificate; .*load_cert_chain\("):
        async with open_server(speak, 0, host=HOST, ssl_context=context):
            pass


async def test_clients_context_is_refused() -> None:
    """It is the default one, and the message shows how to make the other."""
    context = ssl.create_default_context()
    with pytest.raises(ValueError, match=r"client's.*create_default_context\(ssl\.Purpose\.CLIENT"):
        async with open_server(speak, 0, host=HOST, ssl_context=context):
            pass


def contexts_that_serve() -> dict[str, ssl.SSLContext]:
    """Make contexts with which a server can serve somebody."""
    contexts: dict[str, ssl.SSLContext] = {}
    for kind in trustme.KeyType:
        context = contexts[kind.name] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        OTHERS.issue_cert("server.test", key_type=kind).configure_cert(context)
    for name, low, high in [
        ("1.2", ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
        ("1.3", ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3),
    ]:
        contexts[name] = server_context(alpn=["h2"])
        contexts[name].minimum_version, contexts[name].maximum_version = low, high
    contexts["asks for a certificate"] = server_context()
    contexts["asks for a certificate"].verify_mode = ssl.CERT_REQUIRED
    contexts["one cipher"] = server_context()
    contexts["one cipher"].set_ciphers("ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384")
    return contexts


@pytest.mark.parametrize("name", contexts_that_serve())
def test_context_that_serves_is_not_refused(name: str) -> None:
    """Whatever the kind of key, the versions, the ciphers, and what is asked of clients."""
    check_server_context(contexts_that_serve()[name])


async def test_context_that_chooses_another_is_not_refused() -> None:
    """It needs no certificate of its own, and its callback is not called before a client comes."""
    names: list[str | None] = []

    def choose(wrapped: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        names.append(name)
        wrapped.context = server_context()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.sni_callback = choose
    async with serving(speak, ssl_context=context) as (server, _):
        assert [] == names

        async with tls_over(client_of(server)) as client:
            await client.send_all(b"x")
            assert b"x" == await client.receive_some()

        assert ["server.test"] == names


@pytest.mark.skipif(sys.version_info < (3, 13), reason="keys of both sides came with Python 3.13")
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3),
        (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3),
    ],
)
def test_context_with_keys_of_both_sides_is_not_refused(
    low: ssl.TLSVersion, high: ssl.TLSVersion
) -> None:
    """It needs no certificate, and its callback is not called before a client comes."""
    asked: list[object] = []
    context: Any = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version, context.maximum_version = low, high
    if high is ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("PSK")

    def find_key(identity: object) -> bytes:
        asked.append(identity)
        return b""

    context.set_psk_server_callback(find_key)

    check_server_context(context)

    assert [] == asked


# --- Cancellations that nobody has asked for --------------------------------------------------


async def two_tasks_in_a_left_open_scope(_: object = None) -> None:
    """Have the scope's end come out of a nursery, in a group."""
    leave_open()
    async with trio.open_nursery(strict_exception_groups=True) as nursery:
        nursery.start_soon(trio.sleep_forever)
        await trio.sleep_forever()


async def one_task_in_a_left_open_scope(_: object = None) -> None:
    """Have the scope's end come out bare."""
    leave_open()
    await trio.sleep_forever()


async def numbers() -> AsyncGenerator[int, None]:
    """Yield inside of a scope, which whoever stops in the middle is left with."""
    with trio.move_on_after(0.05):
        yield 1  # noqa: ASYNC119 - to be left unfinished


async def in_an_unfinished_generator(_: object = None) -> None:
    """Stop in the middle of an async generator, and go on in its scope."""
    generator = numbers()
    await generator.__anext__()
    async with trio.open_nursery(strict_exception_groups=True) as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(trio.sleep_forever)
    await generator.aclose()


async def raised_again(_: object = None) -> None:
    """Keep a cancellation, and raise it where nobody waits for it."""
    kept: list[trio.Cancelled] = []
    with trio.move_on_after(0):
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            kept.append(cancelled)
            raise
    raise BaseExceptionGroup("again", kept)


STRAYS = [
    (one_task_in_a_left_open_scope, "left a cancel scope open"),
    (two_tasks_in_a_left_open_scope, "left a cancel scope open"),
    (in_an_unfinished_generator, "left a cancel scope open"),
    (raised_again, "outside of the scope"),
]


@pytest.mark.parametrize(("how", "says"), STRAYS)
async def test_stray_cancellation_is_its_handlers_crash_and_nobody_elses(
    how: Callable[[], Awaitable[object]], says: str
) -> None:
    """
    A cancellation that nobody outside of the handler has asked for would end the server without a
    word; it is reported, in words, and the server goes on.
    """

    async def handler(connection: Connection) -> None:
        if await connection.receive_some() == b"stray":
            await how()
        await connection.send_all(b"served")

    with trio.fail_after(PATIENCE):
        async with serving(handler) as (server, told), client_of(server) as bystander:
            await bystander.send_all(b"w")
            assert b"served" == await bystander.receive_some()
            for count in (1, 2):
                async with client_of(server) as client:
                    await client.send_all(b"stray")
                    assert "reset" == await fate_of(client)
                assert count == server.statistics().handler_failures
            async with client_of(server) as client:
                await client.send_all(b"x")
                assert b"served" == await read_to_end(client)

    errors = [record.error for record in told.of("HandlerFailed")]
    assert 2 == len(errors)
    assert all(says in str(error) for error in errors)
    assert all(isinstance(error.__cause__, BaseException) for error in errors)


@pytest.mark.parametrize(("how", "says"), STRAYS)
async def test_stray_cancellation_can_be_raised(
    how: Callable[[], Awaitable[object]], says: str
) -> None:
    """With on_handler_error="raise" the server ends with the error that says what was wrong."""

    async def handler(_: Connection) -> None:
        await how()

    with pytest.raises(RuntimeError, match=says):  # noqa: PT012
        async with open_server(handler, 0, host=HOST, on_handler_error="raise") as server:
            async with client_of(server) as client:
                await fate_of(client)
            await trio.sleep_forever()


async def test_nursery_that_is_left_open_ends_the_server_with_a_word() -> None:
    """Trio ends the task for it with an error that names it; nothing of ours hides that."""
    kept: list[object] = []

    async def with_nursery() -> AsyncGenerator[int, None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield 1  # noqa: ASYNC119 - to be left unfinished

    async def handler(connection: Connection) -> None:
        generator = with_nursery()
        kept.append(generator)
        await generator.__anext__()
        await connection.send_all(b"served")

    with pytest.raises(RuntimeError, match=r"Nursery stack corrupted.*handler"):  # noqa: PT012
        async with open_server(handler, 0, host=HOST) as server:
            async with client_of(server) as client:
                assert b"served" == await read_to_end(client)
            await trio.sleep_forever()


async def test_crash_beside_a_stray_cancellation_is_in_the_report() -> None:
    """A group of both is reported as a group of both."""

    async def crash() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def handler(connection: Connection) -> None:
        leave_open()
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            nursery.start_soon(crash)
            await trio.sleep_forever()

    async with serving(handler) as (server, told):
        async with client_of(server) as client:
            assert "reset" == await fate_of(client)
        await until(lambda: told.of("HandlerFailed"))

        (record,) = told.of("HandlerFailed")
        assert None is not record.error.subgroup(ZeroDivisionError)
        assert None is not record.error.subgroup(RuntimeError)


@pytest.mark.parametrize("has_left_open", [False, True])
async def test_cancellation_that_the_server_asked_for_is_no_crash(*, has_left_open: bool) -> None:
    """When the grace has run out, handlers are cancelled: whatever they have left open."""

    async def handler(connection: Connection) -> None:
        if has_left_open:
            trio.CancelScope().__enter__()
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    async with serving(handler) as (server, told):
        client = client_of(server)
        await until(lambda: server.statistics().open_connections)
        await trio.testing.wait_all_tasks_blocked()
        await server.drain(grace=0)

        assert [] == told.of("HandlerFailed")

        await client.aclose()


async def test_cancellation_from_outside_of_the_server_is_no_crash() -> None:
    """Whoever serves is cancelled, and so is every handler."""
    told: list[Any] = []

    async def handler(connection: Connection) -> None:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    with trio.CancelScope() as scope:
        async with open_server(handler, 0, host=HOST, observers=[told.append]) as server:
            client = client_of(server)
            await until(lambda: server.statistics().open_connections)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()

    assert scope.cancelled_caught
    assert not {"HandlerFailed", "PeerLeft"} & {type(each).__name__ for each in told}

    await client.aclose()


@pytest.mark.parametrize(("how", "says"), STRAYS)
async def test_stray_cancellation_is_its_inspectors_crash_and_nobody_elses(
    how: Callable[[], Awaitable[object]], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is turned away, and the next one is inspected as if nothing had been."""
    asked = 0

    async def inspect(_: ConnectionRequest) -> InspectAction:
        nonlocal asked
        asked += 1
        if asked == 1:
            await how()
        await trio.lowlevel.checkpoint()
        return InspectAction.ACCEPT

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"served")

    with trio.fail_after(PATIENCE):
        async with open_server(handler, 0, host=HOST, inspect=inspect) as server:
            async with client_of(server) as client:
                assert "reset" == await fate_of(client)
            async with client_of(server) as client:
                assert b"served" == await read_to_end(client)
            counted = server.statistics().listening

    assert ({"inspector-failed": 1}, 0) == (counted.rejected, counted.straggling)
    (line,) = caplog.records
    assert line.exc_info is not None
    assert says in str(line.exc_info[1])


async def test_stray_cancellation_out_of_a_callback_is_its_crash(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A plain function can't be cancelled, so what it raises is nobody's; the pump goes on."""
    kept: list[trio.Cancelled] = []
    with trio.move_on_after(0):
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            kept.append(cancelled)
            raise

    def raise_again(_: object) -> None:
        raise kept[0]

    async with open_pair() as (connection, _):
        connection.queue_send(b"x", on_completion=raise_again)
        await until(lambda: connection.closed)

    assert ["the on_completion callback"] == [
        message.split(" of ")[0] for message in caplog.messages
    ]


def test_what_goes_on_is_not_in_the_crash() -> None:
    """Ctrl-C beside a stray cancellation goes on alone."""
    group = BaseExceptionGroup("all", [KeyboardInterrupt(), ZeroDivisionError()])
    crash, rest = split_error(group, "nobody's")

    assert isinstance(crash, BaseExceptionGroup)
    assert isinstance(rest, BaseExceptionGroup)
    assert [ZeroDivisionError] == [type(each) for each in crash.exceptions]
    assert [KeyboardInterrupt] == [type(each) for each in rest.exceptions]


# --- What errors keep -----------------------------------------------------------------------------


class Thing:
    """In a frame, to see whether that is kept."""


Kept = list["weakref.ref[Thing]"]


async def hold(kept: Kept) -> None:
    """Have something in this frame, and wait."""
    thing = Thing()
    kept.append(weakref.ref(thing))
    await trio.sleep_forever()


async def handlers_are_cancelled_by_a_drain(kept: Kept) -> None:
    """The grace has run out."""
    async with open_server(lambda _: hold(kept), 0, host=HOST) as server:
        client = client_of(server)
        await until(lambda: kept)
        await server.drain(grace=0)
        await client.aclose()


async def handlers_are_cancelled_from_outside(kept: Kept) -> None:
    """Whoever serves is cancelled."""
    with trio.CancelScope() as scope:
        async with open_server(lambda _: hold(kept), 0, host=HOST) as server:
            client = client_of(server)
            await until(lambda: kept)
            await client.aclose()
            scope.cancel()
            await trio.lowlevel.checkpoint()


async def handler_crashes(kept: Kept) -> None:
    """And is reported to nobody."""

    async def handler(_: Connection) -> None:
        thing = Thing()
        kept.append(weakref.ref(thing))
        raise ZeroDivisionError

    async with (
        open_server(handler, 0, host=HOST, observers=[Silent()]) as server,
        client_of(server) as client,
    ):
        assert "reset" == await fate_of(client)


async def body_raises(kept: Kept) -> None:
    """The block's own error comes out of it."""

    async def listen() -> None:
        async with open_listening_socket(0, host=HOST):
            thing = Thing()
            kept.append(weakref.ref(thing))
            raise ZeroDivisionError

    with contextlib.suppress(ZeroDivisionError):
        await listen()


@pytest.mark.parametrize(
    "story",
    [
        handlers_are_cancelled_by_a_drain,
        handlers_are_cancelled_from_outside,
        handler_crashes,
        body_raises,
    ],
)
async def test_frames_are_not_kept_until_the_collector_runs(
    story: Callable[[Kept], Awaitable[object]],
) -> None:
    """
    No frame of ours refers to the error that has passed through it, so that all that was in a
    handler's frames goes when the error does.
    """
    kept: Kept = []
    gc.disable()
    try:
        await story(kept)

        assert [None] == [each() for each in kept]
    finally:
        gc.enable()


# --- Ctrl-C while a block ends --------------------------------------------------------------------


class Interrupting(PortableTransport):
    """The portable transport, whose requests' connections send a Ctrl-C when one is reset."""

    def next_request(self) -> SocketRequest | None:
        """Have the next one do it."""
        request = super().next_request()
        if request is not None:
            request.__class__ = InterruptingRequest
        return request


class InterruptingRequest(SocketRequest):
    """A request that sends a Ctrl-C when its connection is reset."""

    __slots__ = ()

    def abort(self, channel: Channel) -> None:
        """Send it, and reset."""
        signal.raise_signal(signal.SIGINT)
        super().abort(channel)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Have Ctrl-C mean what it does in a terminal: a job in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_a_block_ends_leaves_nothing_open() -> None:
    """Every connection that has events is reset, and every routine called; then it goes on."""
    clients: list[trio.SocketStream] = []
    called: list[Status] = []

    async def main() -> None:
        transport = Interrupting.tcp(0, host=HOST)
        dispatch = ListenDispatch(accept=lambda _: ConnectionDispatch(receive=lambda *_: None))
        async with open_listening_socket(transport=transport, dispatch=dispatch) as listening:
            listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
            clients.extend(connect_now(listening.local_addresses[0]) for _ in range(3))
            await until(lambda: listening.statistics().delivered["event"] == 3)
            await listening.disable_event(EventMask.ACCEPT)
            for _ in range(3):
                listening.queue_accept(on_completion=lambda irp: called.append(irp.status))

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    for client in clients:
        with client.socket, plain(client) as peer, pytest.raises(ConnectionResetError):
            peer.recv(1)

    assert 3 * [Status.CANCELLED] == called


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_a_routine_raises_goes_on_when_all_are_called(
    error: type[BaseException],
) -> None:
    """A routine that raises what concerns the process keeps nobody from hearing of the end."""
    called: list[Status] = []

    def routine(irp: Irp[Connection]) -> None:
        called.append(irp.status)
        raise error

    with pytest.raises(error):  # noqa: PT012
        async with open_listening_socket(0, host=HOST) as listening:
            for _ in range(3):
                listening.queue_accept(on_completion=routine)

    assert 3 * [Status.CANCELLED] == called


# --- Callbacks that fail --------------------------------------------------------------------------


def crash(*_: object) -> Any:
    """Fail, whoever calls."""
    raise ZeroDivisionError


def nonsense(*_: object) -> Any:
    """Answer what means nothing."""
    return "nonsense"


async def provoke(server: Server, kind: str) -> None:
    """Have one callback of a server called, and wait for its connection's end."""
    async with client_of(server) as client:
        if kind == "abort":
            await until(lambda: server.statistics().listening.pending)
            reset(client)
            await until(lambda: server.statistics().listening.aborted)
            return
        if kind == "drain":
            await until(lambda: server.statistics().open_connections)
            await server.drain(grace=PATIENCE)
        elif kind != "inspect":
            await client.send_all(b"x")
        if kind in ("disconnect", "closed"):
            await client.send_eof()
        assert kind == "closed" or "reset" == await fate_of(client)
        await until(lambda: kind == "inspect" or server.statistics().served)


@pytest.mark.parametrize(
    ("kind", "fail"),
    [
        ("accept", crash),
        ("accept", nonsense),
        ("receive", crash),
        ("receive", nonsense),
        ("disconnect", crash),
        ("on_completion", crash),
        ("drain", crash),
        ("closed", crash),
        ("inspect", crash),
        ("inspect", nonsense),
        ("abort", crash),
    ],
)
async def test_callbacks_that_fail_are_counted(
    kind: str, fail: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Each is counted by its name, and all of them beside the handlers that have crashed."""

    def accept(connection: Connection) -> Any:
        if kind == "accept":
            return fail()
        if kind == "on_completion":
            connection.queue_send(b"x", on_completion=fail)
        return ConnectionDispatch(
            receive=fail if kind == "receive" else lambda *_: None,
            disconnect=fail if kind == "disconnect" else None,
            closed=fail if kind == "closed" else None,
        )

    def pend(_: ConnectionRequest) -> InspectAction:
        return InspectAction.PEND if kind == "abort" else InspectAction.ACCEPT

    dispatch = ListenDispatch(
        accept=accept,
        inspect=fail if kind == "inspect" else pend,
        abort=fail if kind == "abort" else None,
        drain=fail if kind == "drain" else None,
    )
    async with open_server(dispatch, 0, host=HOST, grace=0) as server:
        await provoke(server, kind)
        await until(lambda: server.statistics().callback_failures)
        counted = server.statistics()

    assert {kind: 1} == counted.listening.callback_failures
    assert (1, 0) == (counted.callback_failures, counted.handler_failures)
    assert 1 == len(caplog.records)
