"""One queue of packets that the kernel holds until it is told what to do with them (NFQUEUE).

The number of a queue belongs to the socket that has bound it, and the queue ends with the
socket: what it still holds is dropped, and its senders try again.

There are two ways to lose packets, both closed: nobody gets in because of them. The queue is
full (`QueueCounters.dropped`), or its socket's receive buffer is
(`QueueCounters.undelivered`); then reading says ENOBUFS once, which `Queue.overruns` counts.

Nothing here waits. To bind another process's queue gives EPERM, as everything does without the
capability; an obsolete command that does nothing tells the two apart.

Source: net/netfilter/nfnetlink_queue.c and ``linux/netfilter/nfnetlink_queue.h``.
"""

from __future__ import annotations

import enum
import errno
import struct
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ._messages import (
    NETFILTER_HEADER_SIZE,
    NLMSG_ERROR,
    REQUEST,
    Message,
    NetlinkError,
    attribute,
    be32,
    netfilter_header,
    parse_acknowledgement,
    parse_attributes,
    parse_number,
)
from ._netlink import NETFILTER, KernelRefusedError, NetlinkSocket
from ._numbered import NumberedSocket, Setting, Subsystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "CAPABILITY_STEP",
    "Packet",
    "PacketVerdict",
    "Queue",
    "QueueCounters",
    "parse_counters",
    "parse_packet",
]

_SUBSYSTEM: Final = 3
_PACKET: Final = _SUBSYSTEM << 8 | 0
_VERDICT: Final = _SUBSYSTEM << 8 | 1
_CONFIG: Final = _SUBSYSTEM << 8 | 2

# NFQA_CFG_...
_COMMAND: Final = 1
_PARAMETERS: Final = 2
_MAX_LENGTH: Final = 3
_MASK: Final = 4
_FLAGS: Final = 5

_BIND: Final = 1
_UNBIND: Final = 2
_BIND_FAMILY: Final = 3
"""Obsolete: does nothing, but says EPERM to a process that has no right to queues."""
_COPY_PACKET: Final = 2
_FAIL_OPEN: Final = 1

# NFQA_...
_PACKET_HEADER: Final = 1
_VERDICT_HEADER: Final = 2
_MARK: Final = 3
_INTERFACE: Final = 5
_HARDWARE_ADDRESS: Final = 9
_PAYLOAD: Final = 10

_COMMAND_VALUE: Final = struct.Struct("!BxH")
_QUEUE: Final = Subsystem(
    "packet queue",
    _CONFIG,
    bind=attribute(_COMMAND, _COMMAND_VALUE.pack(_BIND, 0)),
    unbind=attribute(_COMMAND, _COMMAND_VALUE.pack(_UNBIND, 0)),
)
_PARAMETERS_VALUE: Final = struct.Struct("!IB")
_HEADER_VALUE: Final = struct.Struct("!IHB")
_HARDWARE_VALUE: Final = struct.Struct("!H2x8s")
_VERDICT_MESSAGE: Final = struct.Struct("=IHHII4sHH4s4s")
_MARK_MESSAGE: Final = struct.Struct("=HH4s")

_MOST_VERDICTS: Final = 1000
"""In one send: some 40 octets each, of the 200 KiB that a socket may send at once."""

_COPY_RANGE: Final = 2048
"""Octets of a packet that are copied: any headers, and the payload of a TCP Fast Open SYN."""
_LENGTH: Final = 65536
"""Packets that a queue holds; the kernel's own default is 1024."""
_RECEIVE_BUFFER: Final = 16 << 20

_COUNTERS_PATH: Final = "/proc/thread-self/net/netfilter/nfnetlink_queue"
_COUNTERS_FIELDS: Final = 9

CAPABILITY_STEP: Final = "use the kernel's packet queues"
_NO_QUEUES: Final = (
    "this kernel has no packet queues (CONFIG_NETFILTER_NETLINK_QUEUE, module nfnetlink_queue)"
)


class PacketVerdict(enum.IntEnum):
    """What the kernel is to do with a packet; the numbers are netfilter's."""

    DROP = 0
    """Forget it, without a word."""
    ACCEPT = 1
    """Let it go on, to the next chain."""
    REPEAT = 4
    """Start again with the chain that queued it; only a changed mark keeps it from coming back."""


class Packet(NamedTuple):
    """One packet that waits for its verdict."""

    packet_id: int
    """By which a verdict names it; counts up from 1, for each queue."""
    protocol: int
    """The number that Ethernet has for it: 0x0800 for IPv4, 0x86DD for IPv6."""
    mark: int
    payload: bytes
    """The packet from its IP header on, up to as many octets as the queue copies."""
    interface: int
    """The index of the interface that it came in by; 0 if it came by none."""
    hardware_address: bytes
    """The sender on the last link; empty where links have no such addresses."""


class QueueCounters(NamedTuple):
    """What the kernel has counted since the queue was bound."""

    waiting: int
    """Packets that wait for a verdict now."""
    dropped: int
    """Packets dropped because the queue was full."""
    undelivered: int
    """Packets dropped because the socket's receive buffer was full."""
    last_id: int
    """The id of the newest packet; so many have come."""


class Queue(NumberedSocket):
    """A queue, bound to a number that nobody else has.

    Args:
      numbers: Which to try, in this order; without it, numbers that start with one made
        from the process id.
      max_length: How many packets the queue holds; further ones are dropped.
      copy_range: How many octets of each are shown.
      receive_buffer: Octets; the kernel doubles it. A user namespace's root may not have more
        than ``net.core.rmem_max`` says.
      fail_open: Have packets accepted *uninspected* when they can't be queued.
      on_late: Called by `receive` with the id of each packet that a verdict came too late for:
        it has had one, or the kernel has dropped it, because its interface went, say, or
        because somebody, anybody, has removed a chain with a hook.

    Raises:
      KernelRefusedError: no queue can be had, or all these numbers are taken.
    """

    __slots__ = (
        "_on_late",
        "_resource",
        "_verdicts",
        "last_id",
        "late_verdicts",
        "lost",
    )

    last_id: int
    """The id of the newest packet that was read; 0 before the first."""
    lost: int
    """Packets that could not be delivered, as the gaps between ids tell: known as soon as the next
    one is read, and without any right to read the kernel's counters."""
    late_verdicts: int
    """How often the kernel said that there was no such packet any more."""

    def __init__(
        self,
        *,
        numbers: Iterable[int] | None = None,
        max_length: int = _LENGTH,
        copy_range: int = _COPY_RANGE,
        receive_buffer: int = _RECEIVE_BUFFER,
        fail_open: bool = False,
        on_late: Callable[[int], object] | None = None,
    ) -> None:
        self._on_late = on_late
        self.last_id = self.lost = self.late_verdicts = 0
        self._verdicts: list[bytes] = []
        _check_capability()
        limits = be32(_MAX_LENGTH, max_length) + be32(_MASK, _FAIL_OPEN)
        limits += be32(_FLAGS, _FAIL_OPEN if fail_open else 0)
        copied = attribute(_PARAMETERS, _PARAMETERS_VALUE.pack(copy_range, _COPY_PACKET))
        settings = [
            Setting("set the limits of", limits),
            Setting("have packets copied to", copied),  # last: until it copies, a queue holds none
        ]
        super().__init__(_QUEUE, numbers, receive_buffer, settings)
        self._resource = netfilter_header(0, self.number)

    def receive(self, most: int = 64) -> list[Packet]:
        """Return the next packets, at most so many; none if none is there now.

        Fewer may come although there are more: while there are, the descriptor is readable.

        Raises:
          KernelRefusedError: the queue is closed.
        """
        packets: list[Packet] = []
        for incoming in self._socket.receive(most):
            try:
                if incoming.kind == _PACKET:
                    packet = parse_packet(incoming.body)
                    packets.append(packet)
                    self.lost += (packet.packet_id - self.last_id - 1) & 0xFFFFFFFF
                    self.last_id = packet.packet_id
                elif _is_late_verdict(incoming):
                    self.late_verdicts += 1
                    if self._on_late is not None:
                        self._on_late(incoming.sequence)
                else:
                    self._strange += 1
            except NetlinkError:
                self._strange += 1
        return packets

    def verdict(self, packet_id: int, verdict: PacketVerdict, mark: int | None = None) -> None:
        """Note what is to be done with a packet; `flush` says it to the kernel.

        A verdict for a packet that has had one changes nothing.

        Args:
          packet_id: Which one.
          verdict: What is to be done with it.
          mark: Its mark from now on, as a whole; None leaves it as it is.
        """
        length = _VERDICT_MESSAGE.size + (0 if mark is None else _MARK_MESSAGE.size)
        said = _VERDICT_MESSAGE.pack(
            length,
            _VERDICT,
            REQUEST,
            packet_id,  # as the sequence number, which the kernel repeats if it is too late
            0,
            self._resource,
            12,
            _VERDICT_HEADER,
            verdict.to_bytes(4, "big"),
            packet_id.to_bytes(4, "big"),
        )
        if mark is not None:
            said += _MARK_MESSAGE.pack(_MARK_MESSAGE.size, _MARK, mark.to_bytes(4, "big"))
        self._verdicts.append(said)

    def flush(self) -> None:
        """Say all verdicts that were noted, in this order.

        Raises:
          KernelRefusedError: the queue is closed, or memory is short; what was not said is kept for
            the next time.
        """
        verdicts, self._verdicts = self._verdicts, []
        for start in range(0, len(verdicts), _MOST_VERDICTS):
            batch = b"".join(verdicts[start : start + _MOST_VERDICTS])
            try:
                self._socket.send(batch, step=f"say verdicts on queue {self.number}")
            except KernelRefusedError:
                self._verdicts = verdicts[start:] + self._verdicts
                raise

    def counters(self) -> QueueCounters | None:
        """Return what the kernel has counted; None where this process may not read that.

        Root may. So may the thread only that is in the queue's network namespace.
        """
        try:
            table = Path(_COUNTERS_PATH).read_text(encoding="ascii")
        except OSError:
            return None
        return parse_counters(table, self.number, self._socket.port_id)


def _check_capability() -> None:
    """Have the kernel say that this process has no right to queues, if it has none."""
    nothing = attribute(_COMMAND, _COMMAND_VALUE.pack(_BIND_FAMILY, 0))
    with closing(NetlinkSocket(NETFILTER)) as probe:
        probe.request(
            _CONFIG,
            netfilter_header(0) + nothing,
            step=CAPABILITY_STEP,
            hints={errno.EINVAL: _NO_QUEUES, errno.EOPNOTSUPP: _NO_QUEUES},
        )


def _is_late_verdict(incoming: Message) -> bool:
    return incoming.kind == NLMSG_ERROR and parse_acknowledgement(incoming).code == errno.ENOENT


def parse_packet(body: bytes) -> Packet:
    """Read one packet that was queued.

    Raises:
      NetlinkError: it is cut short, or lacks what every packet has.
    """
    found = parse_attributes(body, NETFILTER_HEADER_SIZE)
    header = found.get(_PACKET_HEADER, b"")
    if len(header) != _HEADER_VALUE.size:
        raise NetlinkError(f"a packet's header has {len(header)} octets")
    packet_id, protocol, _hook = _HEADER_VALUE.unpack(header)
    hardware = found.get(_HARDWARE_ADDRESS)
    mark = found.get(_MARK)
    interface = found.get(_INTERFACE)
    return Packet(
        packet_id,
        protocol,
        0 if mark is None else parse_number(mark, 4),
        found.get(_PAYLOAD, b""),
        0 if interface is None else parse_number(interface, 4),
        b"" if hardware is None else _parse_hardware_address(hardware),
    )


def _parse_hardware_address(value: bytes) -> bytes:
    if len(value) != _HARDWARE_VALUE.size:
        raise NetlinkError(f"a hardware address has {len(value)} octets")
    length, octets = _HARDWARE_VALUE.unpack(value)
    address: bytes = octets[:length]
    return address


def parse_counters(table: str, number: int, port_id: int) -> QueueCounters | None:
    """Find a queue in the kernel's table of queues; None if it is not there.

    Raises:
      NetlinkError: the table is none.
    """
    for line in table.splitlines():
        fields = line.split()
        if len(fields) != _COUNTERS_FIELDS:
            raise NetlinkError(f"this is no line about a queue: {line!r}")
        try:
            numbers = [int(field) for field in fields]
        except ValueError as error:
            raise NetlinkError(f"this is no line about a queue: {line!r}") from error
        if numbers[:2] == [number, port_id]:
            return QueueCounters(numbers[2], numbers[5], numbers[6], numbers[7])
    return None
