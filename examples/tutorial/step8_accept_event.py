"""Tutorial, step 8: WskAcceptEvent, for what no accept is queued for."""

from __future__ import annotations

from contextlib import suppress

import trio

import trio_wsk
from trio_wsk import EventMask, ListenDispatch, Status


async def echo(connection: trio_wsk.Connection) -> None:
    """Send back what one client sends."""
    with suppress(trio.BrokenResourceError):  # the client's doing, and no reason to end
        async with connection:
            while await connection.more():
                await connection.send_all(await connection.receive_some())


async def main() -> None:
    """Await one connection; take all others as they come."""
    async with trio.open_nursery() as nursery:

        def accept(connection: trio_wsk.Connection) -> Status:
            print("indicated", connection.remote_address, flush=True)
            nursery.start_soon(echo, connection)
            return Status.SUCCESS

        async with trio_wsk.open_listening_socket(
            7007, host="localhost", dispatch=ListenDispatch(accept=accept)
        ) as listening:
            listening.enable_events(EventMask.ACCEPT)
            connection = await listening.accept()
            print("accepted", connection.remote_address, flush=True)
            await echo(connection)
            await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
