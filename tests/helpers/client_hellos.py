"""ClientHellos: written octet by octet, made by OpenSSL, and as OpenSSL reads them."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import attrs
from hypothesis import strategies as st

SERVER_NAME, GROUPS, SIGNATURE_ALGORITHMS, ALPN = 0, 10, 13, 16
PADDING, SUPPORTED_VERSIONS, KEY_SHARE = 21, 43, 51

GREASE: Final = tuple(0x0A0A + 0x1010 * each for each in range(16))
"""Every value of RFC 8701 that is a number of two octets."""
PEEK_LIMIT: Final = 16384
RECORD_OCTETS: Final = 5


def vector(octets: int, content: bytes) -> bytes:
    """Write a vector, with its length in so many octets."""
    return len(content).to_bytes(octets, "big") + content


def numbers(values: Iterable[int]) -> bytes:
    """Write numbers of two octets each."""
    return b"".join(value.to_bytes(2, "big") for value in values)


def server_name(name: bytes, *, kind: int = 0) -> tuple[int, bytes]:
    """Write the extension for a name."""
    return SERVER_NAME, vector(2, bytes([kind]) + vector(2, name))


def alpn(*protocols: bytes) -> tuple[int, bytes]:
    """Write the extension for protocols."""
    return ALPN, vector(2, b"".join(vector(1, protocol) for protocol in protocols))


def supported_versions(*versions: int) -> tuple[int, bytes]:
    """Write the extension for versions."""
    return SUPPORTED_VERSIONS, vector(1, numbers(versions))


def groups(*values: int) -> tuple[int, bytes]:
    """Write the extension for groups."""
    return GROUPS, vector(2, numbers(values))


def signature_algorithms(*values: int) -> tuple[int, bytes]:
    """Write the extension for signature algorithms."""
    return SIGNATURE_ALGORITHMS, vector(2, numbers(values))


def key_share(*shares: tuple[int, int]) -> tuple[int, bytes]:
    """Write the extension for key shares: groups, and how many octets each has."""
    content = b"".join(numbers([group]) + vector(2, b"k" * size) for group, size in shares)
    return KEY_SHARE, vector(2, content)


@attrs.frozen(kw_only=True)
class Hello:
    """What is to be written into a ClientHello."""

    legacy_version: int = 0x0303
    random: bytes = b"r" * 32
    session_id: bytes = b"s" * 32
    cipher_suites: Sequence[int] = (0x1301, 0xC02F)
    compression_methods: bytes = b"\0"
    extensions: Sequence[tuple[int, bytes]] | None = (
        server_name(b"example.com"),
        groups(0x001D, 0x0017),
        signature_algorithms(0x0403, 0x0804),
        alpn(b"h2", b"http/1.1"),
        supported_versions(0x0304, 0x0303),
    )
    """None writes not even their length, which older versions allow."""

    def body(self) -> bytes:
        """Write it without the header of a handshake message."""
        body = numbers([self.legacy_version]) + self.random + vector(1, self.session_id)
        body += vector(2, numbers(self.cipher_suites)) + vector(1, self.compression_methods)
        if self.extensions is None:
            return body
        written = b"".join(numbers([kind]) + vector(2, data) for kind, data in self.extensions)
        return body + vector(2, written)

    def octets(self, *cuts: int) -> bytes:
        """Write it as it goes over the wire, in records that are cut at these places."""
        return in_records(message(self.body()), *cuts)


def message(body: bytes, *, kind: int = 1) -> bytes:
    """Write a handshake message."""
    return bytes([kind]) + vector(3, body)


def in_records(content: bytes, *cuts: int) -> bytes:
    """Write handshake messages in records that are cut at these places."""
    places = sorted({0, len(content), *(cut for cut in cuts if 0 < cut < len(content))})
    return b"".join(record(content[start:end]) for start, end in pairwise(places))


def record(content: bytes, *, kind: int = 22, version: int = 0x0301) -> bytes:
    """Write one record."""
    return bytes([kind]) + numbers([version]) + vector(2, content)


KYBER: Final = Hello(
    cipher_suites=(GREASE[3], 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F),
    extensions=(
        (GREASE[5], b""),
        server_name(b"example.com"),
        groups(GREASE[2], 0x11EC, 0x6399, 0x001D),
        signature_algorithms(0x0403, 0x0804, 0x0401),
        alpn(b"h2", b"http/1.1"),
        supported_versions(GREASE[7], 0x0304, 0x0303),
        key_share((GREASE[2], 1), (0x11EC, 1216), (0x6399, 1216), (0x001D, 32)),
        (GREASE[9], b"\0"),
    ),
)
"""As browsers have them that can exchange keys in a way which quantum computers don't break."""


# --- Strategies ---------------------------------------------------------------------------------


def host_names() -> st.SearchStrategy[bytes]:
    """Names of hosts, in both cases; some come close to being numbers, or too long."""
    labels = st.from_regex(rb"[A-Za-z0-9_-]{1,63}", fullmatch=True)
    last = st.from_regex(rb"[A-Za-z][A-Za-z0-9-]{0,62}", fullmatch=True)
    names = st.builds(lambda first, last: b".".join([*first, last]), st.lists(labels), last)
    return names.filter(lambda name: len(name) <= 253)


def two_octets() -> st.SearchStrategy[int]:
    """Numbers as in IANA's registries, and GREASE among them."""
    return st.sampled_from(GREASE) | st.integers(0, 0xFFFF)


def lists_of_numbers(most: int = 100) -> st.SearchStrategy[list[int]]:
    """Lists of them, with one at least."""
    return st.lists(two_octets(), min_size=1, max_size=most)


def extension_lists() -> st.SearchStrategy[list[tuple[int, bytes]]]:
    """Extensions with and without a meaning to us, each type once, in any order."""
    known = {
        SERVER_NAME: host_names().map(lambda name: server_name(name)[1]),
        ALPN: st.lists(st.binary(min_size=1, max_size=255), min_size=1, max_size=5).map(
            lambda names: alpn(*names)[1]
        ),
        SUPPORTED_VERSIONS: lists_of_numbers(127).map(lambda each: supported_versions(*each)[1]),
        GROUPS: lists_of_numbers().map(lambda each: groups(*each)[1]),
        SIGNATURE_ALGORITHMS: lists_of_numbers().map(lambda each: signature_algorithms(*each)[1]),
        PADDING: st.integers(0, 600).map(bytes),
        KEY_SHARE: st.just(key_share((0x11EC, 1216), (0x001D, 32))[1]),
    }
    kinds = st.lists(st.sampled_from(sorted(known)) | two_octets(), unique=True, max_size=20)
    unknown = st.binary(max_size=40)
    return kinds.flatmap(
        lambda kinds: st.tuples(
            *(st.tuples(st.just(kind), known.get(kind, unknown)) for kind in kinds)
        ).map(list)
    )


def hellos() -> st.SearchStrategy[Hello]:
    """ClientHellos in good order, of every version."""
    return st.builds(
        Hello,
        legacy_version=st.sampled_from([0x0300, 0x0301, 0x0302, 0x0303]),
        random=st.binary(min_size=32, max_size=32),
        session_id=st.binary(max_size=32),
        cipher_suites=lists_of_numbers(),
        compression_methods=st.just(b"\0") | st.binary(min_size=1, max_size=255),
        extensions=st.none() | extension_lists(),
    )


# --- OpenSSL ------------------------------------------------------------------------------------


def made_by_openssl(context: ssl.SSLContext, name: str | None = None) -> bytes:
    """Return what a client that OpenSSL plays says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("there is no server")


def client_context() -> ssl.SSLContext:
    """Make a client that trusts anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def names_seen_by_openssl(octets: bytes) -> list[str | None]:
    """Return the name that OpenSSL as a server reads, or None if there is none.

    It is an empty list if OpenSSL had something against the ClientHello before it came to names.
    """
    seen: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")

    def _note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        seen.append(name)

    context.sni_callback = _note
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(octets)
    incoming.write_eof()
    try:
        server.do_handshake()
    except ssl.SSLError:
        return seen
    raise AssertionError("there is no client")
