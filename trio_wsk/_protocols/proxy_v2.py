"""Version 2 of the PROXY protocol: octets.

Where the specification leaves a choice:

- A header for an unspecified family or protocol is taken, and has no addresses.
- Such a header, or a LOCAL one, may have in its block what only its sender can read. If it is
  types, lengths and values from the first octet to the last, as HAProxy sends them, they are read,
  and the checksum among them is looked at. Else it is passed over.
- A Unix socket's path ends at its first NUL, an abstract one before the last NULs: what is beyond
  is filling.

Source: HAProxy's proxy-protocol.txt, section 2.2.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from trio_wsk._vocabulary.addresses import IPV4_OCTETS, MAPPED, Address, tcp_address, tcp_parts
from trio_wsk._vocabulary.errors import InvalidParameterError

from .answers import MoreNeeded, ProxyHeaderError
from .proxy_tlvs import ProxyTlv, TlvKind, read_tlvs, with_checksum
from .proxy_words import Parts, ProxyCommand, ProxyTransport

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LONGEST_V2", "SIGNATURE", "read_v2", "write_v2"]

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""How every header begins."""
LONGEST_V2: Final = 16 + 0xFFFF
"""What the length can say."""

_COMMAND_AT: Final = 12
_TRANSPORT_AT: Final = 13
_FIXED: Final = struct.Struct(">12sBBH")
_VERSION: Final = 0x20
_HIGHEST_FAMILY: Final = 3
_HIGHEST_PROTOCOL: Final = 2
_IPV4: Final = struct.Struct(">4s4sHH")
_IPV6: Final = struct.Struct(">16s16sHH")
_UNIX: Final = struct.Struct(">108s108s")
_UNIX_OCTETS: Final = 108
_ADDRESSES: Final = {
    ProxyTransport.TCP4: _IPV4,
    ProxyTransport.UDP4: _IPV4,
    ProxyTransport.TCP6: _IPV6,
    ProxyTransport.UDP6: _IPV6,
    ProxyTransport.UNIX_STREAM: _UNIX,
    ProxyTransport.UNIX_DATAGRAM: _UNIX,
}
_TRANSPORTS: Final = {transport.value: transport for transport in ProxyTransport}


def read_v2(octets: bytes, limit: int) -> Parts | MoreNeeded:
    """Read a header that begins like `SIGNATURE`, as far as it goes.

    Raises:
      ProxyHeaderError: it is not in good order, or has more octets than that. (The peer's.)
    """
    if len(octets) <= _COMMAND_AT:
        return MoreNeeded(_FIXED.size)
    command = _read_command(octets[_COMMAND_AT])
    if len(octets) <= _TRANSPORT_AT:
        return MoreNeeded(_FIXED.size)
    transport = ProxyTransport.UNSPEC
    if command is ProxyCommand.PROXY:  # else the family is to be ignored, whatever it is
        transport = _read_transport(octets[_TRANSPORT_AT])
    if len(octets) < _FIXED.size:
        return MoreNeeded(_FIXED.size)
    end = _read_end(octets, transport, limit)
    if len(octets) < end:
        return MoreNeeded(end)
    return _read_block(octets[:end], command, transport)


def write_v2(
    command: ProxyCommand,
    source: Address | None,
    destination: Address | None,
    tlvs: Iterable[ProxyTlv],
    *,
    checksum: bool,
) -> bytes:
    """Write a header.

    Raises:
      InvalidParameterError: receivers would refuse it, or read something else. (The caller's.)
    """
    transport, addresses = ProxyTransport.UNSPEC, b""
    if source is not None and destination is not None:
        transport, addresses = _written_addresses(source, destination)
    block = addresses + b"".join(map(bytes, tlvs))
    if checksum:
        block += bytes(ProxyTlv(TlvKind.CRC32C, b"\0\0\0\0"))
    if _FIXED.size + len(block) > LONGEST_V2:
        raise InvalidParameterError(f"{len(block)} octets are too many for one PROXY header")
    fixed = _FIXED.pack(SIGNATURE, _VERSION | command.value, transport.value, len(block))
    header = with_checksum(fixed + block) if checksum else fixed + block
    try:
        read_tlvs(header, len(fixed + addresses))
    except ProxyHeaderError as error:
        raise InvalidParameterError(f"receivers would refuse it: {error}") from None
    return header


# --- Reading ----------------------------------------------------------------------------


def _read_command(octet: int) -> ProxyCommand:
    if octet & 0xF0 != _VERSION:
        raise _malformed(f"there is no version {octet >> 4} in octets")
    if octet & 0x0F > ProxyCommand.PROXY.value:
        raise _malformed(f"there is no command {octet & 0x0F}")
    return ProxyCommand(octet & 0x0F)


def _read_transport(octet: int) -> ProxyTransport:
    if octet >> 4 > _HIGHEST_FAMILY:
        raise _malformed(f"there is no address family {octet >> 4}")
    if octet & 0x0F > _HIGHEST_PROTOCOL:
        raise _malformed(f"there is no protocol {octet & 0x0F}")
    return _TRANSPORTS.get(octet, ProxyTransport.UNSPEC)


def _read_end(octets: bytes, transport: ProxyTransport, limit: int) -> int:
    *_, length = _FIXED.unpack_from(octets)
    end = _FIXED.size + int(length)
    if end > limit:
        raise ProxyHeaderError(
            f"a PROXY header has {end} octets, and {limit} are the most",
            reason="proxy-header-too-long",
        )
    if transport in _ADDRESSES and length < _ADDRESSES[transport].size:
        raise _malformed(f"{length} octets are too few for the addresses of {transport.name}")
    return end


def _read_block(header: bytes, command: ProxyCommand, transport: ProxyTransport) -> Parts:
    if transport is ProxyTransport.UNSPEC:
        return Parts(header, 2, command, transport, None, None, _tlvs_if_any(header))
    addresses = _ADDRESSES[transport]
    source, destination = _read_addresses(addresses, header)
    tlvs = read_tlvs(header, _FIXED.size + addresses.size)
    return Parts(header, 2, command, transport, source, destination, tlvs)


def _tlvs_if_any(header: bytes) -> tuple[ProxyTlv, ...]:
    """Read a block that may be something else."""
    try:
        return read_tlvs(header, _FIXED.size)
    except ProxyHeaderError as error:
        if error.reason == "proxy-checksum-wrong":
            raise
        return ()


def _read_addresses(form: struct.Struct, header: bytes) -> tuple[Address, Address]:
    if form is _UNIX:
        source, destination = form.unpack_from(header, _FIXED.size)
        return _read_path(source), _read_path(destination)
    source, destination, source_port, port = form.unpack_from(header, _FIXED.size)
    return tcp_address(source, source_port), tcp_address(destination, port)


def _read_path(octets: bytes) -> Address:
    if octets.startswith(b"\0"):
        return Address.unix(octets.rstrip(b"\0"))
    path, _, _ = octets.partition(b"\0")
    return Address.unix(path)


# --- Writing ----------------------------------------------------------------------------


def _written_addresses(source: Address, destination: Address) -> tuple[ProxyTransport, bytes]:
    if source.is_unix and destination.is_unix:
        paths = _written_path(source), _written_path(destination)
        return ProxyTransport.UNIX_STREAM, _UNIX.pack(*paths)
    if source.is_unix or destination.is_unix:
        raise InvalidParameterError(
            f"one header can't say {source} and {destination}: both are Unix sockets', or neither"
        )
    octets, port, _ = tcp_parts(source)
    other_octets, other_port, _ = tcp_parts(destination)
    if len(octets) == len(other_octets) == IPV4_OCTETS:
        return ProxyTransport.TCP4, _IPV4.pack(octets, other_octets, port, other_port)
    hosts = _as_ipv6(octets), _as_ipv6(other_octets)
    return ProxyTransport.TCP6, _IPV6.pack(*hosts, port, other_port)


def _as_ipv6(octets: bytes) -> bytes:
    return MAPPED + octets if len(octets) == IPV4_OCTETS else octets


def _written_path(address: Address) -> bytes:
    path = os.fsencode(address.path or "")
    if len(path) > _UNIX_OCTETS:
        raise InvalidParameterError(f"{address} has more than {_UNIX_OCTETS} octets")
    if path.endswith(b"\0"):
        raise InvalidParameterError(f"{address} ends with a NUL, as the filling behind it does")
    return path


def _malformed(what: str) -> ProxyHeaderError:
    return ProxyHeaderError(f"a PROXY header is wrong: {what}", reason="proxy-v2-malformed")
