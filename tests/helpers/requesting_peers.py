"""Peers of a request that is not answered yet, and what they do to it."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.blocking_peers import connected
from tests.helpers.portable_peers import owning
from trio_wsk._engine.choice import HAVE_EPOLL
from trio_wsk.transports import PortableTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.helpers.portable_peers import Owner
    from trio_wsk.transports._socket_request import SocketRequest

edges_or_not = pytest.mark.parametrize(
    "edge_triggered",
    [
        pytest.param(
            True, marks=pytest.mark.skipif(not HAVE_EPOLL, reason="there is no epoll"), id="epoll"
        ),
        pytest.param(False, id="trio"),
    ],
)


def connect(owner: Owner) -> socket.socket:
    """Connect to the owner's port on the loopback."""
    peer = socket.socket()
    peer.settimeout(10)
    peer.connect(("127.0.0.1", owner.address.port))
    return peer


def do_nothing(peer: socket.socket) -> None:
    """Stay."""


def send(peer: socket.socket) -> None:
    """Send something."""
    peer.sendall(b"data")


def send_fin(peer: socket.socket) -> None:
    """Finish sending."""
    peer.shutdown(socket.SHUT_WR)


@asynccontextmanager
async def owning_one(
    family: str, folder: Path, *, edge_triggered: bool = True
) -> AsyncIterator[tuple[Owner, SocketRequest, socket.socket]]:
    """Own a transport of this family that has one request, and have its peer."""
    if family == "unix":
        transport = PortableTransport.unix(folder / "app.sock")
    else:
        transport = PortableTransport.tcp(0, host={"v4": "127.0.0.1", "v6": "::1"}[family])
    async with owning(transport, edge_triggered=edge_triggered) as owner:
        with connected(owner.address) as peer:
            yield owner, await owner.request(), peer


def unwatch(request: SocketRequest) -> None:
    """Watch no longer, said twice."""
    request.unwatch_end()
    request.unwatch_end()
