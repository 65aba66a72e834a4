"""Tests of `trio_wsk.transports.linux._alarms`."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from trio_wsk.transports.linux._alarms import Alarms


class Thing:
    """What has an alarm."""

    def __init__(self) -> None:
        self.alarm = 0


THINGS = 4
times = st.integers(0, 9).map(float)
settings = st.tuples(st.integers(0, THINGS - 1), times | st.none())


@given(steps=st.lists(settings, max_size=400), until=times)
def test_each_alarm_rings_once_in_its_time(
    steps: list[tuple[int, float | None]], until: float
) -> None:
    """
    However often alarms are set anew and called off, each thing rings once, when it was last told,
    in the order of the times; and the heap doesn't keep all alarms that there ever were.
    """
    things = [Thing() for _ in range(THINGS)]
    alarms: Alarms[Thing] = Alarms()
    model: dict[int, float] = {}
    for number, when in steps:
        if when is None:
            alarms.call_off(things[number])
            model.pop(number, None)
        else:
            alarms.set(things[number], when)
            model[number] = when

        assert min(model.values(), default=math.inf) == alarms.next
        assert len(alarms._heap) <= 64 + 2 * THINGS + 1  # noqa: SLF001 -- the bound is the claim

    rung = []
    while (thing := alarms.ring(until)) is not None:
        rung.append(things.index(thing))

    assert sorted(number for number, when in model.items() if when <= until) == sorted(rung)
    assert sorted(model[number] for number in rung) == [model[number] for number in rung]
    assert [number not in rung and number in model for number in range(THINGS)] == [
        bool(thing.alarm) for thing in things
    ]


def test_alarms_that_were_called_off_are_cleaned_up_after() -> None:
    """Of those that were called off there are never more than of those that are set, and a few."""
    crowd = [Thing() for _ in range(200)]
    alarms: Alarms[Thing] = Alarms()
    for _ in range(20):
        for number, thing in enumerate(crowd):
            alarms.set(thing, float(number))
    while alarms.ring(99.0) is not None:
        pass
    for thing in crowd[100:190] * 20:
        alarms.call_off(thing)
        alarms.set(thing, 300.0)

        assert len(alarms._heap) <= 64 + 2 * 100 + 1  # noqa: SLF001 -- the bound is the claim

    for thing in crowd[100:190]:
        alarms.call_off(thing)

    assert len(alarms._heap) <= 64 + 2 * 10 + 1  # noqa: SLF001 -- the bound is the claim
    assert crowd[190:] == [alarms.ring(200.0) for _ in range(10)]
    assert alarms.ring(999.0) is None
