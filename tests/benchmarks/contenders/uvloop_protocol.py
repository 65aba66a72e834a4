"""An `asyncio.Protocol` on uvloop; the peer to beat."""

from __future__ import annotations

import uvloop

from ._asyncio_protocol import main

if __name__ == "__main__":
    uvloop.run(main())
