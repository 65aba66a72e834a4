"""Who a peer on the same machine is, as the kernel says."""

from __future__ import annotations

import attrs

__all__ = ["PeerCredentials"]


@attrs.frozen
class PeerCredentials:
    """The process at the other end of a Unix socket, and the user and group that it ran as.

    They are those of the moment when it connected, or listened if this side has connected. The
    kernel vouches for them. The number of a process that has ended may be another one's by now, so
    decide by user or group.

    Source: SO_PEERCRED, unix(7).
    """

    pid: int
    """The process; 0 if it can't be seen from here (another PID namespace)."""
    uid: int
    """Its effective user; the overflow user (65534) if it has none here (a user namespace)."""
    gid: int
    """Its effective group; the overflow group (65534) likewise."""
