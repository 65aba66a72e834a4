"""The server of `asyncio_protocol` and `uvloop_protocol`: callbacks, no task."""

from __future__ import annotations

import asyncio
import sys
from typing import Final, cast

from ._asyncio_sleeper import start_sleeper
from ._common import BACKLOG, HOST, announce, for_task, tls_context


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


class FinishOnce(AnswerAll):
    """Answer one read and finish; the client's end closes, as it does by default."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Answer and finish."""
        self.transport.write(data)
        self.transport.write_eof()


class Leave(asyncio.Protocol):
    """Close."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close."""
        transport.close()


FACTORIES: Final[dict[str, type[asyncio.Protocol]]] = {
    "once": FinishOnce if sys.argv[2:] == ["eof"] else AnswerOnce,
    "all": AnswerAll,
    "close": Leave,
}


async def main() -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        for_task(FACTORIES), HOST, 0, backlog=BACKLOG, ssl=tls_context()
    )
    sleeper = start_sleeper()
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()
    del sleeper  # a loop holds its tasks weakly: it was kept until here
