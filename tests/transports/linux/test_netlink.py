"""How the kernel is spoken to, and what is made of its answers, or of anybody's."""

from __future__ import annotations

import errno
import pickle
import socket
import struct
import sys
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.gated import tables_of
from tests.helpers.namespaces import in_own_namespace
from trio_wsk.transports.linux._messages import (
    CREATE,
    DUMP,
    EXCLUSIVE,
    REQUEST,
    Acknowledgement,
    Change,
    Message,
    NetlinkError,
    attribute,
    be16,
    be32,
    be64,
    message,
    nested,
    netfilter_header,
    parse_acknowledgement,
    parse_attribute_list,
    parse_attributes,
    parse_messages,
    parse_number,
    text,
)
from trio_wsk.transports.linux._netlink import (
    NETFILTER,
    SOCK_DIAG,
    KernelRefusedError,
    NetlinkSocket,
    OverrunError,
)
from trio_wsk.transports.linux._numbered import likely_numbers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has netlink")

UNHURRIED = settings(deadline=None)  # the machine may be busy

NFTABLES = 10
NEW_TABLE, GET_TABLE, NEW_CHAIN = 0, 1, 3
IPV4 = 2

numbers = st.integers(0, 0xFFFF)
messages = st.builds(Message, numbers, numbers, st.integers(0, 0xFFFFFFFF), st.binary())
attributes = st.tuples(st.integers(0, 0x3FFF), st.binary())


# ------------------------------------------------------------------------------- framing


@UNHURRIED
@given(st.lists(messages))
def test_messages_read_as_written(written: list[Message]) -> None:
    """Messages of any length, one after the other, come out as they went in."""
    data = b"".join(message(kind, flags, sequence, body) for kind, flags, sequence, body in written)

    assert 0 == len(data) % 4
    assert written == parse_messages(data)


@UNHURRIED
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


@UNHURRIED
@given(st.binary(), st.integers(0, 20))
def test_any_octets_are_read_or_refused(data: bytes, start: int) -> None:
    """Whatever comes, reading it ends, and raises nothing but NetlinkError."""
    for read in (parse_messages, parse_attributes, lambda data: parse_attributes(data, start)):
        try:
            read(data)
        except NetlinkError:
            pass


@UNHURRIED
@given(messages)
def test_any_answer_is_read_or_refused(answer: Message) -> None:
    """An answer may be anything, and is read, or raises nothing but NetlinkError."""
    try:
        read = parse_acknowledgement(answer)
    except NetlinkError:
        return

    assert read.code >= 0


@UNHURRIED
@given(st.binary(), st.integers(0, 9))
def test_number_of_another_size_is_refused(value: bytes, octets: int) -> None:
    """A number is read if it has as many octets as it must have."""
    if len(value) == octets:
        assert value == parse_number(value, octets).to_bytes(octets, "big")
    else:
        with pytest.raises(NetlinkError, match="octets"):
            parse_number(value, octets)


@UNHURRIED
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


# ------------------------------------------------------------------------------- the kernel


def test_error_names_step_reason_words_and_help() -> None:
    """The text of a refusal says what, why, in whose words and what would help; it pickles."""
    error = KernelRefusedError("open the gate", errno.EPERM, "no way", "ask nicely")

    assert (
        "could not open the gate: Operation not permitted (EPERM, 'no way'); ask nicely"
        == str(error)
        == str(pickle.loads(pickle.dumps(error)))  # noqa: S301 - our own
    )


def test_unknown_protocol_is_refused() -> None:
    """A protocol that the kernel lacks is an error that says so, and leaks no descriptor."""
    with pytest.raises(KernelRefusedError, match=r"could not open .* protocol 31.*EPROTONOSUPP"):
        NetlinkSocket(31)


def test_closed_socket_refuses() -> None:
    """A closed socket has no descriptor; using it is an error, closing it again is none."""
    netlink = NetlinkSocket(SOCK_DIAG)
    netlink.close()
    netlink.close()

    assert -1 == netlink.fileno()
    with pytest.raises(KernelRefusedError, match="EBADF"):
        netlink.receive(1)
    with pytest.raises(KernelRefusedError, match=r"could not try: .*EBADF"):
        netlink.request(20, b"", step="try")


def test_missing_capability_is_named(ordinary_user: None) -> None:
    """Without CAP_NET_ADMIN netfilter refuses everything, and the error says what is missing."""
    with closing(NetlinkSocket(NETFILTER)) as netlink:
        with pytest.raises(KernelRefusedError, match=r"could not look: .*EPERM.*CAP_NET_ADMIN"):
            netlink.request(NFTABLES << 8 | GET_TABLE, netfilter_header(0), step="look")
        with pytest.raises(KernelRefusedError, match=r"EPERM.*CAP_NET_ADMIN"):
            netlink.batch(NFTABLES, [table("never")])


def table(name: str, flags: int = CREATE) -> Change:
    """Write the step that makes a table."""
    return Change(f"make the table {name!r}", NEW_TABLE, flags, IPV4, text(1, name))


def chain(in_table: str) -> Change:
    """Write the step that makes a chain."""
    attributes = text(1, in_table) + text(3, "chain")
    hints = {errno.ENOENT: "make the table first"}
    return Change("make a chain", NEW_CHAIN, CREATE, IPV4, attributes, hints)


@in_own_namespace
def test_batch_is_done_as_a_whole() -> None:
    """All steps of a batch are done, and a socket can do several batches."""
    with closing(NetlinkSocket(NETFILTER)) as netlink:
        netlink.batch(NFTABLES, [table("one"), table("two")])
        netlink.batch(NFTABLES, [table("three")])

    assert {"one", "two", "three"} == {*tables_of(IPV4)}


@in_own_namespace
def test_refused_batch_names_its_first_wrong_step_and_does_nothing() -> None:
    """One wrong step and nothing is done; the error is that step's, with its help."""
    with closing(NetlinkSocket(NETFILTER)) as netlink:
        steps = [table("one"), chain("nowhere"), table("two"), table("two", EXCLUSIVE)]
        with pytest.raises(KernelRefusedError) as caught:
            netlink.batch(NFTABLES, steps)
        error = caught.value

        assert ("make a chain", errno.ENOENT) == (error.step, error.code)
        assert "make the table first" == error.hint
        assert [] == tables_of(IPV4)

        netlink.batch(NFTABLES, [table("one")])  # no answer of the first batch is left

        assert ["one"] == tables_of(IPV4)


@in_own_namespace
def test_what_an_interrupted_request_has_left_is_no_answer_to_a_batch() -> None:
    """Answers to what somebody has asked before, and not read, are passed over."""
    with closing(NetlinkSocket(NETFILTER)) as netlink:
        netlink.batch(NFTABLES, [table("one")])
        dump = message(NFTABLES << 8 | GET_TABLE, REQUEST | DUMP, 4711, netfilter_header(IPV4))
        netlink.send(dump, step="ask")
        netlink.batch(NFTABLES, [table("two")])

        assert {"one", "two"} == {*tables_of(IPV4)}


@in_own_namespace
def test_unknown_subsystem_is_refused_as_a_whole() -> None:
    """A batch for something that the kernel lacks is refused, with the help for the whole."""
    hints = {errno.EOPNOTSUPP: "buy a bigger one"}
    with (
        closing(NetlinkSocket(NETFILTER)) as netlink,
        pytest.raises(KernelRefusedError, match=r"batch of changes.*; buy a bigger one"),
    ):
        netlink.batch(6, [table("one")], hints=hints)


@in_own_namespace
def test_kernel_says_more_where_it_can() -> None:
    """The kernel's own words (extended ACK) are part of the error."""
    # A device of a kind that there is not: RTM_NEWLINK.
    body = bytes(16) + text(3, "x") + nested(18, text(1, "no-such-kind"))
    with closing(NetlinkSocket(0)) as routes, pytest.raises(KernelRefusedError) as caught:
        routes.request(16, body, flags=CREATE, step="make a device")

    assert "Unknown device type" == caught.value.words
    assert "'Unknown device type'" in str(caught.value)


@in_own_namespace
def test_dump_ends_without_an_answer_of_its_own() -> None:
    """A dump yields what there is, and needs no other end than its own."""
    with closing(NetlinkSocket(NETFILTER)) as netlink:
        netlink.batch(NFTABLES, [table(f"table{number}") for number in range(200)])

    assert 200 == len(tables_of(IPV4))


@in_own_namespace
def test_other_processes_are_not_taken_for_the_kernel() -> None:
    """A message that another socket sends is counted as malformed, and read by nobody."""
    with (
        closing(NetlinkSocket(NETFILTER)) as netlink,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as other,
    ):
        other.sendto(message(3 << 8, 0, 0, bytes(4)), (netlink.port_id, 0))

        assert [] == netlink.receive(5)
        assert 1 == netlink.malformed


@in_own_namespace
def test_what_comes_unasked_is_kept() -> None:
    """What arrives while an answer is waited for is not lost: it is received later."""
    with closing(NetlinkSocket(NETFILTER)) as netlink:
        look = message(NFTABLES << 8 | GET_TABLE, 5, 77, netfilter_header(0))
        netlink.send(look, step="ask without reading the answer")
        netlink.request(
            NFTABLES << 8 | GET_TABLE, netfilter_header(0), flags=DUMP, step="ask again"
        )

        assert [77] == [incoming.sequence for incoming in netlink.receive(5)]
        assert [] == netlink.receive(5)


@in_own_namespace
def test_overrun_of_an_answer_is_an_error() -> None:
    """Answers that do not fit the receive buffer are an error of the request, not a guess."""
    steps = [chain(f"nowhere{number}") for number in range(100)]
    with closing(NetlinkSocket(NETFILTER)) as netlink:
        netlink.set_receive_buffer(1)
        with pytest.raises(KernelRefusedError, match=r"batch of changes.*ENOBUFS") as caught:
            netlink.batch(NFTABLES, steps)

    assert isinstance(caught.value.__cause__, OverrunError)


def test_likely_numbers_are_valid_and_differ() -> None:
    """A process has a few dozen numbers to try, none of them a low one."""
    found = [*likely_numbers()]

    assert len({*found}) == len(found)
    assert all(1024 <= number <= 0xFFFF for number in found)
