"""Fixtures for the tests of transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers.portable_peers import owning
from trio_wsk.transports import PortableTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.helpers.portable_peers import Owner


@pytest.fixture
async def owner() -> AsyncIterator[Owner]:
    """Own a transport that listens on all IPv4 addresses."""
    async with owning(PortableTransport.tcp(0, host="0.0.0.0")) as owner:  # noqa: S104
        yield owner
