"""An async inspector that waits for its answer: a task per request, cancelled by its peer."""

from __future__ import annotations

import trio
import trio.testing

from trio_wsk import ConnectionRequest, InspectAction

from ._wsk import run

answers: dict[ConnectionRequest, trio.Event] = {}
verdicts: dict[ConnectionRequest, InspectAction] = {}


async def inspect(request: ConnectionRequest) -> InspectAction:
    """Wait until somebody has decided."""
    answers[request] = trio.Event()
    await answers[request].wait()
    return verdicts[request]


def decide(request: ConnectionRequest, action: InspectAction) -> None:
    """Decide."""
    verdicts[request] = action
    answers[request].set()


if __name__ == "__main__":
    trio.run(run, inspect, decide)
