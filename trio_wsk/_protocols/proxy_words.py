"""The words of PROXY protocol headers, and what readers of both versions find.

Source: HAProxy's proxy-protocol.txt (2026/04/27), section 2.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from trio_wsk._vocabulary.addresses import Address

    from .proxy_tlvs import ProxyTlv

__all__ = ["Parts", "ProxyCommand", "ProxyTransport"]


class ProxyCommand(enum.Enum):
    """On whose behalf the connection was made."""

    LOCAL = 0
    """The proxy's own, as for a health check: the addresses are those of the connection itself."""
    PROXY = 1
    """Somebody's whom the header names."""


class ProxyTransport(enum.Enum):
    """How the client is connected to the proxy; the values are those of version 2."""

    UNSPEC = 0x00
    """In another way, or it isn't said how; version 1 writes UNKNOWN."""
    TCP4 = 0x11
    UDP4 = 0x12
    TCP6 = 0x21
    UDP6 = 0x22
    UNIX_STREAM = 0x31
    UNIX_DATAGRAM = 0x32


class Parts(NamedTuple):
    """The fields of a `ProxyHeader`, in its order."""

    octets: bytes
    version: int
    command: ProxyCommand
    transport: ProxyTransport
    source: Address | None
    destination: Address | None
    tlvs: tuple[ProxyTlv, ...]
