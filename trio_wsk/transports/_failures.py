"""What can keep a request from coming, by whose fault it is; a part of the contract.

How accept(2) says so, `_accept_errors` knows.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FAULTS_IN_A_ROW", "NoDescriptorsError", "PeerFaultError", "TransportFailedError"]

FAULTS_IN_A_ROW: Final = 256
"""After so many peers' faults in a row nobody believes that they are peers': what is really wrong
uses up no connection, as a security module that forbids accept(2) doesn't. Then wait before the
next one. Where a connection that was reset in the queue is such an error, on BSD and macOS, no more
than 128 can wait there by default."""


class PeerFaultError(Exception):
    """One connection request failed by its own fault; the next one may be fine."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error
        """What the operating system said."""


class TransportFailedError(Exception):
    """The transport itself has failed: no request comes any more."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error
        """What the operating system said."""


class NoDescriptorsError(Exception):
    """The machine has no descriptor or no memory for another connection now.

    The request stays where it was; try again later.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error
        """What the operating system said."""
