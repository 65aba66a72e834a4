"""The options of every TCP connection."""

from __future__ import annotations

import socket
import sys

import pytest

from tests.helpers.blocking_peers import await_event
from tests.helpers.support import PATIENCE
from trio_wsk.transports._tuning import INHERITED, NOTSENT_LOWAT, tune

TUNED = (1, 1, NOTSENT_LOWAT)


def options_of(sock: socket.socket) -> tuple[int, ...]:
    """Read what `tune` sets."""
    return (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE),
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT),
    )


def test_tune_sets_all_options() -> None:
    """
    A tuned socket sends small pieces at once, is writable when little is unsent, and leaves
    urgent octets in their place.
    """
    with socket.socket() as sock:
        tune(sock)

        assert TUNED == options_of(sock)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is known to do so")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=lambda f: f.name)
def test_accepted_socket_inherits_what_the_listening_one_had(family: socket.AddressFamily) -> None:
    """What was set before listen need not be set on each accepted connection."""
    with socket.socket(family) as listening:
        listening.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        tune(listening)
        listening.listen()
        with (
            socket.create_connection(listening.getsockname()[:2], PATIENCE),
            listening.accept()[0] as accepted,
        ):
            assert INHERITED
            assert TUNED == options_of(accepted)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is known to do so")
def test_connection_that_was_queued_before_inherits_nothing() -> None:
    """
    The copy is made when the handshake ends, so that a socket that listens already
    can't be tuned for those who wait.
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), PATIENCE),
    ):
        await_event(listening)
        tune(listening)
        with listening.accept()[0] as accepted:
            assert TUNED != options_of(accepted)


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET], ids=lambda f: f.name)
def test_tune_never_raises(family: socket.AddressFamily) -> None:
    """A closed one has no options, and a Unix socket none of TCP's; that is all right."""
    with socket.socket(family) as sock:
        if family == socket.AF_INET:
            sock.close()

        tune(sock)
