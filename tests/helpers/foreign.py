"""Programs of the system that know nothing of us."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

PLACES = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def foreign(name: str) -> str:
    """Find a program; where CI is set it must be there, and elsewhere the test is skipped."""
    return shutil.which(name, path=PLACES) or missing(f"{name} is not installed")


def missing(what: str) -> NoReturn:
    """Skip the test; where CI is set, fail it."""
    if "CI" in os.environ:
        pytest.fail(what)
    pytest.skip(what)
