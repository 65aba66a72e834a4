"""What the three ways to come by listening sockets have in common.

A *place* is where to listen: a TCP port, a Unix path, or sockets that exist. It makes the
sockets, sets them listening and takes back what it left in the world. It accepts nothing.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

from trio_wsk._vocabulary.arguments import whole_number
from trio_wsk._vocabulary.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trio_wsk._vocabulary.addresses import Address

__all__ = ["DEFAULT_BACKLOG", "Bound", "Place", "checked_backlog", "close_all"]

DEFAULT_BACKLOG: Final = 0xFFFF
"""As long as can be: the kernel cuts it down to its own limit (``net.core.somaxconn``).

A short queue breaks healthy servers in a burst. A long one gives up no back-pressure that a
short one had: to the peer, "connected and not served" and "not connected" look alike. More
than 16 bits wrap around on some systems (golang/go #5030). Trio argues the same way.
"""


class Bound:
    """One bound socket, with what accepting from it has to know."""

    __slots__ = ("accept", "address", "family", "kind", "proto", "socket", "tuned")

    def __init__(self, sock: socket.socket, address: Address, *, tuned: bool) -> None:
        self.socket: socket.socket = sock
        self.address: Address = address
        """Where it is bound; for a Unix socket that is where its peers find it."""
        # Plain integers: reading the properties of `socket.socket` makes an enum each time.
        self.family: int = int(sock.family)
        self.kind: int = int(sock.type)
        self.proto: int = sock.proto
        # accept4 and nothing else: a descriptor and the peer's address. What accept() adds is a
        # `socket.socket`, which costs more than accept4 and which nobody needs. This method of
        # Python's has no public name; all Pythons of today have it, PyPy too.
        self.accept: Callable[[], tuple[int, Any]] = sock._accept  # type: ignore[attr-defined] # typeshed has what is public
        self.tuned: bool = tuned
        """Whether the connections accepted from it need no `tune`."""


class Place(ABC):
    """Where to listen."""

    @property
    def is_shared(self) -> bool:
        """Whether what is queued in its sockets is others' when we close them."""
        return False

    @abstractmethod
    async def bind(self) -> Sequence[Bound]:
        """Make the sockets, non-blocking and bound. Always a checkpoint.

        Raises:
          BindError: an address can't be had; nothing is left behind.
        """

    @abstractmethod
    def listen(self) -> None:
        """Set the sockets listening.

        Raises:
          BindError: somebody else was faster.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the sockets, bound or not, and leave no trace. Never raises, idempotent."""


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close them, each of them."""
    for sock in sockets:
        try:
            sock.close()
        except OSError:
            pass  # EBADF: somebody has closed the descriptor behind our back


def checked_backlog(backlog: object) -> int:
    """Return the backlog to ask the kernel for."""
    if backlog is None:
        return DEFAULT_BACKLOG
    if not whole_number(backlog) or backlog < 0:
        raise InvalidParameterError(
            f"backlog={backlog!r} is no count of connections; write backlog=128, "
            f"or leave it out for as many as the system allows"
        )
    return min(backlog, DEFAULT_BACKLOG)
