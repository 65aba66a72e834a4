"""Conditional accept before the handshake: servers, and what is counted."""

from __future__ import annotations

import math
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_wsk
from tests.helpers.before_handshake import (
    HANDSHAKE,
    REFUSAL,
    Network,
    each_cable,
    each_network,
    everywhere,
    opened,
    serving,
)
from tests.helpers.gated import ACK, FIN, RST, SYN
from tests.helpers.inspecting import ACCEPT, PEND, REJECT
from tests.helpers.namespaces import in_own_namespace
from tests.helpers.support import PATIENCE, read_to_end, until
from trio_wsk import Address, CloseStyle, Connection, ConnectionDispatch, Status, Verdict

if TYPE_CHECKING:
    from trio_wsk import InspectAction

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN"),
    pytest.mark.usefixtures("no_leak_in_all"),
]


# --- Servers ----------------------------------------------------------------------------------


async def echo(connection: Connection) -> None:
    """Send everything back."""
    async for data in connection:
        await connection.send_all(data)


def echo_by_events(connection: Connection) -> ConnectionDispatch:
    """Send everything back, without a task."""

    def receive(connection: Connection, data: bytes) -> None:
        connection.queue_send(bytes(data))

    return ConnectionDispatch(
        receive=receive, disconnect=lambda connection, abortive: connection.close()
    )


each_server = pytest.mark.parametrize("server", ["serve", "serve_events"])
HANDLERS: dict[str, Any] = {"serve": echo, "serve_events": echo_by_events}


@each_network
@each_server
@in_own_namespace
async def test_server_serves_whom_its_inspector_lets_in(network: str, server: str) -> None:
    """The others are refused, and those who leave are aborted."""
    answers = [ACCEPT, REJECT, PEND]
    async with serving(
        network, HANDLERS[server], lambda _: answers[len(stage.asked) - 1], way=server
    ) as (stage, it):
        friend, _ = await stage.inspected()
        stranger, _ = await stage.inspected()
        leaver, request = await stage.held()
        stream = await friend.connected()
        await stream.send_all(b"hello")

        assert b"hello" == await stream.receive_some()

        await stranger.refused()
        stage.send(leaver.address, RST, stage.number_of(leaver) + 1)
        aborted = await stage.aborted()

        assert request.inspect_id == aborted.inspect_id
        assert 1 == it.statistics().open_connections

        await stream.send_eof()

        assert b"" == await read_to_end(stream)

        report = await it.drain()

        assert trio_wsk.DrainReport(finished=0, reset=0) == report


@each_network
@each_server
@in_own_namespace
async def test_drain_waits_for_who_is_being_inspected(network: str, server: str) -> None:
    """Whoever is let in within the grace is served."""
    async with serving(network, HANDLERS[server], PEND, way=server) as (stage, it):
        clients = [(await stage.held())[0] for _ in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(it.drain, grace=PATIENCE))
            await wait_all_tasks_blocked()
            for request, answer in zip(stage.asked, (ACCEPT, REJECT, ACCEPT), strict=True):
                assert Status.SUCCESS == stage.complete(request, answer)
            outcomes = [await client.outcome() for client in clients]

            assert ["connected", "ECONNREFUSED", "connected"] == outcomes

            for client in (clients[0], clients[2]):
                await client.stream.send_all(b"hello")

                assert b"hello" == await client.stream.receive_some()

                await client.stream.send_eof()

                assert b"" == await read_to_end(client.stream)

        assert 2 == it.statistics().served
        assert {} == dict(it.statistics().listening.aborted)


@each_server
@in_own_namespace
async def test_drain_whose_grace_runs_out_refuses_who_is_being_inspected(server: str) -> None:
    """They are aborted, and whoever comes by then is refused by the kernel."""
    async with serving("cable6", HANDLERS[server], PEND, way=server) as (stage, it):
        client, _ = await stage.held()
        await it.drain(grace=0.05)
        await client.refused()
        late = stage.arrive()
        await late.refused()

        assert {"closed": 1} == dict(it.statistics().listening.aborted)
        assert [*REFUSAL, *REFUSAL] == stage.story()


@pytest.mark.parametrize("peer_does", ["answer", "nothing"])
@each_cable
@each_server
@in_own_namespace
async def test_drain_waits_for_handshakes_within_the_grace(
    server: str, network: str, peer_does: str
) -> None:
    """
    Who is let in and has not answered yet has the grace for it: then he is served, or else aborted
    as closed, which the abort callback is told once.
    """
    answers = peer_does == "answer"
    async with serving(network, HANDLERS[server], ACCEPT, way=server) as (stage, it):
        peer = stage.network.peer(1111)
        stage.send(peer, SYN, 1000)
        _, answer = await stage.expect(*HANDSHAKE[:2])
        number = answer.sequence_number + 1

        assert (1, 0) == (it.statistics().listening.pending, it.statistics().open_connections)

        reports: list[trio_wsk.DrainReport] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def drain() -> None:
                reports.append(await it.drain(grace=math.inf if answers else 0.05))

            if answers:
                await wait_all_tasks_blocked()
                stage.send(peer, ACK, 1001, acknowledgement=number)
                await until(lambda: it.statistics().open_connections)
                stage.send(peer, FIN | ACK, 1001, acknowledgement=number)

        assert [trio_wsk.DrainReport(finished=int(answers), reset=0)] == reports
        assert ({} if answers else {"closed": 1}) == it.statistics().listening.aborted
        assert [request.inspect_id for request in stage.asked[answers:]] == stage.told_abort


@pytest.mark.parametrize("how", ["drain", "abort", "aclose"])
@in_own_namespace
async def test_end_leaves_to_the_next_process_who_is_not_connected(how: str) -> None:
    """
    Of a socket that others hold, too: who is held is aborted as closed, and not refused; when he
    asks again the kernel answers, as it does newcomers, and the next process has the connections.
    """

    async def _body(where: Network) -> None:
        made = socket.socket(Address.tcp(where.host, 0).family)
        made.bind(Address.tcp(where.host, 0, where.scope_id).sockaddr)
        made.listen()
        adopted: dict[str, Any] = {"port": None, "host": None, "sockets": [made.dup()]}
        async with serving(where, echo, PEND, **adopted) as (stage, it):
            held = [(await stage.held())[0] for _ in range(2)]
            if how == "drain":
                report = await it.drain(grace=10)

                assert trio_wsk.DrainReport(finished=0, reset=0) == report
            elif how == "abort":
                it.abort()
            else:
                await it.listening.aclose()

            assert {"closed": 2} == it.statistics().listening.aborted
            assert [True, True] == [client.is_waiting for client in held]

            clients = [stage.arrive(), *held]
            streams = [await client.connected() for client in clients]
            async with trio_wsk.open_server(echo, sockets=[made]) as after:
                for stream in streams:
                    await stream.send_all(b"hello")

                    assert b"hello" == await stream.receive_some()

                    await stream.aclose()

            assert 3 == after.statistics().served

    await everywhere(_body)


# --- What is counted --------------------------------------------------------------------------


@each_network
@in_own_namespace
async def test_transport_counts_what_it_holds(network: str) -> None:
    """One for each request, however it ends; nothing else has happened, so nothing is counted."""
    answers: list[InspectAction | Verdict] = [
        ACCEPT,
        REJECT,
        Verdict(REJECT, close=CloseStyle.SILENT),
        PEND,
    ]
    async with opened(network, lambda _: answers[len(stage.asked) - 1]) as stage:
        for _ in answers:
            await stage.inspected()
        await until(lambda: stage.statistics().parked)
        counted = dict(stage.statistics().transport)

        assert 4 == counted.pop("held")
        assert dict.fromkeys(counted, 0) == counted
        assert {
            "overflowed",
            "limited",
            "refused_in_kernel",
            "resets_unheard",
            "truncated",
            "strangers",
            "strangers_reset",
            "queue_lost",
            "queue_overruns",
            "verdicts_late",
            "not_syns",
            "unclaimed",
        } == set(counted)
