"""What may stand for a server's name in a ClientHello.

A name is ASCII, has no dot at its end, and is no IP address. Of ASCII it has what names of hosts
have: letters, digits and hyphens; and underscores, which no standard gives them, and which some
have all the same. Nothing is asked of it that would need a list of the domains that there are.

Source: RFC 6066, section 3; RFC 1123, section 2.1; RFC 1035, section 2.3.4 for the lengths.
"""

from __future__ import annotations

import re
from typing import Final

from .answers import ClientHelloError

__all__ = ["checked_server_name"]

_LONGEST: Final = 253
_LABELS: Final = re.compile(rb"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
# No top-level domain is a number (RFC 3696, section 2): 127.0.0.1, 127.1, 2130706433, 0x7f000001.
_ADDRESS: Final = re.compile(rb"(.*\.)?([0-9]+|0x[0-9a-f]*)")


def checked_server_name(octets: bytes) -> str:
    """Return a server's name, in lower case.

    Raises:
      ClientHelloError: it can't be one; the reason is ``server-name-malformed``.
    """
    name = octets.lower()
    if len(name) > _LONGEST:
        raise _malformed(f"has {len(name)} octets, and {_LONGEST} are the most")
    if name.endswith(b"."):
        raise _malformed(f"{octets!r} ends with a dot")
    if b":" in name or _ADDRESS.fullmatch(name):
        raise _malformed(f"{octets!r} is an IP address")
    if not _LABELS.fullmatch(name):
        raise _malformed(f"{octets!r} is no name of a host")
    return name.decode("ascii")


def _malformed(what: str) -> ClientHelloError:
    return ClientHelloError(f"the server name {what}", reason="server-name-malformed")
