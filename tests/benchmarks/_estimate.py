"""How long a run will take: rounds, times contenders, times what one measurement takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ._modes import Mode, Procedure

START_SECONDS: Final = 0.3
"""For one server of a mode to start, all on one core."""

BESIDE_SECONDS: Final = {Procedure.LOAD: 0.15, Procedure.IDLE: 1.2, Procedure.PENDED: 2.5}
"""What one measurement takes beside its window: clients start, servers calm down."""


def estimate(
    chosen: Iterable[tuple[Mode, int]], *, rounds: int, seconds: float, warm_up: float
) -> float:
    """How many seconds some modes take, each with so many contenders."""
    return sum(
        number * _one_contender(mode, rounds=rounds, seconds=seconds, warm_up=warm_up)
        for mode, number in chosen
    )


def _one_contender(mode: Mode, *, rounds: int, seconds: float, warm_up: float) -> float:
    beside = BESIDE_SECONDS[mode.procedure]
    rounds = min(rounds, mode.most_rounds)
    if mode.procedure is not Procedure.LOAD:  # a server each time, and no window
        return rounds * beside
    window = mode.usual_seconds or mode.seconds
    first = window or min(warm_up, seconds)
    return START_SECONDS + first + beside + rounds * ((window or seconds) + beside)
