"""What a supervisor and its workers say to each other, one message in each packet.

They share a pair of sockets. When the supervisor is gone, its end is closed, and that is how the
workers learn of it.

Source: unix(7), SOCK_SEQPACKET keeps messages apart.
"""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

from trio_wsk._configuration.configuration import Configuration

__all__ = ["ABORT", "END", "LEAVE", "LONGEST", "READY", "Job"]

LONGEST: Final = 1 << 16
"""Octets of a message, at most."""

READY: Final = b"ready"
"""From a worker: it serves. Any other message is why it can't."""

LEAVE: Final = b"leave"
"""To a worker: drain, and leave who waits in the queues to others."""

END: Final = b"end"
"""To a worker: drain, and take who waits in the queues before."""

ABORT: Final = b"abort"
"""To a worker: end at once."""


@attrs.frozen
class Job:
    """What a worker is told first."""

    configuration: Configuration
    """What to serve, and how."""
    sockets: list[int]
    """The descriptors to listen on."""
    is_last: bool
    """Whether nobody has the sockets any more once supervisor and workers are gone."""

    def packed(self) -> bytes:
        """Write it down."""
        return json.dumps(attrs.asdict(self)).encode()

    @classmethod
    def unpacked(cls, message: bytes) -> Job:
        """Read what was written down."""
        found: dict[str, Any] = json.loads(message)
        return cls(Configuration(**found["configuration"]), found["sockets"], found["is_last"])
