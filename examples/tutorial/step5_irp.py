"""Tutorial, step 5: accepts that are queued, and complete some time later."""

from __future__ import annotations

from contextlib import suppress

import trio

import trio_wsk
from trio_wsk import Irp, Status


async def echo(connection: trio_wsk.Connection) -> None:
    """Send back what one client sends."""
    with suppress(trio.BrokenResourceError):  # the client's doing, and no reason to end
        async with connection:
            while await connection.more():
                await connection.send_all(await connection.receive_some())


async def main() -> None:
    """Keep three accepts queued."""
    async with (
        trio.open_nursery() as nursery,
        trio_wsk.open_listening_socket(7007, host="localhost") as listening,
    ):

        def accepted(irp: Irp[trio_wsk.Connection]) -> None:
            print("accept", irp.context, irp.status.name, irp.information, flush=True)
            if irp.status is Status.SUCCESS and irp.information is not None:
                nursery.start_soon(echo, irp.information)
                listening.queue_accept(context=irp.context, on_completion=accepted)

        for name in ("one", "two", "three"):
            listening.queue_accept(context=name, on_completion=accepted)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
