"""A door and a doorkeeper, who is asked before the handshake: that is you.

Run ``sudo .venv/bin/python examples/before_the_handshake.py [PORT]``; it says how to talk to it.
Friends get in at once, who is unwanted is refused at once, and about everybody else you are asked:
until you have typed ``y`` or ``n`` their SYN is held, and their ``connect()`` waits. Who gives up
meanwhile is missed as soon as the SYN is not repeated. Ctrl-C or SIGTERM ends the server.

It takes Linux and CAP_NET_ADMIN. Where they can't be had it says so and ends; it never asks
later instead. It also says how to try it without root, in a network of its own.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING

import trio

import trio_wsk
from trio_wsk import AddressSet, InspectAction, InspectPoint, Verdict
from trio_wsk.observers import RequestAborted, RequestApproved, RequestRejected

if TYPE_CHECKING:
    from trio_wsk.observers import Record

PORT = 7011
FRIENDS = AddressSet(["127.0.0.1"])
UNWANTED = AddressSet(["127.0.0.3"])
KEYBOARD = 0
"""Standard input's descriptor."""
THINKING_SECONDS = 60.0
"""What a person needs. A program that takes longer than a blink annoys its peers."""

NOT_HERE = """\
Nobody can be asked before the handshake here:
    {error}
Run it as root (sudo), or try it in a network of its own:
    unshare --user --map-root-user --net sh -c 'ip link set lo up && exec {command}'"""


class Doorkeeper:
    """Asks the person at the keyboard, about one request at a time."""

    def __init__(self, keyboard: int) -> None:
        self._keyboard = keyboard
        self._turn = trio.Lock()

    async def inspect(self, request: trio_wsk.ConnectionRequest) -> InspectAction | Verdict:
        """Decide about one request, in a task that is cancelled when its peer leaves."""
        peer = request.remote_address
        if peer in FRIENDS:
            return InspectAction.ACCEPT
        if peer in UNWANTED:
            return Verdict(InspectAction.REJECT, "unwanted")
        async with self._turn:
            self._forget_what_was_typed()
            print(f"{peer} wants to connect. Let it in (y or n)?", flush=True)
            await trio.lowlevel.wait_readable(self._keyboard)
            typed = os.read(self._keyboard, 100)
        if not typed:
            print("Nobody is at the keyboard any more.", flush=True)
        is_welcome = typed.lower().startswith(b"y")
        return InspectAction.ACCEPT if is_welcome else Verdict(InspectAction.REJECT, "turned-away")

    def _forget_what_was_typed(self) -> None:
        """Drop an answer that was meant for somebody who has left, or it would let in the next."""
        while select.select([self._keyboard], [], [], 0)[0] and os.read(self._keyboard, 100):
            pass


async def greet(connection: trio_wsk.Connection) -> None:
    """Handle one connection that was let through."""
    await connection.send_all(b"Welcome.\n")
    while await connection.more():
        await connection.send_all(await connection.receive_some())


def tell(record: Record) -> None:
    """Say what becomes of a request, as it happens."""
    match record:
        case RequestApproved():
            print(f"{record.remote_address} is let in", flush=True)
        case RequestRejected():
            print(f"{record.remote_address} is refused: {record.reason}", flush=True)
        case RequestAborted():
            print(f"{record.remote_address} is gone: {record.reason.value}", flush=True)


async def main(
    *,
    port: int = PORT,
    keyboard: int = KEYBOARD,
    task_status: trio.TaskStatus[trio_wsk.Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until a signal has drained it."""
    async with trio_wsk.open_server(
        greet,
        port,
        host="127.0.0.1",
        grace=1,
        signals=(signal.SIGINT, signal.SIGTERM),
        inspect=Doorkeeper(keyboard).inspect,
        inspect_point=InspectPoint.BEFORE_HANDSHAKE,
        inspect_timeout=THINKING_SECONDS,
        observers=[tell],
    ) as server:
        port = server.local_addresses[0].port
        print(f"Process {os.getpid()} asks you who may come to port {port}.", end=" ")
        print(f"Try: nc -s 127.0.0.2 127.0.0.1 {port}", flush=True)
        task_status.started(server)
        await server.listening.draining.wait()


if __name__ == "__main__":
    try:
        trio.run(partial(main, port=int(sys.argv[1]) if sys.argv[1:] else PORT))
    except trio_wsk.InspectPointError as error:
        command = " ".join([sys.executable, *sys.argv])
        sys.exit(NOT_HERE.format(error=error, command=command))
    except trio_wsk.BindError as error:
        sys.exit(str(error))
