"""What the kernel tells about TCP sockets."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import time
from contextlib import ExitStack

import pytest

from tests.helpers.blocking_peers import await_event
from tests.helpers.support import PATIENCE
from trio_wsk.transports._tcp_info import (
    congestion_window,
    queue_of,
    retransmission_timeout,
    traffic,
)

EVERYTHING = (queue_of, congestion_window, retransmission_timeout, traffic)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@linux_only
def test_queue_is_counted_and_its_maximum_is_the_backlog() -> None:
    """Connections that nobody has accepted are counted; accepting takes them out."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=7))
        assert (0, 7) == queue_of(listening)

        for _ in range(3):
            stack.enter_context(socket.create_connection(listening.getsockname(), PATIENCE))
        await_event(listening)
        # The third may have returned to its peer a moment before it is in the queue.
        while queue_of(listening) == (2, 7):
            pass
        assert (3, 7) == queue_of(listening)

        stack.enter_context(listening.accept()[0])

        assert (2, 7) == queue_of(listening)


@linux_only
def test_congestion_window_is_some_segments() -> None:
    """A fresh connection may have ten segments in flight (RFC 6928); the unit is octets."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), PATIENCE) as peer,
    ):
        segment = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)

        assert 10 * segment == congestion_window(peer)


@linux_only
def test_retransmission_timeout_is_above_a_round_trip() -> None:
    """It is in seconds: on the loopback the least that the system has TCP wait, and no more than a
    path without any measure has (RFC 6298).
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), PATIENCE) as peer,
    ):
        timeout = retransmission_timeout(peer)

        assert timeout is not None
        assert 0 < timeout <= 1


def test_unix_socket_has_none() -> None:
    """What is no TCP socket has no TCP_INFO, and None says so."""
    with socket.socket(socket.AF_UNIX) as sock:
        assert [None] * len(EVERYTHING) == [ask(sock) for ask in EVERYTHING]


def test_closed_socket_has_none() -> None:
    """Asking about a closed socket is no error."""
    sock = socket.socket()
    sock.close()

    assert [None] * len(EVERYTHING) == [ask(sock) for ask in EVERYTHING]


@linux_only
def test_traffic_grows_by_what_has_passed() -> None:
    """Octets that came and octets that were acknowledged are counted, in either direction."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), PATIENCE) as peer,
        listening.accept()[0] as connection,
    ):
        first = traffic(connection)
        assert first is not None

        peer.sendall(bytes(100))
        assert 100 == len(connection.recv(100, socket.MSG_WAITALL))
        connection.sendall(bytes(23))
        peer.recv(23)
        while (now := traffic(connection)) is not None and now[0] < first[0] + 123:
            pass
        assert now is not None
        assert first[0] + 123 == now[0]


SO_ATTACH_FILTER = 26  # socket(7); `socket` has no name for it
NOTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K: let nothing in


@linux_only
def test_what_is_sent_again_is_no_news() -> None:
    """While a peer acknowledges nothing, nothing has passed, however often it is sent to."""
    program = ctypes.create_string_buffer(NOTHING)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), PATIENCE) as peer,
        listening.accept()[0] as connection,
    ):
        filter_of_one = struct.pack("HP", 1, ctypes.addressof(program))
        peer.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_of_one)
        before = traffic(connection)
        assert before is not None
        began = time.monotonic()
        connection.sendall(b"nobody hears that")
        while retransmits(connection) < 2:
            time.sleep(0.01)
        after = traffic(connection)
        seconds = time.monotonic() - began

        assert after is not None
        assert before[0] == after[0]
        assert after[1] >= seconds - 0.05  # it is told in ticks of the kernel's clock


def retransmits(connection: socket.socket) -> int:
    """How often what is unacknowledged was sent again (`tcpi_retransmits`)."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 3)[2]
