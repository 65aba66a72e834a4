"""Tests of `trio_wsk._protocols.tls_records`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.client_hellos import (
    KYBER,
    PEEK_LIMIT,
    RECORD_OCTETS,
    Hello,
    in_records,
    message,
    record,
)
from trio_wsk._inspection import request as _request
from trio_wsk._protocols.answers import ClientHelloError, MoreNeeded, NotTLSError
from trio_wsk._protocols.tls_records import LIMIT, handshake_message

BODY = b"0123456789" * 6
CUTS = st.lists(st.integers(1, 64), max_size=8)

NOT_TLS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a PROXY line": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "a PROXY header": b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    "an alert": record(b"\x02\x28", kind=21),
    "encrypted data": record(b"0123456789", kind=23),
    "DTLS": b"\x16\xfe\xfd\0\0\0\0\0\0\0\0\0\x10",
    "NUL": bytes(16),
    "high octets": b"\xff" * 16,
}


def padded(octets: int, records: int = 1) -> bytes:
    """Write a ClientHello, of nothing, that takes so many octets in so many records."""
    content = message(bytes(octets - 4 - records * RECORD_OCTETS))
    return in_records(content, *range(1, records))


def test_limit_is_what_can_be_peeked_at() -> None:
    """A ClientHello may have as many octets as a request's `peek` shows, and no more."""
    assert LIMIT == _request.PEEK_LIMIT == PEEK_LIMIT


@given(CUTS, st.binary(max_size=20))
def test_message_is_the_same_however_it_is_cut(cuts: list[int], behind: bytes) -> None:
    """A message is put together from any records, and what is behind it is left alone."""
    assert handshake_message(in_records(message(BODY), *cuts) + behind) == BODY


def test_message_may_end_before_its_record_does() -> None:
    """What follows in the same record is not waited for."""
    whole = in_records(message(BODY) + b"more")

    assert handshake_message(whole[:-4]) == BODY
    assert handshake_message(whole) == BODY


def test_longest_record_is_read() -> None:
    """A record may have 16384 octets, although no ClientHello fills it."""
    assert handshake_message(record(message(BODY).ljust(1 << 14, b"x"))) == BODY


def test_every_prefix_needs_more() -> None:
    """
    The header of a record is asked for first, then the header of the message, then as much as that
    says.
    """
    whole = record(message(BODY))
    asked = [handshake_message(whole[:there]) for there in range(len(whole))]

    at_least = [RECORD_OCTETS] * 5 + [RECORD_OCTETS + 4] * 4 + [len(whole)] * len(BODY)
    assert asked == list(map(MoreNeeded, at_least))


@given(CUTS, st.data())
def test_each_prefix_needs_more(cuts: list[int], data: st.DataObject) -> None:
    """
    Of a message that is not all there, more is asked for than there is, and never more than there
    will be.
    """
    whole = in_records(message(BODY), *cuts)
    there = data.draw(st.integers(0, len(whole) - 1))
    found = handshake_message(whole[:there])

    assert isinstance(found, MoreNeeded)
    assert there < found.at_least <= len(whole)


def test_message_in_one_record_is_asked_for_once_its_length_is_known() -> None:
    """From the length of the message on, exactly as much is asked for as there will be."""
    whole = KYBER.octets()

    assert handshake_message(whole[: RECORD_OCTETS + 4]) == MoreNeeded(len(whole))


@pytest.mark.parametrize("name", NOT_TLS)
@pytest.mark.parametrize("whole", [True, False], ids=["all of it", "its first octets"])
def test_other_protocols_are_told(name: str, *, whole: bool) -> None:
    """What doesn't begin like TLS is refused as soon as that can be seen."""
    octets = NOT_TLS[name]
    start = octets if whole else octets[: 3 if octets[0] > 127 else 2]
    with pytest.raises(NotTLSError) as caught:
        handshake_message(start)

    assert "not-tls" == caught.value.reason


def test_hello_of_ssl_2_is_told() -> None:
    """A hello in the form of SSL 2.0, which could offer TLS, is refused under its own name."""
    with pytest.raises(NotTLSError, match="SSL 2") as caught:
        handshake_message(b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10")

    assert "ssl2-hello" == caught.value.reason


@pytest.mark.parametrize("octets", [b"\x80", b"\x80\x2e"])
def test_hello_of_ssl_2_is_waited_for(octets: bytes) -> None:
    """What may be one gets the name for it only if it is."""
    assert handshake_message(octets) == MoreNeeded(3)


@pytest.mark.parametrize("kind", [0, 2, 11, 255])
def test_other_messages_are_told(kind: int) -> None:
    """TLS that begins with another message is refused at the first octet of it."""
    with pytest.raises(ClientHelloError) as caught:
        handshake_message(record(message(BODY, kind=kind))[: RECORD_OCTETS + 1])

    assert "no-client-hello" == caught.value.reason


@pytest.mark.parametrize("kind", [20, 21, 23, 24, 0, 255])
def test_interrupted_message_is_refused(kind: int) -> None:
    """No record of another type may stand between those of one message (RFC 8446, 5.1)."""
    content = message(BODY)
    with pytest.raises(ClientHelloError, match=f"type {kind}") as caught:
        handshake_message(record(content[:20]) + record(content[20:], kind=kind))

    assert "client-hello-malformed" == caught.value.reason


@pytest.mark.parametrize("length", [0, (1 << 14) + 1, 0xFFFF])
def test_length_of_a_record_is_checked(length: int) -> None:
    """A record of the handshake has 1 to 16384 octets (RFC 8446, 5.1)."""
    with pytest.raises(ClientHelloError, match=f"{length} octets"):
        handshake_message(b"\x16\x03\x01" + length.to_bytes(2, "big"))


def test_length_of_each_record_is_checked() -> None:
    """An empty record among others would let a peer go on for ever."""
    content = message(BODY)
    with pytest.raises(ClientHelloError, match="0 octets"):
        handshake_message(record(content[:20]) + record(b"") + record(content[20:]))


def test_version_of_each_record_is_checked() -> None:
    """Later records have a major version, too."""
    content = message(BODY)
    with pytest.raises(ClientHelloError, match="version 2"):
        handshake_message(record(content[:20]) + record(content[20:], version=0x0203))


@pytest.mark.parametrize("version", [0x0300, 0x0301, 0x0303, 0x0304, 0x03FF])
def test_minor_version_of_records_counts_for_nothing(version: int) -> None:
    """Records have had many versions, and none has a meaning (RFC 8446, 5.1)."""
    assert handshake_message(record(message(BODY), version=version)) == BODY


@pytest.mark.parametrize("records", [1, 2, 100])
def test_longest_message_fits(records: int) -> None:
    """A message is read that ends with the last octet that can be peeked at."""
    whole = padded(LIMIT, records)

    assert len(whole) == LIMIT
    assert isinstance(handshake_message(whole), bytes)


@pytest.mark.parametrize("records", [1, 2, 100])
@pytest.mark.parametrize("there", [12 * RECORD_OCTETS, 1000, LIMIT, LIMIT + 1])
def test_too_long_message_is_refused(records: int, there: int) -> None:
    """One octet more is too much, and is told as soon as it can be."""
    whole = padded(LIMIT + 1, records)
    known_at = LIMIT // 2 if records > 50 else 0  # the last record has to be counted first
    with pytest.raises(ClientHelloError) as caught:
        handshake_message(whole[: max(there, known_at)])

    assert "client-hello-too-long" == caught.value.reason


def test_length_of_a_message_has_three_octets() -> None:
    """A length that seems short without its first octet is as long as it is."""
    content = message(BODY)
    with pytest.raises(ClientHelloError) as caught:
        handshake_message(record(content[:1] + b"\1" + content[2:]))

    assert "client-hello-too-long" == caught.value.reason


def test_message_in_records_of_one_octet_is_asked_for_a_few_times() -> None:
    """Who sends one octet in each record doesn't have each of them looked at by itself."""
    whole = Hello(extensions=[(21, bytes(2600))]).octets(*range(3000))
    asked = 0
    found = handshake_message(b"")
    while isinstance(found, MoreNeeded):
        asked += 1
        found = handshake_message(whole[: found.at_least])

    assert asked < 60
