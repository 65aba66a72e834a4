"""Netlink sockets that own a number: queues (NFQUEUE) and logs (NFLOG) are bound alike.

A rule sends packets to a number, and the kernel hands them to the socket that has bound it. The
number goes back when the socket is closed. Who comes second gets EPERM. So does a process without
the capability, which therefore has to be told before.

Source: net/netfilter/nfnetlink_queue.c and nfnetlink_log.c.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from ._messages import REQUEST, message, netfilter_header
from ._netlink import NETFILTER, KernelRefusedError, NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["NumberedSocket", "Setting", "Subsystem", "likely_numbers"]

# 16 bits, of which one process tries some.
_FIRST_NUMBER: Final = 1024
_NUMBERS: Final = 65536 - _FIRST_NUMBER
_ATTEMPTS: Final = 64

_OTHER_OWNERS: Final = (
    "other processes own it; /proc/net/netfilter/nfnetlink_queue and nfnetlink_log show which"
)


def likely_numbers() -> Iterator[int]:
    """Return numbers of queues and logs that two processes are unlikely to share.

    They depend on the process, and leave out the low ones, which people write into rules.
    """
    start = os.getpid() * _ATTEMPTS
    for offset in range(_ATTEMPTS):
        yield _FIRST_NUMBER + (start + offset) % _NUMBERS


class Subsystem(NamedTuple):
    """What is numbered, and how one is configured."""

    name: str
    """In the singular, and in words."""
    operation: int
    """What configures one, with its subsystem."""
    bind: bytes
    """The attribute that binds one."""
    unbind: bytes
    """The attribute that gives one back."""


class Setting(NamedTuple):
    """What is set when a number has been bound."""

    doing: str
    """What it does, to be read between "could not" and the name."""
    attributes: bytes


class NumberedSocket:
    """A netlink socket, and the number that it owns.

    Args:
      subsystem: What is numbered.
      numbers: Which numbers to try, in this order; None tries `likely_numbers`.
      receive_buffer: Octets; what does not fit is lost, and `overruns` counts.
      settings: What to set as soon as a number is bound, in this order.

    Raises:
      KernelRefusedError: there is no number to be had, or the kernel refuses something.
    """

    __slots__ = ("_socket", "_strange", "_subsystem", "number")

    number: int
    """The number that rules send packets to."""

    def __init__(
        self,
        subsystem: Subsystem,
        numbers: Iterable[int] | None,
        receive_buffer: int,
        settings: Sequence[Setting],
    ) -> None:
        self._subsystem = subsystem
        self._strange = 0
        self._socket = NetlinkSocket(NETFILTER)
        try:
            self._socket.set_receive_buffer(receive_buffer)
            self.number = self._bind(likely_numbers() if numbers is None else numbers)
            for setting in settings:
                self._socket.request(
                    subsystem.operation,
                    netfilter_header(0, self.number) + setting.attributes,
                    step=f"{setting.doing} {subsystem.name} {self.number}",
                )
        except BaseException:
            self._socket.close()
            raise

    def _bind(self, numbers: Iterable[int]) -> int:
        """Bind the first of these numbers that no other socket has; return it."""
        subsystem = self._subsystem
        tried: list[int] = []
        for number in numbers:
            try:
                self._socket.request(
                    subsystem.operation,
                    netfilter_header(0, number) + subsystem.bind,
                    step=f"bind {subsystem.name} {number}",
                )
            except KernelRefusedError as error:
                if error.code != errno.EPERM:
                    raise
                tried.append(number)
            else:
                return number
        name = subsystem.name
        which = f"{name} {tried[0]}" if len(tried) == 1 else f"any of {len(tried)} {name}s"
        raise KernelRefusedError(f"bind {which}", errno.EPERM, hint=_OTHER_OWNERS)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number}>"

    @property
    def port_id(self) -> int:
        """By which the kernel's tables call the owner."""
        return self._socket.port_id

    @property
    def overruns(self) -> int:
        """How often the receive buffer has overflowed; each time may have cost many packets."""
        return self._socket.overruns

    @property
    def malformed(self) -> int:
        """Messages that could not be read, or were about something else."""
        return self._socket.malformed + self._strange

    def fileno(self) -> int:
        """Return the descriptor, which is readable when packets have come; -1 when closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the number back. Idempotent."""
        if self._socket.fileno() < 0:
            return
        # Closing would do, were it not for a forked child that has the descriptor as well.
        body = netfilter_header(0, self.number) + self._subsystem.unbind
        said = message(self._subsystem.operation, REQUEST, 0, body)
        try:
            self._socket.send(said, step=f"unbind {self._subsystem.name} {self.number}")
        except KernelRefusedError:
            pass  # it is closed next, which does the same
        self._socket.close()
