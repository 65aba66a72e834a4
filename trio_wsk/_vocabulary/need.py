"""What an inspector looks at, and so from when on it can be asked."""

from __future__ import annotations

import enum

__all__ = ["Need"]


class Need(enum.Enum):
    """What a rule, or any inspector, looks at, as its attribute ``needs`` says it.

    That decides from when on it can be asked.
    """

    ADDRESSES = "addresses"
    """Who asks, and for what address: always known. A rule that says nothing needs no more."""
    SYN = "syn"
    """The SYN (`~trio_wsk.ConnectionRequest.syn`): known where we inspect before the handshake."""
    OCTETS = "octets"
    """First octets (`~trio_wsk.ConnectionRequest.peek`): there after the handshake only."""
