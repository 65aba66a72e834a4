"""Tests of `trio_wsk._protocols.proxy_header`: both versions, the vectors, and whatever comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.helpers.proxy_headers import PROXY, SIGNATURE, TCP4, headers, ipv4, line, lines
from tests.helpers.proxy_headers import header as written_header
from tests.protocols.proxy_vectors import FILE, Vector, vectors
from trio_wsk import Address, InvalidParameterError
from trio_wsk._protocols.answers import MoreNeeded, ProxyHeaderError
from trio_wsk._protocols.proxy_header import ProxyHeader, parse_proxy_header

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
HERE = Address.tcp("192.0.2.1", 1)
V1 = line("TCP4", "192.0.2.1", "198.51.100.2", "1", "2")
V2 = written_header(PROXY, TCP4, ipv4("192.0.2.1", "198.51.100.2"))
VECTORS = vectors()
GOOD = [vector for vector in VECTORS if vector.reason is None]


def outcome_of(octets: bytes | bytearray) -> object:
    """Read, and return what came of it in a form that can be compared."""
    try:
        return parse_proxy_header(octets)
    except ProxyHeaderError as error:
        return error.reason


def printed(address: Address | None) -> str | None:
    """Print an address as the file of vectors has it."""
    return None if address is None else str(address)


# --- The file of vectors ------------------------------------------------------------------------


def test_file_of_vectors_is_the_generators() -> None:
    """The file has what `python -m tests.protocols.proxy_vectors` writes."""
    assert json.loads(FILE.read_text("utf-8")) == [vector.entry() for vector in VECTORS]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_vector(vector: Vector) -> None:
    """Each vector is read as the file says, or refused for the reason that it says."""
    found = outcome_of(vector.octets + vector.behind)

    if vector.reason is not None:
        assert found == vector.reason
        return
    assert isinstance(found, ProxyHeader)
    assert found.octets == vector.octets
    assert found.command.name == vector.command
    assert found.transport.name == vector.transport
    assert printed(found.source) == vector.source
    assert printed(found.destination) == vector.destination
    assert [[each.kind, each.value.hex()] for each in found.tlvs] == vector.tlvs


@pytest.mark.parametrize("vector", GOOD, ids=lambda vector: vector.name)
def test_each_split_in_two(vector: Vector) -> None:
    """
    Wherever a header is split into two segments: after the first one more is needed, and no more
    than there will be; after the second one it is read.
    """
    for first in range(len(vector.octets)):
        found = parse_proxy_header(vector.octets[:first])

        assert isinstance(found, MoreNeeded)
        assert first < found.at_least <= len(vector.octets)
    assert isinstance(parse_proxy_header(vector.octets), ProxyHeader)


# --- Either version -----------------------------------------------------------------------------


@pytest.mark.parametrize("there", range(8))
@pytest.mark.parametrize("start", [V1, V2], ids=["v1", "v2"])
def test_versions_are_told_by_eight_octets(start: bytes, there: int) -> None:
    """So many are asked for before it is told which version it is."""
    assert parse_proxy_header(start[:there]) == MoreNeeded(8)


@pytest.mark.parametrize(
    "octets",
    [
        b"G",
        b"\x16\x03\x01",
        b"PROXI",
        b"\r\n\r\n\r",
        SIGNATURE[1:],
        b"\0" + SIGNATURE,
        b" " + V1,
        b"HELO example.com\r\n",
    ],
)
def test_what_is_no_header_is_refused_at_once(octets: bytes) -> None:
    """Who sends no header is told as soon as one octet shows it."""
    assert outcome_of(octets) == "no-proxy-header"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_octets_are_read(kind: Any) -> None:
    """Octets may come in whichever object holds them."""
    assert isinstance(parse_proxy_header(kind(V1)), ProxyHeader)


@pytest.mark.parametrize("octets", ["PROXY", None, 5])
def test_what_is_no_octets_is_refused(octets: Any) -> None:
    """Text and numbers are a mistake of the caller's."""
    with pytest.raises(InvalidParameterError, match="takes octets"):
        parse_proxy_header(octets)


@pytest.mark.parametrize("limit", [15, 0, -1, 65552, True, None, 20.5, "4096"])
def test_limit_is_one_that_a_header_can_have(limit: Any) -> None:
    """A header has 16 octets at least, and 65551 at most."""
    with pytest.raises(InvalidParameterError, match="limit"):
        parse_proxy_header(V2, limit=limit)


def test_limit_is_for_version_2() -> None:
    """A line has a limit of its own, which no other raises or lowers."""
    assert isinstance(parse_proxy_header(V1, limit=16), ProxyHeader)
    assert outcome_of(b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n") == "proxy-v1-malformed"


@pytest.mark.parametrize("make", [ProxyHeader.v1, ProxyHeader.v2])
@pytest.mark.parametrize(
    "pair", [(None, HERE), (HERE, None), ("192.0.2.1:1", HERE), (HERE, ("192.0.2.1", 1))]
)
def test_both_addresses_or_none_are_said(make: Any, pair: Any) -> None:
    """One alone, or what is no `Address`, is a mistake of the caller's."""
    with pytest.raises(InvalidParameterError, match=r"an Address|both addresses"):
        make(*pair)


@pytest.mark.parametrize(
    "said",
    [
        {"alpn": "h2"},
        {"authority": b"example.com"},
        {"unique_id": "1"},
        {"ssl": b""},
        {"netns": b"blue"},
        {"tlvs": 7},
        {"tlvs": [b"h2"]},
        {"checksum": 1},
    ],
    ids=lambda said: next(iter(said)),
)
def test_wrong_types_are_refused(said: Any) -> None:
    """The error names the argument and what it takes."""
    with pytest.raises(InvalidParameterError, match=next(iter(said))):
        ProxyHeader.v2(HERE, HERE, **said)


# --- Whatever comes -----------------------------------------------------------------------------


@UNHURRIED
@given(
    st.binary(max_size=300)
    | st.binary(max_size=300).map(lambda tail: SIGNATURE + tail)
    | st.binary(max_size=300).map(lambda tail: SIGNATURE + b"\x21\x11\0\x20" + tail)
    | st.binary(max_size=120).map(lambda tail: b"PROXY " + tail)
    | st.text("PROXYTC46UNKNOWN 0123456789.:af\r\n", max_size=120).map(
        lambda tail: b"PROXY " + tail.encode()
    )
)
@example(b"")
def test_any_octets_give_a_value_or_a_clean_error(octets: bytes) -> None:
    """Nothing that can be sent raises anything but `ProxyHeaderError`."""
    found = outcome_of(octets)

    if isinstance(found, ProxyHeader):
        assert octets.startswith(bytes(found))


@UNHURRIED
@given(lines() | headers(), st.lists(st.integers(0, 1000), min_size=1, max_size=3), st.data())
def test_answer_stays_however_much_more_comes(
    written: Any, places: list[int], data: st.DataObject
) -> None:
    """
    What a damaged header is answered with does not depend on how much of it had come when it was
    looked at: after the first answer that is no need for more, the answer is the same.
    """
    octets = bytearray(written.octets)
    for place in places:
        octets[place % len(octets)] = data.draw(st.integers(0, 255))
    octets += data.draw(st.binary(max_size=120))
    final = outcome_of(octets)
    early = outcome_of(octets[: data.draw(st.integers(0, len(octets)))])

    assert early == final or isinstance(early, MoreNeeded)
    if isinstance(early, MoreNeeded) and isinstance(final, ProxyHeader):
        assert early.at_least <= final.length


@UNHURRIED
@given(lines() | headers())
def test_properties_never_fail(written: Any) -> None:
    """What was read can be asked for everything."""
    found = parse_proxy_header(written.octets)

    assert isinstance(found, ProxyHeader)
    said = [found.alpn, found.authority, found.unique_id, found.netns]
    assert all(each is None or isinstance(each, (bytes, str)) for each in said)
    if found.ssl is not None:
        assert found.ssl.version is None or isinstance(found.ssl.version, str)
        assert found.ssl.common_name is None or isinstance(found.ssl.common_name, str)
