"""A queued accept, and two things that happen to it: which one counts is no matter of luck."""

from __future__ import annotations

import errno
import gc
import logging
from contextlib import asynccontextmanager
from itertools import product
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import trio_wsk
from tests.helpers.scripted import ScriptedTransport
from tests.helpers.support import PATIENCE
from trio_wsk import ListenDispatch, Status, open_listening_socket
from trio_wsk.observers import CallbackFailed, LoggingObserver
from trio_wsk.transports import TransportFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import outcome

    from trio_wsk import Connection, Irp, ListeningSocket

pytestmark = pytest.mark.usefixtures("readiness")

QUIET = logging.getLogger("trio_wsk.tests.quiet")
QUIET.disabled = True

EXPECTED = {
    "arrive": Status.SUCCESS,
    "cancel": Status.CANCELLED,
    "close": Status.CANCELLED,
    "fail": Status.FILE_FORCED_CLOSED,
}
"""What each thing has the accept complete with, if it is the first."""

IN_THE_PUMP = {"arrive", "fail"}
"""These take effect when the pump looks; the others at the call."""


@pytest.fixture
def transport() -> Iterator[ScriptedTransport]:
    """A transport whose peers are all gone at the end, and answered if anybody saw them."""
    transport = ScriptedTransport()
    yield transport
    for peer in transport.peers:
        peer.leave()

        assert not peer.is_open
        assert (peer.answer is None) is peer.is_refused


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    with trio.fail_after(PATIENCE):
        yield


class Race:
    """One queued accept, and everybody who wants to know how it ends."""

    def __init__(self, transport: ScriptedTransport) -> None:
        self.transport = transport
        self.told: list[Irp[Connection]] = []
        self.outcomes: list[outcome.Outcome[Connection]] = []
        self.was_cancelled: list[bool] = []
        self.is_calling = False
        self.irp: Irp[Connection]
        self.listening: ListeningSocket

    def _routine(self, irp: Irp[Connection]) -> None:
        assert not self.is_calling

        self.told.append(irp)

    async def _wait(self) -> None:
        self.outcomes.append(await self.irp.wait())

    async def happen(self, way: str) -> None:
        """One of the things happens."""
        self.is_calling = True
        if way == "arrive":
            self.transport.arrive()
        elif way == "fail":
            self.transport.fault(TransportFailedError(OSError(errno.EINVAL, "broken")))
        elif way == "cancel":
            self.was_cancelled.append(self.irp.cancel())
        self.is_calling = False
        if way == "close":
            await self.listening.aclose()

    async def run(self, ways: tuple[str, ...], turns: int | None) -> list[Connection]:
        """Let them happen, so many turns apart; return who is there for the next accept."""
        next_ones: list[Connection] = []
        async with _in_time(), trio.open_nursery() as nursery:
            try:
                async with open_listening_socket(
                    transport=self.transport, observers=[LoggingObserver(QUIET)]
                ) as self.listening:
                    self.irp = self.listening.queue_accept(on_completion=self._routine)
                    for _ in range(3):
                        nursery.start_soon(self._wait)
                    with trio.CancelScope() as scope:
                        nursery.start_soon(self._cancelled_wait, scope)
                        await trio.testing.wait_all_tasks_blocked()
                        scope.cancel()
                    await self._one_after_the_other(ways, turns)
                    counted = self.listening.statistics()
                    if counted.parked or counted.backlog:
                        next_ones.append(self.listening.accept_nowait())
            except OSError:
                assert "fail" in ways
            except trio_wsk.SocketClosedError:
                assert "close" in ways
        return next_ones

    async def _cancelled_wait(self, scope: trio.CancelScope) -> None:
        with trio.CancelScope() as mine:
            mine.cancel()
            await self.irp.wait()

        assert mine.cancelled_caught

    async def _one_after_the_other(self, ways: tuple[str, ...], turns: int | None) -> None:
        for way in ways:
            await self.happen(way)
            if turns is None:
                await trio.testing.wait_all_tasks_blocked()
            for _ in range(turns or 0):
                await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()

    def check(self) -> None:
        """It completed once, everybody was told the same, and nobody is lost."""
        irp = self.irp

        assert [irp] == self.told
        assert [irp.outcome] * 3 == self.outcomes
        assert sum(self.was_cancelled) <= 1
        if any(self.was_cancelled):
            assert Status.CANCELLED is irp.status
        for result in self.outcomes:
            if irp.status is Status.SUCCESS:
                assert irp.information is result.unwrap()
            else:
                with pytest.raises(trio_wsk.WskError) as caught:
                    result.unwrap()
                assert irp.status is caught.value.status
                assert None is irp.information


@pytest.mark.parametrize(("first", "second"), list(product(EXPECTED, repeat=2)))
@pytest.mark.parametrize("turns", [0, 1, 2, 3, None])
async def test_two_things_at_once(
    transport: ScriptedTransport, first: str, second: str, turns: int | None
) -> None:
    """
    Of two things that happen to a queued accept the first one counts, except that the pump's come
    after what is called in the same breath. Everybody is told once, and of the same. The peer that
    it did not get is there for the next accept, unless there is none any more.
    """
    race = Race(transport)
    next_ones = await race.run((first, second), turns)
    race.check()
    if turns == 0 and first in IN_THE_PUMP and second not in IN_THE_PUMP:
        assert EXPECTED[second] is race.irp.status
    elif turns in {0, None}:
        assert EXPECTED[first] is race.irp.status
    else:
        assert race.irp.status in {EXPECTED[first], EXPECTED[second]}

    given = [each for each in [race.irp.information, *next_ones] if each is not None]
    refused = sum(peer.is_refused for peer in transport.peers)

    assert len(transport.peers) == len(given) + refused
    if "arrive" in {first, second} and not {"close", "fail"} & {first, second}:
        assert 0 < len(given)

    for connection in given:
        connection.close()


async def test_completed_accept_that_nobody_looks_at_warns(transport: ScriptedTransport) -> None:
    """An Irp that is dropped with its connection leaves that open, and Python says so."""
    async with open_listening_socket(transport=transport) as listening:
        transport.arrive()
        irp = listening.queue_accept()

        assert Status.SUCCESS is irp.status

        transport.forget(transport.peers[0])
        with pytest.warns(ResourceWarning, match="unclosed"):
            del irp


async def test_irp_with_its_connection_needs_no_collector(transport: ScriptedTransport) -> None:
    """Dropping a completed Irp with its connection frees both at once: nothing is in a cycle."""
    gc.collect()
    gc.disable()
    try:
        async with open_listening_socket(transport=transport) as listening:
            irp = listening.queue_accept(on_completion=lambda _: None)
            transport.arrive()
            await irp.wait()
            await trio.testing.wait_all_tasks_blocked()
            transport.forget(transport.peers[0])
            with pytest.warns(ResourceWarning, match="unclosed"):
                del irp
    finally:
        gc.enable()


async def test_threads_are_refused(transport: ScriptedTransport) -> None:
    """Irp.cancel() from another thread raises RuntimeError and cancels nothing."""
    async with open_listening_socket(transport=transport) as listening:
        irp = listening.queue_accept()
        with pytest.raises(RuntimeError):
            await trio.to_thread.run_sync(irp.cancel)

        assert Status.PENDING is irp.status
        assert await trio.to_thread.run_sync(trio.from_thread.run_sync, irp.cancel)


async def test_routine_that_raises_for_a_failure_concerns_no_connection(
    transport: ScriptedTransport,
) -> None:
    """A routine that raises when its accept was cancelled is reported, and that is all."""
    failures: list[CallbackFailed] = []

    def observe(record: object) -> None:
        if isinstance(record, CallbackFailed):
            failures.append(record)

    def routine(irp: object) -> None:
        raise ZeroDivisionError

    async with open_listening_socket(
        transport=transport, observers=[observe, LoggingObserver(QUIET)]
    ) as listening:
        listening.queue_accept(on_completion=routine).cancel()
        bystander = listening.queue_accept()
        transport.arrive()
        connection = (await bystander.wait()).unwrap()
        await trio.testing.wait_all_tasks_blocked()

        assert [("on_completion", None)] == [
            (failure.callback, failure.remote_address) for failure in failures
        ]
        assert not connection.closed

        connection.close()


async def test_routine_of_a_failed_socket_may_look_at_it(transport: ScriptedTransport) -> None:
    """
    When the listening socket fails, each queued accept's routine runs once, in their order, and
    the accept event is told after that; whatever they try to queue is refused with the reason.
    """
    order: list[str] = []

    def routine(irp: Irp[Connection]) -> None:
        order.append(f"irp {irp.context} {irp.status.name}")
        try:
            listening.queue_accept(on_completion=routine)
        except trio_wsk.ForcedClosedError:
            order.append("refused")

    def failed(listening: ListeningSocket, error: OSError) -> None:
        order.append(f"failed {error.strerror}")

    with pytest.raises(OSError, match="broken"):  # noqa: PT012 - it comes out of the block
        async with open_listening_socket(
            transport=transport,
            dispatch=ListenDispatch(failed=failed),
            observers=[LoggingObserver(QUIET)],
        ) as listening:
            for number in range(2):
                listening.queue_accept(context=number, on_completion=routine)
            transport.fault(TransportFailedError(OSError(errno.EINVAL, "broken")))
            await trio.sleep_forever()

    assert [
        "irp 0 FILE_FORCED_CLOSED",
        "refused",
        "irp 1 FILE_FORCED_CLOSED",
        "refused",
        "failed broken",
    ] == order
