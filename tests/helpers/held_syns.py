"""Requests before the handshake that nobody has decided, and a connection that works."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.helpers.inspecting import PEND
from tests.helpers.undecided import wait_for_cancellation
from trio_wsk import Connection

UNDECIDED: dict[str, Any] = {"inspected": wait_for_cancellation, "pended": PEND}
"""Inspectors that leave a request without a verdict, by the state that it is in then."""

each_undecided = pytest.mark.parametrize("state", list(UNDECIDED))


async def talk(connection: Connection, client: trio.SocketStream) -> None:
    """Send something from either end to the other."""
    await connection.send_all(b"question")

    assert b"question" == await client.receive_some()

    await client.send_all(b"answer")

    assert b"answer" == await connection.receive_some()
