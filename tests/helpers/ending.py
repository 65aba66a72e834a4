"""The ways in which a connection is ended on this side."""

from __future__ import annotations

import pytest

from trio_wsk import Connection, SocketClosedError


def nothing(*_: object) -> None:
    """Take note of nothing."""


async def end_by(connection: Connection, end: str) -> None:
    """End a connection in one of the ways that are in good order if they can be."""
    if end == "close":
        connection.close()
    elif end == "aclose":
        await connection.aclose()
    elif end == "public socket":
        connection.socket.close()
    elif end == "disconnect":
        connection.disconnect()
    elif end == "send_eof":
        with pytest.raises(SocketClosedError, match="cut short"):
            await connection.send_eof()


ORDERLY = ["close", "aclose", "public socket"]
