"""Watches that wait for the peer's end alone."""

from __future__ import annotations

import select
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers.blocking_peers import await_event
from tests.helpers.driven import Ear, driven, socket_pair
from tests.helpers.resetting import close_with_reset
from tests.helpers.support import PATIENCE, wait_in_task
from trio_wsk._engine.choice import HAVE_EPOLL
from trio_wsk._engine.readiness import ENDED, LOOK, LOOK_SECONDS, READ, Watch
from trio_wsk._engine.trio_readiness import TrioReadiness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("readiness")

needs_epoll = pytest.mark.skipif(not HAVE_EPOLL, reason="this system has no epoll")


def finish(theirs: socket.socket) -> None:
    """Finish sending."""
    theirs.shutdown(socket.SHUT_WR)


@contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make two connected non-blocking sockets, of which the second can reset."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with ours, theirs:
        ours.settimeout(0)
        theirs.settimeout(0)
        yield ours, theirs


@needs_epoll
@pytest.mark.parametrize("leave", [finish, close_with_reset])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("sent", [b"", b"unread"])
async def test_end_is_noticed_behind_unread_data(
    sent: bytes, when: str, leave: Callable[[socket.socket], None]
) -> None:
    """
    A channel that is armed for its end tells of FIN and of a reset, also behind unread data and
    also if they were first; it tells once, and of data it tells nothing.
    """
    with tcp_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        theirs.send(sent)
        async with driven(edge_triggered=True) as readiness:
            if when == "before":
                leave(theirs)
                await_event(ours.fileno(), select.POLLRDHUP)
            readiness.arm_end(watch)
            await wait_all_tasks_blocked()
            if when == "after":
                assert [] == ear.heard

                leave(theirs)
                await_event(ours.fileno(), select.POLLRDHUP)
                await wait_all_tasks_blocked()

            assert [True] == [bool(edges & ENDED) for edges in ear.heard]
            assert not any(edges & LOOK for edges in ear.heard)

            watch.close()


@needs_epoll
async def test_data_is_no_end() -> None:
    """Whatever comes while only the end is armed is not told, and hides nothing from who reads."""
    with socket_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        async with driven(edge_triggered=True) as readiness:
            readiness.arm_end(watch)
            for _ in range(3):
                theirs.send(b"x")
                await_event(ours.fileno())
                await wait_all_tasks_blocked()

            assert [] == ear.heard

            with trio.fail_after(PATIENCE):
                await readiness.wait(watch, READ)

            assert b"xxx" == ours.recv(10)

            watch.close()


@pytest.mark.parametrize("edge_triggered", [pytest.param(True, marks=needs_epoll), False])
async def test_who_waits_to_read_is_woken_beside_a_watch_for_the_end(
    edge_triggered: bool,  # noqa: FBT001 - pytest
) -> None:
    """A channel that is armed for its end can be waited for as well, by one task."""
    with socket_pair() as (ours, theirs):
        watch = Watch(ours.fileno(), Ear())
        async with driven(edge_triggered=edge_triggered) as readiness:
            readiness.arm_end(watch)
            await wait_all_tasks_blocked()
            for _ in range(3):
                with trio.fail_after(PATIENCE):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(wait_in_task, readiness, watch, READ)
                        await wait_all_tasks_blocked()
                        theirs.send(b"x")

            assert b"xxx" == ours.recv(10)

            watch.close()


@pytest.mark.parametrize("leave", [finish, close_with_reset])
async def test_trios_waits_say_when_to_look(
    leave: Callable[[socket.socket], None], autojump_clock: MockClock
) -> None:
    """
    Without edges a channel that is armed for its end tells nothing while there is nothing to
    read, then that one should look: at once, and again every `LOOK_SECONDS`.
    """
    with tcp_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        async with driven(edge_triggered=False) as readiness:
            readiness.arm_end(watch)
            await trio.sleep(10 * LOOK_SECONDS)

            assert [] == ear.heard

            leave(theirs)
            await wait_all_tasks_blocked()

            assert [READ | LOOK] == ear.heard

            await trio.sleep(10.5 * LOOK_SECONDS)

            assert [READ | LOOK] * 11 == ear.heard

            watch.close()


async def test_trios_waits_look_behind_unread_data(autojump_clock: MockClock) -> None:
    """With unread data one is told to look every `LOOK_SECONDS`, so a reset is seen in time."""
    with tcp_pair() as (ours, theirs):

        class Looker:
            looks = 0
            seen_at: float | None = None

            def on_edges(self, edges: int) -> None:
                self.looks += 1
                if ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self.seen_at = trio.current_time()

        looker = Looker()
        watch = Watch(ours.fileno(), looker)
        theirs.send(b"unread")
        await_event(ours.fileno())
        async with driven(edge_triggered=False) as readiness:
            readiness.arm_end(watch)
            await trio.sleep(10.5 * LOOK_SECONDS)

            assert (11, None) == (looker.looks, looker.seen_at)

            began = trio.current_time()
            close_with_reset(theirs)
            await trio.sleep(2 * LOOK_SECONDS)

            assert looker.seen_at is not None
            assert looker.seen_at - began <= LOOK_SECONDS

            watch.close()


@pytest.mark.parametrize("unread", [b"", b"unread"])
@pytest.mark.parametrize("end", ["disarm", "close the watch", "close the readiness"])
async def test_watch_for_the_end_leaves_no_task(
    end: str, unread: bytes, autojump_clock: MockClock
) -> None:
    """
    The one task that Trio's waits need ends when the channel is let go, waiting for data or
    between two looks, and tells nothing more.
    """
    with socket_pair() as (ours, theirs):
        ear = Ear()
        watch = Watch(ours.fileno(), ear)
        theirs.send(unread)
        async with trio.open_nursery() as nursery:
            readiness = TrioReadiness(nursery.start_soon)
            readiness.arm_end(watch)
            await wait_all_tasks_blocked()

            assert 1 == len(nursery.child_tasks)

            {
                "disarm": lambda: readiness.disarm(watch),
                "close the watch": watch.close,
                "close the readiness": readiness.close,
            }[end]()
            ear.heard.clear()  # letting go tells who waits to look elsewhere
            finish(theirs)
            await trio.sleep(2 * LOOK_SECONDS)

            assert [] == ear.heard
            assert 0 == len(nursery.child_tasks)

    assert (None, 0) == (watch.home, watch.interest)


async def test_watch_for_the_end_that_is_let_go_at_once_never_begins() -> None:
    """A channel that is disarmed before its task has run a step is not waited for."""
    with socket_pair() as (ours, _):
        watch = Watch(ours.fileno())
        async with trio.open_nursery() as nursery:
            readiness = TrioReadiness(nursery.start_soon)
            readiness.arm_end(watch)
            watch.close()
            await wait_all_tasks_blocked()

            assert 0 == len(nursery.child_tasks)


@pytest.mark.parametrize("edge_triggered", [pytest.param(True, marks=needs_epoll), False])
async def test_watch_for_the_end_of_a_closed_channel_disturbs_no_successor(
    edge_triggered: bool,  # noqa: FBT001 - pytest
    no_leak: None,
) -> None:
    """Who has a disarmed and closed channel's number next is told of its own end, and only it."""
    ear, successors_ear = Ear(), Ear()
    async with driven(edge_triggered=edge_triggered) as readiness:
        with socket_pair() as (ours, _):
            watch = Watch(ours.fileno(), ear)
            readiness.arm_end(watch)
            await wait_all_tasks_blocked()
            watch.close()
            number = ours.fileno()
            ours.close()
            with socket_pair() as (successor, theirs):
                assert number == successor.fileno()

                watch = Watch(number, successors_ear)
                readiness.arm_end(watch)
                await wait_all_tasks_blocked()
                finish(theirs)
                await wait_all_tasks_blocked()

                assert [] == ear.heard
                assert 1 == len(successors_ear.heard)

                watch.close()
