"""`History`: sums that never go back, whoever is replaced, and the last minutes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trio_wsk._looking.history import LATELY, History
from trio_wsk._looking.readings import (
    LEVELS,
    Place,
    Reading,
    reading_of,
    readings_of,
    silent_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_wsk._looking.readings import Count

ACCEPTED: Count = ("accepted", "")
BANNED: Count = ("rejected", "banned")
ONE, TWO = Place(1, "web"), Place(2, "web")


def reading(
    counts: Mapping[Count, float], *, process: int | None = None, is_open: int = 0
) -> Reading:
    """Make a reading."""
    levels = {**dict.fromkeys(LEVELS, 0), "open": is_open}
    return Reading(state="listening", process=process, levels=levels, counts=counts)


# --- Readings ---------------------------------------------------------------------------------

STATISTICS: Mapping[str, Any] = {
    "open_connections": 3,
    "lingering": 1,
    "served": 7,
    "handler_failures": 2,
    "handshake_failures": {"timeout": 4},
    "listening": {
        "state": "paused",
        "accepted": 20,
        "parked": 5,
        "pending": 6,
        "rejected": {"banned": 8},
        "dropped": {"closed": 9},
        "aborted": {"reset": 10},
        "callback_failures": {"receive": 11, "handler": 1},
        "accept_errors": {"EMFILE": 12},
    },
}


def test_reading_has_what_statistics_say() -> None:
    """What `statistics()` counts is in a reading by what it is and why."""
    read = reading_of(STATISTICS, {"slow": {"waits": 4, "waited": 1.5}}, process=7)

    assert ("paused", 7) == (read.state, read.process)
    assert {"open": 3, "pending": 6, "parked": 5, "lingering": 1} == read.levels
    assert {
        ACCEPTED: 20,
        ("ended", ""): 7,
        ("failed", "handler"): 3,
        ("failed", "receive"): 11,
        ("handshake", "timeout"): 4,
        BANNED: 8,
        ("dropped", "closed"): 9,
        ("aborted", "reset"): 10,
        ("accept", "EMFILE"): 12,
        ("waits", "slow"): 4,
        ("waited", "slow"): 1.5,
    } == read.counts


def test_readings_of_workers() -> None:
    """
    Each listener of each worker that has answered has a reading, with its process and its rules;
    where there is no supervisor, the one process has the number 0. Who has not answered is silent.
    """
    rules = {"web": {"slow": {"waits": 4}}}
    listed: list[dict[str, Any]] = [
        {"worker": 1, "process": 71, "statistics": {"web": STATISTICS, "mail": {}}, "rules": rules},
        {"worker": 2, "process": 72, "statistics": None, "rules": None},
        {"worker": None, "process": 73, "statistics": {"web": {}}, "rules": {}},
    ]
    read = readings_of(listed)

    assert [Place(1, "web"), Place(1, "mail"), Place(0, "web")] == list(read)
    assert [71, 71, 73] == [each.process for each in read.values()]
    assert (4, 3) == (read[ONE].counts["waits", "slow"], read[ONE].levels["open"])
    assert [2] == silent_of(listed)


def test_reading_of_an_older_server() -> None:
    """A field that a server does not know has counted nothing."""
    read = reading_of({})

    assert "unknown" == read.state
    assert {0} == {*read.counts.values(), *read.levels.values()}


# --- What has happened ------------------------------------------------------------------------


def test_first_readings_say_nothing_of_rates() -> None:
    """What was counted before anybody looked is in the sums, and happened at no known time."""
    history = History()
    point = history.add(100.0, {ONE: reading({ACCEPTED: 50, BANNED: 5}, is_open=4)})

    assert point.rate("accepted") is None
    assert (50, 4) == (history.totals[ACCEPTED], point.levels["open"])
    assert [0.0] == [each.rate for each in history.reasons()]
    assert [0.0] == [each.accepted_rate for each in history.rows()]


def test_rates_are_what_was_counted_since() -> None:
    """What happened between two readings, at all places, is divided by the seconds between."""
    history = History()
    history.add(100.0, {ONE: reading({ACCEPTED: 50, BANNED: 5}), TWO: reading({ACCEPTED: 9})})
    point = history.add(
        104.0, {ONE: reading({ACCEPTED: 60, BANNED: 7}), TWO: reading({ACCEPTED: 11})}
    )

    assert (3.0, 0.5) == (point.rate("accepted"), point.rate("rejected"))
    assert [2.5, 0.5] == [each.accepted_rate for each in history.rows()]
    assert [("rejected", "banned", 7, 0.5)] == [
        (each.what, each.why, each.total, each.rate) for each in history.reasons()
    ]


def test_replaced_process_begins_at_nothing() -> None:
    """
    A process that has counted less than before, or has another number, or has lost a reason, is
    another one: all that it has counted is new.
    """
    history = History()
    history.add(1.0, {ONE: reading({ACCEPTED: 50}), TWO: reading({ACCEPTED: 50}, process=7)})
    point = history.add(2.0, {ONE: reading({ACCEPTED: 3}), TWO: reading({ACCEPTED: 60}, process=8)})
    assert (63.0, 163) == (point.rate("accepted"), history.totals[ACCEPTED])

    history.add(3.0, {ONE: reading({ACCEPTED: 3, BANNED: 1})})
    point = history.add(4.0, {ONE: reading({ACCEPTED: 4})})
    assert 4.0 == point.rate("accepted")


def test_who_was_silent_is_counted_once() -> None:
    """A process that gave no reading for a while gives what it has counted since its last one."""
    history = History()
    history.add(1.0, {ONE: reading({ACCEPTED: 50}), TWO: reading({ACCEPTED: 10})})
    history.add(2.0, {ONE: reading({ACCEPTED: 50})})
    assert [ONE] == [each.place for each in history.rows()]

    point = history.add(3.0, {ONE: reading({ACCEPTED: 50}), TWO: reading({ACCEPTED: 12})})
    assert (2.0, 62) == (point.rate("accepted"), history.totals[ACCEPTED])


def test_what_happens_now_comes_first() -> None:
    """Reasons are in the order of how often they come lately, then of how often they came."""
    history = History()
    why = {("rejected", "old"): 90, ("rejected", "older"): 99, ("rejected", "new"): 1}
    history.add(1.0, {ONE: reading(why)})
    history.add(2.0, {ONE: reading({**why, ("rejected", "new"): 3})})
    assert ["new", "older", "old"] == [each.why for each in history.reasons()]

    history.add(2.0 + LATELY, {ONE: reading({**why, ("rejected", "new"): 3})})
    assert ["older", "old", "new"] == [each.why for each in history.reasons()]


def test_slowest_rules_are_those_of_the_last_minute() -> None:
    """Of each rule that was awaited in the last minute it is said how long a wait was."""

    def waits(fast: int, slow: int) -> Reading:
        counted = {"fast": (fast, fast / 10), "plain": (0, 0.0), "slow": (slow, slow * 2.0)}
        rules = {name: {"waits": each[0], "waited": each[1]} for name, each in counted.items()}
        return reading_of({}, rules)

    history = History()
    history.add(1.0, {ONE: waits(1000, 1000)})
    assert [] == history.waits()

    history.add(11.0, {ONE: waits(1004, 1003)})
    assert [("slow", 3, 2.0), ("fast", 4, pytest.approx(0.1))] == [
        (each.rule, each.waits, each.mean) for each in history.waits()
    ]

    history.add(71.0, {ONE: waits(1005, 1003)})
    assert ["fast"] == [each.rule for each in history.waits()]


# --- Whatever happens -------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0.01, 1000), st.booleans()), min_size=1, max_size=60),
    st.integers(2, 20),
)
def test_only_the_last_minutes_are_kept(steps: list[tuple[float, bool]], most: int) -> None:
    """However often and for however long somebody looks, what is kept has its bounds."""
    history = History(span=300.0, most_points=most)
    at = 0.0
    for step, is_there in steps:
        at += step
        history.add(at, {ONE: reading({ACCEPTED: 1})} if is_there else {})
        times = [each.at for each in history.points]

        assert len(times) <= most
        assert at == times[-1]
        assert at - 300.0 <= times[0]
        assert sorted(times) == times


class _Process:
    """One that counts."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.counts: Counter[Count] = Counter({ACCEPTED: 0})
        self.read: Counter[Count] = Counter()


class Life(RuleBasedStateMachine):
    """Workers count, are replaced, are silent, and are read."""

    def __init__(self) -> None:
        super().__init__()
        self.history = History(span=1e6)
        self.at = 0.0
        self.numbers = iter(range(1, 10_000))
        self.workers = {place: _Process(next(self.numbers)) for place in (ONE, TWO)}
        self.silent: set[Place] = set()
        self.true: Counter[Count] = Counter()
        self.before: Counter[Count] = Counter()

    @rule(
        place=st.sampled_from([ONE, TWO]),
        key=st.sampled_from([ACCEPTED, BANNED]),
        count=st.integers(1, 9),
    )
    def count(self, place: Place, key: Count, count: int) -> None:
        """Something happens in a worker."""
        self.workers[place].counts[key] += count

    @rule(place=st.sampled_from([ONE, TWO]))
    def replace(self, place: Place) -> None:
        """A worker is replaced; what it has counted since it was read is known to nobody."""
        self.workers[place] = _Process(next(self.numbers))

    @rule(place=st.sampled_from([ONE, TWO]))
    def hush(self, place: Place) -> None:
        """A worker gives no answer for a while, or answers again."""
        self.silent ^= {place}

    @rule(seconds=st.floats(0.1, 60))
    def read(self, seconds: float) -> None:
        """Those who answer are read."""
        self.at += seconds
        answers: dict[Place, Reading] = {}
        for place, worker in self.workers.items():
            if place not in self.silent:
                answers[place] = reading(dict(worker.counts), process=worker.number)
                self.true.update(worker.counts - worker.read)
                worker.read = worker.counts.copy()
        point = self.history.add(self.at, answers)

        assert sorted(answers) == [each.place for each in self.history.rows()]
        assert all(count > 0 for count in point.gained.values())

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        """The sums are what the workers had counted when they were read last, and never go back."""
        totals = self.history.totals

        assert +self.true == +totals
        assert all(totals[key] >= count for key, count in self.before.items())
        self.before = totals.copy()


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestLife = Life.TestCase
