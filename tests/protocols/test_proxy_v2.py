"""Tests of `trio_wsk._protocols.proxy_v2`, through `parse_proxy_header`."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import strategies
from tests.helpers.proxy_headers import (
    ADDRESS_OCTETS,
    LOCAL,
    NAMES,
    NOOP,
    PROXY,
    SIGNATURE,
    TCP4,
    TCP6,
    UDP4,
    UNIX_DATAGRAM,
    UNIX_STREAM,
    UNSPEC,
    Written,
    header,
    headers,
    ipv4,
    ipv6,
    tlv,
    tlvs,
    unix,
    unix_paths,
    with_checksum,
)
from trio_wsk import Address, InvalidParameterError
from trio_wsk._protocols.answers import MoreNeeded, ProxyHeaderError
from trio_wsk._protocols.proxy_header import ProxyHeader, parse_proxy_header
from trio_wsk._protocols.proxy_tlvs import ProxyTlv
from trio_wsk._protocols.proxy_words import ProxyCommand, ProxyTransport

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
HOSTS4 = ipv4("192.0.2.1", "198.51.100.2", 56324, 443)
PLAIN = header(PROXY, TCP4, HOSTS4)
FULL = with_checksum(PROXY, TCP4, HOSTS4 + tlv(1, b"h2") + tlv(2, b"example.com"))


def read(octets: bytes) -> ProxyHeader:
    """Read a header that is there in one piece and in good order."""
    found = parse_proxy_header(octets)
    assert isinstance(found, ProxyHeader)
    return found


def refused(octets: bytes, **options: int) -> str:
    """Say why one is refused."""
    with pytest.raises(ProxyHeaderError) as caught:
        parse_proxy_header(octets, **options)
    return caught.value.reason


def test_plain_header_is_read() -> None:
    """The header of an IPv4 client is read up to its end, and what follows is left alone."""
    found = read(PLAIN + b"GET / HTTP/1.1\r\n")

    assert found == ProxyHeader(
        octets=PLAIN,
        version=2,
        command=ProxyCommand.PROXY,
        transport=ProxyTransport.TCP4,
        source=Address.parse("192.0.2.1:56324"),
        destination=Address.parse("198.51.100.2:443"),
        tlvs=(),
    )
    assert (len(PLAIN), PLAIN) == (found.length, bytes(found))


@UNHURRIED
@given(headers(), st.binary(max_size=10))
def test_what_is_written_is_read(written: Written, behind: bytes) -> None:
    """Addresses of every family and every type and value are those that stand there."""
    found = read(written.octets + behind)

    assert found.command is ProxyCommand.PROXY
    assert found.transport.name == written.transport
    assert (found.source, found.destination) == (written.source, written.destination)
    assert [(each.kind, each.value) for each in found.tlvs] == written.tlvs
    assert found.octets == written.octets


@UNHURRIED
@given(headers(), st.data())
def test_each_prefix_needs_more(written: Written, data: st.DataObject) -> None:
    """What has come so far is never an error, and never more is asked for than there will be."""
    there = data.draw(st.integers(0, len(written.octets) - 1))
    found = parse_proxy_header(written.octets[:there])

    assert isinstance(found, MoreNeeded)
    assert there < found.at_least <= len(written.octets)


def test_every_prefix_needs_more() -> None:
    """The fixed part is asked for first, then as much as that says."""
    asked = [parse_proxy_header(FULL[:there]) for there in range(8, len(FULL))]

    assert asked == [*[MoreNeeded(16)] * 8, *[MoreNeeded(len(FULL))] * (len(FULL) - 16)]


def test_header_takes_three_looks() -> None:
    """The first octets, the fixed part with the length, and all of it."""
    looks = [parse_proxy_header(FULL[:there]) for there in (0, 8, 16)]

    assert looks == [MoreNeeded(8), MoreNeeded(16), MoreNeeded(len(FULL))]


# --- The fixed part -----------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(12))
def test_flipped_octet_of_the_signature_is_no_header(at: int) -> None:
    """Whatever an octet of the signature is changed into, there is no header."""
    for change in range(1, 256):
        octets = bytearray(PLAIN)
        octets[at] ^= change

        assert refused(bytes(octets)) == "no-proxy-header"


@pytest.mark.parametrize("octet", sorted({*range(256)} - {LOCAL, PROXY}))
def test_other_versions_and_commands_are_refused(octet: int) -> None:
    """The version is 2, the command LOCAL or PROXY; anything else is to be dropped, and early."""
    assert refused(header(octet, TCP4, HOSTS4)[:13]) == "proxy-v2-malformed"


@pytest.mark.parametrize("octet", range(256))
def test_each_family_and_protocol(octet: int) -> None:
    """
    The seven that are expected are read, the valid ones that are half unspecified have no
    addresses, and the others are refused as soon as they are seen.
    """
    octets = header(PROXY, octet, bytes(216))
    if octet in NAMES:
        assert read(octets).transport.name == NAMES[octet]
    elif octet >> 4 <= 3 and octet & 15 <= 2:
        found = read(octets)
        assert (found.transport, found.source) == (ProxyTransport.UNSPEC, None)
    else:
        assert refused(octets[:14]) == "proxy-v2-malformed"


@pytest.mark.parametrize("transport", sorted(set(ADDRESS_OCTETS) - {UNSPEC}))
def test_length_has_room_for_the_addresses(transport: int) -> None:
    """A length that is too short for them is refused as soon as it is seen."""
    need = ADDRESS_OCTETS[transport]

    assert read(header(PROXY, transport, bytes(need))).source is not None
    for length in range(need):
        assert refused(header(PROXY, transport, length=length)) == "proxy-v2-malformed"


@pytest.mark.parametrize("at", range(16))
def test_flipped_octet_gives_a_value_or_a_clean_error(at: int) -> None:
    """Whatever an octet of the first sixteen is changed into, no other exception comes of it."""
    for change in range(1, 256):
        octets = bytearray(FULL)
        octets[at] ^= change
        try:
            parse_proxy_header(octets)
        except ProxyHeaderError:
            continue


NOT_HELD = {29, 30, 34, 35, 47}
"""Where the lengths of ALPN and AUTHORITY stand, and the type of the checksum."""


@pytest.mark.parametrize("at", sorted({*range(16, len(FULL))} - NOT_HELD))
def test_checksum_finds_each_flipped_octet(at: int) -> None:
    """
    With a checksum, no octet of the block can be changed without notice, but for those that could
    have it be no checksum any more.
    """
    for change in range(1, 256):
        octets = bytearray(FULL)
        octets[at] ^= change

        assert refused(bytes(octets)) in {"proxy-checksum-wrong", "proxy-v2-malformed"}


@pytest.mark.parametrize(("limit", "fits"), [(28, True), (27, False), (16, False)])
def test_length_is_bounded(limit: int, *, fits: bool) -> None:
    """A header that is longer than may be is refused as soon as its length is seen."""
    if fits:
        assert isinstance(parse_proxy_header(PLAIN, limit=limit), ProxyHeader)
    else:
        assert refused(PLAIN[:16], limit=limit) == "proxy-header-too-long"


def test_length_is_bounded_by_default() -> None:
    """4096 octets are the most, unless more are allowed."""
    filled = HOSTS4 + tlv(NOOP, bytes(4096 - 16 - 12 - 3))

    assert read(header(PROXY, TCP4, filled)).length == 4096
    assert refused(header(PROXY, TCP4, length=4081)) == "proxy-header-too-long"


def test_longest_header_is_read() -> None:
    """The length can say 65535."""
    octets = header(PROXY, TCP4, HOSTS4 + tlv(NOOP, bytes(0xFFFF - 15)))

    assert len(octets) == 65551
    assert isinstance(parse_proxy_header(octets, limit=65551), ProxyHeader)


# --- LOCAL and UNSPEC ---------------------------------------------------------------------------


@pytest.mark.parametrize("transport", [0x00, 0x11, 0x21, 0x31, 0x44, 0xFF])
@pytest.mark.parametrize("block", [b"", HOSTS4, b"\xff" * 100], ids=["none", "IPv4", "anything"])
def test_local_is_taken_whatever_it_says(transport: int, block: bytes) -> None:
    """
    The family is ignored and the block passed over by its length; the addresses are the
    connection's.
    """
    found = read(header(LOCAL, transport, block) + b"behind")

    assert found.command is ProxyCommand.LOCAL
    assert (found.transport, found.source) == (ProxyTransport.UNSPEC, None)
    assert found.length == 16 + len(block)


@pytest.mark.parametrize("transport", [0x00, 0x01, 0x02, 0x10, 0x20, 0x30])
def test_unspecified_has_no_addresses(transport: int) -> None:
    """The block is passed over, whatever it is."""
    found = read(header(PROXY, transport, b"\xff" * 20))

    assert found.command is ProxyCommand.PROXY
    assert (found.transport, found.source, found.tlvs) == (ProxyTransport.UNSPEC, None, ())


@pytest.mark.parametrize("command", [LOCAL, PROXY])
def test_tlvs_without_addresses_are_read(command: int) -> None:
    """HAProxy sends types and values without addresses, and a checksum over them."""
    octets = with_checksum(command, UNSPEC, tlv(5, b"identity"))

    assert read(octets).unique_id == b"identity"
    octets = octets.replace(b"identity", b"identitx")
    assert refused(octets) == "proxy-checksum-wrong"


# --- Addresses ----------------------------------------------------------------------------------


def test_ipv4_mapped_addresses_are_ipv4() -> None:
    """What a proxy has accepted on a socket for both families is IPv4."""
    found = read(header(PROXY, TCP6, ipv6("::ffff:192.0.2.1", "2001:db8::1")))

    assert (found.transport, found.source) == (ProxyTransport.TCP6, Address.tcp("192.0.2.1", 1))


@pytest.mark.parametrize(
    ("octets", "path"),
    [
        (b"/run/a.sock", "/run/a.sock"),
        (b"/run/a.sock\0behind", "/run/a.sock"),
        (b"/" + b"a" * 107, "/" + "a" * 107),
        (b"\0abstract", "\0abstract"),
        (b"\0a\0b", "\0a\0b"),
        (b"", ""),
    ],
)
@pytest.mark.parametrize("transport", [UNIX_STREAM, UNIX_DATAGRAM])
def test_unix_addresses_are_read(transport: int, octets: bytes, path: str) -> None:
    """A path ends at its first NUL, an abstract one before its last ones."""
    found = read(header(PROXY, transport, unix(octets, b"/there")))

    assert (found.source, found.destination) == (Address.unix(path), Address.unix("/there"))


# --- Writing ------------------------------------------------------------------------------------


@UNHURRIED
@given(
    source=strategies.tcp_addresses(),
    destination=strategies.tcp_addresses(),
    said=tlvs(),
    checksum=st.booleans(),
)
def test_header_says_what_it_was_made_of(
    source: Address, destination: Address, said: list[tuple[int, bytes]], *, checksum: bool
) -> None:
    """What is made to be sent is read as what it was made of; only scope ids are left out."""
    sent = ProxyHeader.v2(
        source, destination, tlvs=[ProxyTlv(*each) for each in said], checksum=checksum
    )

    assert parse_proxy_header(bytes(sent), limit=65551) == sent
    assert sent.source == Address.tcp(source.host or "", source.port)
    assert sent.destination == Address.tcp(destination.host or "", destination.port)
    assert [(each.kind, each.value) for each in sent.tlvs if each.kind != 3] == said
    assert [each.kind for each in sent.tlvs].count(3) == checksum


@UNHURRIED
@given(unix_paths(), unix_paths())
def test_unix_header_says_what_it_was_made_of(source: bytes, destination: bytes) -> None:
    """Paths are read as they were written."""
    sent = ProxyHeader.v2(Address.unix(source), Address.unix(destination))

    assert read(bytes(sent)) == sent
    assert (sent.source, sent.destination) == (Address.unix(source), Address.unix(destination))


def test_longest_path_is_written() -> None:
    """108 octets fit, without a NUL behind them."""
    longest = Address.unix("/" + "a" * 107)

    assert ProxyHeader.v2(longest, longest).source == longest


def test_header_is_the_one_of_the_specification() -> None:
    """Octet by octet, it is the header that the specification describes."""
    source, destination = Address.tcp("192.0.2.1", 56324), Address.tcp("198.51.100.2", 443)

    assert bytes(ProxyHeader.v2(source, destination)) == PLAIN
    sent = ProxyHeader.v2(source, destination, alpn=b"h2", authority="example.com", checksum=True)
    assert bytes(sent) == FULL
    assert bytes(ProxyHeader.v2(None, None)) == header(PROXY, UNSPEC)
    assert bytes(ProxyHeader.local()) == header(LOCAL, UNSPEC)


def test_families_are_written_as_one() -> None:
    """Where only one address is IPv6, the other is written as IPv6."""
    sent = ProxyHeader.v2(Address.tcp("10.0.0.1", 1), Address.tcp("2001:db8::1", 2))

    assert bytes(sent) == header(PROXY, TCP6, ipv6("::ffff:10.0.0.1", "2001:db8::1"))


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (Address.unix("/a"), Address.tcp("::1", 1)),
        (Address.tcp("::1", 1), Address.unix("/a")),
        (Address.unix("\0a\0"), Address.unix("/a")),
        (Address.unix("/" + "a" * 108), Address.unix("/a")),
    ],
    ids=["one is none", "the other is none", "a NUL at the end", "too long"],
)
def test_addresses_that_cannot_be_said_are_refused(source: Address, destination: Address) -> None:
    """What receivers could not read again is a mistake of the caller's."""
    with pytest.raises(InvalidParameterError):
        ProxyHeader.v2(source, destination)


def test_header_that_would_be_too_long_is_refused() -> None:
    """The length can say 65535, and no more."""
    here = Address.tcp("192.0.2.1", 1)
    fits = ProxyTlv(NOOP, bytes(0xFFFF - 12 - 3))

    assert ProxyHeader.v2(here, here, tlvs=[fits]).length == 65551
    with pytest.raises(InvalidParameterError, match="too many"):
        ProxyHeader.v2(here, here, tlvs=[fits], netns="")


def test_datagrams_are_read() -> None:
    """A proxy may speak for a client of UDP."""
    assert read(header(PROXY, UDP4, HOSTS4)).transport is ProxyTransport.UDP4


def test_signature_is_that_of_the_specification() -> None:
    """It is written there in hexadecimal digits."""
    assert PLAIN.startswith(SIGNATURE)
