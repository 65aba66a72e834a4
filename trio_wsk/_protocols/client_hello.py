"""What a TLS client says first: whom it wants, what it speaks, what it can.

Nothing here is proven: anybody can write anything into a ClientHello, and another name into the
request that follows. Nothing is negotiated either; whether the client and a server come together is
for the library that shakes hands to say. Lengths are checked everywhere, since a hello that two
readers read differently is a way around the one that has rules.

Source: RFC 8446, sections 4.1.2 and 4.2; RFC 5246, section 7.4.1.2; RFC 6066, section 3 (server
name); RFC 7301, section 3.1 (ALPN); RFC 8701 (GREASE).
"""

from __future__ import annotations

from typing import Final

import attrs

from .answers import ClientHelloError, MoreNeeded, checked_octets
from .grease import GREASE, without_grease
from .ja4 import ja4_of
from .server_name import checked_server_name
from .tls_records import LIMIT, handshake_message
from .vectors import Vectors

__all__ = ["ClientHello", "TlsExtension", "parse_client_hello"]

_RANDOM_OCTETS: Final = 32
_LONGEST_SESSION_ID: Final = 32

_SERVER_NAME: Final = 0
_GROUPS: Final = 10
_SIGNATURE_ALGORITHMS: Final = 13
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43

_HOST_NAME: Final = 0


@attrs.frozen
class TlsExtension:
    """One extension of a ClientHello."""

    kind: int
    """Its type: 0 is server_name, 16 is ALPN, 43 is supported_versions, …"""
    data: bytes
    """What it says."""

    @property
    def is_grease(self) -> bool:
        """Whether it stands for nothing, and is there so that unknown ones stay ignored."""
        return self.kind in GREASE


@attrs.frozen(kw_only=True)
class ClientHello:
    """What a TLS client says first.

    Numbers are those of IANA's registries. Where they come in lists, the order is the client's,
    which puts first what it likes best, and GREASE (RFC 8701) is left out, which is to be ignored
    wherever it stands; `extensions` has all.
    """

    legacy_version: int
    """What was the version once; 0x0303 with TLS 1.2 and with TLS 1.3. See `version`."""
    random: bytes = attrs.field(repr=False)
    """The client's 32 octets at random, by which one handshake is told from the others."""
    session_id: bytes = attrs.field(repr=False)
    """Up to 32 octets."""
    cipher_suites: tuple[int, ...]
    """The cipher suites that it can."""
    compression_methods: bytes = attrs.field(repr=False)
    """``b"\\0"``, unless it is old or careless."""
    extensions: tuple[TlsExtension, ...] = attrs.field(repr=False)
    """Every extension as it stands, GREASE included; no type is there twice."""
    server_name: str | None
    """Whom it wants: the name of a host, in lower case; None if it doesn't say."""
    alpn_protocols: tuple[bytes, ...]
    """What it wants to speak (ALPN), such as ``b"h2"``."""
    supported_versions: tuple[int, ...]
    """The versions that it can, if it says so in the way of TLS 1.3; see `version`."""
    groups: tuple[int, ...]
    """The groups in which it can agree on keys (supported_groups)."""
    signature_algorithms: tuple[int, ...]
    """By what it lets signatures be made."""
    has_grease: bool
    """Whether there is GREASE anywhere among these, as with browsers."""

    @property
    def version(self) -> int:
        """The highest version that it can: 0x0304 is TLS 1.3, 0x0303 TLS 1.2."""
        return max(self.supported_versions, default=self.legacy_version)

    @property
    def ja4(self) -> str:
        """The JA4 fingerprint, such as ``t13d1516h2_8daaf6152771_e5627efa2ab1``.

        The same for what is made of the same library with the same settings, and so a hint, and
        no more than that: who wants to can send another program's.

        Source: FoxIO's technical details of JA4.
        """
        return ja4_of(
            version=self.version,
            cipher_suites=self.cipher_suites,
            extensions=[each.kind for each in self.extensions if not each.is_grease],
            alpn=self.alpn_protocols[0] if self.alpn_protocols else b"",
            signature_algorithms=self.signature_algorithms,
        )


def parse_client_hello(octets: bytes | bytearray | memoryview) -> ClientHello | MoreNeeded:
    """Read the ClientHello that a connection begins with.

    Args:
      octets: What the peer has sent so far, from the first octet on; what comes behind the
        ClientHello is not looked at.

    Returns:
      What it says; or how many octets it needs at least, if all is in order so far. It may be in as
      many records as it likes.

    Raises:
      NotTLSError: they are something else. (The peer's.)
      ClientHelloError: TLS doesn't begin like that. Lengths in it contradict each other, an
        extension is there twice, the server name can't be one, or it would have more than 16384
        octets, which is as much as can be peeked at. (The peer's.)
      InvalidParameterError: these are no octets. (Yours.)

    Source: RFC 8446, sections 4.1.2 and 5.1.
    """
    message = handshake_message(checked_octets("parse_client_hello", octets, most=LIMIT + 1))
    if isinstance(message, MoreNeeded):
        return message
    return _read(Vectors("the ClientHello", message))


def _read(hello: Vectors) -> ClientHello:
    legacy_version = hello.number(2)
    random = hello.take(_RANDOM_OCTETS)
    session_id = hello.vector(1)
    if len(session_id) > _LONGEST_SESSION_ID:
        raise ClientHelloError(f"the session id has {len(session_id)} octets")
    cipher_suites = hello.numbers(2)
    compression_methods = hello.vector(1, least=1)
    extensions = _read_extensions(hello)
    named = {each.kind: each.data for each in extensions}
    supported_versions = _numbers(named, _SUPPORTED_VERSIONS, 1)
    groups = _numbers(named, _GROUPS, 2)
    signature_algorithms = _numbers(named, _SIGNATURE_ALGORITHMS, 2)
    offered = (*cipher_suites, *named, *supported_versions, *groups, *signature_algorithms)
    return ClientHello(
        legacy_version=legacy_version,
        random=random,
        session_id=session_id,
        cipher_suites=without_grease(cipher_suites),
        compression_methods=compression_methods,
        extensions=extensions,
        server_name=_read_server_name(named),
        alpn_protocols=_read_alpn(named),
        supported_versions=without_grease(supported_versions),
        groups=without_grease(groups),
        signature_algorithms=without_grease(signature_algorithms),
        has_grease=not GREASE.isdisjoint(offered),
    )


def _read_extensions(hello: Vectors) -> tuple[TlsExtension, ...]:
    if not hello:  # before TLS 1.3, there may be none, and then not even their length
        return ()
    content = hello.part(2, "the list of extensions")
    hello.finish()
    found: dict[int, TlsExtension] = {}
    while content:
        extension = TlsExtension(*content.tagged())
        if extension.kind in found:
            raise ClientHelloError(f"the extension {extension.kind} is there twice")
        found[extension.kind] = extension
    return tuple(found.values())


def _numbers(named: dict[int, bytes], kind: int, octets: int) -> tuple[int, ...]:
    """Read an extension that is a list of numbers."""
    if kind not in named:
        return ()
    extension = Vectors(f"the extension {kind}", named[kind])
    numbers = extension.numbers(octets)
    extension.finish()
    return numbers


def _read_server_name(named: dict[int, bytes]) -> str | None:
    if _SERVER_NAME not in named:
        return None
    extension = Vectors("the extension server_name", named[_SERVER_NAME])
    names = extension.part(2, "the list of server names", least=1)
    extension.finish()
    kind = names.number(1)
    if kind != _HOST_NAME:
        raise ClientHelloError(
            f"the server name is of the type {kind}, and only 0 has a meaning",
            reason="server-name-malformed",
        )
    name = checked_server_name(names.vector(2))
    names.finish()  # two of one type may not be there, and there is no other
    return name


def _read_alpn(named: dict[int, bytes]) -> tuple[bytes, ...]:
    if _ALPN not in named:
        return ()
    extension = Vectors("the extension ALPN", named[_ALPN])
    names = extension.part(2, "the list of protocols", least=1)
    extension.finish()
    protocols = []
    while names:
        protocols.append(names.vector(1, least=1))
    return tuple(protocols)
