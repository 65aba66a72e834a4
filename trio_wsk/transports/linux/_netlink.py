"""Sockets to the kernel's network code (netlink), and how the kernel says no.

The kernel handles a message while `send` runs, so that its answer is there when `send` returns.
Therefore nothing here waits, and an answer that is not there is an error.

Source: netlink(7); Documentation/userspace-api/netlink/intro.rst of the kernel.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Final

from ._messages import (
    ACK,
    BATCH_BEGIN,
    BATCH_END,
    DONE,
    DUMP,
    NLMSG_ERROR,
    NO_HINTS,
    REQUEST,
    Acknowledgement,
    Change,
    Message,
    NetlinkError,
    message,
    netfilter_header,
    parse_acknowledgement,
    parse_messages,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "NETFILTER",
    "SOCK_DIAG",
    "KernelRefusedError",
    "NetlinkSocket",
    "OverrunError",
]

# `socket` has some of these names on some systems; these numbers are the kernel's interface.
_AF_NETLINK: Final = 16
_SO_RCVBUFFORCE: Final = 33
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11

SOCK_DIAG: Final = 4
"""The protocol that tells about sockets."""
NETFILTER: Final = 12
"""The protocol of nftables, NFQUEUE and NFLOG."""

_LONGEST_ANSWER: Final = 1 << 16
"""More than the kernel puts into one datagram: parts of a dump have at most 32 KiB."""

_NEEDS_ADMIN: Final = (
    "this takes CAP_NET_ADMIN in the network namespace: run as root of the user namespace that "
    "owns it, give the program the capability (systemd's AmbientCapabilities; setcap on a copy of "
    "the interpreter, never on itself), give the container NET_ADMIN, or try it in a network of "
    "your own (unshare --user --map-root-user --net)"
)
_NO_SUBSYSTEM: Final = "this kernel has not been built with it, or may not load the module"
_NO_NETLINK: Final = (
    "this process may not open netlink sockets: systemd's RestrictAddressFamilies= has to name "
    "AF_NETLINK, and so does the seccomp profile of a container that has one of its own"
)
"""Every Linux has netlink, so a filter of system calls says this."""
_GENERAL_HINTS: Final = {
    errno.EPERM: _NEEDS_ADMIN,
    errno.EAFNOSUPPORT: _NO_NETLINK,
    errno.EOPNOTSUPP: _NO_SUBSYSTEM,
    errno.EPROTONOSUPPORT: _NO_SUBSYSTEM,
}


class OverrunError(NetlinkError):
    """The kernel had more to say than the receive buffer had room for (ENOBUFS).

    The machine's, or ours for being slow. What was lost is lost; the socket goes on.
    """


class KernelRefusedError(NetlinkError):
    """The kernel would not do it.

    The machine's.

    Args:
      step: What was being done, to be read after "could not".
      code: The kernel's errno.
      words: What else the kernel said; newer ones say more.
      hint: What would help.
    """

    def __init__(self, step: str, code: int, words: str = "", hint: str = "") -> None:
        super().__init__(step, code, words, hint)
        self.step = step
        self.code = code
        self.words = words
        self.hint = hint

    def __str__(self) -> str:
        name = errno.errorcode.get(self.code, str(self.code))
        said = f", {self.words!r}" if self.words else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"could not {self.step}: {os.strerror(self.code)} ({name}{said}){hint}"


class NetlinkSocket:
    """A socket to one of the kernel's protocols; never blocks.

    What the kernel keeps for it (a queue, rules) it drops when the socket is closed, also if
    the process is killed.

    Raises:
      KernelRefusedError: this kernel does not speak the protocol, or not with us.
    """

    __slots__ = ("_sequence", "_socket", "_unasked", "malformed", "overruns", "port_id")

    port_id: int
    """By which the kernel knows the socket: unique in its network namespace and protocol."""
    overruns: int
    """How often the receive buffer has overflowed; each time may have cost many messages."""
    malformed: int
    """Datagrams that could not be read, or were not the kernel's."""

    def __init__(self, protocol: int) -> None:
        step = f"open a netlink socket of protocol {protocol}"
        kind = socket.SOCK_RAW | getattr(socket, "SOCK_CLOEXEC", 0)
        try:
            self._socket = socket.socket(_AF_NETLINK, kind, protocol)
        except OSError as error:
            hint = _GENERAL_HINTS.get(error.errno or 0, "")
            raise KernelRefusedError(step, error.errno or 0, hint=hint) from error
        try:
            self._socket.settimeout(0)
            self._socket.bind((0, 0))
            self.port_id = self._socket.getsockname()[0]
        except OSError as error:
            self._socket.close()
            raise KernelRefusedError(step, error.errno or 0) from error
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            try:
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            except OSError:
                pass  # an older kernel: its answers are longer, or say less
        self.overruns = self.malformed = 0
        self._sequence = 0
        self._unasked: list[Message] = []

    def fileno(self) -> int:
        """Return the descriptor, for waiting; -1 when closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._socket.close()

    def set_receive_buffer(self, octets: int) -> None:
        """Ask for a receive buffer; a process without privileges gets what it may have."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, octets)
        except OSError:  # EPERM in a user namespace
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)

    def send(self, data: bytes, *, step: str) -> None:
        """Have the kernel handle these messages, now.

        Raises:
          KernelRefusedError: it can't even read them, or the socket is closed.
        """
        try:
            self._socket.send(data)
        except OSError as error:
            raise KernelRefusedError(step, error.errno or 0) from error

    def receive(self, most: int) -> list[Message]:
        """Return what has come unasked, from at most so many datagrams.

        What is lost or can't be read is counted.

        Raises:
          KernelRefusedError: the socket is closed.
        """
        found, self._unasked = self._unasked, []
        for _ in range(most):
            try:
                messages = self._receive()
            except OverrunError:
                self.overruns += 1
            except KernelRefusedError:
                raise
            except NetlinkError:
                self.malformed += 1
            else:
                if messages is None:
                    break
                found += messages
        return found

    def _receive(self) -> list[Message] | None:
        """Return the messages of the next datagram, or None if there is none now."""
        try:
            data, sender = self._socket.recvfrom(_LONGEST_ANSWER)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise OverrunError("the receive buffer was full") from error
            raise KernelRefusedError("read from netlink", error.errno or 0) from error
        if sender[0] != 0:  # another process, which needs CAP_NET_ADMIN to get here
            raise NetlinkError(f"a message came from port {sender[0]}, not from the kernel")
        return parse_messages(data)

    def request(
        self,
        kind: int,
        body: bytes,
        *,
        step: str,
        flags: int = 0,
        hints: Mapping[int, str] = NO_HINTS,
    ) -> list[Message]:
        """Ask for one thing; return what the kernel told before the answer that ends it.

        What came but has nothing to do with it is kept for `receive`.

        Args:
          kind: The operation, with its subsystem.
          body: What follows the header.
          step: What it does, to be read after "could not".
          flags: REQUEST and ACK go without saying; a DUMP ends without an ACK.
          hints: What would help, for the kernel's errors.

        Raises:
          KernelRefusedError: the kernel refused.
          NetlinkError: it did not answer.
        """
        self._sequence += 1
        asks = REQUEST | flags | (0 if flags & DUMP == DUMP else ACK)
        self.send(message(kind, asks, self._sequence, body), step=step)
        found: list[Message] = []
        for answer in self._answers(step):
            if answer.sequence != self._sequence:
                self._unasked.append(answer)
            elif answer.kind == NLMSG_ERROR:
                _check(step, parse_acknowledgement(answer), hints)
                return found
            elif answer.kind == DONE:
                return found
            else:
                found.append(answer)
        raise NetlinkError(f"could not {step}: the kernel did not answer")

    def batch(
        self, subsystem: int, changes: Sequence[Change], *, hints: Mapping[int, str] = NO_HINTS
    ) -> None:
        """Do several things or none.

        Args:
          subsystem: Of netfilter's, the one that all changes belong to.
          changes: What to do, in this order.
          hints: What would help, for errors of the whole; each change has its own.

        Raises:
          KernelRefusedError: the kernel refused one, or the whole; the error names the first.
          NetlinkError: it did not answer.
        """
        whole = Change("have a batch of changes carried out", 0, 0, 0, b"", hints)
        border = netfilter_header(0, subsystem)
        first = self._sequence + 1
        self._sequence += len(changes) + 2
        asked = dict(enumerate((whole, *changes), first))
        parts = [message(BATCH_BEGIN, REQUEST, first, border)]
        for sequence, change in enumerate(changes, first + 1):
            # That the last one went well says that all did; an error is told in any case.
            flags = REQUEST | change.flags | (ACK if change is changes[-1] else 0)
            body = netfilter_header(change.family) + change.attributes
            parts.append(message(subsystem << 8 | change.kind, flags, sequence, body))
        parts.append(message(BATCH_END, REQUEST, self._sequence, border))
        self.send(b"".join(parts), step=whole.step)
        is_answered = False
        refused: KernelRefusedError | None = None
        for answer in self._answers(whole.step):
            if answer.sequence not in asked:
                continue  # left over from a request that somebody has interrupted
            change = asked[answer.sequence]
            # All answers are read, so that none is left for the next request.
            try:
                _check(change.step, parse_acknowledgement(answer), change.hints)
            except KernelRefusedError as error:
                refused = refused or error
            is_answered = True
        if refused is not None:
            raise refused
        if not is_answered:
            raise NetlinkError(f"could not {whole.step}: the kernel did not answer")

    def _answers(self, step: str) -> Iterator[Message]:
        while True:
            try:
                messages = self._receive()
            except OverrunError as error:
                raise KernelRefusedError(step, errno.ENOBUFS) from error
            if messages is None:
                return
            yield from messages


def _check(step: str, answer: Acknowledgement, hints: Mapping[int, str]) -> None:
    if answer.code:
        hint = hints.get(answer.code) or _GENERAL_HINTS.get(answer.code, "")
        raise KernelRefusedError(step, answer.code, answer.words, hint)
