"""Servers that speak TLS: handshakes, and how both sides say good-bye."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.helpers.serving import client_of, server_context, serving, tls_over
from tests.helpers.support import read_to_end, reset, until
from trio_wsk import Connection
from trio_wsk._serving import tls

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


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
