"""An `asyncio.Protocol` on asyncio's own loop."""

from __future__ import annotations

import asyncio

from ._asyncio_protocol import main

if __name__ == "__main__":
    asyncio.run(main())
