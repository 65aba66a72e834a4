"""Fixtures for the tests of conditional accept: where to listen, and how an inspector answers."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers.inspecting import PEND
from tests.helpers.undecided import hides_fin
from trio_wsk import ConnectionRequest, InspectPoint, Status, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio_wsk import InspectAction

    Inspect = Callable[[ConnectionRequest], Any]

HOST = "127.0.0.1"


@pytest.fixture(params=["IPv4", "IPv6", "Unix"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Where to listen."""
    if request.param == "Unix":
        return {"port": None, "path": tmp_path / "s"}
    if request.param == "IPv6":
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"this machine has no IPv6: {error}")
        return {"host": "::1"}
    return {"host": HOST}


@pytest.fixture
def tells_fin_behind_data(readiness: str, request: pytest.FixtureRequest) -> None:
    """Trio's own waits don't."""
    if hides_fin(readiness, request.getfixturevalue("sent")):
        pytest.skip("a FIN behind data can't be told from data by Trio's own waits")


@pytest.fixture(params=["plain", "async", "pended"])
def inspector(request: pytest.FixtureRequest) -> Callable[[InspectAction | Verdict], Inspect]:
    """Make an inspector that gives an answer in one of three ways."""
    way: str = request.param

    def make(answer: InspectAction | Verdict) -> Inspect:
        async def inspect_later(request: ConnectionRequest) -> InspectAction | Verdict:
            await trio.lowlevel.checkpoint()
            return answer

        def pend(request: ConnectionRequest) -> InspectAction:
            async def complete() -> None:
                await trio.lowlevel.checkpoint()

                assert Status.SUCCESS == request.listening.inspect_complete(
                    request.inspect_id, answer
                )

            trio.lowlevel.spawn_system_task(complete)
            return PEND

        return {"plain": lambda _: answer, "async": inspect_later, "pended": pend}[way]

    return make


@pytest.fixture(params=list(InspectPoint), ids=lambda point: point.value)
def point(request: pytest.FixtureRequest) -> InspectPoint:
    """When requests are inspected: most of what is true is true of both."""
    chosen: InspectPoint = request.param
    return chosen
