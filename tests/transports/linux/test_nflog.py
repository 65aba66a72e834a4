"""Copies of resets: seen while a SYN is held, whoever sent them, without holding them."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.gated import (
    ACK,
    LOOPBACK,
    RST,
    SYN,
    SYN_SENT,
    Gated,
    answer_to,
    has_come,
    segment_of,
    state_of,
)
from tests.helpers.namespaces import as_ordinary_user, in_own_namespace
from tests.helpers.resetting import close_with_reset
from tests.helpers.wire import send_segment
from trio_wsk._vocabulary.addresses import Address
from trio_wsk.transports.linux._messages import Message, NetlinkError, attribute, netfilter_header
from trio_wsk.transports.linux._netlink import KernelRefusedError
from trio_wsk.transports.linux._nflog import PacketLog, parse_logged

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has NFLOG"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

both_families = pytest.mark.parametrize("host", LOOPBACK)


def reset_while_held(host: str) -> None:
    """Hold a SYN, and have its sender's address send a reset."""
    with closing(PacketLog()) as log, Gated(host, reset_group=log.number) as gated:
        client = gated.client()
        port, _, _, sequence = segment_of(gated.packet().payload)
        send_segment(Address.tcp(host, port), gated.address, RST, sequence + 1)

        assert has_come(log)
        (packet,) = log.receive()
        assert (port, gated.address.port, RST, sequence + 1) == segment_of(packet.payload)
        assert SYN_SENT == state_of(client)
        assert [] == gated.queue.receive()


@both_families
@in_own_namespace
def test_reset_is_seen_while_the_syn_is_held(host: str) -> None:
    """A reset with the SYN's ports and next sequence number is told at once, and not queued."""
    reset_while_held(host)


@as_ordinary_user
def test_ordinary_user_sees_resets_in_a_namespace_of_its_own() -> None:
    """No rights outside are needed."""
    for host in LOOPBACK:
        reset_while_held(host)


@both_families
@in_own_namespace
def test_only_resets_are_copied(host: str) -> None:
    """SYNs, data and acknowledgements are not copied; the reset of a connection is."""
    with closing(PacketLog()) as log, Gated(host, reset_group=log.number) as gated:
        client = gated.client()
        gated.accept()
        assert "" == answer_to(client)
        connection, peer = gated.listening.accept()
        with connection:
            client.send(b"some data")
            connection.recv(100)
            assert [] == log.receive()

            close_with_reset(client)
            assert has_come(log)
            (packet,) = log.receive()

        port, _, flags, _ = segment_of(packet.payload)
        assert (peer[1], RST) == (port, flags & (RST | SYN))
        assert RST | ACK | flags == RST | ACK


@in_own_namespace
def test_log_of_another_owner_is_refused() -> None:
    """A number that is taken is refused; the next one is tried; closing gives it back."""
    first = PacketLog(numbers=[4711])
    with pytest.raises(KernelRefusedError, match=r"bind packet log 4711: .*EPERM"):
        PacketLog(numbers=[4711])
    second = PacketLog(numbers=[4711, 4712])

    assert (4711, 4712, "<PacketLog 4712>") == (first.number, second.number, repr(second))

    child = subprocess.Popen(
        ["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[first.fileno()]
    )
    first.close()
    first.close()
    PacketLog(numbers=[4711]).close()
    child.communicate()
    second.close()

    assert -1 == second.fileno()


@in_own_namespace
def test_overflow_of_the_log_is_counted() -> None:
    """Resets that do not fit the receive buffer are lost, counted, and hold nobody up."""
    with (
        closing(PacketLog(receive_buffer=1)) as log,
        Gated("127.0.0.1", reset_group=log.number) as gated,
    ):
        for port in range(20):
            send_segment(Address.tcp("127.0.0.1", 1 + port), gated.address, RST)

        assert 0 < len(log.receive()) < 20
        assert (1, 0) == (log.overruns, log.malformed)


@both_families
@in_own_namespace
def test_resets_beyond_the_limit_are_counted_and_not_copied(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel keeps a flood of them from us; what it keeps back it counts."""
    monkeypatch.setattr("trio_wsk.transports.linux._rules.RESETS_PER_SECOND", 1)
    with closing(PacketLog()) as log, Gated(host, reset_group=log.number) as gated:
        start = monotonic()
        for port in range(20):
            send_segment(Address.tcp(host, 1 + port), gated.address, RST)
        most = 2 + monotonic() - start
        copied = len(log.receive())

        assert 1 <= copied <= most
        assert (0, 0, 20 - copied, 0, 0) == gated.gate.counters()


@in_own_namespace
def test_what_is_no_packet_is_counted() -> None:
    """What is no packet, or none of a log's, is counted and does not end the log."""
    with closing(PacketLog()) as log:
        netlink = log._socket  # noqa: SLF001 - the kernel sends no such things
        netlink._unasked += [  # noqa: SLF001
            Message(4 << 8, 0, 0, b"short"),
            Message(99, 0, 0, b""),
        ]

        assert [] == log.receive()
        assert 2 == log.malformed


@given(st.binary(max_size=200))
def test_any_octets_are_a_logged_packet_or_refused(body: bytes) -> None:
    """Whatever comes, reading it raises nothing but NetlinkError."""
    try:
        parse_logged(body)
    except NetlinkError:
        pass


def test_log_without_a_packet_is_refused() -> None:
    """A message that has everything but the packet is an error."""
    with pytest.raises(NetlinkError, match="no packet"):
        parse_logged(netfilter_header(2) + attribute(1, b"\x08\0\1\0"))
