"""What the kernel has in its sets of addresses, read back, and clients that come from anywhere."""

from __future__ import annotations

import errno
import socket
from contextlib import closing
from typing import Final

import attrs
import trio

from tests.helpers.support import PATIENCE
from trio_wsk import Address
from trio_wsk.transports.linux._messages import (
    DUMP,
    NETFILTER_HEADER_SIZE,
    netfilter_header,
    parse_attribute_list,
    parse_attributes,
    parse_number,
    text,
)
from trio_wsk.transports.linux._netlink import NETFILTER, NetlinkSocket
from trio_wsk.transports.linux._rules import IPV4, IPV6

_GET_SET: Final = 10 << 8 | 10
_GET_ELEMENTS: Final = 10 << 8 | 13
_END_OF_RANGE: Final = 1


@attrs.frozen
class Element:
    """One element of a set."""

    key: int
    is_end: bool
    seconds: float
    """How long it was to stay; 0 if for ever."""


def sets_here() -> list[tuple[int, str, str]]:
    """Return family, table and name of all sets in this namespace, in order."""
    with closing(NetlinkSocket(NETFILTER)) as netlink:
        found = []
        for family in (IPV4, IPV6):
            for answer in netlink.request(
                _GET_SET, netfilter_header(family), flags=DUMP, step="list sets"
            ):
                parts = parse_attributes(answer.body, NETFILTER_HEADER_SIZE)
                names = [parts[kind].rstrip(b"\0").decode() for kind in (1, 2)]
                found.append((family, names[0], names[1]))
    return sorted(found)


def elements_of(kind: str, family: int = IPV4) -> list[Element]:
    """Return what is in the sets whose names begin so."""
    with closing(NetlinkSocket(NETFILTER)) as netlink:
        return [
            _read(octets)
            for where, table, name in sets_here()
            if where == family and name.startswith(kind)
            for answer in netlink.request(
                _GET_ELEMENTS,
                netfilter_header(family) + text(1, table) + text(2, name),
                flags=DUMP,
                step="list elements",
            )
            for _, octets in parse_attribute_list(
                parse_attributes(answer.body, NETFILTER_HEADER_SIZE).get(3, b"")
            )
        ]


def _read(octets: bytes) -> Element:
    parts = parse_attributes(octets)
    key = parse_attributes(parts[1])[1]
    flags = parse_number(parts[3], 4) if 3 in parts else 0
    timeout = parse_number(parts[4], 8) if 4 in parts else 0
    return Element(int.from_bytes(key, "big"), bool(flags & _END_OF_RANGE), timeout / 1000)


def is_in(address: int, elements: list[Element]) -> bool:
    """Whether an address is in one of the ranges that these are."""
    before = [each for each in elements if each.key <= address]
    # Of two with one key the second begins a range where the first ends one.
    last = max(before, key=lambda each: (each.key, not each.is_end), default=None)
    return last is not None and not last.is_end


async def come(place: Address, source: str) -> str:
    """Have a client ask for a connection from there: "in" or "refused"."""
    with socket.socket(place.family) as client:
        client.bind((source, 0))
        client.settimeout(0)
        client.connect_ex(place.sockaddr)
        return await fate_of(client)


async def fate_of(client: socket.socket) -> str:
    """Wait for the answer to a SYN: "in" or "refused"."""
    with trio.fail_after(PATIENCE):
        await trio.lowlevel.wait_writable(client)
    code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return {0: "in", errno.ECONNREFUSED: "refused"}[code]
