"""A chat room: what one client says, all others hear.

Run ``python examples/chat.py [PORT]``; it says how to talk to it. Ctrl-C or SIGTERM has it
say good-bye to everybody and end; another one ends it at once.

Each client has an outbox between those who talk and its own connection, so that nobody waits
for anybody else. An outbox is bounded: a client that reads too slowly is reset when its
own is full.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from functools import partial

import trio

import trio_wsk

PORT = 7009
OUTBOX_LINES = 100
"""How many lines a client may be behind."""
LONGEST_LINE = 1000
"""Longer lines cost the client its connection, or it could fill our memory with one."""
GRACE = 5.0
"""How many seconds clients are given to take the last lines when the server ends."""


class Member:
    """One client: what it has still to be told, and a way to let go of it."""

    def __init__(self, connection: trio_wsk.Connection) -> None:
        self.name = str(connection.remote_address)
        self.connection = connection
        self.scope = trio.CancelScope()
        self.outbox, self.letters = trio.open_memory_channel[str](OUTBOX_LINES)

    def tell(self, text: str) -> None:
        """Put a line into the outbox; who is too far behind is let go."""
        try:
            self.outbox.send_nowait(text)
        except trio.WouldBlock:
            self.scope.cancel(reason="it reads too slowly")
        except trio.ClosedResourceError:
            pass  # it is saying good-bye already

    async def send(self) -> None:
        """Send what is in the outbox, until that has been closed and is empty."""
        async for text in self.letters:
            await self.connection.send_all(f"{text}\n".encode())


class Room:
    """Everybody who is here."""

    def __init__(self) -> None:
        self.members: set[Member] = set()

    def tell(self, text: str, but: Member) -> None:
        """Tell all but one."""
        for member in self.members - {but}:
            member.tell(text)

    async def welcome(self, connection: trio_wsk.Connection) -> None:
        """Handle one connection."""
        member = Member(connection)
        self.members.add(member)
        self.tell(f"* {member.name} has come", member)
        member.tell(f"* welcome, {member.name}; here are {len(self.members)}")
        try:
            with member.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.listen, member)
                    await member.send()
                    nursery.cancel_scope.cancel(reason="the outbox was closed and is empty")
        finally:
            self.members.remove(member)
            self.tell(f"* {member.name} has left", member)
        if member.scope.cancelled_caught:
            connection.abort()  # not FIN: it shall see that it has missed something

    async def listen(self, member: Member) -> None:
        """Hand on what a member says, until it has finished, or the server ends."""
        reader = trio_wsk.Reader(member.connection, max_octets=LONGEST_LINE)
        with suppress(trio_wsk.IncompleteReadError, trio_wsk.ReadLimitError):
            async for line in reader.lines():
                self.tell(f"{member.name}: {printable(line)}", member)
        if reader.ended is trio_wsk.More.DRAINING:
            member.tell("* the room closes, good-bye")
        member.outbox.close()


def printable(line: bytes) -> str:
    """Make text of what somebody sent, with nothing in it that a terminal obeys."""
    return "".join(filter(str.isprintable, line.decode(errors="replace")))


async def main(
    *,
    port: int = PORT,
    task_status: trio.TaskStatus[trio_wsk.Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until a signal has drained it."""
    async with trio_wsk.open_server(
        Room().welcome,
        port,
        host="localhost",
        grace=GRACE,
        signals=(signal.SIGINT, signal.SIGTERM),
    ) as server:
        port = server.local_addresses[0].port
        print(f"Chatting on port {port}. Join with: nc localhost {port}", flush=True)
        task_status.started(server)
        await server.listening.draining.wait()
        print("Good-bye.", flush=True)


if __name__ == "__main__":
    trio.run(partial(main, port=int(sys.argv[1]) if sys.argv[1:] else PORT))
