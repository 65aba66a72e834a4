"""What a task is woken with: an outcome that is used again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_wsk._engine.woken import WOKEN

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
