"""What goes wrong before the handshake: full queues, SYN cookies, strangers, forged SYNs."""

from __future__ import annotations

import select
import socket
import sys
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from tests.helpers.gated import ACK, LOOPBACK, SYN, SYN_SENT, state_of
from tests.helpers.gated_clients import (
    ANSWERED,
    Clients,
    address_of,
    answer_to,
    answers_to,
    gated,
    is_reset,
    pended,
    place_of,
    senders,
    take,
    transport_of,
)
from tests.helpers.inspecting import ACCEPT, PEND, REJECT
from tests.helpers.namespaces import HERE, cabled_namespaces, in_own_namespace
from tests.helpers.support import PATIENCE, until
from tests.helpers.wire import (
    MUTE,
    Capture,
    counted,
    exchange,
    mute,
    send_in_fragments,
    send_segment,
    syn_cookies,
)
from trio_wsk import Address, ConnectionRequest, InspectPoint, Status
from trio_wsk._vocabulary.verdict import AbortReason
from trio_wsk.transports import LinuxTransport
from trio_wsk.transports.linux._gatekeeper import gatekeeper_here
from trio_wsk.transports.linux._nfqueue import Queue

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

BEFORE = InspectPoint.BEFORE_HANDSHAKE
HOST = LOOPBACK[0]
both_families = pytest.mark.parametrize("host", LOOPBACK)


# ----------------------------------------------------------------------------- SYN cookies


@in_own_namespace
async def test_first_fragment_without_all_headers_gets_no_answer() -> None:
    """
    An IPv6 SYN whose first fragment ends among the extension headers is no SYN yet when it could
    be held, and would be one when the kernel has put it together: it is dropped and counted.
    """
    with cabled_namespaces() as (_, there):
        mute(MUTE[1])
        async with gated(PEND, host=HERE[1]) as desk:
            (address,) = desk.listening.local_addresses
            with Capture("veth0", address.port) as capture, there.entered():
                send_in_fragments(Address.tcp(MUTE[1], 1000), address, 1000)
                await until(lambda: desk.statistics().transport["truncated"])
                send_segment(Address.tcp(MUTE[1], 1001), address, SYN, 1000)
                await desk.when(lambda: desk.asked)
                await wait_all_tasks_blocked()

                assert [1001] == [request.remote_address.port for request in desk.asked]
                assert ["client SYN"] == [
                    line for line in exchange(capture.segments()) if "SYN" in line
                ]


@in_own_namespace
async def test_fragments_with_all_headers_pass() -> None:
    """Datagrams in fragments, to the same address and port, go on their way."""
    with cabled_namespaces() as (_, there):
        async with gated(PEND, host=HERE[1]) as desk:
            (address,) = desk.listening.local_addresses
            with (
                closing(socket.socket(address.family, socket.SOCK_DGRAM)) as receiver,
                closing(there.socket(address.family, socket.SOCK_DGRAM)) as sender,
            ):
                receiver.bind(address.sockaddr)
                receiver.settimeout(PATIENCE)
                sender.sendto(bytes(5000), address.sockaddr)

                assert 5000 == len(receiver.recv(9000))
                assert 0 == desk.statistics().transport["truncated"]


@both_families
@in_own_namespace
async def test_cookies_let_nobody_in_unasked(host: str) -> None:
    """
    With a cookie for everybody, nobody is answered before the verdict, and who is let in is known
    by his addresses and not asked about again.
    """
    syn_cookies()
    with Clients() as clients:
        async with gated(host=host) as desk:
            with Capture("lo", place_of(desk).port) as capture:
                good, bad = clients.connect(place_of(desk), 2)
                await pended(desk, 2)

                assert {"client SYN"} == set(capture.exchange())

                by_address = {request.remote_address: request for request in desk.asked}
                desk.complete(by_address[address_of(bad)], REJECT)
                desk.complete(by_address[address_of(good)], ACCEPT)

                assert ("", "ECONNREFUSED") == (await answer_to(good), await answer_to(bad))
                assert [address_of(good)] == await take(desk)
                assert 1 == counted("SyncookiesRecv")
                assert (2, 0) == (len(desk.asked), transport_of(desk)["strangers"])


@in_own_namespace
async def test_slow_peer_with_a_cookie_is_asked_about_again() -> None:
    """
    The kernel does not know whom it has sent a cookie: his request is over. When he comes back
    with it all the same he is a new request, after the handshake, which has no SYN.
    """
    with cabled_namespaces() as (_, there):
        mute()
        syn_cookies()
        async with gated(host=HERE[0]) as desk:
            address, peer = place_of(desk), Address.tcp(MUTE[0], 1111)
            with Capture("veth0", address.port) as capture:
                with there.entered():
                    send_segment(peer, address, SYN, 1000)
                await desk.when(lambda: desk.asked)
                desk.complete(desk.asked[0], ACCEPT)
                answer = (await capture.expect(*ANSWERED[:2]))[-1]

                assert AbortReason.SILENT is (await desk.aborted()).reason

                with there.entered():
                    number = answer.sequence_number + 1
                    send_segment(peer, address, ACK, 1001, acknowledgement=number)
                await desk.when(lambda: len(desk.asked) == 2)
                request = desk.asked[1]

                assert (peer, None) == (request.remote_address, request.syn)
                assert InspectPoint.AFTER_HANDSHAKE is request.inspect_point
                assert Status.SUCCESS is desk.complete(request, REJECT)
                await capture.expect(*ANSWERED, "server RST,ACK")


@pytest.mark.parametrize("answer", [ACCEPT, REJECT])
@in_own_namespace
async def test_cookie_from_before_the_gate_gets_nobody_in_unasked(answer: Any) -> None:
    """Who was sent a cookie before there was a gate is asked about when he comes back with it."""
    with cabled_namespaces() as (_, there):
        mute()
        syn_cookies()
        listening = socket.create_server((HERE[0], 0))
        address = Address.from_sockaddr(listening.family, listening.getsockname())
        peer = Address.tcp(MUTE[0], 1111)
        with Capture("veth0", address.port) as capture:
            with there.entered():
                send_segment(peer, address, SYN, 1000)
            number = (await capture.expect(*ANSWERED[:2]))[-1].sequence_number + 1
            async with gated(answer, None, sockets=[listening]) as desk:
                with there.entered():
                    send_segment(peer, address, ACK, 1001, acknowledgement=number)
                await desk.when(lambda: desk.asked)
                (request,) = desk.asked

                assert (None, InspectPoint.AFTER_HANDSHAKE) == (request.syn, request.inspect_point)
                if answer is ACCEPT:
                    assert [peer] == await take(desk)
                    assert "server FIN,ACK" in capture.exchange()
                else:
                    await capture.expect(*ANSWERED, "server RST,ACK")


# ------------------------------------------------------------------------------- strangers


@in_own_namespace
async def test_connections_of_an_adopted_socket_are_asked_about() -> None:
    """
    Connections that an adopted socket has had before it had a gate are requests after the
    handshake; who is rejected is reset.
    """
    listening = socket.create_server((HOST, 0))
    address = Address.from_sockaddr(listening.family, listening.getsockname())
    with Clients() as clients:
        good, bad = clients.connect(address, 2)
        wanted = address_of(good)
        async with gated(
            lambda request: ACCEPT if request.remote_address == wanted else REJECT,
            None,
            sockets=[listening],
        ) as desk:
            assert [address_of(good)] == await take(desk)
            assert await is_reset(bad)
            assert {InspectPoint.AFTER_HANDSHAKE} == {each.inspect_point for each in desk.asked}
            assert {None} == {request.syn for request in desk.asked}
            assert (2, 0) == (transport_of(desk)["strangers"], transport_of(desk)["held"])

            new = clients.one(address)

            assert "ECONNREFUSED" == await answer_to(new)
            assert address_of(new) == desk.asked[-1].remote_address
            assert desk.asked[-1].syn is not None


@in_own_namespace
async def test_too_many_strangers_are_reset() -> None:
    """While one stranger is asked about, 128 wait; the others are reset, and nobody is let in."""
    listening = socket.create_server((HOST, 0), backlog=200)
    address = Address.from_sockaddr(listening.family, listening.getsockname())
    with Clients() as clients:
        strangers = clients.connect(address, 150)
        async with gated(PEND, None, sockets=[listening], max_pending=1) as desk:
            await until(lambda: sum(map(has_ended, strangers)) == 21)
            counted = transport_of(desk)

            assert (129, 21) == (counted["strangers"], counted["strangers_reset"])
            assert 1 == len(desk.asked)
        assert [True] * 150 == [await is_reset(stranger) for stranger in strangers]


def has_ended(client: socket.socket) -> bool:
    """Whether there is an end to read, or an error."""
    return bool(select.select([client], [], [], 0)[0])


# --------------------------------------------------------------------------- full queues


def small_queue(*, fail_open: bool = False, **limits: Any) -> None:
    """Give this run a gatekeeper whose queue has these limits, for the next listening socket."""
    gatekeeper_here(fail_open=fail_open, make_queue=partial(Queue, **limits))


@in_own_namespace
async def test_full_queue_lets_nobody_in_unasked() -> None:
    """
    What a full queue has no room for is dropped and counted. These clients try again, and
    are asked about as the others were.
    """
    small_queue(max_length=4)
    with Clients() as clients:
        is_open = False
        async with gated(lambda _: ACCEPT if is_open else PEND) as desk:
            with Capture("lo", place_of(desk).port) as capture:
                many = clients.connect(place_of(desk), 12)
                await pended(desk, 4)

                assert 8 == transport_of(desk)["queue_lost"]
                assert {"client SYN"} == set(capture.exchange())

                is_open = True
                for request in desk.asked[:4]:
                    desk.complete(request, ACCEPT)
                assert {""} == await answers_to(many)
                came = await take(desk, 12)

                assert sorted(map(str, map(address_of, many))) == sorted(map(str, came))
                assert {*came} == {*senders(desk.asked)}
                assert 12 == len(desk.asked)
                assert 8 <= transport_of(desk)["queue_lost"]


@in_own_namespace
async def test_full_buffer_lets_nobody_in_unasked() -> None:
    """
    What the queue's receive buffer has no room for is dropped and counted. These clients
    try again, and are asked about as the others were.
    """
    small_queue(receive_buffer=8192)
    with Clients() as clients:
        async with gated(ACCEPT) as desk:
            many = clients.connect(place_of(desk), 30)

            assert {""} == await answers_to(many)

            came = await take(desk, 30)
            counted = transport_of(desk)

            assert {address_of(client) for client in many} == {*came} == {*senders(desk.asked)}
            assert 30 == len(desk.asked)
            assert 1 <= counted["queue_overruns"] <= counted["queue_lost"]


@pytest.mark.parametrize("limits", [{"max_length": 4}, {"receive_buffer": 1}])
@in_own_namespace
async def test_open_on_failure_asks_after_the_handshake(limits: dict[str, int]) -> None:
    """
    With ``fail_open`` who can't be held is answered by the kernel, and asked about afterwards:
    nobody is delivered unasked, and who is rejected then is reset.
    """
    small_queue(fail_open=True, **limits)

    def _inspect(request: ConnectionRequest) -> Any:
        return PEND if request.inspect_point is BEFORE else REJECT

    with Clients() as clients:
        transport = LinuxTransport.tcp(0, host=HOST, fail_open=True)
        async with gated(_inspect, None, transport=transport) as desk:
            many = clients.connect(place_of(desk), 30)
            await desk.when(lambda: len(desk.asked) == 30)
            late = {
                request.remote_address
                for request in desk.asked
                if request.inspect_point is InspectPoint.AFTER_HANDSHAKE
            }
            counted = transport_of(desk)

            assert 0 < len(late) < 30
            assert 30 == len({*senders(desk.asked)})
            assert (len(late), 30 - len(late)) == (counted["strangers"], counted["held"])
            for client in many:
                if address_of(client) in late:
                    assert await is_reset(client)
                else:
                    assert SYN_SENT == state_of(client)


@in_own_namespace
async def test_limit_drops_what_exceeds_it_before_anybody_is_asked() -> None:
    """
    SYNs above ``most_syns_per_second`` are dropped by the kernel and counted; their senders try
    again and get in.
    """
    with Clients() as clients:
        transport = LinuxTransport.tcp(0, host=HOST, most_syns_per_second=2)
        async with gated(ACCEPT, None, transport=transport) as desk:
            many = clients.connect(place_of(desk), 6)

            assert {""} == await answers_to(many)
            assert {address_of(client) for client in many} == {*await take(desk, 6)}
            assert 6 == len(desk.asked) == transport_of(desk)["held"]
            assert 1 <= transport_of(desk)["limited"]


# ----------------------------------------------------------------------- what forged SYNs cost


@in_own_namespace
async def test_peers_that_never_answer_do_not_take_the_room_of_others() -> None:
    """What was approved has had its verdict: ``max_pending`` doesn't count it any more."""
    with cabled_namespaces() as (_, there):
        mute(MUTE[0])
        async with gated(ACCEPT, host=HERE[0], max_pending=3) as desk:
            (address,) = desk.listening.local_addresses
            with there.entered():
                for port in range(2000, 2003):
                    send_segment(Address.tcp(MUTE[0], port), address, SYN, 1000)
            await until(lambda: desk.statistics().approved == 3)
            with closing(there.socket(socket.AF_INET)) as client:
                client.settimeout(0)
                client.connect_ex(address.sockaddr)
                connection = await desk.listening.accept()
                connection.abort()

            assert 3 == desk.statistics().pending


@in_own_namespace
async def test_syn_on_a_connection_that_somebody_has_is_missed_soon() -> None:
    """
    A forged SYN with another number, on a connection that is there, gets in and leads to nothing:
    the kernel has that connection, but not for this request.
    """
    with cabled_namespaces() as (_, there):
        async with gated(ACCEPT, host=HERE[0]) as desk:
            (address,) = desk.listening.local_addresses
            with closing(there.socket(socket.AF_INET)) as client:
                client.settimeout(0)
                client.connect_ex(address.sockaddr)
                connection = await desk.listening.accept()
                with there.entered():
                    send_segment(Address.tcp(*client.getsockname()), address, SYN, 0x12345678)
                await until(lambda: desk.statistics().aborted)
                await connection.send_all(b"still there")
                client.settimeout(PATIENCE)

                assert b"still there" == client.recv(100)

                connection.abort()

            assert {"silent": 1} == dict(desk.statistics().aborted)
            assert 0 == desk.statistics().pending


@in_own_namespace
async def test_counters_outlive_the_listening_socket() -> None:
    """What the queue and the rules had counted can be read when they have gone."""
    async with gated(REJECT, host=HOST) as desk:
        with Clients() as clients:
            assert "ECONNREFUSED" == await answer_to(clients.one(place_of(desk)))

        before = transport_of(desk)
        await desk.listening.aclose()

        assert 1 == before["held"]
        assert before == transport_of(desk)


@in_own_namespace
async def test_neighbour_that_closes_makes_nobody_miss_the_time() -> None:
    """What a closing listening socket reads for another is due as if the task had read it."""
    with Clients() as clients:
        async with gated(PEND, host=HOST) as desk:
            async with gated(PEND, host=HOST) as neighbour:
                client = clients.make()
                client.connect_ex(desk.listening.local_addresses[0].sockaddr)
                neighbour.listening._stages.close()  # noqa: SLF001 - before anybody else has a turn
            client.close()
            await until(lambda: desk.statistics().aborted)

            assert {"silent": 1} == dict(desk.statistics().aborted)
