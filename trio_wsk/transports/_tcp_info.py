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

__all__ = ["congestion_window", "queue_of", "retransmission_timeout", "traffic"]

_RETRANSMITS: Final = 2
_RTO: Final = 8
_MSS: Final = 16
_UNACKED: Final = 24
_LAST_DATA_SENT: Final = 44
_CWND: Final = 80
_OCTETS: Final = 120
_SIZE: Final = _CWND + 4
_SIZE_WITH_OCTETS: Final = _OCTETS + 16
_FOUR_NUMBERS: Final = struct.Struct("=IIII")
_TWO_LONG_NUMBERS: Final = struct.Struct("=QQ")
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


def traffic(connection: _socket.socket) -> tuple[int, float] | None:
    """Return how much was received and acknowledged, and how many seconds ago; None if unknown.

    That is `TransportRequest.traffic`. The kernel also tells when it last sent data, but what it
    sends again counts there. So while the peer acknowledges nothing in spite of that, it is the
    last acknowledgement that counts (``tcp_event_data_sent``, net/ipv4/tcp_output.c).
    """
    info = _tcp_info(connection, _SIZE_WITH_OCTETS)  # Linux 4.1
    if info is None:
        return None
    acknowledged, received = _TWO_LONG_NUMBERS.unpack_from(info, _OCTETS)
    sent_ago, _, received_ago, heard_ago = _FOUR_NUMBERS.unpack_from(info, _LAST_DATA_SENT)
    taken_ago = heard_ago if info[_RETRANSMITS] else sent_ago
    return acknowledged + received, min(taken_ago, received_ago) / 1000


def _tcp_info(sock: _socket.socket, size: int = _SIZE) -> bytes | None:
    if sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    except OSError:  # a Unix socket (EOPNOTSUPP), or a closed one (EBADF)
        return None
    return info if len(info) == size else None
