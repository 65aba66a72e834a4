"""Tests of `trio_wsk._protocols.server_name`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import strategies
from tests.helpers.client_hellos import host_names
from trio_wsk._protocols.answers import ClientHelloError
from trio_wsk._protocols.server_name import checked_server_name

LONGEST = b".".join([b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61])

WRONG = [
    b"",
    b".",
    b"example.com.",
    b".example.com",
    b"www..example.com",
    b"a" * 64 + b".example.com",
    LONGEST + b"d",
    b"127.0.0.1",
    b"127.1",
    b"2130706433",
    b"0x7f000001",
    b"0x7F.0X1",
    b"192.0.2.256",
    b"::1",
    b"[::1]",
    b"fe80::1%eth0",
    b"example.com:443",
    b"*.example.com",
    b"b\xc3\xbccher.example",
    b"exam ple.com",
    b"example.com\0.example.org",
    b"example.com\n",
    b"\nexample.com",
    b"user@example.com",
    b"\xff\xfe",
]


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_name_is_refused(name: bytes) -> None:
    """No dot at the end, nothing but ASCII, no IP address in any form (RFC 6066, section 3)."""
    with pytest.raises(ClientHelloError) as caught:
        checked_server_name(name)

    assert "server-name-malformed" == caught.value.reason


@pytest.mark.parametrize(
    "name",
    [
        b"localhost",
        b"example.com",
        b"xn--bcher-kva.example",
        b"1and1.example",
        b"1.2.3.4.example",
        b"0x7f.example",
        b"_dmarc.example.com",
        b"r3---sn-4g5e6nzz.example",
        LONGEST,
    ],
)
def test_names_are_read(name: bytes) -> None:
    """Names of hosts are taken, and of the longest ones, too."""
    assert checked_server_name(name) == name.decode()


@given(host_names())
def test_names_are_lowered(name: bytes) -> None:
    """A name is the same in both cases, so it is told in one."""
    assert checked_server_name(name) == name.decode().lower()


@given(strategies.hosts())
def test_ip_addresses_are_refused(host: strategies.IPAddress) -> None:
    """No IP address is a name, of whichever family."""
    with pytest.raises(ClientHelloError, match="IP address"):
        checked_server_name(str(host).encode())


@given(st.binary(max_size=300))
def test_any_octets_are_a_name_or_a_clean_error(octets: bytes) -> None:
    """Whatever comes is a name in lower case, or `ClientHelloError`."""
    try:
        name = checked_server_name(octets)
    except ClientHelloError:
        return

    assert name == octets.decode("ascii").lower()
