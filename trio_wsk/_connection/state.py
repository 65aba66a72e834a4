"""What is noted of a connection, beside its channel.

What every connection needs are the slots of `Connection` and its bases; what few need is a
`RareState`, made when one first does: there may be a hundred thousand connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import trio

    from trio_wsk._vocabulary.records import ConnectionEnded

    from .send_queue import SendQueue

__all__ = [
    "ACTIVE",
    "ENDING",
    "END_TOLD",
    "FIN_RECEIVED",
    "FIN_SENT",
    "HAD_LAST_LOOK",
    "HALFWAY",
    "IDLE",
    "INTERRUPTED",
    "IN_DOUBT",
    "LINGERING",
    "LOST",
    "REFUSED",
    "RESUMED",
    "TOLD",
    "WAITING",
    "Owner",
    "RareState",
]

IDLE: Final = 0
"""No task is sending."""
WAITING: Final = 1
"""A task's ``send_all`` stands in line behind what was queued before it."""
ACTIVE: Final = 2
"""A task's ``send_all`` is sending; what is queued now stands in line behind it."""

# What is noted of a connection: bits of `Wire._marks`, all zero while it is in full swing.
FIN_RECEIVED: Final = 1
"""The peer has sent FIN, and everything before it was received."""
FIN_SENT: Final = 2
"""We have sent FIN."""
LOST: Final = 4
"""It was closed because it had turned out to be broken."""
END_TOLD: Final = 8
"""The disconnect event has told of FIN, or there is no callback that it could tell."""
REFUSED: Final = 16
"""The receive callback has not taken everything, and wants no more until it is resumed."""
RESUMED: Final = 32
"""It was resumed from inside the receive callback."""
TOLD: Final = 64
"""The pump's readiness tells the connection of its edges, which has no watch for them."""
ENDING: Final = 128
"""An edge has said that the peer has ended: nothing counts as drained any more."""
LINGERING: Final = 256
"""After our FIN: it is closed when the peer has finished, too, or has been silent for long."""
IN_DOUBT: Final = 512
"""A short read does not say that nothing is left; see `Watch.in_doubt`."""
HALFWAY: Final = 1024
"""A task's ``send_all`` waits for room, and has sent a part of its data."""

INTERRUPTED: Final = 2048
"""Who waits for a next request is to receive nothing more, since there will be none."""
HAD_LAST_LOOK: Final = 4096
"""The server drains, and what had come by then was all."""


class RareState:
    """What few connections have: something refused or queued, an error, a public socket."""

    __slots__ = (
        "broken",
        "cut_at",
        "ended",
        "failure",
        "fin_wanted",
        "held",
        "ideal",
        "octets_then",
        "queue",
        "routines_due",
        "sender",
        "socket",
    )

    def __init__(self) -> None:
        self.broken: OSError | None = None
        """Why nothing can be sent or received any more."""
        self.failure: BaseException | None = None
        """What a callback raised, for which it is reset."""
        self.ended: ConnectionEnded | None = None
        """How it ended, if that was in its accept callback, whose answer is still to come."""
        self.cut_at = -1
        """How many octets had been sent in all when a task's ``send_all`` was cut short."""
        self.socket: trio.socket.SocketType | None = None
        """The public socket, which is the same descriptor as the channel."""
        self.held = b""
        """Received, and not taken by a callback, or found by who waited for a next request."""
        self.queue: SendQueue | None = None
        """What is to be sent when the kernel takes more."""
        self.octets_then = 0
        """How many octets had been sent in all when the peer's time to take some began."""
        self.sender: trio.CancelScope | None = None
        """What bounds the task that sends the queue after the block; there is one at most."""
        self.fin_wanted = False
        """FIN follows what is queued."""
        self.routines_due = 0
        """How many completion routines are still to be called."""
        self.ideal = 0
        """The send backlog that was last indicated, in octets."""


class Owner(Protocol):
    """What keeps account of a connection, in its own room or in one above."""

    delivers: bool
    """Whether its connections were delivered to somebody, so that their ends are news."""

    def ended(self, connection: Any) -> None:  # noqa: ANN401 - a layer above
        """Take note: this side has closed it."""
