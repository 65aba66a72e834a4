"""Clients that know nothing of us: programs of the system."""

from __future__ import annotations

import os
import shutil

import pytest


def foreign(name: str) -> str:
    """Find a program; where CI is set it must be there, and elsewhere the test is skipped."""
    program = shutil.which(name)
    if program is None:
        missing = pytest.fail if "CI" in os.environ else pytest.skip
        missing(f"{name} is not installed")
    return program
