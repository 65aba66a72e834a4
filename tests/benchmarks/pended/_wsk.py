"""What the two servers of ours share: all that is not the inspector."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

import trio_wsk
from trio_wsk import ConnectionRequest, InspectAction, ListenDispatch

from ._common import HOST, Phases, count, halves, until

Decide = Callable[[ConnectionRequest, InspectAction], object]


async def run(
    inspect: Callable[[ConnectionRequest], InspectAction | Awaitable[InspectAction]],
    decide: Decide | None = None,
) -> None:
    """Keep them all waiting, notice who leaves, and decide about the rest."""
    number = count()
    phases = Phases()
    dispatch = ListenDispatch(inspect=inspect, accept=lambda _: trio_wsk.Status.SUCCESS)
    async with trio_wsk.open_listening_socket(
        0, host=HOST, dispatch=dispatch, max_pending=number, inspect_timeout=600
    ) as listening:
        listening.enable_events(trio_wsk.EventMask.ACCEPT)
        phases.announce(listening.local_addresses[0].port)
        phases.begin()
        await until(lambda: len(listening.pending_inspections) == number)
        phases.all_wait(number)
        await until(lambda: len(listening.pending_inspections) == number // 2)
        phases.end("abort", number // 2)
        yes, no = halves(list(listening.pending_inspections.values()))
        phases.begin()
        for action, requests in ((InspectAction.ACCEPT, yes), (InspectAction.REJECT, no)):
            for request in requests:
                if decide is None:
                    listening.inspect_complete(request.inspect_id, action)
                else:
                    decide(request, action)
            await trio.testing.wait_all_tasks_blocked()
            phases.end(action.name.lower(), len(requests))
        phases.say()
