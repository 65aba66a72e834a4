"""What an inspector looks at, and so from when on it can be asked."""

from __future__ import annotations

import enum

__all__ = ["Need"]


class Need(enum.Flag):
    """What a rule, or any inspector, looks at, as its attribute ``needs`` says it.

    That decides from when on it can be asked. Who looks at both says ``Need.SYN | Need.OCTETS``.
    """

    ADDRESSES = 0
    """Who asks, and for what address: always known. A rule that says nothing needs no more."""
    SYN = 1
    """The SYN (`~trio_wsk.ConnectionRequest.syn`): known where we inspect before the handshake."""
    OCTETS = 2
    """First octets (`~trio_wsk.ConnectionRequest.peek`): there when the handshake is over."""
