"""The half of a connection in memory that receives: octets in their order, and the room for more.

Source: RFC 9293, 3.3.1 (the variables) and 3.10.7.4 (what is done with segments).
"""

from __future__ import annotations

from ._segments import RECEIVE_BUFFER

__all__ = ["Receiving"]


class Receiving:
    """The octets that one end has received, and not yet handed to its owner."""

    __slots__ = ("_early", "_inbox", "edge", "is_finished", "nxt")

    def __init__(self) -> None:
        self.nxt: int = 0
        """The number of what should come next (RCV.NXT)."""
        self.edge: int = 0
        """The number up to which the peer knows of room (RCV.NXT + RCV.WND)."""
        self.is_finished: bool = False
        """Whether FIN has come, and everything before it."""
        self._inbox = bytearray()
        self._early: dict[int, bytes | None] | None = None

    def opened(self, irs: int) -> None:
        """The peer's SYN has come."""
        self.nxt = irs + 1
        self.edge = self.nxt + RECEIVE_BUFFER

    def advertise(self) -> int:
        """Return the number up to which there is room, for the peer to know."""
        self.edge = edge = self.nxt + RECEIVE_BUFFER - len(self._inbox)
        return edge

    def expects(self, seq: int) -> bool:
        """Whether this number is within the window: only such a reset is one."""
        return self.nxt <= seq <= self.edge

    # --- From the peer -----------------------------------------------------------------

    def put(self, seq: int, data: bytes | None) -> bool:
        """Octets have come, or FIN (None); return whether that goes on where the last ended.

        What has come early, because something before it was lost, is kept until its turn.
        """
        if seq != self.nxt:
            if seq > self.nxt:
                if self._early is None:
                    self._early = {}
                self._early[seq] = data
            return False
        self._append(data)
        if self._early is not None:
            while self.nxt in self._early:
                self._append(self._early.pop(self.nxt))
        return True

    def _append(self, data: bytes | None) -> None:
        if data is None:
            self.nxt += 1
            self.is_finished = True
        else:
            self.nxt += len(data)
            self._inbox += data

    def drop_early(self) -> None:
        """Forget what has come early: nothing before it will come any more."""
        self._early = None

    # --- For the owner -----------------------------------------------------------------

    @property
    def unread(self) -> int:
        """How many octets wait to be read."""
        return len(self._inbox)

    def look(self, size: int) -> bytes:
        """Return up to so many of the octets that wait, and leave them."""
        return bytes(self._inbox[:size])

    def take(self, size: int) -> bytes | None:
        """Take up to so many octets; ``b""`` after the peer's FIN, None if there are none."""
        inbox = self._inbox
        if not inbox:
            return b"" if self.is_finished else None
        if len(inbox) <= size:
            data = bytes(inbox)
            inbox.clear()
        else:
            data = bytes(inbox[:size])
            del inbox[:size]
        return data

    @property
    def has_room_to_tell(self) -> bool:
        """Whether the peer should hear of the room that reading has made.

        It should when there is twice the room that it knows of, and it can't know of much, as in
        __tcp_select_window and tcp_cleanup_rbuf.
        """
        known = self.edge - self.nxt
        room = RECEIVE_BUFFER - len(self._inbox)
        return known < RECEIVE_BUFFER // 2 and room >= 2 * known

    def discard(self) -> None:
        """Throw away what waits to be read."""
        self._inbox.clear()
