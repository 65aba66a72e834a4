"""anyio's interfaces over ours: for libraries that are written for anyio.

It needs anyio, which ``pip install 'trio-wsk[anyio]'`` brings, on its Trio backend.

Errors are of both kinds: `ClosedError` is an ``anyio.ClosedResourceError`` and a
`trio.ClosedResourceError`, and so on. So a library catches what it knows, and a server still
tells a handler whose peer has gone from one that has crashed.
"""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import trio

try:
    import anyio
    import anyio.abc
except ImportError as _missing:
    raise ImportError(
        "trio_wsk.anyio needs anyio, which is not installed: pip install 'trio-wsk[anyio]'"
    ) from _missing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._connection.connection import Connection
    from ._listening.listening import ListeningSocket
    from ._vocabulary.addresses import Address

__all__ = ["BrokenError", "BusyError", "ByteStream", "ClosedError", "Listener"]

SocketAttribute: Final = anyio.abc.SocketAttribute

RECEIVE_SIZE: Final = 65536
"""How much is received at once by default, in octets: what anyio promises to those who iterate."""


class BrokenError(anyio.BrokenResourceError, trio.BrokenResourceError):
    """The peer reset the connection, or the network did; or the listening socket has failed."""


class ClosedError(anyio.ClosedResourceError, trio.ClosedResourceError):
    """This side has closed it, before or meanwhile."""


class BusyError(anyio.BusyResourceError, trio.BusyResourceError):
    """Another task is doing the same thing."""


class ByteStream(anyio.abc.ByteStream):
    """A connection as an ``anyio.abc.ByteStream``.

    Its extra attributes are those of ``anyio.abc.SocketAttribute`` but for ``raw_socket``, since a
    descriptor has one owner: `Connection.socket` is there for who needs options.

    Args:
      connection: Closing either closes both.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        """The connection beneath."""

    def __repr__(self) -> str:
        return f"ByteStream({self.connection!r})"

    async def receive(self, max_bytes: int = RECEIVE_SIZE) -> bytes:
        """Receive up to ``max_bytes`` octets, at least one.

        Raises:
          anyio.EndOfStream: the peer has sent FIN.
          InvalidParameterError: ``max_bytes`` is below 1. (Yours; it is a `ValueError`.)
          BrokenError, ClosedError, BusyError: as the class says.

        Always a checkpoint. If cancelled, nothing was received.
        """
        try:
            data = await self.connection.receive_some(max_bytes)
        except _OURS as error:
            raise _in_both_words(error, "receiving from") from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Send all of it, as `Connection.send_all` does.

        Raises:
          BrokenError, ClosedError, BusyError: as the class says.

        Always a checkpoint. If cancelled, any part of it may have been sent.
        """
        try:
            await self.connection.send_all(item)
        except _OURS as error:
            raise _in_both_words(error, "sending to") from error

    async def send_eof(self) -> None:
        """Send FIN, as `Connection.send_eof` does.

        Raises:
          BrokenError, ClosedError, BusyError: as the class says.

        Always a checkpoint. If cancelled, FIN has not been sent.
        """
        try:
            await self.connection.send_eof()
        except _OURS as error:
            raise _in_both_words(error, "sending to") from error

    async def aclose(self) -> None:
        """Close the connection, as `Connection.aclose` does. Always a checkpoint."""
        await self.connection.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The addresses; the peer's is there also when it has gone."""
        connection = self.connection
        remote = connection.remote_address
        return {
            **_attributes_of(connection.local_address),
            SocketAttribute.remote_address: lambda: _sockaddr(remote),
            **({} if remote.is_unix else {SocketAttribute.remote_port: lambda: remote.port}),
        }


class Listener(anyio.abc.Listener[ByteStream]):
    """A listening socket as an ``anyio.abc.Listener``.

    Its extra attributes are those of the first of its addresses.

    Args:
      listening: It stays yours: closing either closes both.
    """

    def __init__(self, listening: ListeningSocket) -> None:
        self.listening = listening
        """The listening socket beneath."""

    def __repr__(self) -> str:
        return f"Listener({self.listening!r})"

    async def serve(
        self,
        handler: Callable[[ByteStream], Any],
        task_group: anyio.abc.TaskGroup | None = None,
    ) -> None:
        """Accept connections, and start ``handler(stream)`` in a task for each, for ever.

        These are anyio's rules: the handler closes its stream, and what it raises ends the task
        group. With `trio_wsk.serve` neither is so; its handlers can wrap their connections in
        `ByteStream`.

        Args:
          handler: An async function.
          task_group: Where the tasks are started; by default in one of its own.

        Raises:
          ClosedError: this side has closed the listening socket, before or meanwhile.
          BrokenError: it has failed.

        Always a checkpoint. If cancelled, no connection is lost.
        """
        async with AsyncExitStack() as stack:
            if task_group is None:
                task_group = await stack.enter_async_context(anyio.create_task_group())
            while True:
                stream = await self.accept()
                try:
                    task_group.start_soon(handler, stream)
                except BaseException:  # the group has ended, or Ctrl-C: nobody has the stream
                    stream.connection.abort()
                    raise

    async def accept(self) -> ByteStream:
        """Wait for the next connection.

        Raises, checkpoint, cancellation: as for `serve`.
        """
        try:
            return ByteStream(await self.listening.accept())
        except _OURS as error:
            raise _in_both_words(error, "accepting from") from error

    async def aclose(self) -> None:
        """Close the listening socket; see `ListeningSocket.aclose`. Always a checkpoint."""
        await self.listening.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The first of the addresses."""
        return _attributes_of(self.listening.local_addresses[0])


_OURS: Final = (trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError)


def _in_both_words(error: Exception, doing: str) -> Exception:
    """Make the error that is anyio's and Trio's at once; the one of ours is its cause."""
    if isinstance(error, trio.BusyResourceError):
        return BusyError(doing)
    kind = ClosedError if isinstance(error, trio.ClosedResourceError) else BrokenError
    return kind(str(error))


def _attributes_of(local: Address) -> dict[Any, Callable[[], Any]]:
    attributes: dict[Any, Callable[[], Any]] = {
        SocketAttribute.family: lambda: socket.AddressFamily(local.family),
        SocketAttribute.local_address: lambda: _sockaddr(local),
    }
    if not local.is_unix:
        attributes[SocketAttribute.local_port] = lambda: local.port
    return attributes


def _sockaddr(address: Address) -> tuple[str, int] | str:
    """Write an address as anyio does: a host with its zone and a port, or a path."""
    if address.path is not None:
        return address.path
    zone = f"%{address.scope_id}" if address.scope_id else ""
    return f"{address.host}{zone}", address.port
