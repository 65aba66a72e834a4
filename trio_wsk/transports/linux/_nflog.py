"""Copies of packets that rules of ours let pass (NFLOG): here, of resets.

A peer that resets its connection request while the SYN is held leaves no other trace: to the
rest of the kernel there is no connection yet.

Like a queue's, the number of a group belongs to the socket that has bound it. Unlike a queue's,
its packets wait for nobody.

Source: net/netfilter/nfnetlink_log.c and ``linux/netfilter/nfnetlink_log.h``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ._messages import (
    NETFILTER_HEADER_SIZE,
    NetlinkError,
    attribute,
    be32,
    parse_attributes,
    parse_number,
)
from ._numbered import NumberedSocket, Setting, Subsystem

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Logged", "PacketLog", "parse_logged"]

_SUBSYSTEM: Final = 4
_PACKET: Final = _SUBSYSTEM << 8 | 0
_CONFIG: Final = _SUBSYSTEM << 8 | 1

# NFULA_CFG_...
_COMMAND: Final = 1
_MODE: Final = 2
_THRESHOLD: Final = 5

_LOG: Final = Subsystem(
    "packet log",
    _CONFIG,
    bind=attribute(_COMMAND, b"\1"),
    unbind=attribute(_COMMAND, b"\2"),
)
_COPY_PACKET: Final = 2
_MODE_VALUE: Final = struct.Struct("!IBx")

_INTERFACE: Final = 4
_PAYLOAD: Final = 9

_COPY_RANGE: Final = 128
"""Octets: an IPv6 header, some of its extensions, and TCP's."""
_RECEIVE_BUFFER: Final = 1 << 20


class Logged(NamedTuple):
    """One packet that went by."""

    payload: bytes
    """The packet from its IP header on, as much as was copied."""
    interface: int
    """The index of the interface that it came in by; 0 if it came by none."""


class PacketLog(NumberedSocket):
    """A group of NFLOG, bound to a number that nobody else has.

    Args:
      numbers: Which to try, in this order; without it, numbers that start with one made
        from the process id.
      receive_buffer: Octets; what does not fit is lost, and `overruns` counts.

    Raises:
      KernelRefusedError: no group can be had, or all these numbers are taken.
    """

    __slots__ = ()

    def __init__(
        self, *, numbers: Iterable[int] | None = None, receive_buffer: int = _RECEIVE_BUFFER
    ) -> None:
        # The kernel would collect a hundred packets, or a second's.
        at_once = be32(_THRESHOLD, 1)
        copied = attribute(_MODE, _MODE_VALUE.pack(_COPY_RANGE, _COPY_PACKET))
        settings = [Setting("have packets copied to", at_once + copied)]
        super().__init__(_LOG, numbers, receive_buffer, settings)

    def receive(self, most: int = 64) -> list[Logged]:
        """Return the next packets, at most so many; none if none is there now.

        Raises:
          KernelRefusedError: the log is closed.
        """
        packets: list[Logged] = []
        for incoming in self._socket.receive(most):
            try:
                if incoming.kind == _PACKET:
                    packets.append(parse_logged(incoming.body))
                else:
                    self._strange += 1
            except NetlinkError:
                self._strange += 1
        return packets


def parse_logged(body: bytes) -> Logged:
    """Read one packet that was logged.

    Raises:
      NetlinkError: it is cut short, or there is no packet in it.
    """
    found = parse_attributes(body, NETFILTER_HEADER_SIZE)
    payload = found.get(_PAYLOAD)
    if payload is None:
        raise NetlinkError("a message of the log has no packet in it")
    interface = found.get(_INTERFACE)
    return Logged(payload, 0 if interface is None else parse_number(interface, 4))
