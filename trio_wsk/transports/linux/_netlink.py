"""Netlink: how the kernel's network code is spoken to, and how it answers.

A message is a header, sometimes a second one of its subsystem's, and attributes: length, kind,
octets. Everything starts at a multiple of four octets. Headers are in the machine's byte order;
what netfilter puts into its attributes is in the network's.

The kernel handles a message while `send` runs, so that its answer is there when `send` returns.
Therefore nothing here waits, and an answer that is not there is an error.

Source: netlink(7); Documentation/userspace-api/netlink/intro.rst of the kernel.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "ACK",
    "APPEND",
    "CREATE",
    "DUMP",
    "EXCLUSIVE",
    "NETFILTER",
    "NLMSG_ERROR",
    "NO_HINTS",
    "REQUEST",
    "SOCK_DIAG",
    "Answer",
    "KernelRefusedError",
    "Message",
    "NetlinkError",
    "NetlinkSocket",
    "OverrunError",
    "Step",
    "attribute",
    "be16",
    "be32",
    "be64",
    "likely_numbers",
    "message",
    "nested",
    "netfilter_header",
    "parse_answer",
    "parse_attribute_list",
    "parse_attributes",
    "parse_messages",
    "parse_number",
    "text",
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

REQUEST: Final = 0x1
ACK: Final = 0x4
DUMP: Final = 0x300
EXCLUSIVE: Final = 0x200
CREATE: Final = 0x400
APPEND: Final = 0x800
_CAPPED: Final = 0x100
_ACK_TLVS: Final = 0x200

NLMSG_ERROR: Final = 2
"""The kind of message that ends a request, or says what became of one that asked for no end."""
_DONE: Final = 3
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11

_ERROR_WORDS: Final = 1
"""NLMSGERR_ATTR_MSG: the kernel's own words."""
_NESTED: Final = 0x8000
_KIND: Final = 0x3FFF
"""The bits of an attribute's kind that are not flags."""

_HEADER: Final = struct.Struct("=IHHII")
_NETFILTER_HEADER: Final = struct.Struct("!BBH")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR_CODE: Final = struct.Struct("=i")

_LONGEST_ATTRIBUTE: Final = 0xFFFF - _ATTRIBUTE.size
_LONGEST_ANSWER: Final = 1 << 16
"""More than the kernel puts into one datagram: parts of a dump have at most 32 KiB."""

NO_HINTS: Final[Mapping[int, str]] = {}
_NEEDS_ADMIN: Final = (
    "this takes CAP_NET_ADMIN in the network namespace: run as root of the user namespace that "
    "owns it, give the program the capability (systemd's AmbientCapabilities; setcap on a copy of "
    "the interpreter, never on itself), give the container NET_ADMIN, or try it in a network of "
    "your own (unshare --user --map-root-user --net)"
)
_OTHER_OWNERS: Final = (
    "other processes own it; /proc/net/netfilter/nfnetlink_queue and nfnetlink_log show which"
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

# 16 bits, of which one process tries some.
_FIRST_NUMBER: Final = 1024
_NUMBERS: Final = 65536 - _FIRST_NUMBER
_ATTEMPTS: Final = 64


# --------------------------------------------------------------------------------- errors


class NetlinkError(Exception):
    """What came is no netlink message, or no answer to what was asked.

    The machine's. What the kernel understood and refused is a `KernelRefusedError`.
    """


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


# ------------------------------------------------------------------------ writing messages


def _padding(length: int) -> bytes:
    return bytes(-length % 4)


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Write one message, padded so that another may follow."""
    length = _HEADER.size + len(body)
    return _HEADER.pack(length, kind, flags, sequence, 0) + body + _padding(length)


def netfilter_header(family: int, resource: int = 0) -> bytes:
    """Write netfilter's header: an address family, and a number such as that of a queue."""
    return _NETFILTER_HEADER.pack(family, 0, resource)


def attribute(kind: int, value: bytes) -> bytes:
    """Write one attribute."""
    if len(value) > _LONGEST_ATTRIBUTE:
        raise NetlinkError(f"{len(value)} octets are too many for an attribute")
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + _padding(length)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Write an attribute that consists of attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def be16(kind: int, number: int) -> bytes:
    """Write a 16-bit number in the network's byte order."""
    return attribute(kind, number.to_bytes(2, "big"))


def be32(kind: int, number: int) -> bytes:
    """Write a 32-bit number in the network's byte order."""
    return attribute(kind, number.to_bytes(4, "big"))


def be64(kind: int, number: int) -> bytes:
    """Write a 64-bit number in the network's byte order."""
    return attribute(kind, number.to_bytes(8, "big"))


def text(kind: int, value: str) -> bytes:
    """Write a name, with the zero at its end that the kernel asks for."""
    return attribute(kind, value.encode("ascii") + b"\0")


# ------------------------------------------------------------------------ reading messages


class Message(NamedTuple):
    """One message, as it came."""

    kind: int
    flags: int
    sequence: int
    body: bytes


class Answer(NamedTuple):
    """How the kernel ended a request."""

    code: int
    """0, or why it refused: an errno."""
    words: str
    """What else it said."""


def parse_messages(data: bytes) -> list[Message]:
    """Read the messages of one datagram.

    Raises:
      NetlinkError: one is cut short, or is shorter than its own header.
    """
    return list(_messages(data))


def _messages(data: bytes) -> Iterator[Message]:
    start = 0
    while start < len(data):
        if len(data) - start < _HEADER.size:
            raise NetlinkError(f"{len(data) - start} octets are too few for a message")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, start)
        if not _HEADER.size <= length <= len(data) - start:
            raise NetlinkError(f"a message claims {length} octets, of {len(data) - start}")
        yield Message(kind, flags, sequence, data[start + _HEADER.size : start + length])
        start += length + -length % 4


def parse_attributes(data: bytes, start: int = 0) -> dict[int, bytes]:
    """Read the attributes from ``start`` to the end; of two of a kind, the last.

    Raises:
      NetlinkError: one is cut short, or is shorter than its own header.
    """
    return dict(parse_attribute_list(data, start))


def parse_attribute_list(data: bytes, start: int = 0) -> list[tuple[int, bytes]]:
    """Read the attributes from ``start`` to the end, in their order.

    Raises:
      NetlinkError: one is cut short, or is shorter than its own header.
    """
    found: list[tuple[int, bytes]] = []
    end = len(data)
    while start < end:
        if end - start < _ATTRIBUTE.size:
            raise NetlinkError(f"{end - start} octets are too few for an attribute")
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if not _ATTRIBUTE.size <= length <= end - start:
            raise NetlinkError(f"an attribute claims {length} octets, of {end - start}")
        found.append((kind & _KIND, data[start + _ATTRIBUTE.size : start + length]))
        start += length + -length % 4
    return found


def parse_number(value: bytes, octets: int) -> int:
    """Read a number of so many octets, in the network's byte order.

    Raises:
      NetlinkError: it has another size.
    """
    if len(value) != octets:
        raise NetlinkError(f"a number has {len(value)} octets, not {octets}")
    return int.from_bytes(value, "big")


def parse_answer(answer: Message) -> Answer:
    """Read how the kernel ended a request (NLMSG_ERROR, which is also how it says "done").

    Raises:
      NetlinkError: it is too short, or says what no answer says.
    """
    if len(answer.body) < _ERROR_CODE.size + _HEADER.size:
        raise NetlinkError(f"{len(answer.body)} octets are too few for an answer")
    (code,) = _ERROR_CODE.unpack_from(answer.body)
    if code > 0:
        raise NetlinkError(f"{code} is no answer")
    if not answer.flags & _ACK_TLVS:
        return Answer(-code, "")
    rest = _ERROR_CODE.size + _HEADER.size
    if not answer.flags & _CAPPED:  # what was asked stands in between
        (asked,) = _ERROR_CODE.unpack_from(answer.body, _ERROR_CODE.size)
        rest += max(0, asked - _HEADER.size + -asked % 4)
    words = parse_attributes(answer.body, rest).get(_ERROR_WORDS, b"")
    return Answer(-code, words.rstrip(b"\0").decode("utf-8", "backslashreplace"))


# --------------------------------------------------------------------------------- sockets


class Step(NamedTuple):
    """One message of a batch."""

    doing: str
    """What it does, to be read after "could not"."""
    kind: int
    """The operation, without the subsystem."""
    flags: int
    family: int
    attributes: bytes
    hints: Mapping[int, str] = NO_HINTS
    """What would help, for the kernel's errors."""


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
                _check(step, parse_answer(answer), hints)
                return found
            elif answer.kind == _DONE:
                return found
            else:
                found.append(answer)
        raise NetlinkError(f"could not {step}: the kernel did not answer")

    def batch(
        self, subsystem: int, steps: Sequence[Step], *, hints: Mapping[int, str] = NO_HINTS
    ) -> None:
        """Do several things or none.

        Args:
          subsystem: Of netfilter's, the one that all steps belong to.
          steps: What to do, in this order.
          hints: What would help, for errors of the whole; each step has its own.

        Raises:
          KernelRefusedError: the kernel refused one, or the whole; the error names the first.
          NetlinkError: it did not answer.
        """
        whole = Step("have a batch of changes carried out", 0, 0, 0, b"", hints)
        border = netfilter_header(0, subsystem)
        first = self._sequence + 1
        self._sequence += len(steps) + 2
        asked = dict(enumerate((whole, *steps), first))
        parts = [message(_BATCH_BEGIN, REQUEST, first, border)]
        for sequence, step in enumerate(steps, first + 1):
            # That the last one went well says that all did; an error is told in any case.
            flags = REQUEST | step.flags | (ACK if step is steps[-1] else 0)
            body = netfilter_header(step.family) + step.attributes
            parts.append(message(subsystem << 8 | step.kind, flags, sequence, body))
        parts.append(message(_BATCH_END, REQUEST, self._sequence, border))
        self.send(b"".join(parts), step=whole.doing)
        is_answered = False
        refused: KernelRefusedError | None = None
        for answer in self._answers(whole.doing):
            if answer.sequence not in asked:
                continue  # left over from a request that somebody has interrupted
            step = asked[answer.sequence]
            # All answers are read, so that none is left for the next request.
            try:
                _check(step.doing, parse_answer(answer), step.hints)
            except KernelRefusedError as error:
                refused = refused or error
            is_answered = True
        if refused is not None:
            raise refused
        if not is_answered:
            raise NetlinkError(f"could not {whole.doing}: the kernel did not answer")

    def claim(self, kind: int, attributes: bytes, numbers: Iterable[int], *, what: str) -> int:
        """Bind the first of these numbers that no other socket has; return it.

        Netfilter's queues and groups are bound alike: who comes second gets EPERM. So does a
        process without the capability, which should have been told before.

        Args:
          kind: The operation, with its subsystem.
          attributes: What binds.
          numbers: Which to try; without a suggestion, those of `likely_numbers`.
          what: What has the numbers, in the singular.

        Raises:
          KernelRefusedError: others have them all, or something else is wrong.
        """
        tried: list[int] = []
        for number in numbers:
            try:
                self.request(
                    kind, netfilter_header(0, number) + attributes, step=f"bind {what} {number}"
                )
            except KernelRefusedError as error:
                if error.code != errno.EPERM:
                    raise
                tried.append(number)
            else:
                return number
        which = f"{what} {tried[0]}" if len(tried) == 1 else f"any of {len(tried)} {what}s"
        raise KernelRefusedError(f"bind {which}", errno.EPERM, hint=_OTHER_OWNERS)

    def _answers(self, step: str) -> Iterator[Message]:
        while True:
            try:
                messages = self._receive()
            except OverrunError as error:
                raise KernelRefusedError(step, errno.ENOBUFS) from error
            if messages is None:
                return
            yield from messages


def _check(step: str, answer: Answer, hints: Mapping[int, str]) -> None:
    if answer.code:
        hint = hints.get(answer.code) or _GENERAL_HINTS.get(answer.code, "")
        raise KernelRefusedError(step, answer.code, answer.words, hint)


def likely_numbers() -> Iterator[int]:
    """Return numbers of queues and groups that two processes are unlikely to share.

    They depend on the process, and leave out the low ones, which people write into rules.
    """
    start = os.getpid() * _ATTEMPTS
    for offset in range(_ATTEMPTS):
        yield _FIRST_NUMBER + (start + offset) % _NUMBERS
