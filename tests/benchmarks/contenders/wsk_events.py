"""`trio_wsk.serve_events`, no task per connection: send, then close."""

from __future__ import annotations

import trio

import trio_wsk

from ._common import answers_once
from ._wsk_events import serve


def answer_once(connection: trio_wsk.Connection, data: bytes) -> None:
    """Answer and close: the same two system calls that the other contenders make."""
    connection.send_nowait(data)
    connection.close()


def answer_all(connection: trio_wsk.Connection, data: bytes) -> None:
    """Answer."""
    connection.send_nowait(data)


if __name__ == "__main__":
    trio.run(serve, answer_once if answers_once() else answer_all)
