"""The half of a connection in memory that sends: what is kept until it is acknowledged.

Nothing here sends. The methods say which segment is next; `Endpoint` puts it on its way. SYN has
the number before that of the first octet, and FIN the one after that of the last.

Source: RFC 9293, 3.3.1 (the variables) and 3.8 (what is sent when).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from ._segments import DATA, FIN, RECEIVE_BUFFER, SegmentKind

if TYPE_CHECKING:
    Octets = bytes | bytearray | memoryview

__all__ = ["SEGMENT_OCTETS", "SEND_BUFFER", "Sending", "Sent"]

SEND_BUFFER: Final = 65536
"""How many octets that are not acknowledged are kept at most."""

_WRITABLE: Final = SEND_BUFFER * 2 // 3
"""There is "room again" when a third of the buffer is free (sk_stream_is_writeable)."""

SEGMENT_OCTETS: Final = 1460
"""How many octets travel in one segment: what Ethernet leaves to TCP over IPv4."""

Sent: TypeAlias = tuple[SegmentKind, int, bytes]
"""A segment's kind, its sequence number, and its octets."""


class Sending:
    """The octets that one end has sent and is going to send.

    Args:
      iss: The sequence number of its SYN.
    """

    __slots__ = (
        "_edge",
        "_queued",
        "_recover",
        "_unacked",
        "_unsent",
        "fin_acked",
        "fin_answers",
        "fin_wanted",
        "nxt",
        "una",
        "was_heard",
    )

    def __init__(self, iss: int) -> None:
        self.una: int = iss
        """The oldest number that is not acknowledged (SND.UNA)."""
        self.nxt: int = iss + 1
        """The number of what is sent next (SND.NXT)."""
        self.fin_wanted: bool = False
        """Whether FIN was sent, or will be."""
        self.fin_answers: bool = False
        """Whether FIN is sent after the peer's."""
        self.fin_acked: bool = False
        """Whether FIN was acknowledged."""
        self.was_heard: bool = False
        """Whether the peer has sent something since `oldest` was last asked for."""
        self._edge = iss + 1 + RECEIVE_BUFFER  # SND.UNA + SND.WND
        self._unacked: deque[Sent] = deque()
        self._unsent: deque[bytes] = deque()
        self._queued = 0  # octets in both
        self._recover = 0

    def opened(self, ack: int, edge: int) -> None:
        """SYN is acknowledged: the peer has room up to ``edge``."""
        self.una = ack
        self._edge = edge

    @property
    def has_room(self) -> bool:
        """Whether there is room again, or still."""
        return self._queued <= _WRITABLE

    @property
    def has_unsent(self) -> bool:
        """Whether octets wait for room at the peer's."""
        return bool(self._unsent)

    @property
    def has_unacked(self) -> bool:
        """Whether something was sent that is not acknowledged."""
        return bool(self._unacked)

    # --- From the owner ----------------------------------------------------------------

    def put(self, data: Octets) -> int:
        """Keep what there is room for; return how many octets."""
        size = len(data)
        taken = min(size, SEND_BUFFER - self._queued)
        if taken <= 0:
            return 0
        unsent = self._unsent
        start = 0
        if unsent:
            # Small pieces that have to wait travel together.
            room = SEGMENT_OCTETS - len(unsent[-1])
            if room > 0:
                start = min(room, taken)
                unsent[-1] += bytes(data[:start])
        if taken == size <= SEGMENT_OCTETS and not start:
            unsent.append(bytes(data))
        else:
            for at in range(start, taken, SEGMENT_OCTETS):
                unsent.append(bytes(data[at : min(at + SEGMENT_OCTETS, taken)]))
        self._queued += taken
        return taken

    def finish(self, *, in_answer: bool) -> None:
        """Have FIN follow what is kept."""
        self.fin_wanted = True
        self.fin_answers = in_answer

    def drop(self) -> None:
        """Forget what is kept: there is no connection any more."""
        self._unacked.clear()
        self._unsent.clear()
        self._queued = 0

    # --- To the peer -------------------------------------------------------------------

    def next_segment(self) -> Sent | None:
        """Return what is to be sent now: what the peer has room for, and FIN after all of it."""
        unsent = self._unsent
        if unsent:
            data = unsent[0]
            if self.nxt + len(data) > self._edge:
                return None
            unsent.popleft()
            segment: Sent = (DATA, self.nxt, data)
            self.nxt += len(data)
        elif self.fin_wanted and not self._fin_sent:
            segment = (FIN, self.nxt, b"")
            self.nxt += 1
        else:
            return None
        self._unacked.append(segment)
        return segment

    @property
    def _fin_sent(self) -> bool:
        return self.fin_acked or (bool(self._unacked) and self._unacked[-1][0] is FIN)

    def oldest(self) -> Sent | None:
        """Return what is to be sent again because no acknowledgement came in time, if anything."""
        self.was_heard = False
        if not self._unacked:
            return None
        self._recover = self.nxt
        return self._unacked[0]

    # --- From the peer -----------------------------------------------------------------

    def widen(self, edge: int) -> None:
        """The peer has room up to there."""
        self._edge = max(self._edge, edge)
        self.was_heard = True

    def acknowledge(self, ack: int) -> Sent | None:
        """The peer has everything before ``ack``, which is news.

        Returns:
          What is to be sent again at once: the rest of what was lost together (RFC 6582, "partial
          acknowledgment").
        """
        unacked = self._unacked
        while unacked and unacked[0][1] < ack:
            kind, _, data = unacked.popleft()
            if kind is FIN:
                self.fin_acked = True
            self._queued -= len(data)
        self.una = ack
        return unacked[0] if unacked and ack < self._recover else None
