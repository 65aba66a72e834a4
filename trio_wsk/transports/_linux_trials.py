"""The steps of inspection before the handshake, each tried and undone.

They are those of a transport: a queue and a log are bound, rules are made, a socket is looked
up. Rules are made in a batch that also takes them away, so that none is ever in force, and
without chains that have hooks: removing such a chain would cost others the packets that they
hold. So a server may try them while it serves.

A step that fails keeps none of the others from being tried.
"""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Final

from trio_wsk._vocabulary.addresses import Address

from ._trials import Trial, try_step
from .linux._expressions import queue, queue_target
from .linux._messages import NetlinkError
from .linux._netlink import KernelRefusedError
from .linux._nflog import PacketLog
from .linux._nfqueue import CAPABILITY_STEP, Queue
from .linux._nftables import Gatehouse
from .linux._sock_diag import KernelState, SocketLookup
from .linux._suitable import TCP_SAVE_SYN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .linux._nftables import Way

__all__ = ["find_listening", "try_inspection"]

_ANY_NUMBER: Final = 1
"""In rules that are never in force, where no queue or no log could be bound."""

_ANYBODYS_PORT: Final = 1
"""Where a client would be that need not exist."""

_NO_TCP_DIAG: Final = (
    "this kernel does not tell about TCP's sockets (CONFIG_INET_DIAG, modules inet_diag and "
    "tcp_diag)"
)
_REMEDIES: Final = {"saved-syn": "keeping SYNs takes Linux 4.3"}
_NOT_LINUX: Final = "inspect after the handshake, or serve on Linux"


def try_inspection(
    *,
    platform: str = sys.platform,
    queue_numbers: Iterable[int] | None = None,
    log_numbers: Iterable[int] | None = None,
    ways: Sequence[Way] = (queue, queue_target),
) -> dict[str, Trial]:
    """Try each step.

    Blocks for as long as the kernel takes, which is longer if it has to load modules. What it
    finds holds for the calling thread: network namespaces and capabilities belong to threads.

    Args:
      platform: The system that this is.
      queue_numbers: Which packet queues to try, if not those of the process.
      log_numbers: Which packet logs to try, if not those of the process.
      ways: How a rule may queue.

    Returns:
      What came of it, by the names of the steps, the most telling first. A transport needs
      them all, but for rules of a family that it does not serve.
    """
    with ExitStack() as undo:
        steps = _Steps(undo, queue_numbers, log_numbers, ways)
        attempts: dict[str, tuple[str, Callable[[], str]]] = {
            "packet-queue": ("bind a packet queue", steps.bind_queue),
            "packet-log": ("bind a packet log", steps.bind_log),
            "rules-ipv4": ("make rules for IPv4", steps.make_rules),
            "rules-ipv6": ("make rules for IPv6", steps.make_more_rules),
            "socket-lookup": ("look up a listening socket", steps.look_up),
            "saved-syn": ("set TCP_SAVE_SYN", steps.save_syn),
        }
        if platform != "linux":
            return {name: _only_on_linux(step) for name, (step, _) in attempts.items()}
        return {
            name: try_step(step, attempt, _REMEDIES.get(name))
            for name, (step, attempt) in attempts.items()
        }


def _only_on_linux(step: str) -> Trial:
    return Trial("only Linux can", available=False, failed_step=step, remedy=_NOT_LINUX)


class _Steps:
    """What is done; what has to last until the end is undone by ``undo``."""

    def __init__(
        self,
        undo: ExitStack,
        queue_numbers: Iterable[int] | None,
        log_numbers: Iterable[int] | None,
        ways: Sequence[Way],
    ) -> None:
        self._undo = undo
        self._queue_numbers = queue_numbers
        self._log_numbers = log_numbers
        self._ways = ways
        self._queue_number = self._log_number = _ANY_NUMBER
        self._forbidden: KernelRefusedError | None = None
        self._house: Gatehouse | None = None

    def bind_queue(self) -> str:
        """Bind a queue, which holds nothing: no rule sends anything there."""
        try:
            packets = Queue(numbers=self._queue_numbers)
        except KernelRefusedError as error:
            if (error.step, error.code) == (CAPABILITY_STEP, errno.EPERM):
                self._forbidden = error
            raise
        self._undo.callback(packets.close)
        self._queue_number = packets.number
        return f"number {packets.number} can be bound"

    def bind_log(self) -> str:
        """Bind a log, to which nothing is copied."""
        if self._forbidden is not None:  # a log would say that its number is taken
            hint = self._forbidden.hint
            raise KernelRefusedError("bind a packet log", errno.EPERM, hint=hint)
        packets = PacketLog(numbers=self._log_numbers)
        self._undo.callback(packets.close)
        self._log_number = packets.number
        return f"number {packets.number} can be bound"

    def make_rules(self) -> str:
        """Make rules for IPv4, and take them away in the same batch."""
        self._house = Gatehouse(self._queue_number, reset_group=self._log_number, ways=self._ways)
        self._undo.callback(self._house.close)
        return "they can be made"

    def make_more_rules(self) -> str:
        """Make rules for IPv6, and take them away in the same batch."""
        if self._house is None:  # a house begins with IPv4
            raise NetlinkError("not tried, because rules for IPv4 can't be made")
        self._house.try_out(socket.AF_INET6)
        return "they can be made"

    def look_up(self) -> str:
        """Look up a listening socket of our own."""
        with socket.socket() as listening, closing(SocketLookup()) as lookup:
            listening.bind(("127.0.0.1", 0))
            listening.listen(0)
            find_listening(lookup, Address.from_sockaddr(socket.AF_INET, listening.getsockname()))
        return "a listening socket can be looked up"

    def save_syn(self) -> str:
        """Ask the kernel to keep SYNs."""
        with socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
        return "TCP_SAVE_SYN can be set"


def find_listening(lookup: SocketLookup, address: Address) -> None:
    """Look up the listening socket at an address.

    Raises:
      KernelRefusedError: the kernel knows none there.
      NetlinkError: its answer can't be read.
    """
    somebody = Address.tcp(str(address.host), _ANYBODYS_PORT)
    if lookup.state_of(address, somebody) is KernelState.UNKNOWN:
        step = f"find the socket that listens at {address}"
        raise KernelRefusedError(step, errno.ENOENT, hint=_NO_TCP_DIAG)
