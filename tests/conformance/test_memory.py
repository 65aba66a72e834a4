"""The network in memory keeps the contract, at both inspect points."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from trio_wsk import InspectPoint
from trio_wsk.testing import TRANSPORT_CHECKS, TransportCheck

from .harnesses import MemoryHarness


@pytest.mark.parametrize("inspect_point", InspectPoint, ids=lambda point: point.value)
@pytest.mark.parametrize("latency", [0.0, 0.25])
@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.name)
async def test_memory_transport(
    check: TransportCheck,
    inspect_point: InspectPoint,
    latency: float,
    autojump_clock: MockClock,
) -> None:
    """It keeps this rule, near or far, wherever there is something to keep."""
    harness = MemoryHarness(inspect_point, latency=latency)
    if why_not := check.why_not(harness):
        pytest.skip(why_not)

    await check(harness)
