"""Tests of `trio_wsk._protocols.proxy_v1`, through `parse_proxy_header`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import strategies
from tests.helpers.proxy_headers import Written, line, lines
from trio_wsk import Address, InvalidParameterError
from trio_wsk._protocols.answers import MoreNeeded, ProxyHeaderError
from trio_wsk._protocols.proxy_header import ProxyHeader, parse_proxy_header
from trio_wsk._protocols.proxy_words import ProxyCommand, ProxyTransport

TCP4 = line("TCP4", "192.168.0.1", "192.168.0.11", "56324", "443")
TCP6 = line("TCP6", "2001:db8::1", "2001:db8::2", "56324", "443")
LONGEST = [
    line("TCP4", "255.255.255.255", "255.255.255.255", "65535", "65535"),
    line("TCP6", *["ffff:" * 7 + "ffff"] * 2, "65535", "65535"),
    line("UNKNOWN", *["ffff:" * 7 + "ffff"] * 2, "65535", "65535"),
]


def read(octets: bytes) -> ProxyHeader:
    """Read a header that is there in one piece and in good order."""
    found = parse_proxy_header(octets)
    assert isinstance(found, ProxyHeader)
    return found


def refused(octets: bytes) -> str:
    """Say why one is refused."""
    with pytest.raises(ProxyHeaderError) as caught:
        parse_proxy_header(octets)
    return caught.value.reason


def test_example_of_the_specification() -> None:
    """The example is read up to its end, and what follows is left alone."""
    found = read(TCP4 + b"GET / HTTP/1.1\r\n")

    assert found == ProxyHeader(
        octets=TCP4,
        version=1,
        command=ProxyCommand.PROXY,
        transport=ProxyTransport.TCP4,
        source=Address.parse("192.168.0.1:56324"),
        destination=Address.parse("192.168.0.11:443"),
        tlvs=(),
    )
    assert (len(TCP4), TCP4) == (found.length, bytes(found))


@given(lines(), st.binary(max_size=10))
def test_what_is_written_is_read(written: Written, behind: bytes) -> None:
    """Both addresses and both ports are those that the line names, in either case of letters."""
    found = read(written.octets + behind)

    assert found.transport.name == written.transport
    assert (found.source, found.destination) == (written.source, written.destination)
    assert found.octets == written.octets


@pytest.mark.parametrize("octets", LONGEST, ids=["TCP4", "TCP6", "UNKNOWN"])
def test_longest_lines_are_read(octets: bytes) -> None:
    """The longest lines of the specification have 56, 104 and 107 octets."""
    assert read(octets).length in {56, 104, 107}


@pytest.mark.parametrize("rest", ["", " ", " anything at all", " \x00\xff", " TCP4 1.2.3.4"])
def test_unknown_has_no_addresses(rest: str) -> None:
    """What follows UNKNOWN is ignored up to the end of the line."""
    found = read(b"PROXY UNKNOWN" + rest.encode("latin-1") + b"\r\n")

    assert (found.version, found.transport) == (1, ProxyTransport.UNSPEC)
    assert (found.source, found.destination) == (None, None)


def test_ipv4_mapped_addresses_are_ipv4() -> None:
    """
    What a proxy has accepted on a socket for both families is IPv4, also in the form that
    `inet_ntop` has for it.
    """
    for host in ("::ffff:192.0.2.1", "::ffff:c000:201", "0:0:0:0:0:ffff:c000:0201"):
        found = read(line("TCP6", host, "2001:db8::1", "1", "2"))

        assert found.transport is ProxyTransport.TCP6
        assert found.source == Address.tcp("192.0.2.1", 1)


WRONG = {
    "two spaces": b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "two spaces between addresses": b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
    "a space at the end": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
    "a tab": b"PROXY TCP4 192.0.2.1\t192.0.2.2 1 2\r\n",
    "lower case": b"PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
    "another protocol": b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "TCP5": b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
    "one address": b"PROXY TCP4 192.0.2.1 1 2\r\n",
    "three addresses": b"PROXY TCP4 192.0.2.1 192.0.2.2 192.0.2.3 1 2\r\n",
    "one port": b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
    "three ports": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
    "the wrong family": b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    "the other wrong family": b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
    "families mixed": b"PROXY TCP6 2001:db8::1 192.0.2.2 1 2\r\n",
    "a leading zero": b"PROXY TCP4 192.0.02.1 192.0.2.2 1 2\r\n",
    "three numbers": b"PROXY TCP4 192.0.513 192.0.2.2 1 2\r\n",
    "a number too high": b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
    "a hexadecimal number": b"PROXY TCP4 192.0.2.0x1 192.0.2.2 1 2\r\n",
    "a scope": b"PROXY TCP6 fe80::1%1 fe80::2 1 2\r\n",
    "two double colons": b"PROXY TCP6 1::2::3 2001:db8::2 1 2\r\n",
    "five digits": b"PROXY TCP6 12345::1 2001:db8::2 1 2\r\n",
    "nine groups": b"PROXY TCP6 1:2:3:4:5:6:7:8:9 2001:db8::2 1 2\r\n",
    "seven groups": b"PROXY TCP6 1:2:3:4:5:6:7 2001:db8::2 1 2\r\n",
    "brackets": b"PROXY TCP6 [::1] [::2] 1 2\r\n",
    "a name": b"PROXY TCP4 localhost 192.0.2.2 1 2\r\n",
    "a port too high": b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
    "a port far too high": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 655360\r\n",
    "a leading zero of a port": b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
    "a sign": b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
    "a negative port": b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
    "an underscore in a port": b"PROXY TCP4 192.0.2.1 192.0.2.2 1_0 2\r\n",
    "digits of another script": "PROXY TCP4 192.0.2.1 192.0.2.2 ٣ 2\r\n".encode(),
    "only LF": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
    "only CR": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rGET",
    "CR and CR and LF": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n",
    "LF and CR": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r",
    "only LF after UNKNOWN": b"PROXY UNKNOWN\nGET / HTTP/1.1\r\n",
    "only CR after UNKNOWN": b"PROXY UNKNOWN\rGET / HTTP/1.1\r\n",
    "UNKNOWN goes on": b"PROXY UNKNOWNS\r\n",
    "a NUL": b"PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n",
    "an empty line": b"PROXY \r\n" + b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "one octet too long": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "no end": b"PROXY UNKNOWN " + b"x" * 2000,
}


@pytest.mark.parametrize("name", WRONG)
def test_any_other_form_is_refused(name: str) -> None:
    """What does not match the form exactly is no header (section 2.1)."""
    assert refused(WRONG[name]) == "proxy-v1-malformed"


@pytest.mark.parametrize(
    "octets",
    [b"GET / HTTP/1.1\r\n", b"proxy TCP4 1", b"PROXY\tTCP4", b" PROXY TCP4", b"\0", b"PROXYTCP4"],
)
def test_what_is_no_header_is_refused(octets: bytes) -> None:
    """What begins otherwise has a reason of its own, since it may be no proxy at all."""
    assert refused(octets) == "no-proxy-header"


SHORT_PORTS = line("TCP4", "255.255.255.255", "255.255.255.255", "0", "0")


@pytest.mark.parametrize("octets", [TCP4, TCP6, b"PROXY UNKNOWN\r\n", SHORT_PORTS, *LONGEST])
def test_each_prefix_needs_more(octets: bytes) -> None:
    """
    What has come so far of a line is never an error; more is asked for, and never more than there
    will be. Line by line, a few looks are enough.
    """
    for there in range(len(octets)):
        found = parse_proxy_header(octets[:there])

        assert isinstance(found, MoreNeeded)
        assert there < found.at_least <= len(octets)


def test_line_that_has_ended_needs_nothing_but_its_end() -> None:
    """Behind a CR comes LF, however much is missing before: then the line is wrong."""
    octets = b"PROXY TCP4 192.0.2.1 198.51.100.2\r"

    assert parse_proxy_header(octets) == MoreNeeded(len(octets) + 1)


@given(lines())
def test_line_is_asked_for_a_few_times(written: Written) -> None:
    """Who looks at as many octets as are asked for each time doesn't look at each of them."""
    looks = 0
    found = parse_proxy_header(b"")
    while isinstance(found, MoreNeeded):
        looks += 1
        found = parse_proxy_header(written.octets[: found.at_least])

    assert looks <= 40


@pytest.mark.parametrize("there", [106, 107, 108, 2000])
def test_line_without_an_end_is_told_when_it_can_have_none(there: int) -> None:
    """From the 106th octet on, no CR and LF fit into the 107 that a line has."""
    octets = (b"PROXY UNKNOWN " + b"x" * 2000)[:there]

    assert refused(octets) == "proxy-v1-malformed"


# --- Writing ------------------------------------------------------------------------------------


@given(strategies.tcp_addresses(), strategies.tcp_addresses())
def test_header_says_both_addresses(source: Address, destination: Address) -> None:
    """What is made to be sent is read as what it was made of; only scope ids are left out."""
    sent = ProxyHeader.v1(source, destination)

    assert read(bytes(sent)) == sent
    assert sent.source == unscoped(source)
    assert sent.destination == unscoped(destination)
    assert b"." not in sent.octets or sent.transport is ProxyTransport.TCP4


def unscoped(address: Address) -> Address:
    """Leave out what only its own machine knows."""
    assert address.host is not None
    return Address.tcp(address.host, address.port)


def test_header_is_the_line_of_the_specification() -> None:
    """The example is written as it stands there."""
    sent = ProxyHeader.v1(Address.tcp("192.168.0.1", 56324), Address.tcp("192.168.0.11", 443))

    assert bytes(sent) == TCP4


def test_families_are_written_as_one() -> None:
    """Where only one address is IPv6, the other is written as IPv6, in the strict form."""
    sent = ProxyHeader.v1(Address.tcp("10.0.0.1", 1), Address.tcp("2001:db8::1", 2))

    assert bytes(sent) == line("TCP6", "::ffff:a00:1", "2001:db8::1", "1", "2")


def test_header_without_addresses_is_unknown() -> None:
    """What isn't known is UNKNOWN, in its short form."""
    assert bytes(ProxyHeader.v1(None, None)) == b"PROXY UNKNOWN\r\n"


def test_unix_sockets_are_refused() -> None:
    """Version 1 has no word for them, and the error says what to write."""
    for pair in ((Address.unix("/a"), Address.tcp("::1", 1)), (Address.unix(""),) * 2):
        with pytest.raises(InvalidParameterError, match=r"ProxyHeader\.v2"):
            ProxyHeader.v1(*pair)
