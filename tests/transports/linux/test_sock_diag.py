"""What the kernel says about a connection that is to come, has come, or won't."""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.blocking_peers import spin_until
from tests.helpers.gated import LOOPBACK, SYN, Gated, answer_to
from tests.helpers.namespaces import HERE, as_ordinary_user, cabled_namespaces, in_own_namespace
from tests.helpers.resetting import close_with_reset
from tests.helpers.wire import send_segment
from trio_wsk._vocabulary.addresses import Address
from trio_wsk.transports.linux._messages import NetlinkError
from trio_wsk.transports.linux._netlink import KernelRefusedError
from trio_wsk.transports.linux._sock_diag import KernelState, SocketLookup, parse_state

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has sock_diag"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

SYN_RECEIVED, ESTABLISHED = KernelState.SYN_RECEIVED, KernelState.ESTABLISHED
GONE, UNKNOWN = KernelState.GONE, KernelState.UNKNOWN

both_families = pytest.mark.parametrize("host", LOOPBACK)


def address_of(sock: socket.socket) -> Address:
    """Return where a socket is bound."""
    return Address.from_sockaddr(sock.family, sock.getsockname())


@both_families
@in_own_namespace
def test_connection_is_followed_from_syn_to_end(host: str) -> None:
    """
    A held client has no connection; let in, it is established, also half closed, until somebody
    accepts it; what somebody has is nobody else's. Without the listening socket nothing is known.
    """
    with closing(SocketLookup()) as lookup, Gated(host) as gated:
        client = gated.client()
        addresses = (gated.address, address_of(client))

        assert GONE is lookup.state_of(*addresses)

        gated.accept()

        assert "" == answer_to(client)
        spin_until(lambda: lookup.state_of(*addresses) is ESTABLISHED)

        client.shutdown(socket.SHUT_WR)  # CLOSE_WAIT

        assert ESTABLISHED is lookup.state_of(*addresses)

        connection, _ = gated.listening.accept()

        assert GONE is lookup.state_of(*addresses)

        close_with_reset(connection)

        assert GONE is lookup.state_of(*addresses)

        gated.listening.close()

        assert UNKNOWN is lookup.state_of(*addresses)


def follow_over_the_cable() -> None:
    """Follow connections from a host that is there, and from one that does not answer."""
    with cabled_namespaces() as (_, there), closing(SocketLookup()) as lookup:
        index = socket.if_nametoindex("veth0")
        with there.entered():
            index_there = socket.if_nametoindex("veth0")
        for host, absent in zip(HERE, ("192.0.2.77", "2001:db8::77", "fe80::77"), strict=True):
            scope, scope_there = (index, index_there) if host.startswith("fe80") else (0, 0)
            with Gated(host, scope_id=scope) as gated:
                mute = Address.tcp(absent, 1234, scope)
                with there.entered():
                    port = gated.address.port
                    send_segment(
                        Address.tcp(absent, 1234), Address.tcp(host, port, scope_there), SYN
                    )
                assert GONE is lookup.state_of(gated.address, mute)
                gated.accept()
                spin_until(lambda: lookup.state_of(gated.address, mute) is SYN_RECEIVED)  # noqa: B023

                client = gated.client(there.socket(gated.address.family), scope_id=scope_there)
                gated.accept()
                assert "" == answer_to(client)
                remote = Address.from_sockaddr(client.family, client.getsockname())
                remote = Address.tcp(str(remote.host), remote.port, scope)
                assert ESTABLISHED is lookup.state_of(gated.address, remote)
                gated.listening.accept()[0].close()


@in_own_namespace
def test_client_that_does_not_answer_is_known_by_its_state() -> None:
    """
    Let in but mute, a client has a connection in SYN_RECEIVED, over IPv4, IPv6 and
    link-local addresses; one that answers is established.
    """
    follow_over_the_cable()


@as_ordinary_user
def test_ordinary_user_can_look_up() -> None:
    """The same without any rights outside."""
    follow_over_the_cable()


@in_own_namespace
def test_ipv4_client_of_a_socket_for_both_is_found() -> None:
    """A connection over IPv4 to an IPv6 socket is found by either form of its addresses."""
    with (
        closing(SocketLookup()) as lookup,
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listening,
        socket.create_connection(("127.0.0.1", listening.getsockname()[1])) as client,
    ):
        remote = address_of(client)
        local = Address.tcp("127.0.0.1", listening.getsockname()[1])
        mapped = (
            Address.tcp("::ffff:127.0.0.1", local.port),
            Address.tcp("::ffff:127.0.0.1", remote.port),
        )

        assert ESTABLISHED is lookup.state_of(local, remote)
        assert ESTABLISHED is lookup.state_of(*mapped)

        connection, peer = listening.accept()
        connection.close()

        assert mapped[1] == Address.from_sockaddr(listening.family, peer)


@in_own_namespace
def test_closed_connection_is_gone() -> None:
    """A connection that has ended on both sides does not count, although TIME_WAIT remembers it."""
    with closing(SocketLookup()) as lookup, Gated("127.0.0.1") as gated:
        client = gated.client()
        gated.accept()
        answer_to(client)
        connection, _ = gated.listening.accept()
        addresses = (gated.address, address_of(client))
        connection.close()
        client.settimeout(10)
        assert b"" == client.recv(1)
        client.close()

        spin_until(lambda: lookup.state_of(*addresses) is GONE)


def test_lookup_takes_no_privileges(ordinary_user: None) -> None:
    """An ordinary user is told, too; a port where nobody listens is unknown."""
    with closing(SocketLookup()) as lookup, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))

        assert UNKNOWN is lookup.state_of(address_of(bound), Address.tcp("127.0.0.1", 1))


def test_closed_lookup_refuses() -> None:
    """Looking up with a closed one is an error that says what was looked up."""
    lookup = SocketLookup()
    lookup.close()
    lookup.close()
    with pytest.raises(KernelRefusedError, match=r"connection from 192.0.2.1:2 to 127.0.0.1:1"):
        lookup.state_of(Address.tcp("127.0.0.1", 1), Address.tcp("192.0.2.1", 2))


@given(st.binary(max_size=100))
def test_any_octets_are_a_state_or_refused(body: bytes) -> None:
    """Whatever comes, reading it yields a state, or raises nothing but NetlinkError."""
    try:
        state = parse_state(body)
    except NetlinkError:
        return

    assert state in KernelState


@pytest.mark.parametrize("number", range(256))
def test_every_state_of_tcp_has_a_meaning(number: int) -> None:
    """TCP has states 1 to 13; each means one of three, and any other is refused."""
    body = struct.pack("=BB70x", 2, number)
    if not 1 <= number <= 13:
        with pytest.raises(NetlinkError, match=f"no state {number}"):
            parse_state(body)
        return
    expected = {3: SYN_RECEIVED, 12: SYN_RECEIVED, 6: GONE, 7: GONE, 10: GONE}

    assert expected.get(number, ESTABLISHED) is parse_state(body)


def test_answer_has_a_shortest() -> None:
    """An answer that lacks its last octet is refused; a whole one needs nothing behind it."""
    whole = struct.pack("=BB70x", 2, 1)

    assert ESTABLISHED is parse_state(whole)

    with pytest.raises(NetlinkError, match="71 octets are too few"):
        parse_state(whole[:-1])
