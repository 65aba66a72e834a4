"""Tutorial, step 7: WskAccept, awaited."""

from __future__ import annotations

from contextlib import suppress

import trio

import trio_wsk


async def echo(connection: trio_wsk.Connection) -> None:
    """Send back what one client sends."""
    with suppress(trio.BrokenResourceError):  # the client's doing, and no reason to end
        async with connection:
            while await connection.more():
                await connection.send_all(await connection.receive_some())


async def main() -> None:
    """Accept for ever, a task per connection."""
    async with (
        trio.open_nursery() as nursery,
        trio_wsk.open_listening_socket(7007, host="localhost") as listening,
    ):
        while True:
            connection = await listening.accept()
            print("accepted", connection.remote_address, flush=True)
            nursery.start_soon(echo, connection)


if __name__ == "__main__":
    trio.run(main)
