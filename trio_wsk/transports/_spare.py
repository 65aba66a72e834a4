"""One descriptor, set aside for the day when there are no more.

Who is out of descriptors can't accept, not even to say no: peers hang in the queue until
they time out. With one set aside there is an answer: close it, accept into its
place, reset, open it again. libuv and Twisted do it for the same reason.

Another thread may open a file between our close and our accept. Then the accept fails as
before, nothing is lost but the spare, and shedding pauses until it can be had back.
"""

from __future__ import annotations

import os

__all__ = ["SpareDescriptor"]


class SpareDescriptor:
    """A descriptor that means nothing."""

    def __init__(self) -> None:
        self._fd = -1

    def keep(self) -> bool:
        """Have it, opening it if need be; False if there is none to be had now."""
        if self._fd < 0:
            try:
                self._fd = os.open(os.devnull, os.O_RDONLY)
            except OSError:
                return False
        return True

    def give_up(self) -> None:
        """Close it, so that the next descriptor that is made has room."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
