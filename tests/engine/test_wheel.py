"""Deadlines of any length: each comes when it is due, and those due together come at once."""

from __future__ import annotations

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.engine.test_deadlines import Timers
from trio_wsk._engine.wheel import GRAIN, MOST_PER_TURN, Wheel

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(0, 3), st.floats(0, 12)),
        st.tuples(st.just("forget"), st.integers(0, 3), st.just(0.0)),
        st.tuples(st.just("wait"), st.just(0), st.floats(0, 12)),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(steps=STEPS)
def test_each_has_its_time_and_hardly_more(steps: list[tuple[str, int, float]]) -> None:
    """
    Whatever is started, started again and forgotten: each expires once, never before it is due,
    and no more than a grain after it.
    """

    async def walk() -> None:
        timers = Timers()
        expired: list[tuple[int, float]] = []
        wheel: Wheel[int] = Wheel(
            timers.call_at, lambda thing: expired.append((thing, trio.current_time()))
        )
        due: dict[int, float] = {}
        for deed, thing, seconds in steps:
            if deed == "start":
                wheel.start(thing, seconds)
                due[thing] = trio.current_time() + seconds
            elif deed == "forget":
                wheel.forget(thing)
                due.pop(thing, None)
            else:
                await pass_by(timers, seconds)
            for gone, when in expired:
                assert due.pop(gone) <= when + 1e-9
            expired.clear()
            assert len(due) == len(wheel)
            assert all(trio.current_time() < when + GRAIN + 1e-9 for when in due.values())

    trio.run(walk, clock=MockClock(autojump_threshold=0))


async def pass_by(timers: Timers, seconds: float) -> None:
    """Let time pass, and have each timer come when it is due."""
    until = trio.current_time() + seconds
    while timers.due and (first := min(when for when, _ in timers.due)) <= until:
        await trio.sleep_until(first)
        timers.run()
    await trio.sleep_until(until)


async def test_what_is_due_together_has_one_timer(autojump_clock: MockClock) -> None:
    """However many things there are, there is one timer for each quarter of a second at most."""
    timers = Timers()
    wheel: Wheel[int] = Wheel(timers.call_at, lambda _: None)
    for thing in range(1000):
        await trio.sleep(0.001)
        wheel.start(thing, 60)

    assert 1000 == len(wheel)
    assert len(timers.due) <= 1 / GRAIN + 1


async def test_others_have_their_turn_between_many(autojump_clock: MockClock) -> None:
    """What is due at once is done in portions, and all of it at its time."""
    timers = Timers()
    done: list[int] = []
    wheel: Wheel[int] = Wheel(timers.call_at, done.append)
    count = 2 * MOST_PER_TURN + 1
    for thing in range(count):
        wheel.start(thing, 1)

    await trio.sleep(1 + GRAIN)
    portions = []
    while len(wheel):
        before = len(done)
        timers.run()
        portions.append(len(done) - before)

    assert [MOST_PER_TURN, MOST_PER_TURN, 1] == portions
    assert list(range(count)) == done


async def test_what_expires_may_forget_another_and_start_again(autojump_clock: MockClock) -> None:
    """From inside the call anything may be done; what is started again comes in a later turn."""
    timers = Timers()
    done: list[int] = []

    def expired(thing: int) -> None:
        done.append(thing)
        wheel.forget(1)
        if len(done) == 1:
            wheel.start(0, 0)

    wheel: Wheel[int] = Wheel(timers.call_at, expired)
    wheel.start(0, 1)
    wheel.start(1, 1)
    await trio.sleep(1)
    timers.run()
    assert [0] == done

    await trio.sleep(GRAIN)
    timers.run()
    assert [0, 0] == done
    assert not timers.due
