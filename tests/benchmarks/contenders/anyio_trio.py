"""anyio's listener on Trio."""

from __future__ import annotations

import anyio

from ._anyio import main

if __name__ == "__main__":
    anyio.run(main, backend="trio")
