"""The network in memory as a whole: the same again, its timers, its waits, and its speed."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing

from tests.helpers.memory_peers import BEFORE, CLIENT, PLACE, SERVER, scene
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import wait_in_task
from trio_wsk import (
    ConnectionDispatch,
    EventMask,
    ListenDispatch,
    open_listening_socket,
    serve,
    serve_events,
)
from trio_wsk._engine.readiness import ENDED, READ, WRITE
from trio_wsk.testing import MemoryNetwork, Segment, SegmentKind
from trio_wsk.testing._memory_readiness import MemoryReadiness, MemoryWatch
from trio_wsk.testing._timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_wsk import Connection
    from trio_wsk.testing import MemoryHost

settled = trio.testing.wait_all_tasks_blocked


# --- The same again --------------------------------------------------------------------


def trace_of(seed: int, *, loss: float = 0.15) -> list[Segment]:
    """Run a scenario with loss and latency, and return all that was sent.

    It never acts at the moment when something is due: which of two tasks comes first then, Trio
    draws by lot.
    """

    async def main() -> list[Segment]:
        async with scene(point=BEFORE, latency=0.04, loss=loss, seed=seed) as at:
            at.record()
            clients = []
            for number in range(10, 16):
                client = at.open(f"192.0.2.{number}")
                clients.append(client)
                request = await at.arrived()
                request.approve()
                await client.established()
                await client.send_all(bytes(20_000))
                await trio.sleep(30.003)
                channel = request.accept()
                channel.send(channel.recv(70_000))
                await client.send_eof()
                await trio.sleep(30.003)
                channel.close()
            await trio.sleep(300)
            for client in clients:
                await client.aclose()
            return at.trace

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_same_seed_same_segments() -> None:
    """The same seed gives the same segments at the same times, lost or not; another one others."""
    first = trace_of(1)

    assert any(segment.lost for segment in first)
    assert first == trace_of(1)
    assert first != trace_of(2)


def test_without_loss_the_seed_means_nothing() -> None:
    """Where nothing is lost there is no chance."""
    assert trace_of(1, loss=0.0) == trace_of(2, loss=0.0)


async def test_segment_says_all_about_itself(autojump_clock: MockClock) -> None:
    """A segment has its time, both addresses, what it is, its size and whether it was lost."""
    async with scene(latency=0.25) as at:
        client, server = await at.pair()
        at.record()
        at.network.loss = 1.0
        await client.send_all(b"hello")
        when = trio.current_time()

        expected = Segment(
            at=when,
            source=client.local_address,
            destination=client.remote_address,
            kind=SegmentKind.DATA,
            size=5,
            lost=True,
        )
        assert [expected] == at.trace
        assert at.trace.append == at.network.on_segment
        assert (0.25, 1.0) == (at.network.latency, at.network.loss)
        client.vanish()
        server.close()


async def test_names_tell_who_it_is(autojump_clock: MockClock) -> None:
    """What one sees in a debugger says who is who."""
    async with scene() as at:
        client, server = await at.pair()
        at.open()
        shown = [at.network, at.network.host(SERVER), at.transport, client, server, at.request()]

        assert [
            "<MemoryNetwork of 2 hosts>",
            "<MemoryHost 192.0.2.1>",
            "<MemoryTransport on 192.0.2.1:80>",
            "<MemoryStream ESTABLISHED with 192.0.2.1:80>",
            "<MemoryChannel ESTABLISHED 192.0.2.1:80 with 192.0.2.2:32768>",
        ] == [repr(each) for each in shown[:-1]]
        assert "from 192.0.2.2:32769>" in repr(shown[-1])
        assert "nothing yet" in repr(at.network.host(SERVER).transport())


async def test_nothing_real_is_used(autojump_clock: MockClock) -> None:
    """No descriptor is opened and no thread is started."""
    before = open_descriptors(), threading.active_count()
    async with scene(latency=0.1) as at:
        await at.pair()
        during = open_descriptors(), threading.active_count()

    assert before == during


# --- Timers ----------------------------------------------------------------------------


async def test_timers_go_off_in_order(autojump_clock: MockClock) -> None:
    """What is due is done in the order of its times, then of its making."""
    timers = Timers()
    done: list[tuple[str, float]] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: done.append((name, trio.current_time()))

    timers.after(2, note("third"))
    timers.after(1, note("first"))
    timers.after(1, note("second"))
    await trio.sleep(0.5)
    timers.at(0.75, note("earlier than all"))
    await trio.sleep(3)

    assert [("earlier than all", 0.75), ("first", 1.0), ("second", 1.0), ("third", 2.0)] == done


async def test_timer_that_was_called_off(autojump_clock: MockClock) -> None:
    """What was called off is not done, and keeps neither a task nor the clock going."""
    timers = Timers()
    done: list[int] = []
    many = [timers.after(10 + each, functools.partial(done.append, each)) for each in range(300)]
    await trio.sleep(1)
    for timer in many[:-1]:
        timers.call_off(timer)
        timers.call_off(timer)
    kept = len(timers._heap)  # noqa: SLF001 - it is cleaned up after
    await trio.sleep(1000)
    timers.call_off(many[-1])
    alone = timers.after(50, functools.partial(done.append, -1))
    await trio.sleep(1)
    timers.call_off(alone)
    tasks = trio.lowlevel.current_statistics().tasks_living
    await settled()

    assert 70 > kept
    assert [299] == done
    assert 0 == timers.due
    assert tasks - 1 == trio.lowlevel.current_statistics().tasks_living


async def test_timer_made_while_the_task_ends(autojump_clock: MockClock) -> None:
    """A timer that is made just after the last one was called off goes off all the same."""
    timers = Timers()
    done: list[int] = []
    timer = timers.after(5, functools.partial(done.append, 1))
    await trio.sleep(1)
    timers.call_off(timer)
    timers.after(5, functools.partial(done.append, 2))
    await trio.sleep(10)

    assert [2] == done


def test_network_goes_from_one_run_to_the_next() -> None:
    """What is due when a run ends is forgotten; the network works in the next run."""
    network = MemoryNetwork(latency=1.0)

    async def connect() -> float:
        network.host(SERVER)
        network.host("192.0.2.77").open_connection(PLACE)
        with pytest.raises(ConnectionRefusedError):
            await network.host(CLIENT).connect(PLACE)
        network.host(CLIENT).open_connection(PLACE)
        return trio.current_time()

    times = [
        trio.run(connect, clock=trio.testing.MockClock(autojump_threshold=0)) for _ in range(2)
    ]

    assert [2.0, 2.0] == times
    assert 0 == network._carrier.timers.due  # noqa: SLF001 - nothing is left


# --- Waiting ---------------------------------------------------------------------------


class Notes:
    """A `Sink` that takes notes."""

    def __init__(self) -> None:
        self.edges: list[int] = []

    def on_edges(self, edges: int) -> None:
        """Take note."""
        self.edges.append(edges)


async def test_edges_are_told_once(autojump_clock: MockClock) -> None:
    """
    Arming tells what is true with the next poll, not at once; then each arrival is told, an
    edge that was not armed is not, and arming again tells nothing twice.
    """
    async with scene() as at:
        client = await at.network.host(CLIENT).connect(PLACE)
        request = at.request()
        watch = request.watch(request.accept())
        notes = watch.sink = Notes()
        assert isinstance(watch.home, MemoryReadiness)
        await client.send_all(b"before anybody listens")
        watch.home.arm(watch, READ)
        at_once = list(notes.edges)
        await settled()
        first = list(notes.edges)
        watch.home.arm(watch, READ)
        await settled()
        await client.send_all(b"more")
        second = list(notes.edges)
        watch.home.rearm(watch, READ | WRITE)
        await settled()
        third = list(notes.edges)
        await client.send_eof()

        assert [] == at_once
        assert [READ] == first
        assert [READ, READ] == second
        assert [READ, READ, READ | WRITE] == third
        assert notes.edges[-1] & ENDED
        assert watch.ended


async def test_end_alone_is_told(autojump_clock: MockClock) -> None:
    """A watch that is armed for the end hears of no data."""
    async with scene() as at:
        client = await at.network.host(CLIENT).connect(PLACE)
        request = at.request()
        watch = request.watch(request.accept())
        notes = watch.sink = Notes()
        assert watch.home is not None
        watch.home.arm_end(watch)
        await client.send_all(b"data")
        await settled()
        early = list(notes.edges)
        await client.send_eof()

        assert [] == early
        assert notes.edges[0] & ENDED


async def test_closed_watch_hears_nothing(autojump_clock: MockClock) -> None:
    """A watch that is closed wakes who waits, and hears nothing more; nor after its readiness."""
    async with scene() as at:
        client = await at.network.host(CLIENT).connect(PLACE)
        request = at.request()
        channel = request.accept()
        watch = request.watch(channel)
        assert isinstance(watch, MemoryWatch)
        assert watch.home is not None
        home = watch.home
        notes = watch.sink = Notes()
        home.arm(watch, WRITE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_in_task, home, watch, READ)
            await settled()
            watch.close()
        await client.send_all(b"x")
        told = list(notes.edges)
        readiness = MemoryReadiness()
        readiness.close()
        readiness.soon(lambda: notes.edges.append(-1))
        readiness.poll()

        assert told == notes.edges
        assert 0 == watch.true_now()
        channel.close()


async def test_poll_is_bounded(autojump_clock: MockClock) -> None:
    """A poll tells 64 things at most; the rest keeps the pump from parking."""
    readiness = MemoryReadiness()
    told: list[int] = []
    for number in range(100):
        readiness.soon(functools.partial(told.append, number))
    readiness.poll()
    first = len(told)
    with trio.testing.assert_checkpoints():
        await readiness.park()
    readiness.poll()

    assert 64 == first
    assert list(range(100)) == told


async def test_parked_pump_is_woken_or_cancelled(autojump_clock: MockClock) -> None:
    """``park()`` ends with ``wake()``; cancelled, it can be entered again."""
    readiness = MemoryReadiness()
    with trio.move_on_after(1):
        await readiness.park()
    readiness.wake()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.park)
        await settled()
        readiness.wake()

    assert 1.0 == trio.current_time()


# --- Servers ---------------------------------------------------------------------------


@pytest.mark.parametrize("latency", [0.0, 0.02])
async def test_server_of_events(latency: float, autojump_clock: MockClock) -> None:
    """Events come over the network in memory as over any: octets, the end, and a reset."""
    told: list[object] = []

    def receive(connection: Connection, data: bytes) -> None:
        told.append(data)
        connection.send_nowait(data.upper())

    def disconnect(connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - its signature
        told.append("reset" if abortive else "fin")
        connection.disconnect()

    dispatch = ConnectionDispatch(receive=receive, disconnect=disconnect)
    network = MemoryNetwork(latency=latency)
    async with open_listening_socket(
        transport=network.host(SERVER).transport(80),
        dispatch=ListenDispatch(accept=lambda _: dispatch),
    ) as listening:
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE | EventMask.DISCONNECT)
        polite = await network.host(CLIENT).connect(PLACE)
        await polite.send_all(b"hello")
        answer = await polite.receive_some()
        await polite.send_eof()
        end = await polite.receive_some()
        rude = await network.host(CLIENT).connect(PLACE)
        await trio.sleep(1)
        rude.reset()
        await trio.sleep(1)

    assert (b"HELLO", b"") == (answer, end)
    assert [b"hello", "fin", "reset"] == told


async def echo(connection: Connection) -> None:
    """Send back what comes."""
    while data := await connection.receive_some():
        await connection.send_all(data)


def send_back(connection: Connection, data: bytes) -> None:
    """Send back what has come."""
    connection.send_nowait(data)


ECHOING: Final = ConnectionDispatch(receive=send_back)


async def visit(host: MemoryHost, times: int) -> int:
    """Connect, send, receive and close, so many times; return how often it went well."""
    went_well = 0
    for _ in range(times):
        async with await host.connect(PLACE) as stream:
            await stream.send_all(b"hello")
            answer = await stream.receive_some()
            went_well += answer == b"hello"
    return went_well


async def visits(network: MemoryNetwork, hosts: int, times: int) -> int:
    """Have many hosts visit at the same time; return how many visits went well."""
    total = 0

    async def count(host: MemoryHost) -> None:
        nonlocal total
        went_well = await visit(host, times)
        total += went_well

    async with trio.open_nursery() as nursery:
        for number in range(hosts):
            nursery.start_soon(count, network.host(f"198.51.{number // 250}.{number % 250}"))
    return total


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["tasks", "events"])
async def test_hundred_thousand_connections(kind: str, autojump_clock: MockClock) -> None:
    """100,000 connections are served, each with its answer, and nothing is left of them."""
    network = MemoryNetwork()
    transport = network.host(SERVER).transport(80)
    async with trio.open_nursery() as nursery:
        if kind == "tasks":
            await nursery.start(functools.partial(serve, echo, transport=transport))
        else:
            dispatch = ListenDispatch(accept=lambda _: ECHOING)
            await nursery.start(functools.partial(serve_events, dispatch, transport=transport))
        went_well = await visits(network, hosts=100, times=1000)
        await settled()
        left = len(network._carrier.ends)  # noqa: SLF001 - nothing is left
        nursery.cancel_scope.cancel()

    assert 100_000 == went_well
    assert 0 == left
    assert 0.0 == trio.current_time()


@pytest.mark.heavy
async def test_ten_thousand_connections_over_a_bad_line(autojump_clock: MockClock) -> None:
    """10,000 connections with latency and loss are served, each with its answer."""
    network = MemoryNetwork(latency=0.03, loss=0.05, seed=7)
    transport = network.host(SERVER).transport(80)
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(serve, echo, transport=transport))
        went_well = await visits(network, hosts=100, times=100)
        nursery.cancel_scope.cancel()

    assert 10_000 == went_well
