"""How long to wait when the machine has no descriptor or no memory for another connection.

Pure: time and chance are arguments.

Trio, Ranch and HAProxy all wait 100 ms and try again, for ever. We start there too: long
enough for a descriptor to come back, short enough that nobody notices one miss. Then the
wait grows, since a machine that is short of descriptors is not helped by being asked, and
it is jittered, since several listening sockets run out at the same moment.
"""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["Backoff", "Recovery"]

FIRST_SECONDS: Final = 0.1
LONGEST_SECONDS: Final = 1.0
"""libuv's, folly's and nginx's waits are between a half and one second: a client that
is waiting in the backlog meanwhile has not timed out then."""
GROWTH: Final = 2.0
JITTER: Final = 0.25
"""A wait is up to this part longer or shorter."""


@attrs.frozen
class Recovery:
    """What a bad time was like, now that it is over."""

    seconds: float
    """From the first failure to the last, in seconds: when nobody came after it, nobody knows."""
    attempts: int
    """How often accepting failed."""


class Backoff:
    """The waits of one listening socket."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._last = 0.0
        self._attempts = 0
        self._next_wait = FIRST_SECONDS

    @property
    def active(self) -> bool:
        """Whether accepting has failed, and not worked again since."""
        return self._since is not None

    def failed(self, now: float, chance: float) -> float:
        """Accepting failed; return how many seconds to wait.

        Args:
          now: Seconds on any one clock.
          chance: Uniform in [0, 1).
        """
        if self._since is None:
            self._since = now
        self._last = now
        wait = self._next_wait
        self._next_wait = min(wait * GROWTH, LONGEST_SECONDS)
        self._attempts += 1
        return wait * (1 + JITTER * (2 * chance - 1))

    def worked(self) -> Recovery | None:
        """Accepting has worked; tell about the bad time, if there was one."""
        if self._since is None:
            return None
        recovery = Recovery(seconds=self._last - self._since, attempts=self._attempts)
        self._since = None
        self._attempts = 0
        self._next_wait = FIRST_SECONDS
        return recovery
