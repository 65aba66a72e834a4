"""What a supervisor and its workers say to each other, one message in each packet. Pure.

They share a pair of sockets. A message is a line with its kind and its number, and behind that
what there is to say. The supervisor begins with the job, and is answered with ``prepared`` or
``failed``; when all workers are prepared it says ``serve``, which is answered with ``ready``. Then
it may ask: a question has a number, and so has its answer, which may be longer than a packet, and
may come after that of a later question. When one of them is gone its end is closed, and that is how
the other learns of it.

A supervisor may be older than its workers, which SIGHUP starts from what is on disk then. So a kind
that is not known is passed over.

Source: unix(7), SOCK_SEQPACKET keeps messages apart.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from typing import Any, Final

import attrs

from trio_wsk._configuration.configuration import Configuration

__all__ = ["LAST", "LONGEST", "Job", "Kind", "Message", "answer_of"]

LONGEST: Final = 1 << 16
"""Octets of a packet, at most."""

_PORTION: Final = LONGEST - 64
"""Octets of what there is to say, in a packet with its first line."""


LAST: Final = 0
"""The number of an answer that nobody has asked for: a worker's metrics, at its end."""


class Kind(enum.Enum):
    """What a message is about."""

    JOB = b"job"
    """To a worker, first of all: what to do; see `Job`."""
    PREPARED = b"prepared"
    """From a worker: it has all that it needs to serve, and has touched no socket yet."""
    SERVE = b"serve"
    """To a worker that is prepared: all others are, too."""
    READY = b"ready"
    """From a worker: it serves."""
    FAILED = b"failed"
    """From a worker, in the place of ``prepared``: why it can't serve, as text."""
    LEAVE = b"leave"
    """To a worker: drain, and leave who waits in the queues to others."""
    LEFT = b"left"
    """From a worker that was told to leave: it takes nobody from the queues any more."""
    END = b"end"
    """To a worker: drain, and take who waits in the queues before."""
    ABORT = b"abort"
    """To a worker: end at once."""
    QUESTION = b"question"
    """To a worker: a request, as a line of the control socket's protocol."""
    PART = b"part"
    """From a worker: a part of an answer that goes on."""
    ANSWER = b"answer"
    """From a worker: an answer, or what is left of it, as a line of the same protocol."""


@attrs.frozen
class Message:
    """One message."""

    kind: Kind
    body: bytes = b""
    """What there is to say beside the kind."""
    number: int = 0
    """Of a question, and of its answer."""

    def packed(self) -> bytes:
        """Write it down, as far as a packet goes."""
        return b"%b %d\n%b" % (self.kind.value, self.number, self.body[:_PORTION])

    @classmethod
    def unpacked(cls, packet: bytes) -> Message | None:
        """Read what was written down; None if it is of no kind that is known here."""
        line, _, body = packet.partition(b"\n")
        kind, _, number = line.partition(b" ")
        try:
            return cls(Kind(kind), body, int(number))
        except ValueError:
            return None


def answer_of(number: int, body: bytes) -> Iterator[Message]:
    """Say an answer in as many messages as it takes."""
    while len(body) > _PORTION:
        yield Message(Kind.PART, body[:_PORTION], number)
        body = body[_PORTION:]
    yield Message(Kind.ANSWER, body, number)


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
