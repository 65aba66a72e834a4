"""Where things stand in the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["DOCS", "EXAMPLES", "ROOT", "TESTS"]

TESTS: Final = Path(__file__).parent.parent
ROOT: Final = TESTS.parent
DOCS: Final = ROOT / "docs"
EXAMPLES: Final = ROOT / "examples"
