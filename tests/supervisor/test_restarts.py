"""When a worker that crashes is started again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_wsk._supervisor.restarts import LONGEST, STEADY, TRIES, Restarts

CRASHES = st.lists(st.sampled_from([0.0, 1.0, STEADY - 1, STEADY, 1000.0]), max_size=20)


def test_first_crash_costs_no_wait_and_the_last_is_the_end() -> None:
    """At once, then later each time, and then never."""
    restarts = Restarts()
    waits = [restarts.crashed(0) for _ in range(TRIES)]

    assert [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, None] == waits


@given(CRASHES)
def test_steady_worker_is_always_started_again(served: list[float]) -> None:
    """
    Whoever has served for long is started again at once, whatever was before; no wait is longer
    than the longest, and only so many crashes in a row are the end.
    """
    restarts = Restarts()
    in_a_row = 0
    for seconds in served:
        in_a_row = 1 if seconds >= STEADY else in_a_row + 1
        wait = restarts.crashed(seconds)

        assert in_a_row == restarts.crashes
        assert (wait is None) == (in_a_row >= TRIES)
        assert wait is None or 0 <= wait <= LONGEST
        assert wait == 0 or in_a_row > 1
