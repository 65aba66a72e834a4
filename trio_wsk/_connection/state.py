"""What is noted of a connection, beside its channel.

What every connection needs are the slots of `Connection` and its bases; what few need is a
`RareState`, made when one first does: there may be a hundred thousand connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import trio

    from trio_wsk._vocabulary.records import ConnectionEnded

    from .carried import Carried
    from .send_queue import SendQueue

__all__ = [
    "ACTIVE",
    "END_TOLD",
    "FIN_RECEIVED",
    "FIN_SENT",
    "FLOWING",
    "HAD_LAST_LOOK",
    "HALFWAY",
    "HALF_CLOSED",
    "IDLE",
    "INTERRUPTED",
    "IN_DOUBT",
    "LINGERING",
    "LOST",
    "OVER_IDLE",
    "PEER_ENDING",
    "POSTED",
    "REFUSED",
    "RESET_HERE",
    "RESTED",
    "RESUMED",
    "RETIRED",
    "SHAKING_HANDS",
    "THE_BLOCKS",
    "TOLD",
    "WAITING",
    "Owner",
    "RareState",
]

# The task that sends: `Wire._sending`.
IDLE: Final = 0
"""There is none."""
WAITING: Final = 1
"""Its ``send_all`` stands in line behind what was queued before it."""
ACTIVE: Final = 2
"""Its ``send_all`` is sending; what is queued now stands in line behind it."""
HALFWAY: Final = 3
"""The same, and it waits for room, with a part of its data sent."""

# What becomes of octets that a receive callback has not taken: `RareState.flow`.
FLOWING: Final = 0
"""They are indicated again, like all that comes."""
REFUSED: Final = 1
"""Nothing is indicated until the callback is resumed, or a task has received."""
RESUMED: Final = 2
"""It was resumed from inside the callback, whose answer is still to come."""

# How each side ends, what has been said of it, and how the channel is heard of: bits of
# `Wire._marks`, all zero while a connection is in full swing. Python keeps one object for each
# number up to 256, so that even a hundred thousand connections that linger share these.
#
#                 the peer                           this side
#     flows       -                                  -
#     is to end   PEER_ENDING (an edge says so)      `RareState.fin_wanted` (something is queued)
#     has ended   FIN_RECEIVED (all is received)     FIN_SENT
#     is told     END_TOLD (to the callback)
#     waits                                          LINGERING (for FIN_RECEIVED, bounded),
#                                                    unless HALF_CLOSED
#
# FIN_RECEIVED and FIN_SENT together close a connection that has events. A reset is neither: it
# leaves `RareState.broken`, and LOST when the connection is closed for it.
FIN_RECEIVED: Final = 1
"""The peer has sent FIN, and everything before it was received."""
FIN_SENT: Final = 2
"""We have sent FIN."""
RESTED: Final = 4
"""A `send_all` has let other tasks run since octets were last received for a loop."""
END_TOLD: Final = 8
"""The disconnect event has told of FIN, or there is no callback that it could tell."""
LINGERING: Final = 16
"""After our FIN: closed when the peer has finished, too, or has been silent for long."""
PEER_ENDING: Final = 32
"""An edge has said that the peer has ended: a short read does not say any more that nothing is
left."""
IN_DOUBT: Final = 64
"""Nor does it here for another reason; see `Watch.in_doubt`."""
TOLD: Final = 128
"""The pump's readiness tells the connection of its edges, which has no watch for them."""
INTERRUPTED: Final = 256
"""Who waits for a next request is to receive nothing more, since there will be none."""
HAD_LAST_LOOK: Final = 512
"""The server drains, and what had come by then was all."""
HALF_CLOSED: Final = 1024
"""Our FIN, or the wish for it, ends nothing but our sending: the peer goes on, for as long as it
wants to."""
SHAKING_HANDS: Final = 2048
"""TLS is not there yet, and nobody has the connection before that."""
OVER_IDLE: Final = 4096
"""Nothing has passed for too long: whoever waits to receive is to hear of an end."""
RETIRED: Final = 8192
"""Its lifetime is over: it is to finish, as by a drain."""
RESET_HERE: Final = 16384
"""The server has reset it, under whoever held it."""
LOST: Final = 32768
"""The connection was closed because it had turned out to be broken."""

# Bits that no event and no edge has, and that leave small numbers small.
THE_BLOCKS: Final = 1
"""Among the enabled events, `Turns._enabled`: the accept event has taken the connection, so that
nobody but the block would end it."""
POSTED: Final = 0x20
"""Among the edges that are due, `Turns._due`: the pump has been asked for a turn."""


class RareState:
    """What few connections have: something refused or queued, an error, a public socket."""

    __slots__ = (
        "broken",
        "carried",
        "cut_at",
        "ended",
        "failure",
        "fin_wanted",
        "flow",
        "held",
        "ideal",
        "octets_then",
        "queue",
        "routines_due",
        "sender",
        "socket",
    )

    def __init__(self) -> None:
        self.carried: Carried | None = None
        """What it has carried until it was closed."""
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
        self.flow = FLOWING
        """`FLOWING`, `REFUSED` or `RESUMED`."""
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
