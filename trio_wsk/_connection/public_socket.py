"""The public socket of a connection: a Trio socket that says when its owner closes it.

A connection and its public socket are one descriptor. The kernel forgets a closed descriptor
without a word, and Trio tells only tasks that wait for it. Nobody waits for a connection with
events: it would go on for ever, and hold its permit.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, NoReturn, final

import trio

from trio_wsk._vocabulary.errors import InvalidDeviceStateError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Protocol

    from typing_extensions import Self

    class Closing(Protocol):
        """Whose socket it is."""

        def _close_by_socket(self) -> None:
            """Close, as the owner of the public socket wants it; idempotent."""

        def _shut_down_by_socket(self, inner: trio.socket.SocketType, how: int) -> None:
            """Shut it down, as the owner of the public socket wants it."""

        def _detach_by_socket(self) -> None:
            """Let go of the descriptor, or refuse to; idempotent."""


__all__ = ["PublicSocket", "SocketBelowTLS"]


class PublicSocket(trio.socket.SocketType):
    """All that Trio's socket is, and its connection ends with it.

    Args:
      inner: Trio's own, which does everything.
      connection: Whose it is.
    """

    def __init__(self, inner: trio.socket.SocketType, connection: Closing) -> None:
        super().__init__()
        self._inner = inner
        self._connection = connection

    def __repr__(self) -> str:
        return repr(self._inner)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it and its connection; tasks that wait get `trio.ClosedResourceError`."""
        self._connection._close_by_socket()
        self._inner.close()  # if the connection had let go of it before

    def shutdown(self, how: int) -> None:
        """Shut it down; FIN that this sends is its connection's."""
        self._connection._shut_down_by_socket(self._inner, how)

    def detach(self) -> int:
        """Take the descriptor out; connection and socket are closed without it.

        Raises:
          InvalidDeviceStateError: it is a listening socket's, which still listens. (Yours.)
        """
        self._connection._detach_by_socket()
        return self._inner.detach()


# What is not above is Trio's: its methods are bound there, and cost nothing further.
for _name in dir(trio.socket.SocketType):
    if not _name.startswith("_") and _name not in vars(PublicSocket):
        setattr(PublicSocket, _name, property(attrgetter(f"_inner.{_name}")))


@final
class SocketBelowTLS(PublicSocket):
    """The same for a connection that speaks TLS, whose octets are TLS's: for options and such."""

    def detach(self) -> int:
        """Refuse: another owner of the descriptor would not have TLS's keys."""
        raise InvalidDeviceStateError(
            "connection.socket.detach() of a connection that speaks TLS, which its next owner could"
            " not go on with; serve it without ssl_context, and have that one shake hands"
        )

    def _refuse(self, *_: object) -> NoReturn:
        raise InvalidDeviceStateError(
            "connection.socket is below TLS, which loses its place by octets that pass beside it;"
            " use the connection: receive_some(), send_all(data)"
        )


for _name in dir(trio.socket.SocketType):
    if _name.startswith(("recv", "send")):
        setattr(SocketBelowTLS, _name, SocketBelowTLS._refuse)
del _name
