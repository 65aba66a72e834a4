"""What parsers of first octets answer with, when it isn't what they have read.

::

    MalformedError       the peer's: what it says first is not what it should be
    ├── NotTLSError          it is no TLS at all
    ├── ClientHelloError     it is TLS, and no ClientHello in good order
    └── ProxyHeaderError     it is no PROXY protocol header in good order

What a parser has once answered with more than `MoreNeeded` is its answer however much more comes
behind: it depends on the octets, and not on the pieces in which they came.
"""

from __future__ import annotations

import attrs

from trio_wsk._vocabulary.errors import InvalidParameterError, WskError
from trio_wsk._vocabulary.status import Status

__all__ = [
    "ClientHelloError",
    "MalformedError",
    "MoreNeeded",
    "NotTLSError",
    "ProxyHeaderError",
    "checked_octets",
]


@attrs.frozen
class MoreNeeded:
    """What has come is in order so far, and not all of it is there."""

    at_least: int
    """How many octets there will be in all, from the first one on, if it goes on in good order.

    More than were given, and no more than there will be: who waits for so many waits for none that
    never come. What follows may show that even more are needed.
    """


class MalformedError(WskError):
    """What the peer says first is not what it should be.

    The peer's: it speaks another protocol, or speaks it wrongly. Nothing that it could still send
    would make it right.

    Args:
      message: What is wrong, and where.
      reason: A short slug for counters and verdicts; without it, that of the class.
      status: `Status.DATA_NOT_ACCEPTED` (the default).
    """

    status = Status.DATA_NOT_ACCEPTED

    reason: str = "malformed"
    """A short slug for counters and verdicts."""

    def __init__(
        self, message: str, *, reason: str | None = None, status: Status | None = None
    ) -> None:
        super().__init__(message, status=status)
        if reason is not None:
            self.reason = reason


class NotTLSError(MalformedError):
    """The peer doesn't speak TLS, or speaks it with a hello of 1995 (SSL 2.0).

    Its reason is ``not-tls`` or ``ssl2-hello``.
    """

    reason = "not-tls"


class ClientHelloError(MalformedError):
    """The peer speaks TLS, and what it begins with is no ClientHello in good order.

    Its reason is ``no-client-hello`` for another message, ``client-hello-too-long``,
    ``server-name-malformed`` for a server name that can't be one, or ``client-hello-malformed``.
    """

    reason = "client-hello-malformed"


class ProxyHeaderError(MalformedError):
    """What the peer begins with is no PROXY protocol header in good order.

    Its reason is ``no-proxy-header`` if it begins like neither version, else
    ``proxy-v1-malformed``, ``proxy-v2-malformed``, ``proxy-header-too-long`` or
    ``proxy-checksum-wrong``.
    """

    reason = "no-proxy-header"


def checked_octets(call: str, octets: object, *, most: int) -> bytes:
    """Return so many of the octets as ever count.

    Raises:
      InvalidParameterError: they are none. (The caller's.)
    """
    if isinstance(octets, (bytes, bytearray, memoryview)):
        return bytes(octets[:most])
    raise InvalidParameterError(f"{call} takes octets, such as b'\\x16\\x03\\x01', not {octets!r}")
