"""What the server decides, held against what the rules decide by themselves."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.helpers.redis_server import RedisServer, running_redis
from trio_wsk import Address
from trio_wsk.inspectors import Penalties, SourceLimit
from trio_wsk.inspectors._breaker import FIRST_WAIT, LONGEST_WAIT, STEADY_AFTER, Breaker
from trio_wsk.inspectors._ledgers import Ledger, ledger_of
from trio_wsk.inspectors._rates import Rate
from trio_wsk.inspectors._scripts import PENALTIES, PLACES, RATES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OUR_CLOCK = "local now = tonumber(ARGV[#ARGV])\n"
"""In the place of the server's: the last argument."""

KEYS = map(str, itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server, of which each example has a key of its own."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def evaluate(server: RedisServer, script: str, key: str, now: float, *words: Any) -> float:
    """Ask about one key at this time."""
    (answer,) = server.ask("EVAL", OUR_CLOCK + script, 1, key, *words, repr(now))
    return float(answer)


# The server forgets by its own clock what is over, and so here nothing is over in less than that.
intervals = st.floats(100, 1e5)


@given(
    interval=intervals,
    burst=st.integers(1, 5),
    start=st.sampled_from([0.0, 1e6, 1.7e9]),
    arrivals=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 4).map(float), st.floats(0, 3)),  # intervals since the last
            st.integers(1, 4),  # how many at once
        ),
        max_size=12,
    ),
)
def test_rate_on_the_server_is_the_rate_here(
    interval: float,
    burst: int,
    start: float,
    arrivals: list[tuple[float, int]],
    server: RedisServer,
) -> None:
    """Of the same arrivals at the same times both let the same number through."""
    rate = Rate(1, interval, burst)
    key, now, used_up_until = next(KEYS), start, -math.inf
    for gap, count in arrivals:
        now += gap * interval
        expected = 0
        for _ in range(count):
            after = rate.after(used_up_until, now)
            if after is not None:
                used_up_until, expected = after, expected + 1
        words = repr(rate._interval), repr(rate._tolerance), count  # noqa: SLF001

        assert expected == evaluate(server, RATES, key, now, *words)


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 500), st.one_of(st.none(), st.floats(100, 400))), max_size=12
    )
)
def test_penalties_on_the_server_are_the_penalties_here(
    steps: list[tuple[float, float | None]], server: RedisServer
) -> None:
    """After the same additions and pardons at the same times both know the same remainder."""
    peer = Address.tcp("192.0.2.7", 1)
    clock = trio.testing.MockClock()

    async def walk() -> None:
        penalties = Penalties(threshold=0, most_seconds=1000)
        key = next(KEYS)
        for gap, seconds in steps:
            clock.jump(gap)
            if seconds is None:
                penalties.forgive(peer)
            else:
                penalties.add(peer, seconds, "bad")
            words = 1000, int(seconds is None), 0, repr(seconds or 0)
            answer = evaluate(server, PENALTIES, key, trio.current_time(), *words)

            assert penalties.remaining(peer) == pytest.approx(answer, abs=1e-6)
            await trio.lowlevel.checkpoint()

    trio.run(walk, clock=clock)


def test_penalties_that_may_not_have_been_heard_are_not_added_twice(server: RedisServer) -> None:
    """What there is at least is not added, and takes nothing away."""
    key = next(KEYS)

    assert 50 == evaluate(server, PENALTIES, key, 0, 1000, 0, 50, 0)
    assert 50 == evaluate(server, PENALTIES, key, 0, 1000, 0, 50, 0)
    assert 50 == evaluate(server, PENALTIES, key, 0, 1000, 0, 20, 0)
    assert 60 == evaluate(server, PENALTIES, key, 0, 1000, 0, 0, 10)
    assert 70 == evaluate(server, PENALTIES, key, 0, 1000, 1, 70, 0)


def test_places_are_over_with_their_lease(server: RedisServer) -> None:
    """Those of others count until then, and not from then on."""
    key = next(KEYS)

    assert 3 == evaluate(server, PLACES, key, 1000, "a", 500, 3, 0, 5)
    assert 0 == evaluate(server, PLACES, key, 1499, "b", 500, 3, 0, 5)
    assert 3 == evaluate(server, PLACES, key, 1500, "b", 500, 3, 0, 5)


def test_places_of_all_count_together(server: RedisServer) -> None:
    """What who asks holds counts as well as what others do."""
    key = next(KEYS)

    assert 2 == evaluate(server, PLACES, key, 1000, "a", 500, 3, 0, 2)
    assert 1 == evaluate(server, PLACES, key, 1000, "b", 500, 3, 0, 2)
    assert 0 == evaluate(server, PLACES, key, 1000, "a", 500, 3, 2, 1)
    assert 1 == evaluate(server, PLACES, key, 1000, "a", 500, 3, 1, 2)


def test_place_that_nobody_waited_for_is_told_back() -> None:
    """More was granted than are there to take it: the server has to hear of it."""
    ledger, told = ledger_of(SourceLimit(3), 1.0), list[tuple[int, int]]()
    ledger.start(told.append)
    source = (4, 7)
    assert ledger.take(source)

    assert 1 == ledger.settle(source, 1, 1)
    assert not told
    assert 0 == ledger.settle(source, 1, 0)
    assert [source] == told


class Process:
    """One that shares a limit, and how many of its peers wait, and are in, by source."""

    def __init__(self, most: int) -> None:
        self.ledger: Ledger = ledger_of(SourceLimit(most), 1e6)
        self.waiting = [0, 0]
        self.inside = [0, 0]
        self.unsaid: set[int] = set()
        """The sources of which the server has to be told something."""

    @property
    def name(self) -> str:
        """What the server knows it by."""
        return str(self.ledger.constants[0])


class Fleet(RuleBasedStateMachine):
    """Processes that share a limit by source."""

    server: RedisServer
    MOST = 3
    one = st.integers(0, 2)
    source = st.integers(0, 1)

    def __init__(self) -> None:
        super().__init__()
        self.processes = [Process(self.MOST) for _ in range(3)]
        self.keys = [next(KEYS), next(KEYS)]

    def says(self, process: Process, source: int) -> tuple[Sequence[object], int]:
        """Return what a process says now, and for how many."""
        count = process.waiting[source]
        process.waiting[source] = 0
        process.unsaid.discard(source)
        said = process.ledger.says((4, source), count)
        return (*process.ledger.constants, *said), count

    def ask(self, source: int, words: Sequence[object]) -> float:
        """Ask the server."""
        return evaluate(self.server, PLACES, self.keys[source], 1000, *words)

    @rule(number=one, source=source)
    def come(self, number: int, source: int) -> None:
        """A peer comes, and waits if there may be a place."""
        process = self.processes[number]
        if not process.ledger.is_used_up((4, source)):
            assert process.ledger.take((4, source))
            process.waiting[source] += 1

    @rule(number=one, source=source)
    def deliver(self, number: int, source: int) -> None:
        """Those that wait have their answer."""
        process = self.processes[number]
        process.ledger.changed = lambda changed: process.unsaid.add(changed[1])
        words, count = self.says(process, source)
        process.inside[source] += process.ledger.settle((4, source), self.ask(source, words), count)

    @rule(number=one, source=source, is_heard=st.booleans())
    def miss(self, number: int, source: int, *, is_heard: bool) -> None:
        """The answer is lost, or what was said is: all that have waited are turned away."""
        process = self.processes[number]
        words, count = self.says(process, source)
        if is_heard:
            self.ask(source, words)
        for _ in range(count):
            process.ledger.give_back((4, source))
        process.unsaid.add(source)

    @rule(number=one, source=source)
    def give_up_while_waiting(self, number: int, source: int) -> None:
        """One of those that wait leaves between the question and the answer."""
        process = self.processes[number]
        if not process.waiting[source]:
            return
        process.ledger.changed = lambda changed: process.unsaid.add(changed[1])
        words, count = self.says(process, source)
        answer = self.ask(source, words)
        process.ledger.give_back((4, source))
        process.unsaid.add(source)
        process.inside[source] += process.ledger.settle((4, source), answer, count - 1)

    @rule(number=one, source=source)
    def leave(self, number: int, source: int) -> None:
        """One of those that are in leaves."""
        process = self.processes[number]
        if process.inside[source]:
            process.inside[source] -= 1
            process.ledger.give_back((4, source))
            process.unsaid.add(source)

    @invariant()
    def never_too_many(self) -> None:
        """No source has more than it may."""
        for source in range(2):
            assert self.inside(source) <= self.MOST

    def inside(self, source: int) -> int:
        """Return how many of a source are in, wherever."""
        return sum(each.inside[source] for each in self.processes)

    def teardown(self) -> None:
        """When all was said the server knows what each process has, and nothing else."""
        for process in self.processes:
            for source in range(2):
                if process.unsaid & {source} or process.waiting[source]:
                    words, count = self.says(process, source)
                    answer = self.ask(source, words)
                    process.inside[source] += process.ledger.settle((4, source), answer, count)
        for source, key in enumerate(self.keys):
            fields = self.server.ask("HGETALL", key)
            known = {
                fields[index].decode(): int(fields[index + 1].partition(b" ")[0])
                for index in range(0, len(fields), 2)
            }

            assert known == {
                each.name: each.inside[source] for each in self.processes if each.inside[source]
            }


class ForgetfulFleet(Fleet):
    """The same, over a server that is flushed now and then."""

    @rule()
    def flush(self) -> None:
        """The server forgets all."""
        self.server.ask("DEL", *self.keys)
        for process in self.processes:
            process.unsaid |= {0, 1}

    @invariant()
    def never_too_many(self) -> None:
        """Until all was said again there may be too many, but no more than that in each."""
        for source in range(2):
            assert self.inside(source) <= self.MOST * len(self.processes)


@pytest.mark.parametrize("fleet", [Fleet, ForgetfulFleet])
def test_places_are_in_balance_whatever_gets_lost(fleet: type[Fleet], server: RedisServer) -> None:
    """
    In any order of arrivals, answers, losses and ends: never more than the limit in all
    processes together, and the server knows what each has once all was said; also when it has
    forgotten everything meanwhile.
    """
    Fleet.server = server
    run_state_machine_as_test(fleet, settings=settings(max_examples=50, stateful_step_count=30))


# --- When a lost server is tried again --------------------------------------------------------


def test_lost_server_is_tried_less_and_less_often() -> None:
    """Twice the time each time, to a bound; that it is lost is news once."""
    breaker, now, waits = Breaker(), 100.0, []
    news = []
    for _ in range(9):
        news.append(breaker.failed(now))
        waits.append(breaker.next_try - now)
        now = breaker.next_try

    assert [True] + [False] * 8 == news
    assert [FIRST_WAIT * 2**n for n in range(6)] == pytest.approx(waits[:6])
    assert {LONGEST_WAIT} == {*waits[6:]}
    assert now - 100 == breaker.answered(now)
    assert breaker.answered(now) is None


@pytest.mark.parametrize(("steady", "first"), [(STEADY_AFTER, FIRST_WAIT), (1.0, 4 * FIRST_WAIT)])
def test_server_that_comes_and_goes_is_tried_less_often(steady: float, first: float) -> None:
    """Who was back for a while only goes on where it was, and who was steady begins anew."""
    breaker = Breaker()
    breaker.failed(0)
    breaker.failed(1)
    breaker.answered(2)
    breaker.failed(2 + steady)

    assert first == pytest.approx(breaker.next_try - 2 - steady)
