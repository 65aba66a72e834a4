"""The socket options that every connection here has.

Two are Trio's (``trio.SocketStream`` sets them), for Trio's reasons, and for TCP alone:

* TCP_NODELAY, because else a program that writes in small pieces, and waits for an answer to each,
  waits for the peer's delayed ACK as well, 40 ms each time.
* TCP_NOTSENT_LOWAT = 16 KiB, so that "writable" means "the kernel has little left to
  send" and not "there is room in a buffer of megabytes": back-pressure without lag.

The third is ours:

* SO_OOBINLINE, because else the kernel takes the octet that a peer has sent as urgent (MSG_OOB) out
  of its place, and the reader gets other octets than were sent. RFC 6093, section 6, asks for the
  option; what is urgent is not told to anybody here.

On Linux an accepted TCP socket inherits all from its listening socket, where setting them
costs once and not for each connection (6.18, verified by our tests). The copy is made
when the handshake ends, so that a connection that was queued before is without them.
A Unix socket inherits nothing.
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

_INET: Final = (socket.AF_INET, socket.AF_INET6)

_TCP_OPTIONS: Final = [
    (socket.TCP_NODELAY, 1),
    # Windows lacks it, and Python on macOS did not know the name before 3.12.
    *((number, NOTSENT_LOWAT) for number in [getattr(socket, "TCP_NOTSENT_LOWAT", None)] if number),
]


def tune(sock: _socket.socket) -> None:
    """Set the options that this kind of socket has, if it is still there; never raises."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        if sock.family in _INET:
            for number, value in _TCP_OPTIONS:
                sock.setsockopt(socket.IPPROTO_TCP, number, value)
    except OSError:
        pass  # a peer that is gone (EINVAL on macOS), or a kernel that lacks one of them
