"""The socket options that every TCP connection here has.

They are Trio's (``trio.SocketStream`` sets them), for Trio's reasons:

* TCP_NODELAY, because whoever writes in small pieces and waits for an answer otherwise
  waits for the peer's delayed ACK, 40 ms, at each.
* TCP_NOTSENT_LOWAT = 16 KiB, so that "writable" means "the kernel has little left to
  send" and not "there is room in a buffer of megabytes": back-pressure without lag.

On Linux an accepted socket inherits both from its listening socket, where setting them
costs once and not for each connection (6.18, verified by our tests). The copy is made
when the handshake ends, so that a connection that was queued before is without them.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import _socket

__all__ = ["INHERITED", "NOTSENT_LOWAT", "tune"]

INHERITED: Final = sys.platform == "linux"
"""Whether accepted sockets have the options of the socket that listens."""

NOTSENT_LOWAT: Final = 1 << 14
"""Octets. Trio's number, which Trio calls arbitrary; Apple says "typically 8 kilobytes" (WWDC
2015, session 719). The right one is bandwidth times the time until a task runs again."""

_OPTIONS: Final = [
    (socket.TCP_NODELAY, 1),
    # Windows lacks it, and Python on macOS did not know the name before 3.12.
    *((number, NOTSENT_LOWAT) for number in [getattr(socket, "TCP_NOTSENT_LOWAT", None)] if number),
]


def tune(sock: _socket.socket) -> None:
    """Set the options, if this kind of socket has them and is still there; never raises."""
    try:
        for number, value in _OPTIONS:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)
    except OSError:
        pass  # a peer that is gone (EINVAL on macOS), or a kernel that lacks one of them
