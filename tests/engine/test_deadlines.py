"""Deadlines of one length: who was given time first is due first, and one timer serves all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_wsk._engine.deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 10.0


class Timers:
    """In place of a block's timers: they are called when somebody says what time it is."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], object]]] = []
        self.most = 0

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        """Keep a callback for later."""
        self.due.append((when, callback))
        self.most = max(self.most, len(self.due))

    def run(self) -> None:
        """Call those whose time has come."""
        now = trio.current_time()
        ripe = [callback for when, callback in self.due if when <= now]
        self.due = [each for each in self.due if each[0] > now]
        for callback in ripe:
            callback()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(0, 3)),
        st.tuples(st.just("forget"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.integers(1, 12)),
    ),
    max_size=30,
)


@given(steps=STEPS)
def test_each_has_its_time_and_no_more(steps: list[tuple[str, int]]) -> None:
    """Whatever is started, started again and forgotten: each expires when it is due, once."""

    async def walk() -> None:
        timers = Timers()
        expired: list[tuple[int, float]] = []
        deadlines: Deadlines[int] = Deadlines(
            timers.call_at, SECONDS, lambda thing: expired.append((thing, trio.current_time()))
        )
        model: dict[int, float] = {}
        expected: list[tuple[int, float]] = []
        for step, number in steps:
            if step == "start":
                deadlines.start(number)
                model[number] = trio.current_time() + SECONDS
            elif step == "forget":
                deadlines.forget(number)
                model.pop(number, None)
            else:
                for _ in range(number):
                    clock.jump(1)
                    timers.run()
                    now = trio.current_time()
                    due = [thing for thing, end in model.items() if end <= now]
                    expected += [(thing, now) for thing in due]
                    for thing in due:
                        del model[thing]
            assert len(model) == len(deadlines)
            assert set(model) == {thing for thing in range(4) if thing in deadlines}
            assert sorted(expected) == sorted(expired)
        assert timers.most <= 1

    clock = MockClock()
    trio.run(walk, clock=clock)


def test_who_is_given_time_again_goes_to_the_end() -> None:
    """So nobody waits behind one that came before and has longer."""

    async def walk() -> None:
        timers = Timers()
        expired: list[tuple[str, float]] = []
        deadlines: Deadlines[str] = Deadlines(
            timers.call_at, SECONDS, lambda thing: expired.append((thing, trio.current_time()))
        )
        began = trio.current_time()
        deadlines.start("first")
        deadlines.start("second")
        clock.jump(SECONDS / 2)
        deadlines.start("first")
        for _ in range(2):
            clock.jump(SECONDS / 2)
            timers.run()

        ends = [(thing, end - began) for thing, end in expired]
        assert [("second", SECONDS), ("first", 1.5 * SECONDS)] == ends

    clock = MockClock()
    trio.run(walk, clock=clock)


def test_what_expires_may_start_and_forget_others() -> None:
    """``expired`` may do with the deadlines what it likes."""

    async def walk() -> None:
        timers = Timers()
        expired: list[str] = []

        def expire(thing: str) -> None:
            expired.append(thing)
            deadlines.forget("second")
            if len(expired) < 2:
                deadlines.start(thing)

        deadlines = Deadlines(timers.call_at, SECONDS, expire)
        deadlines.start("first")
        deadlines.start("second")
        clock.jump(SECONDS)
        timers.run()
        assert ["first"] == expired
        assert 1 == len(deadlines)
        clock.jump(SECONDS)
        timers.run()
        assert ["first", "first"] == expired
        assert 0 == len(deadlines)

    clock = MockClock()
    trio.run(walk, clock=clock)


def test_what_is_started_again_makes_no_other_one_late() -> None:
    """What expires and is given time again sets no timer past the next one's end."""

    async def walk() -> None:
        timers = Timers()
        expired: list[tuple[str, float]] = []

        def expire(thing: str) -> None:
            expired.append((thing, trio.current_time() - began))
            if thing == "again":
                deadlines.start(thing)

        deadlines = Deadlines(timers.call_at, SECONDS, expire)
        began = trio.current_time()
        deadlines.start("again")
        clock.jump(1)
        deadlines.start("once")
        for _ in range(int(SECONDS) * 2):
            clock.jump(1)
            timers.run()

        assert [("again", SECONDS), ("once", SECONDS + 1), ("again", 2 * SECONDS)] == expired
        assert timers.most <= 1

    clock = MockClock()
    trio.run(walk, clock=clock)


def test_one_whose_end_raises_takes_no_other_ones_time() -> None:
    """An error of ``expired`` goes to whoever calls the timers; the next deadline comes."""

    async def walk() -> None:
        timers = Timers()
        expired: list[str] = []

        def expire(thing: str) -> None:
            expired.append(thing)
            if thing == "bad":
                raise ValueError(thing)

        deadlines = Deadlines(timers.call_at, SECONDS, expire)
        deadlines.start("bad")
        clock.jump(1)
        deadlines.start("good")
        clock.jump(SECONDS - 1)
        with pytest.raises(ValueError, match="bad"):
            timers.run()
        clock.jump(1)
        timers.run()

        assert ["bad", "good"] == expired

    clock = MockClock()
    trio.run(walk, clock=clock)
