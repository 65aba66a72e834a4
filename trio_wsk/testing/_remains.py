"""Entries in the carrier's table for connections that were."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Final

import trio

from ._carrier import REMAIN_SECONDS, Carrier
from ._segments import ACK, RECEIVE_BUFFER, RST, SYN, Key

if TYPE_CHECKING:
    from ._segments import Packet

__all__ = ["Aftermath", "Remains", "TimeWait"]


class Aftermath(enum.Enum):
    """The answer to segments for a connection that is no more."""

    VANISHED = "vanished"
    """None, to whatever comes, for ever."""
    SILENT = "silent"
    """To a SYN, none."""
    REFUSED = "refused"
    """To a SYN, RST again."""
    ENDED = "ended"
    """To a SYN, none: the SYN was answered, and the connection has been."""


_VANISHED: Final = Aftermath.VANISHED
_SILENT: Final = Aftermath.SILENT
_REFUSED: Final = Aftermath.REFUSED


class Remains:
    """Stands where an end was, so that a late SYN is not taken for a new one.

    Args:
      carrier: The network.
      key: The key of the end that was.
      isn: The SYN that was answered; a later one asks anew.
      aftermath: How segments are answered that come late.
    """

    __slots__ = ("_aftermath", "_carrier", "_isn", "key", "remains", "until")

    def __init__(self, carrier: Carrier, key: Key, isn: int, aftermath: Aftermath) -> None:
        self._carrier = carrier
        self.key = key
        self._isn = isn
        self._aftermath = aftermath
        self.remains = True
        self.until = math.inf if aftermath is _VANISHED else carrier.remain(self)

    def arrive(self, packet: Packet) -> None:
        """A segment has come for what is no more."""
        kind, seq = packet[1], packet[2]
        if kind is SYN and seq > self._isn:
            self._carrier.forget(self)
            self._carrier.arrive_stray(packet)
        elif kind is SYN:
            if self._aftermath is _REFUSED:
                self._carrier.refuse(packet)
            if self._aftermath is not _VANISHED:
                self.until = trio.current_time() + REMAIN_SECONDS
        elif self._aftermath is not _VANISHED and self._aftermath is not _SILENT:
            self._carrier.arrive_stray(packet)

    def settle(self) -> None:
        """Do nothing: remains wait for nothing."""


class TimeWait:
    """Stands where an endpoint was whose last acknowledgement may be lost.

    Args:
      carrier: The network.
      key: The key of the endpoint that was.
      seq: The number of what it would send next.
      ack: The number up to which it has everything.

    Source: RFC 9293, 3.10.7.4, for TIME-WAIT; RFC 6191 for a SYN.
    """

    __slots__ = ("_again", "_carrier", "key", "remains", "until")

    def __init__(self, carrier: Carrier, key: Key, seq: int, ack: int) -> None:
        self._carrier = carrier
        self.key = key
        peer_key = (key[2], key[3], key[0], key[1])
        self._again: Packet = (peer_key, ACK, seq, ack, ack + RECEIVE_BUFFER, b"")
        self.remains = True
        self.until = carrier.remain(self)

    def arrive(self, packet: Packet) -> None:
        """A segment has come for what is no more: the peer's FIN again, perhaps."""
        kind, seq = packet[1], packet[2]
        if kind is RST:
            self._forget()
        elif kind is SYN and seq > self._again[3]:
            self._forget()
            self._carrier.arrive_stray(packet)
        elif kind is not ACK:
            self._carrier.outbox.append(self._again)

    def _forget(self) -> None:
        self.remains = False
        self._carrier.forget(self)

    def settle(self) -> None:
        """Do nothing: remains wait for nothing."""
