"""Sockets to the kernel's network code, and what becomes of what is asked."""

from __future__ import annotations

import errno
import pickle
import socket
import sys
from contextlib import closing

import pytest

from tests.helpers.gated import tables_of
from tests.helpers.namespaces import in_own_namespace
from trio_wsk.transports.linux._messages import (
    CREATE,
    DUMP,
    EXCLUSIVE,
    REQUEST,
    Change,
    message,
    nested,
    netfilter_header,
    text,
)
from trio_wsk.transports.linux._netlink import (
    NETFILTER,
    SOCK_DIAG,
    KernelRefusedError,
    NetlinkSocket,
    OverrunError,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has netlink")

NFTABLES = 10
NEW_TABLE, GET_TABLE, NEW_CHAIN = 0, 1, 3
IPV4 = 2


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
