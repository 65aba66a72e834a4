"""A listening socket behind a gate, and clients that come to it."""

from __future__ import annotations

import errno
import select
import socket
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.helpers.support import PATIENCE
from trio_wsk._vocabulary.addresses import Address
from trio_wsk.transports.linux._messages import DUMP, netfilter_header, parse_attributes
from trio_wsk.transports.linux._netlink import NETFILTER, NetlinkSocket
from trio_wsk.transports.linux._nfqueue import PacketVerdict, Queue
from trio_wsk.transports.linux._nftables import Gatehouse
from trio_wsk.transports.linux._rules import REJECT_MARK

if TYPE_CHECKING:
    from typing_extensions import Self

    from trio_wsk.transports.linux._nfqueue import Packet


LOOPBACK: Final = ("127.0.0.1", "::1")

NO_COUNTERS: Final = "an ordinary user may not read what the kernel says about queues"

SYN_SENT: Final = 2
"""TCP's state of a client that has had no answer."""

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10


class Gated:
    """A listening socket whose SYNs are held in a queue until a test says what becomes of them."""

    def __init__(
        self,
        host: str,
        *,
        scope_id: int = 0,
        queue: dict[str, Any] | None = None,
        most_per_second: int | None = None,
        **house: Any,
    ) -> None:
        self._stack = ExitStack()
        address = Address.tcp(host, 0, scope_id)
        self.listening = self._stack.enter_context(socket.socket(address.family))
        self.listening.bind(address.sockaddr)
        self.listening.listen(64)
        self.listening.settimeout(PATIENCE)
        self.address = Address.from_sockaddr(address.family, self.listening.getsockname())
        self.queue = Queue(**(queue or {}))
        self._stack.callback(self.queue.close)
        self.house = Gatehouse(self.queue.number, **house)
        self._stack.callback(self.house.close)
        self.gate = self.house.add([self.address], most_per_second=most_per_second)
        self._held: list[Packet] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def client(
        self, sock: socket.socket | None = None, *, mark: int = 0, scope_id: int = 0
    ) -> socket.socket:
        """Have a client connect, without waiting; it is closed with the rest."""
        if sock is None:
            sock = socket.socket(self.address.family)
        self._stack.enter_context(sock)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, 36, mark)  # SO_MARK
        sock.settimeout(0)
        address = Address.tcp(str(self.address.host), self.address.port, scope_id)
        code = sock.connect_ex(address.sockaddr)
        assert code in {0, errno.EINPROGRESS}, errno.errorcode[code]
        return sock

    def packet(self) -> Packet:
        """Wait for the next packet that is held."""
        while not self._held:
            assert has_come(self.queue), "no packet has come"
            self._held += self.queue.receive()
        return self._held.pop(0)

    def decide(self, fate: PacketVerdict, mark: int | None = None) -> Packet:
        """Wait for the next packet, and say what becomes of it."""
        packet = self.packet()
        self.queue.verdict(packet.packet_id, fate, mark)
        self.queue.flush()
        return packet

    def accept(self) -> Packet:
        """Let the next packet through."""
        return self.decide(PacketVerdict.ACCEPT)

    def reject(self) -> Packet:
        """Have the next packet answered with a reset."""
        packet = self.packet()
        self.queue.verdict(packet.packet_id, PacketVerdict.ACCEPT, packet.mark | REJECT_MARK)
        self.queue.flush()
        return packet

    def nobody_came(self) -> bool:
        """Whether no connection waits to be accepted."""
        return not select.select([self.listening], [], [], 0)[0]

    def counters(self) -> tuple[int, int, int, int]:
        """What the kernel has counted for the queue."""
        counters = self.queue.counters()
        if counters is None:
            pytest.skip(NO_COUNTERS)
        return counters


def has_come(source: Any) -> bool:
    """Wait until there is something to read; False if nothing comes."""
    return bool(select.select([source], [], [], PATIENCE)[0])


def answer_to(client: socket.socket) -> str:
    """Wait for the answer to a SYN, and name it; "" for success."""
    assert select.select([], [client], [], PATIENCE)[1], "there is no answer"
    code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode[code] if code else ""


def state_of(client: socket.socket) -> int:
    """Return TCP's state."""
    state: int = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state


def queues() -> str:
    """Return the kernel's table of queues, of this namespace."""
    try:
        return Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text("ascii")
    except PermissionError:
        pytest.skip(NO_COUNTERS)


def tables_of(family: int) -> list[str]:
    """Name the tables of nftables in this namespace."""
    netlink = NetlinkSocket(NETFILTER)
    try:
        answers = netlink.request(
            10 << 8 | 1, netfilter_header(family), flags=DUMP, step="list the tables"
        )
    finally:
        netlink.close()
    return [parse_attributes(answer.body, 4)[1].rstrip(b"\0").decode() for answer in answers]


def segment_of(packet: bytes) -> tuple[int, int, int, int]:
    """Read source port, target port, flags and sequence number of a packet's TCP header."""
    start = (packet[0] & 0xF) * 4 if packet[0] >> 4 == 4 else 40
    source, target, sequence = struct.unpack_from("!HHI", packet, start)
    return source, target, packet[start + 13], sequence
