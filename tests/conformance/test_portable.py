"""The portable transport keeps the contract, over all its sockets and both readinesses.

What waits doesn't know the family of a socket, so over Trio's waits one of TCP and one of Unix
stand for all: there each check takes several of the looks that are taken every 100 ms.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trio_wsk.testing import TRANSPORT_CHECKS

from .harnesses import SOCKET_HARNESSES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_wsk.testing import TransportCheck

pytestmark = pytest.mark.usefixtures("no_leak_in_all")


def cases() -> Iterator[object]:
    """Pair each kind of socket and of readiness with the rules that there are for it."""
    for kind, harness_in in SOCKET_HARNESSES.items():
        harness = harness_in(Path())
        for readiness in ("epoll", "trio") if kind in {"tcp4", "unix"} else ("epoll",):
            harness.tells_end_behind_data = readiness == "epoll"
            for check in TRANSPORT_CHECKS:
                if not check.why_not(harness):
                    name = f"{check.name}-{kind}-{readiness}"
                    yield pytest.param(check, kind, readiness, id=name)


@pytest.mark.parametrize(("check", "kind", "readiness"), list(cases()), indirect=["readiness"])
async def test_portable_transport(
    check: TransportCheck, kind: str, readiness: str, tmp_path: Path
) -> None:
    """It keeps this rule."""
    await check(SOCKET_HARNESSES[kind](tmp_path))
