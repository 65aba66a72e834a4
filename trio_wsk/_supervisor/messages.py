"""What a supervisor and its workers say to each other, one message in each packet. Pure.

They share a pair of sockets. A message is a line with its kind, and behind that what there is to
say. The supervisor begins with the job, and is answered with ``ready`` or ``failed``. When one of
them is gone its end is closed, and that is how the other learns of it.

A supervisor may be older than its workers, which SIGHUP starts from what is on disk then. So a kind
that is not known is passed over.

Source: unix(7), SOCK_SEQPACKET keeps messages apart.
"""

from __future__ import annotations

import enum
import json
from typing import Any, Final

import attrs

from trio_wsk._configuration.configuration import Configuration

__all__ = ["LONGEST", "Job", "Kind", "Message"]

LONGEST: Final = 1 << 16
"""Octets of a packet, at most."""


class Kind(enum.Enum):
    """What a message is about."""

    JOB = b"job"
    """To a worker, first of all: what to do; see `Job`."""
    READY = b"ready"
    """From a worker: it serves."""
    FAILED = b"failed"
    """From a worker, in the place of ``ready``: why it can't serve, as text."""
    LEAVE = b"leave"
    """To a worker: drain, and leave who waits in the queues to others."""
    LEFT = b"left"
    """From a worker that was told to leave: it takes nobody from the queues any more."""
    END = b"end"
    """To a worker: drain, and take who waits in the queues before."""
    ABORT = b"abort"
    """To a worker: end at once."""


@attrs.frozen
class Message:
    """One message."""

    kind: Kind
    body: bytes = b""
    """What there is to say beside the kind."""

    def packed(self) -> bytes:
        """Write it down, as far as a packet goes."""
        return (self.kind.value + b"\n" + self.body)[:LONGEST]

    @classmethod
    def unpacked(cls, packet: bytes) -> Message | None:
        """Read what was written down; None if it is of no kind that is known here."""
        kind, _, body = packet.partition(b"\n")
        try:
            return cls(Kind(kind), body)
        except ValueError:
            return None


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
    def unpacked(cls, body: bytes) -> Job:
        """Read what was written down."""
        found: dict[str, Any] = json.loads(body)
        return cls(Configuration(**found["configuration"]), found["sockets"], found["is_last"])
