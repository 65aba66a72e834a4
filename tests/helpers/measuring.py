"""Which of the programs that tests start are measured by coverage, where the tests are."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["MEASURED"]

_CONFIGURATION: Final = "COVERAGE_PROCESS_CONFIG"
"""By it coverage has a process measure itself, and all that this one starts."""

MEASURED: Final[dict[str, str]] = {}
"""
What a program that is to be measured has in its environment. Others do without: who may not write
here, say, would end with coverage's own error.
"""

if _CONFIGURATION in os.environ and "PYTEST_XDIST_WORKER" in os.environ:
    MEASURED[_CONFIGURATION] = os.environ.pop(_CONFIGURATION)
