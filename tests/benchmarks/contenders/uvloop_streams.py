"""`asyncio.start_server` on uvloop."""

from __future__ import annotations

import uvloop

from ._asyncio_streams import main

if __name__ == "__main__":
    uvloop.run(main())
