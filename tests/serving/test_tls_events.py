"""Servers of events that speak TLS: what is true without it is true with it."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from tests.helpers.serving import client_of, server_context, serving, tls_over
from tests.helpers.support import PATIENCE, fate_of, other_end, read_to_end, reset, until
from tests.helpers.tls import OLD, client_context
from trio_wsk import (
    Connection,
    ConnectionBrokenError,
    ConnectionDispatch,
    ConnectionRequest,
    DrainReport,
    EndReason,
    InspectAction,
    InvalidDeviceStateError,
    Irp,
    ListenDispatch,
    More,
    SocketClosedError,
    Status,
    Taken,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.helpers.serving import Told
    from trio_wsk import Server
    from trio_wsk._vocabulary.records import ConnectionEnded

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

VERSIONS = pytest.mark.parametrize("version", [None, OLD], ids=["1.3", "1.2"])
MEBIBYTE = 1 << 20


class Site:
    """A server of events over TLS, its connections, and what they were told."""

    def __init__(self, **callbacks: Callable[..., Any] | None) -> None:
        self.connections: list[Connection] = []
        self.told: list[tuple[Any, ...]] = []
        self.received = bytearray()
        self.ends: list[ConnectionEnded] = []
        self.server: Server
        self.observer: Told
        self._callbacks = callbacks

    def accept(self, connection: Connection) -> ConnectionDispatch | Status:
        """Take a connection, with callbacks that keep what they are told."""
        self.connections.append(connection)
        own: Any = {
            "receive": self.receive,
            "disconnect": self.disconnect,
            "closed": lambda _, ended: self.ends.append(ended),
            **self._callbacks,
        }
        accept = own.pop("accept", None)
        own.pop("drain", None)
        return accept(connection) if accept is not None else ConnectionDispatch(**own)

    def receive(self, _: Connection, data: bytes) -> None:
        """Keep what has come."""
        self.received += data

    def disconnect(self, connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - as it is called
        """Keep what was told, and end as well."""
        self.told.append(("disconnect", abortive))
        if not abortive:
            connection.disconnect()

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[Site]:
        """Serve."""
        options.setdefault("ssl_context", server_context(alpn=["x"]))
        dispatch: Any = ListenDispatch(accept=self.accept, drain=self._callbacks.get("drain"))
        with trio.fail_after(PATIENCE):
            async with serving(dispatch, **options) as (self.server, self.observer):
                yield self

    async def client(self, version: ssl.TLSVersion | None = None) -> trio.SSLStream[Any]:
        """Have a client shake hands."""
        client = trio.SSLStream(
            client_of(self.server), client_context(version, ["x"]), server_hostname="server.test"
        )
        count = len(self.connections)
        await client.do_handshake()
        await until(lambda: len(self.connections) > count)
        return client


def echo(connection: Connection, data: bytes) -> None:
    """Send it back."""
    connection.send_nowait(data)


# --- As without TLS -----------------------------------------------------------------------------


@VERSIONS
async def test_events_over_tls(version: ssl.TLSVersion | None) -> None:
    """The handshake is over before a connection is accepted, and both ends say good-bye."""
    site = Site(receive=echo)
    async with site.open():
        client = await site.client(version)
        (connection,) = site.connections
        info = connection.tls

        assert info is not None
        assert ("x", "server.test") == (info.alpn, info.server_name)
        assert client.version() == info.version
        assert client.cipher()[0] == info.cipher
        assert info.peer_certificate() is None

        for _ in range(3):
            await client.send_all(b"secret")

            assert b"secret" == await client.receive_some()

        assert 18 == connection.octets_received == connection.octets_sent

        await client.aclose()
        await until(lambda: site.ends)

        assert [("disconnect", False)] == site.told
        assert EndReason.FINISHED is site.ends[0].reason
        assert info is connection.tls
        assert "x" == info.alpn
        assert {} == site.server.statistics().handshake_failures
        assert [1] == [
            count for count in site.server.statistics().listening.delivered.values() if count
        ]


async def test_connection_without_tls_knows_of_none() -> None:
    """`Connection.tls` is None there."""
    site = Site()
    async with site.open(ssl_context=None):
        client = client_of(site.server)
        await until(lambda: site.connections)

        assert site.connections[0].tls is None

        await client.aclose()


async def test_certificate_of_a_client_can_be_asked() -> None:
    """If the context asks clients for one, it is what `ssl` makes of it; without, none comes in."""
    authority = trustme.CA()
    context = server_context()
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    site = Site()
    async with site.open(ssl_context=context):
        own = client_context()
        authority.issue_cert("client.test").configure_cert(own)
        client = trio.SSLStream(client_of(site.server), own, server_hostname="server.test")
        await client.do_handshake()
        await until(lambda: site.connections)
        info = site.connections[0].tls
        assert info is not None
        certificate = info.peer_certificate()

        assert certificate is not None
        assert (("DNS", "client.test"),) == certificate["subjectAltName"]
        assert isinstance(info.peer_certificate(binary=True), bytes)

        await client.aclose()
        stranger = tls_over(client_of(site.server))
        await stranger.do_handshake()  # whose answer it does not wait for, in TLS 1.3
        with pytest.raises(trio.BrokenResourceError):
            await stranger.receive_some()
        await stranger.aclose()
        await until(lambda: site.server.statistics().handshake_failures)

        assert {"protocol": 1} == site.server.statistics().handshake_failures
        assert 1 == len(site.connections)


@VERSIONS
async def test_much_goes_both_ways(version: ssl.TLSVersion | None) -> None:
    """Nothing is lost where the kernel is full in both directions, and it is again and again."""
    size = 4 * MEBIBYTE
    octets = bytes(range(251)) * (size // 251)
    site = Site(receive=echo)
    async with site.open():
        client = await site.client(version)
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, octets)
            await until(lambda: site.connections[0].octets_received > MEBIBYTE)
            while len(received) < len(octets):
                received += await client.receive_some()

        assert octets == received

        await client.aclose()
        await until(lambda: site.ends)

        assert (len(octets), len(octets)) == (
            site.ends[0].octets_received,
            site.ends[0].octets_sent,
        )


async def test_refused_octets_hold_the_peer_up() -> None:
    """What a callback does not take is not read, and TLS hardly reads ahead."""
    site = Site(receive=lambda *_: Status.DATA_NOT_ACCEPTED)
    async with site.open():
        client = await site.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, bytes(16 * MEBIBYTE))
            await until(lambda: site.connections[0].octets_received)
            for _ in range(20):
                await wait_all_tasks_blocked()

            assert site.connections[0].octets_received <= 98304

            nursery.cancel_scope.cancel()
        site.connections[0].abort()
        await client.transport_stream.aclose()


async def test_octets_can_be_taken_in_parts() -> None:
    """A parser takes what it has understood; the rest comes again, also behind the peer's end."""
    taken = []

    def receive(connection: Connection, data: bytes) -> Taken:
        taken.append(data[:3])
        connection.resume_receive()
        return Taken(min(3, len(data)))

    site = Site(receive=receive)
    async with site.open():
        client = await site.client()
        await client.send_all(b"aaabbbccc")
        await client.aclose()
        await until(lambda: site.ends)

        assert [b"aaa", b"bbb", b"ccc"] == taken
        assert [("disconnect", False)] == site.told


async def test_backlog_is_told() -> None:
    """`send_backlog` and `ideal_send_backlog` say what the path below can take."""
    ideals: list[int] = []
    site = Site(send_backlog=lambda _, ideal: ideals.append(ideal))
    async with site.open():
        client = await site.client()
        (connection,) = site.connections
        octets = bytes(8 * MEBIBYTE)
        waiting = connection.send_nowait(octets)

        assert 0 < waiting < len(octets)
        assert connection.ideal_send_backlog > 0

        received = 0
        while received < len(octets):
            received += len(await client.receive_some())
        await until(lambda: ideals)
        await client.aclose()


async def test_events_over_tls_on_a_unix_socket(tmp_path: Path) -> None:
    """A short read does not say there that nothing is left; octets and ends come all the same."""
    site = Site(receive=echo)
    place = tmp_path / "socket"
    async with site.open(path=place, port=None, host=None):
        client = trio.SSLStream(
            await trio.open_unix_socket(str(place)), client_context(), server_hostname="server.test"
        )
        octets = bytes(range(251)) * 1000
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, octets)
            while len(received) < len(octets):
                received += await client.receive_some()

        assert octets == received

        await client.aclose()
        await until(lambda: site.ends)

        assert EndReason.FINISHED is site.ends[0].reason
        assert [("disconnect", False)] == site.told


async def test_inspector_sees_the_hello_and_leaves_it() -> None:
    """What it has peeked at is there for the handshake, and who is rejected has none."""
    seen: list[bytes] = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        seen.append(await request.peek(3))
        return InspectAction.ACCEPT if len(seen) == 1 else InspectAction.REJECT

    site = Site(receive=echo)
    async with site.open(inspect=inspect):
        client = await site.client()
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()

        await client.aclose()
        other = tls_over(client_of(site.server))
        with pytest.raises(trio.BrokenResourceError):
            await other.do_handshake()
        await other.aclose()

        assert [b"\x16\x03\x01"] * 2 == seen
        assert {} == site.server.statistics().handshake_failures


# --- Handshakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"\x00garbage\xff" * 10, "protocol"),
        (b"GET / HTTP/1.1\r\nHost: server.test\r\n\r\n", "protocol"),
        (b"\x16\x03\x01\x00\x05wrong" + bytes(100000), "protocol"),
        (None, "peer-left"),
        (b"\x16\x03\x01", "peer-left"),
        ("reset", "peer-left"),
        ("nothing", "timeout"),
    ],
)
async def test_failed_handshakes_are_counts(says: Any, reason: str) -> None:
    """Whatever goes wrong in a handshake is counted by its reason, and nobody is called."""
    site = Site()
    async with site.open(handshake_timeout=0.05 if says == "nothing" else 10):
        client = client_of(site.server)
        if says == "reset":
            await client.send_all(b"\x16\x03\x01")
            await until(lambda: site.server.statistics().open_connections)
            reset(client)
        elif says != "nothing":
            if says:
                await client.send_all(says)
            if reason == "peer-left":
                await client.send_eof()
        await until(lambda: site.server.statistics().served)

        assert {reason: 1} == site.server.statistics().handshake_failures
        (record,) = site.observer.of("HandshakeFailed")
        assert reason == record.reason
        assert (record.error is None) == (reason == "timeout")
        assert [] == site.connections
        assert [] == site.observer.of("CallbackFailed")
        assert 1 == len(site.observer.of("ConnectionEnded"))

        if says != "reset":
            assert "fin" == await fate_of(client)  # with the alert before it, where there is one
        await client.aclose()


async def test_silent_peers_are_in_nobodys_way() -> None:
    """However many connect and say nothing, or half of it, others are served meanwhile."""
    site = Site(receive=echo)
    async with site.open():
        silent = [client_of(site.server) for _ in range(200)]
        for each in silent[::2]:
            await each.send_all(b"\x16\x03\x01\x02\x00\x01")
        await until(lambda: site.server.statistics().open_connections == len(silent))
        client = await site.client()
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()

        await client.aclose()
        for each in silent:
            await each.aclose()
        await until(lambda: not site.server.statistics().open_connections)

        assert {"peer-left": 200} == site.server.statistics().handshake_failures


async def test_one_step_at_a_time() -> None:
    """However many clients have asked to shake hands, others have their turn after each answer."""
    answered = 0
    most = 0

    def count(*_: object) -> None:
        nonlocal answered
        answered += 1

    context = server_context()
    context.sni_callback = count  # the library's own word for the beginning of an answer
    site = Site()
    async with site.open(ssl_context=context):
        clients = [tls_over(client_of(site.server)) for _ in range(20)]
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.do_handshake)
            while answered < len(clients):
                before = answered
                await trio.lowlevel.checkpoint()
                most = max(most, answered - before)
        for client in clients:
            await client.aclose()

    assert most <= 2  # Trio may run the pump last in one pass, and first in the next one


async def test_handshake_has_a_permit() -> None:
    """Who is shaking hands is a connection, and gives its permit back when it fails."""
    site = Site(receive=echo)
    async with site.open(max_connections=1, handshake_timeout=0.2):
        silent = client_of(site.server)
        await until(lambda: site.server.statistics().open_connections)
        client = await site.client()  # when the other one has had its time

        assert {"timeout": 1} == site.server.statistics().handshake_failures
        assert 1 == site.server.statistics().open_most

        await client.aclose()
        await silent.aclose()


# --- A drain, and the end of the server -----------------------------------------------------------


async def test_drain_waits_for_handshakes() -> None:
    """A handshake that is under way comes to its end, and its connection is told once of it."""
    drained: list[Connection] = []
    accepted: list[Connection] = []

    def accept(connection: Connection) -> ConnectionDispatch:
        accepted.append(connection)
        return ConnectionDispatch(receive=echo)

    site = Site(accept=accept, drain=drained.append)
    async with site.open():
        open_already = tls_over(client_of(site.server))
        await open_already.do_handshake()
        late = client_of(site.server)
        await until(lambda: site.server.statistics().open_connections == 2)
        async with trio.open_nursery() as nursery:
            reports: list[DrainReport] = []

            async def drain() -> None:
                reports.append(await site.server.drain(grace=PATIENCE))

            nursery.start_soon(drain)
            await until(lambda: drained)
            client = tls_over(late)
            await client.send_all(b"x")

            assert b"x" == await client.receive_some()
            assert drained == accepted
            assert 2 == len(accepted)

            await client.aclose()
            await open_already.aclose()
        assert [DrainReport(finished=2, reset=0)] == reports
        assert {} == site.server.statistics().handshake_failures


async def test_drain_resets_who_does_not_shake_hands() -> None:
    """A handshake that has not ended with the grace is reset, which is not a failure."""
    site = Site()
    async with site.open():
        silent = client_of(site.server)
        await until(lambda: site.server.statistics().open_connections == 1)

        assert DrainReport(finished=0, reset=1) == await site.server.drain(grace=0.1)
        assert "reset" == await fate_of(silent)
        assert {} == site.server.statistics().handshake_failures

        await silent.aclose()


async def test_handshake_that_ends_as_a_drain_begins_is_told_once() -> None:
    """Who has just shaken hands, and who is just about to, hear of the drain once each."""
    drained: list[Connection] = []
    site = Site(receive=echo, drain=drained.append)
    async with site.open():
        clients = [tls_over(client_of(site.server)) for _ in range(10)]
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.do_handshake)
            await until(lambda: len(site.connections) > 3)
            nursery.start_soon(partial(site.server.drain, grace=PATIENCE))
            await until(lambda: len(drained) == len(clients))
            for client in clients:
                nursery.start_soon(client.aclose)

    assert set(site.connections) == set(drained)
    assert len(clients) == len(drained)


async def test_abort_ends_handshakes() -> None:
    """They are reset, and that they came to nothing is nobody's failure."""
    site = Site()
    async with site.open():
        silent, half = client_of(site.server), client_of(site.server)
        await half.send_all(b"\x16\x03\x01")
        await until(lambda: site.server.statistics().open_connections == 2)
        site.server.abort()

        assert "reset" == await fate_of(silent) == await fate_of(half)

        assert {} == site.server.statistics().handshake_failures

        await silent.aclose()
        await half.aclose()


# --- How it ends --------------------------------------------------------------------------------


@pytest.mark.parametrize("https_compatible", [False, True])
async def test_end_without_good_bye(*, https_compatible: bool) -> None:
    """It is an abortive end, as it is to a handler; where HTTPS is spoken it is an end."""
    site = Site()
    async with site.open(https_compatible=https_compatible):
        client = await site.client(OLD)  # whose tickets are read: else its end would be a reset
        await client.send_all(b"part")
        await until(lambda: site.received)
        await client.transport_stream.aclose()
        await until(lambda: site.ends)

        assert b"part" == site.received
        assert [("disconnect", not https_compatible)] == site.told
        assert (EndReason.FINISHED if https_compatible else EndReason.BROKEN) is site.ends[0].reason
        if not https_compatible:
            assert "without TLS's good-bye" in str(site.ends[0].error)


async def test_reset_is_an_abortive_end() -> None:
    """As it is without TLS."""
    site = Site()
    async with site.open():
        client = await site.client()
        reset(client.transport_stream)
        await until(lambda: site.ends)

        assert [("disconnect", True)] == site.told
        assert EndReason.PEER_RESET is site.ends[0].reason


async def test_octets_that_are_no_tls_break_the_connection() -> None:
    """Also after the handshake: that is the peer's doing, and no callback's failure."""
    site = Site()
    async with site.open():
        client = await site.client()
        await client.send_all(b"good")
        await client.transport_stream.send_all(b"this is no TLS" * 10)
        await until(lambda: site.ends)

        assert b"good" == site.received
        assert [("disconnect", True)] == site.told
        assert EndReason.BROKEN is site.ends[0].reason
        assert 0 == site.server.statistics().callback_failures

        await client.transport_stream.aclose()


async def test_disconnect_says_good_bye_and_hears_the_rest() -> None:
    """`disconnect` is close_notify, and then FIN; what the peer still says is received."""
    site = Site()
    async with site.open():
        client = await site.client()
        (connection,) = site.connections
        connection.disconnect(data=b"last")

        assert b"last" == await client.receive_some()
        assert b"" == await client.receive_some()  # raises without a close_notify
        assert b"" == await client.transport_stream.receive_some()

        await client.send_all(b"thanks")
        await until(lambda: site.received)

        assert b"thanks" == site.received
        assert not connection.closed
        with pytest.raises(SocketClosedError):
            connection.send_nowait(b"more")

        await client.aclose()
        await until(lambda: site.ends)

        assert EndReason.FINISHED is site.ends[0].reason


@pytest.mark.parametrize(("end", "is_whole"), [("disconnect", True), ("send_eof_nowait", False)])
async def test_answer_to_a_good_bye_may_be_left_out(end: str, *, is_whole: bool) -> None:
    """
    Many clients answer it with FIN alone. Who has ended does not wait for more (RFC 5246, 7.2.1);
    who has only finished sending wants all that the peer has to say.
    """
    site = Site()
    async with site.open():
        client = await site.client(OLD)
        getattr(site.connections[0], end)()

        assert b"" == await client.receive_some()

        await client.transport_stream.aclose()
        await until(lambda: site.ends)

        assert (EndReason.FINISHED if is_whole else EndReason.BROKEN) is site.ends[0].reason
        assert [("disconnect", not is_whole)] == site.told


@pytest.mark.parametrize("end", ["disconnect", "aclose", "send_eof"])
@pytest.mark.parametrize("spare", [0, 1, 1000, 16384])
async def test_good_bye_is_never_lost_where_the_kernel_is_full(end: str, spare: int) -> None:
    """
    A peer that reads late gets all of it, and a good-bye after that: also if the last octets leave
    no room for that at once.
    """
    site = Site(receive=None, disconnect=None)
    async with site.open():
        client = await site.client()
        (connection,) = site.connections
        size = 0
        while connection.send_nowait(bytes(4096)) == 0:
            size += 4096
        size += 4096 + spare
        connection.send_nowait(bytes(spare))
        async with trio.open_nursery() as nursery:
            if end == "disconnect":
                connection.disconnect()
            else:
                nursery.start_soon(getattr(connection, end))
            await wait_all_tasks_blocked()
            received = 0
            while data := await client.receive_some():  # raises without a close_notify
                received += len(data)

        assert size == received

        await client.aclose()
        if end == "send_eof":
            connection.close()
        await until(lambda: site.server.statistics().served)


async def test_good_bye_that_nobody_makes_room_for_is_a_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As what is queued is that the peer doesn't take: after 30 seconds, at most."""
    monkeypatch.setattr("trio_wsk._connection.sending.TAKING_SECONDS", 0.05)
    site = Site()
    async with site.open():
        client = await site.client()
        (connection,) = site.connections
        fill(client)
        await connection.aclose()
        await until(lambda: site.ends)

        assert EndReason.TIMED_OUT is site.ends[0].reason
        assert "reset" == await fate_of(client.transport_stream)

        await client.transport_stream.aclose()


# --- Sending ------------------------------------------------------------------------------------


async def test_queued_sends_complete_when_the_kernel_has_them() -> None:
    """In order, and each with its own count, also if many share a record's time."""
    done: list[tuple[object, int | None]] = []
    site = Site()
    async with site.open():
        client = await site.client()
        (connection,) = site.connections
        sizes = [5, MEBIBYTE, 1, 3 * MEBIBYTE, 100000, 0, 7]

        def completed(irp: Irp[int]) -> None:
            done.append((irp.context, irp.information))

        irps = [
            connection.queue_send(bytes([count]) * size, context=count, on_completion=completed)
            for count, size in enumerate(sizes)
        ]

        assert Status.PENDING is irps[-1].status

        received = bytearray()
        while len(received) < sum(sizes):
            received += await client.receive_some()
        await until(lambda: len(done) == len(sizes))

        assert [*enumerate(sizes)] == done
        assert b"".join(bytes([count]) * size for count, size in enumerate(sizes)) == received

        await client.aclose()


async def test_send_of_which_a_record_has_begun_is_not_taken_back() -> None:
    """Some of it has left, though none of it counts as sent; those behind it are taken back."""
    site = Site()
    async with site.open():
        client = await site.client()
        (connection,) = site.connections
        count = 1
        while (irp := connection.queue_send(bytes(16384))).status is Status.SUCCESS:
            count += 1
        never = connection.queue_send(b"never")

        assert not irp.cancel()
        assert never.cancel()

        received = 0
        while received < 16384 * count:
            received += len(await client.receive_some())

        assert Status.SUCCESS is irp.status
        assert Status.CANCELLED is never.status

        connection.disconnect(data=b".")

        assert b"." == await read_to_end(client)

        await client.aclose()


async def test_send_that_was_cut_short_is_followed_by_a_reset() -> None:
    """The peer must not take a part for all of it: it hears no good-bye."""
    site = Site()
    async with site.open():
        client = await site.client()
        (connection,) = site.connections
        with trio.move_on_after(0.05):
            await connection.send_all(bytes(64 * MEBIBYTE))
        connection.disconnect()

        assert connection.closed
        assert "reset" == await fate_of(client.transport_stream)

        await client.transport_stream.aclose()


@pytest.mark.parametrize("end", ["close", "abort", "disconnect"])
@pytest.mark.parametrize("size", [1, 16384, 100000])
async def test_send_that_was_cut_short_before_anything_counts(size: int, end: str) -> None:
    """Also if nothing counts as sent, because its first record may have left in part."""
    site = Site()
    async with site.open():
        client = await site.client()
        (connection,) = site.connections
        fill(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send_all, b"x" * size)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        getattr(connection, end)()

        assert "reset" == await fate_of(client.transport_stream)

        await client.transport_stream.aclose()


async def test_send_after_one_that_was_cut_short_is_whole() -> None:
    """What is sent then is not taken for the rest of a record that has left in part."""
    site = Site()
    async with site.open():
        client = await site.client()
        (connection,) = site.connections
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send_all, bytes(64 * MEBIBYTE))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(finish, connection)
            received += await read_to_end(client)

        assert b"\0next" == received[-5:]

        await client.aclose()


async def finish(connection: Connection) -> None:
    """Send something, and end."""
    await connection.send_all(b"next")
    connection.disconnect()


def fill(client: trio.SSLStream[Any]) -> None:
    """Fill the kernel on its way to a client, below TLS: what that makes of it is not looked at."""
    below = os.dup(other_end(client.transport_stream))
    with suppress(BlockingIOError):
        while os.write(below, bytes(MEBIBYTE)):
            pass
    os.close(below)


# --- Awaited ------------------------------------------------------------------------------------


async def test_tasks_may_await_a_connection_over_tls() -> None:
    """An accept callback may start a task, and have no events: it is the same connection."""
    finished = []

    async def handle(connection: Connection) -> None:
        assert await connection.more() is More.THERE

        for size in (3, 2):
            await connection.send_all((await connection.receive_some(size)).upper())
        await connection.send_all(bytes(MEBIBYTE))
        await connection.aclose()
        finished.append(connection)

    async with trio.open_nursery() as nursery:

        def accept(connection: Connection) -> Status:
            nursery.start_soon(handle, connection)
            return Status.SUCCESS

        site = Site(accept=accept)
        async with site.open():
            client = await site.client()
            await client.send_all(b"hello")
            received = bytearray()
            while len(received) < 5:
                received += await client.receive_some()

            assert b"HELLO" == received

            assert bytes(MEBIBYTE) == await read_to_end(client)  # and a good-bye

            await client.aclose()
            await until(lambda: finished)


async def test_receiving_finds_the_connection_broken() -> None:
    """A task gets the error that the events would be told of."""
    caught: list[ConnectionBrokenError] = []

    async def handle(connection: Connection) -> None:
        try:
            await connection.receive_some()
        except ConnectionBrokenError as error:
            caught.append(error)
        connection.close()

    async with trio.open_nursery() as nursery:

        def accept(connection: Connection) -> Status:
            nursery.start_soon(handle, connection)
            return Status.SUCCESS

        site = Site(accept=accept)
        async with site.open():
            client = await site.client(OLD)
            await client.transport_stream.aclose()
            await until(lambda: caught)

            assert "without TLS's good-bye" in str(caught[0])


async def test_socket_is_below_tls() -> None:
    """
    It is there for options, and for nothing else: what would lose TLS its place is refused, and the
    connection goes on beside it.
    """
    site = Site(receive=echo)
    async with site.open():
        client = await site.client()
        (connection,) = site.connections
        below = connection.socket
        below.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        assert client.transport_stream.socket.getsockname() == below.getpeername()
        with pytest.raises(InvalidDeviceStateError, match=r"below TLS.*receive_some\(\)"):
            await below.recv(1)
        with pytest.raises(InvalidDeviceStateError, match="below TLS"):
            await trio.SocketStream(below).send_all(b"plain text")
        with pytest.raises(InvalidDeviceStateError, match="could not go on with"):
            below.detach()
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()

        connection.disconnect()

        assert b"" == await client.receive_some()

        await client.aclose()
        await until(lambda: site.ends)


# --- Another client -----------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl(1) here")
@pytest.mark.parametrize("option", ["-tls1_2", "-tls1_3"])
async def test_openssl_is_a_client(option: str) -> None:
    """`openssl s_client` is answered, also when it has changed its keys, and hears a good-bye."""
    site = Site(receive=echo)
    async with site.open():
        where = str(site.server.local_addresses[0])
        command = ["openssl", "s_client", "-connect", where, option]
        async with program(command) as (say, hears):
            await say(b"hello\n")
            await hears(b"hello\n")
            if option == "-tls1_3":
                await say(b"K\n")  # a KeyUpdate that asks for one
                await hears(b"KEYUPDATE")
            await say(b"world\n")
            await hears(b"world\n")
            site.connections[0].disconnect(data=b"the end\n")
            await hears(b"the end\n")
            await until(lambda: site.ends)

    assert EndReason.FINISHED is site.ends[0].reason


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl(1) here")
async def test_nobody_renegotiates() -> None:
    """Who wants to, in TLS 1.2, is refused, and nothing is lost by that but its connection."""
    site = Site(receive=echo)
    async with site.open():
        where = str(site.server.local_addresses[0])
        async with program(["openssl", "s_client", "-connect", where, "-tls1_2"]) as (say, hears):
            await say(b"hello\n")
            await hears(b"hello\n")
            await say(b"R\n")
            await until(lambda: site.ends)
        client = await site.client()
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()

        await client.aclose()


@asynccontextmanager
async def program(command: list[str]) -> AsyncIterator[tuple[Any, Any]]:
    """Run a program; give what says something to it, and what waits until it has said something."""
    running = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    stdin, stdout = running.stdin, running.stdout
    assert stdin is not None
    assert stdout is not None
    heard = bytearray()

    async def hears(words: bytes) -> None:
        while words not in heard:
            more = await stdout.receive_some()

            assert more, heard

            heard.extend(more)
        del heard[: heard.index(words) + len(words)]

    try:
        yield stdin.send_all, hears
    finally:
        running.kill()
        with trio.CancelScope(shield=True):
            await running.wait()
            await stdin.aclose()
            await stdout.aclose()
