"""The rules before a listening socket: what they hold, whose they are, and when they vanish."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from tests.helpers.blocking_peers import spin_until
from tests.helpers.gated import (
    LOOPBACK,
    SYN_SENT,
    Gated,
    answer_to,
    queues,
    segment_of,
    state_of,
    tables_of,
)
from tests.helpers.namespaces import HERE, as_ordinary_user, cabled_namespaces, in_own_namespace
from tests.helpers.support import PATIENCE
from trio_wsk._vocabulary.addresses import Address
from trio_wsk.transports.linux._expressions import (
    DROP,
    expression,
    queue,
    queue_target,
    segment_to,
    verdict,
)
from trio_wsk.transports.linux._messages import CREATE, Change, be32, nested, text
from trio_wsk.transports.linux._netlink import NETFILTER, KernelRefusedError, NetlinkSocket
from trio_wsk.transports.linux._nfqueue import PacketVerdict, Queue
from trio_wsk.transports.linux._nftables import Gatehouse
from trio_wsk.transports.linux._rules import REJECT_MARK

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has nftables"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

NFTABLES = 10
NEW_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE = 0, 2, 3, 6
ALL, IPV4, IPV6 = 0, 2, 10

both_families = pytest.mark.parametrize("host", LOOPBACK)


# ------------------------------------------------------------------------- what is held


@both_families
@in_own_namespace
def test_only_the_first_segment_is_held(host: str) -> None:
    """Of a whole connection, with data and both ends, the SYN alone passes through the queue."""
    with Gated(host) as gated:
        client = gated.client()
        gated.accept()
        assert "" == answer_to(client)
        connection, _ = gated.listening.accept()
        with connection:
            client.settimeout(PATIENCE)
            client.sendall(b"question")
            assert b"question" == connection.recv(100)
            connection.sendall(b"answer")
            assert b"answer" == client.recv(100)
            client.close()
            assert b"" == connection.recv(100)

        assert (0, 0, 0, 1) == gated.counters()


@in_own_namespace
def test_other_addresses_and_ports_are_not_held() -> None:
    """A gate for one address and port has nothing to do with others of the machine."""
    with (
        Gated("127.0.0.1") as gated,
        socket.create_server(("127.0.0.1", 0)) as other_port,
        socket.create_server(("127.0.0.2", gated.address.port)) as other_address,
    ):
        for listening in (other_port, other_address):
            socket.create_connection(listening.getsockname(), PATIENCE).close()

        assert (0, 0, 0, 0) == gated.counters()


@in_own_namespace
def test_unspecified_address_stands_for_its_family() -> None:
    """A gate for ``0.0.0.0`` or ``::`` holds what comes for any address of that family."""
    with Gated("0.0.0.0") as gated:  # noqa: S104 - in a namespace of its own
        client = socket.socket()
        client.settimeout(0)
        client.connect_ex(("127.0.0.9", gated.address.port))
        gated.accept()

        assert "" == answer_to(client)
        client.close()

        with socket.create_server(("::1", gated.address.port), family=socket.AF_INET6) as other:
            socket.create_connection(other.getsockname()[:2], PATIENCE).close()

        assert (0, 0, 0, 1) == gated.counters()


@in_own_namespace
def test_one_gate_stands_before_many_addresses() -> None:
    """Several addresses of both families share a gate, which has one table for each family."""
    queue = Queue()
    listening = [
        socket.create_server((host, 0), family=family)
        for family, host in (
            (socket.AF_INET, "127.0.0.1"),
            (socket.AF_INET, "127.0.0.2"),
            (socket.AF_INET6, "::1"),
        )
    ]
    house = Gatehouse(queue.number)
    house.add(Address.from_sockaddr(sock.family, sock.getsockname()) for sock in listening)

    assert ([house.table], [house.table]) == (tables_of(IPV4), tables_of(IPV6))

    clients = []
    for sock in listening:
        clients.append(socket.socket(sock.family))
        clients[-1].settimeout(0)
        clients[-1].connect_ex(sock.getsockname())

    assert [1, 2, 3] == [packet.packet_id for packet in queue.receive()]
    house.close()
    queue.close()
    for sock in (*listening, *clients):
        sock.close()


@in_own_namespace
def test_ipv4_address_in_ipv6_clothes_is_held() -> None:
    """To the rules ``::ffff:127.0.0.1`` is the IPv4 address that its packets carry."""
    with Gated("::ffff:127.0.0.1") as gated:
        client = gated.client()
        gated.reject()

        assert "ECONNREFUSED" == answer_to(client)
        assert [] == tables_of(IPV6)


@both_families
@in_own_namespace
def test_mark_of_the_host_can_not_reject(host: str) -> None:
    """A SYN that carries our bit already loses it before it is queued; the rest stays."""
    with Gated(host) as gated:
        client = gated.client(mark=REJECT_MARK | 5)
        packet = gated.accept()

        assert 5 == packet.mark
        assert "" == answer_to(client)


@in_own_namespace
def test_host_firewall_comes_first() -> None:
    """What a filter at the usual priority drops is never queued."""
    with Gated("127.0.0.1") as gated, closing(NetlinkSocket(NETFILTER)) as netlink:
        name = text(1, "firewall")
        hook = nested(4, be32(1, 1), be32(2, 0))  # input, priority 0
        chain = name + text(3, "input") + hook + text(7, "filter")
        drop = nested(4, *segment_to(gated.address, of_flags=0, flags=0), verdict(DROP))
        steps = [
            Change("make a table", NEW_TABLE, CREATE, IPV4, name),
            Change("make a chain", NEW_CHAIN, CREATE, IPV4, chain),
            Change("make a rule", NEW_RULE, CREATE, IPV4, name + text(2, "input") + drop),
        ]
        netlink.batch(NFTABLES, steps)
        client = gated.client()
        delete = Change("delete it", DELETE_TABLE, 0, IPV4, name)

        assert ((0, 0, 0, 0), SYN_SENT) == (gated.counters(), state_of(client))

        netlink.batch(NFTABLES, [delete])
        gated.accept()  # the client has tried again

        assert "" == answer_to(client)


def reach_over_the_cable() -> None:
    """Come to gates on one end of a cable from its other end, over every kind of address."""
    with cabled_namespaces() as (_, there):
        index = socket.if_nametoindex("veth0")
        with there.entered():
            index_there = socket.if_nametoindex("veth0")
        for host in HERE:
            is_local = host.startswith("fe80")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with Gated(host, scope_id=index if is_local else 0) as gated:
                scope_id = index_there if is_local else 0
                accepted = gated.client(there.socket(family), scope_id=scope_id)
                packet = gated.accept()
                rejected = gated.client(there.socket(family), scope_id=scope_id)
                gated.reject()
                silenced = gated.client(there.socket(family), scope_id=scope_id)
                gated.decide(PacketVerdict.DROP)

                assert ("", "ECONNREFUSED") == (answer_to(accepted), answer_to(rejected))
                assert SYN_SENT == state_of(silenced)
                assert index == packet.interface
                assert 6 == len(packet.hardware_address)


@in_own_namespace
def test_every_verdict_works_over_a_cable() -> None:
    """
    From another namespace clients are accepted, refused and left without an answer, over
    IPv4, IPv6 and link-local addresses; packets say who sent them, by which interface.
    """
    reach_over_the_cable()


@as_ordinary_user
def test_every_verdict_works_over_an_ordinary_users_cable() -> None:
    """The same works in namespaces that a user without rights has made."""
    reach_over_the_cable()


# ------------------------------------------------------------------------- who comes in


@in_own_namespace
def test_nobody_comes_in_while_nobody_reads() -> None:
    """Without its queue a gate drops all SYNs."""
    with Gated("127.0.0.1") as gated:
        gated.queue.close()
        client = gated.client()

        assert SYN_SENT == state_of(client)
        assert gated.nobody_came()


@in_own_namespace
def test_everybody_comes_in_while_nobody_reads_if_asked_for() -> None:
    """With bypass, and without its queue, a gate lets all SYNs through."""
    with Gated("127.0.0.1", bypass=True) as gated:
        gated.queue.close()
        client = gated.client()

        assert "" == answer_to(client)


@in_own_namespace
def test_bypass_holds_while_somebody_reads() -> None:
    """Bypass changes nothing as long as there is a queue."""
    with Gated("127.0.0.1", bypass=True) as gated:
        client = gated.client()
        gated.reject()

        assert "ECONNREFUSED" == answer_to(client)


@both_families
@in_own_namespace
def test_limit_drops_what_exceeds_it_and_counts(host: str) -> None:
    """Of a burst the queue sees what the limit allows; the rest is dropped and counted."""
    with Gated(host, most_per_second=1) as gated:
        clients = [gated.client() for _ in range(3)]
        queued, limited, *_ = gated.gate.counters()

        # One token comes back each second, if that much time has passed.
        assert 1 <= limited
        assert 3 <= queued + limited
        assert 0 == gated.counters()[1]

        # Each tries again until it finds a token.
        while any(state_of(client) == SYN_SENT for client in clients):
            gated.accept()

        assert [""] * 3 == [answer_to(client) for client in clients]


@in_own_namespace
def test_gate_without_a_limit_drops_nothing() -> None:
    """Nothing is dropped by a limit that is not there; what is queued is counted."""
    with Gated("127.0.0.1") as gated:
        gated.client()

        assert (1, 0, 0, 0, 0) == gated.gate.counters()


# ----------------------------------------------------------------------------- whose it is


@in_own_namespace
def test_closed_house_is_open() -> None:
    """Closing takes the rules away, at once and also if a child has the descriptor."""
    with Gated("127.0.0.1") as gated:
        fd = gated.house._socket.fileno()  # noqa: SLF001 - a forked child would have it, too
        child = subprocess.Popen(
            ["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[fd]
        )
        gated.house.close()
        gated.house.close()

        assert [] == tables_of(ALL)
        assert "" == answer_to(gated.client())

        with pytest.raises(KernelRefusedError, match="EBADF"):
            gated.gate.counters()
        with pytest.raises(KernelRefusedError, match="EBADF"):
            gated.house.add([gated.address])
        gated.gate.close()
        child.communicate()


@both_families
@in_own_namespace
def test_gates_come_and_go_by_themselves(host: str) -> None:
    """
    Opening and closing a gate changes nothing for others of its house: what they hold stays
    held, and what comes is held. A closed gate lets everybody through.
    """
    with Gated(host) as gated, socket.create_server(("127.0.0.1", 0)) as other:
        before = gated.client()
        held = gated.packet()
        gate = gated.house.add([Address.from_sockaddr(other.family, other.getsockname())])
        with connected_to(other) as client:
            gated.reject()

            assert "ECONNREFUSED" == answer_to(client)

        gate.close()
        gate.close()
        socket.create_connection(other.getsockname(), PATIENCE).close()

        assert (1, 0, 0, 2) == gated.counters()

        gated.queue.verdict(held.packet_id, PacketVerdict.ACCEPT)
        gated.queue.flush()
        after = gated.client()
        gated.reject()

        assert ("", "ECONNREFUSED") == (answer_to(before), answer_to(after))
        assert ((2, 0, 0, 0, 0), 0) == (gated.gate.counters(), gated.queue.late_verdicts)


def connected_to(listening: socket.socket) -> socket.socket:
    """Have a client connect, without waiting."""
    client = socket.socket(listening.family)
    client.settimeout(0)
    client.connect_ex(listening.getsockname())
    return client


@in_own_namespace
def test_refused_gate_holds_nobody_up() -> None:
    """A gate that the kernel refuses changes nothing: what is held stays held."""
    with Gated("127.0.0.1") as gated:
        client = gated.client()
        packet = gated.packet()
        with pytest.raises(KernelRefusedError, match="could not limit SYNs by a rule"):
            gated.house.add([Address.tcp("127.0.0.1", 1)], most_per_second=0)
        with pytest.raises(KernelRefusedError, match=r"have SYNs queued by a rule"):
            Gatehouse(1, ways=[absent])

        assert 1 == gated.counters()[0]

        gated.queue.verdict(packet.packet_id, PacketVerdict.ACCEPT)
        gated.queue.flush()

        assert "" == answer_to(client)
        assert [gated.house.table] == tables_of(ALL)


@in_own_namespace
def test_chain_with_a_hook_takes_all_held_packets_along() -> None:
    """
    When another process removes a chain with a hook the kernel drops what is held; the
    verdict comes too late, which is told, and the client tries again.
    """
    late: list[int] = []
    with Gated("127.0.0.1", queue={"on_late": late.append}) as gated:
        client = gated.client()
        packet = gated.packet()
        with Gated("::1"):
            pass

        assert 0 == gated.counters()[0]

        gated.queue.verdict(packet.packet_id, PacketVerdict.ACCEPT)
        gated.queue.flush()

        assert [] == gated.queue.receive()
        assert [packet.packet_id] == late
        assert SYN_SENT == state_of(client)

        gated.accept()

        assert "" == answer_to(client)


@in_own_namespace
def test_houses_of_one_process_do_not_collide() -> None:
    """Each house has tables of its own, also with gates for the same address."""
    queue = Queue()
    houses = [Gatehouse(queue.number) for _ in range(3)]
    gates = [house.add([Address.tcp("127.0.0.1", 80)]) for house in houses]

    assert {house.table for house in houses} == {*tables_of(IPV4)}
    assert 3 == len(tables_of(IPV4))
    assert all(house.table.startswith(f"trio_wsk_{os.getpid()}_") for house in houses)
    assert f"<Gatehouse {houses[0].table}>" == repr(houses[0])
    assert f"<Gate 1 of {houses[0].table}>" == repr(gates[0])

    for house in houses:
        house.close()
    queue.close()


@in_own_namespace
def test_flush_by_somebody_else_leaves_the_gate() -> None:
    """``nft flush ruleset`` from another process takes its own tables, and not ours."""
    with Gated("127.0.0.1") as gated, closing(NetlinkSocket(NETFILTER)) as netlink:
        netlink.batch(
            NFTABLES, [Change("make a table", NEW_TABLE, CREATE, IPV4, text(1, "another"))]
        )
        netlink.batch(NFTABLES, [Change("flush", DELETE_TABLE, 0, ALL, b"")])

        assert [gated.house.table] == tables_of(ALL)

        client = gated.client()
        gated.reject()

        assert "ECONNREFUSED" == answer_to(client)


@in_own_namespace
def test_nobody_else_can_delete_the_tables() -> None:
    """Deleting a table by its name is refused to whoever does not own it."""
    with Gated("127.0.0.1") as gated, closing(NetlinkSocket(NETFILTER)) as netlink:
        delete = Change("delete", DELETE_TABLE, 0, IPV4, text(1, gated.house.table))
        with pytest.raises(KernelRefusedError, match=r"could not delete: .*EPERM"):
            netlink.batch(NFTABLES, [delete])

        assert [gated.house.table] == tables_of(ALL)


VICTIM = """
import sys
from tests.helpers.gated import Gated
gated = Gated("127.0.0.1")
clients = [gated.client() for _ in range(20)]
held = [gated.packet() for _ in clients]
print(gated.address.port, gated.queue.number, flush=True)
sys.stdin.read()
"""


@in_own_namespace
def test_killed_process_leaves_nothing() -> None:
    """
    After SIGKILL with 20 clients held there is no rule, no table and no queue; its number
    and its port can be taken at once.
    """
    victim = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", VICTIM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with victim:
        assert victim.stdout is not None
        port, number = map(int, victim.stdout.readline().split())
        before = tables_of(ALL)
        victim.send_signal(signal.SIGKILL)

    assert 1 == len(before)
    assert -signal.SIGKILL == victim.returncode
    assert [] == tables_of(ALL)
    assert "" == queues()
    Queue(numbers=[number]).close()
    with socket.create_server(("127.0.0.1", port)):
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()


# ---------------------------------------------------------------------------------- errors


def test_missing_capability_is_named(ordinary_user: None) -> None:
    """Without the capability there are no rules, and the error says what is missing."""
    with pytest.raises(KernelRefusedError, match=r"could not .*EPERM.*CAP_NET_ADMIN"):
        Gatehouse(1)


def absent(number: int, bypass: bool) -> bytes:  # noqa: FBT001 - as the real ones
    """Queue in a way that no kernel knows."""
    return expression("no-such", be32(1, number), be32(2, bypass))


@in_own_namespace
def test_missing_way_of_queueing_is_named() -> None:
    """A kernel that can't queue at all refuses with the options that it would need."""
    with pytest.raises(KernelRefusedError, match=r"have SYNs queued by a rule.*CONFIG_NFT_QUEUE"):
        Gatehouse(1, ways=[absent, absent])

    assert [] == tables_of(ALL)


@in_own_namespace
def test_next_way_of_queueing_is_tried() -> None:
    """What the kernel lacks is noticed, and what it has is used instead."""
    with Gated("127.0.0.1", ways=[absent, queue, queue_target]) as gated:
        client = gated.client()
        gated.reject()

        assert "ECONNREFUSED" == answer_to(client)


@in_own_namespace
def test_held_segments_are_of_their_client() -> None:
    """Clients that come at the same time are told apart by their ports and sequence numbers."""
    with Gated("127.0.0.1") as gated:
        clients = [gated.client() for _ in range(20)]
        spin_until(lambda: gated.counters()[3] == 20)
        ports = [segment_of(gated.packet().payload)[0] for _ in clients]

        assert [client.getsockname()[1] for client in clients] == ports
