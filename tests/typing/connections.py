"""Connections: streams, event sources, and whose they are."""

from __future__ import annotations

from typing import Any

import trio
from typing_extensions import assert_type

from trio_wsk import (
    Address,
    Connection,
    ConnectionDispatch,
    ConnectionState,
    EventMask,
    ListeningSocket,
    PeerCredentials,
    Status,
    Taken,
    TLSInfo,
)


async def awaited(connection: Connection) -> None:
    """A connection is a half-closeable stream."""
    stream: trio.abc.HalfCloseableStream = connection
    assert_type(await connection.receive_some(), bytes)
    assert_type(await connection.receive_some(max_bytes=10), bytes)
    assert_type(await connection.receive_into(bytearray(10)), int)
    assert_type(await connection.send_all(memoryview(b"octets")), None)
    assert_type(await connection.wait_send_all_might_not_block(), None)
    assert_type(await connection.send_eof(), None)
    async for octets in connection:
        # Trio declares for all of its streams that they may give out bytearrays.
        assert_type(octets, bytes | bytearray)
    async with connection as same:
        assert_type(same, Connection)
    await stream.aclose()

    await connection.receive_into(b"octets")  # type: ignore[arg-type]  # can't be written to
    await connection.send_all("text")  # type: ignore[arg-type]  # not octets


def looked_at(connection: Connection) -> None:
    """Who and where."""
    assert_type(connection.local_address, Address)
    assert_type(connection.remote_address, Address)
    assert_type(connection.remote_address.port, int)
    assert_type(connection.listening, ListeningSocket)
    assert_type(connection.draining, trio.Event)
    assert_type(connection.socket, trio.socket.SocketType)
    assert_type(trio.SocketStream(connection.socket).socket, trio.socket.SocketType)
    assert_type(connection.closed, bool)
    assert_type(connection.peer_credentials, PeerCredentials | None)
    tls = connection.tls
    assert_type(tls, TLSInfo | None)
    if tls is not None:
        assert_type(tls.alpn, str | None)
        assert_type(tls.server_name, str | None)
        assert_type(tls.peer_certificate(), dict[str, Any] | None)
        assert_type(tls.peer_certificate(binary=True), bytes | None)
        assert_type(f"{tls.version} {tls.cipher}", str)
    assert_type(connection.opened_at, float)
    assert_type(connection.octets_received, int)
    assert_type(connection.octets_sent, int)
    assert_type(connection.octets_unsent, int)
    assert_type(connection.idle_seconds, float | None)
    assert_type(connection.state, ConnectionState)
    assert_type(connection.ideal_send_backlog, int)
    connection.context = "anything"
    connection.remote_address = Address.parse("[::1]:80")  # type: ignore[misc]  # it is what it is


async def called_back(connection: Connection) -> None:
    """Callbacks are plain functions; what they may answer is part of their type."""

    def receive(connection: Connection, octets: bytes) -> Status | Taken | None:
        return Taken(connection.send_nowait(octets))

    def receive_and_count(connection: Connection, octets: bytes) -> int:
        """Answers with a count, and not with how many it has taken."""
        return connection.send_nowait(octets)

    def receive_all(connection: Connection, octets: bytes) -> None:
        """Take everything."""

    def receive_text(connection: Connection, text: str) -> None:
        """Isn't given what it expects."""

    def receive_and_answer(connection: Connection, octets: bytes) -> bytes:
        return octets

    async def receive_slowly(connection: Connection, octets: bytes) -> None:
        """Isn't plain."""

    def disconnect(connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - as called
        connection.disconnect(data=b"bye")

    def send_backlog(connection: Connection, ideal: int) -> None:
        """Take note."""

    ConnectionDispatch(receive=receive_all)
    dispatch = ConnectionDispatch(receive=receive, disconnect=disconnect, send_backlog=send_backlog)
    assert_type(dispatch.events, EventMask)
    if dispatch.receive is not None:
        assert_type(dispatch.receive(connection, b""), Status | Taken | None)
    connection.enable_events(EventMask.RECEIVE | EventMask.DISCONNECT, dispatch)
    assert_type(await connection.disable_event(EventMask.RECEIVE), None)
    assert_type(connection.disable_event_nowait(EventMask.RECEIVE), Status)
    assert_type(connection.resume_receive(), None)
    assert_type(connection.send_nowait(b"octets"), int)
    assert_type(connection.disconnect(abortive=True), None)
    assert_type(connection.abort(), None)
    assert_type(connection.close(), None)

    ConnectionDispatch(receive=receive_and_count)  # type: ignore[arg-type]  # of what?
    ConnectionDispatch(receive=receive_text)  # type: ignore[arg-type]  # octets come
    ConnectionDispatch(receive=receive_and_answer)  # type: ignore[arg-type]  # no answer to the peer
    ConnectionDispatch(receive=receive_slowly)  # type: ignore[arg-type]  # as it says
    connection.enable_events(0x40, dispatch)  # type: ignore[arg-type]  # an int is no event
    connection.disconnect(True)  # type: ignore[call-arg]  # options have names  # noqa: FBT003 - the mistake
