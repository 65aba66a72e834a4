"""The portable transport keeps the contract, over all its sockets and both readinesses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trio_wsk.testing import TRANSPORT_CHECKS, TransportCheck

from .harnesses import SOCKET_HARNESSES, SocketHarness

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_leak_in_all")


@pytest.fixture(params=SOCKET_HARNESSES)
def harness(request: pytest.FixtureRequest, readiness: str, tmp_path: Path) -> SocketHarness:
    """A transport of each kind."""
    return SOCKET_HARNESSES[request.param](tmp_path)


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.name)
async def test_portable_transport(check: TransportCheck, harness: SocketHarness) -> None:
    """It keeps this rule, wherever there is something to keep."""
    if why_not := check.why_not(harness):
        pytest.skip(why_not)

    await check(harness)
