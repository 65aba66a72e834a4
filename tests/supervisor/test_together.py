"""What several workers answer, put together."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trio_wsk._supervisor.together import together

COUNTS = st.dictionaries(st.sampled_from(["reset", "banned", "other"]), st.integers(0, 1 << 40))
NUMBERS = st.lists(COUNTS, min_size=1, max_size=4)


@given(NUMBERS)
def test_counts_are_added_up(counts: list[dict[str, int]]) -> None:
    """Each count is the sum of those of all workers, at any depth, whoever has counted it."""
    answers = dict(enumerate(({"server": {"listening": {"rejected": each}}} for each in counts), 1))
    expected: Counter[str] = Counter()
    for each in counts:
        expected.update(each)

    merged = together("statistics", answers, 100)

    assert {"server": {"listening": {"rejected": dict(expected)}}} == merged


def test_what_is_no_count_is_not_added_up() -> None:
    """
    Of what was the most at once it is the largest; what nobody knows is left out, and unknown if it
    is so of all; workers that say different things are all heard.
    """
    answers: dict[int, Any] = {
        1: {"open_most": 7, "backlog": None, "limit": None, "state": "listening"},
        2: {"open_most": 5, "backlog": 3, "limit": None, "state": "paused"},
        3: {"open_most": 6, "backlog": 4, "limit": None, "state": "paused"},
    }

    assert {"open_most": 7, "backlog": 7, "limit": None, "state": "listening, paused"} == together(
        "statistics", answers, 100
    )
    assert None is together("pause", {1: None, 2: None}, 100)


def test_lists_say_whose() -> None:
    """What is listed has its worker's number, and there is no more of it than was asked for."""
    answers = {
        number: {"open": 3, "connections": [{"id": 1}, {"id": 2}, {"id": 3}]} for number in (2, 5)
    }

    merged = together("connections", answers, 4)

    assert 6 == merged["open"]
    assert [(2, 1), (2, 2), (2, 3), (5, 1)] == [
        (each["worker"], each["id"]) for each in merged["connections"]
    ]


def test_penalties_are_listed_by_their_weight() -> None:
    """Who has most penalties comes first, whichever worker has given them; the threshold is one."""
    answers = {
        1: {"threshold": 15, "penalized": 1, "sources": [{"network": "a", "seconds": 3}]},
        2: {"threshold": 15, "penalized": 1, "sources": [{"network": "b", "seconds": 9}]},
    }

    assert {
        "threshold": 15,
        "penalized": 2,
        "sources": [
            {"worker": 2, "network": "b", "seconds": 9},
            {"worker": 1, "network": "a", "seconds": 3},
        ],
    } == together("penalties", answers, 100)
