"""What version 2 of the PROXY protocol says besides addresses: types, lengths and values.

Unknown types are kept. Known ones are held to their form where they are read, so that their
properties have nothing to fail at later. Of two of the same type the first counts, as for nginx;
two checksums can't both be right.

Source: HAProxy's proxy-protocol.txt, sections 2.2 and 2.2.1 to 2.2.8.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from trio_wsk._vocabulary.arguments import whole_number
from trio_wsk._vocabulary.errors import InvalidParameterError

from .answers import ProxyHeaderError
from .crc32c import crc32c

__all__ = [
    "ProxyClient",
    "ProxySsl",
    "ProxyTlv",
    "TlvKind",
    "checked_tlvs",
    "read_tlvs",
    "text_of",
    "value_of",
    "with_checksum",
]

_HEAD: Final = struct.Struct(">BH")
_LONGEST_VALUE: Final = 0xFFFF
_CHECKSUM_OCTETS: Final = 4
_LONGEST_UNIQUE_ID: Final = 128
_SSL: Final = struct.Struct(">BI")


class TlvKind(enum.IntEnum):
    """The types that have a meaning, and those inside of SSL's."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20
    SSL_VERSION = 0x21
    SSL_CN = 0x22
    SSL_CIPHER = 0x23
    SSL_SIG_ALG = 0x24
    SSL_KEY_ALG = 0x25
    SSL_GROUP = 0x26
    SSL_SIG_SCHEME = 0x27
    SSL_CLIENT_CERT = 0x28
    NETNS = 0x30


_ENCODINGS: Final[Mapping[int, str]] = {
    TlvKind.AUTHORITY: "utf-8",
    TlvKind.NETNS: "ascii",
    TlvKind.SSL_VERSION: "ascii",
    TlvKind.SSL_CN: "utf-8",
    TlvKind.SSL_CIPHER: "ascii",
    TlvKind.SSL_SIG_ALG: "ascii",
    TlvKind.SSL_KEY_ALG: "ascii",
    TlvKind.SSL_GROUP: "ascii",
    TlvKind.SSL_SIG_SCHEME: "ascii",
}


def _number(most: int) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """Make a validator of numbers from 0 to that."""

    def _check_number(_: object, field: attrs.Attribute[Any], value: object) -> None:
        if not whole_number(value) or not 0 <= value <= most:
            raise InvalidParameterError(f"{field.name} is a number from 0 to {most}, not {value!r}")

    return _check_number


@attrs.frozen
class ProxyTlv:
    """One type, and its value.

    Raises:
      InvalidParameterError: the type is none, or the value is no octets, or too many. (Yours.)
    """

    kind: int = attrs.field(validator=_number(0xFF))
    """The type, 0 to 255: 0x01 is ALPN, 0xE0 to 0xEF are anybody's own, …"""
    value: bytes = attrs.field()
    """Up to 65535 octets."""

    @value.validator
    def _check_value(self, _: attrs.Attribute[bytes], value: object) -> None:
        if not isinstance(value, bytes) or len(value) > _LONGEST_VALUE:
            raise InvalidParameterError(
                f"value is up to {_LONGEST_VALUE} octets, such as b'h2', not {value!r}"
            )

    def __bytes__(self) -> bytes:
        return _HEAD.pack(self.kind, len(self.value)) + self.value


def checked_tlvs(tlvs: object) -> tuple[ProxyTlv, ...]:
    """Return them in a tuple.

    Raises:
      InvalidParameterError: they are none. (The caller's.)
    """
    if not isinstance(tlvs, Iterable):
        raise InvalidParameterError(f"tlvs come in a list, so write tlvs=[{tlvs!r}]")
    found = []
    for tlv in tlvs:
        if not isinstance(tlv, ProxyTlv):
            raise InvalidParameterError(f"tlvs=[ProxyTlv(0xE0, b'...')], say, and not {tlvs!r}")
        found.append(tlv)
    return tuple(found)


class ProxyClient(enum.IntFlag):
    """What the client has done in the way of TLS."""

    SSL = 0x01
    """It speaks TLS."""
    CERT_CONN = 0x02
    """It has shown a certificate in this connection."""
    CERT_SESS = 0x04
    """It has shown one in this session of TLS at least once."""


@attrs.frozen
class ProxySsl:
    """What the proxy says of the client's TLS: the type SSL, and its parts.

    Source: HAProxy's proxy-protocol.txt, section 2.2.6.
    """

    client: ProxyClient = attrs.field(validator=_number(0xFF))
    """What the client has done."""
    verify: int = attrs.field(validator=_number(0xFFFFFFFF))
    """0 if the client has shown a certificate that was verified; anything else if not."""
    tlvs: tuple[ProxyTlv, ...] = attrs.field(converter=checked_tlvs)
    """The parts, as they stand."""

    @property
    def version(self) -> str | None:
        """The version of TLS, such as ``TLSv1.3``."""
        return text_of(self.tlvs, TlvKind.SSL_VERSION)

    @property
    def common_name(self) -> str | None:
        """The Common Name in the client's certificate."""
        return text_of(self.tlvs, TlvKind.SSL_CN)

    @property
    def cipher(self) -> str | None:
        """The cipher, such as ``ECDHE-RSA-AES128-GCM-SHA256``."""
        return text_of(self.tlvs, TlvKind.SSL_CIPHER)

    @property
    def signature_algorithm(self) -> str | None:
        """By what the proxy's certificate is signed, such as ``RSA-SHA256``."""
        return text_of(self.tlvs, TlvKind.SSL_SIG_ALG)

    @property
    def key_algorithm(self) -> str | None:
        """By what the key of the proxy's certificate was made, such as ``RSA2048``."""
        return text_of(self.tlvs, TlvKind.SSL_KEY_ALG)

    @property
    def group(self) -> str | None:
        """In which group they have agreed on keys, such as ``secp256r1``."""
        return text_of(self.tlvs, TlvKind.SSL_GROUP)

    @property
    def signature_scheme(self) -> str | None:
        """By what the proxy has signed, such as ``rsa_pss_rsae_sha256``."""
        return text_of(self.tlvs, TlvKind.SSL_SIG_SCHEME)

    @property
    def client_certificate(self) -> bytes | None:
        """The client's certificate, in DER."""
        return value_of(self.tlvs, TlvKind.SSL_CLIENT_CERT)

    def __bytes__(self) -> bytes:
        return _SSL.pack(self.client, self.verify) + b"".join(map(bytes, self.tlvs))

    @classmethod
    def read(cls, value: bytes) -> ProxySsl:
        """Read the value of the type SSL.

        Raises:
          ProxyHeaderError: it is not in good order. (The peer's.)
        """
        if len(value) < _SSL.size:
            raise _malformed(f"the type SSL has {len(value)} octets, and needs {_SSL.size}")
        client, verify = _SSL.unpack_from(value)
        tlvs = tuple(tlv for _, tlv in _split(value, _SSL.size))
        for tlv in tlvs:
            _check_text(tlv)
        return cls(ProxyClient(client), verify, tlvs)


def value_of(tlvs: Iterable[ProxyTlv], kind: TlvKind) -> bytes | None:
    """Return the value of the first of a type."""
    return next((tlv.value for tlv in tlvs if tlv.kind == kind), None)


def text_of(tlvs: Iterable[ProxyTlv], kind: TlvKind) -> str | None:
    """Return the value of the first of a type that is text."""
    value = value_of(tlvs, kind)
    return None if value is None else value.decode(_ENCODINGS[kind])


def read_tlvs(header: bytes, at: int) -> tuple[ProxyTlv, ...]:
    """Read what stands in a header from there to its end.

    Raises:
      ProxyHeaderError: a length goes beyond the end, a known type is not in its form, or the
        checksum is not the header's; see `ProxyHeaderError.reason`. (The peer's.)
    """
    found = tuple(_split(header, at))
    for _, tlv in found:
        _check(tlv)
    checksums = [start for start, tlv in found if tlv.kind == TlvKind.CRC32C]
    if len(checksums) > 1:
        raise _malformed("there are two checksums")
    for start in checksums:
        _check_checksum(header, start)
    return tuple(tlv for _, tlv in found)


def with_checksum(header: bytes) -> bytes:
    """Fill in the checksum of a header that ends with room for it."""
    return header[:-_CHECKSUM_OCTETS] + crc32c(header).to_bytes(_CHECKSUM_OCTETS, "big")


def _split(octets: bytes, at: int) -> Iterator[tuple[int, ProxyTlv]]:
    """Yield where each value begins, and the type with its value."""
    while at < len(octets):
        start = at + _HEAD.size
        if start > len(octets):
            raise _malformed(f"the last {len(octets) - at} octets are no type and length")
        kind, length = _HEAD.unpack_from(octets, at)
        at = start + length
        if at > len(octets):
            raise _malformed(f"the type {kind} goes beyond the end")
        yield start, ProxyTlv(kind, octets[start:at])


def _check(tlv: ProxyTlv) -> None:
    length = len(tlv.value)
    if tlv.kind == TlvKind.CRC32C and length != _CHECKSUM_OCTETS:
        raise _malformed(f"the checksum has {length} octets, not {_CHECKSUM_OCTETS}")
    if tlv.kind == TlvKind.UNIQUE_ID and length > _LONGEST_UNIQUE_ID:
        raise _malformed(f"the unique id has {length} octets, and {_LONGEST_UNIQUE_ID} are most")
    if tlv.kind == TlvKind.SSL:
        ProxySsl.read(tlv.value)
    if tlv.kind in {TlvKind.AUTHORITY, TlvKind.NETNS}:
        _check_text(tlv)


def _check_text(tlv: ProxyTlv) -> None:
    encoding = _ENCODINGS.get(tlv.kind)
    if encoding is None:
        return
    try:
        tlv.value.decode(encoding)
    except UnicodeDecodeError:
        raise _malformed(f"the type {tlv.kind} is not in {encoding.upper()}") from None


def _check_checksum(header: bytes, at: int) -> None:
    end = at + _CHECKSUM_OCTETS
    without = header[:at] + b"\0" * _CHECKSUM_OCTETS + header[end:]
    if crc32c(without) != int.from_bytes(header[at:end], "big"):
        raise ProxyHeaderError("the checksum is wrong", reason="proxy-checksum-wrong")


def _malformed(what: str) -> ProxyHeaderError:
    return ProxyHeaderError(f"in the PROXY header {what}", reason="proxy-v2-malformed")
