"""What one writes without a toolkit: accept, and a task that waits for the verdict or the peer.

Its peer's going is noticed by Trio's `wait_readable`: behind unread data it would not be.
"""

from __future__ import annotations

import socket
import struct

import trio
import trio.testing

from ._common import HOST, Phases, count, halves, until

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Waiting:
    """One connection that waits."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.decided = trio.Event()
        self.is_accepted = False


waiting: dict[Waiting, None] = {}
accepted: list[trio.SocketStream] = []


async def keep(stream: trio.SocketStream) -> None:
    """Wait for the verdict, or until the peer leaves."""
    one = Waiting(stream)
    waiting[one] = None
    async with trio.open_nursery() as nursery:

        async def _watch() -> None:
            await trio.lowlevel.wait_readable(stream.socket)
            nursery.cancel_scope.cancel()

        nursery.start_soon(_watch)
        await one.decided.wait()
        nursery.cancel_scope.cancel()
    del waiting[one]
    if one.is_accepted:
        accepted.append(stream)
    else:
        if one.decided.is_set():
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        stream.socket.close()


async def accept(listener: trio.SocketListener, nursery: trio.Nursery) -> None:
    """Accept for ever."""
    while True:
        nursery.start_soon(keep, await listener.accept())


async def main() -> None:
    """Keep them all waiting, notice who leaves, and decide about the rest."""
    number = count()
    phases = Phases()
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept, listener, nursery)
        phases.announce(listener.socket.getsockname()[1])
        phases.begin()
        await until(lambda: len(waiting) == number)
        phases.all_wait(number)
        await until(lambda: len(waiting) == number // 2)
        phases.end("abort", number // 2)
        yes, no = halves(list(waiting))
        phases.begin()
        for name, chosen in (("accept", yes), ("reject", no)):
            for one in chosen:
                one.is_accepted = name == "accept"
                one.decided.set()
            await trio.testing.wait_all_tasks_blocked()
            phases.end(name, len(chosen))
        phases.say()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
