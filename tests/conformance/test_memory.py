"""The network in memory keeps the contract, at both inspect points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trio_wsk import InspectPoint
from trio_wsk.testing import TRANSPORT_CHECKS

from .harnesses import MemoryHarness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

    from trio_wsk.testing import TransportCheck


def cases() -> Iterator[object]:
    """Pair each inspect point with the rules that there are for it."""
    for point in InspectPoint:
        harness = MemoryHarness(point)
        for check in TRANSPORT_CHECKS:
            if not check.why_not(harness):
                yield pytest.param(check, point, id=f"{check.name}-{point.value}")


@pytest.mark.parametrize("latency", [0.0, 0.25])
@pytest.mark.parametrize(("check", "inspect_point"), list(cases()))
async def test_memory_transport(
    check: TransportCheck,
    inspect_point: InspectPoint,
    latency: float,
    autojump_clock: MockClock,
) -> None:
    """It keeps this rule, near or far."""
    await check(MemoryHarness(inspect_point, latency=latency))
