"""What the kernel tells about a TCP socket, and only about one: ``struct tcp_info``.

Linux only. The struct is part of its user-space API (``linux/tcp.h``): fields are added at the
end and never move. Eight single octets come first, then 32-bit numbers.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import _socket

__all__ = ["congestion_window", "queue_of", "retransmission_timeout"]

_RTO: Final = 8
_MSS: Final = 16
_UNACKED: Final = 24
_CWND: Final = 80
_SIZE: Final = _CWND + 4
_TWO_NUMBERS: Final = struct.Struct("=II")
_NUMBER: Final = struct.Struct("=I")


def queue_of(listening: _socket.socket) -> tuple[int, int] | None:
    """Return how many connections wait for accept, and how many may; None if unknown.

    For a listening socket the kernel has two fields tell something else than their names
    say: ``tcpi_unacked`` is the length of the accept queue, ``tcpi_sacked`` its maximum
    (``tcp_get_info``, net/ipv4/tcp.c).
    """
    info = _tcp_info(listening)
    if info is None:
        return None
    waiting, maximum = _TWO_NUMBERS.unpack_from(info, _UNACKED)
    return waiting, maximum


def congestion_window(connection: _socket.socket) -> int | None:
    """Return how many octets TCP would have in flight now; None if unknown."""
    info = _tcp_info(connection)
    if info is None:
        return None
    (segments,) = _NUMBER.unpack_from(info, _CWND)
    (octets,) = _NUMBER.unpack_from(info, _MSS)
    return int(segments * octets)


def retransmission_timeout(connection: _socket.socket) -> float | None:
    """Return how long TCP would wait for an answer now, in seconds; None if unknown.

    That is a round trip of this path at its longest, and not below 0.2 seconds unless the system
    is set so (RFC 6298; TCP_RTO_MIN, linux/include/net/tcp.h).
    """
    info = _tcp_info(connection)
    if info is None:
        return None
    (microseconds,) = _NUMBER.unpack_from(info, _RTO)
    return float(microseconds / 1_000_000)


def _tcp_info(sock: _socket.socket) -> bytes | None:
    if sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
    except OSError:  # a Unix socket (EOPNOTSUPP), or a closed one (EBADF)
        return None
    return info if len(info) == _SIZE else None
