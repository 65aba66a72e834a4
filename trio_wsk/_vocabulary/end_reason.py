"""Why a connection is no more: one of few, for counting, and for who decides by it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

__all__ = ["EndReason"]


class EndReason(enum.Enum):
    """How a connection has ended."""

    FINISHED = "finished"
    """In good order: the peer had finished, and then this side closed."""
    CLOSED = "closed"
    """This side closed it in good order before it knew that the peer had finished."""
    ABORTED = "aborted"
    """This side reset it: `Connection.abort`, or ended with something not sent."""
    PEER_RESET = "peer-reset"
    """The peer reset it."""
    BROKEN = "broken"
    """The network gave it up; ``error`` says why."""
    FAILED = "failed"
    """A callback or its handler raised, or answered what means nothing: ``error``. It was reset."""
    TIMED_OUT = "timed-out"
    """The peer had its time to take the rest, or to finish after us, and didn't. It was reset."""
    IDLE = "idle"
    """Nothing had passed for the server's ``idle_timeout``. It was ended in good order, or reset if
    the peer did not take what was sent, or if it was still there after another such time."""
    EXPIRED = "expired"
    """It had been told to finish, because the server's ``max_lifetime`` was over, and was still
    open when ``grace`` was, too. It was reset."""
    SERVER_ENDED = "server-ended"
    """It was open when a drain's grace ran out, or the server was aborted. It was reset."""
    BLOCK_ENDED = "block-ended"
    """It had events when its listening block ended. It was reset."""

    if not TYPE_CHECKING:
        # Members are singletons; the inherited hash is a Python function, which is too slow here.
        __hash__ = object.__hash__
