"""What transports over listening sockets have in common, whenever their requests appear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_wsk._vocabulary.errors import InvalidDeviceStateError, SocketClosedError
from trio_wsk._vocabulary.verdict import CloseStyle

from ._contract import Transport
from ._socket_request import can_be_silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsk._vocabulary.addresses import Address

    from ._places import Bound, Place

__all__ = ["SocketTransport"]


class SocketTransport(Transport):
    """A place to listen at, and what becomes of its sockets from bind to close."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._bound: Sequence[Bound] = ()
        self._is_listening = False
        self._is_closed = False
        self._public: tuple[trio.socket.SocketType, ...] | None = None

    def __repr__(self) -> str:
        addresses = ", ".join(str(address) for address in self.local_addresses)
        return f"<{type(self).__name__} on {addresses or 'nothing yet'}>"

    async def bind(self) -> None:
        """Take the addresses. No request appears yet.

        Always a checkpoint. If it fails or is cancelled, the transport is closed.
        """
        if self._bound:
            raise InvalidDeviceStateError("this transport is bound already")
        self._check_open()
        try:
            bound = await self._place.bind()
            self._check_open()
            self._bound = bound
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        """Do what has to be done between bind and listen."""

    def _start_listening(self) -> None:
        """Have the sockets listen, once; if it fails, close."""
        self._check_open()
        if self._is_listening or not self._bound:
            raise InvalidDeviceStateError("a transport listens once, after it is bound")
        self._is_listening = True
        try:
            self._place.listen()
        except BaseException:
            self.close()
            raise

    def _check_open(self) -> None:
        if self._is_closed:
            self._place.close()  # it may have been closed while it was being bound
            raise SocketClosedError("this transport is closed")

    @property
    def local_addresses(self) -> Sequence[Address]:
        """The addresses that are bound."""
        return [bound.address for bound in self._bound]

    def close_styles_when_established(self) -> frozenset[CloseStyle]:
        """Return reset and FIN; and silence for TCP on Linux with CAP_NET_ADMIN."""
        styles = frozenset({CloseStyle.RESET, CloseStyle.FIN})
        is_silent = all(can_be_silent(bound.family, bound.proto) for bound in self._bound)
        return styles | {CloseStyle.SILENT} if is_silent else styles

    def public_sockets(self) -> Sequence[trio.socket.SocketType]:
        """The listening sockets, for those who look at them; they stay the transport's."""
        if self._public is None:
            self._public = tuple(
                trio.socket.from_stdlib_socket(bound.socket) for bound in self._bound
            )
        return self._public

    def leave(self) -> bool:
        """Leave the queue to those who share the sockets, or have them after us."""
        if not self._place.is_shared:
            return False
        self.close()
        return True

    def close(self) -> None:
        """Stop listening; the kernel resets what it has queued. Never raises, idempotent."""
        self._is_closed = True
        # Somebody may wait on a public socket, which only Trio can tell that it is closed.
        public, self._public = self._public, ()
        for sock in public or ():
            if sock.fileno() >= 0 and trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(sock)
        self._place.close()
