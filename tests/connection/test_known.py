"""What is known of a connection: its peer, since when it is open, and how much has passed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers.pairs import open_event_pair, open_pair, receive_all
from tests.helpers.support import PATIENCE
from trio_wsk import (
    ConnectionDispatch,
    InspectAction,
    PeerCredentials,
    open_listening_socket,
)
from trio_wsk import (
    connect as connect_to,
)
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from trio_wsk import Connection, ConnectionRequest

pytestmark = pytest.mark.usefixtures("readiness")

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who the peer is")

OURSELVES = PeerCredentials(os.getpid(), os.geteuid(), os.getegid())

CONNECT = "import socket; socket.socket(socket.AF_UNIX).connect({!r}); input()"


# --- Who the peer is ---------------------------------------------------------------------------


@linux_only
async def test_credentials_are_those_of_the_process_that_has_connected(tmp_path: Path) -> None:
    """On a Unix socket the peer's process, user and group are known."""
    path = str(tmp_path / "s")
    with trio.fail_after(PATIENCE):
        async with open_listening_socket(path=path) as listening, trio.open_nursery() as nursery:
            program = [sys.executable, "-c", CONNECT.format(path)]
            run = partial(trio.run_process, program, stdin=subprocess.PIPE, check=False)
            process = await nursery.start(run)
            async with await listening.accept() as connection:
                assert connection.peer_credentials == PeerCredentials(
                    process.pid, os.geteuid(), os.getegid()
                )
            nursery.cancel_scope.cancel()


@linux_only
async def test_credentials_of_who_listens_are_known_to_who_connects(tmp_path: Path) -> None:
    """A connection that this side has opened knows who listens."""
    async with (
        open_listening_socket(path=tmp_path / "s"),
        await connect_to(path=tmp_path / "s") as connection,
    ):
        assert OURSELVES == connection.peer_credentials


@linux_only
async def test_credentials_are_known_when_the_peer_has_gone(tmp_path: Path) -> None:
    """They are known to the end of this side, also through the public socket."""
    async with open_pair(None, host=None, path=tmp_path / "s") as (connection, client):
        assert connection.socket.fileno() >= 0
        client.socket.close()

        assert b"" == await connection.receive_some()
        assert OURSELVES == connection.peer_credentials

        connection.close()

        assert connection.peer_credentials is None


@linux_only
async def test_inspector_decides_by_user(tmp_path: Path) -> None:
    """An inspector knows who wants to connect."""
    seen: list[PeerCredentials | None] = []

    def inspect(request: ConnectionRequest) -> InspectAction:
        seen.append(request.peer_credentials)
        return InspectAction.ACCEPT

    async with open_pair(None, host=None, path=tmp_path / "s", inspect=inspect):
        assert [OURSELVES] == seen


IPPROTO_MPTCP = 262


@linux_only
async def test_idle_time_is_unknown_over_multipath_tcp() -> None:
    """The kernel would tell about one of the paths, and another one may be in use."""
    try:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError as error:
        pytest.skip(f"no Multipath TCP here: {error}")
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    async with open_pair(None, host=None, sockets=[listening]) as (connection, _):
        assert connection.idle_seconds is None


async def test_nobody_vouches_for_a_peer_over_tcp() -> None:
    """Over TCP there are no credentials."""
    async with open_pair() as (connection, _):
        assert connection.peer_credentials is None


# --- Since when, and how much ------------------------------------------------------------------


async def test_octets_are_counted_either_way() -> None:
    """Both counts begin at 0, and count what the kernel has given and taken."""
    async with open_pair() as (connection, client):
        assert (0, 0) == (connection.octets_received, connection.octets_sent)

        await client.send_all(b"12345")
        assert b"12345" == await connection.receive_some()
        await connection.send_all(b"123")
        connection.send_nowait(b"4")
        connection.disconnect(data=b"56")

        assert (5, 6) == (connection.octets_received, connection.octets_sent)
        assert b"123456" == await receive_all(client)

        connection.close()

        assert (5, 6) == (connection.octets_received, connection.octets_sent)


async def test_octets_in_a_buffer_are_counted() -> None:
    """`receive_into` counts as `receive_some` does."""
    async with open_pair() as (connection, client):
        await client.send_all(b"12345")

        assert 5 == await connection.receive_into(bytearray(64))
        assert 5 == connection.octets_received


async def test_octets_of_callbacks_are_counted() -> None:
    """A connection with events counts in the same way."""
    came = trio.Event()

    def receive(connection: Connection, data: bytes) -> None:
        connection.send_nowait(data + data)
        came.set()

    async with open_event_pair(ConnectionDispatch(receive=receive)) as (connection, client):
        await client.send_all(b"12345")
        await came.wait()

        assert (5, 10) == (connection.octets_received, connection.octets_sent)


async def test_octets_of_the_public_socket_are_not_counted() -> None:
    """What goes through the public socket is in no count."""
    async with open_pair() as (connection, client):
        stream = trio.SocketStream(connection.socket)
        await client.send_all(b"12345")
        await stream.send_all(await stream.receive_some())

        assert (0, 0) == (connection.octets_received, connection.octets_sent)


async def test_opened_is_a_time_on_trios_clock(autojump_clock: MockClock) -> None:
    """`opened_at` is the time at which the connection was handed over, also after its end."""
    network = MemoryNetwork()
    transport = network.host("192.0.2.1").transport(80)
    async with open_listening_socket(transport=transport) as listening:
        await trio.sleep(7)
        client = await network.host("192.0.2.2").connect(("192.0.2.1", 80))
        opened = trio.current_time()
        connection = await listening.accept()
        await trio.sleep(60)

        assert opened == connection.opened_at
        assert connection.peer_credentials is None

        await connection.aclose()

        assert opened == connection.opened_at
        await client.aclose()


async def test_connection_of_ours_counts_as_well() -> None:
    """A connection that this side has opened has the same facts."""
    async with open_listening_socket(0, host="127.0.0.1") as listening:
        before = trio.current_time()
        address = listening.local_addresses[0]
        async with await connect_to(str(address.host), address.port) as connection:
            await connection.send_all(b"123")

            assert before <= connection.opened_at <= trio.current_time()
            assert (0, 3) == (connection.octets_received, connection.octets_sent)
            (await listening.accept()).close()
