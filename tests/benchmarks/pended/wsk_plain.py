"""A plain inspector that pends: no task per request."""

from __future__ import annotations

import trio
import trio.testing

from trio_wsk import InspectAction

from ._wsk import run

if __name__ == "__main__":
    trio.run(run, lambda request: InspectAction.PEND)
