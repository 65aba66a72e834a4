"""Messages of netlink, written and read; nothing here has a socket.

A message is a header, sometimes a second one of its subsystem's, and attributes: length, kind,
octets. Everything starts at a multiple of four octets. Headers are in the machine's byte order;
what netfilter puts into its attributes is in the network's.

Source: netlink(7); Documentation/userspace-api/netlink/intro.rst of the kernel.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "ACK",
    "APPEND",
    "BATCH_BEGIN",
    "BATCH_END",
    "CREATE",
    "DONE",
    "DUMP",
    "EXCLUSIVE",
    "NETFILTER_HEADER_SIZE",
    "NLMSG_ERROR",
    "NO_HINTS",
    "REQUEST",
    "Acknowledgement",
    "Change",
    "Message",
    "NetlinkError",
    "attribute",
    "be16",
    "be32",
    "be64",
    "message",
    "nested",
    "netfilter_header",
    "parse_acknowledgement",
    "parse_attribute_list",
    "parse_attributes",
    "parse_messages",
    "parse_number",
    "text",
]

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
DONE: Final = 3
BATCH_BEGIN: Final = 0x10
BATCH_END: Final = 0x11

_ERROR_WORDS: Final = 1
"""NLMSGERR_ATTR_MSG: the kernel's own words."""
_NESTED: Final = 0x8000
_KIND: Final = 0x3FFF
"""The bits of an attribute's kind that are not flags."""

_HEADER: Final = struct.Struct("=IHHII")
_NETFILTER_HEADER: Final = struct.Struct("!BBH")
NETFILTER_HEADER_SIZE: Final = _NETFILTER_HEADER.size
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR_CODE: Final = struct.Struct("=i")

_LONGEST_ATTRIBUTE: Final = 0xFFFF - _ATTRIBUTE.size


class NetlinkError(Exception):
    """What came is no netlink message, or no answer to what was asked.

    The machine's. What the kernel understood and refused is a `KernelRefusedError`.
    """


NO_HINTS: Final[Mapping[int, str]] = {}


class Change(NamedTuple):
    """One message of a batch."""

    step: str
    """What is done, to be read after "could not"."""
    kind: int
    """The operation, without the subsystem."""
    flags: int
    family: int
    attributes: bytes
    hints: Mapping[int, str] = NO_HINTS
    """What would help, for the kernel's errors."""


# --------------------------------------------------------------------------------- writing


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


# --------------------------------------------------------------------------------- reading


class Message(NamedTuple):
    """One message, as it came."""

    kind: int
    flags: int
    sequence: int
    body: bytes


class Acknowledgement(NamedTuple):
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


def parse_acknowledgement(answer: Message) -> Acknowledgement:
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
        return Acknowledgement(-code, "")
    rest = _ERROR_CODE.size + _HEADER.size
    if not answer.flags & _CAPPED:  # what was asked stands in between
        (asked,) = _ERROR_CODE.unpack_from(answer.body, _ERROR_CODE.size)
        rest += max(0, asked - _HEADER.size + -asked % 4)
    words = parse_attributes(answer.body, rest).get(_ERROR_WORDS, b"")
    return Acknowledgement(-code, words.rstrip(b"\0").decode("utf-8", "backslashreplace"))
