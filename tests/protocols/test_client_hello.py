"""Tests of `trio_wsk._protocols.client_hello`; OpenSSL is their oracle."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.helpers.client_hellos import (
    ALPN,
    GREASE,
    GROUPS,
    KYBER,
    RECORD_OCTETS,
    SERVER_NAME,
    SIGNATURE_ALGORITHMS,
    SUPPORTED_VERSIONS,
    Hello,
    alpn,
    client_context,
    groups,
    hellos,
    host_names,
    in_records,
    made_by_openssl,
    message,
    names_seen_by_openssl,
    server_name,
    signature_algorithms,
    supported_versions,
    vector,
)
from trio_wsk import InvalidParameterError
from trio_wsk._protocols.answers import MalformedError, MoreNeeded
from trio_wsk._protocols.client_hello import ClientHello, parse_client_hello

if TYPE_CHECKING:
    from collections.abc import Iterable

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PLAIN = Hello().octets()
BODY = Hello().body()
EXTENSIONS_AT = len(Hello(extensions=None).body())


def read(octets: bytes) -> ClientHello:
    """Read what is there in one piece and in good order."""
    found = parse_client_hello(octets)
    assert isinstance(found, ClientHello)
    return found


def read_with(*extensions: tuple[int, bytes]) -> ClientHello:
    """Read one with these extensions."""
    return read(Hello(extensions=extensions).octets())


def refused(octets: bytes) -> str:
    """Say why one is refused."""
    with pytest.raises(MalformedError) as caught:
        parse_client_hello(octets)
    return caught.value.reason


def outcome_of(octets: bytes | bytearray) -> object:
    """Read, and return what came of it in a form that can be compared."""
    try:
        return parse_client_hello(octets)
    except MalformedError as error:
        return type(error), error.reason, str(error)


# --- What it says -------------------------------------------------------------------------------


def test_everything_is_read() -> None:
    """Each field is what was written, and in its order."""
    found = read(PLAIN)

    assert found == ClientHello(
        legacy_version=0x0303,
        random=b"r" * 32,
        session_id=b"s" * 32,
        cipher_suites=(0x1301, 0xC02F),
        compression_methods=b"\0",
        extensions=found.extensions,
        server_name="example.com",
        alpn_protocols=(b"h2", b"http/1.1"),
        supported_versions=(0x0304, 0x0303),
        groups=(0x001D, 0x0017),
        signature_algorithms=(0x0403, 0x0804),
        has_grease=False,
    )
    assert [(each.kind, each.data) for each in found.extensions] == list(Hello().extensions or ())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_octets_are_read(kind: Any) -> None:
    """Octets may come in whichever object holds them."""
    assert parse_client_hello(kind(PLAIN)) == read(PLAIN)


@pytest.mark.parametrize("octets", ["\x16\x03\x01", None, 22, [22, 3, 1]])
def test_what_is_no_octets_is_refused(octets: Any) -> None:
    """Text and numbers are a mistake of the caller's."""
    with pytest.raises(InvalidParameterError, match="takes octets"):
        parse_client_hello(octets)


def test_old_hello_without_extensions_is_read() -> None:
    """Before TLS 1.3, not even the length of the extensions need be there."""
    found = read(Hello(legacy_version=0x0301, extensions=None).octets())

    assert (found.extensions, found.server_name, found.version) == ((), None, 0x0301)


@pytest.mark.parametrize(
    ("offered", "version"),
    [
        ([0x0303, 0x0304], 0x0304),
        ([0x0302, 0x0301], 0x0302),
        ([GREASE[15], 0x0304], 0x0304),
        ([GREASE[0]], 0x0303),
    ],
)
def test_version_is_the_highest_one(offered: list[int], version: int) -> None:
    """The version is the highest that is offered; GREASE is none."""
    assert read_with(supported_versions(*offered)).version == version


@pytest.mark.parametrize("value", GREASE)
def test_grease_is_told_apart(value: int) -> None:
    """Wherever a value of RFC 8701 stands, it is left out, and is there among the extensions."""
    hello = Hello(
        cipher_suites=[value, 0x1301],
        extensions=[
            (value, b""),
            groups(value, 0x001D),
            signature_algorithms(value, 0x0403),
            supported_versions(value, 0x0304),
        ],
    )
    found = read(hello.octets())

    assert found.has_grease
    assert found.cipher_suites == (0x1301,)
    assert found.groups == (0x001D,)
    assert found.signature_algorithms == (0x0403,)
    assert found.supported_versions == (0x0304,)
    assert [each.is_grease for each in found.extensions] == [True, False, False, False]


@pytest.mark.parametrize("value", [0x0A1A, 0x1A0A, 0x0A0B, 0x1301, 0x0000, 0xFFFF])
def test_what_looks_like_grease_is_none(value: int) -> None:
    """Both octets have to be the same."""
    found = read(Hello(cipher_suites=[value], extensions=[]).octets())

    assert (found.cipher_suites, found.has_grease) == ((value,), False)


@pytest.mark.parametrize("cuts", [(), (1,), (4,), (1400,), tuple(range(100, 3000, 100))])
def test_kyber_sized_key_shares_are_read(cuts: tuple[int, ...]) -> None:
    """A ClientHello that fills two segments is read, in one record and in several."""
    octets = KYBER.octets(*cuts)
    found = read(octets)

    assert len(octets) > 2 * 1216
    assert found.server_name == "example.com"
    assert found.groups == (0x11EC, 0x6399, 0x001D)
    assert found.ja4.startswith("t13d0506h2_")


def test_fingerprint_leaves_grease_out() -> None:
    """With GREASE and without, JA4 is the same."""
    plain = attrs.evolve(
        KYBER,
        cipher_suites=[each for each in KYBER.cipher_suites if each not in GREASE],
        extensions=[(kind, data) for kind, data in KYBER.extensions or () if kind not in GREASE],
    )

    assert read(plain.octets()).ja4 == read(KYBER.octets()).ja4


def test_what_it_says_is_printed_in_short() -> None:
    """A record of it is to be read by people: what is long and says little is left out."""
    text = repr(read(KYBER.octets()))

    assert "server_name='example.com'" in text
    assert len(text) < 500


# --- What is wrong ------------------------------------------------------------------------------


def test_extension_that_is_there_twice_is_refused() -> None:
    """Two readers could take different ones."""
    twice = [server_name(b"a.example"), server_name(b"b.example")]

    assert refused(Hello(extensions=twice).octets()) == "client-hello-malformed"


def name_list(*names: bytes) -> tuple[int, bytes]:
    """Write the extension for several names."""
    return SERVER_NAME, vector(2, b"".join(b"\0" + vector(2, name) for name in names))


WRONG_EXTENSIONS: list[tuple[str, tuple[int, bytes]]] = [
    ("server_name, empty", (SERVER_NAME, b"")),
    ("server_name, an empty list", (SERVER_NAME, vector(2, b""))),
    ("server_name, two names", name_list(b"a.example", b"b.example")),
    ("server_name, octets behind", (SERVER_NAME, name_list(b"a.example")[1] + b"\0")),
    ("server_name, too short", (SERVER_NAME, name_list(b"a.example")[1][:-1])),
    ("ALPN, empty", (ALPN, b"")),
    ("ALPN, an empty list", (ALPN, vector(2, b""))),
    ("ALPN, an empty protocol", alpn(b"h2", b"")),
    ("ALPN, octets behind", (ALPN, alpn(b"h2")[1] + b"\0")),
    ("ALPN, too short", (ALPN, alpn(b"h2")[1][:-1])),
    ("ALPN, a protocol too long", (ALPN, vector(2, b"\x03h2"))),
    ("versions, none", supported_versions()),
    ("versions, half of one", (SUPPORTED_VERSIONS, vector(1, b"\x03\x04\x03"))),
    ("versions, octets behind", (SUPPORTED_VERSIONS, supported_versions(0x0304)[1] + b"\0")),
    ("groups, none", groups()),
    ("groups, half of one", (GROUPS, vector(2, b"\0\x1d\0"))),
    ("groups, octets behind", (GROUPS, groups(0x001D)[1] + b"\0\0")),
    ("signature algorithms, none", signature_algorithms()),
    ("signature algorithms, too short", (SIGNATURE_ALGORITHMS, b"\0")),
]


@pytest.mark.parametrize(
    "extension", [each for _, each in WRONG_EXTENSIONS], ids=[name for name, _ in WRONG_EXTENSIONS]
)
def test_malformed_extension_is_refused(extension: tuple[int, bytes]) -> None:
    """Where a length contradicts another, or nothing is where something must be."""
    assert refused(Hello(extensions=[extension]).octets()) == "client-hello-malformed"


@pytest.mark.parametrize(
    "extension",
    [server_name(b"192.0.2.1"), server_name(b"a.example.", kind=0), server_name(b"a", kind=1)],
)
def test_malformed_server_name_is_refused_under_its_own_name(extension: tuple[int, bytes]) -> None:
    """It has a reason of its own, since TLS has an alert of its own for it."""
    assert refused(Hello(extensions=[extension]).octets()) == "server-name-malformed"


@pytest.mark.parametrize(
    "hello",
    [
        Hello(session_id=bytes(33)),
        Hello(cipher_suites=[]),
        Hello(compression_methods=b""),
        Hello(random=b""),
    ],
    ids=["session id", "cipher suites", "compression methods", "random"],
)
def test_malformed_field_is_refused(hello: Hello) -> None:
    """A session id has 32 octets at most, a list one entry at least."""
    assert refused(hello.octets()) == "client-hello-malformed"


@pytest.mark.parametrize("body", [BODY + b"\0", BODY[:-1]], ids=["longer", "shorter"])
def test_body_has_the_length_that_it_says(body: bytes) -> None:
    """The extensions end with the message, and the message with them."""
    assert refused(in_records(message(body))) == "client-hello-malformed"


@pytest.mark.parametrize("length", sorted({*range(len(BODY))} - {EXTENSIONS_AT}))
def test_each_truncated_body_is_refused(length: int) -> None:
    """
    A message that ends early is refused wherever it ends, but right before the extensions, where it
    may.
    """
    assert refused(in_records(message(BODY[:length]))) == "client-hello-malformed"


def test_body_may_end_before_the_extensions() -> None:
    """That is the one place."""
    assert read(in_records(message(BODY[:EXTENSIONS_AT]))).extensions == ()


# --- Whatever comes -----------------------------------------------------------------------------


@UNHURRIED
@given(hellos(), st.lists(st.integers(1, 3000), max_size=5))
def test_what_is_written_is_read(hello: Hello, cuts: list[int]) -> None:
    """Every ClientHello in good order is read, and says what it says, in any records."""
    found = read(hello.octets(*cuts))
    extensions = hello.extensions or ()

    assert found.legacy_version == hello.legacy_version
    assert found.random == hello.random
    assert found.session_id == hello.session_id
    assert found.compression_methods == hello.compression_methods
    assert [(each.kind, each.data) for each in found.extensions] == list(extensions)
    assert list(found.cipher_suites) == without_grease(hello.cipher_suites)
    assert (found.server_name is None) == (SERVER_NAME not in dict(extensions))


def without_grease(values: Iterable[int]) -> list[int]:
    """Leave out what stands for nothing."""
    return [value for value in values if value not in GREASE]


@UNHURRIED
@given(hellos(), st.lists(st.integers(1, 3000), max_size=5), st.data())
def test_each_prefix_needs_more(hello: Hello, cuts: list[int], data: st.DataObject) -> None:
    """
    What has come so far of a ClientHello in good order is never an error; more is asked for, and
    never more than there will be.
    """
    octets = hello.octets(*cuts)
    there = data.draw(st.integers(0, len(octets) - 1))
    found = parse_client_hello(octets[:there])

    assert isinstance(found, MoreNeeded)
    assert there < found.at_least <= len(octets)


@pytest.mark.parametrize("hello", [Hello(), KYBER], ids=["plain", "Kyber"])
def test_every_prefix_needs_more(hello: Hello) -> None:
    """The same for each prefix of two of them."""
    octets = hello.octets(1, 5, 50, 700)
    for there in range(len(octets)):
        found = parse_client_hello(octets[:there])

        assert isinstance(found, MoreNeeded)
        assert there < found.at_least <= len(octets)


@pytest.mark.parametrize("at", range(len(PLAIN)))
def test_flipped_octet_gives_a_value_or_a_clean_error(at: int) -> None:
    """
    Whatever an octet is changed into, the answer is a ClientHello, a need for more or a
    `MalformedError`, and no other exception.
    """
    for change in range(1, 256):
        octets = bytearray(PLAIN)
        octets[at] ^= change
        outcome_of(octets)


@UNHURRIED
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: PLAIN[:43] + tail))
@example(b"")
def test_any_octets_give_a_value_or_a_clean_error(octets: bytes) -> None:
    """Nothing that can be sent raises anything else."""
    outcome_of(octets)


@UNHURRIED
@given(hellos(), st.lists(st.integers(0, 1000), min_size=1, max_size=3), st.data())
def test_answer_stays_however_much_more_comes(
    hello: Hello, places: list[int], data: st.DataObject
) -> None:
    """
    What a damaged ClientHello is answered with does not depend on how much of it had come when it
    was looked at: after the first answer that is no need for more, the answer is the same.
    """
    octets = bytearray(hello.octets())
    for place in places:
        octets[place % len(octets)] = data.draw(st.integers(0, 255))
    final = outcome_of(octets)
    there = data.draw(st.integers(0, len(octets)))
    early = outcome_of(octets[:there])

    assert early == final or isinstance(early, MoreNeeded)


# --- OpenSSL ------------------------------------------------------------------------------------


def limited(minimum: ssl.TLSVersion, maximum: ssl.TLSVersion) -> ssl.SSLContext:
    """Make a client of some versions."""
    context = client_context()
    context.minimum_version, context.maximum_version = minimum, maximum
    return context


@pytest.mark.parametrize(
    ("minimum", "maximum", "version", "offered"),
    [
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, 0x0303, ()),
        (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3, 0x0304, (0x0304,)),
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, 0x0304, (0x0304, 0x0303)),
    ],
    ids=["1.2", "1.3", "1.2 and 1.3"],
)
def test_versions_are_those_of_openssl(
    minimum: ssl.TLSVersion, maximum: ssl.TLSVersion, version: int, offered: tuple[int, ...]
) -> None:
    """The versions are those that a client of OpenSSL was told to offer."""
    found = read(made_by_openssl(limited(minimum, maximum)))

    assert (found.version, found.supported_versions) == (version, offered)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("ECDHE-RSA-AES128-GCM-SHA256", 0xC02F),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", 0xC02C),
        ("ECDHE-RSA-CHACHA20-POLY1305", 0xCCA8),
    ],
)
def test_cipher_suites_are_those_of_openssl(name: str, number: int) -> None:
    """The cipher suites are those that a client of OpenSSL was told to offer."""
    context = limited(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(name)

    empty_renegotiation_info = 0x00FF  # RFC 5746, section 3.3
    assert read(made_by_openssl(context)).cipher_suites == (number, empty_renegotiation_info)


@pytest.mark.parametrize("protocols", [["h2", "http/1.1"], ["x" * 255], ["smtp"], []])
def test_protocols_are_those_of_openssl(protocols: list[str]) -> None:
    """The protocols are those that a client of OpenSSL was told to offer."""
    context = client_context()
    context.set_alpn_protocols(protocols)

    expected = tuple(protocol.encode() for protocol in protocols)
    assert read(made_by_openssl(context)).alpn_protocols == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, None),
        ("192.0.2.1", None),
        ("Example.COM", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_server_name_is_that_of_openssl(name: str | None, expected: str | None) -> None:
    """The name is the one that a client of OpenSSL was told, which leaves addresses out."""
    assert read(made_by_openssl(client_context(), name)).server_name == expected


@UNHURRIED
@given(host_names(), st.lists(st.integers(1, 400), max_size=4))
def test_openssl_reads_the_same_name(name: bytes, cuts: list[int]) -> None:
    """What we take for the server's name is what OpenSSL as a server takes for it."""
    octets = Hello(extensions=[*(Hello().extensions or ())[1:], server_name(name)]).octets(*cuts)

    assert names_seen_by_openssl(octets) == [name.decode()]
    assert read(octets).server_name == name.decode().lower()


@UNHURRIED
@given(st.text(st.characters(max_codepoint=127), min_size=1, max_size=300).map(str.encode))
@example(b"example.com.")
@example(b"127.0.0.1")
def test_openssl_reads_the_same_name_or_we_refuse_it(name: bytes) -> None:
    """Whatever stands for a name, we and OpenSSL never take it for two different ones."""
    octets = Hello(extensions=[*(Hello().extensions or ())[1:], server_name(name)]).octets()
    ours = outcome_of(octets)

    if isinstance(ours, ClientHello):
        assert names_seen_by_openssl(octets) == [name.decode()]
        assert ours.server_name == name.decode().lower()


OPENSSL = made_by_openssl(client_context(), "example.com")


@UNHURRIED
@given(st.integers(RECORD_OCTETS, len(OPENSSL) - 1), st.integers(1, 255))
def test_openssl_reads_the_same_of_a_damaged_hello(at: int, change: int) -> None:
    """
    Of a ClientHello with one octet changed, OpenSSL reads the name that we read; or one of us
    refuses it. If we ask for more, so does OpenSSL, which has seen no name.
    """
    octets = bytearray(OPENSSL)
    octets[at] ^= change
    name_at = OPENSSL.index(b"example.com")
    if name_at <= at < name_at + len(b"example.com") and octets[at] > 127:
        octets[at] &= 127  # what is not ASCII fails in `ssl` itself, and is no oracle
    ours, theirs = outcome_of(octets), names_seen_by_openssl(bytes(octets))

    if isinstance(ours, ClientHello) and theirs:
        assert [name and name.lower() for name in theirs] == [ours.server_name]
    if isinstance(ours, MoreNeeded):
        assert theirs == []
