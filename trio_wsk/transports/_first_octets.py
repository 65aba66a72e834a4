"""Looking at the first octets of a connection without taking them, all that have come.

``recv`` with MSG_PEEK stops where any ``recv`` does: before an octet that was sent as urgent, and
on a Unix socket behind a message that carries descriptors. Who takes a short look for the whole
is deceived: the peer sends ``GE``, an urgent octet and ``T /secret``. So a short look asks how
much there is, and goes on where it was stopped (SO_PEEK_OFF). Where that can't be had, which is
TCP before Linux 6.9 and other systems, such a peer is told apart and not looked at.

That urgent octets are in their place among the others is `_tuning`'s work, which comes first.

Source: recv(2), tcp(7), unix(7), socket(7); RFC 6093; ``tcp_recvmsg_locked``, net/ipv4/tcp.c, and
``unix_stream_read_generic``, net/unix/af_unix.c.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final

if sys.platform != "win32":
    import fcntl
    import termios

if TYPE_CHECKING:
    import _socket

__all__ = ["look"]

_SO_PEEK_OFF: Final = 42
"""Linux, socket(7): where a look begins, in octets; -1: at the first. It has no name in Python."""


def look(channel: _socket.socket, count: int) -> bytes:
    """Return up to ``count`` of the octets that have come, and leave them.

    Raises:
      BlockingIOError: there are none yet.
      OSError: the connection is broken. EBADMSG: there are more, which can't be looked at.
    """
    data = channel.recv(count, socket.MSG_PEEK)
    if 0 < len(data) < count:
        there = _unread(channel)
        if there > len(data):
            return _look_on(channel, min(count, there))
    return data


def _unread(channel: _socket.socket) -> int:
    """How many octets can be read; 0 if the system can't tell."""
    if sys.platform == "win32":
        return 0
    answer = fcntl.ioctl(channel.fileno(), termios.FIONREAD, bytes(4))
    (count,) = struct.unpack("i", answer)
    return int(count)


def _look_on(channel: _socket.socket, count: int) -> bytes:
    """Look again, and past what stops a look."""
    try:
        channel.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
    except OSError:
        data = channel.recv(count, socket.MSG_PEEK)
        if len(data) < count:
            raise OSError(errno.EBADMSG, "it has sent what can't be looked past") from None
        return data
    data = b""
    try:
        while len(data) < count and (more := channel.recv(count - len(data), socket.MSG_PEEK)):
            data += more
    finally:
        channel.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, -1)
    return data
