"""What a listening socket says that it does with new peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers.listening import close_all
from tests.helpers.support import connect_now, read_to_end, take_into, until
from trio_wsk import (
    Connection,
    EventMask,
    InspectAction,
    ListenDispatch,
    ListeningState,
    open_listening_socket,
    open_server,
)
from trio_wsk.observers import ConnectionUnparked, DrainStarted, RequestApproved, RequestRejected

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_wsk import ConnectionRequest
    from trio_wsk.observers import Record
    from trio_wsk.testing import MemoryHost, MemoryNetwork

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


async def test_state_is_what_was_called_last() -> None:
    """`statistics().state` follows pause(), refuse(), resume() and aclose()."""
    async with open_listening_socket(0, host=HOST) as listening:
        states = [listening.statistics().state]
        for change in (listening.pause, listening.refuse, listening.resume):
            change()
            states.append(listening.statistics().state)
        await listening.aclose()
        states.append(listening.statistics().state)

    assert [
        ListeningState.LISTENING,
        ListeningState.PAUSED,
        ListeningState.REFUSING,
        ListeningState.LISTENING,
        ListeningState.CLOSED,
    ] == states


@pytest.mark.parametrize("paused", [False, True])
async def test_state_of_a_server_that_drains(*, paused: bool) -> None:
    """
    When a drain begins the listening socket is draining, whatever it did before; when that is over
    it is closed.
    """

    async def wait_for_drain(connection: Connection) -> None:
        await connection.draining.wait()
        await connection.send_all(b"bye")

    def look(record: Record) -> None:
        if isinstance(record, DrainStarted):
            seen.append(server.listening.statistics().state)

    seen: list[ListeningState] = []
    async with open_server(wait_for_drain, 0, host=HOST, observers=[look]) as server:
        async with connect_now(server.local_addresses[0]) as client:
            await until(lambda: server.connections)
            if paused:
                server.listening.pause()
            await server.drain()

            assert b"bye" == await read_to_end(client)
        assert [ListeningState.DRAINING] == seen
        assert ListeningState.CLOSED is server.listening.statistics().state


# --- Times ------------------------------------------------------------------------------------


def accept(request: ConnectionRequest) -> InspectAction:
    """Let everybody in."""
    return InspectAction.ACCEPT


async def test_who_was_parked_is_told_with_the_time(
    memory_network: MemoryNetwork, memory_server: MemoryHost, autojump_clock: MockClock
) -> None:
    """
    `ConnectionUnparked` is told of each connection that was parked and is taken, with the time
    since which it has waited; of none that left meanwhile, and of none that somebody waited for.
    """
    told: list[Record] = []
    async with open_listening_socket(
        transport=memory_server.transport(80), inspect=accept, observers=[told.append]
    ) as listening:
        clients = []
        for _ in range(3):
            clients.append(await memory_network.host("192.0.2.2").connect(("192.0.2.1", 80)))
            await trio.sleep(1)
        leaver = clients.pop(1)
        leaver.reset()
        taken = [await listening.accept(), await listening.accept()]
        irp = listening.queue_accept()
        clients.append(await memory_network.host("192.0.2.2").connect(("192.0.2.1", 80)))
        taken.append((await irp.wait()).unwrap())
        await close_all(*taken, *clients)
        unparked = [each for each in told if isinstance(each, ConnectionUnparked)]

        assert [3.0, 1.0] == [each.at - each.parked_at for each in unparked]
        assert [each.remote_address for each in taken[:2]] == [
            each.remote_address for each in unparked
        ]
        assert {} == listening._stages.handing_over._parked_at  # noqa: SLF001 - nothing leaks


async def test_accept_event_tells_of_who_was_parked(
    memory_network: MemoryNetwork, memory_server: MemoryHost, autojump_clock: MockClock
) -> None:
    """What the accept event takes out of the line is told like what an accept takes."""
    told: list[Record] = []
    taken: list[Connection] = []
    async with open_listening_socket(
        transport=memory_server.transport(80),
        dispatch=ListenDispatch(inspect=accept, accept=take_into(taken)),
        observers=[told.append],
    ) as listening:
        client = await memory_network.host("192.0.2.2").connect(("192.0.2.1", 80))
        await trio.sleep(5)
        listening.enable_events(EventMask.ACCEPT)
        await until(lambda: taken)
        await close_all(*taken, client)
        [unparked] = [each for each in told if isinstance(each, ConnectionUnparked)]

        assert 5.0 == unparked.at - unparked.parked_at


@pytest.mark.parametrize("action", [InspectAction.ACCEPT, InspectAction.REJECT])
async def test_verdicts_are_told_with_the_time(
    memory_network: MemoryNetwork,
    memory_server: MemoryHost,
    autojump_clock: MockClock,
    action: InspectAction,
) -> None:
    """`RequestApproved` and `RequestRejected` say since when the request has waited for this."""

    async def decide(request: ConnectionRequest) -> InspectAction:
        await trio.sleep(3)
        return action

    told: list[Record] = []
    async with open_listening_socket(
        transport=memory_server.transport(80), inspect=decide, observers=[told.append]
    ):
        await trio.sleep(2)
        client = await memory_network.host("192.0.2.2").connect(("192.0.2.1", 80))
        await trio.sleep(4)
        await client.aclose()
        [verdict] = [each for each in told if isinstance(each, (RequestApproved, RequestRejected))]

        assert 3.0 == verdict.at - verdict.arrived_at
