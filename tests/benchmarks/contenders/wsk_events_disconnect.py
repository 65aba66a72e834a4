"""`trio_wsk.serve_events`, the answer and the end of the connection in one call."""

from __future__ import annotations

import trio

import trio_wsk

from ._wsk_events import serve


def answer_once(connection: trio_wsk.Connection, data: bytes) -> None:
    """Send the answer and the FIN in one segment; the peer's end closes."""
    connection.disconnect(data=data)


if __name__ == "__main__":
    trio.run(serve, answer_once)
