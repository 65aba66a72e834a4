"""What the table of SYNs speaks of: a request, where it is in its life, and what follows.

Nothing here knows a socket, a clock or a task.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

import attrs

from trio_wsk.transports._heartbeat import Heartbeat

if TYPE_CHECKING:
    from trio_wsk.transports._syn import Key
    from trio_wsk.transports._transport_request import PeerEnd

__all__ = ["Act", "Decision", "Due", "Entry", "Over", "OwnerT", "Stage", "Stranger"]

OwnerT = TypeVar("OwnerT")
"""What a transport has made of an entry."""


class Stage(enum.Enum):
    """Where a request is in its life."""

    HELD = "held"
    """The SYN waits in the queue, without a verdict."""
    APPROVED = "approved"
    """The SYN was let through; no connection has been seen."""
    ESTABLISHED = "established"
    """The connection is there, and was taken."""
    REJECTED = "rejected"
    """The peer was turned away with a reset."""
    SILENCED = "silenced"
    """The peer was turned away without an answer."""
    GONE = "gone"
    """The peer has left."""

    # Members are singletons; the inherited hash is a Python function, which is too slow here.
    __hash__ = object.__hash__


class Act(enum.Enum):
    """What has to be done."""

    HOLD = "hold"
    """Leave the packet, which is a new request, in the queue."""
    ACCEPT = "accept"
    """Let the packet through: the kernel answers with SYN-ACK."""
    REJECT = "reject"
    """Have the packet answered with RST."""
    DROP = "drop"
    """Drop the packet: its sender hears nothing."""
    __hash__ = object.__hash__


class Stranger(enum.Enum):
    """A connection of no approved request, which is never to be taken for one."""

    UNINSPECTED = "uninspected"
    """No inspector has been asked about the connection: ask now, or reset it."""
    TURNED_AWAY = "turned away"
    """The request was turned away, or given up as lost: reset the connection."""


@final
class Entry(Heartbeat, Generic[OwnerT]):
    """One request for a connection, from its first SYN on."""

    __slots__ = (
        "alarm",
        "approved_at",
        "isn",
        "key",
        "looked_at",
        "owner",
        "packet_id",
        "stage",
    )

    # Set by `SynTable.approve`, and of no meaning before.
    approved_at: float
    looked_at: float
    """When the kernel was last asked for the connection, or else the approval."""

    def __init__(self, key: Key, isn: int, packet_id: int, now: float) -> None:
        """Made by the table."""
        super().__init__(now)
        self.key: Final = key
        self.isn: Final = isn
        """The sequence number of the SYN."""
        self.packet_id: Final = packet_id
        """The packet that is held, until there is a verdict."""
        self.stage: Stage = Stage.HELD
        self.owner: OwnerT | None = None
        """What the transport has made of the entry; the table doesn't look."""
        self.alarm = 0

    def __repr__(self) -> str:
        return f"<Entry {self.stage.value}, {self.isn} of {self.key}>"


@final
@attrs.frozen
class Over(Generic[OwnerT]):
    """A request that is over because its peer has left: something to do, and somebody to tell."""

    entry: Entry[OwnerT]
    end: PeerEnd
    """What its keeper is told."""
    act: Act | None
    """What has to be done with its packet; None if it has none any more."""


@final
@attrs.frozen
class Decision(Generic[OwnerT]):
    """What follows from a SYN."""

    act: Act
    """What has to be done with this packet."""
    entry: Entry[OwnerT] | None = None
    """The new request, of `Act.HOLD`."""


@final
@attrs.frozen
class Due(Generic[OwnerT]):
    """What is due."""

    over: list[Over[OwnerT]]
    """Requests whose peers have fallen silent."""
    look_up: list[Entry[OwnerT]]
    """Requests to look for in the kernel; `SynTable.looked_up` is told what was found."""
