"""An `asyncio.Protocol` on uvloop: callbacks, no task; the peer to beat."""

from __future__ import annotations

import asyncio
from typing import cast

import uvloop

from ._common import HOST, announce, answers_once


class AnswerAll(asyncio.Protocol):
    """Answer everything until end of file."""

    __slots__ = ("transport",)

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to answer."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self.transport.write(data)


class AnswerOnce(AnswerAll):
    """Answer one read and close."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Answer and close."""
        self.transport.write(data)
        self.transport.close()


async def main() -> None:
    """Serve until killed."""
    factory = AnswerOnce if answers_once() else AnswerAll
    server = await asyncio.get_running_loop().create_server(factory, HOST, 0)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
