"""Tests of `trio_wsk.transports._heartbeat`."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsk.transports._heartbeat import FIRST_REPEAT, Heartbeat


def heard_at(first: float, *later: float) -> Heartbeat:
    """Return the heartbeat of a client whose SYNs came then."""
    heartbeat = Heartbeat(first)
    for time in later:
        heartbeat.beat(time)
    return heartbeat


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([10.0], 10.0 + FIRST_REPEAT),
        ([10.0, 11.0], 14.0),  # 1 s after the other: 2 s at most, and 1 s on the way
        ([10.0, 10.0], 10.0 + FIRST_REPEAT),  # a duplicate of the first tells nothing
        ([10.0, 11.0, 13.0], 18.0),
        ([10.0, 11.0, 13.0, 13.0], 18.0),  # a duplicate of the third doesn't shorten the time
        ([10.0, 13.0], 20.0),
    ],
)
def test_client_is_given_twice_the_longest_time(times: list[float], expected: float) -> None:
    """
    A client that is there asks again within twice the longest time between two SYNs, and a second
    for the way; but not before 3.5 s after the first, whatever else has come.
    """
    assert expected == heard_at(*times).asks_again_until


@given(
    gaps=st.lists(st.floats(0.25, 64).map(lambda gap: round(gap, 2)), max_size=6),
    duplicated=st.integers(0, 6),
)
def test_duplicates_change_nothing(gaps: list[float], duplicated: int) -> None:
    """A SYN that the network has doubled leaves the time until which a client is waited for."""
    times = list(accumulate([5.0, *gaps]))
    place = min(duplicated, len(times) - 1)
    doubled = [*times[: place + 1], times[place], *times[place + 1 :]]

    assert heard_at(*times).asks_again_until == heard_at(*doubled).asks_again_until


@given(gaps=st.lists(st.floats(0, 64), max_size=8))
def test_each_beat_keeps_the_client_alive(gaps: list[float]) -> None:
    """No SYN that comes lets its client be missed earlier than without it, nor at once."""
    heartbeat = Heartbeat(0.0)
    before = heartbeat.asks_again_until
    for time in accumulate(gaps):
        heartbeat.beat(time)
        after = heartbeat.asks_again_until

        assert max(before, time + 1) <= after
        before = after


@pytest.mark.parametrize(
    ("times", "expected"), [([0.0], 23.5), ([0.0, 1.0], 23.5), ([0.0, 2.0], 25.0)]
)
def test_client_whose_answer_was_lost_asks_again(times: list[float], expected: float) -> None:
    """After an answer at 20 s that was lost, as long is waited as after a first SYN then."""
    assert expected == heard_at(*times).repeats_until(20.0)
