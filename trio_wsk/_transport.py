"""The contract of a transport: how connection requests appear, and how they are answered.

A transport decides nothing. It binds, it listens, it yields requests, and it gives
each one the answer it is told to give. Policy is the listening socket's.

Three shapes have to fit through here, so nothing in the contract is a socket:

* the portable transport, whose request is an accepted connection that nobody has
  seen yet, and whose channel is a non-blocking ``_socket.socket`` as it stands;
* a network in memory, whose channels have no descriptor;
* inspection before the handshake, where a request exists before any socket does.

To make your own, subclass `Transport` and `TransportRequest` and hand the transport to
``open_listening_socket(transport=...)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from ._readiness import open_pump_readiness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import trio

    from ._addresses import Address
    from ._readiness import Readiness, Watch

    Octets = bytes | bytearray | memoryview

__all__ = [
    "Channel",
    "NoDescriptorsError",
    "PeerFaultError",
    "Transport",
    "TransportFailedError",
    "TransportRequest",
    "next_serial_number",
]


IDEAL_SEND_BACKLOG = 65536
"""What is said of a channel that can't tell: the receive window of TCP without scaling."""


@runtime_checkable
class Channel(Protocol):
    """The bytes of one connection, shaped like a non-blocking socket.

    Every method returns at once. ``recv`` and ``send`` raise `BlockingIOError` when
    they would have to wait, and another `OSError` when the connection is broken.
    ``_socket.socket`` is one as it stands.
    """

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return up to ``bufsize`` octets; ``b""`` after the peer's FIN."""

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        """Receive into ``buffer``; return how many octets, 0 after the peer's FIN."""

    def send(self, data: Octets, flags: int = 0, /) -> int:
        """Take some of ``data``; return how many octets."""

    def shutdown(self, how: int, /) -> None:
        """``SHUT_WR``: send FIN after what was taken."""

    def close(self) -> None:
        """Give the channel up. Never raises, never blocks."""

    def fileno(self) -> int:
        """The descriptor, or -1 for a channel that has none, and after ``close``."""


next_serial_number: Final = count(1).__next__
"""Number a request, whatever its transport; no number comes twice in a process."""


class PeerFaultError(Exception):
    """One connection request failed by its own fault; the next one may be fine."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error
        """What the operating system said."""


class TransportFailedError(Exception):
    """The transport itself has failed: no request comes any more."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error
        """What the operating system said."""


class NoDescriptorsError(Exception):
    """The machine has no descriptor or no memory for another connection now.

    The request stays where it was; try again later.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error
        """What the operating system said."""


class TransportRequest(ABC):
    """One request for a connection, to be answered exactly once.

    Answer it with `accept`, `reset`, `finish` or `silence`. The addresses are right
    even when the peer has gone in the meantime.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def serial_number(self) -> int:
        """This request's number; never used again in this process."""

    @property
    @abstractmethod
    def local_address(self) -> Address:
        """Where the peer connected to.

        It may have to be asked for: look before the channel is closed.
        """

    @property
    @abstractmethod
    def remote_address(self) -> Address:
        """Who wants to connect."""

    @abstractmethod
    def accept(self) -> Channel:
        """Answer yes, and return the connection's bytes, which are the caller's to close."""

    @abstractmethod
    def reset(self) -> None:
        """Answer with a reset (RST). Never raises."""

    def finish(self) -> None:
        """Answer with an end in good order (FIN), where that can be told apart from a reset."""
        self.reset()

    def silence(self) -> None:
        """Give no answer at all, where the transport can keep still; else reset."""
        self.reset()

    @abstractmethod
    def was_reset(self) -> bool:
        """Whether the peer has reset the connection while it waited here.

        Data followed by FIN is not a reset: the peer may be waiting for its answer.
        """

    @abstractmethod
    def watch(self, channel: Channel) -> Watch:
        """Make the watch through which tasks and pumps wait for this channel.

        A channel without a descriptor comes with its home set: a readiness of the
        transport's own, which keeps it to the end.
        """

    def abort(self, channel: Channel) -> None:
        """Close the channel of an accepted request with a reset. Never raises."""
        channel.close()

    def ideal_send_backlog(self, channel: Channel) -> int:  # noqa: ARG002 - others can tell
        """How many octets should be outstanding on this channel to keep its path busy."""
        return IDEAL_SEND_BACKLOG

    def public_socket(
        self,
        channel: Channel,  # noqa: ARG002 - others have one
    ) -> tuple[Channel, trio.socket.SocketType]:
        """Move the channel into one public Trio socket.

        Returns:
          The channel to go on with, which shares the socket's descriptor, and the socket.

        Raises:
          AttributeError: this transport's connections are no sockets.
        """
        raise AttributeError("this transport's connections are no sockets")

    def tune(self, channel: Channel) -> None:  # noqa: B027 - most transports have nothing to set
        """Set what a connection needs and did not inherit from its listening socket."""


class Transport(ABC):
    """Where requests come from. One listening block owns it, from bind to close."""

    edge: Callable[[], None]
    """Set by the owner before `listen`: call it when `next_request` may have something
    after it had nothing."""

    @abstractmethod
    async def bind(self) -> None:
        """Take the addresses. No request appears yet.

        Raises:
          BindError: an address can't be had. The transport is closed then, as it is
            when this is cancelled.
        """

    @abstractmethod
    def listen(self, readiness: Readiness) -> None:
        """From now on requests appear; ``readiness`` is the owner's pump's.

        Raises:
          BindError: somebody was faster between `bind` and here: on Linux two sockets may
            be bound to one port, and the second to listen is told. The transport is closed.
        """

    @property
    @abstractmethod
    def local_addresses(self) -> Sequence[Address]:
        """The addresses that are bound, with the port the kernel chose."""

    @abstractmethod
    def next_request(self) -> TransportRequest | None:
        """Return the next request, or None; after None `edge` is called for the next one.

        Raises:
          PeerFaultError: this one request failed; go on.
          NoDescriptorsError: try again later, or `shed`.
          TransportFailedError: the transport itself has failed.
        """

    @abstractmethod
    def has_more(self) -> bool:
        """Whether `next_request` is worth asking without an edge."""

    def keep_spare(self) -> bool:
        """Set a descriptor aside for `shed`; False if there is none to be had."""
        return False

    def shed(self) -> bool:
        """Out of descriptors: reset the oldest waiting request with the one set aside.

        Returns:
          Whether one was. Not without a spare descriptor, not if nobody waits, and not if
          the transport has failed, which the next `next_request` says.
        """
        return False

    def queue_depth(self) -> tuple[int, int] | None:
        """How many connections wait in the kernel for accept, and how many may; None if unknown."""
        return None

    def public_sockets(self) -> Sequence[trio.socket.SocketType]:
        """The listening sockets, for those who look at them."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """Stop listening; the kernel resets what it has queued. Never raises, idempotent."""

    def pump_readiness(
        self, start_soon: Callable[[Callable[..., Awaitable[object]], Watch, int], object]
    ) -> Readiness:
        """Make the readiness that the listening block's pump drives."""
        return open_pump_readiness(start_soon)
