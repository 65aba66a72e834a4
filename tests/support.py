"""What tests share: clients that are plain sockets, and counts that show a leak."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trio_wsk import Address

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER: on, zero seconds."""


async def connect(address: Address) -> trio.SocketStream:
    """Connect a client; to the loopback address where the listener has the wildcard."""
    if address.is_unix:
        sock = trio.socket.socket(socket.AF_UNIX)
    else:
        sock = trio.socket.socket(address.family)
    host = address.host
    if host is not None and host.is_unspecified:
        loopback = "127.0.0.1" if address.family == socket.AF_INET else "::1"
        await sock.connect((loopback, address.port))
    else:
        await sock.connect(address.sockaddr)
    return trio.SocketStream(sock)


def reset(client: trio.SocketStream) -> None:
    """Close a client with a reset."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    client.socket.close()


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1  # not counting listdir's own
