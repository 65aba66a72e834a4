"""Fixtures for all tests."""

from __future__ import annotations

import pytest

from trio_wsk import _readiness


@pytest.fixture(params=["epoll", "trio"])
def readiness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """
    The way in which channels are waited for: once over our own epoll, once over Trio's
    waits. Every module that does I/O asks for it: ``pytestmark = usefixtures("readiness")``.
    """
    kind: str = request.param
    if kind == "epoll" and not _readiness.HAVE_EPOLL:
        pytest.skip("this system has no epoll")
    monkeypatch.setattr(_readiness, "HAVE_EPOLL", kind == "epoll")
    return kind
