"""
`trio_wsk.serve_events`, no task per connection: send, then close.

    python -m tests.benchmarks.contenders.wsk_events TASK [FORM]

FORM is that of an inspector which lets everybody in, ``sync`` or ``async``. Without it there
is none.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Final

import trio

import trio_wsk

from ._common import for_task
from ._wsk_events import Receive, serve
from ._wsk_inspectors import inspector_asked_for


def answer_once(connection: trio_wsk.Connection, data: bytes) -> None:
    """Answer and close: the same two system calls that the other contenders make."""
    connection.send_nowait(data)
    connection.close()


def answer_all(connection: trio_wsk.Connection, data: bytes) -> None:
    """Answer."""
    connection.send_nowait(data)


RECEIVE: Final[dict[str, Receive | None]] = {
    "once": answer_once,
    "all": answer_all,
    "close": None,
}


if __name__ == "__main__":
    inspect = inspector_asked_for(sys.argv[2:])
    trio.run(partial(serve, for_task(RECEIVE), inspect=inspect))
