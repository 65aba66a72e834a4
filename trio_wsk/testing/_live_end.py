"""What a handshake and an endpoint have in common: a place in the carrier's table, and a timer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from ._segments import address_of

if TYPE_CHECKING:
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.transports._contract import PeerEnd

    from ._carrier import Carrier
    from ._segments import Key, Packet
    from ._timers import Timer

__all__ = ["EndWatcher", "LiveEnd"]


class EndWatcher(Protocol):
    """A request, as the end that it is about sees it."""

    def peer_left(self, end: PeerEnd) -> None:
        """The peer has left in this way."""

    def more(self) -> None:
        """Something has come."""


class LiveEnd(ABC):
    """One end of what is a connection, or may become one: it waits for answers, and asks again.

    Args:
      carrier: The network.
      key: Its own address and its peer's.
      irs: The sequence number of the peer's SYN, if that has come.
    """

    __slots__ = (
        "_is_unsettled",
        "_timer",
        "_tries",
        "carrier",
        "irs",
        "key",
        "peer_key",
        "was_reset",
    )

    remains: bool = False

    def __init__(self, carrier: Carrier, key: Key, irs: int = 0) -> None:
        self.carrier: Carrier = carrier
        self.key: Key = key
        self.peer_key: Key = (key[2], key[3], key[0], key[1])
        self.irs: int = irs
        """The sequence number of the peer's SYN, once that has come."""
        self.was_reset: bool = False
        """Whether the peer has reset it."""
        # There is one timer: whatever an end waits for, it waits for one thing.
        self._timer: Timer | None = None
        self._tries = 0
        self._is_unsettled = False

    @property
    def local_address(self) -> Address:
        """This end's own address."""
        return address_of(self.key[0], self.key[1])

    @property
    def remote_address(self) -> Address:
        """The peer's address."""
        return address_of(self.key[2], self.key[3])

    @abstractmethod
    def arrive(self, packet: Packet) -> None:
        """A segment has come for this end."""

    # --- The timer ---------------------------------------------------------------------

    def _unsettle(self) -> None:
        """Have `settle` called after this flush."""
        if not self._is_unsettled:
            self._is_unsettled = True
            self.carrier.unsettled.append(self)

    def settle(self) -> None:
        """After a flush: see that something happens if nothing comes."""
        self._is_unsettled = False
        if self._timer is None:
            seconds = self._patience()
            if seconds is not None:
                self._timer = self.carrier.timers.after(seconds, self._no_answer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self.carrier.timers.call_off(self._timer)
            self._timer = None

    def _no_answer(self) -> None:
        self._timer = None
        self._tries += 1
        self._timed_out()
        self.carrier.flush()

    @abstractmethod
    def _patience(self) -> float | None:
        """Return how long what was sent may stay unanswered, in seconds; None: for ever."""

    @abstractmethod
    def _timed_out(self) -> None:
        """Send it again, or give up."""
