"""The listening sockets themselves, for those who look at them; who closes one closes all."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from trio_wsk._connection.public_socket import PublicSocket
from trio_wsk._engine.callers import check_ending_caller
from trio_wsk._vocabulary.errors import InvalidDeviceStateError, NoSocketError

from .stages import LISTENING

if TYPE_CHECKING:
    import trio

    from .stages import Stages

__all__ = ["PublicSockets"]


@final
class PublicSockets:
    """The public sockets of one listening socket, made when they are asked for."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._made: list[PublicSocket] = []

    def all(self) -> list[trio.socket.SocketType]:
        """Return them; none if the listening socket listens no more."""
        if self._stages.state is not LISTENING:
            self._made = []
        elif not self._made:
            inner = self._stages.transport.public_sockets()
            self._made = [PublicSocket(each, self) for each in inner]
        return list(self._made)

    def first(self) -> trio.socket.SocketType:
        """Return the first of them; see `ListeningSocket.socket`."""
        if self._stages.state is not LISTENING:
            reason = self._stages.why_not()
            raise NoSocketError(f"{reason}, and so has no socket any more") from reason
        sockets = self.all()
        if not sockets:
            raise AttributeError(f"{type(self._stages.transport).__name__} has no sockets")
        return sockets[0]

    def _close_by_socket(self) -> None:
        check_ending_caller(self._stages.block.home, "listening.socket.close")
        self._stages.close()

    def _shut_down_by_socket(self, inner: trio.socket.SocketType, how: int) -> None:
        """Shut it down: nothing listens there any more, which the next accept finds out."""
        check_ending_caller(self._stages.block.home, "listening.socket.shutdown")
        inner.shutdown(how)

    def _detach_by_socket(self) -> None:
        """Refuse: without its descriptor it would listen in name only."""
        check_ending_caller(self._stages.block.home, "listening.socket.detach")
        if self._stages.state is LISTENING:
            raise InvalidDeviceStateError(
                "a listening socket keeps its descriptor for as long as it listens; to hand it"
                " over, duplicate it and close this one: os.dup(listening.socket.fileno()), then"
                " await listening.aclose()"
            )
