"""Permits and inspection before the handshake: what forged SYNs can't take from a server."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.before_handshake import each_cable, each_network, opened, serving
from tests.helpers.gated import SYN
from tests.helpers.inspecting import ACCEPT, PEND
from tests.helpers.namespaces import in_own_namespace
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import PATIENCE, until
from trio_wsk import AbortReason, Connection

if TYPE_CHECKING:
    from tests.helpers.before_handshake import Stage

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN"),
    pytest.mark.usefixtures("no_leak_in_all"),
]


async def greet(connection: Connection) -> None:
    """Say something, and stay until the peer leaves."""
    await connection.send_all(b"hello")
    await connection.receive_some()


def forge(stage: Stage, count: int) -> None:
    """Send SYNs whose sender never answers."""
    for port in range(2000, 2000 + count):
        stage.send(stage.network.peer(port), SYN, 1000)


@each_cable
@in_own_namespace
async def test_who_never_answers_takes_no_permit(network: str) -> None:
    """
    Approved and not established, forged SYNs hold none of ``max_connections``: an honest client is
    served at once, and so are as many as there are permits.
    """
    async with serving(network, greet, ACCEPT, max_connections=2) as (stage, server):
        forge(stage, 20)
        await until(lambda: stage.statistics().approved == 20)

        assert 20 == stage.statistics().pending

        for _ in range(2):
            client = stage.arrive()

            assert b"hello" == await (await client.connected()).receive_some()

        assert 2 == server.statistics().open_connections


@each_cable
@in_own_namespace
async def test_who_never_answers_takes_no_accept(network: str) -> None:
    """So it is with ``max_parked=0`` and one accept that is queued."""
    async with opened(network, ACCEPT, max_parked=0) as stage:
        irp = stage.listening.queue_accept()
        forge(stage, 20)
        await until(lambda: stage.statistics().approved == 20)
        client = stage.arrive()
        await client.connected()
        await irp.wait()

        assert irp.information is not None
        assert client.address == irp.information.remote_address

        irp.information.close()


@each_cable
@in_own_namespace
async def test_who_has_no_verdict_takes_no_permit(network: str) -> None:
    """Before the handshake only ``max_pending`` bounds who is inspected."""
    async with serving(
        network,
        greet,
        lambda request: PEND if request.remote_address.port < 2020 else ACCEPT,
        max_connections=2,
    ) as (stage, _):
        forge(stage, 20)
        await until(lambda: len(stage.listening.pending_inspections) == 20)
        client = stage.arrive()

        assert b"hello" == await (await client.connected()).receive_some()


@each_network
@in_own_namespace
async def test_whom_no_permit_is_left_for_waits_in_the_kernel(network: str) -> None:
    """
    Who was let through while there was a permit, and finds none when the handshake is over, is not
    accepted: it holds no descriptor here. It is served when a permit comes back.
    """
    async with serving(network, greet, PEND, max_connections=1) as (stage, server):
        clients = [(await stage.held())[0] for _ in range(3)]
        stage.complete(stage.asked[0], ACCEPT)

        assert b"hello" == await (await clients[0].connected()).receive_some()

        await wait_all_tasks_blocked()
        before = open_descriptors()
        for request, client in zip(stage.asked[1:], clients[1:], strict=True):
            stage.complete(request, ACCEPT)
            await client.connected()
        await wait_all_tasks_blocked()

        assert before == open_descriptors()
        assert 1 == server.statistics().open_connections
        assert (2, 0) == (stage.statistics().pending, stage.statistics().parked)

        clients[0].close()
        for client in clients[1:]:
            assert b"hello" == await client.stream.receive_some()

            client.close()
        await until(lambda: server.statistics().served == 3)

        assert 1 == server.statistics().open_most
        assert {} == dict(stage.statistics().aborted)


@each_network
@in_own_namespace
async def test_whom_no_accept_is_queued_for_waits_in_the_kernel(network: str) -> None:
    """``max_parked=0``: nothing is taken from the kernel that nobody wants, approved or not."""
    async with opened(network, PEND, max_parked=0) as stage:
        irps = [stage.listening.queue_accept() for _ in range(2)]
        for _ in range(2):
            await stage.held()

        assert irps[0].cancel()
        for request in stage.asked:
            stage.complete(request, ACCEPT)
        for client in stage.clients:
            await client.connected()
        await irps[1].wait()
        await wait_all_tasks_blocked()

        assert 0 == stage.statistics().parked_most
        assert 1 == stage.statistics().pending

        connection = await stage.listening.accept()

        assert {client.address for client in stage.clients} == {
            irps[1].information.remote_address,  # type: ignore[union-attr]  # it has come
            connection.remote_address,
        }

        connection.close()
        irps[1].information.close()  # type: ignore[union-attr]  # the same


@each_cable
@in_own_namespace
async def test_oldest_that_never_answers_makes_room(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a bound for those who were approved, too: beyond it the oldest is given up."""
    monkeypatch.setattr("trio_wsk._inspection.lives.HALF_OPEN_MOST", 5)
    async with opened(network, ACCEPT) as stage:
        forge(stage, 7)
        await until(lambda: stage.statistics().approved == 7)
        client = stage.arrive()
        await client.connected()
        connection = await stage.listening.accept()

        assert client.address == connection.remote_address
        assert {AbortReason.EVICTED.value: 3} == dict(stage.statistics().aborted)
        assert [request.inspect_id for request in stage.asked[:3]] == stage.told_abort
        connection.close()


@each_network
@in_own_namespace
async def test_drain_serves_whom_no_permit_was_left_for(network: str) -> None:
    """They were let in, and wait in the kernel: a drain takes them, over the limit if need be."""
    async with serving(network, greet, PEND, max_connections=1) as (stage, server):
        clients = [(await stage.held())[0] for _ in range(3)]
        for request, client in zip(stage.asked, clients, strict=True):
            stage.complete(request, ACCEPT)
            await client.connected()
        await until(lambda: server.statistics().open_connections == 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(server.drain, grace=PATIENCE))
            for client in clients:
                assert b"hello" == await client.stream.receive_some()
            for client in clients:
                client.close()

        assert 3 == server.statistics().served
        assert {} == dict(stage.statistics().aborted)
