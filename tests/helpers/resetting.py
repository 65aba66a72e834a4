"""Leaving with a reset; it needs nothing but Python, so that programs can use it, too."""

from __future__ import annotations

import socket
import struct
from typing import Final, Protocol

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: on, zero seconds."""


class AnySocket(Protocol):
    """A socket of the standard library, or one of Trio's."""

    def setsockopt(self, level: int, optname: int, value: bytes, /) -> None:
        """Set an option."""

    def close(self) -> None:
        """Close it."""


def reset_on_close(sock: AnySocket) -> None:
    """Have the last close of this socket be a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)


def close_with_reset(sock: AnySocket) -> None:
    """Close a socket so that its peer gets a reset."""
    reset_on_close(sock)
    sock.close()
