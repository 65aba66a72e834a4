"""The server's end of a connection in memory, as the connection over it uses it."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Final

from ._endpoint import Phase

if TYPE_CHECKING:
    from ._endpoint import Endpoint
    from ._sending import Octets

__all__ = ["MemoryChannel"]

_EBADF: Final = errno.EBADF
_PEEK: Final = int(socket.MSG_PEEK)


class MemoryChannel:
    """A `Channel` that is no descriptor: what a non-blocking socket is to a connection.

    Args:
      endpoint: The end of the connection that the channel is the handle of.
    """

    __slots__ = ("endpoint",)

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint: Final = endpoint
        """The end that the network keeps, also when the channel is closed."""

    def __repr__(self) -> str:
        end = self.endpoint
        return f"<MemoryChannel {end.state.value} {end.local_address} with {end.remote_address}>"

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return up to ``bufsize`` octets; ``b""`` after the peer's FIN, or a reset once told.

        ``MSG_PEEK`` is the one flag that means something here.
        """
        endpoint = self.endpoint
        if endpoint.closed:
            raise _os_error(_EBADF)
        if flags & _PEEK and endpoint.receiving.unread:
            return endpoint.receiving.look(bufsize)
        data = endpoint.take(bufsize)
        if data is None:
            return self._nothing_to_read()
        if endpoint.carrier.outbox:
            endpoint.carrier.flush()
        return data

    def _nothing_to_read(self) -> bytes:
        if self.endpoint.error:
            raise self._told_once()
        if self.endpoint.phase is Phase.OVER:
            return b""
        raise _os_error(errno.EAGAIN)

    def _told_once(self) -> OSError:
        endpoint = self.endpoint
        error, endpoint.error = endpoint.error, 0
        return _os_error(error)

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        """Receive into ``buffer``; return how many octets, 0 after the peer's FIN."""
        with memoryview(buffer).cast("B") as view:
            data = self.recv(nbytes or view.nbytes, flags)
            view[: len(data)] = data
        return len(data)

    def send(self, data: Octets, flags: int = 0, /) -> int:  # noqa: ARG002 - MSG_MORE is a hint
        """Take some of ``data``; return how many octets."""
        endpoint = self.endpoint
        if endpoint.closed:
            raise _os_error(_EBADF)
        if endpoint.error:
            raise self._told_once()
        if endpoint.sending.fin_wanted or endpoint.phase is Phase.OVER:
            raise _os_error(errno.EPIPE)
        if type(data) is not bytes:
            data = memoryview(data).cast("B")
        taken = endpoint.put(data)
        if taken:
            endpoint.carrier.flush()
        elif len(data):
            raise _os_error(errno.EAGAIN)
        return taken

    def shutdown(self, how: int, /) -> None:
        """``SHUT_WR``: send FIN after what was taken."""
        endpoint = self.endpoint
        if endpoint.closed:
            raise _os_error(_EBADF)
        if endpoint.phase is not Phase.OPEN:
            raise _os_error(errno.ENOTCONN)
        if how != socket.SHUT_RD:
            endpoint.finish_sending()
            endpoint.carrier.flush()

    def close(self) -> None:
        """Send FIN, or RST if something is unread, and be done with it."""
        endpoint = self.endpoint
        if not endpoint.closed:
            endpoint.let_go()
            endpoint.carrier.flush()

    def fileno(self) -> int:
        """Return -1: there is no descriptor."""
        return -1


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
