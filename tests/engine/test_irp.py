"""`Irp`: one completion, whatever happens."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import sys
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import outcome
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_wsk
from tests.helpers.support import FaultyTransport, connect_now, until
from trio_wsk import Connection, Irp, Status, open_listening_socket
from trio_wsk._engine.callers import Home
from trio_wsk._engine.irp import complete, fail
from trio_wsk.transports._contract import TransportFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_wsk import ListeningSocket

HOST = "127.0.0.1"


class Operation:
    """Something that an Irp stands for, with nothing behind it."""

    def __init__(self, on_completion: Any = None) -> None:
        self.is_queued = True
        self.finished: list[Irp[int]] = []
        home: Any = None  # outside of a run, where an Irp can be looked at and not be used
        if trio.lowlevel.in_trio_run():
            home = Home()
        self.irp: Irp[int] = Irp(
            home=home,
            withdraw=self._withdraw,
            finished=self.finished.append,
            context="context",
            on_completion=on_completion,
        )

    def _withdraw(self, irp: Irp[int]) -> bool:
        assert irp is self.irp

        was_queued, self.is_queued = self.is_queued, False
        return was_queued

    def succeed(self) -> bool:
        """Complete with a 7."""
        self.is_queued = False
        return complete(self.irp, 7)

    def break_down(self) -> bool:
        """Fail by force."""
        self.is_queued = False
        return fail(self.irp, trio_wsk.ForcedClosedError("by force"))

    def close(self) -> bool:
        """Cancel by closing."""
        self.is_queued = False
        return fail(self.irp, trio_wsk.OperationCancelledError("closed"))


# --- By itself --------------------------------------------------------------------------------


def test_pending_irp_has_no_outcome() -> None:
    """Until it completes an Irp is PENDING and has neither information nor outcome."""
    irp = Operation().irp

    assert Status.PENDING is irp.status
    assert None is irp.information
    assert None is irp.outcome
    assert "context" == irp.context
    assert "PENDING" in repr(irp)


async def test_success() -> None:
    """A completed Irp has what it brought, as information and as a Value."""
    operation = Operation()

    assert operation.succeed()
    assert Status.SUCCESS is operation.irp.status
    assert 7 == operation.irp.information
    assert outcome.Value(7) == operation.irp.outcome
    assert outcome.Value(7) == await operation.irp.wait()
    assert "SUCCESS: 7" in repr(operation.irp)


async def test_failure_is_an_outcome_and_not_raised() -> None:
    """A failed Irp has its error's status, no information, and an Error that wait() returns."""
    operation = Operation()

    assert operation.break_down()
    assert Status.FILE_FORCED_CLOSED is operation.irp.status
    assert None is operation.irp.information

    result = await operation.irp.wait()

    assert isinstance(result, outcome.Error)
    with pytest.raises(trio_wsk.ForcedClosedError, match="by force"):
        result.unwrap()


def test_outcome_is_fresh_at_each_reading() -> None:
    """Unwrapping one outcome does not use it up for whoever reads the next."""
    operation = Operation()
    operation.succeed()
    for _ in range(3):
        result = operation.irp.outcome

        assert result is not None
        assert 7 == result.unwrap()

    failed = Operation()
    failed.break_down()
    for _ in range(3):
        result = failed.irp.outcome

        assert result is not None
        with pytest.raises(trio_wsk.ForcedClosedError):
            result.unwrap()


async def test_cancel_takes_it_back_once() -> None:
    """cancel() is True while the operation is queued, and completes it with CANCELLED."""
    operation = Operation()

    assert operation.irp.cancel()
    assert not operation.irp.cancel()
    assert Status.CANCELLED is operation.irp.status
    with pytest.raises(trio_wsk.OperationCancelledError):
        (await operation.irp.wait()).unwrap()


async def test_cancel_comes_too_late() -> None:
    """cancel() is False when the operation has been served, and what it brings is not lost."""
    operation = Operation()
    operation.is_queued = False  # taken from the queue, not completed yet

    assert not operation.irp.cancel()
    assert Status.PENDING is operation.irp.status
    assert operation.succeed()
    assert not operation.irp.cancel()
    assert 7 == operation.irp.information


ENDINGS = ["succeed", "break_down", "close", "cancel"]


@given(st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=6))
def test_first_completion_is_the_only_one(endings: list[str]) -> None:
    """In any order of endings the first one counts, and the routine is called for it alone."""

    async def main() -> None:
        operation = Operation(on_completion=print)
        answers = [
            getattr(operation.irp if ending == "cancel" else operation, ending)()
            for ending in endings
        ]

        assert [True] + [False] * (len(endings) - 1) == answers
        assert [operation.irp] == operation.finished

    trio.run(main)


async def test_many_may_wait() -> None:
    """Any number of tasks wait, before and after; each gets the outcome."""
    operation = Operation()
    results: list[outcome.Outcome[int]] = []

    async def wait() -> None:
        results.append(await operation.irp.wait())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        operation.succeed()
        nursery.start_soon(wait)

    assert [outcome.Value(7)] * 6 == results


async def test_cancelling_a_wait_leaves_it_queued() -> None:
    """A cancelled wait changes nothing: others wait on, and the operation completes."""
    operation = Operation()
    with trio.move_on_after(0) as scope:
        await operation.irp.wait()

    assert scope.cancelled_caught
    assert Status.PENDING is operation.irp.status
    assert operation.is_queued

    async with trio.open_nursery() as nursery:
        nursery.start_soon(operation.irp.wait)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await operation.irp.wait()
        operation.succeed()


async def test_wait_is_a_checkpoint() -> None:
    """wait() is a checkpoint, also when the Irp has completed already."""
    operation = Operation()
    operation.succeed()
    with trio.testing.assert_checkpoints():
        await operation.irp.wait()
    with trio.CancelScope() as scope:
        scope.cancel()
        await operation.irp.wait()

    assert scope.cancelled_caught


def test_cancel_from_outside_trio_is_refused() -> None:
    """cancel() outside a Trio run raises and changes nothing."""
    operation = Operation()
    with pytest.raises(RuntimeError):
        operation.irp.cancel()

    assert Status.PENDING is operation.irp.status


def test_completed_irp_keeps_nothing_else_alive() -> None:
    """Once it has completed, an Irp goes without the garbage collector."""
    gc.disable()
    try:
        operation = Operation()
        operation.succeed()
        operation.finished.clear()
        watched = weakref.ref(operation)
        del operation

        assert None is watched()
    finally:
        gc.enable()


# --- As a queued accept -----------------------------------------------------------------------


@pytest.fixture
async def listening(readiness: str) -> AsyncIterator[ListeningSocket]:
    """A listening socket over a transport that can be made to fail."""
    with suppress(OSError):  # a test may have made it fail
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST), observers=[_Quiet()]
        ) as listening:
            yield listening


class _Quiet(trio_wsk.observers.LoggingObserver):
    def __call__(self, record: object) -> None:
        """Say nothing."""


class Ways:
    """The ways in which a queued accept can end."""

    def __init__(self, listening: ListeningSocket, irp: Irp[Connection]) -> None:
        self.listening = listening
        self.irp = irp
        self.clients: list[trio.SocketStream] = []

    async def arrive(self) -> None:
        """A client comes, and the kernel says so."""
        with suppress(ConnectionError):  # it may be closed already
            self.clients.append(connect_now(self.listening.local_addresses[0]))

    async def cancel(self) -> None:
        """Whoever queued it takes it back."""
        self.irp.cancel()

    async def close(self) -> None:
        """The listening socket is closed."""
        await self.listening.aclose()

    async def fail(self) -> None:
        """The listening socket fails."""
        transport = self.listening._stages.transport  # noqa: SLF001 - it is made to fail
        assert isinstance(transport, FaultyTransport)
        transport.faults.append(
            TransportFailedError(OSError(errno.EINVAL, os.strerror(errno.EINVAL)))
        )
        with suppress(trio_wsk.WskError):
            self.listening.resume()  # has it look


EXPECTED = {
    "arrive": Status.SUCCESS,
    "cancel": Status.CANCELLED,
    "close": Status.CANCELLED,
    "fail": Status.FILE_FORCED_CLOSED,
}


async def _run_ways(names: tuple[str, ...], delays: tuple[int, ...]) -> None:
    """Let the ways happen, each after some turns, and see that there is one completion."""
    completed: list[Irp[Connection]] = []
    ways = None
    before = 0
    try:
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST), observers=[_Quiet()]
        ) as listening:
            irp = listening.queue_accept(on_completion=completed.append)
            ways = Ways(listening, irp)

            async def go(name: str, delay: int) -> None:
                for _ in range(delay):
                    await trio.lowlevel.checkpoint()
                await getattr(ways, name)()

            async with trio.open_nursery() as nursery:
                for name, delay in zip(names, delays):  # noqa: B905 - as many
                    nursery.start_soon(go, name, delay)
            with trio.move_on_after(1):
                await irp.wait()
            before = len(completed)
    except OSError:
        assert "fail" in names
    assert ways is not None
    assert [ways.irp] == completed
    assert before <= 1
    assert ways.irp.status in {EXPECTED[name] for name in names}
    connection = ways.irp.information

    assert (connection is not None) == (ways.irp.status is Status.SUCCESS)

    if connection is not None:
        await connection.aclose()
    for client in ways.clients:
        await client.aclose()


@pytest.mark.usefixtures("readiness")
@pytest.mark.parametrize("name", EXPECTED)
async def test_each_way_completes_once(name: str) -> None:
    """Arrival, cancel, close and forced close each complete a queued accept once."""
    await _run_ways((name,), (0,))


@pytest.mark.usefixtures("readiness")
@pytest.mark.parametrize("names", list(itertools.permutations(EXPECTED, 2)))
@pytest.mark.parametrize("delay", range(6))
async def test_each_race_of_two_completes_once(names: tuple[str, ...], delay: int) -> None:
    """Whichever of two comes first, by however little: there is one completion, told once."""
    await _run_ways(names, (0, delay))


@pytest.mark.usefixtures("readiness")
@pytest.mark.parametrize("names", list(itertools.permutations(EXPECTED)))
async def test_all_at_once_complete_once(names: tuple[str, ...]) -> None:
    """All four at once: still one completion."""
    await _run_ways(names, (2, 1, 1, 0))


async def test_cancelled_accept_loses_no_connection(listening: ListeningSocket) -> None:
    """An accept that is cancelled as its client comes: the client is the next one's."""
    irp = listening.queue_accept()
    client = connect_now(listening.local_addresses[0])

    assert irp.cancel()

    connection = await listening.accept()

    assert client.socket.getsockname() == connection.remote_address.sockaddr

    await connection.aclose()
    await client.aclose()


async def test_requeueing_in_the_routine_does_not_recurse(listening: ListeningSocket) -> None:
    """
    A completion routine that queues the next accept, 2000 times over, needs no more stack than
    one that doesn't: neither when each completes at once nor when it has to wait.
    """
    rounds = 0
    depths = set()
    count = 2000

    def again(irp: Irp[Connection]) -> None:
        nonlocal rounds
        rounds += 1
        depth, frame = 0, sys._getframe()  # noqa: SLF001 - inspect.stack() reads files
        while frame.f_back is not None:
            frame, depth = frame.f_back, depth + 1
        depths.add(depth)
        connection = irp.information
        if connection is not None:
            connection.abort()
        if rounds < count:
            following = irp.context
            assert isinstance(following, list)
            following.append(listening.queue_accept(context=following, on_completion=again))
            if rounds % 2:
                following[-1].cancel()  # completes on this very stack

    irps: list[Irp[Connection]] = []
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(250)
    try:
        irps.append(listening.queue_accept(context=irps, on_completion=again))
        while rounds < count:
            client = connect_now(listening.local_addresses[0])
            client.socket.close()
            await trio.lowlevel.checkpoint()
    finally:
        sys.setrecursionlimit(limit)

    assert count == rounds == len(irps)
    assert all(irp.status is not Status.PENDING for irp in irps)
    assert 1 == len(depths)


async def test_routine_is_not_called_on_the_callers_stack(listening: ListeningSocket) -> None:
    """Neither queue_accept() nor cancel() calls the routine before it returns; the pump does."""
    called: list[Irp[Connection]] = []
    client = connect_now(listening.local_addresses[0])
    await until(lambda: listening.statistics().backlog != 0)
    first = listening.queue_accept(on_completion=called.append)
    second = listening.queue_accept(on_completion=called.append)
    second.cancel()

    assert [] == called
    assert Status.CANCELLED is second.status

    await until(lambda: len(called) == 2)

    assert {first, second} == set(called)

    connection = first.information
    assert connection is not None
    await connection.aclose()
    await client.aclose()


@pytest.mark.usefixtures("readiness")
@pytest.mark.parametrize("goes_well", [True, False])
async def test_routine_that_raises(goes_well: bool) -> None:  # noqa: FBT001 - a parameter
    """What a routine raises is reported, and resets the connection that it was about."""
    reported: list[Any] = []

    def observe(record: Any) -> None:
        reported.append(record)

    observe.records = {trio_wsk.observers.CallbackFailed}  # type: ignore[attr-defined]  # any will do

    def routine(irp: object) -> None:
        raise ZeroDivisionError

    async with open_listening_socket(0, host=HOST, observers=[observe, _Quiet()]) as listening:
        irp = listening.queue_accept(on_completion=routine)
        client = connect_now(listening.local_addresses[0]) if goes_well else None
        if client is None:
            irp.cancel()
        await until(lambda: reported)

        assert [ZeroDivisionError] == [type(record.error) for record in reported]
        assert "on_completion" == reported[0].callback

        if client is not None:
            assert irp.information is not None
            assert irp.information.closed
            assert client.socket.getsockname() == reported[0].remote_address.sockaddr

            await client.aclose()
        other = connect_now(listening.local_addresses[0])
        await (await listening.accept()).aclose()
        await other.aclose()


@pytest.mark.usefixtures("readiness")
async def test_routines_of_a_closing_block_are_called() -> None:
    """Leaving the block completes what is queued, and its routines have run by then."""
    completed: list[Irp[Connection]] = []
    async with open_listening_socket(0, host=HOST) as listening:
        irps = [listening.queue_accept(on_completion=completed.append) for _ in range(200)]
        assert not irps[0].cancel() or irps[0].status is Status.CANCELLED

    assert irps == completed
    assert {Status.CANCELLED} == {irp.status for irp in irps}


@pytest.mark.usefixtures("readiness")
async def test_routine_that_queues_while_closing_is_told() -> None:
    """A routine that queues again when the socket is closed gets SocketClosedError."""
    errors: list[BaseException] = []
    async with open_listening_socket(0, host=HOST) as listening:

        def again(irp: Irp[Connection]) -> None:
            try:
                listening.queue_accept(on_completion=again)
            except trio_wsk.SocketClosedError as error:
                errors.append(error)

        listening.queue_accept(on_completion=again)

    assert 1 == len(errors)


@pytest.mark.usefixtures("readiness")
async def test_routine_that_ends_the_process_ends_the_block() -> None:
    """SystemExit from a routine goes on, and the other routines are called all the same."""
    completed: list[Irp[Connection]] = []

    def leave(irp: object) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):  # noqa: PT012 - whichever of them it comes out of
        async with open_listening_socket(0, host=HOST) as listening:
            first = listening.queue_accept(on_completion=leave)
            listening.queue_accept(on_completion=completed.append)
            first.cancel()
            await trio.sleep_forever()

    assert 1 == len(completed)


async def test_closing_at_once_runs_no_routine_on_the_callers_stack() -> None:
    """
    A completion routine runs in the pump even if the socket is closed before anything
    else has had its turn.
    """
    tasks: list[trio.lowlevel.Task] = []

    async with open_listening_socket(0, host="127.0.0.1") as listening:
        listening.queue_accept(on_completion=lambda _: tasks.append(trio.lowlevel.current_task()))
        await listening.aclose()

        assert 1 == len(tasks)
        assert trio.lowlevel.current_task() is not tasks[0]
