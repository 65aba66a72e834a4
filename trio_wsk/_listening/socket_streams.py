"""`SocketStreams`: a listening socket for whoever takes no other streams than Trio's own."""

from __future__ import annotations

from typing import final

import trio

from trio_wsk._vocabulary.errors import InvalidParameterError

from .listening import ListeningSocket

__all__ = ["SocketStreams"]


@final
class SocketStreams(trio.abc.Listener[trio.SocketStream]):
    """A listening socket whose connections are Trio's own `trio.SocketStream`.

    For libraries that look at a connection with ``isinstance(stream, trio.SocketStream)``, as some
    do to learn its addresses. Everything else about the listening socket stays as it is: its
    inspector, its limits, its statistics.

    Args:
      listening: It stays yours: closing either closes both.

    Raises:
      InvalidParameterError: ``listening`` is no `ListeningSocket`. (Yours.)
      AttributeError: the transport's connections are no sockets.
      SocketClosedError, ForcedClosedError: as for `ListeningSocket.accept`.
    """

    def __init__(self, listening: ListeningSocket) -> None:
        given: object = listening  # by a caller without a type checker, perhaps
        if not isinstance(given, ListeningSocket):
            raise InvalidParameterError(
                f"SocketStreams takes a listening socket, such as server.listening, not {given!r}"
            )
        self._listening = listening
        self._socket = listening.socket

    def __repr__(self) -> str:
        return f"SocketStreams({self._listening!r})"

    @property
    def socket(self) -> trio.socket.SocketType:
        """The first listening socket itself, for those who look at it; not yours to close."""
        return self._socket

    async def accept(self) -> trio.SocketStream:
        """Wait for the next connection, and return it as a stream of Trio's.

        Raises, checkpoint, cancellation: as for `ListeningSocket.accept`. Any number of tasks may
        accept at once.
        """
        connection = await self._listening.accept()
        try:
            return trio.SocketStream(connection.socket)
        except BaseException:  # Ctrl-C: nobody else has this connection
            connection.abort()
            raise

    async def aclose(self) -> None:
        """Close the listening socket; see `ListeningSocket.aclose`. Always a checkpoint."""
        await self._listening.aclose()
