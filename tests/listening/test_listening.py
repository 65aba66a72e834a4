"""The listening socket: who gets which connection, and what becomes of the others."""

from __future__ import annotations

import select
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_wsk
from tests.helpers.blocking_peers import await_event, spin_until
from tests.helpers.listening import Taker, clients_of, close_all, names, opened, parked, peers
from tests.helpers.pairs import descriptor_of
from tests.helpers.support import (
    PATIENCE,
    connect,
    connect_now,
    fate_of,
    is_waiting,
    other_end,
    reset,
    shown,
    until,
)
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    EventMask,
    ListenDispatch,
    ListeningSocket,
    Status,
    open_listening_socket,
)
from trio_wsk.transports import PortableTransport

if TYPE_CHECKING:
    from pathlib import Path

    from trio_wsk import Irp

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


# --- Awaited accepts --------------------------------------------------------------------------


async def test_accept_returns_the_next_connection() -> None:
    """What comes out of accept() is connected to the client that went in."""
    async with opened() as listening:
        client = await connect(listening.local_addresses[0])
        connection = await listening.accept()
        await client.send_all(b"here")

        assert b"here" == await connection.receive_some()
        assert client.socket.getsockname() == connection.remote_address.sockaddr
        assert listening is connection.listening
        assert {"accept": 1, "event": 0} == listening.statistics().delivered

        await close_all(connection, client)


async def test_tasks_are_served_in_the_order_they_came() -> None:
    """Several tasks in accept() get the clients in order: first come, first served."""
    got: dict[int, Connection] = {}
    async with opened() as listening, trio.open_nursery() as nursery:

        async def accept(number: int) -> None:
            got[number] = await listening.accept(context=number)

        for number in range(5):
            nursery.start_soon(accept, number)
            await trio.testing.wait_all_tasks_blocked()

        assert 5 == listening.statistics().queued_accepts

        clients = await clients_of(listening, 5)
        await until(lambda: len(got) == 5)

        assert names(clients) == peers([got[number] for number in range(5)])
        assert list(range(5)) == [got[number].context for number in range(5)]

        await close_all(*got.values(), *clients)


@pytest.mark.parametrize(("accepts", "connections"), [(1, 1), (1, 20), (20, 1), (20, 20), (40, 17)])
@pytest.mark.parametrize("first", ["accepts", "connections"])
async def test_queues_are_first_in_first_out(accepts: int, connections: int, first: str) -> None:
    """
    N queued accepts and M connections, whichever come first: the pairs are formed in order,
    and what is left over waits.
    """
    async with opened() as listening:
        clients = await clients_of(listening, connections) if first == "connections" else []
        irps = [listening.queue_accept(context=number) for number in range(accepts)]
        clients = clients or await clients_of(listening, connections)
        pairs = min(accepts, connections)
        await until(lambda: listening.statistics().delivered["accept"] == pairs)
        got = [irp.information for irp in irps[:pairs]]

        assert all(got)
        assert names(clients)[:pairs] == peers([each for each in got if each])
        assert list(range(pairs)) == [each.context for each in got if each]
        assert all(irp.status is Status.PENDING for irp in irps[pairs:])

        for connection in got:
            assert connection is not None
            await connection.aclose()
        await close_all(*clients)
    assert all(irp.status is Status.CANCELLED for irp in irps[pairs:])


async def test_each_accept_brings_its_own_context_and_dispatch() -> None:
    """
    Two queued accepts give their connections different contexts and callbacks; no event is
    enabled, though the listening socket has some.
    """
    received: list[tuple[object, bytes]] = []

    def receive(name: str, connection: Connection, data: bytes) -> None:
        received.append((name, data))

    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
        irps = [
            listening.queue_accept(
                context=name, dispatch=ConnectionDispatch(receive=partial(receive, name))
            )
            for name in ("a", "b")
        ]
        clients = await clients_of(listening, 2)
        connections = [(await irp.wait()).unwrap() for irp in irps]
        for client in clients:
            await client.send_all(b"x")
        await shown(*map(descriptor_of, connections))

        assert ["a", "b"] == [connection.context for connection in connections]
        assert [] == received

        for connection in connections:
            connection.enable_events(EventMask.RECEIVE)
        await until(lambda: len(received) == 2)

        assert [("a", b"x"), ("b", b"x")] == sorted(received)

        await close_all(*connections, *clients)


async def test_accept_nowait_takes_only_what_is_there() -> None:
    """accept_nowait() returns a connection that waits already, and otherwise says so."""
    async with opened() as listening:
        with pytest.raises(trio_wsk.WouldBlockError):
            listening.accept_nowait()
        client = await connect(listening.local_addresses[0])
        await until(lambda: listening.statistics().backlog != 0)
        connection = listening.accept_nowait(context="c")

        assert "c" == connection.context
        assert 0 == listening.statistics().queued_accepts

        await close_all(connection, client)


@pytest.mark.parametrize("place", ["port", "two ports", "path"])
async def test_accept_nowait_finds_whom_the_kernel_has(place: str, tmp_path: Path) -> None:
    """
    accept_nowait() asks the kernel: whoever waits in its backlog is had at once, in the order
    of their coming, though no edge has been told; and then nobody is.
    """
    places: dict[str, dict[str, Any]] = {
        "port": {"port": 0, "host": "127.0.0.1"},
        "two ports": {"port": 0, "host": ["127.0.0.1", "127.0.0.2"]},
        "path": {"path": tmp_path / "app.sock"},
    }
    async with open_listening_socket(**places[place]) as listening:
        count = len(listening.local_addresses)
        for _ in range(20):
            clients = [connect_now(address) for address in listening.local_addresses]
            if place != "path":
                spin_until(lambda: listening.statistics().backlog == count)
            connections = [listening.accept_nowait() for _ in clients]
            with pytest.raises(trio_wsk.WouldBlockError):
                listening.accept_nowait()

            assert {*listening.local_addresses} == {each.local_address for each in connections}

            await close_all(*connections, *clients)


async def test_accept_nowait_does_not_overtake() -> None:
    """While others are queued, accept_nowait() takes nothing from them."""
    async with opened() as listening:
        irp = listening.queue_accept()
        client = await connect(listening.local_addresses[0])
        with pytest.raises(trio_wsk.WouldBlockError):  # noqa: PT012 - the end of the block raises
            while True:
                listening.accept_nowait()
        connection = (await irp.wait()).unwrap()
        await close_all(connection, client)


async def test_accept_is_a_checkpoint() -> None:
    """accept() is a cancel point and a schedule point, with a connection there and without."""
    async with opened() as listening:
        clients = await clients_of(listening, 3)
        with trio.testing.assert_checkpoints():
            first = await listening.accept()
        with trio.testing.assert_checkpoints():
            second = await listening.accept()  # read ahead already
        with trio.CancelScope() as scope:
            scope.cancel()
            await listening.accept()

        assert scope.cancelled_caught
        assert 1 == listening.statistics().parked

        with trio.testing.assert_checkpoints():
            await listening.aclose()
        with trio.testing.assert_checkpoints():
            await listening.aclose()
        await close_all(first, second, *clients)


async def test_cancelled_accept_leaves_the_connection_first_in_line() -> None:
    """An accept that is cancelled takes nothing: the next one gets the first client."""
    async with opened() as listening:
        with trio.move_on_after(0):
            await listening.accept()
        clients = await clients_of(listening, 2)
        with trio.CancelScope() as scope:
            scope.cancel()
            await listening.accept()
        first = await listening.accept()
        second = await listening.accept()

        assert names(clients) == peers([first, second])

        await close_all(first, second, *clients)


@pytest.mark.parametrize("seed", range(10))
async def test_cancelling_at_any_point_loses_and_leaks_nothing(seed: int) -> None:
    """
    Accepts that are cancelled at any point between arrival and return: each client comes
    out exactly once, and in order.
    """
    clients: list[trio.SocketStream] = []
    got: list[Connection] = []
    count = 30

    async def accept_for(listening: ListeningSocket, ticks: int) -> None:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                async def cancel() -> None:
                    for _ in range(ticks):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel)
                got.append(await listening.accept())

    async with opened() as listening:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def come() -> None:
                for number in range(count):
                    clients.append(await connect(listening.local_addresses[0]))
                    for _ in range((number * 7 + seed) % 4):
                        await trio.lowlevel.checkpoint()

            turn = seed
            with trio.fail_after(PATIENCE):
                while len(got) < count:
                    turn += 1
                    await accept_for(listening, turn * turn % 7)

        assert names(clients) == peers(got)
        assert count == listening.statistics().accepted
        assert 0 == listening.statistics().queued_accepts

        await close_all(*got, *clients)


# --- Parked and dead --------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["accept", "event"])
async def test_connection_that_was_reset_while_parked_is_not_handed_out(way: str) -> None:
    """
    A parked connection whose peer has reset is dropped and counted; one with data and then
    FIN is alive, and one with FIN alone too.
    """
    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        clients = await parked(listening, 3)
        descriptor = other_end(clients[0])
        reset(clients[0])
        await clients[1].send_all(b"request")
        await clients[1].send_eof()
        await clients[2].send_eof()
        await_event(descriptor, select.POLLERR)
        if way == "event":
            listening.enable_events(EventMask.ACCEPT)
            await until(lambda: len(taker.taken) == 2)
            connections = taker.taken
        else:
            connections = [await listening.accept(), await listening.accept()]

        assert names(clients[1:]) == peers(connections)
        assert b"request" == await connections[0].receive_some()
        assert b"" == await connections[0].receive_some()
        await connections[0].send_all(b"answer")
        assert b"answer" == await clients[1].receive_some()
        assert {"reset-while-parked": 1} == listening.statistics().dropped

        await close_all(*connections, *clients)


# --- Pause, resume, refuse --------------------------------------------------------------------


async def test_paused_peers_are_connected_and_wait() -> None:
    """While paused, peers connect and hear nothing; after resume() they come in order."""
    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        listening.enable_events(EventMask.ACCEPT)
        listening.pause()
        clients = await clients_of(listening, 3)
        await shown(listening.socket.fileno())

        assert await is_waiting(clients[0].receive_some)
        assert [] == taker.taken

        listening.resume()
        await until(lambda: len(taker.taken) == 3)

        assert names(clients) == peers(taker.taken)

        await close_all(*taker.taken, *clients)


async def test_paused_accepts_wait_and_parked_ones_are_served() -> None:
    """While paused, accept() still gives what was parked, then waits for resume()."""
    async with opened() as listening:
        clients = await parked(listening, 1)
        listening.pause()
        clients += await clients_of(listening, 1)
        connection = await listening.accept()
        irp = listening.queue_accept()
        await shown(listening.socket.fileno())

        assert Status.PENDING is irp.status

        listening.resume()
        other = (await irp.wait()).unwrap()

        assert names(clients) == peers([connection, other])

        await close_all(connection, other, *clients)


@pytest.mark.parametrize("demand", ["accept", "event", "nobody"])
async def test_refused_peers_are_reset(demand: str) -> None:
    """After refuse() new peers are reset, whoever wants one; after resume() they are welcome."""
    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        irp = listening.queue_accept() if demand == "accept" else None
        if demand == "event":
            listening.enable_events(EventMask.ACCEPT)
        listening.refuse()
        clients = await clients_of(listening, 40)

        assert {"reset"} == {await fate_of(client) for client in clients}
        assert {"refused": 40} == listening.statistics().dropped

        listening.resume()
        client = await connect(listening.local_addresses[0])
        if irp is None and demand == "event":
            await until(lambda: taker.taken)
            connection = taker.taken[0]
        elif irp is None:
            connection = await listening.accept()
        else:
            connection = (await irp.wait()).unwrap()

        assert names([client]) == peers([connection])

        await close_all(connection, client, *clients)


async def test_refusing_spares_what_was_parked() -> None:
    """refuse() is about new peers: what was parked is handed out all the same, either way."""
    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        clients = await parked(listening, 2)
        listening.refuse()
        first = await listening.accept()
        listening.enable_events(EventMask.ACCEPT)
        await until(lambda: taker.taken)

        assert names(clients) == peers([first, *taker.taken])

        await close_all(first, *taker.taken, *clients)


async def test_pausing_in_the_callback_counts_at_once() -> None:
    """A callback that pauses gets no further connection of this batch."""
    taken: list[Connection] = []

    def accept(connection: Connection) -> Status:
        taken.append(connection)
        connection.listening.pause()
        return Status.SUCCESS

    async with opened(dispatch=ListenDispatch(accept=accept)) as listening:
        clients = await clients_of(listening, 3)
        listening.enable_events(EventMask.ACCEPT)
        await until(lambda: taken)
        await shown(listening.socket.fileno())

        assert 1 == listening.statistics().accepted

        await close_all(*taken, *clients)


# --- Closing ----------------------------------------------------------------------------------


async def test_closing_ends_everything_and_spares_what_was_delivered() -> None:
    """
    aclose(): queued Irps complete with CANCELLED, and their routines have run when it
    returns; tasks in accept() get SocketClosedError; parked peers and those in the backlog are
    reset; what was delivered lives on.
    """
    completed: list[Irp[Connection]] = []
    async with open_listening_socket(0, host=HOST) as listening:
        clients = await clients_of(listening, 3)
        delivered = await listening.accept()
        await until(lambda: listening.statistics().parked == 2)
        parked_ones = clients[1:]
        await listening.aclose()

        assert ["reset"] * 2 == [await fate_of(client) for client in parked_ones]
        assert {"closed": 2} == listening.statistics().dropped
        with pytest.raises(OSError, match="refused"):
            await connect(listening.local_addresses[0])

    async with open_listening_socket(0, host=HOST) as other, trio.open_nursery() as nursery:
        irp = other.queue_accept(on_completion=completed.append)

        @nursery.start_soon
        async def accept() -> None:
            with pytest.raises(trio_wsk.SocketClosedError):
                await other.accept()

        await trio.testing.wait_all_tasks_blocked()
        await other.aclose()

        assert [irp] == completed
        assert Status.CANCELLED is irp.status
        assert None is irp.information

    await delivered.send_all(b"still here")

    assert b"still here" == await clients[0].receive_some()

    await close_all(delivered, *clients)


async def test_everything_after_close_says_so() -> None:
    """Each call after aclose() raises SocketClosedError; closing again does nothing."""
    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        await listening.aclose()
        await listening.aclose()
        for call in (
            listening.accept_nowait,
            listening.queue_accept,
            listening.pause,
            listening.resume,
            listening.refuse,
            partial(listening.enable_events, EventMask.ACCEPT),
            lambda: listening.socket,
        ):
            with pytest.raises(trio_wsk.SocketClosedError, match="closed"):
                call()
        with pytest.raises(trio.ClosedResourceError):
            await listening.accept()

        assert Status.SUCCESS is listening.disable_event_nowait(EventMask.ACCEPT)
        assert "closed" in repr(listening)


async def test_cancelled_close_closes() -> None:
    """aclose() closes even if it is cancelled before it begins."""
    async with opened() as listening:
        with trio.CancelScope() as scope:
            scope.cancel()
            await listening.aclose()

        assert scope.cancelled_caught
        with pytest.raises(trio_wsk.SocketClosedError):
            listening.accept_nowait()


async def test_closing_is_not_interrupted_half_way() -> None:
    """Ctrl-C waits until the transport is closed, too, or nobody would close it any more."""
    protected: list[bool] = []

    class Transport(PortableTransport):
        def close(self) -> None:
            protected.append(trio.lowlevel.currently_ki_protected())
            super().close()

    @trio.lowlevel.disable_ki_protection
    async def close_as_a_user() -> None:
        async with open_listening_socket(transport=Transport.tcp(0, host=HOST)) as listening:
            await listening.aclose()

    await close_as_a_user()

    assert [True] == protected


async def test_closing_ends_in_any_order(autojump_clock: trio.testing.MockClock) -> None:
    """
    Closing from several tasks, inside `async with listening`, by leaving the block: all end, and
    nothing in it waits for a time.
    """
    with trio.fail_after(0.001):  # on a clock that jumps when everybody waits
        async with opened() as listening, listening, trio.open_nursery() as nursery:
            nursery.start_soon(listening.aclose)
            nursery.start_soon(listening.aclose)


async def test_closing_after_the_block_is_a_checkpoint_still() -> None:
    """aclose() after the block has ended does nothing, and is a checkpoint."""
    async with opened() as listening:
        pass
    with trio.testing.assert_checkpoints():
        await listening.aclose()


async def test_routine_that_requeues_for_ever_ends_with_the_block() -> None:
    """
    A completion routine that sends again and again, on a connection that takes it all, can't
    keep a block from ending.
    """
    async with opened() as listening:
        client = await connect(listening.local_addresses[0])
        connection = await listening.accept()
        connection.socket  # noqa: B018 - the connection and the client share this process
        rounds = 0

        def again(irp: object) -> None:
            nonlocal rounds
            rounds += 1
            connection.queue_send(b"", on_completion=again)

        connection.queue_send(b"", on_completion=again)
        await until(lambda: rounds > 10)
    await close_all(connection, client)


async def test_bare_exceptions_of_the_body() -> None:
    """What the body raises comes out as it is; a group of its own stays that group."""
    with pytest.raises(ZeroDivisionError):
        async with opened():
            raise ZeroDivisionError
    group = ExceptionGroup("mine", [ZeroDivisionError()])
    with pytest.raises(ExceptionGroup, match="mine") as caught:
        async with opened():
            raise group

    assert group.exceptions == caught.value.exceptions


async def test_cancellation_passes_through_the_block() -> None:
    """Cancelling around a block ends it, and is caught by its scope and nobody else."""
    with trio.CancelScope() as scope:
        async with open_listening_socket(0, host=HOST) as listening:
            irp = listening.queue_accept()
            scope.cancel()
            await trio.sleep_forever()

    assert scope.cancelled_caught
    assert Status.CANCELLED is irp.status
