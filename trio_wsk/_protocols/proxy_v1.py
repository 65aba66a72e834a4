"""Version 1 of the PROXY protocol: one line of text.

Every form is strict: one space, no leading zeros, no other end than CR and LF. In one point the
letter is left. By the specification an IPv6 address is made of hexadecimal digits and colons; but
``inet_ntop``, by which proxies write it, writes an IPv4-mapped one as ``::ffff:192.0.2.1``, and
HAProxy and nginx send that for what they have accepted on a socket for both families. It is read,
and never written.

Source: HAProxy's proxy-protocol.txt, section 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

from trio_wsk._vocabulary.addresses import IPV4_OCTETS, Address, tcp_parts
from trio_wsk._vocabulary.errors import InvalidParameterError

from .answers import MoreNeeded, ProxyHeaderError
from .proxy_words import Parts, ProxyCommand, ProxyTransport

__all__ = ["LONGEST_V1", "V1_START", "read_v1", "write_v1"]

V1_START: Final = b"PROXY "
"""How every line begins."""

LONGEST_V1: Final = 107
"""How many octets a line may have, CR and LF included."""
_UNKNOWN: Final = b"PROXY UNKNOWN"
_TCP_START: Final = b"PROXY TCP"
_SHORTEST: Final = {
    b"PROXY TCP4 ": len(b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n"),
    b"PROXY TCP6 ": len(b"PROXY TCP6 :: :: 0 0\r\n"),
    _UNKNOWN: len(b"PROXY UNKNOWN\r\n"),
}
"""How lines begin, and how many octets each has at least."""
_SPACES: Final = 5
_TCP: Final = re.compile(
    rb"PROXY TCP(?P<family>[46]) (?P<source>[0-9A-Fa-f:.]+) (?P<destination>[0-9A-Fa-f:.]+)"
    rb" (?P<source_port>0|[1-9][0-9]{0,4}) (?P<destination_port>0|[1-9][0-9]{0,4})\r\n"
)
_Host: TypeAlias = type[IPv4Address] | type[IPv6Address]
_FAMILIES: Final[Mapping[bytes, tuple[ProxyTransport, _Host]]] = {
    b"4": (ProxyTransport.TCP4, IPv4Address),
    b"6": (ProxyTransport.TCP6, IPv6Address),
}


def read_v1(octets: bytes) -> Parts | MoreNeeded:
    """Read a line that begins like `V1_START`, as far as it goes.

    Raises:
      ProxyHeaderError: it is not in good order. (The peer's.)
    """
    if not any(octets.startswith(start[: len(octets)]) for start in _SHORTEST):
        raise _malformed("it is neither TCP4 nor TCP6 nor UNKNOWN")
    line, end, _ = octets[:LONGEST_V1].partition(b"\n")
    line += end
    body, carriage_return, rest = line.partition(b"\r")
    if rest not in {b"", end} or (end and not carriage_return):
        raise _malformed("it ends with CR and LF, and has neither of them before that")
    if not end:
        return _more_of(line)
    if body.startswith(_UNKNOWN):
        if body[len(_UNKNOWN) :][:1] not in {b"", b" "}:
            raise _malformed("UNKNOWN is followed by a space, or by nothing")
        return Parts(line, 1, ProxyCommand.PROXY, ProxyTransport.UNSPEC, None, None, ())
    return _read_tcp(line)


def write_v1(source: Address | None, destination: Address | None) -> bytes:
    """Write the line for a client's address and the one that it has connected to.

    Raises:
      InvalidParameterError: one of them is a Unix socket's. (The caller's.)
    """
    if source is None or destination is None:
        return _UNKNOWN + b"\r\n"
    if source.is_unix or destination.is_unix:
        raise InvalidParameterError(
            "version 1 has no words for Unix sockets: write ProxyHeader.v2(...), or"
            " ProxyHeader.v1(None, None)"
        )
    source_octets, source_port, _ = tcp_parts(source)
    octets, port, _ = tcp_parts(destination)
    is_ipv4 = len(source_octets) == len(octets) == IPV4_OCTETS
    hosts = " ".join(_written(each, as_ipv4=is_ipv4) for each in (source_octets, octets))
    return f"PROXY TCP{4 if is_ipv4 else 6} {hosts} {source_port} {port}\r\n".encode()


def _more_of(line: bytes) -> MoreNeeded:
    """Say how much longer a line without its end is going to be."""
    shortest = min(
        length for start, length in _SHORTEST.items() if start.startswith(line[: len(start)])
    )
    end = 1 if line.endswith(b"\r") else 2
    missing = 0
    if line.startswith(_TCP_START) and end > 1:
        missing = 2 * max(_SPACES - line.count(b" "), 0)  # a space, and something behind it
    at_least = max(shortest, len(line) + missing + end)
    if at_least > LONGEST_V1:
        raise _malformed(f"it has more than {LONGEST_V1} octets")
    return MoreNeeded(at_least)


def _read_tcp(line: bytes) -> Parts:
    match = _TCP.fullmatch(line)
    if match is None:
        raise _malformed(f"{line!r} has not the form of two addresses and two ports")
    transport, kind = _FAMILIES[match["family"]]
    try:
        source = Address.tcp(kind(match["source"].decode()), int(match["source_port"]))
        destination = Address.tcp(
            kind(match["destination"].decode()), int(match["destination_port"])
        )
    except ValueError as error:
        raise _malformed(str(error)) from None
    return Parts(line, 1, ProxyCommand.PROXY, transport, source, destination, ())


def _written(octets: bytes, *, as_ipv4: bool) -> str:
    if len(octets) != IPV4_OCTETS:
        return IPv6Address(octets).compressed
    if as_ipv4:
        return str(IPv4Address(octets))
    return f"::ffff:{octets[:2].hex().lstrip('0') or '0'}:{octets[2:].hex().lstrip('0') or '0'}"


def _malformed(what: str) -> ProxyHeaderError:
    return ProxyHeaderError(f"a PROXY line is wrong: {what}", reason="proxy-v1-malformed")
