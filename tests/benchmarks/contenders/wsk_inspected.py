"""
`trio_wsk.open_listening_socket`, closing each connection as soon as it is there.

    python -m tests.benchmarks.contenders.wsk_inspected TASK [POINT FORM VERDICT]

POINT is when requests are inspected, ``before`` or ``after`` the handshake; FORM is that of
the inspector, ``sync`` or ``async``; VERDICT is what it says, ``accept`` or ``reject``.
Without them there is no inspector.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import trio

import trio_wsk
from trio_wsk import EventMask, InspectAction, InspectPoint, ListenDispatch

from ._common import HOST, announce
from ._wsk_inspectors import make_inspector

POINTS: Final = {
    "before": InspectPoint.BEFORE_HANDSHAKE,
    "after": InspectPoint.AFTER_HANDSHAKE,
}


def close(connection: trio_wsk.Connection) -> trio_wsk.Status:
    """Take a connection, and end it."""
    connection.close()
    return trio_wsk.Status.SUCCESS


async def main(inspection: Sequence[str]) -> None:
    """Serve until killed."""
    inspect, point = None, InspectPoint.AFTER_HANDSHAKE
    if inspection:
        when, form, verdict = inspection
        inspect, point = make_inspector(form, InspectAction[verdict.upper()]), POINTS[when]
    async with trio_wsk.open_listening_socket(
        0, host=HOST, dispatch=ListenDispatch(accept=close, inspect=inspect), inspect_point=point
    ) as listening:
        listening.enable_events(EventMask.ACCEPT)
        announce(listening.local_addresses[0].port)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[2:])
