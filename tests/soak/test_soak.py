"""A short soak; the long one is ``nox -s soak``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .soaking import Length, soaked
from .weights import GAIN, Weight

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.heavy
async def test_nothing_is_lost_or_gained(tmp_path: Path) -> None:
    """
    Everything that may happen to a service happens once, while clients of all kinds come: nothing
    that was begun is lost but what was open in a worker that was killed; descriptors, tasks and
    memory are where they were.
    """
    once = Length(rounds=1)
    async with soaked(tmp_path, seed=1, say=print) as service:
        report = await service.run(once, once)

    assert [] == report.complaints
    assert {"reload", "kill", "no descriptors", "nothing"} == report.happened.keys()


@pytest.mark.parametrize(
    ("after", "complaints"),
    [
        (Weight(10, 2000 + GAIN, 5), []),
        (Weight(11, 2000, 5), ["10 descriptors were 11 in the end"]),
        (Weight(10, 2000, 4), ["5 tasks were 4 in the end"]),
        (Weight(10, 2001 + GAIN, 5), [f"2000 KiB were {2001 + GAIN} in the end"]),
    ],
)
def test_what_was_gained_is_complained_about(after: Weight, complaints: list[str]) -> None:
    """Descriptors and tasks are as many as they were, and memory has a tolerance."""
    assert complaints == after.complaints(Weight(10, 2000, 5))
