"""Whether there is more to do on a connection, and why not."""

from __future__ import annotations

import enum

__all__ = ["More"]


class More(enum.Enum):
    """Whether a next request is coming: true if it is, and else the reason why there is none."""

    THERE = "there"
    """It has begun: at least one octet of it has come."""
    FINISHED = "finished"
    """The peer has finished."""
    IDLE = "idle"
    """The peer has said nothing for too long."""
    DRAINING = "draining"
    """The server drains, or this connection has had its ``max_lifetime``; what had come by then was
    all."""

    def __bool__(self) -> bool:
        return self is More.THERE
