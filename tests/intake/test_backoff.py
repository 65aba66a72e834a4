"""How long to wait when there is no descriptor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsk._intake.backoff import Backoff, Recovery

MIDDLE = 0.5
"""The chance that makes a wait neither longer nor shorter."""


def test_waits_grow_to_a_limit() -> None:
    """Each wait is twice the one before, from 100 ms up to one second, where it stays."""
    backoff = Backoff()

    assert [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0] == pytest.approx(
        [backoff.failed(now, MIDDLE) for now in range(7)]
    )


def test_hours_of_scarcity() -> None:
    """However often accepting has failed, there is a next wait (a float's power ends at 1024)."""
    backoff = Backoff()
    waits = [backoff.failed(now, MIDDLE) for now in range(10_000)]

    assert 1.0 == waits[-1]
    assert Recovery(seconds=9_999, attempts=10_000) == backoff.worked()


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
def test_waits_are_jittered_and_bounded(chances: list[float]) -> None:
    """Whatever chance says, a wait is between 75 ms and 1.25 s, and at most a quarter off."""
    plain, jittered = Backoff(), Backoff()
    for chance in chances:
        wait, expected = jittered.failed(0, chance), plain.failed(0, MIDDLE)

        assert 0.075 <= wait <= 1.25
        assert 0.75 * expected <= wait <= 1.25 * expected


def test_working_again_starts_anew() -> None:
    """worked() tells about a bad time once, and the next one begins with the shortest wait."""
    backoff = Backoff()

    assert not backoff.active
    assert None is backoff.worked()

    backoff.failed(10, MIDDLE)
    backoff.failed(11, MIDDLE)

    assert backoff.active
    assert Recovery(seconds=1, attempts=2) == backoff.worked()
    assert None is backoff.worked()
    assert not backoff.active
    assert 0.1 == backoff.failed(20, MIDDLE)
    assert Recovery(seconds=0, attempts=1) == backoff.worked()
