"""What the kernel tells about TCP sockets."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack

import pytest

from trio_wsk.transports._tcp_info import congestion_window, queue_of

from .portable_peers import PATIENCE, await_readable

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@linux_only
def test_queue_is_counted_and_its_maximum_is_the_backlog() -> None:
    """Connections that nobody has accepted are counted; accepting takes them out."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=7))
        assert (0, 7) == queue_of(listening)

        for _ in range(3):
            stack.enter_context(socket.create_connection(listening.getsockname(), PATIENCE))
        await_readable(listening)
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


def test_unix_socket_has_neither() -> None:
    """What is no TCP socket has no TCP_INFO, and None says so."""
    with socket.socket(socket.AF_UNIX) as sock:
        assert (None, None) == (queue_of(sock), congestion_window(sock))


def test_closed_socket_has_neither() -> None:
    """Asking about a closed socket is no error."""
    sock = socket.socket()
    sock.close()

    assert (None, None) == (queue_of(sock), congestion_window(sock))
