"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio
from hypothesis import HealthCheck, settings
from trio.testing import wait_all_tasks_blocked

from tests.helpers import measuring  # noqa: F401 - before anybody starts a program
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import connect
from trio_wsk import open_listening_socket
from trio_wsk._engine import choice as _choice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TESTS: Final = Path(__file__).parent

EARLY: Final = [
    TESTS / name
    for name in (
        "transports/linux/test_before_handshake_ends.py",
        "documentation/test_examples.py",
        "conformance/test_portable.py",
        "connection/test_connection.py",
        "transports/linux/test_before_handshake.py",
        "transports/linux/test_before_handshake_failures.py",
        "conformance/test_linux.py",
        "helpers/test_wire.py",
        "intake/test_no_descriptors.py",
        "documentation/test_whole_programs.py",
        "serving/test_running.py",
        "listening/test_ctrl_c.py",
        "transports/linux/test_before_handshake_rules.py",
        "transports/linux/test_before_handshake_queues.py",
        "transports/linux/test_nftables.py",
        "transports/linux/test_before_handshake_limits.py",
        "transports/linux/test_captured_sequences.py",
        "transports/linux/test_nfqueue.py",
        "transports/linux/test_before_handshake_servers.py",
        "documentation/test_tutorial.py",
        "documentation/test_gallery.py",
    )
]
"""
The files that take longest, and most of that time they wait. They begin first, each in a worker
of its own: else one of them would begin last, and all others would wait for it.
"""

# How long an example takes is a claim about the machine, and what else it does.
settings.register_profile(
    "unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the longest files begin first; see ``--no-loadscope-reorder`` of pytest-xdist."""
    turns = {path: turn for turn, path in enumerate(EARLY)}
    items.sort(key=lambda item: turns.get(item.path, len(turns)))


@pytest.fixture(scope="module", autouse=True)
def _collect_quickly() -> None:
    """
    Let the garbage collector pass over what is there before a module's first test: most tests have
    it look for leaks, and looking through what others have left took half of the suite's time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["epoll", "trio"])
def readiness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """
    The way in which channels are waited for: once over our own epoll, once over Trio's
    waits. Every module that does I/O asks for it: ``pytestmark = usefixtures("readiness")``.
    """
    kind: str = request.param
    if kind == "epoll" and not _choice.HAVE_EPOLL:
        pytest.skip("this system has no epoll")
    monkeypatch.setattr(_choice, "HAVE_EPOLL", kind == "epoll")
    return kind


@pytest.fixture(params=["alone", "in company"])
async def company(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Have another connection be waited for, or none: alone, one waits straight on Trio."""
    if request.param == "alone":
        yield
        return
    async with (
        open_listening_socket(0, host="127.0.0.1") as listening,
        await connect(listening.local_addresses[0]),
        await listening.accept() as connection,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(connection.receive_some)
        await wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


def _descriptors_stay() -> Iterator[None]:
    gc.collect()
    before = open_descriptors()
    yield
    gc.collect()

    assert before == open_descriptors()


@pytest.fixture
def no_leak() -> Iterator[None]:
    """Each test leaves the descriptors as it found them."""
    yield from _descriptors_stay()


@pytest.fixture(scope="module")
def no_leak_in_all() -> Iterator[None]:
    """All tests of the module together leave the descriptors as they found them."""
    yield from _descriptors_stay()


NOBODY = 65534
"""An ordinary user's number: who has no rights of its own anywhere."""


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Root may do everything, so for the length of one test it is somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def own_folder(ordinary_user: None) -> Iterator[Path]:
    """A folder that the ordinary user has made."""
    folder = Path(tempfile.mkdtemp(prefix="trio_wsk-"))
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)
