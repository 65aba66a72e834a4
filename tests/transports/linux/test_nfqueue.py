"""One queue: who owns it, what comes out of it, what becomes of what came, what overflows."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.blocking_peers import spin_until
from tests.helpers.gated import LOOPBACK, SYN, SYN_SENT, Gated, answer_to, segment_of, state_of
from tests.helpers.namespaces import as_ordinary_user, in_own_namespace
from trio_wsk.transports.linux._messages import (
    Message,
    NetlinkError,
    attribute,
    be32,
    message,
    netfilter_header,
)
from trio_wsk.transports.linux._netlink import NETFILTER, KernelRefusedError
from trio_wsk.transports.linux._nfqueue import (
    Packet,
    PacketVerdict,
    Queue,
    QueueCounters,
    parse_counters,
    parse_packet,
)
from trio_wsk.transports.linux._rules import REJECT_MARK

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has NFQUEUE"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

both_families = pytest.mark.parametrize("host", LOOPBACK)


# ------------------------------------------------------------------------------- verdicts


@both_families
@in_own_namespace
def test_held_client_has_no_answer_until_the_verdict(host: str) -> None:
    """While its SYN is held the client waits and nobody can accept it; accepted, it connects."""
    with Gated(host) as gated:
        client = gated.client()
        packet = gated.packet()

        assert (SYN_SENT, True) == (state_of(client), gated.nobody_came())
        assert (1, 0, 0, 1) == gated.counters()

        gated.queue.verdict(packet.packet_id, PacketVerdict.ACCEPT)

        assert SYN_SENT == state_of(client)  # a verdict is said with all others

        gated.queue.flush()

        assert "" == answer_to(client)
        connection, _ = gated.listening.accept()
        connection.close()

        assert (0, 0, 0, 1) == gated.counters()


@both_families
@in_own_namespace
def test_rejected_client_is_refused(host: str) -> None:
    """A SYN that goes on with the mark is answered with a reset: ECONNREFUSED."""
    with Gated(host) as gated:
        client = gated.client()
        gated.reject()

        assert "ECONNREFUSED" == answer_to(client)
        assert gated.nobody_came()


@both_families
@in_own_namespace
def test_dropped_client_tries_again(host: str) -> None:
    """A dropped SYN has no answer: its client sends it again, and may be let in then."""
    with Gated(host) as gated:
        client = gated.client()
        first = gated.decide(PacketVerdict.DROP)
        second = gated.packet()

        assert SYN_SENT == state_of(client)
        assert segment_of(first.payload) == segment_of(second.payload)
        assert first.packet_id < second.packet_id

        gated.queue.verdict(second.packet_id, PacketVerdict.ACCEPT)
        gated.queue.flush()

        assert "" == answer_to(client)


@in_own_namespace
def test_repeated_packet_comes_back() -> None:
    """A packet that starts again at the same chain is queued again, under another id."""
    with Gated("127.0.0.1") as gated:
        client = gated.client()
        first = gated.decide(PacketVerdict.REPEAT)
        second = gated.accept()

        assert first.packet_id + 1 == second.packet_id
        assert first.payload == second.payload
        assert "" == answer_to(client)


@in_own_namespace
def test_second_verdict_changes_nothing() -> None:
    """Who has been let in stays in whatever is said later; the kernel's "no such" is counted."""
    late: list[int] = []
    with Gated("127.0.0.1", queue={"on_late": late.append}) as gated:
        client = gated.client()
        packet = gated.packet()
        gated.queue.verdict(packet.packet_id, PacketVerdict.ACCEPT)
        gated.queue.verdict(packet.packet_id, PacketVerdict.DROP)
        gated.queue.flush()
        gated.queue.verdict(packet.packet_id, PacketVerdict.ACCEPT, REJECT_MARK)
        gated.queue.flush()

        assert "" == answer_to(client)
        assert [] == gated.queue.receive()
        assert (2, 0) == (gated.queue.late_verdicts, gated.queue.malformed)
        assert [packet.packet_id] * 2 == late


@in_own_namespace
def test_verdicts_are_said_together() -> None:
    """Verdicts of all kinds and in any order go to the kernel at once."""
    with Gated("127.0.0.1") as gated:
        clients = [gated.client() for _ in range(9)]
        packets = {
            segment_of(packet.payload)[0]: packet for packet in (gated.packet() for _ in clients)
        }
        fates = [
            (PacketVerdict.ACCEPT, None),
            (PacketVerdict.ACCEPT, REJECT_MARK),
            (PacketVerdict.DROP, None),
        ]
        for number, client in reversed([*enumerate(clients)]):
            packet = packets[client.getsockname()[1]]
            gated.queue.verdict(packet.packet_id, *fates[number % 3])
        gated.queue.flush()

        assert [""] * 3 == [answer_to(client) for client in clients[::3]]
        assert ["ECONNREFUSED"] * 3 == [answer_to(client) for client in clients[1::3]]
        assert [SYN_SENT] * 3 == [state_of(client) for client in clients[2::3]]


@in_own_namespace
def test_any_number_of_verdicts_is_said() -> None:
    """More verdicts than one send can take are said by several; none is lost."""
    with Gated("127.0.0.1") as gated:
        client = gated.client()
        packet = gated.packet()
        for absent in range(2, 6000):  # 280 KiB: a socket takes 208 at once, as a rule
            gated.queue.verdict(absent, PacketVerdict.DROP, REJECT_MARK)
        gated.queue.verdict(packet.packet_id, PacketVerdict.ACCEPT)
        gated.queue.flush()

        assert "" == answer_to(client)


@in_own_namespace
def test_packet_says_where_it_came_from() -> None:
    """A packet has its id, protocol, mark, interface, link address, and all its headers."""
    with Gated("127.0.0.1") as gated:
        client = gated.client(mark=0x123)
        packet = gated.accept()

        assert (1, 0x0800, 0x123) == packet[:3]
        assert (socket.if_nametoindex("lo"), bytes(6)) == packet[4:]
        assert (client.getsockname()[1], gated.address.port, SYN) == segment_of(packet.payload)[:3]
        assert int.from_bytes(packet.payload[2:4], "big") == len(packet.payload)


@in_own_namespace
def test_no_more_is_copied_than_asked_for() -> None:
    """Of a longer packet only so many octets are shown; its verdict concerns all of it."""
    with Gated("127.0.0.1", queue={"copy_range": 24}) as gated:
        client = gated.client()

        assert 24 == len(gated.accept().payload)
        assert "" == answer_to(client)


@in_own_namespace
def test_batch_of_packets_is_bounded() -> None:
    """No more packets are read at once than asked for; the rest stays for the next time."""
    with Gated("127.0.0.1") as gated:
        for _ in range(5):
            gated.client()

        assert [2, 2, 1, 0] == [len(gated.queue.receive(2)) for _ in range(4)]


# ---------------------------------------------------------------------------------- owners


@in_own_namespace
def test_queue_of_another_owner_is_refused() -> None:
    """A number that is taken is refused, naming it and the reason; the next one is tried."""
    first = Queue(numbers=[4711])
    with pytest.raises(KernelRefusedError, match=r"bind packet queue 4711: .*other processes"):
        Queue(numbers=[4711])
    with pytest.raises(KernelRefusedError, match=r"bind any of 2 packet queues: .*EPERM"):
        Queue(numbers=[4711, 4711])
    second = Queue(numbers=[4711, 4712])

    assert (4711, 4712, "<Queue 4712>") == (first.number, second.number, repr(second))
    first.close()
    second.close()


@in_own_namespace
def test_queues_of_one_process_do_not_collide() -> None:
    """Each queue finds a number for itself."""
    queues = [Queue() for _ in range(5)]
    for queue in queues:
        queue.close()

    assert 5 == len({queue.number for queue in queues})


@in_own_namespace
def test_closed_queue_is_free_at_once() -> None:
    """Closing gives the number back, also if a child has the descriptor; twice does no harm."""
    queue = Queue(numbers=[4711])
    child = subprocess.Popen(
        ["/bin/cat"], stdin=subprocess.PIPE, pass_fds=[queue.fileno()], stdout=subprocess.DEVNULL
    )
    queue.close()
    queue.close()
    Queue(numbers=[4711]).close()
    child.communicate()

    assert -1 == queue.fileno()
    assert queue.counters() is None
    with pytest.raises(KernelRefusedError, match="EBADF"):
        queue.receive()


def test_missing_capability_is_not_taken_for_another_owner(ordinary_user: None) -> None:
    """Without the capability the error says so, and not that 64 numbers are taken."""
    with pytest.raises(KernelRefusedError, match=r"use the kernel's packet queues.*CAP_NET_ADMIN"):
        Queue()


@as_ordinary_user
def test_ordinary_user_has_queues_in_a_namespace_of_its_own() -> None:
    """No rights outside are needed: accept and reject work for both families."""
    assert 0 == os.getuid() != Path("/proc").stat().st_uid
    for host in LOOPBACK:
        with Gated(host) as gated:
            accepted = gated.client()
            gated.accept()
            rejected = gated.client()
            gated.reject()

            assert ("", "ECONNREFUSED") == (answer_to(accepted), answer_to(rejected))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@in_own_namespace
def test_counters_are_not_for_everybody() -> None:
    """Whoever may not read the kernel's table gets None, and no error."""
    queue = Queue()

    assert QueueCounters(0, 0, 0, 0) == queue.counters()
    with nobody():
        assert queue.counters() is None
    queue.close()


@contextmanager
def nobody() -> Iterator[None]:
    """Be no user and in no group that has rights."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


# ------------------------------------------------------------------------------- overflows


@in_own_namespace
def test_full_queue_drops_and_counts() -> None:
    """What exceeds the queue's length is dropped and counted; nobody gets in uninspected."""
    with Gated("127.0.0.1", queue={"max_length": 4}) as gated:
        clients = [gated.client() for _ in range(10)]
        spin_until(lambda: gated.counters()[1] >= 6)

        assert 4 == gated.counters()[0]
        assert gated.nobody_came()
        assert (10, 0, 0, 0, 0) == gated.gate.counters()
        assert [SYN_SENT] * 10 == [state_of(client) for client in clients]

        for _ in clients:  # they try again, and all find room at last
            gated.accept()

        assert [""] * 10 == [answer_to(client) for client in clients]


@in_own_namespace
def test_full_queue_fails_open_only_when_asked() -> None:
    """With fail_open what exceeds the queue's length gets in, uninspected."""
    with Gated("127.0.0.1", queue={"max_length": 1, "fail_open": True}) as gated:
        held, uninspected = gated.client(), gated.client()

        assert "" == answer_to(uninspected)
        assert SYN_SENT == state_of(held)


@in_own_namespace
def test_overflowing_receive_buffer_is_counted() -> None:
    """ENOBUFS is no error but a count; what was lost was dropped, and reading goes on."""
    with Gated("127.0.0.1", queue={"receive_buffer": 1}) as gated:
        clients = [gated.client() for _ in range(20)]
        spin_until(lambda: gated.counters()[2])
        found = gated.queue.receive()

        assert 1 == gated.queue.overruns
        assert 0 < len(found) < 20
        assert gated.nobody_came()

        for packet in found:
            gated.queue.verdict(packet.packet_id, PacketVerdict.ACCEPT)
        gated.queue.flush()
        again = gated.accept()  # one of those that were lost

        assert again.packet_id - len(found) - 1 == gated.queue.lost > 0

        accepted = {segment_of(packet.payload)[0] for packet in (*found, again)}

        assert len(found) + 1 == len(accepted)
        for client in clients:
            if client.getsockname()[1] in accepted:
                assert "" == answer_to(client)


# --------------------------------------------------------------------------------- framing


@in_own_namespace
def test_what_is_no_packet_is_counted() -> None:
    """What is not the kernel's, or no packet, is counted and does not end the queue."""
    queue = Queue()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as other:
        other.sendto(message(3 << 8, 0, 0, bytes(4)), (queue.port_id, 0))
    netlink = queue._socket  # noqa: SLF001 - the kernel sends no such things
    netlink._unasked += [Message(3 << 8, 0, 0, b"short"), Message(99, 0, 0, b"")]  # noqa: SLF001

    assert [] == queue.receive()
    assert 3 == queue.malformed
    queue.close()


@given(st.binary(max_size=200))
def test_any_octets_are_a_packet_or_refused(body: bytes) -> None:
    """Whatever comes, reading it raises nothing but NetlinkError."""
    try:
        parse_packet(body)
    except NetlinkError:
        pass


values = st.binary(max_size=20)


@given(st.lists(st.tuples(st.sampled_from([1, 3, 5, 9, 10]), values)), st.booleans())
def test_any_attributes_are_a_packet_or_refused(
    attributes: list[tuple[int, bytes]],
    has_header: bool,  # noqa: FBT001 - Hypothesis's
) -> None:
    """A packet's attributes may have any size, and be there or not."""
    header = attribute(1, bytes(7)) if has_header else b""
    others = (attribute(*pair) for pair in attributes)
    body = netfilter_header(2) + b"".join(others) + header
    try:
        parse_packet(body)
    except NetlinkError:
        pass


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.binary(), st.binary(max_size=8))
def test_packet_reads_as_written(number: int, mark: int, payload: bytes, link: bytes) -> None:
    """Everything that is told about a packet is read; what is not told is empty or 0."""
    header = attribute(1, struct.pack("!IHB", number, 0x86DD, 1))
    hardware = attribute(9, struct.pack("!H2x8s", len(link), link))
    body = netfilter_header(10) + header + be32(3, mark) + hardware + be32(5, 7)

    assert Packet(number, 0x86DD, mark, payload, 7, link) == parse_packet(
        body + attribute(10, payload)
    )
    assert Packet(number, 0x86DD, 0, b"", 0, b"") == parse_packet(netfilter_header(10) + header)


@given(st.text())
def test_any_text_is_a_table_of_counters_or_refused(table: str) -> None:
    """Whatever the file says, reading it raises nothing but NetlinkError."""
    try:
        parse_counters(table, 1, 1)
    except NetlinkError:
        pass


@pytest.mark.parametrize("line", ["1 2 3", "1 2 3 4 5 6 7 8 nine", "1 2 3 4 5 6 7 8 9 10"])
def test_line_that_is_no_queue_is_refused(line: str) -> None:
    """A line has nine numbers; anything else is an error that shows it."""
    with pytest.raises(NetlinkError, match=f"no line about a queue: '{line}'"):
        parse_counters(f"{line}\n", 1, 1)


def test_counters_are_those_of_the_number_and_its_owner() -> None:
    """A line counts if number and port id are ours: another may have the number after us."""
    table = "    5    123     4 2  2048     6     7        8  1\n"

    assert QueueCounters(4, 6, 7, 8) == parse_counters(table, 5, 123)
    assert parse_counters(table, 5, 124) is None
    assert parse_counters(table, 6, 123) is None
    assert parse_counters("", 5, 123) is None
