"""Inspectors that do not decide, peers that wait for them, and the ways in which those leave."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.inspecting import ACCEPT, PEND, Desk
from tests.helpers.support import PATIENCE, reset, until
from trio_wsk import ConnectionRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import InspectAction

    Inspect = Callable[[ConnectionRequest], Any]


async def accept_all(request: ConnectionRequest) -> InspectAction:
    """Let everybody through."""
    return ACCEPT


UNREAD = bytes(50_000)
"""What a client has sent and nobody has read."""


async def wait_for_cancellation(request: ConnectionRequest) -> InspectAction:
    """Take longer than anybody waits."""
    await trio.sleep_forever()


async def ignore_cancellation(go_on: trio.Event) -> None:
    """Go on until told to, and not for ever: a test that fails should end, too."""
    with trio.CancelScope(deadline=trio.current_time() + 2 * PATIENCE, shield=True):
        await go_on.wait()


INSPECTORS: dict[str, Inspect | InspectAction] = {
    "inspected": wait_for_cancellation,
    "pended": PEND,
    "parked": ACCEPT,
}
"""Where a request is when its peer leaves, and how it comes to be there."""


async def bring(desk: Desk, stage: str, first: bytes = b"") -> tuple[Any, ConnectionRequest]:
    """Connect a client and wait until its request is there."""
    return await {"inspected": desk.ask, "pended": desk.pended, "parked": desk.parked}[stage](first)


def leave(client: trio.SocketStream, how: str) -> None:
    """Leave."""
    if how == "reset":
        reset(client)
    elif how == "close":
        client.socket.close()
    else:
        client.socket.shutdown(socket.SHUT_WR)


def hides_fin(readiness: str, sent: bytes) -> bool:
    """Whether a FIN can't be seen: behind data, where nothing tells it from the data."""
    return readiness == "trio" and bool(sent)


async def waiting(desk: Desk, count: int) -> list[trio.SocketStream]:
    """Connect so many clients that stay in the kernel's backlog."""
    clients = [desk.client() for _ in range(count)]
    await until(lambda: desk.statistics().backlog == count)
    await wait_all_tasks_blocked()

    assert count == desk.statistics().backlog

    return clients
