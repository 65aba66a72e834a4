"""Which listening sockets can be inspected before the handshake, and where SYNs for them go.

A transport binds its own sockets suitably; those that are adopted come as somebody has made them.

Source: tcp(7), TCP_SAVE_SYN; socket(7), SO_REUSEPORT and SO_BINDTODEVICE.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from trio_wsk._vocabulary.addresses import Address
from trio_wsk._vocabulary.errors import InspectPointError

if TYPE_CHECKING:
    from trio_wsk.transports._places import Bound

__all__ = ["TCP_SAVED_SYN", "TCP_SAVE_SYN", "have_syns_saved", "places_of"]

# Linux 4.3, ``linux/tcp.h``; `socket` has no names for them.
TCP_SAVE_SYN: Final = 27
TCP_SAVED_SYN: Final = 28

_DEVICE_NAME: Final = 16  # octets, IFNAMSIZ


def have_syns_saved(bound: Bound) -> None:
    """Have the kernel keep the SYN of each connection, which tells connections apart.

    Raises:
      InspectPointError: this socket's requests can't be inspected before the handshake.
    """
    if bound.address.is_unix:
        raise InspectPointError(
            f"{bound.address} is a Unix socket: it has no handshake to inspect before"
        )
    _check_alone(bound)
    try:
        bound.socket.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
    except OSError as error:  # ENOPROTOOPT: adopted, and no TCP but MPTCP, say
        raise InspectPointError(
            f"the SYNs for {bound.address} can't be saved (TCP_SAVE_SYN): {error.strerror}"
        ) from error


def _check_alone(bound: Bound) -> None:
    """See that what comes to an address comes to this socket."""
    sock = bound.socket
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        raise InspectPointError(
            f"{bound.address} may be shared (SO_REUSEPORT): each of its processes would be asked"
            " about every SYN; have one process inspect, or inspect after the handshake"
        )
    assert bound.address.host is not None  # it is no Unix socket
    device = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _DEVICE_NAME)
    if device.strip(b"\0") and not bound.address.host.is_link_local:  # which always are
        raise InspectPointError(
            f"{bound.address} is bound to one device (SO_BINDTODEVICE), which can't be told from"
            " others there: listen on that device's address instead"
        )


def places_of(bound: Bound) -> list[Address]:
    """Return where SYNs for a listening socket go: one for ``::`` may be for both families."""
    address = bound.address
    assert address.host is not None  # it is no Unix socket
    if (
        bound.family == socket.AF_INET6
        and address.host.is_unspecified
        and not bound.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    ):
        return [address, Address.tcp("0.0.0.0", address.port)]  # noqa: S104 - it is bound so
    return [address]
