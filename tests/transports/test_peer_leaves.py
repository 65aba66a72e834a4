"""An accepted connection that waits for its answer: its peer leaves."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.blocking_peers import connected, spin_until
from tests.helpers.portable_peers import Keeper
from tests.helpers.requesting_peers import (
    connect,
    do_nothing,
    edges_or_not,
    owning_one,
    send,
    send_fin,
    unwatch,
)
from tests.helpers.resetting import close_with_reset
from tests.helpers.support import wait_in_task
from trio_wsk._engine.choice import HAVE_EPOLL
from trio_wsk._engine.readiness import LOOK_SECONDS
from trio_wsk.transports import PeerEnd

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.portable_peers import Owner


# --- Whether the peer is there ------------------------------------------------------------------


REPORTED = {
    "alive": (False, [do_nothing]),
    "sent": (False, [send]),
    "fin": (False, [send_fin]),
    "data, fin": (False, [send, send_fin]),
    "closed": (False, [socket.socket.close]),
    "data, closed": (False, [send, socket.socket.close]),
    "reset": (True, [close_with_reset]),
    "data, reset": (True, [send, close_with_reset]),
    "fin, reset": (True, [send_fin, close_with_reset]),
    "data, fin, reset": (True, [send, send_fin, close_with_reset]),
}


@pytest.mark.parametrize(("gone", "deeds"), REPORTED.values(), ids=REPORTED)
@pytest.mark.parametrize("when", ["before accept", "after accept"])
async def test_only_a_reset_is_a_reset(
    *, when: str, gone: bool, deeds: list[Callable[[socket.socket], None]], owner: Owner
) -> None:
    """
    A reset is seen beside unread data and after a FIN; a FIN alone, or after data, is none.
    The answer is the same however often it is asked for, and reads nothing.
    """
    with connect(owner) as peer:
        if when == "before accept":
            for deed in deeds:
                deed(peer)
        request = await owner.request()
        channel = request.accept()
        if when == "after accept":
            for deed in deeds:
                deed(peer)
        # What the peer did last takes a moment to get here.
        expected = (gone, gone)
        with trio.move_on_after(10):
            if gone:
                while not request.was_reset():
                    await trio.lowlevel.checkpoint()
            elif deeds != [do_nothing]:
                await trio.lowlevel.wait_readable(channel)

        assert expected == (request.was_reset(), request.was_reset())
        if send in deeds:
            assert b"data" == channel.recv(10)

        request.reset()


async def test_connection_that_the_kernel_has_let_go_of_was_reset(owner: Owner) -> None:
    """If not even its error can be asked for, there is nobody to deliver."""
    with connect(owner):
        request = await owner.request()
        request.accept().close()

        assert request.was_reset()


# --- How the peer leaves ------------------------------------------------------------------------


REMAINS = None
TCP_ENDS = {
    "fin": ([send_fin], PeerEnd.FIN, PeerEnd.FIN),
    "closed": ([socket.socket.close], PeerEnd.FIN, PeerEnd.FIN),
    "data, fin": ([send, send_fin], PeerEnd.FIN_AFTER_DATA, REMAINS),
    "data, closed": ([send, socket.socket.close], PeerEnd.FIN_AFTER_DATA, REMAINS),
    "reset": ([close_with_reset], PeerEnd.RESET, PeerEnd.RESET),
    "data, reset": ([send, close_with_reset], PeerEnd.RESET, PeerEnd.RESET),
    "fin, reset": ([send_fin, close_with_reset], PeerEnd.RESET, PeerEnd.RESET),
    "data, fin, reset": ([send, send_fin, close_with_reset], PeerEnd.RESET, PeerEnd.RESET),
    "alive": ([do_nothing], REMAINS, REMAINS),
    "data": ([send], REMAINS, REMAINS),
}
"""What the peer does; how it is told by edges, and how by Trio's waits."""

UNIX_ENDS = {
    "fin": ([send_fin], PeerEnd.FIN, PeerEnd.FIN),
    "data, fin": ([send, send_fin], PeerEnd.FIN_AFTER_DATA, REMAINS),
    "closed": ([socket.socket.close], PeerEnd.CLOSED, PeerEnd.FIN),
    "data, closed": ([send, socket.socket.close], PeerEnd.CLOSED, REMAINS),
    "alive": ([do_nothing], REMAINS, REMAINS),
    "data": ([send], REMAINS, REMAINS),
}
"""The same on a Unix socket, which knows no reset, and tells a closed peer from a finished one."""

ENDS = [
    pytest.param(family, deeds, *told, id=f"{family}-{name}")
    for family, ends in {"v4": TCP_ENDS, "v6": TCP_ENDS, "unix": UNIX_ENDS}.items()
    for name, (deeds, *told) in ends.items()
]


@edges_or_not
@pytest.mark.parametrize(("family", "deeds", "by_edges", "by_looking"), ENDS)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_peer_that_leaves_is_told_how(
    *,
    when: str,
    family: str,
    deeds: list[Callable[[socket.socket], None]],
    by_edges: PeerEnd | None,
    by_looking: PeerEnd | None,
    edge_triggered: bool,
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """
    A watched request tells that its peer has left, and how, also behind unread data and also
    if that was true already, but not from inside `watch_end`; of one that is there it tells
    nothing. Trio's waits see no FIN behind data.
    """
    expected = by_edges if edge_triggered else by_looking
    keeper = Keeper()
    async with owning_one(family, tmp_path, edge_triggered=edge_triggered) as (
        owner,
        request,
        peer,
    ):
        if when == "after":
            keeper.watch(request, owner.readiness)
            await wait_all_tasks_blocked()
        for deed in deeds:
            deed(peer)
        if when == "before":
            keeper.watch(request, owner.readiness)
        if expected is None:
            await trio.sleep(3 * LOOK_SECONDS)  # on the virtual clock

            assert [] == keeper.told
        else:
            await keeper.is_told(expected)
            await trio.sleep(3 * LOOK_SECONDS)  # once is enough

            assert expected is keeper.told[-1]
        if send in deeds and expected is not PeerEnd.RESET:
            assert b"data" == request.accept().recv(10)
        request.reset()


@pytest.mark.parametrize("unread", [[], [send]])
@pytest.mark.parametrize(
    ("family", "further", "expected"),
    [
        ("v4", close_with_reset, PeerEnd.RESET),
        ("v6", close_with_reset, PeerEnd.RESET),
        ("unix", socket.socket.close, PeerEnd.CLOSED),
    ],
)
@pytest.mark.skipif(not HAVE_EPOLL, reason="there is no epoll")
async def test_peer_that_goes_further_is_told_again(
    family: str,
    further: Callable[[socket.socket], None],
    expected: PeerEnd,
    unread: list[Callable[[socket.socket], None]],
    tmp_path: Path,
) -> None:
    """A peer that has finished sending and then resets, or closes, is told once for each."""
    first = PeerEnd.FIN_AFTER_DATA if unread else PeerEnd.FIN
    keeper = Keeper()
    async with owning_one(family, tmp_path) as (owner, request, peer):
        keeper.watch(request, owner.readiness)
        for deed in [*unread, send_fin]:
            deed(peer)
        await keeper.is_told(first)
        further(peer)
        await keeper.is_told(expected)
        await wait_all_tasks_blocked()

        assert [first, expected] == keeper.told

        request.reset()


async def test_reset_after_fin_is_found_by_looking(autojump_clock: trio.testing.MockClock) -> None:
    """With Trio's waits, too, a peer that has finished and then resets is told for each."""
    keeper = Keeper()
    async with owning_one("v4", Path(), edge_triggered=False) as (owner, request, peer):
        keeper.watch(request, owner.readiness)
        send_fin(peer)
        await keeper.is_told(PeerEnd.FIN)
        began = trio.current_time()
        close_with_reset(peer)
        await keeper.is_told(PeerEnd.RESET)

        assert trio.current_time() - began <= LOOK_SECONDS
        assert [PeerEnd.FIN, PeerEnd.RESET] == keeper.told

        request.reset()


async def test_reset_behind_data_is_found_soon(autojump_clock: trio.testing.MockClock) -> None:
    """Where no edge tells of it, a reset behind unread data is found at the next look."""
    keeper = Keeper()
    async with owning_one("v4", Path(), edge_triggered=False) as (owner, request, peer):
        keeper.watch(request, owner.readiness)
        send(peer)
        await trio.sleep(10.5 * LOOK_SECONDS)  # on the virtual clock

        assert [] == keeper.told

        began = trio.current_time()
        close_with_reset(peer)
        await keeper.is_told(PeerEnd.RESET)

        assert trio.current_time() - began <= LOOK_SECONDS

        request.reset()


@pytest.mark.skipif(not HAVE_EPOLL, reason="there is no epoll")
@pytest.mark.parametrize("sent", [b"", b"data"])
async def test_end_of_a_duplicated_descriptor_is_not_told_of_who_has_its_number(
    sent: bytes, tmp_path: Path
) -> None:
    """
    A descriptor that was duplicated and then closed behind our back stays in epoll under its
    number. When its peer closes, the request that has the number by then is told nothing: its
    own peer is there.
    """
    keeper = Keeper()
    async with owning_one("unix", tmp_path) as (owner, first, gone):
        Keeper().watch(first, owner.readiness)
        with connected(owner.address) as peer:
            number = first.accept().detach()
            duplicate = os.dup(number)
            os.close(number)
            second = await owner.request()

            assert number == second.accept().fileno()

            peer.sendall(sent)
            keeper.watch(second, owner.readiness)
            await wait_all_tasks_blocked()
            gone.close()
            await wait_all_tasks_blocked()

            assert [] == keeper.told

            peer.close()
            await keeper.is_told(PeerEnd.CLOSED)
            second.reset()
        os.close(duplicate)


@edges_or_not
@pytest.mark.parametrize("leave", [send_fin, close_with_reset])
@pytest.mark.parametrize("first", [do_nothing, send])
async def test_request_that_is_not_watched_any_more_tells_nothing(
    *,
    first: Callable[[socket.socket], None],
    leave: Callable[[socket.socket], None],
    edge_triggered: bool,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """After `unwatch_end`, which may be said twice, the peer leaves unheard."""
    keeper = Keeper()
    async with owning_one("v4", Path(), edge_triggered=edge_triggered) as (owner, request, peer):
        first(peer)
        keeper.watch(request, owner.readiness)
        await wait_all_tasks_blocked()
        unwatch(request)
        leave(peer)
        await trio.sleep(3 * LOOK_SECONDS)  # on the virtual clock

        assert [] == keeper.told

        request.reset()


@edges_or_not
async def test_end_that_nobody_has_heard_yet_is_not_told_after_unwatching(
    *, edge_triggered: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """A peer that left before `unwatch_end`, but whom nobody was told of, is not told of after."""
    keeper = Keeper()
    async with owning_one("v4", Path(), edge_triggered=edge_triggered) as (owner, request, peer):
        keeper.watch(request, owner.readiness)
        await wait_all_tasks_blocked()
        close_with_reset(peer)
        spin_until(request.was_reset)
        unwatch(request)
        await trio.sleep(3 * LOOK_SECONDS)  # on the virtual clock

        assert [] == keeper.told

        request.reset()


@edges_or_not
async def test_request_that_is_watched_again_tells_again(*, edge_triggered: bool) -> None:
    """Another keeper is told what was true before it came, and the first one no more."""
    first, second = Keeper(), Keeper()
    async with owning_one("v4", Path(), edge_triggered=edge_triggered) as (owner, request, peer):
        first.watch(request, owner.readiness)
        send_fin(peer)
        await first.is_told(PeerEnd.FIN)
        request.unwatch_end()
        second.watch(request, owner.readiness)
        await second.is_told(PeerEnd.FIN)
        close_with_reset(peer)
        await second.is_told(PeerEnd.RESET)

        assert [PeerEnd.FIN] == first.told

        request.reset()


@edges_or_not
@pytest.mark.parametrize("answer", ["reset", "finish", "silence"])
async def test_answer_ends_the_watch(
    *, answer: str, edge_triggered: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """
    Any answer but yes unwatches: the peer's end is told to nobody, and who has the number of
    its descriptor next is not disturbed.
    """
    keeper, successor = Keeper(), Keeper()
    async with owning_one("v4", Path(), edge_triggered=edge_triggered) as (owner, request, peer):
        number = request.accept().fileno()
        keeper.watch(request, owner.readiness)
        await wait_all_tasks_blocked()
        getattr(request, answer)()
        peer.close()
        with connected(owner.address) as other:
            following = await owner.request()

            assert number in {following.accept().fileno(), other.fileno()}

            successor.watch(following, owner.readiness)
            send_fin(other)
            await successor.is_told(PeerEnd.FIN)
            following.reset()

    assert [] == keeper.told


@edges_or_not
async def test_accepted_request_tells_its_connection_and_not_its_keeper(
    *, edge_triggered: bool, tmp_path: Path
) -> None:
    """Once unwatched, the channel is waited for by another watch as if there had been none."""
    keeper = Keeper()
    async with owning_one("v4", tmp_path, edge_triggered=edge_triggered) as (owner, request, peer):
        keeper.watch(request, owner.readiness)
        await wait_all_tasks_blocked()
        request.unwatch_end()
        channel = request.accept()
        watch = request.watch(channel)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_in_task, owner.readiness, watch, 1)
            await wait_all_tasks_blocked()
            send(peer)

        assert b"data" == channel.recv(10)
        assert [] == keeper.told

        watch.close()
        channel.close()
