"""The PROXY protocol: whom a proxy speaks for, told before anything else is.

What a header says is as true as its sender: it is to be read from proxies that are known, and from
nobody else, and never guessed whether there is one (section 2 of the specification).

Source: HAProxy's proxy-protocol.txt, of 2026/04/27,
https://github.com/haproxy/haproxy/blob/master/doc/proxy-protocol.txt
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import attrs

from trio_wsk._vocabulary.addresses import Address
from trio_wsk._vocabulary.arguments import check_flag, checked_count
from trio_wsk._vocabulary.errors import InvalidParameterError

from .answers import MoreNeeded, ProxyHeaderError, checked_octets
from .proxy_tlvs import ProxySsl, ProxyTlv, TlvKind, checked_tlvs, text_of, value_of
from .proxy_v1 import LONGEST_V1, V1_START, read_v1, write_v1
from .proxy_v2 import LONGEST_V2, SIGNATURE, read_v2, write_v2
from .proxy_words import ProxyCommand, ProxyTransport

if TYPE_CHECKING:
    from .proxy_words import Parts

__all__ = ["HEADER_LIMIT", "ProxyHeader", "parse_proxy_header"]

HEADER_LIMIT: Final = 4096
"""How many octets a header may have, unless more are allowed.

Twice what a client's certificate takes, which is the longest thing in it.
"""

_SHORTEST: Final = 8
"""From so many octets on the specification tells versions; no header has fewer than 15."""


@attrs.frozen
class ProxyHeader:
    """What a proxy says of the connection that it forwards, before the first octet of it.

    ``bytes(header)`` is the header as it goes over the wire, octet by octet as it came.
    """

    octets: bytes = attrs.field(repr=False)
    """All of it, to be sent on as it is."""
    version: int
    """1 or 2."""
    command: ProxyCommand
    """Whether it speaks for somebody, or for itself."""
    transport: ProxyTransport
    """How the client is connected to it."""
    source: Address | None
    """The client's address; None if the header has none, and the connection's own count."""
    destination: Address | None
    """The address that the client has connected to; None together with `source`."""
    tlvs: tuple[ProxyTlv, ...]
    """What it says besides, as it stands, unknown types included; of version 2 only."""

    def __bytes__(self) -> bytes:
        return self.octets

    @property
    def length(self) -> int:
        """How many octets it has: what comes behind them is the connection's."""
        return len(self.octets)

    @property
    def alpn(self) -> bytes | None:
        """The protocol that the client speaks, such as ``b"h2"``."""
        return value_of(self.tlvs, TlvKind.ALPN)

    @property
    def authority(self) -> str | None:
        """The host that the client has asked for: TLS's server name, say."""
        return text_of(self.tlvs, TlvKind.AUTHORITY)

    @property
    def unique_id(self) -> bytes | None:
        """What the proxy tells this connection by; up to 128 octets."""
        return value_of(self.tlvs, TlvKind.UNIQUE_ID)

    @property
    def ssl(self) -> ProxySsl | None:
        """What the proxy says of the client's TLS."""
        value = value_of(self.tlvs, TlvKind.SSL)
        return None if value is None else ProxySsl.read(value)

    @property
    def netns(self) -> str | None:
        """The name of the network namespace."""
        return text_of(self.tlvs, TlvKind.NETNS)

    @classmethod
    def v1(cls, source: Address | None, destination: Address | None) -> ProxyHeader:
        """Make a header of version 1, to be sent.

        Args:
          source: The client's address; None with ``destination=None`` where it isn't known, which
            some receivers refuse. A scope id is left out.
          destination: The address that the client has connected to.

        Raises:
          InvalidParameterError: one of them is no address, or a Unix socket's. (Yours.)
        """
        _check_addresses(source, destination)
        return _own(write_v1(source, destination))

    @classmethod
    def v2(
        cls,
        source: Address | None,
        destination: Address | None,
        *,
        alpn: bytes | None = None,
        authority: str | None = None,
        unique_id: bytes | None = None,
        ssl: ProxySsl | None = None,
        netns: str | None = None,
        tlvs: Iterable[ProxyTlv] = (),
        checksum: bool = False,
    ) -> ProxyHeader:
        """Make a header of version 2, to be sent for a client.

        Args:
          source: The client's address; None with ``destination=None`` where it isn't known. A
            scope id is left out.
          destination: The address that the client has connected to: both are TCP's, of whichever
            family, or both Unix sockets'.
          alpn: The protocol that the client speaks.
          authority: The host that the client has asked for.
          unique_id: What this connection is told by; up to 128 octets.
          ssl: What is to be said of the client's TLS.
          netns: The name of the network namespace.
          tlvs: What is to be said besides, behind these.
          checksum: Whether a checksum ends it.

        Raises:
          InvalidParameterError: one of these can't be said, or all together have more than
            65535 octets. (Yours.)
        """
        _check_addresses(source, destination)
        check_flag("checksum", checksum)
        said = [
            *_said(TlvKind.ALPN, "alpn", alpn, bytes),
            *_said(TlvKind.AUTHORITY, "authority", authority, str),
            *_said(TlvKind.UNIQUE_ID, "unique_id", unique_id, bytes),
            *_said(TlvKind.SSL, "ssl", ssl, ProxySsl),
            *_said(TlvKind.NETNS, "netns", netns, str),
            *checked_tlvs(tlvs),
        ]
        return _own(write_v2(ProxyCommand.PROXY, source, destination, said, checksum=checksum))

    @classmethod
    def local(cls) -> ProxyHeader:
        """Make a header of version 2 for a connection of our own, such as a health check."""
        return _own(write_v2(ProxyCommand.LOCAL, None, None, (), checksum=False))


def parse_proxy_header(
    octets: bytes | bytearray | memoryview, *, limit: int = HEADER_LIMIT
) -> ProxyHeader | MoreNeeded:
    """Read the PROXY protocol header, of version 1 or 2, that a connection begins with.

    Args:
      octets: What the peer has sent so far, from the first octet on; what comes behind the header
        is not looked at.
      limit: How many octets a header of version 2 may have, 16 to 65551. One of version 1 never has
        more than 107.

    Returns:
      What it says; or how many octets it needs at least, if all is in order so far.

    Raises:
      ProxyHeaderError: there is none, or it is not in good order; then the connection is to be
        aborted. (The peer's.)
      InvalidParameterError: these are no octets, or no such limit. (Yours.)

    Source: proxy-protocol.txt, section 2.
    """
    if checked_count("limit", limit, least=16) > LONGEST_V2:
        raise InvalidParameterError(f"no PROXY header has limit={limit} octets; write {LONGEST_V2}")
    octets = checked_octets("parse_proxy_header", octets, most=max(limit, LONGEST_V1))
    found = _read(octets, limit)
    return found if isinstance(found, MoreNeeded) else ProxyHeader(*found)


def _read(octets: bytes, limit: int) -> Parts | MoreNeeded:
    for start in (V1_START, SIGNATURE):
        if octets[: len(start)] == start[: len(octets)]:
            break
    else:
        raise ProxyHeaderError(f"no PROXY header begins with {octets[: len(SIGNATURE)]!r}")
    if len(octets) < _SHORTEST:
        return MoreNeeded(_SHORTEST)
    return read_v1(octets) if start is V1_START else read_v2(octets, limit)


def _own(octets: bytes) -> ProxyHeader:
    """Read what we have written: it says what receivers make of it."""
    found = _read(octets, LONGEST_V2)
    assert not isinstance(found, MoreNeeded)
    return ProxyHeader(*found)


def _check_addresses(source: object, destination: object) -> None:
    for name, address in (("source", source), ("destination", destination)):
        if address is not None and not isinstance(address, Address):
            raise InvalidParameterError(
                f"{name} is an Address, such as Address.tcp('192.0.2.1', 80), not {address!r}"
            )
    if (source is None) != (destination is None):
        raise InvalidParameterError(
            f"a header names both addresses or none, not {source} and {destination}"
        )


def _said(
    kind: TlvKind, name: str, value: bytes | str | ProxySsl | None, form: type
) -> Iterable[ProxyTlv]:
    if value is None:
        return
    if not isinstance(value, form):
        raise InvalidParameterError(f"{name} is {form.__name__}, not {value!r}")
    try:
        yield ProxyTlv(kind, value.encode() if isinstance(value, str) else bytes(value))
    except UnicodeEncodeError as error:
        raise InvalidParameterError(f"{name} can't be written: {error}") from None
