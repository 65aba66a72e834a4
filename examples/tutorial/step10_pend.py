"""Tutorial, step 10: WskInspectPend and WskInspectComplete: somebody else decides, later."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial

import trio

import trio_wsk
from trio_wsk import ConnectionRequest, InspectAction


async def echo(connection: trio_wsk.Connection) -> None:
    """Send back what one client sends."""
    with suppress(trio.BrokenResourceError):  # the client's doing, and no reason to end
        async with connection:
            while await connection.more():
                await connection.send_all(await connection.receive_some())


async def main() -> None:
    """Have a doorkeeper decide, who talks to us on another port."""
    asking, asked = trio.open_memory_channel[ConnectionRequest](math.inf)

    def inspect(request: ConnectionRequest) -> InspectAction:
        print("pended", request.remote_address, flush=True)
        asking.send_nowait(request)
        return InspectAction.PEND

    async with (
        trio.open_nursery() as nursery,
        trio_wsk.open_listening_socket(
            7007, host="localhost", inspect=inspect, inspect_timeout=60
        ) as listening,
    ):

        async def _doorkeeper(console: trio_wsk.Connection) -> None:
            async for line in trio_wsk.Reader(console).lines():
                request = await asked.receive()
                answer = InspectAction.ACCEPT if line == b"yes" else InspectAction.REJECT
                status = listening.inspect_complete(request.inspect_id, answer)
                await console.send_all(f"{request.remote_address} {status.name}\n".encode())

        nursery.start_soon(partial(trio_wsk.serve, _doorkeeper, 7006, host="localhost"))
        while True:
            connection = await listening.accept()
            print("accepted", connection.remote_address, flush=True)
            nursery.start_soon(echo, connection)


if __name__ == "__main__":
    trio.run(main)
