"""Fixtures for tests of servers: a network in memory, new for each test.

pytest finds them by itself where the package is installed; there is nothing to import. With
pytest-trio's ``autojump_clock``, time on the network is the virtual clock's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import MemoryHost, MemoryNetwork

__all__: list[str] = []  # fixtures are asked for by name, not imported


@pytest.fixture
def memory_network() -> MemoryNetwork:
    """A `trio_wsk.testing.MemoryNetwork` without latency or loss; set them as you like."""
    # pytest loads this module for everybody's tests: it must cost those nothing that have no
    # use for it.
    from .testing import MemoryNetwork  # noqa: PLC0415

    return MemoryNetwork()


@pytest.fixture
def memory_server(memory_network: MemoryNetwork) -> MemoryHost:
    """The host 192.0.2.1 on `memory_network`, to listen on."""
    return memory_network.host("192.0.2.1")


@pytest.fixture
def memory_client(memory_network: MemoryNetwork) -> MemoryHost:
    """The host 192.0.2.2 on `memory_network`, to connect from."""
    return memory_network.host("192.0.2.2")
