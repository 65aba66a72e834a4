"""What a listening socket does with new peers."""

from __future__ import annotations

import enum

__all__ = ["ListeningState"]


class ListeningState(enum.Enum):
    """What a listening socket does with new peers."""

    LISTENING = "listening"
    """It takes them, as far as there is room and somebody wants them."""
    PAUSED = "paused"
    """They wait in the kernel's backlog: `ListeningSocket.pause`."""
    REFUSING = "refusing"
    """They are reset: `ListeningSocket.refuse`."""
    DRAINING = "draining"
    """Its server drains: those who wait already are taken. After that it is closed."""
    CLOSED = "closed"
    """It is closed."""
    FAILED = "failed"
    """It has failed."""
