"""The listening socket: who gets which connection, and what becomes of the others."""

from __future__ import annotations

import errno
import math
import os
import socket
import sys
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_wsk
from tests.helpers.pairs import descriptor_of
from tests.helpers.portable_peers import no_more_descriptors
from tests.helpers.scripted import spin_until
from tests.helpers.support import (
    PATIENCE,
    FaultyTransport,
    connect,
    connect_now,
    fate_of,
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
from trio_wsk._intake import backoff as _backoff
from trio_wsk.transports import PortableTransport
from trio_wsk.transports._contract import (
    FAULTS_IN_A_ROW,
    NoDescriptorsError,
    PeerFaultError,
    TransportFailedError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio_wsk import Irp
    from trio_wsk.observers import Observer

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


def balance(listening: ListeningSocket) -> None:
    """Every connection is in exactly one place."""
    counted = listening.statistics()

    assert counted.accepted == (
        sum(counted.delivered.values()) + counted.parked + sum(counted.dropped.values())
    )


@asynccontextmanager
async def opened(port: int | None = 0, **options: Any) -> AsyncIterator[ListeningSocket]:
    """Open a listening socket on the loopback address, and see that its counters balance."""
    if port is not None:
        options.setdefault("host", HOST)
    async with open_listening_socket(port, **options) as listening:
        yield listening
        balance(listening)
        await listening.aclose()
        balance(listening)
    assert 0 == listening.statistics().parked


async def clients_of(listening: ListeningSocket, count: int) -> list[trio.SocketStream]:
    """Connect so many clients, one after the other."""
    return [connect_now(listening.local_addresses[0]) for _ in range(count)]


def names_of(sockets: list[trio.socket.SocketType]) -> list[Any]:
    """Say where sockets are bound."""
    return [sock.getsockname() for sock in sockets]


def names(streams: list[trio.SocketStream]) -> list[Any]:
    """Say who the clients are, as their servers see them."""
    return [stream.socket.getsockname() for stream in streams]


def peers(connections: list[Connection]) -> list[Any]:
    """Say who the peers are."""
    return [connection.remote_address.sockaddr for connection in connections]


async def close_all(*closeable: trio.abc.AsyncResource) -> None:
    """Close all of them."""
    for each in closeable:
        await each.aclose()


class Taker:
    """An accept callback that keeps what it gets and answers as told."""

    def __init__(self, answer: object = Status.SUCCESS) -> None:
        self.answer = answer
        self.taken: list[Connection] = []
        self.failures: list[tuple[ListeningSocket, OSError]] = []

    def __call__(self, connection: Connection) -> Any:
        """Take it."""
        self.taken.append(connection)
        return self.answer

    def failed(self, listening: ListeningSocket, error: OSError) -> None:
        """Note that the listening socket has failed."""
        self.failures.append((listening, error))

    @property
    def dispatch(self) -> ListenDispatch:
        """A dispatch with these callbacks."""
        return ListenDispatch(accept=self, failed=self.failed)


async def parked(listening: ListeningSocket, count: int) -> list[trio.SocketStream]:
    """Have so many clients read ahead: they come before somebody accepts one more."""
    clients = await clients_of(listening, count + 1)
    backlog = listening.statistics().backlog
    if backlog is not None:
        await until(lambda: listening.statistics().backlog == count + 1)
    first = await listening.accept()

    assert count == listening.statistics().parked

    await close_all(first, clients[0])
    return clients[1:]


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


# --- Accept events ----------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [Status.SUCCESS, ConnectionDispatch()])
async def test_accept_event_hands_out_connections(answer: object) -> None:
    """With the accept event enabled the callback gets each connection, in order, and keeps it."""
    taker = Taker(answer)
    async with opened(dispatch=taker.dispatch) as listening:
        listening.enable_events(EventMask.ACCEPT)
        clients = await clients_of(listening, 3)
        await until(lambda: len(taker.taken) == 3)

        assert names(clients) == peers(taker.taken)
        assert {"accept": 0, "event": 3} == listening.statistics().delivered

        for connection, client in zip(taker.taken, clients):  # noqa: B905 - as many, see above
            await connection.send_all(b"hello")

            assert b"hello" == await client.receive_some()

        await close_all(*taker.taken, *clients)


class Equal:
    """Equal to everything, as no answer should be."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]  # on purpose


@pytest.mark.parametrize(
    ("answer", "is_reported"),
    [
        (Status.REQUEST_NOT_ACCEPTED, False),
        (Status.PENDING, True),
        (None, True),  # a forgotten `return`
        (0, True),
        (True, True),
        (False, True),
        ("yes", True),
        (EventMask.RECEIVE, True),
        (ConnectionDispatch, True),
        (Equal(), True),
    ],
)
async def test_what_is_no_yes_is_a_no(answer: object, is_reported: bool) -> None:  # noqa: FBT001
    """
    REQUEST_NOT_ACCEPTED has the connection reset, and so has any answer that means nothing,
    which is reported; the listening socket goes on.
    """
    failures: list[Any] = []
    taker = Taker(answer)
    async with opened(dispatch=taker.dispatch, observers=[_Callbacks(failures)]) as listening:
        listening.enable_events(EventMask.ACCEPT)
        client = await connect(listening.local_addresses[0])

        assert "reset" == await fate_of(client)
        assert taker.taken[0].closed
        assert {"not-accepted": 1} == listening.statistics().dropped
        assert is_reported == bool(failures)

        if is_reported:
            assert repr(answer) in str(failures[0].error)
            assert "accept" == failures[0].callback
        taker.answer = Status.SUCCESS
        other = await connect(listening.local_addresses[0])
        await until(lambda: len(taker.taken) == 2)
        await close_all(taker.taken[1], client, other)


class _Callbacks:
    """Notes which callbacks failed."""

    records = frozenset({trio_wsk.observers.CallbackFailed})

    def __init__(self, into: list[Any]) -> None:
        self._into = into

    def __call__(self, record: object) -> None:
        self._into.append(record)


async def test_accept_callback_that_raises_ends_its_connection_alone() -> None:
    """What the callback raises is reported, its connection is reset, and the next one comes."""
    failures: list[Any] = []
    taken: list[Connection] = []

    def accept(connection: Connection) -> Status:
        if not failures:
            raise ZeroDivisionError("on purpose")
        taken.append(connection)
        return Status.SUCCESS

    async with opened(
        dispatch=ListenDispatch(accept=accept), observers=[_Callbacks(failures)]
    ) as listening:
        listening.enable_events(EventMask.ACCEPT)
        client = await connect(listening.local_addresses[0])

        assert "reset" == await fate_of(client)
        assert ["on purpose"] == [str(failure.error) for failure in failures]
        assert {"accept-failed": 1} == listening.statistics().dropped

        other = await connect(listening.local_addresses[0])
        await until(lambda: taken)
        await close_all(taken[0], client, other)


async def test_peer_that_is_gone_in_the_accept_callback_is_no_failure() -> None:
    """A callback that talks to a peer who has reset meanwhile has not failed."""
    failures: list[Any] = []
    seen = []

    def accept(connection: Connection) -> Status:
        seen.append(connection)
        connection.send_nowait(b"x")
        connection.send_nowait(b"x")
        return Status.SUCCESS

    async with opened(
        dispatch=ListenDispatch(accept=accept), observers=[_Callbacks(failures)]
    ) as listening:
        client = await connect(listening.local_addresses[0])
        reset(client)
        listening.enable_events(EventMask.ACCEPT)
        await until(lambda: seen)
        await trio.testing.wait_all_tasks_blocked()

        assert [] == failures
        assert seen[0].closed


async def test_ctrl_c_in_a_callback_goes_on() -> None:
    """KeyboardInterrupt from a callback ends the block, and the connection that it had."""

    def accept(connection: Connection) -> Status:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            0, host=HOST, dispatch=ListenDispatch(accept=accept)
        ) as listening:
            listening.enable_events(EventMask.ACCEPT)
            client = await connect(listening.local_addresses[0])
            try:
                await trio.sleep(PATIENCE)
            finally:
                client.socket.close()


async def test_callbacks_run_in_the_context_of_the_block() -> None:
    """Each callback sees the block's context variables, and what it sets stays its own."""
    variable: ContextVar[str] = ContextVar("variable")
    seen: list[str] = []

    def accept(connection: Connection) -> Status:
        seen.append(variable.get())
        variable.set("changed")
        return Status.REQUEST_NOT_ACCEPTED

    variable.set("block")
    async with opened(dispatch=ListenDispatch(accept=accept)) as listening:
        variable.set("later")
        listening.enable_events(EventMask.ACCEPT)
        clients = await clients_of(listening, 2)
        await until(lambda: len(seen) == 2)

        assert ["block", "block"] == seen

        await close_all(*clients)


async def test_events_are_inherited_on_the_event_path() -> None:
    """
    A connection that the callback took has those events that are enabled on the listening
    socket and have a callback; not those that aren't enabled.
    """
    seen: list[str] = []
    dispatch = ConnectionDispatch(
        receive=lambda connection, data: seen.append("receive"),
        disconnect=lambda connection, abortive: seen.append("disconnect"),
    )
    taker = Taker(dispatch)
    async with opened(dispatch=taker.dispatch) as listening:
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
        listening.disable_event_nowait(EventMask.ACCEPT)
        listening.enable_events(EventMask.ACCEPT)
        client = await connect(listening.local_addresses[0])
        await client.send_all(b"x")
        await until(lambda: seen)
        reset(client)
        await until(lambda: taker.taken[0].closed)

        assert ["receive"] == seen


async def test_disabled_event_is_silent() -> None:
    """
    After disable_event() the callback isn't called; connections wait, and enabling it again
    hands them out in order.
    """
    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        listening.enable_events(EventMask.ACCEPT)
        first = await connect(listening.local_addresses[0])
        await until(lambda: taker.taken)
        with trio.testing.assert_checkpoints():
            await listening.disable_event(EventMask.ACCEPT)
        clients = await clients_of(listening, 3)
        await shown(listening.socket.fileno())

        assert 1 == len(taker.taken)

        listening.enable_events(EventMask.ACCEPT)
        await until(lambda: len(taker.taken) == 4)

        assert names([first, *clients]) == peers(taker.taken)

        await close_all(*taker.taken, first, *clients)


async def test_disabling_inside_the_callback_is_pending() -> None:
    """
    disable_event_nowait() says EVENT_PENDING inside the callback, which is then its last call,
    and SUCCESS elsewhere.
    """
    answers: list[Status] = []
    taken: list[Connection] = []

    def accept(connection: Connection) -> Status:
        taken.append(connection)
        answers.append(connection.listening.disable_event_nowait(EventMask.ACCEPT))
        return Status.SUCCESS

    async with opened(dispatch=ListenDispatch(accept=accept)) as listening:
        clients = await clients_of(listening, 3)
        listening.enable_events(EventMask.ACCEPT)
        await until(lambda: listening.statistics().parked == 2)
        await trio.testing.wait_all_tasks_blocked()

        assert [Status.EVENT_PENDING] == answers
        assert 1 == len(taken)
        assert Status.SUCCESS is listening.disable_event_nowait(EventMask.ACCEPT)

        await close_all(*taken, *clients)


async def test_parked_connections_are_indicated_in_order() -> None:
    """Enabling the accept event hands out what was read ahead, then what comes, in order."""
    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        clients = await parked(listening, 15)
        listening.enable_events(EventMask.ACCEPT)
        clients += await clients_of(listening, 20)
        await until(lambda: len(taker.taken) == 35)

        assert names(clients) == peers(taker.taken)
        assert 15 == listening.statistics().parked_most

        await close_all(*taker.taken, *clients)


# --- Arbitration ------------------------------------------------------------------------------


async def test_queued_accept_wins_over_the_event() -> None:
    """With both, queued accepts are served first, the event gets what is left."""
    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        listening.enable_events(EventMask.ACCEPT)
        irps = [listening.queue_accept() for _ in range(2)]
        clients = await clients_of(listening, 4)
        await until(lambda: len(taker.taken) == 2)
        queued = [(await irp.wait()).unwrap() for irp in irps]

        assert names(clients) == peers([*queued, *taker.taken])

        await close_all(*queued, *taker.taken, *clients)


async def test_accept_queued_in_the_callback_wins_the_next_connection() -> None:
    """An accept that the callback queues gets the connection after this one."""
    irps: list[Irp[Connection]] = []
    taken: list[Connection] = []

    def accept(connection: Connection) -> Status:
        taken.append(connection)
        irps.append(connection.listening.queue_accept())
        return Status.SUCCESS

    async with opened(dispatch=ListenDispatch(accept=accept)) as listening:
        clients = await clients_of(listening, 4)
        listening.enable_events(EventMask.ACCEPT)
        await until(lambda: listening.statistics().accepted == 4)
        queued = [(await irp.wait()).unwrap() for irp in irps]

        assert names(clients)[0::2] == peers(taken)
        assert names(clients)[1::2] == peers(queued)

        await close_all(*taken, *queued, *clients)


async def test_nobody_wants_a_connection() -> None:
    """With neither accept nor event, connections stay in the kernel's backlog: not one is taken."""
    async with opened(transport=FaultyTransport.tcp(0, host=HOST), port=None) as listening:
        clients = await clients_of(listening, 3)
        await shown(listening.socket.fileno())

        assert 0 == listening.statistics().accepted
        assert 0 == _faulty(listening).asked
        assert listening.statistics().backlog in {3, None}

        await close_all(*clients)


async def test_no_read_ahead() -> None:
    """max_parked=0 takes as many as are wanted and not one more."""
    async with opened(max_parked=0) as listening:
        clients = await clients_of(listening, 6)
        connections = [await listening.accept() for _ in range(2)]
        irp = listening.queue_accept()
        connections.append((await irp.wait()).unwrap())

        assert 3 == listening.statistics().accepted
        assert 0 == listening.statistics().parked_most
        assert names(clients)[:3] == peers(connections)

        await close_all(*connections, *clients)


async def test_read_ahead_is_bounded() -> None:
    """One accept reads ahead by a batch at most, and never more than max_parked."""
    for limit, expected in ((4, 4), (128, 15)):
        async with opened(max_parked=limit) as listening:
            clients = await clients_of(listening, 20)
            await until(lambda: listening.statistics().backlog in {20, None})
            connection = await listening.accept()

            assert expected == listening.statistics().parked

            await close_all(connection, *clients)


async def test_backlog_is_the_kernels_queue() -> None:
    """statistics() tells how many wait in the kernel, and how many may."""
    async with opened(backlog=7) as listening:
        clients = await clients_of(listening, 3)
        await until(lambda: listening.statistics().backlog == 3)

        assert 7 == listening.statistics().backlog_limit

        await close_all(*clients)
    assert None is listening.statistics().backlog


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
        reset(clients[0])
        await clients[1].send_all(b"request")
        await clients[1].send_eof()
        await clients[2].send_eof()
        await trio.sleep(0.01)  # loopback has no delay, but a packet may be on its way
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
        with trio.move_on_after(0.02) as silence:
            await clients[0].receive_some()

        assert silence.cancelled_caught
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


# --- When accepting fails ---------------------------------------------------------------------


def _faulty(listening: ListeningSocket) -> FaultyTransport:
    transport = listening._transport  # noqa: SLF001 - that it is faulty is ours to know
    assert isinstance(transport, FaultyTransport)
    return transport


def _oserror(number: int) -> OSError:
    return OSError(number, os.strerror(number))


async def test_a_peers_fault_is_counted_and_no_more() -> None:
    """Errors that are one peer's fault are counted by name, and the next peer is served."""
    async with opened(None, transport=FaultyTransport.tcp(0, host=HOST)) as listening:
        _faulty(listening).faults.extend(
            PeerFaultError(_oserror(number))
            for number in (errno.ECONNABORTED, errno.EPROTO, errno.ECONNABORTED)
        )
        client = await connect(listening.local_addresses[0])
        connection = await listening.accept()

        assert {"ECONNABORTED": 2, "EPROTO": 1} == listening.statistics().accept_errors

        await close_all(connection, client)


async def test_a_flood_of_faults_leaves_others_their_turn() -> None:
    """Faults are taken in batches, too: other tasks run in between."""
    async with opened(None, transport=FaultyTransport.tcp(0, host=HOST)) as listening:
        fault = PeerFaultError(_oserror(errno.ECONNABORTED))
        count = FAULTS_IN_A_ROW - 1  # with one more it would wait
        _faulty(listening).faults.extend([fault] * count)
        irp = listening.queue_accept()
        turns = 0
        client = await connect(listening.local_addresses[0])
        while irp.status is Status.PENDING:
            await trio.lowlevel.checkpoint()
            turns += 1

        assert turns >= count // 64
        assert {"ECONNABORTED": count} == listening.statistics().accept_errors

        await close_all((await irp.wait()).unwrap(), client)


@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL, errno.ENOTSOCK])
async def test_failed_socket_is_told_to_everybody_once(number: int) -> None:
    """
    When the listening socket fails: queued Irps complete with FILE_FORCED_CLOSED, the task in
    accept() and all later calls get ForcedClosedError, ``failed`` is called once with the error,
    peers that were parked get a reset, the block raises the OSError.
    """
    taker = Taker()
    completed: list[Irp[Connection]] = []
    errors: list[trio_wsk.WskError] = []
    records: list[object] = []
    with pytest.raises(OSError) as caught:  # noqa: PT012, PT011 - the errno is looked at below
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST),
            dispatch=taker.dispatch,
            observers=[records.append],
        ) as listening:
            listening.enable_events(EventMask.ACCEPT)
            irps = [listening.queue_accept(on_completion=completed.append) for _ in range(3)]

            async def accept() -> None:
                with pytest.raises(trio_wsk.ForcedClosedError) as raised:
                    await listening.accept()
                errors.append(raised.value)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                await trio.testing.wait_all_tasks_blocked()
                _faulty(listening).faults.append(TransportFailedError(_oserror(number)))
                listening.resume()  # has it look
                with trio.CancelScope(shield=True):
                    outcomes = [await irp.wait() for irp in irps]

            await trio.sleep(PATIENCE)

    assert number == caught.value.errno
    assert {Status.FILE_FORCED_CLOSED} == {irp.status for irp in irps}
    assert irps == completed
    for each in outcomes:
        with pytest.raises(trio_wsk.ForcedClosedError):
            each.unwrap()
    assert [caught.value] == [error.__cause__ for error in errors]
    assert [(listening, caught.value)] == taker.failures
    assert 1 == sum(isinstance(each, trio_wsk.observers.ListenerFailed) for each in records)
    for call in (listening.accept_nowait, listening.queue_accept, listening.pause):
        with pytest.raises(trio_wsk.ForcedClosedError):
            call()
    with pytest.raises(trio_wsk.ForcedClosedError):
        await listening.accept()
    await listening.aclose()

    assert [(listening, caught.value)] == taker.failures


async def test_error_in_the_middle_of_a_batch_comes_after_it() -> None:
    """What was accepted before the listening socket failed is delivered, and stays usable."""
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(transport=FaultyTransport.tcp(0, host=HOST)) as listening:
            clients = await clients_of(listening, 3)
            faults = _faulty(listening).faults
            faults.extend([None, None, TransportFailedError(_oserror(errno.EINVAL))])
            irps = [listening.queue_accept()]
            irps += [listening.queue_accept() for _ in range(0)]
            with trio.CancelScope(shield=True):
                connection = (await irps[0].wait()).unwrap()
                await connection.send_all(b"alive")

                assert b"alive" == await clients[0].receive_some()
                assert "reset" == await fate_of(clients[1])  # it was parked

                await close_all(connection, *clients)
            await trio.sleep(PATIENCE)
    assert {"failed": 1} == listening.statistics().dropped
    balance(listening)


@pytest.mark.parametrize("place", ["ports", "path"])
async def test_closing_a_public_socket_closes_the_listening_socket(
    place: str, tmp_path: Path
) -> None:
    """
    Who closes one of ``listening.sockets`` closes all: the task in accept() is told, a queued Irp
    is cancelled, what is tried afterwards is refused, and the block ends in peace.
    """
    places: dict[str, dict[str, Any]] = {
        "ports": {"port": 0, "host": ["127.0.0.1", "127.0.0.2"]},
        "path": {"path": tmp_path / "app.sock"},
    }

    async def accept(listening: ListeningSocket) -> None:
        with pytest.raises(trio_wsk.SocketClosedError):
            await listening.accept()

    with trio.fail_after(PATIENCE):
        async with open_listening_socket(**places[place]) as listening:
            irp = listening.queue_accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept, listening)
                await trio.testing.wait_all_tasks_blocked()
                listening.sockets[-1].close()

            await irp.wait()

            assert Status.CANCELLED is irp.status

            for call in (listening.accept_nowait, listening.queue_accept):
                with pytest.raises(trio_wsk.SocketClosedError):
                    call()
            for address in listening.local_addresses:
                with pytest.raises(OSError):  # noqa: PT011 - which one depends on the family
                    connect_now(address)


async def test_closed_public_socket_is_no_failure_to_who_asks_at_once() -> None:
    """In the instant in which it was closed, accept_nowait() says that it is closed."""
    async with open_listening_socket(0, host=HOST) as listening:
        listening.socket.close()
        with pytest.raises(trio_wsk.SocketClosedError):
            listening.accept_nowait()


async def test_public_socket_is_not_detached_while_it_listens() -> None:
    """
    A listening socket without its descriptor would be none: who tries is told how to hand it
    over, and it goes on. What the message says works: who waits in the queue is taken elsewhere.
    """
    async with open_listening_socket(0, host=HOST) as listening:
        sock = listening.socket
        with pytest.raises(trio_wsk.InvalidDeviceStateError, match=r"os\.dup\("):
            sock.detach()
        async with connect_now(listening.local_addresses[0]):
            (await listening.accept()).abort()
        client = connect_now(listening.local_addresses[0])
        descriptor = os.dup(sock.fileno())
        await listening.aclose()

        assert -1 == sock.detach()

    async with open_listening_socket(sockets=[descriptor]) as heir:
        connection = await heir.accept()
        await connection.send_all(b"taken")

        assert b"taken" == await client.receive_some()

        await close_all(connection, client)


async def test_public_sockets_are_those_of_the_addresses() -> None:
    """``listening.sockets`` has one for each address, in their order; afterwards there are none."""
    async with open_listening_socket(0, host=["127.0.0.1", "127.0.0.2"]) as listening:
        sockets = listening.sockets

        assert [each.sockaddr for each in listening.local_addresses] == names_of(sockets)
        assert sockets[0] is listening.socket
        assert sockets == listening.sockets

    assert [] == listening.sockets
    assert not hasattr(listening, "socket")
    with pytest.raises(trio_wsk.NoSocketError, match="closed, and so has no socket"):
        _ = listening.socket


async def test_descriptor_closed_behind_our_back_is_a_failure() -> None:
    """Whoever closes the listening descriptor gets EBADF out of the block."""
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(0, host=HOST) as listening:
            os.close(listening.socket.fileno())
            await listening.accept()


async def test_body_that_only_says_what_failed_adds_nothing() -> None:
    """ForcedClosedError of the body, alone or in groups, is no news beside the OSError."""

    async def accept(listening: ListeningSocket) -> None:
        await listening.accept()

    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):  # noqa: PT012 - the end of the block raises
        async with (
            open_listening_socket(transport=FaultyTransport.tcp(0, host=HOST)) as listening,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(accept, listening)
            nursery.start_soon(accept, listening)
            await trio.testing.wait_all_tasks_blocked()
            _faulty(listening).faults.append(TransportFailedError(_oserror(errno.EINVAL)))
            listening.resume()


async def test_both_errors_come_out() -> None:
    """When the body fails for a reason of its own as well, both come out in a group."""
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with open_listening_socket(transport=FaultyTransport.tcp(0, host=HOST)) as listening:
            _faulty(listening).faults.append(TransportFailedError(_oserror(errno.EINVAL)))
            irp = listening.queue_accept()
            await irp.wait()
            raise ZeroDivisionError

    assert [OSError, ZeroDivisionError] == [type(each) for each in caught.value.exceptions]


@pytest.mark.parametrize("is_enabled", [False, True])
async def test_failure_is_told_whatever_events_are_enabled(is_enabled: bool) -> None:  # noqa: FBT001
    """
    ``failed`` needs no event: it is called in the pump, in a copy of the block's context, last of
    all that is called, and the accept callback is not called for it.
    """
    variable: ContextVar[str] = ContextVar("variable")
    taker = Taker()
    order: list[object] = []

    def failed(listening: ListeningSocket, error: OSError) -> None:
        taker.failed(listening, error)
        order.append(variable.get())
        variable.set("changed")
        order.append(trio.lowlevel.current_task().name)

    variable.set("block")
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST),
            dispatch=ListenDispatch(accept=taker, failed=failed),
        ) as listening:
            if is_enabled:
                listening.enable_events(EventMask.ACCEPT)
            _faulty(listening).faults.append(TransportFailedError(_oserror(errno.EINVAL)))
            listening.queue_accept(on_completion=lambda irp: order.append(irp.status))
            variable.set("body")

            assert [] == order  # on no caller's stack

            await trio.sleep(PATIENCE)

    assert [Status.FILE_FORCED_CLOSED, "block", "trio_wsk: pump"] == order
    assert [(listening, caught.value)] == taker.failures
    assert [] == taker.taken


async def test_failure_resets_what_is_event_driven_and_nothing_else() -> None:
    """
    When the listening socket fails, connections with events are reset, with the block that their
    callbacks run in; one that was awaited goes on.
    """
    taker = Taker(ConnectionDispatch(receive=lambda connection, data: None))
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST), dispatch=taker.dispatch
        ) as listening:
            client = await connect(listening.local_addresses[0])
            awaited = await listening.accept()
            listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
            other = await connect(listening.local_addresses[0])
            await until(lambda: taker.taken)
            _faulty(listening).faults.append(TransportFailedError(_oserror(errno.EINVAL)))
            listening.queue_accept()
            await trio.sleep(PATIENCE)

    assert taker.taken[0].closed
    assert "reset" == await fate_of(other)

    await awaited.send_all(b"alive")

    assert b"alive" == await client.receive_some()

    await close_all(awaited, client, other)


async def test_failure_is_not_told_of_what_was_closed() -> None:
    """A listening socket that is closed, or whose block ends by an error, has not failed."""
    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        await listening.aclose()
    with pytest.raises(ZeroDivisionError):
        async with opened(dispatch=taker.dispatch):
            raise ZeroDivisionError

    assert [] == taker.failures


async def test_failed_callback_that_raises_is_reported_and_changes_nothing() -> None:
    """The block raises the system's error, and what the callback raised is reported."""

    def failed(listening: ListeningSocket, error: OSError) -> None:
        raise ZeroDivisionError("on purpose")

    reports: list[Any] = []
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST),
            dispatch=ListenDispatch(failed=failed),
            observers=[_Callbacks(reports)],
        ) as listening:
            _faulty(listening).faults.append(TransportFailedError(_oserror(errno.EINVAL)))
            listening.queue_accept()
            await trio.sleep(PATIENCE)

    assert [("failed", "on purpose", None)] == [
        (each.callback, str(each.error), each.remote_address) for each in reports
    ]


# --- Out of descriptors, as far as that can be injected ---------------------------------------


async def test_shedding_without_memory_does_not_spin() -> None:
    """
    Where giving up the spare descriptor helps nothing (ENOBUFS), the policy "shed" backs off
    instead of trying again at once.
    """
    async with opened(
        None, transport=FaultyTransport.tcp(0, host=HOST), on_no_descriptors="shed"
    ) as listening:
        transport = _faulty(listening)
        transport.faults.extend([NoDescriptorsError(_oserror(errno.ENOBUFS))] * 4)
        client = await connect(listening.local_addresses[0])
        before = trio.current_time()
        irp = listening.queue_accept()
        connection = (await irp.wait()).unwrap()

        assert [] == [*transport.faults]
        # Two attempts at a time, the policy's own included; whoever spins is there at once.
        assert trio.current_time() - before > _backoff.FIRST_SECONDS

        await close_all(connection, client)


@pytest.mark.parametrize("policy", ["backoff", "shed"])
@pytest.mark.parametrize("max_parked", [0, 128])
async def test_bad_time_has_a_beginning_and_an_end(policy: Any, max_parked: int) -> None:
    """One record tells when it starts and one when it ends, however little is read ahead."""
    told: list[str] = []

    def observe(record: object) -> None:
        told.append(type(record).__name__)

    observe.records = {  # type: ignore[attr-defined]  # a function takes any attribute
        trio_wsk.observers.AcceptBackoffStarted,
        trio_wsk.observers.AcceptBackoffEnded,
    }
    async with opened(
        None,
        transport=FaultyTransport.tcp(0, host=HOST),
        on_no_descriptors=policy,
        max_parked=max_parked,
        observers=[observe],
    ) as listening:
        fault = NoDescriptorsError(_oserror(errno.EMFILE))
        _faulty(listening).faults.extend([fault, fault])
        client = await connect(listening.local_addresses[0])
        connection = await listening.accept()

        assert ["AcceptBackoffStarted", "AcceptBackoffEnded"] == told
        assert 1 == listening.statistics().accept_backoffs
        # Of the two, shedding has met one.
        assert {"EMFILE": 1 if policy == "shed" else 2} == listening.statistics().accept_errors

        await close_all(connection, client)


async def test_no_descriptors_can_be_a_failure() -> None:
    """With "raise" the listening socket fails, and the block raises the error."""
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST), on_no_descriptors="raise"
        ) as listening:
            _faulty(listening).faults.append(NoDescriptorsError(_oserror(errno.EMFILE)))
            await listening.accept()


async def test_first_wait_without_descriptors() -> None:
    """Connections can be waited for when no descriptor is left for the first one's wait."""
    async with opened() as listening:
        client = connect_now(listening.local_addresses[0])
        connection = await listening.accept()
        with no_more_descriptors():
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def receive() -> None:
                    assert b"x" == await connection.receive_some()

                await trio.testing.wait_all_tasks_blocked()
                await client.send_all(b"x")
        await client.send_all(b"y")

        assert b"y" == await connection.receive_some()

        await close_all(connection, client)


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
    with trio.move_on_after(0.01) as scope:
        async with open_listening_socket(0, host=HOST) as listening:
            irp = listening.queue_accept()
            await trio.sleep(PATIENCE)

    assert scope.cancelled_caught
    assert Status.CANCELLED is irp.status


# --- Called wrongly ---------------------------------------------------------------------------


async def test_calls_from_a_thread_are_refused() -> None:
    """Calls from outside the Trio run raise RuntimeError and show the right one."""
    async with opened(dispatch=Taker().dispatch) as listening:
        irp = listening.queue_accept()
        for name, call in (
            ("listening.queue_accept", listening.queue_accept),
            ("listening.accept_nowait", listening.accept_nowait),
            ("listening.enable_events", partial(listening.enable_events, EventMask.ACCEPT)),
            ("listening.pause", listening.pause),
            ("listening.refuse", listening.refuse),
            (
                "listening.disable_event_nowait",
                partial(listening.disable_event_nowait, EventMask.ACCEPT),
            ),
        ):
            with pytest.raises(RuntimeError, match=rf"from_thread.run_sync\({name}\)"):
                await trio.to_thread.run_sync(call)
        with pytest.raises(RuntimeError):
            await trio.to_thread.run_sync(irp.cancel)

        assert Status.PENDING is irp.status
        assert 1 == listening.statistics().queued_accepts

        def pause_properly() -> None:
            trio.from_thread.run_sync(listening.pause)

        await trio.to_thread.run_sync(pause_properly)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 65536}, "65536"),
        ({"port": -1}, "-1"),
        ({"port": "http"}, "'http'"),
        ({"port": None}, "nothing is not enough"),
        ({"port": 0, "path": "/x"}, r"port=0 and path='/x'"),
        ({"port": None, "path": "/x", "host": "::1"}, "path= doesn't go with host"),
        ({"port": 0, "mode": 0o600}, "port= doesn't go with mode"),
        ({"port": 0, "max_parked": -1}, "-1"),
        ({"port": 0, "max_parked": "many"}, "'many'"),
        ({"port": 0, "on_no_descriptors": "panic"}, "'panic'"),
        ({"port": 0, "dispatch": Taker()}, r"ListenDispatch\(accept=...\)"),
        ({"port": 0, "observers": 7}, "7"),
        ({"port": 0, "observers": ["log"]}, "'log'"),
        ({"port": 0, "backlog": -3}, "-3"),
        ({"port": 0, "host": ""}, "''"),
    ],
)
async def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    """A wrong argument is an InvalidParameterError that shows it, before anything is opened."""
    with pytest.raises(trio_wsk.InvalidParameterError, match=message):
        async with open_listening_socket(**options):
            raise AssertionError("it was opened")


async def test_address_that_cannot_be_had() -> None:
    """A host that doesn't resolve and an address in use give a BindError that names them."""
    with pytest.raises(trio_wsk.BindError, match=r"no-such-host\.invalid"):
        async with open_listening_socket(0, host="no-such-host.invalid"):
            raise AssertionError("it was opened")
    async with opened() as listening:
        port = listening.local_addresses[0].port
        with pytest.raises(trio_wsk.BindError, match=f"127.0.0.1:{port}") as caught:
            async with open_listening_socket(port, host=HOST):
                raise AssertionError("it was opened")

    assert Status.ADDRESS_ALREADY_EXISTS is caught.value.status
    assert errno.EADDRINUSE == caught.value.errno


async def test_socket_that_is_no_listening_one() -> None:
    """A connected or datagram socket among `sockets` is refused by name, and closed."""
    with pytest.raises(trio_wsk.InvalidParameterError, match=r"DGRAM|datagram|stream"):
        async with open_listening_socket(sockets=[socket.socket(type=socket.SOCK_DGRAM)]):
            raise AssertionError("it was opened")


async def test_event_without_its_callback() -> None:
    """Enabling an event without a callback, or no event at all, shows the right call."""
    async with opened() as listening:
        with pytest.raises(
            trio_wsk.InvalidParameterError, match=r"dispatch=ListenDispatch\(accept=...\)"
        ):
            listening.enable_events(EventMask.ACCEPT)
        with pytest.raises(trio_wsk.InvalidParameterError, match="EventMask"):
            listening.enable_events(EventMask(0))
        with pytest.raises(trio_wsk.InvalidParameterError, match=r"connection\.disable_event"):
            listening.disable_event_nowait(EventMask.RECEIVE)
        with pytest.raises(trio_wsk.InvalidParameterError):
            await listening.disable_event(EventMask.ACCEPT | EventMask.RECEIVE)


async def test_completion_routine_that_is_no_plain_function() -> None:
    """An async completion routine is refused when the accept is queued, and nothing is queued."""

    async def routine(irp: object) -> None:
        pass

    async with opened() as listening:
        with pytest.raises(trio_wsk.InvalidParameterError, match="plain function"):
            listening.queue_accept(on_completion=routine)
        with pytest.raises(trio_wsk.InvalidParameterError, match="7"):
            listening.queue_accept(on_completion=7)  # type: ignore[arg-type]  # on purpose

        assert 0 == listening.statistics().queued_accepts


# --- Places -----------------------------------------------------------------------------------


async def _talks(listening: ListeningSocket) -> None:
    for address in listening.local_addresses:
        client = await connect(address)
        connection = await listening.accept()
        await client.send_all(b"x")

        assert b"x" == await connection.receive_some()

        await close_all(connection, client)


@pytest.mark.parametrize("host", [HOST, "::1", None, ["127.0.0.1", "::1"], "localhost"])
async def test_tcp(host: Any) -> None:
    """TCP over IPv4, IPv6, both, and one port for all."""
    async with open_listening_socket(0, host=host) as listening:
        assert 1 == len({address.port for address in listening.local_addresses})

        await _talks(listening)


async def test_unix(tmp_path: Path) -> None:
    """A Unix socket's path is there while the block lasts, with its mode."""
    path = tmp_path / "socket"
    async with opened(None, path=path, mode=0o600) as listening:
        assert 0o600 == path.stat().st_mode & 0o777

        await _talks(listening)
    assert not path.exists()


async def test_adopted_sockets() -> None:
    """Sockets that exist already are listened on, and closed with the block."""
    bound = socket.socket()
    bound.bind((HOST, 0))
    async with opened(None, sockets=[bound], backlog=5) as listening:
        await _talks(listening)
    with pytest.raises(OSError, match="refused"):
        await connect(listening.local_addresses[0])


async def test_public_socket_and_trios_helper() -> None:
    """`.socket` is the listening socket, so Trio's helper for listeners connects to it."""
    async with opened() as listening:
        assert listening.local_addresses[0].sockaddr == listening.socket.getsockname()

        client = await trio.testing.open_stream_to_socket_listener(listening)  # type: ignore[arg-type]  # it looks at .socket alone
        connection = await listening.accept()
        await close_all(connection, client)


async def test_it_is_a_listener() -> None:
    """trio.serve_listeners runs on it, and `async with listening` closes it."""
    served = trio.Event()

    async def handler(stream: Connection) -> None:
        async with stream:
            await stream.send_all(await stream.receive_some())
        served.set()

    async with opened() as listening, trio.open_nursery() as nursery:
        assert isinstance(listening, trio.abc.Listener)

        nursery.start_soon(trio.serve_listeners, handler, [listening])
        client = await connect(listening.local_addresses[0])
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()

        await served.wait()
        await client.aclose()
        nursery.cancel_scope.cancel()
    async with opened() as listening:
        async with listening:
            pass
        with pytest.raises(trio_wsk.SocketClosedError):
            listening.accept_nowait()


async def test_attributes() -> None:
    """What one can look at: context, repr, draining, the first statistics."""
    async with opened(context="mine") as listening:
        assert "mine" == listening.context
        assert f"{HOST}:{listening.local_addresses[0].port}" in repr(listening)
        assert not listening.draining.is_set()
        counted = listening.statistics()
        assert (0, {}, 0, math.inf) == (counted.accepted, counted.dropped, counted.parked, math.inf)


async def test_observers_hear_of_arrivals() -> None:
    """Each arrival and each drop is one record."""
    told: list[object] = []
    observer: Observer = told.append
    async with opened(observers=[observer]) as listening:
        listening.refuse()
        client = await connect(listening.local_addresses[0])

        assert "reset" == await fate_of(client)
        assert ["ConnectionAccepted", "ConnectionDropped"] == [type(each).__name__ for each in told]

        await client.aclose()
