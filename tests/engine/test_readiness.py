"""Waiting for channels, over our own epoll and over Trio's waits."""

from __future__ import annotations

import errno
import os
import select
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.blocking_peers import await_event
from tests.helpers.driven import Ear, company, driven, pair_that_has_waited, socket_pair
from tests.helpers.pairs import open_pair, plain
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import PATIENCE, connect, connect_now, fate_of, wait_in_task
from trio_wsk import (
    Connection,
    ConnectionBrokenError,
    ConnectionDispatch,
    EventMask,
    ListenDispatch,
    open_listening_socket,
)
from trio_wsk._engine import choice as _choice
from trio_wsk._engine import epoll_readiness as _epoll_readiness
from trio_wsk._engine.choice import HAVE_EPOLL
from trio_wsk._engine.epoll_readiness import EpollReadiness
from trio_wsk._engine.readiness import ENDED, READ, URGENT, WRITE, Watch
from trio_wsk._engine.trio_readiness import TrioReadiness

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("readiness")

needs_epoll = pytest.mark.skipif(not HAVE_EPOLL, reason="this system has no epoll")


# --- The drivers by themselves ---------------------------------------------------------


@pytest.mark.parametrize("edge_triggered", [pytest.param(True, marks=needs_epoll), False])
async def test_arming_reports_what_is_true_already(
    edge_triggered: bool,  # noqa: FBT001 - pytest
) -> None:
    """A channel that was readable before it was armed is reported all the same."""
    with socket_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        theirs.send(b"x")
        async with driven(edge_triggered=edge_triggered) as readiness:
            readiness.arm(watch, READ)
            await wait_all_tasks_blocked()

            assert [READ] == [edges & READ for edges in ear.heard]

            watch.close()


@needs_epoll
async def test_wait_for_what_may_have_passed_is_woken() -> None:
    """A wait that says so is woken by what is true although its edge has been told."""
    with socket_pair() as (ours, _):
        watch = Watch(ours.fileno())
        async with driven(edge_triggered=True) as readiness:
            readiness.arm(watch, READ)
            with trio.fail_after(PATIENCE):
                for _ in range(3):
                    await readiness.wait(watch, WRITE, passed=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_in_task, readiness, watch, WRITE)
                await wait_all_tasks_blocked()

                assert watch.writer is not None

                nursery.cancel_scope.cancel()
            watch.close()


@needs_epoll
async def test_one_turn_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one poll leaves over is told by the next one, and nothing is told twice."""
    monkeypatch.setattr(_epoll_readiness, "EVENTS_PER_POLL", 2)
    readiness = EpollReadiness()
    with socket_pair() as (a, b), socket_pair() as (c, d):
        ear = Ear()
        for each in (a, b, c, d):
            readiness.arm(Watch(each.fileno(), ear), WRITE)
        told = []
        for _ in range(4):
            readiness.poll()
            told.append(len(ear.heard))
        readiness.close()

    assert [2, 4, 4, 4] == told


@needs_epoll
async def test_short_read_is_believed_only_where_the_next_edge_is_heard() -> None:
    """Nothing counts as empty on a channel that has been armed for writing only."""
    readiness = EpollReadiness()
    with socket_pair() as (ours, _):
        watch = Watch(ours.fileno())
        watch.read_short()

        assert not watch.empty

        readiness.arm(watch, WRITE)
        watch.read_short()

        assert not watch.empty

        readiness.arm(watch, READ)
        watch.read_short()

        assert watch.empty

        watch.close()

        assert not watch.empty
    readiness.close()


@needs_epoll
async def test_short_read_is_not_believed_when_an_edge_came_meanwhile() -> None:
    """
    An edge may come from inside the read: what it tells of is newer than what the read got. The
    next read is believed again.
    """
    readiness = EpollReadiness()
    with socket_pair() as (ours, _):
        watch = Watch(ours.fileno())
        readiness.arm(watch, READ)
        watch.news = False
        watch.on_edges(READ)
        watch.read_short()

        assert not watch.empty

        watch.news = False
        watch.read_short()

        assert watch.empty

        watch.close()
    readiness.close()


@needs_epoll
@pytest.mark.parametrize("edge", [ENDED, URGENT])
async def test_short_read_is_not_believed_after_a_doubtful_edge(edge: int) -> None:
    """The peer's end shares the edge of what came before it; a read stops at an urgent octet."""
    readiness = EpollReadiness()
    with socket_pair() as (ours, _):
        watch = Watch(ours.fileno())
        readiness.arm(watch, READ)
        watch.on_edges(edge)
        watch.news = False
        watch.read_short()

        assert not watch.empty

        watch.close()
    readiness.close()


@needs_epoll
async def test_closed_channel_with_a_duplicate_is_heard_no_more() -> None:
    """
    A descriptor that lives on elsewhere (a fork's child) keeps its file open; closing the
    channel here still ends what the kernel reports of it.
    """
    ear = Ear()
    async with driven(edge_triggered=True) as readiness:
        with socket_pair() as (ours, theirs):
            duplicate = os.dup(ours.fileno())
            watch = Watch(ours.fileno(), ear)
            readiness.arm(watch, READ)
            watch.close()
            number = ours.fileno()
            ours.close()
            with socket_pair() as (successor, _):
                assert number == successor.fileno()

                readiness.arm(Watch(number, ear), READ)
                theirs.send(b"x")
                await_event(duplicate)
                await wait_all_tasks_blocked()

                assert [] == ear.heard
            os.close(duplicate)


@pytest.mark.parametrize("edge_triggered", [pytest.param(True, marks=needs_epoll), False])
async def test_wake_returns_the_driver_from_park_and_from_nothing_else(
    edge_triggered: bool,  # noqa: FBT001 - pytest
) -> None:
    """`wake` ends one park; while nobody is parked it does nothing, and is not remembered."""
    returned = 0

    async def park() -> None:
        nonlocal returned
        await readiness.park()
        returned += 1

    async with trio.open_nursery() as nursery:
        readiness = EpollReadiness() if edge_triggered else TrioReadiness(nursery.start_soon)
        readiness.wake()
        nursery.start_soon(park)
        await wait_all_tasks_blocked()

        assert 0 == returned

        readiness.wake()
        readiness.wake()
        await wait_all_tasks_blocked()

        assert 1 == returned

        nursery.start_soon(park)
        await wait_all_tasks_blocked()

        assert 1 == returned

        nursery.cancel_scope.cancel()
    readiness.wake()
    readiness.close()


async def test_trios_waits_report_once_for_each_arming() -> None:
    """Without edges a channel is reported once, however often it was armed, and then armed anew."""
    with socket_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        async with driven(edge_triggered=False) as readiness:
            readiness.arm(watch, READ)
            readiness.arm(watch, READ)
            await wait_all_tasks_blocked()
            theirs.send(b"x")
            await wait_all_tasks_blocked()

            assert [READ] == ear.heard

            readiness.arm(watch, READ)
            await wait_all_tasks_blocked()

            assert [READ, READ] == ear.heard

            watch.close()


async def test_task_waits_beside_a_report_of_the_same_edge() -> None:
    """
    A task may wait for what is armed already; Trio itself would call that busy. It is served, and
    comes before the sink.
    """
    with socket_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        is_told = trio.Event()

        async def wait() -> None:
            await wait_in_task(readiness, watch, READ)
            is_told.set()

        async with driven(edge_triggered=False) as readiness, trio.open_nursery() as nursery:
            readiness.arm(watch, READ)
            await wait_all_tasks_blocked()
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()

            assert not is_told.is_set()
            assert [] == ear.heard

            theirs.send(b"x")
            with trio.fail_after(PATIENCE):
                await is_told.wait()
            await wait_all_tasks_blocked()

            assert [] == ear.heard

            watch.close()


async def test_task_that_waits_by_itself_needs_no_task_of_the_block() -> None:
    """With Trio's waits, a task's wait starts no other task, though the block knows the channel."""
    with socket_pair() as (ours, theirs):
        started: list[object] = []
        readiness = TrioReadiness(lambda *arguments: started.append(arguments))
        watch = Watch(ours.fileno())
        watch.home = readiness
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_in_task, readiness, watch, READ)
                await wait_all_tasks_blocked()
                theirs.send(b"x")

        assert [] == started


@pytest.mark.parametrize("edge_triggered", [pytest.param(True, marks=needs_epoll), False])
async def test_closing_a_readiness_lets_its_watches_go(
    edge_triggered: bool,  # noqa: FBT001 - pytest
) -> None:
    """When a readiness closes, who waits through it is woken to look for another home."""
    with socket_pair() as (ours, _):
        watch = Watch(ours.fileno())
        async with trio.open_nursery() as nursery:
            readiness = EpollReadiness() if edge_triggered else TrioReadiness(nursery.start_soon)
            readiness.arm(watch, READ)
            async with trio.open_nursery() as waiting:
                waiting.start_soon(wait_in_task, readiness, watch, READ)
                await wait_all_tasks_blocked()
                readiness.close()

    assert (None, 0, None) == (watch.home, watch.interest, watch.reader)


# --- By themselves, and at the end of the run ------------------------------------------


async def test_readiness_without_a_pump_has_nothing_to_drive() -> None:
    """What serves only tasks that wait by themselves can't be armed."""
    watch = Watch(0)

    with pytest.raises(RuntimeError, match="wait by themselves"):
        TrioReadiness(None).arm(watch, READ)


def test_dispatcher_ends_with_the_run() -> None:
    """A Trio run in which connections were awaited leaves no descriptor behind; nor the next."""
    before = open_descriptors()

    async def main() -> None:
        async with pair_that_has_waited():
            pass

    for _ in range(2):
        trio.run(main)

    assert before == open_descriptors()


def test_connection_can_be_closed_after_its_run() -> None:
    """A connection that was kept beyond the Trio run closes, and its peer sees the end."""

    async def main() -> tuple[Connection, socket.socket]:
        async with company(), open_listening_socket(0, host="127.0.0.1") as listening:
            client = await connect(listening.local_addresses[0])
            connection = await listening.accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.receive_some)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            kept = plain(client)
            client.socket.close()
            return connection, kept

    connection, client = trio.run(main)
    connection.close()
    with client:
        client.settimeout(PATIENCE)

        assert b"" == client.recv(1)


# --- Without a watch -----------------------------------------------------------------------------


@needs_epoll
async def test_sink_is_told_without_a_watch() -> None:
    """Who never waits is told of its edges and of the end, until it wants no more."""
    readiness = EpollReadiness()
    ear, other = Ear(), Ear()
    with socket_pair() as (ours, theirs), socket_pair() as (others, _):
        readiness.tell(ours.fileno(), READ, ear)
        readiness.tell(others.fileno(), READ, other)
        readiness.poll()
        assert [] == ear.heard

        theirs.send(b"x")
        readiness.poll()
        readiness.poll()
        assert [READ] == ear.heard

        theirs.shutdown(socket.SHUT_WR)
        readiness.poll()
        assert 2 == len(ear.heard)
        assert ear.heard[1] & ENDED

        readiness.tell_no_more(others.fileno(), ear)  # not its own: nothing happens
        readiness.tell_no_more(ours.fileno(), ear)
        readiness.tell_no_more(ours.fileno(), ear)
        readiness.tell_no_more(-1, ear)
        theirs.close()
        readiness.poll()
        assert 2 == len(ear.heard)
        assert [] == other.heard
    readiness.close()


@needs_epoll
async def test_poll_says_whether_much_goes_on() -> None:
    """Only if several had something is it worth looking again before parking."""
    readiness = EpollReadiness()
    with socket_pair() as (first, first_peer), socket_pair() as (second, second_peer):
        for ours in (first, second):
            readiness.tell(ours.fileno(), READ, Ear())
        assert not readiness.poll()
        first_peer.send(b"x")
        assert not readiness.poll()
        first_peer.send(b"x")
        second_peer.send(b"x")
        assert readiness.poll()
        assert not readiness.poll()
    readiness.close()


@needs_epoll
@pytest.mark.parametrize("is_closed_first", [False, True])
async def test_descriptor_that_its_owner_closed_is_another_ones(*, is_closed_first: bool) -> None:
    """Who was closed behind our back takes nothing from the one that has its number now."""
    readiness = EpollReadiness()
    old, new = Ear(), Ear()
    with socket_pair() as (ours, _):
        number = ours.fileno()
        readiness.tell(number, READ, old)
    with socket_pair() as (ours, theirs):
        assert number == ours.fileno()  # the lowest that is free
        if is_closed_first:
            readiness.tell_no_more(number, old)
        readiness.tell(number, READ, new)
        if not is_closed_first:
            readiness.tell_no_more(number, old)
        theirs.send(b"x")
        readiness.poll()
        assert [READ] == new.heard
        assert [] == old.heard
        readiness.tell_no_more(number, new)
    with socket_pair() as (ours, theirs), trio.fail_after(PATIENCE):
        # Nobody is left to share it with, so whoever waits now is alone, and nobody has to poll.
        theirs.send(b"x")
        await readiness.wait(Watch(ours.fileno()), READ)
    readiness.close()


class CrowdedEpoll:
    """The kernel's epoll, which at times has no room for one more (ENOSPC, epoll_ctl(2))."""

    is_full = False

    def __init__(self) -> None:
        self._real = select_epoll()

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def register(self, fd: int, events: int) -> None:
        """Register it, if there is room."""
        if CrowdedEpoll.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._real.register(fd, events)


select_epoll: Callable[[], Any] = getattr(select, "epoll", lambda: None)


@needs_epoll
async def test_connection_that_epoll_has_no_room_for_is_broken_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who can't be waited for is reset, or told so where it awaits; the others go on."""
    monkeypatch.setattr(CrowdedEpoll, "is_full", False)
    monkeypatch.setattr(select, "epoll", CrowdedEpoll)
    monkeypatch.setattr(_choice, "HAVE_EPOLL", True)  # it is only about that
    ended: list[bool] = []

    def echo(connection: Connection, data: bytes) -> None:
        connection.send_nowait(data)

    dispatch = ConnectionDispatch(
        receive=echo,
        disconnect=lambda _, abortive: ended.append(abortive),
    )
    async with open_listening_socket(
        0, host="127.0.0.1", dispatch=ListenDispatch(accept=lambda _: dispatch)
    ) as listening:
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE | EventMask.DISCONNECT)
        (address,) = listening.local_addresses
        await wait_all_tasks_blocked()
        CrowdedEpoll.is_full = True
        async with connect_now(address) as client:  # or it may be reset before it has connected
            assert "reset" == await fate_of(client)
        assert [True] == ended

        CrowdedEpoll.is_full = False
        async with await connect(address) as client:
            await client.send_all(b"x")
            assert b"x" == await client.receive_some()

    async with company(), open_pair() as (connection, client):
        CrowdedEpoll.is_full = True
        with pytest.raises(ConnectionBrokenError):
            await connection.receive_some()
        CrowdedEpoll.is_full = False
        await connection.aclose()
