"""The contract of a request: how it is answered, and what becomes of it; a part of `_contract`.

The life of a request here: `Transport.next_request` returns the request; who has to know that
the peer leaves says `TransportRequest.watch_end`; "no" is `~TransportRequest.reset`,
`~TransportRequest.finish` or `~TransportRequest.silence`; "yes" is `~TransportRequest.approve`,
and when the handshake is over, `~TransportRequest.accept` gives the bytes.

Between the two a request whose handshake is over is one like those that appear after it: it can be
peeked at, and answered once more, with yes or no.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from trio_wsk._vocabulary.errors import InvalidDeviceStateError
from trio_wsk._vocabulary.verdict import InspectPoint

if TYPE_CHECKING:
    import trio

    from trio_wsk._engine.readiness import Readiness, Watch
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.credentials import PeerCredentials

    from ._syn import Syn
    from ._tls_info import TLSInfo

    Octets = bytes | bytearray | memoryview

__all__ = [
    "IDEAL_SEND_BACKLOG",
    "Channel",
    "PeerEnd",
    "RequestKeeper",
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

    The watch may be told of edges from inside a call, if it makes something come; but none
    from inside one that raises `BlockingIOError`, after which one waits for the next.
    """

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return up to ``bufsize`` octets; ``b""`` after the peer's FIN."""

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        """Receive into ``buffer``; return how many octets, 0 after the peer's FIN."""

    def send(self, data: Octets, flags: int = 0, /) -> int:
        """Take some of ``data``; return how many octets."""

    def shutdown(self, how: int, /) -> None:
        """``SHUT_WR``: send FIN after what was taken.

        Raises `BlockingIOError` if something has to go before FIN and has no room: a good-bye
        of TLS. Then it is called again when there is.
        """

    def close(self) -> None:
        """Give the channel up. Never raises, never blocks."""

    def fileno(self) -> int:
        """The descriptor, or -1 for a channel that has none, and after ``close``."""


next_serial_number: Final = count(1).__next__
"""Number a request, whatever its transport; no number comes twice in a process."""


class PeerEnd(enum.Enum):
    """How a peer left while its request was kept. What follows from it is not decided here."""

    RESET = "reset"
    """The peer has reset, or the network says that the peer is gone."""
    CLOSED = "closed"
    """The peer has ended both directions, and the system can tell: an answer would go unread."""
    FIN = "fin"
    """The peer has finished sending, and had sent nothing."""
    FIN_AFTER_DATA = "fin after data"
    """The peer has finished sending after it had sent something, and may wait for an answer."""
    SILENT = "silent"
    """The peer has stopped asking (no SYN comes any more), or has never answered our yes."""


class RequestKeeper(Protocol):
    """The keeper of a request, who is told what becomes of the request meanwhile.

    Both methods are called from where something was noticed, so they take note and run no user
    code. They may answer the request from inside the call.
    """

    def peer_ended(self, request: TransportRequest, end: PeerEnd) -> None:
        """Take note that the peer has left in this way; again if there is more (FIN, then RST)."""

    def established(self, request: TransportRequest) -> None:
        """Take note: an approved request's handshake is over; ``accept()`` gives its channel."""


class TransportRequest(ABC):
    """One request for a connection, to be answered exactly once; or once more, when established.

    Answer it with `reset`, `finish` or `silence`; or with `approve`, and then take it with
    `accept`, or drop it all the same with `reset`. The addresses are right even when the peer
    has gone in the meantime.
    """

    __slots__ = ()

    is_watched_by_descriptor: bool = False
    """Whether `watch` is no more than a `Watch` of the channel's descriptor. Then connections
    that nobody awaits do without it."""

    is_opened_here: bool = False
    """Whether this side has asked the peer for the connection, and not the peer this side: then
    no listening socket has let it in."""

    @property
    def short_read_is_all(self) -> bool:
        """Whether ``recv`` returns less than it was asked for only when nothing is left.

        Unless an edge has told of the peer's end or of urgent data, that is. Then a receive that
        follows a short one waits at once; else it asks first, which is right for any channel.
        """
        return False

    @property
    def tls(self) -> TLSInfo | None:
        """What was agreed on in its TLS handshake; None without, or before that is over."""
        return None

    @property
    def inspect_point(self) -> InspectPoint:
        """When this request has appeared, and so what its peer knows by now.

        A transport that inspects before the handshake may have requests that come after it.
        """
        return InspectPoint.AFTER_HANDSHAKE

    @property
    @abstractmethod
    def serial_number(self) -> int:
        """This request's number; never used again in this process."""

    @property
    @abstractmethod
    def local_address(self) -> Address:
        """Where the peer connected to.

        The system may have to be asked for the address: look before the channel is closed.
        """

    @property
    @abstractmethod
    def remote_address(self) -> Address:
        """Where the peer is at."""

    @property
    def syn(self) -> Syn | None:
        """What the peer's SYN says, where the transport has seen it."""
        return None

    def approve(self) -> bool:
        """Answer yes.

        Returns:
          Whether the connection is there, so that `accept` may follow at once. If not, the
          handshake goes on now, and the `RequestKeeper` given to `watch_end` is told when it
          is over, or that the peer has left. Where requests appear after the handshake there
          is nothing to do, as there is when the handshake of this one is over, and it has been
          asked about again.
        """
        return True

    @abstractmethod
    def accept(self) -> Channel:
        """Return the connection's bytes, which are the caller's to close; `approve` comes first.

        What a connection needs to be set, and has not inherited from its listening socket, is
        set by then.

        `unwatch_end` comes before it, if the request is watched.
        """

    @abstractmethod
    def reset(self) -> None:
        """Answer with a reset (RST); also after `approve`. Never raises."""

    def finish(self) -> None:
        """Answer with an end in good order (FIN), where that can be told apart from a reset.

        Never raises.
        """
        self.reset()

    def silence(self) -> bool:
        """Give no answer at all, where the transport can keep still; else reset.

        Returns:
          Whether the peer hears nothing. Never raises.
        """
        self.reset()
        return False

    @abstractmethod
    def was_reset(self) -> bool:
        """Whether the peer has reset the connection while it waited here.

        Data followed by FIN is not a reset: the peer may be waiting for its answer.
        """

    @abstractmethod
    def watch_end(self, readiness: Readiness, keeper: RequestKeeper) -> None:
        """Tell ``keeper`` when the peer leaves, from now on; also behind unread data.

        What is true already is told, too, but not from inside this call.

        Args:
          readiness: The owner's pump's, for transports whose requests have descriptors.
          keeper: The one to tell.
        """

    @abstractmethod
    def unwatch_end(self) -> None:
        """Tell nothing more. Answering with anything but `approve` does the same. Idempotent."""

    def peek(self, count: int) -> tuple[bytes, bool]:  # noqa: ARG002 - others can
        """Return the octets that have come, up to ``count``, and leave them; never waits.

        All that have come: an inspector takes what it is shown before the peer's end for the
        whole, so a look that is stopped before the rest must go on behind it, or fail.

        Returns:
          The octets, and whether the peer has finished, so that no more can come.

        Raises:
          InvalidDeviceStateError: before the end of the handshake there are none. (The caller's.)
          PeerFaultError: the connection is broken, or its peer has sent what can't be looked at.
        """
        raise InvalidDeviceStateError("before the handshake there are no octets to peek at")

    async def wait_for_more(self) -> None:
        """Wait until more may have come than `peek` saw; says "look again", no more.

        Only while the request is watched; returns when it is not watched any more, too.
        Always a checkpoint.
        """
        raise InvalidDeviceStateError("before the handshake there are no octets to wait for")

    def consume(self, count: int) -> None:  # noqa: ARG002 - others can
        """Take so many of the first octets, all of which `peek` has shown, for who inspects.

        What follows them is the connection's, and what `peek` shows from then on.

        Raises:
          InvalidDeviceStateError: before the end of the handshake there are none. (The caller's.)
          PeerFaultError: the connection is broken.
        """
        raise InvalidDeviceStateError("before the handshake there are no octets to take")

    @abstractmethod
    def watch(self, channel: Channel) -> Watch:
        """Make the watch through which tasks and pumps wait for this channel.

        A channel without a descriptor comes with its home set: a readiness of the
        transport's own, which keeps it to the end.
        """

    def abort(self, channel: Channel) -> None:
        """Close the channel of an accepted request with a reset. Never raises."""
        channel.close()

    def peer_credentials(self) -> PeerCredentials | None:
        """Who the peer is, where it is on this machine and the system tells, until it is closed."""
        return None

    def traffic(self, channel: Channel) -> tuple[int, float] | None:  # noqa: ARG002 - others can tell
        """How much has passed on an accepted channel, and how long ago. Asked rarely. Never raises.

        Returns:
          A number that grows by whatever is received, and by whatever the peer has taken, and by
          nothing that is sent again; and how many seconds ago the last octet passed either way or,
          if none has, the connection was there. Or None, where the system can't tell.
        """
        return None

    def is_halfway(self, channel: Channel) -> bool:  # noqa: ARG002 - others can be
        """Whether some of what ``send`` was given last may have left, though none counts as taken.

        So it is with TLS, which sends whole records. The next ``send`` is given the same octets.
        """
        return False

    def give_up(self, channel: Channel) -> None:  # noqa: B027 - nothing is ever halfway
        """Say that the next ``send`` is given others, although it `is_halfway`."""

    def has_part(self, channel: Channel) -> bool:  # noqa: ARG002 - others can
        """Whether a part has come of what ``recv`` returns whole or not at all: of a TLS record."""
        return False

    def lowest(self, channel: Channel) -> Channel:
        """Return what the octets of a channel pass as they are on the network: itself, without TLS.

        For who throws them away.
        """
        return channel

    def say_good_bye(self, channel: Channel) -> bool:  # noqa: ARG002 - there is none below TLS
        """Say what is said before FIN, and may be said before the last wait for room.

        Returns:
          Whether there was room for it. If not, `Channel.shutdown` goes on with it.

        Raises:
          OSError: the connection is broken.
        """
        return True

    def waive_good_bye(self, channel: Channel) -> None:  # noqa: B027 - there is none below TLS
        """Take the peer's FIN for its end from now on, with a good-bye of TLS before it or without.

        We have said ours, and nobody has to wait for the answer (RFC 5246, 7.2.1).
        """

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

    def private_channel(self, channel: Channel) -> Channel:
        """Take a channel back out of its public socket, if it has one, which is closed then.

        Returns:
          The channel to go on with.
        """
        return channel
