"""A ClientHello's handshake message, put together from the records that it comes in.

What stands behind the message, in its last record or after it, is no business of ours. The walk
goes from the front to the back and looks at each octet once, so an error depends on what stands
before it alone, and not on how much has come.

Source: RFC 8446, sections 4 and 5.1; RFC 6176 for SSL 2.0, whose hello is refused.
"""

from __future__ import annotations

import struct
from typing import Final

from .answers import ClientHelloError, MoreNeeded, NotTLSError

__all__ = ["LIMIT", "handshake_message"]

LIMIT: Final = 16384
"""How many octets may be looked at: as many as a request's ``peek`` shows (``PEEK_LIMIT``).

One with two post-quantum key shares, which are the longest thing in it, has less than 3,000.
"""

_RECORD: Final = struct.Struct(">BBxH")  # type, major version, length
_RECORD_OCTETS: Final = 5
_LONGEST_RECORD: Final = 1 << 14
_HANDSHAKE: Final = 22
_MAJOR_VERSION: Final = 3  # in SSL 3.0 and every version since; the minor one counts for nothing

_HEADER_OCTETS: Final = 4  # of a handshake message: type, and length in three octets
_CLIENT_HELLO: Final = 1

_SSL2_MARK: Final = 0x80  # the highest bit of the first octet: a header of two octets
_SSL2_TYPE_AT: Final = 2


def handshake_message(octets: bytes) -> bytes | MoreNeeded:
    """Return the body of the ClientHello that a connection begins with.

    Raises:
      NotTLSError: it begins with no record of TLS.
      ClientHelloError: it begins with another message, it is interrupted by another record,
        or it would end beyond `LIMIT`.
    """
    unfinished = _look_at_start(octets)
    if unfinished is not None:
        return unfinished
    message = bytearray()
    at, end = 0, _RECORD_OCTETS
    while len(octets) >= at + _RECORD_OCTETS:
        start, record_end = at + _RECORD_OCTETS, _record_end(octets, at)
        message += octets[start:record_end]
        missing = _missing(message)
        here = min(record_end, len(octets))
        # What is missing beyond this record comes in another one, at least.
        end = here + missing + (_RECORD_OCTETS if missing > record_end - here else 0)
        if end > LIMIT:
            raise ClientHelloError(
                f"the ClientHello has more than {LIMIT} octets", reason="client-hello-too-long"
            )
        if missing <= 0:
            return bytes(message[_HEADER_OCTETS : len(message) + missing])
        if record_end > here:
            break
        at = record_end
    return MoreNeeded(end)


def _look_at_start(octets: bytes) -> MoreNeeded | None:
    """Tell other protocols as soon as may be; None if there is nothing against it."""
    if not octets:
        return MoreNeeded(_RECORD_OCTETS)
    if octets[0] & _SSL2_MARK:
        if len(octets) <= _SSL2_TYPE_AT:
            return MoreNeeded(_SSL2_TYPE_AT + 1)
        if octets[_SSL2_TYPE_AT] == _CLIENT_HELLO:
            raise NotTLSError("it begins with a hello of SSL 2.0", reason="ssl2-hello")
    if octets[0] != _HANDSHAKE:
        raise NotTLSError(f"TLS begins with the octet {_HANDSHAKE}, not with {octets[0]}")
    if len(octets) > 1 and octets[1] != _MAJOR_VERSION:
        raise NotTLSError(f"TLS has the major version {_MAJOR_VERSION}, not {octets[1]}")
    return None


def _record_end(octets: bytes, at: int) -> int:
    """Return where the record ends that begins there, and whose header is there."""
    kind, major_version, length = _RECORD.unpack_from(octets, at)
    if kind != _HANDSHAKE:
        raise ClientHelloError(f"the ClientHello is interrupted by a record of the type {kind}")
    if major_version != _MAJOR_VERSION:
        raise ClientHelloError(f"a record of the ClientHello has the version {major_version}")
    if not 0 < length <= _LONGEST_RECORD:
        raise ClientHelloError(f"a record of the ClientHello has {length} octets")
    return at + _RECORD_OCTETS + int(length)


def _missing(message: bytearray) -> int:
    """Say how many octets a message lacks, less than none if others stand behind it."""
    if message and message[0] != _CLIENT_HELLO:
        raise ClientHelloError(
            f"it begins with a handshake message of the type {message[0]}, and no ClientHello",
            reason="no-client-hello",
        )
    if len(message) < _HEADER_OCTETS:
        return _HEADER_OCTETS - len(message)
    return _HEADER_OCTETS + int.from_bytes(message[1:_HEADER_OCTETS], "big") - len(message)
