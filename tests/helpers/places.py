"""Where things stand in the repository, and where the package is: installed, perhaps."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio_wsk

__all__ = ["DOCS", "EXAMPLES", "PACKAGE", "ROOT", "TESTS"]

TESTS: Final = Path(__file__).parent.parent
ROOT: Final = TESTS.parent
DOCS: Final = ROOT / "docs"
EXAMPLES: Final = ROOT / "examples"
PACKAGE: Final = Path(trio_wsk.__file__).parent
