"""What a task says to Trio when it waits, and what it is woken with: made once, and used again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import outcome
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_wsk._engine.traps import WOKEN, let_others_run, parked, trap_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator


async def test_many_tasks_are_woken_with_the_same() -> None:
    """Trio takes it for an outcome, for any number of tasks, and each is told nothing."""
    tasks: list[trio.lowlevel.Task] = []
    told: list[object] = []

    async def wait() -> None:
        tasks.append(trio.lowlevel.current_task())
        told.append(await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        for task in tasks:
            trio.lowlevel.reschedule(task, WOKEN)

    assert [None] * 3 == told


async def test_it_is_an_outcome_for_generators_too() -> None:
    """It does what outcome's own do for whoever is not Trio: a generator goes on with None."""

    def generate() -> Generator[str, None, None]:
        yield "first"
        yield "second"

    async def generate_async() -> AsyncGenerator[str, None]:
        yield "first"
        yield "second"

    generator = generate()
    async_generator = generate_async()
    next(generator)
    await anext(async_generator)

    for _ in range(2):
        WOKEN.unwrap()
    assert "second" == WOKEN.send(generator)
    assert "second" == await WOKEN.asend(async_generator)
    await async_generator.aclose()


async def test_one_trap_is_for_one_wait_after_the_other() -> None:
    """
    What a task waits with serves again after a wait that was woken, and after one that was
    cancelled, of which the abort function hears each time.
    """
    aborted = 0
    task: trio.lowlevel.Task | None = None

    def _abort(_: object) -> trio.lowlevel.Abort:
        nonlocal aborted
        aborted += 1
        return trio.lowlevel.Abort.SUCCEEDED

    async def _wake() -> None:
        await wait_all_tasks_blocked()
        assert task is not None
        trio.lowlevel.reschedule(task, WOKEN)

    trap = trap_of(_abort)
    for round_number in range(1, 4):
        async with trio.open_nursery() as nursery:
            task = trio.lowlevel.current_task()
            nursery.start_soon(_wake)
            await parked(trap)
        with trio.CancelScope() as scope:
            scope.cancel()
            await parked(trap)

        assert scope.cancelled_caught
        assert round_number == aborted


async def test_who_is_woken_with_an_error_gets_it() -> None:
    """What a parked task is woken with is unwrapped, if it is more than a call to look again."""
    task = trio.lowlevel.current_task()

    async def _wake() -> None:
        await wait_all_tasks_blocked()
        trio.lowlevel.reschedule(task, outcome.Error(LookupError()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_wake)
        with pytest.raises(LookupError):
            await parked(trap_of(lambda _: trio.lowlevel.Abort.FAILED))


async def test_letting_others_run_is_that_and_no_cancel_point() -> None:
    """Others run meanwhile, once; a cancellation waits for the next cancel point."""
    turns = 0

    async def _take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_take_turns)
        for _ in range(10):
            await let_others_run()
        nursery.cancel_scope.cancel()
        await let_others_run()
        reached = True

    assert reached
    assert 9 <= turns <= 11
