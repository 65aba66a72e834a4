"""What is written to the kernel, and what is read of its answers, or of anybody's."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsk.transports.linux._messages import (
    Acknowledgement,
    Message,
    NetlinkError,
    attribute,
    be16,
    be32,
    be64,
    message,
    nested,
    parse_acknowledgement,
    parse_attribute_list,
    parse_attributes,
    parse_messages,
    parse_number,
    text,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has netlink")


numbers = st.integers(0, 0xFFFF)
messages = st.builds(Message, numbers, numbers, st.integers(0, 0xFFFFFFFF), st.binary())
attributes = st.tuples(st.integers(0, 0x3FFF), st.binary())


@given(st.lists(messages))
def test_messages_read_as_written(written: list[Message]) -> None:
    """Messages of any length, one after the other, come out as they went in."""
    data = b"".join(message(kind, flags, sequence, body) for kind, flags, sequence, body in written)

    assert 0 == len(data) % 4
    assert written == parse_messages(data)


@given(st.lists(attributes))
def test_attributes_read_as_written(written: list[tuple[int, bytes]]) -> None:
    """Attributes of any length, one after the other, come out as they went in."""
    data = b"".join(attribute(kind, value) for kind, value in written)

    assert 0 == len(data) % 4
    assert written == parse_attribute_list(data)
    assert dict(written) == parse_attributes(data)


def test_nested_attributes_are_marked_and_read_alike() -> None:
    """A nested attribute says so in its kind, which readers do not see."""
    data = nested(4, be16(1, 0x1234), be32(2, 5), be64(3, 6), text(4, "ip"))

    assert 0x8004 == struct.unpack_from("=H", data, 2)[0]
    assert {
        1: b"\x12\x34",
        2: b"\0\0\0\5",
        3: b"\0\0\0\0\0\0\0\6",
        4: b"ip\0",
    } == parse_attributes(parse_attributes(data)[4])


def test_last_attribute_needs_no_padding() -> None:
    """The kernel does not pad the last attribute of a message, a packet say."""
    assert {1: b"abc"} == parse_attributes(attribute(1, b"abc")[:-1])


def test_attribute_has_a_longest() -> None:
    """What is too long for the 16 bits of a length is refused before it is sent, and no less."""
    assert 0x10000 == len(attribute(1, bytes(0xFFFB)))
    with pytest.raises(NetlinkError, match="too many"):
        attribute(1, bytes(0xFFFC))


@pytest.mark.parametrize("claim", [0, 15, 21, 0xFFFFFFFF])
def test_message_with_a_wrong_length_is_refused(claim: int) -> None:
    """A length below the header's or beyond what came is an error, not an endless loop."""
    with pytest.raises(NetlinkError, match=f"claims {claim} octets"):
        parse_messages(struct.pack("=IHHII", claim, 0, 0, 0, 0) + b"four")


@pytest.mark.parametrize("claim", [0, 3, 9, 0xFFFF])
def test_attribute_with_a_wrong_length_is_refused(claim: int) -> None:
    """A length below the header's or beyond what came is an error, not an endless loop."""
    with pytest.raises(NetlinkError, match=f"claims {claim} octets"):
        parse_attributes(struct.pack("=HH", claim, 1) + b"four")


@given(st.binary(), st.integers(0, 20))
def test_any_octets_are_read_or_refused(data: bytes, start: int) -> None:
    """Whatever comes, reading it ends, and raises nothing but NetlinkError."""
    for read in (parse_messages, parse_attributes, lambda data: parse_attributes(data, start)):
        try:
            read(data)
        except NetlinkError:
            pass


@given(messages)
def test_any_answer_is_read_or_refused(answer: Message) -> None:
    """An answer may be anything, and is read, or raises nothing but NetlinkError."""
    try:
        read = parse_acknowledgement(answer)
    except NetlinkError:
        return

    assert read.code >= 0


@given(st.binary(), st.integers(0, 9))
def test_number_of_another_size_is_refused(value: bytes, octets: int) -> None:
    """A number is read if it has as many octets as it must have."""
    if len(value) == octets:
        assert value == parse_number(value, octets).to_bytes(octets, "big")
    else:
        with pytest.raises(NetlinkError, match="octets"):
            parse_number(value, octets)


@given(st.integers(0, 4095), st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_answer_is_read_with_or_without_the_question(code: int, words: str) -> None:
    """The kernel's words are found after the header of what was asked, or after all of it."""
    said = attribute(1, words.encode() + b"\0")
    asked = message(7, 1, 1, b"12345678")
    short = struct.pack("=i", -code) + asked[:16] + said
    long = struct.pack("=i", -code) + asked + said

    assert Acknowledgement(code, words) == parse_acknowledgement(Message(2, 0x300, 1, short))
    assert Acknowledgement(code, words) == parse_acknowledgement(Message(2, 0x200, 1, long))
    assert Acknowledgement(code, "") == parse_acknowledgement(Message(2, 0x100, 1, short))


def test_positive_answer_is_none() -> None:
    """An errno comes negated; anything else is no answer."""
    with pytest.raises(NetlinkError, match="5 is no answer"):
        parse_acknowledgement(Message(2, 0, 1, struct.pack("=i", 5) + bytes(16)))
