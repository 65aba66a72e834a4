"""Tutorial, step 9: WskInspectEvent says who is let in."""

from __future__ import annotations

from contextlib import suppress

import trio

import trio_wsk
from trio_wsk import AddressSet, InspectAction, Verdict

ALLOWED = AddressSet(["127.0.0.1", "::1"])


def inspect(request: trio_wsk.ConnectionRequest) -> InspectAction | Verdict:
    """Let in who is on the list; tell the others."""
    if request.remote_address in ALLOWED:
        return InspectAction.ACCEPT
    return Verdict(InspectAction.REJECT, "not-listed", close=b"You are not on the list.\n")


async def echo(connection: trio_wsk.Connection) -> None:
    """Send back what one client sends."""
    with suppress(trio.BrokenResourceError):  # the client's doing, and no reason to end
        async with connection:
            while await connection.more():
                await connection.send_all(await connection.receive_some())


async def main() -> None:
    """Accept who was let in, a task per connection."""
    async with (
        trio.open_nursery() as nursery,
        trio_wsk.open_listening_socket(7007, host="localhost", inspect=inspect) as listening,
    ):
        while True:
            connection = await listening.accept()
            print("accepted", connection.remote_address, flush=True)
            nursery.start_soon(echo, connection)


if __name__ == "__main__":
    trio.run(main)
