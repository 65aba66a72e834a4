"""The pump: what is posted is done in order, and nobody is kept from his turn."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import pairwise

import trio
import trio.testing

from trio_wsk._engine.choice import open_pump_readiness
from trio_wsk._engine.pump import WORK_PER_TURN, Life, Pump


async def test_posted_work_leaves_other_tasks_their_turn() -> None:
    """
    However much is posted, and although all of it is done in order, another task has its turn
    after `WORK_PER_TURN` pieces: two turns of the pump may lie between two of its own.
    """
    pump = Pump([], Counter())
    done: list[int] = []
    turns = [0]
    async with trio.open_nursery() as nursery:
        pump.start(nursery, open_pump_readiness(nursery.start_soon))
        for number in range(10 * WORK_PER_TURN):
            pump.post(partial(done.append, number))
        while len(done) < 10 * WORK_PER_TURN:
            await trio.lowlevel.checkpoint()
            turns.append(len(done))
        nursery.cancel_scope.cancel()
    pump.end()

    assert list(range(10 * WORK_PER_TURN)) == done
    assert 2 * WORK_PER_TURN >= max(after - before for before, after in pairwise(turns))


async def test_pump_goes_through_its_life_in_one_direction() -> None:
    """What is posted waits for a pump's start, wakes a parked one, and is nothing at its end."""
    pump = Pump([], Counter())
    done: list[Life] = []

    def note() -> None:
        done.append(pump.life)

    pump.post(note)

    assert Life.NEW is pump.life

    async with trio.open_nursery() as nursery:
        pump.start(nursery, open_pump_readiness(nursery.start_soon))
        await pump.settle()
        await trio.testing.wait_all_tasks_blocked()

        assert Life.PARKED is pump.life

        pump.post(note)
        await pump.settle()
        nursery.cancel_scope.cancel()

    assert (Life.STOPPED, False) == (pump.life, pump.ended)

    pump.post(note)
    pump.end()
    pump.post(note)
    pump.end()

    assert [Life.BUSY, Life.BUSY, Life.OVER] == done
    assert pump.ended
