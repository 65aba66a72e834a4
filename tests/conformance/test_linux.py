"""Inspection before the handshake keeps the contract: on the loopback, and over a cable."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.helpers.namespaces import HERE, cabled_namespaces, in_own_namespace
from trio_wsk.testing import TRANSPORT_CHECKS

from .harnesses import LinuxHarness

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

CHECKS = {check.name: check for check in TRANSPORT_CHECKS}


def cases() -> Iterator[object]:
    """Pair each network with the rules that there are for it."""
    for network in ("loopback4", "loopback6", "cable4", "cable6"):
        for name, check in CHECKS.items():
            if not check.why_not(LinuxHarness("", None)):
                marks = [] if network == "loopback4" else [pytest.mark.heavy]  # they wait for SYNs
                yield pytest.param(network, name, id=f"{name}-{network}", marks=marks)


@pytest.mark.parametrize(("network", "name"), list(cases()))
@in_own_namespace
async def test_linux_transport(network: str, name: str) -> None:
    """It keeps this rule."""
    with ExitStack() as stack:
        if network.startswith("loopback"):
            harness = LinuxHarness("127.0.0.1" if network.endswith("4") else "::1", None)
        else:
            _, there = stack.enter_context(cabled_namespaces())
            harness = LinuxHarness(HERE[0] if network.endswith("4") else HERE[1], there)
        await CHECKS[name](harness)
