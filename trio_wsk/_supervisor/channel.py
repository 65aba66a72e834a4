"""One end of the pair of sockets by which a supervisor and a worker talk."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, final

import trio

from .messages import LONGEST, Message

if TYPE_CHECKING:
    import socket

__all__ = ["Channel"]


@final
class Channel:
    """One end, in Trio.

    Nobody is told when the other end is gone but who hears: that is who has to know.

    Args:
      sock: The end, which is this object's from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self._socket = sock
        self._awaited = trio.socket.from_stdlib_socket(sock)

    def tell(self, message: Message) -> None:
        """Say something at once, or not at all: to who has left so much unread that it hangs."""
        with suppress(OSError):
            self._socket.send(message.packed())

    async def say(self, message: Message) -> None:  # noqa: ASYNC910 - it has tried to send
        """Say something, and wait until there is room for it."""
        with suppress(OSError):
            await self._awaited.send(message.packed())

    async def hear(self) -> Message | None:
        """Wait for the next message; None when there is nobody any more who could send one."""
        while True:
            try:
                packet = await self._awaited.recv(LONGEST)
            except OSError:
                return None  # noqa: ASYNC910 - it was waited for; they have left something unread
            message = Message.unpacked(packet)
            if message is not None or not packet:
                return message  # noqa: ASYNC910 - it was waited for

    def close(self) -> None:
        """Close it; the other end learns of that. Idempotent."""
        self._socket.close()
