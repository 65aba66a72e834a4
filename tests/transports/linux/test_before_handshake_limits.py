"""Conditional accept before the handshake: how many are held, and TCP Fast Open."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
from trio.testing import wait_all_tasks_blocked

from tests.helpers.before_handshake import (
    REFUSAL,
    SYN_ONLY,
    Network,
    each_network,
    everywhere,
    opened,
)
from tests.helpers.gated import RST
from tests.helpers.held_syns import UNDECIDED, each_undecided, talk
from tests.helpers.inspecting import ACCEPT, PEND, REJECT
from tests.helpers.namespaces import in_own_namespace, set_sysctl
from tests.helpers.support import fate_of, until
from trio_wsk import AbortReason, Overflow, Status

if TYPE_CHECKING:
    from trio_wsk import InspectAction

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN"),
    pytest.mark.usefixtures("no_leak_in_all"),
]


# --- Limits -----------------------------------------------------------------------------------


@each_network
@each_undecided
@in_own_namespace
async def test_newcomers_wait_while_too_many_are_pending(network: str, state: str) -> None:
    """``overflow="wait"``: their SYNs are held, unasked, until there is room."""
    async with opened(network, UNDECIDED[state], max_pending=2) as stage:
        await stage.inspected()
        await stage.inspected()
        third, fourth = stage.arrive(), stage.arrive()
        await until(lambda: stage.statistics().backlog == 2)
        await wait_all_tasks_blocked()

        assert 2 == len(stage.asked) == stage.statistics().pending
        assert third.is_waiting
        assert fourth.is_waiting

        for number, client in enumerate(stage.clients[:2]):
            stage.send(client.address, RST, stage.number_of(client) + 1)
            await stage.when(lambda: len(stage.asked) == 3 + number)  # noqa: B023
        order = [request.remote_address for request in stage.asked]

        assert [client.address for client in stage.clients] == order
        assert 2 == stage.statistics().pending_most == stage.statistics().pending
        assert {} == dict(stage.statistics().dropped)


@each_network
@in_own_namespace
async def test_newcomers_are_refused_while_too_many_are_pending(network: str) -> None:
    """``overflow="reset"``: they are not asked about, and counted as dropped."""
    async with opened(network, PEND, max_pending=2, overflow="reset") as stage:
        await stage.held()
        await stage.held()
        third = stage.arrive()
        await third.refused()

        assert [*REFUSAL] == stage.story(third)
        assert 2 == len(stage.asked) == stage.statistics().pending
        assert {"overflowed": 1} == dict(stage.statistics().dropped)


@each_network
@each_undecided
@in_own_namespace
async def test_oldest_makes_room_while_too_many_are_pending(network: str, state: str) -> None:
    """``overflow="evict"``: its work is cancelled, its abort told, its client refused."""
    async with opened(network, UNDECIDED[state], max_pending=2, overflow="evict") as stage:
        oldest, request = await stage.inspected()
        scope = request.cancel_scope
        for _ in range(2):
            await stage.inspected()
        aborted = await stage.aborted()
        await oldest.refused()

        assert AbortReason.EVICTED is aborted.reason
        assert scope.cancel_called
        assert [*REFUSAL] == stage.story(oldest)
        assert 2 == stage.statistics().pending == stage.statistics().pending_most


@each_network
@in_own_namespace
async def test_nobody_is_asked_about_while_too_many_are_parked(network: str) -> None:
    """``max_parked``: newcomers' SYNs wait until somebody takes a connection."""
    async with opened(network, ACCEPT, max_parked=1) as stage:
        await stage.admitted()
        second = stage.arrive()
        await until(lambda: stage.statistics().backlog == 1)
        await wait_all_tasks_blocked()

        assert 1 == len(stage.asked)
        assert second.is_waiting

        connection = stage.listening.accept_nowait()
        await second.connected()

        assert stage.asked[0].inspect_id == connection.inspect_id
        assert 2 == len(stage.asked)
        connection.close()


@each_network
@pytest.mark.parametrize(("policy", "gone"), [("reset", 1), ("evict", 0)])
@in_own_namespace
async def test_approved_connection_beyond_what_may_be_parked(
    network: str, policy: Any, gone: int
) -> None:
    """``"reset"``: the newcomer goes; ``"evict"``: the oldest. It was let in, so it is aborted."""
    async with opened(network, ACCEPT, max_parked=1, overflow=Overflow(parked=policy)) as stage:
        await stage.admitted()
        await stage.inspected()
        aborted = await stage.aborted()
        connection = stage.listening.accept_nowait()

        assert AbortReason.EVICTED is aborted.reason
        assert stage.asked[gone].inspect_id == aborted.inspect_id
        assert stage.asked[1 - gone].inspect_id == connection.inspect_id
        assert "reset" == await fate_of(stage.clients[gone].stream)
        connection.close()


@each_network
@in_own_namespace
async def test_nobody_is_asked_about_ahead_of_an_accept_if_nothing_may_be_parked(
    network: str,
) -> None:
    """``max_parked=0``: the SYN waits for somebody who wants a connection."""
    async with opened(network, ACCEPT, max_parked=0) as stage:
        client = stage.arrive()
        await until(lambda: stage.statistics().backlog == 1)
        await wait_all_tasks_blocked()

        assert [] == stage.asked
        assert client.is_waiting

        connection = await stage.listening.accept()

        assert stage.asked[0].inspect_id == connection.inspect_id
        assert 0 == stage.statistics().parked_most
        connection.close()


@each_network
@in_own_namespace
async def test_paused_socket_asks_about_nobody(network: str) -> None:
    """Newcomers' SYNs wait; who is pending can be decided. Resumed, it asks about them."""
    async with opened(network, PEND) as stage:
        client, request = await stage.held()
        stage.listening.pause()
        newcomer = stage.arrive()
        await until(lambda: stage.statistics().backlog == 1)

        assert Status.SUCCESS == stage.complete(request, REJECT)

        await client.refused()
        await wait_all_tasks_blocked()

        assert 1 == len(stage.asked)
        assert [*SYN_ONLY] == stage.story(newcomer)

        stage.listening.resume()
        await stage.when(lambda: len(stage.asked) == 2)

        assert newcomer.address == stage.asked[1].remote_address


@each_network
@in_own_namespace
async def test_refusing_socket_asks_about_nobody(network: str) -> None:
    """Newcomers are refused without a question; who is pending stays."""
    async with opened(network, PEND) as stage:
        client, request = await stage.held()
        stage.listening.refuse()
        newcomer = stage.arrive()
        await newcomer.refused()

        assert [*REFUSAL] == stage.story(newcomer)
        assert 1 == len(stage.asked) == stage.statistics().pending
        assert {"refused": 1} == dict(stage.statistics().dropped)

        stage.listening.resume()
        await stage.held()

        assert Status.SUCCESS == stage.complete(request, ACCEPT)

        await client.connected()


@in_own_namespace
async def test_syns_beyond_the_backlog_come_again() -> None:
    """
    Of those who can't be asked about so many are held as the backlog has room for. The next one is
    dropped and counted; it asks again, and then there is room.
    """

    async def _body(network: Network) -> None:
        async with opened(network, PEND, gate={"backlog": 1}, max_pending=1) as stage:
            _, request = await stage.held()
            stage.arrive()
            await until(lambda: stage.statistics().backlog == 1)
            third = stage.arrive()
            await until(lambda: stage.statistics().transport["overflowed"])

            assert Status.SUCCESS == stage.complete(request, REJECT)

            await stage.when(lambda: len(stage.asked) == 2)

            assert Status.SUCCESS == stage.complete(stage.asked[1], REJECT)

            await stage.when(lambda: len(stage.asked) == 3)

            assert third.address == stage.asked[2].remote_address
            assert third.is_waiting
            assert 3 == stage.statistics().transport["held"]

    await everywhere(_body)


@in_own_namespace
async def test_kernel_drops_syns_beyond_the_limit_before_anybody_is_asked() -> None:
    """They are counted, and their senders try again."""

    async def _body(network: Network) -> None:
        async with opened(network, REJECT, gate={"most_syns_per_second": 2}) as stage:
            clients = [stage.arrive() for _ in range(6)]
            for client in clients:
                await client.refused()
            counted = stage.statistics().transport

            assert 6 == len(stage.asked) == counted["held"]
            assert len(stage.exchange()) - 12 == counted["limited"] > 0

    await everywhere(_body)


# --- Fast Open --------------------------------------------------------------------------------


_TCP_FASTOPEN_CONNECT = 30


def fast_open(sock: socket.socket) -> None:
    """Have the SYN wait for the first octets, and take them along."""
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN_CONNECT, 1)


def enable_fast_open(network: Network, flags: int) -> None:
    """Say what both ends of a network do."""
    set_sysctl("net.ipv4.tcp_fastopen", flags)
    with network.at_client():
        set_sysctl("net.ipv4.tcp_fastopen", flags)


_EITHER_SIDE = 0x3
_WITHOUT_COOKIE = 0x204
_WITHOUT_BEING_ASKED = 0x400


@each_network
@pytest.mark.parametrize("answer", [ACCEPT, REJECT])
@in_own_namespace
async def test_first_octets_in_the_syn_are_seen_and_delivered(
    network: str, answer: InspectAction
) -> None:
    """
    TCP Fast Open, without cookies: the inspector has the octets before it answers; whoever
    accepts the connection receives them, once.
    """
    async with opened(network, PEND) as stage:
        enable_fast_open(stage.network, _EITHER_SIDE | _WITHOUT_COOKIE | _WITHOUT_BEING_ASKED)
        client = stage.arrive(fast_open)

        assert 5 == client.socket.send(b"hello")

        await stage.when(lambda: stage.asked)
        await stage.expect("client SYN (5 octets)")
        (request,) = stage.asked

        assert request.syn is not None
        assert (b"hello", 5) == (request.syn.payload, request.syn.payload_length)

        await stage.when(lambda: request.inspect_id in stage.listening.pending_inspections)

        assert Status.SUCCESS == stage.complete(request, answer)

        if answer is REJECT:
            await stage.expect("client SYN (5 octets)", "server RST,ACK")
            with pytest.raises(ConnectionRefusedError):
                client.socket.send(b"more")
        else:
            connection = await stage.listening.accept()

            assert request.inspect_id == connection.inspect_id
            assert b"hello" == await connection.receive_some()
            await talk(connection, client.stream)
            assert "client SYN (5 octets)" == stage.story()[0]
            connection.close()


@each_network
@in_own_namespace
async def test_fast_open_has_cookies(network: str) -> None:
    """The first time a client asks for one; the second time it has that, and octets with it."""
    room = (socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    async with opened(network, ACCEPT, socket_options=[room]) as stage:
        enable_fast_open(stage.network, _EITHER_SIDE)
        first = stage.arrive(fast_open)
        connection = await stage.listening.accept()
        syn = stage.asked[0].syn

        assert syn is not None
        assert (b"", b"") == (syn.fast_open_cookie, syn.payload)

        await talk(connection, await first.connected())
        connection.close()
        second = stage.arrive(fast_open)

        assert 5 == second.socket.send(b"hello")

        connection = await stage.listening.accept()
        syn = stage.asked[1].syn

        assert syn is not None
        assert syn.fast_open_cookie
        assert b"hello" == syn.payload == await connection.receive_some()

        await talk(connection, await second.connected())
        connection.close()
