"""Tests of `trio_wsk._protocols.proxy_tlvs`."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests.helpers.proxy_headers import (
    ALPN,
    AUTHORITY,
    CRC32C,
    NETNS,
    NOOP,
    PROXY,
    SSL,
    TCP4,
    UNIQUE_ID,
    header,
    ipv4,
    tlv,
    with_checksum,
)
from trio_wsk import Address, InvalidParameterError
from trio_wsk._protocols.answers import ProxyHeaderError
from trio_wsk._protocols.proxy_header import ProxyHeader, parse_proxy_header
from trio_wsk._protocols.proxy_tlvs import ProxyClient, ProxySsl, ProxyTlv, TlvKind

HOSTS = ipv4("192.0.2.1", "198.51.100.2")
HERE = Address.tcp("192.0.2.1", 1)
SSL_PARTS = {
    "version": (0x21, "TLSv1.3"),
    "common_name": (0x22, "Jörg"),
    "cipher": (0x23, "ECDHE-RSA-AES128-GCM-SHA256"),
    "signature_algorithm": (0x24, "RSA-SHA256"),
    "key_algorithm": (0x25, "RSA2048"),
    "group": (0x26, "secp256r1"),
    "signature_scheme": (0x27, "rsa_pss_rsae_sha256"),
}


def read(*tlvs: bytes) -> ProxyHeader:
    """Read a header with these types and values."""
    found = parse_proxy_header(header(PROXY, TCP4, HOSTS + b"".join(tlvs)))
    assert isinstance(found, ProxyHeader)
    return found


def refused(*tlvs: bytes) -> str:
    """Say why one is refused."""
    with pytest.raises(ProxyHeaderError) as caught:
        read(*tlvs)
    return caught.value.reason


def test_types_have_the_numbers_of_the_specification() -> None:
    """They are those of its section 2.2."""
    outer = [0x01, 0x02, 0x03, 0x04, 0x05, 0x20]
    inner = [0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28]

    assert list(TlvKind) == [*outer, *inner, 0x30]


def test_nothing_is_said_by_default() -> None:
    """What isn't there is None."""
    found = read()

    assert found.tlvs == ()
    assert [found.alpn, found.authority, found.unique_id, found.ssl, found.netns] == [None] * 5


def test_each_type_is_read() -> None:
    """Every type with a meaning has a property that says it."""
    found = read(
        tlv(ALPN, b"h2"),
        tlv(AUTHORITY, "bücher.example".encode()),
        tlv(NOOP, b"nothing"),
        tlv(UNIQUE_ID, b"\0\1\2"),
        tlv(NETNS, b"blue"),
        tlv(0xE0, b"own"),
    )

    assert found.alpn == b"h2"
    assert found.authority == "bücher.example"
    assert found.unique_id == b"\0\1\2"
    assert found.netns == "blue"
    assert found.tlvs[-1] == ProxyTlv(0xE0, b"own")


def test_ssl_is_read_with_its_parts() -> None:
    """What a proxy says of the client's TLS is read, and unknown parts are kept."""
    parts = [tlv(kind, text.encode()) for kind, text in SSL_PARTS.values()]
    value = struct.pack(">BI", 5, 1) + b"".join(parts) + tlv(0x28, b"DER") + tlv(0x99, b"?")
    ssl = read(tlv(SSL, value)).ssl

    assert ssl is not None
    assert ssl.client == ProxyClient.SSL | ProxyClient.CERT_SESS
    assert ssl.verify == 1
    assert {name: getattr(ssl, name) for name in SSL_PARTS} == {
        name: text for name, (_, text) in SSL_PARTS.items()
    }
    assert ssl.client_certificate == b"DER"
    assert ssl.tlvs[-1] == ProxyTlv(0x99, b"?")
    assert bytes(ssl) == value


def test_ssl_without_parts_is_read() -> None:
    """Bits of no meaning are kept, and what isn't there is None."""
    ssl = read(tlv(SSL, struct.pack(">BI", 0xF8, 0xFFFFFFFF))).ssl

    assert ssl is not None
    assert (int(ssl.client), ssl.verify, ssl.tlvs) == (0xF8, 0xFFFFFFFF, ())
    assert [getattr(ssl, name) for name in SSL_PARTS] == [None] * len(SSL_PARTS)
    assert ssl.client_certificate is None


def test_first_of_a_type_counts() -> None:
    """Of two of a type both are kept, and the property says the first."""
    found = read(tlv(AUTHORITY, b"a.example"), tlv(AUTHORITY, b"b.example"))

    assert found.authority == "a.example"
    assert len(found.tlvs) == 2


def ssl_value(*parts: bytes) -> bytes:
    """Write the value of the type SSL."""
    return struct.pack(">BI", 1, 0) + b"".join(parts)


WRONG = {
    "one octet": b"\x01",
    "two octets": b"\x01\0",
    "a value too long": tlv(ALPN, b"h2")[:-1],
    "a length too long": b"\x01\xff\xff",
    "a checksum too short": tlv(CRC32C, bytes(3)),
    "a checksum too long": tlv(CRC32C, bytes(5)),
    "a unique id too long": tlv(UNIQUE_ID, bytes(129)),
    "an authority that is no text": tlv(AUTHORITY, b"\xff"),
    "a namespace that isn't ASCII": tlv(NETNS, "blå".encode()),
    "SSL, too short": tlv(SSL, bytes(4)),
    "SSL, half a part": tlv(SSL, ssl_value(b"\x21\0")),
    "SSL, a part too long": tlv(SSL, ssl_value(b"\x21\0\5TLS")),
    **{
        f"SSL, {name} that is no text": tlv(SSL, ssl_value(tlv(kind, b"\xff")))
        for name, (kind, _) in SSL_PARTS.items()
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_in_its_form_is_refused(name: str) -> None:
    """A length that goes beyond the end, or a known type in another form than its own."""
    assert refused(tlv(NOOP, b""), WRONG[name]) == "proxy-v2-malformed"


def test_longest_unique_id_is_read() -> None:
    """128 octets are the most."""
    assert read(tlv(UNIQUE_ID, bytes(128))).unique_id == bytes(128)


def test_longest_value_is_made() -> None:
    """The length can say 65535."""
    assert len(bytes(ProxyTlv(NOOP, bytes(0xFFFF)))) == 3 + 0xFFFF


# --- The checksum -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "behind"),
    [(b"", b""), (tlv(ALPN, b"h2"), b""), (b"", tlv(ALPN, b"h2"))],
    ids=["alone", "last", "first"],
)
def test_checksum_is_over_the_whole_header(before: bytes, behind: bytes) -> None:
    """Wherever it stands among the types, the right checksum is taken and a wrong one isn't."""
    octets = with_checksum(PROXY, TCP4, HOSTS + before, behind)

    assert isinstance(parse_proxy_header(octets), ProxyHeader)
    at = octets.index(b"\x03\0\x04") + 3
    for place in (*range(16, 28), *range(at, at + 4)):
        damaged = bytearray(octets)
        damaged[place] ^= 1
        with pytest.raises(ProxyHeaderError) as caught:
            parse_proxy_header(damaged)
        assert caught.value.reason == "proxy-checksum-wrong"


def test_two_checksums_are_refused() -> None:
    """Each would be computed with the other's field as it stands, or not: nobody says which."""
    assert refused(tlv(CRC32C, bytes(4)), tlv(CRC32C, bytes(4))) == "proxy-v2-malformed"


# --- Writing ------------------------------------------------------------------------------------


def test_what_is_said_is_read() -> None:
    """Each of the named arguments comes out as it went in, in the order of the specification."""
    ssl = ProxySsl(ProxyClient.SSL, 0, [ProxyTlv(0x21, b"TLSv1.3")])
    sent = ProxyHeader.v2(
        HERE,
        HERE,
        alpn=b"h2",
        authority="bücher.example",
        unique_id=b"\0\1",
        ssl=ssl,
        netns="blue",
        tlvs=[ProxyTlv(0xE0, b"own")],
        checksum=True,
    )
    found = parse_proxy_header(bytes(sent))

    assert isinstance(found, ProxyHeader)
    assert [each.kind for each in found.tlvs] == [1, 2, 5, 0x20, 0x30, 0xE0, 3]
    assert (found.alpn, found.authority, found.unique_id) == (b"h2", "bücher.example", b"\0\1")
    assert (found.ssl, found.netns) == (ssl, "blue")


@pytest.mark.parametrize("source", [HERE, None], ids=["with addresses", "without"])
@pytest.mark.parametrize(
    "said",
    [
        {"unique_id": bytes(129)},
        {"netns": "blå"},
        {"authority": "\udcff"},
        {"tlvs": [ProxyTlv(CRC32C, bytes(4))]},
        {"tlvs": [ProxyTlv(AUTHORITY, b"\xff")]},
        {"ssl": ProxySsl(ProxyClient.SSL, 0, [ProxyTlv(0x21, b"\xff")])},
    ],
    ids=["unique id", "namespace", "surrogates", "checksum", "authority", "ssl"],
)
def test_what_receivers_would_refuse_is_refused(source: Address | None, said: Any) -> None:
    """What is not in its form is a mistake of the caller's, and told before it is sent."""
    with pytest.raises(InvalidParameterError):
        ProxyHeader.v2(source, source, **said)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ProxyTlv(256, b""),
        lambda: ProxyTlv(-1, b""),
        lambda: ProxyTlv(True, b""),  # noqa: FBT003 - it is what is wrong
        lambda: ProxyTlv(1, "h2"),  # type: ignore[arg-type] # it is what is wrong
        lambda: ProxyTlv(1, bytes(65536)),
        lambda: ProxySsl(256, 0, ()),  # type: ignore[arg-type] # it is what is wrong
        lambda: ProxySsl(ProxyClient.SSL, 2**32, ()),
        lambda: ProxySsl(ProxyClient.SSL, 0, [b""]),
        lambda: ProxySsl(ProxyClient.SSL, 0, None),
    ],
)
def test_wrong_values_are_refused_where_they_are_made(make: Any) -> None:
    """A type is an octet, a value is octets, and parts are types with their values."""
    with pytest.raises(InvalidParameterError):
        make()
