"""The tools with which tests look at the wire and write on it, tried on plain sockets."""

from __future__ import annotations

import socket
import sys
from contextlib import closing, contextmanager
from time import monotonic
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.helpers import wire
from tests.helpers.blocking_peers import spin_until
from tests.helpers.gated import ACK, LOOPBACK, RST, SYN
from tests.helpers.namespaces import (
    HERE,
    THERE,
    as_ordinary_user,
    cabled_namespaces,
    in_own_namespace,
)
from tests.helpers.support import connect, reset
from tests.helpers.wire import (
    MUTE,
    Capture,
    connect_from,
    counted,
    exchange,
    flood,
    flooders,
    mute,
    parse_segment,
    scoped,
    send_flood,
    send_segment,
    syn_cookies,
    tcp_options,
)
from trio_wsk._vocabulary.addresses import Address
from trio_wsk.transports._syn import Timestamps, parse
from trio_wsk.transports.linux._sock_diag import KernelState, SocketLookup

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has packet sockets"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

HANDSHAKE = ("client SYN", "server SYN,ACK", "client ACK")
NOBODY = "client SYN", "server SYN,ACK", "client RST"
"""What a SYN from an address of this machine leads to that no socket has sent."""

both_families = pytest.mark.parametrize("host", LOOPBACK)


@contextmanager
def listening_at(host: str) -> Iterator[tuple[trio.socket.SocketType, Address]]:
    """Listen, and say where."""
    address = Address.tcp(host, 0, socket.if_nametoindex("veth0") if "fe80" in host else 0)
    with socket.socket(address.family) as sock:
        sock.bind(address.sockaddr)
        sock.listen(4096)
        address = Address.from_sockaddr(sock.family, sock.getsockname())
        yield trio.socket.from_stdlib_socket(sock), address


def address_of(client: trio.SocketStream) -> Address:
    """Return where a client is."""
    return Address.from_sockaddr(client.socket.family, client.socket.getsockname())


# -------------------------------------------------------------------------------- captures


@both_families
@in_own_namespace
async def test_handshake_is_captured_once_and_in_order(host: str) -> None:
    """
    Each segment of a handshake over loopback is there once, in order, with its addresses, its
    numbers and the time when it was sent.
    """
    with listening_at(host) as (_, address), Capture("lo", address.port) as capture:
        start = monotonic()
        async with await connect(address) as client:
            segments = await capture.expect(*HANDSHAKE)
            end = monotonic()
            syn, answer, ack = segments
            ends = (address_of(client), address)

        assert ends == (syn.source, syn.destination)
        assert ends == (answer.destination, answer.source)
        assert (syn.sequence_number + 1, 0) == (answer.acknowledgement, syn.payload_length)
        assert answer.acknowledgement == ack.sequence_number
        assert answer.sequence_number + 1 == ack.acknowledgement
        assert start - 0.001 <= syn.at <= answer.at <= ack.at <= end + 0.001
        assert syn.sequence_number == parse(syn.packet).sequence_number


async def capture_at_both_ends() -> None:
    """Connect over every kind of address, and look at both ends of the cable."""
    with cabled_namespaces() as (_, there):
        for host in HERE:
            with listening_at(host) as (_, address), Capture("veth0", address.port) as capture:
                with there.entered():
                    other = Capture("veth0", address.port)
                with other:
                    async with await connect_from(there, address) as client:
                        segments = await capture.expect(*HANDSHAKE)
                        seen_there = await other.expect(*HANDSHAKE)

                        assert address == segments[0].destination
                        assert scoped(address, there) == seen_there[0].destination
                        assert address_of(client) == seen_there[0].source


@in_own_namespace
async def test_handshake_is_captured_at_both_ends_of_a_cable() -> None:
    """Over IPv4, IPv6 and link-local addresses either end of a cable sees the same."""
    await capture_at_both_ends()


@as_ordinary_user
async def test_ordinary_user_can_capture() -> None:
    """The same in namespaces that a user without rights has made."""
    await capture_at_both_ends()


@both_families
@in_own_namespace
async def test_reset_of_a_closed_port_is_captured(host: str) -> None:
    """Who connects where nobody listens is seen to be refused."""
    with listening_at(host) as (_, address):
        pass
    with Capture("lo", address.port) as capture:
        with pytest.raises(ConnectionRefusedError):
            await connect(address)

        await capture.expect("client SYN", "server RST,ACK")


@in_own_namespace
async def test_payload_and_end_are_captured() -> None:
    """Data is told by its length, and how the connection ends by its flags."""
    with listening_at("127.0.0.1") as (sock, address), Capture("lo", address.port) as capture:
        client = await connect(address)
        server, _ = await sock.accept()
        with server:
            await client.send_all(b"hello")
            await client.send_eof()
            seen = await capture.until(lambda seen: seen[-1].flags != "ACK", "end")
            reset(client)

            lines = exchange(seen)
            assert [*HANDSHAKE, "client ACK (5 octets)"] == lines[:4]
            assert "client FIN,ACK" == lines[-1]
            await capture.until(lambda seen: "RST" in seen[-1].flags, "reset")


@in_own_namespace
async def test_clients_are_told_apart() -> None:
    """Asked for one client, a capture has only its segments; a port's others it never has."""
    with (
        listening_at("127.0.0.1") as (_, address),
        listening_at("127.0.0.1") as (_, elsewhere),
        Capture("lo", address.port) as capture,
    ):
        async with await connect(elsewhere), await connect(address), await connect(address) as it:
            await capture.expect(*HANDSHAKE, client=address_of(it))
            await capture.expect(*HANDSHAKE, *HANDSHAKE)

            assert [*HANDSHAKE] == capture.exchange(address_of(it))


@in_own_namespace
async def test_exchange_can_tell_the_times() -> None:
    """With decimals, each line says when it was, in seconds after the first."""
    with listening_at("127.0.0.1") as (_, address), Capture("lo", address.port) as capture:
        async with await connect(address):
            first, second, _ = await capture.expect(*HANDSHAKE)
            later = second.at - first.at

            assert "0.00000 s: client SYN" == capture.exchange(decimals=5)[0]
            assert f"{later:.5f} s: server SYN,ACK" == capture.exchange(decimals=5)[1]


@in_own_namespace
async def test_capture_says_what_there_was_instead() -> None:
    """Waiting in vain is an error that lists what was captured."""
    with listening_at("127.0.0.1") as (_, address), Capture("lo", address.port) as capture:
        async with await connect(address):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(wire, "PATIENCE", 0)
                with pytest.raises(AssertionError, match=r"no reset .*\n0.000 s: client SYN\n"):
                    await capture.until(lambda seen: "RST" in seen[-1].flags, "reset")
            with pytest.raises(AssertionError, match=r"'client ACK'\], and not .*'server RST,ACK'"):
                await capture.expect("client SYN", "server RST,ACK")


@in_own_namespace
async def test_closed_capture_keeps_what_it_has_read() -> None:
    """What was captured can be asked for after the end; what was not read is not there."""
    with listening_at("127.0.0.1") as (_, address), Capture("lo", address.port) as capture:
        async with await connect(address):
            await capture.expect(*HANDSHAKE)
            capture.close()

    assert [*HANDSHAKE] == capture.exchange()


@in_own_namespace
def test_capture_that_lost_packets_says_so() -> None:
    """A capture whose buffer was too small fails, and does not show half of it."""
    target = Address.tcp("127.0.0.1", 1)
    with Capture("lo", target.port, receive_buffer=1) as capture:
        send_flood(target, ["127.0.0.2"], 100)
        with pytest.raises(AssertionError, match="packets were too many"):
            capture.segments()


@given(st.sampled_from([b"", b"\x45", b"\x60"]), st.binary(max_size=100))
@example(b"", b"")
def test_any_octets_are_a_segment_or_none(start: bytes, rest: bytes) -> None:
    """Whatever passes an interface, reading it raises nothing."""
    port = int.from_bytes((start + rest)[20:22], "big")

    segment = parse_segment(start + rest, 0, port, 0)

    assert segment is None or port in {segment.source.port, segment.destination.port}


# --------------------------------------------------------------------------------- by hand


@both_families
@in_own_namespace
async def test_syn_made_by_hand_is_answered(host: str) -> None:
    """
    A listening socket answers a SYN of our own; the kernel that has the address it came from
    resets the answer, since nobody there had asked.
    """
    with listening_at(host) as (_, address), Capture("lo", address.port) as capture:
        source = Address.tcp("127.1.2.3" if address.family == socket.AF_INET else host, 4321)
        send_segment(source, address, SYN, 0xFFFFFFFF)
        segments = await capture.expect(*NOBODY)

        assert (source, 0xFFFFFFFF) == (segments[0].source, segments[0].sequence_number)
        assert 0 == segments[1].acknowledgement  # which is the next number


@both_families
@in_own_namespace
async def test_syn_made_by_hand_says_what_it_is_told_to(host: str) -> None:
    """Options, window, hop limit and an odd number of octets arrive as they were given."""
    with listening_at(host) as (_, address), Capture("lo", address.port) as capture:
        options = tcp_options(
            mss=1200, window_scale=9, sack=True, timestamps=(7, 0), fast_open=b"12345678"
        )
        source = Address.tcp(host, 4321)
        more = {"options": options, "window": 1000, "hop_limit": 9, "payload": b"hello"}
        send_segment(source, address, SYN, 5, **more)
        first, *_ = await capture.expect("client SYN (5 octets)", *NOBODY[1:])
        syn = parse(first.packet)

        assert (1200, 9, True) == (syn.maximum_segment_size, syn.window_scale, syn.sack_permitted)
        assert (Timestamps(7, 0), b"12345678") == (syn.timestamps, syn.fast_open_cookie)
        assert (1000, 9, b"hello") == (syn.window, syn.hop_limit, syn.payload)


def test_options_are_padded() -> None:
    """Without options there is nothing; what is no multiple of four octets is filled up."""
    assert b"" == tcp_options()
    assert b"\3\3\7\1" == tcp_options(window_scale=7)
    assert b"\x22\2\1\1" == tcp_options(fast_open=b"")


async def talk_as_mute_hosts() -> None:
    """Get answers to SYNs from nobody, and go on by hand."""
    with cabled_namespaces() as (_, there), closing(SocketLookup()) as lookup:
        mute()
        for host, absent in zip(HERE, MUTE, strict=True):
            with listening_at(host) as (sock, address), Capture("veth0", address.port) as capture:
                target = scoped(address, there)
                peers = [Address.tcp(absent, port, address.scope_id) for port in (1111, 2222)]
                with there.entered():
                    for peer in peers:
                        send_segment(peer, target, SYN, 1000)
                for peer in peers:
                    await capture.expect("client SYN", "server SYN,ACK", client=peer)
                    assert KernelState.SYN_RECEIVED is lookup.state_of(address, peer)

                answer = capture.segments(peers[0])[-1]
                number = answer.sequence_number + 1
                with there.entered():
                    send_segment(peers[0], target, ACK, 1001, acknowledgement=number)
                    send_segment(peers[1], target, RST, 1001)
                server, sockaddr = await sock.accept()
                server.close()

                assert peers[0] == Address.from_sockaddr(sock.family, sockaddr)
                assert [*HANDSHAKE] == capture.exchange(peers[0])[:3]
                spin_until(lambda: lookup.state_of(address, peers[1]) is KernelState.GONE)  # noqa: B023


@in_own_namespace
async def test_mute_host_does_not_react() -> None:
    """
    A mute host on the cable is answered and leaves it at that, over IPv4, IPv6 and link-local
    addresses; what it says is up to the test: it can complete a handshake, or reset it.
    """
    await talk_as_mute_hosts()


@as_ordinary_user
async def test_ordinary_user_can_make_mute_hosts() -> None:
    """The same in namespaces that a user without rights has made."""
    await talk_as_mute_hosts()


# --------------------------------------------------------------------------------- floods


@in_own_namespace
async def test_ten_thousand_syns_come_from_another_process() -> None:
    """A flood has as many SYNs as were asked for, each once, from those who were named."""
    target = Address.tcp("127.0.0.1", 1)
    hosts = ["127.1.0.1", "127.1.0.2", "127.1.0.3"]
    with Capture("lo", target.port) as capture:
        async with trio.open_nursery() as nursery:
            # An ordinary user's buffer has no room for all: they are read as they come.
            nursery.start_soon(lambda: flood(target, hosts, 10_000, per_second=5000))
            seen = await capture.until(lambda seen: len(seen) == 20_000, "end")
        syns = [each for each in seen if each.sender == "client"]

        assert list(flooders(hosts, 10_000)) == [(syn.source, syn.sequence_number) for syn in syns]
        assert {"SYN"} == {syn.flags for syn in syns}


@in_own_namespace
async def test_flood_crosses_a_cable() -> None:
    """From the other end of a cable no SYN is lost, although nobody has used it yet."""
    with cabled_namespaces() as (_, there):
        mute()
        for host, absent in zip(HERE, MUTE, strict=True):
            with listening_at(host) as (_, address), Capture("veth0", address.port) as capture:
                await flood(scoped(address, there), [absent], 1000, namespace=there)
                ports = {peer.port for peer, _ in flooders([absent], 1000)}
                # On a machine with other work SYNs come in bundles, and answers a second time.
                seen = await capture.until(
                    lambda seen: ports <= {each.destination.port for each in seen},  # noqa: B023
                    "answer to each",
                )
                syns = [each.source.port for each in seen if each.sender == "client"]

                assert sorted(ports) == sorted(syns)
                assert {"SYN", "SYN,ACK"} == {each.flags for each in seen}


@in_own_namespace
async def test_flood_can_be_slow_and_be_cancelled() -> None:
    """Cancelling kills the process, which had been told not to hurry."""
    target = Address.tcp("127.0.0.1", 1)
    with Capture("lo", target.port) as capture:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: flood(target, ["127.1.0.1"], 1000, per_second=0.01))
            await capture.expect("client SYN", "server RST,ACK")
            nursery.cancel_scope.cancel()

        assert ["client SYN", "server RST,ACK"] == capture.exchange()


@in_own_namespace
async def test_flood_that_fails_says_why() -> None:
    """What the other process complains about is in the error."""
    with pytest.raises(AssertionError, match="nonsense"):
        await flood(Address.tcp("127.0.0.1", 1), ["nonsense"], 1)


def test_flood_needs_ports_enough() -> None:
    """More SYNs than there are ports of these hosts are refused."""
    with pytest.raises(AssertionError, match="1 hosts have 64512 ports, not 64513"):
        list(flooders(["127.0.0.1"], 64513))


# ----------------------------------------------------------------------- clients, settings


@in_own_namespace
async def test_cancelled_client_is_closed() -> None:
    """A client in another namespace that is not answered can be cancelled."""
    with cabled_namespaces() as (_, there), there.entered():
        address = Address.tcp(MUTE[0], 1)
        mute()
        with Capture("veth0", address.port) as capture:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect_from, there, address)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()

            assert ["client SYN"] == capture.exchange()
            assert THERE[0] == str(capture.segments()[0].source.host)


@pytest.mark.parametrize("forced", [True, False])
@in_own_namespace
async def test_syn_cookies_can_be_forced(forced: bool) -> None:  # noqa: FBT001 - a parameter
    """Forced, a cookie is sent to everybody; else to nobody, as long as there is room."""
    syn_cookies(forced=forced)
    before = counted("SyncookiesSent")
    with listening_at("127.0.0.1") as (_, address):
        async with await connect(address):
            pass

    assert forced == counted("SyncookiesSent") - before
