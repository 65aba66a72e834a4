"""What goes wrong before the handshake: others' rules, and kernels that can not do it."""

from __future__ import annotations

import codecs
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from tests.helpers.gated import LOOPBACK, SYN_SENT, state_of, tables_of
from tests.helpers.gated_clients import (
    ANSWERED,
    REFUSED,
    Clients,
    address_of,
    answer_to,
    gated,
    nothing_is_left,
    pended,
    place_of,
    senders,
    take,
    transport_of,
)
from tests.helpers.inspecting import ACCEPT, REJECT
from tests.helpers.namespaces import in_own_namespace
from tests.helpers.scarcity import no_more_descriptors, open_descriptors
from tests.helpers.wire import Capture
from trio_wsk import (
    Address,
    InspectPoint,
    InspectPointError,
    InvalidParameterError,
    Status,
    open_listening_socket,
)
from trio_wsk._vocabulary.verdict import AbortReason
from trio_wsk.transports import LinuxTransport
from trio_wsk.transports.linux._expressions import DROP, segment_to, verdict
from trio_wsk.transports.linux._messages import CREATE, Change, be32, nested, text
from trio_wsk.transports.linux._netlink import NETFILTER, NetlinkSocket
from trio_wsk.transports.linux._nfqueue import Queue
from trio_wsk.transports.linux._numbered import likely_numbers

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

BEFORE = InspectPoint.BEFORE_HANDSHAKE
HOST = LOOPBACK[0]
ALL_TABLES, IPV4 = 0, 2

NFTABLES = 10
NEW_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE = 0, 2, 3, 6

both_families = pytest.mark.parametrize("host", LOOPBACK)


class Firewall:
    """Somebody else's table: one chain with a hook, before ours, which drops what it is told to."""

    def __init__(self, priority: int = 0) -> None:
        self._socket = NetlinkSocket(NETFILTER)
        self._name = text(1, "firewall")
        self._hook = nested(4, be32(1, 1), be32(2, priority))  # input
        self._make()

    def _make(self) -> None:
        chain = self._name + text(3, "input") + self._hook + text(7, "filter")
        self._batch(
            Change("make a table", NEW_TABLE, CREATE, IPV4, self._name),
            Change("make a chain", NEW_CHAIN, CREATE, IPV4, chain),
        )

    def reload(self) -> None:
        """Take the table away, and make it anew."""
        self.remove()
        self._make()

    def _batch(self, *steps: Change) -> None:
        self._socket.batch(NFTABLES, steps)

    def drop(self, place: Address) -> None:
        """Drop what comes for an address."""
        drop = nested(4, *segment_to(place, of_flags=0, flags=0), verdict(DROP))
        rule = self._name + text(2, "input") + drop
        self._batch(Change("make a rule", NEW_RULE, CREATE, IPV4, rule))

    def remove(self) -> None:
        """Take the table away, and with it the chain with a hook."""
        self._batch(Change("delete a table", DELETE_TABLE, 0, IPV4, self._name))

    def flush_ruleset(self) -> None:
        """Do what ``nft flush ruleset`` does, with that program if there is one."""
        nft = shutil.which("nft")
        if nft is not None:
            subprocess.run([nft, "flush", "ruleset"], check=True)  # noqa: S603 - as its user would
        self._batch(Change("flush the ruleset", DELETE_TABLE, 0, ALL_TABLES, b""))

    def close(self) -> None:
        """Let go; what was made stays."""
        self._socket.close()


# --------------------------------------------------------------------------- others' rules


@both_families
@in_own_namespace
async def test_flushed_ruleset_does_not_open_the_gate(host: str) -> None:
    """After ``nft flush ruleset`` by somebody else whoever comes is still asked about."""
    with Clients() as clients, closing(Firewall()) as firewall:
        async with gated(REJECT, host=host) as desk:
            ours = tables_of(ALL_TABLES)
            firewall.flush_ruleset()

            assert ["firewall"] == [name for name in ours if name not in tables_of(ALL_TABLES)]
            assert "ECONNREFUSED" == await answer_to(clients.one(place_of(desk)))
            assert 1 == desk.statistics().inspected


@pytest.mark.parametrize("answer", [ACCEPT, REJECT])
@in_own_namespace
async def test_requests_outlive_that_the_kernel_drops_their_packets(answer: Any) -> None:
    """
    Who removes a chain with a hook has the kernel drop all that is held. The requests are still
    pended, and what they are answered is said to their next SYN; nobody is asked again.
    """
    with Clients() as clients, closing(Firewall()) as firewall:
        async with gated() as desk:
            with Capture("lo", place_of(desk).port) as capture:
                client = clients.one(place_of(desk))
                await pended(desk)
                firewall.remove()
                status = desk.complete(desk.asked[0], answer)

                assert Status.SUCCESS == status
                assert ("" if answer is ACCEPT else "ECONNREFUSED") == await answer_to(client)
                if answer is ACCEPT:
                    assert [address_of(client)] == await take(desk)

                lines = ["client SYN", *(ANSWERED[:2] if answer is ACCEPT else REFUSED)]
                assert lines == capture.exchange(address_of(client))[:3]
                assert 1 == transport_of(desk)["verdicts_late"]
                assert 1 == len(desk.asked)


@in_own_namespace
async def test_peer_that_left_is_missed_when_the_kernel_drops_its_packet() -> None:
    """Approved when the kernel had dropped its SYN, who does not send another one has left."""
    with Clients() as clients, closing(Firewall()) as firewall:
        async with gated() as desk:
            client = clients.one(place_of(desk))
            await pended(desk)
            client.close()
            firewall.remove()
            desk.complete(desk.asked[0], ACCEPT)

            assert AbortReason.SILENT is (await desk.aborted()).reason
            assert 1 == transport_of(desk)["verdicts_late"]


@pytest.mark.parametrize("age", ["older", "newer"])
@pytest.mark.parametrize(
    "priority", [0, 10, 50], ids=["nft and iptables", "firewalld", "iptables' security"]
)
@in_own_namespace
async def test_host_firewall_comes_first(priority: int, age: str) -> None:
    """
    A SYN that a rule of the host's drops is no request, until the rule has gone; whichever
    firewall has made it, and whether that was started before us or reloaded since.
    """
    with Clients() as clients, closing(Firewall(priority)) as firewall:
        async with gated(ACCEPT) as desk:
            if age == "newer":
                firewall.reload()
            firewall.drop(place_of(desk))
            client = clients.one(place_of(desk))
            await wait_all_tasks_blocked()

            assert (SYN_SENT, 0, 0) == (
                state_of(client),
                len(desk.asked),
                transport_of(desk)["held"],
            )

            firewall.remove()

            assert "" == await answer_to(client)
            assert [address_of(client)] == await take(desk) == senders(desk.asked)


# ------------------------------------------------------------------------ where it can't be had


@pytest.fixture
def free_port() -> int:
    """Find a port that nobody has."""
    codecs.lookup("idna")  # imported late, and perhaps from where root only may read
    with socket.create_server((HOST, 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.usefixtures("no_leak")
async def test_missing_capability_is_named(free_port: int, ordinary_user: None) -> None:
    """
    Without the right to it the error says which step failed and what is needed; the port is free
    again.
    """
    wanted = r"before the handshake: could not use the kernel's packet queues: .*CAP_NET_ADMIN"
    with pytest.raises(InspectPointError, match=wanted):
        async with gated(ACCEPT, free_port):
            pass

    with socket.create_server((HOST, free_port)):
        pass


@in_own_namespace
async def test_too_few_descriptors_are_named_and_leave_nothing() -> None:
    """
    With too few descriptors there is no listening socket, whichever step needs the next one; the
    error says what there is too little of, and nothing is left.
    """
    before = open_descriptors()
    refused = []
    for count in range(20):
        try:
            with no_more_descriptors(but=count):
                async with gated(ACCEPT):
                    break
        except (InspectPointError, OSError) as error:
            refused.append(type(error))

            assert "Too many open files" in str(error)  # noqa: PT017 - of many the last works
        await wait_all_tasks_blocked()  # the task ends that reads SYNs
        assert (before, True) == (open_descriptors(), nothing_is_left())

    assert 3 <= refused.count(InspectPointError)
    assert len(refused) < 20


@in_own_namespace
async def test_taken_queue_numbers_are_named() -> None:
    """If others have all the numbers that are tried the error says so, and nothing is left."""
    with ExitStack() as stack:
        for number in likely_numbers():
            stack.callback(Queue(numbers=[number]).close)
        with pytest.raises(InspectPointError, match=r"bind any of 64 packet queues.*other proc"):
            async with gated(ACCEPT):
                pass

    assert nothing_is_left()


async def test_unix_sockets_have_no_handshake() -> None:
    """A path can't be inspected before the handshake, nor can a Unix socket that is adopted."""
    with pytest.raises(InspectPointError, match="Unix socket's: it has no handshake"):
        async with gated(ACCEPT, None, path="\0trio_wsk-no-handshake"):
            pass
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("\0trio_wsk-no-handshake")
    with pytest.raises(InspectPointError, match="is a Unix socket: it has no handshake"):
        async with gated(ACCEPT, None, sockets=[listening]):
            pass


async def test_port_can_not_be_shared() -> None:
    """``reuse_port=True`` is refused, and the error says what to do instead."""
    with pytest.raises(InvalidParameterError, match="have one process inspect"):
        async with gated(ACCEPT, reuse_port=True):
            pass


@pytest.mark.parametrize(
    ("level", "option", "value", "says"),
    [
        (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1, "may be shared"),
        (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0", "is bound to one device"),
    ],
    ids=["shared", "one device"],
)
@in_own_namespace
async def test_adopted_socket_whose_syns_are_not_its_own_is_refused(
    level: int, option: int, value: Any, says: str
) -> None:
    """A gate holds what comes to an address, and others would have a part of it."""
    listening = socket.socket()
    listening.setsockopt(level, option, value)
    listening.bind((HOST, 0))
    with pytest.raises(InspectPointError, match=says):
        async with gated(ACCEPT, None, sockets=[listening]):
            pass

    assert nothing_is_left()


@pytest.mark.parametrize("inspect", [None, lambda _: ACCEPT])
async def test_transport_wants_to_be_asked_for_what_it_does(inspect: Any) -> None:
    """`LinuxTransport` without the inspect point that it has is refused, inspector or not."""
    listening = socket.create_server((HOST, 0))
    transport = LinuxTransport.adopt([listening])
    with pytest.raises(InspectPointError, match=r"give inspect_point=InspectPoint\.BEFORE"):
        async with open_listening_socket(transport=transport, inspect=inspect):
            pass

    assert -1 == listening.fileno()


@pytest.mark.parametrize("rate", [0, -1, 1.5, True, "1", 1 << 32])
def test_rate_is_checked(rate: Any) -> None:
    """A limit that is no rate is refused at once."""
    with pytest.raises(InvalidParameterError, match="is no rate; write"):
        LinuxTransport.tcp(0, most_syns_per_second=rate)
    with closing(socket.create_server((HOST, 0))) as listening:
        with pytest.raises(InvalidParameterError, match="is no rate; write"):
            LinuxTransport.adopt([listening], most_syns_per_second=rate)

        assert -1 == listening.fileno()
