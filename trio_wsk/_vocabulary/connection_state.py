"""How far a connection is in its life."""

from __future__ import annotations

import enum

__all__ = ["ConnectionState"]


class ConnectionState(enum.Enum):
    """How far a connection is in its life, as far as this side has seen."""

    HANDSHAKE = "handshake"
    """TLS shakes hands, before anybody has it: its handler, or its callbacks."""
    OPEN = "open"
    """Both sides may send. With a handler, it is at work on a request."""
    WAITING = "waiting"
    """Its handler waits for the next request: in `Connection.more`, or a `Reader`'s like."""
    PEER_FINISHED = "peer-finished"
    """The peer has sent FIN, and all before it was received. It may still be answered."""
    FINISHED = "finished"
    """This side has sent FIN, or will after what is queued; it may still receive."""
    BROKEN = "broken"
    """It has turned out to be broken. Whoever has it has not closed it yet."""
    CLOSED = "closed"
    """This side has closed it. Its handler has not returned yet, if it is still listed."""
