"""The carrier connects the hosts: it carries segments, loses some, and knows their places.

Theory of operation
-------------------
An end that sends puts its segment into `Carrier.outbox`, and each call from outside ends with
`Carrier.flush`, which carries one segment after the other to where it belongs. What is
sent in answer is put into the outbox too, so nothing is entered twice.

Where there is neither latency nor loss, no host unplugged and no observer, that is all:
taking from a deque, a look-up and a call for each segment. Else each one first goes
through `Carrier._route`.
"""

from __future__ import annotations

import functools
import random
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

import trio

from ._memory_readiness import MemoryReadiness
from ._segments import RST, SYN, Key, Packet, Segment, address_of
from ._timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["REMAIN_SECONDS", "Carrier", "End", "Listener"]

REMAIN_SECONDS: Final = 60.0
"""How long what is over still answers what may be on its way: Linux's TIME-WAIT."""

_ISN_STEP: Final = 1 << 40
"""So far apart that no connection's numbers reach another one's."""


class End(Protocol):
    """An entry in the table of connections: a live end, or what remains of one."""

    key: Key
    remains: bool

    def arrive(self, packet: Packet) -> None:
        """A segment has come."""

    def settle(self) -> None:
        """The flush is over."""


class Remaining(End, Protocol):
    """What remains of a connection."""

    until: float


class Listener(Protocol):
    """A listening socket, as the carrier sees it."""

    is_listening: bool

    def on_syn(self, packet: Packet) -> None:
        """A SYN has come for which there is no connection."""


class Carrier:
    """Carries segments between the ends of connections."""

    def __init__(self, seed: int) -> None:
        self.latency: float = 0.0
        """Seconds one way."""
        self.loss: float = 0.0
        """How likely a segment is lost."""
        self.observer: Callable[[Segment], object] | None = None
        """Told of each segment."""
        self.hosts: set[bytes] = set()
        """The addresses of all hosts; a segment to any other address is lost."""
        self.unplugged: set[bytes] = set()
        """The hosts that nothing comes from or goes to."""
        self.ends: dict[Key, End] = {}
        """The ends that segments go to, by an end's own address and its peer's."""
        self.bound: dict[tuple[bytes, int], Listener] = {}
        """The listening sockets, by their ports."""
        self.outbox: deque[Packet] = deque()
        """Segments that are sent and not carried yet."""
        self.unsettled: list[End] = []
        """The ends that look after their timers when the outbox is empty."""
        self.timers: Final = Timers()
        self.readiness: Final = MemoryReadiness()
        """Where clients' streams wait; no pump drives it."""
        self.next_isn: Final = count(_ISN_STEP, _ISN_STEP).__next__
        self._chance = random.Random(seed)  # noqa: S311 - chance, not secrecy
        self._remaining: deque[Remaining] = deque()
        self._is_plain = True
        self._is_flushing = False

    @property
    def is_lossy(self) -> bool:
        """Whether anything can be lost."""
        return self.loss > 0 or bool(self.unplugged)

    @property
    def is_instant(self) -> bool:
        """Whether everything that is sent has arrived when the flush is over."""
        return not self.latency and not self.is_lossy

    def changed(self) -> None:
        """The network has become another one."""
        self._is_plain = self.is_instant and self.observer is None
        if self.is_lossy:
            # The news that there is room again can be lost from now on.
            self.unsettled.extend(self.ends.values())
            self.flush()

    # --- Carrying ----------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def flush(self) -> None:
        """Carry what is in the outbox, and what is sent in answer; then see to the timers."""
        if self._is_flushing:
            return
        self._is_flushing = True
        outbox = self.outbox
        ends = self.ends
        unsettled = self.unsettled
        try:
            while outbox:
                packet = outbox.popleft()
                if self._is_plain:
                    end = ends.get(packet[0])
                    if end is None:
                        self.arrive_stray(packet)
                    else:
                        end.arrive(packet)
                else:
                    self._route(packet)
            if unsettled:
                for end in unsettled:
                    end.settle()
                unsettled.clear()
        finally:
            self._is_flushing = False

    def _route(self, packet: Packet) -> None:
        """Carry a segment the long way."""
        destination, destination_port, source, source_port = packet[0]
        is_lost = (
            source in self.unplugged
            or destination in self.unplugged
            or (self.loss > 0 and self._chance.random() < self.loss)
        )
        if self.observer is not None:
            self.observer(
                Segment(
                    at=trio.current_time(),
                    source=address_of(source, source_port),
                    destination=address_of(destination, destination_port),
                    kind=packet[1],
                    size=len(packet[5]),
                    lost=is_lost,
                )
            )
        if is_lost:
            return
        if self.latency:
            self.timers.after(self.latency, functools.partial(self._land, packet))
        else:
            self._arrive(packet)

    def _land(self, packet: Packet) -> None:
        """A segment arrives after its latency; its receiver may be unplugged by now."""
        if packet[0][0] not in self.unplugged:
            self._arrive(packet)
            self.flush()

    def _arrive(self, packet: Packet) -> None:
        end = self.ends.get(packet[0])
        if end is None:
            self.arrive_stray(packet)
        else:
            end.arrive(packet)

    def arrive_stray(self, packet: Packet) -> None:
        """A segment has come that belongs to no connection. RFC 9293, 3.10.7.1 and 3.10.7.2."""
        key, kind, _, ack, _, _ = packet
        if key[0] not in self.hosts:
            return
        if kind is SYN:
            listener = self.bound.get((key[0], key[1]))
            if listener is not None and listener.is_listening:
                listener.on_syn(packet)
            else:
                self.refuse(packet)
        elif kind is not RST:
            self.outbox.append(((key[2], key[3], key[0], key[1]), RST, ack, 0, 0, b""))

    def refuse(self, packet: Packet) -> None:
        """Answer a SYN with RST."""
        key, _, seq, _, _, _ = packet
        self.outbox.append(((key[2], key[3], key[0], key[1]), RST, 0, seq + 1, 0, b""))

    # --- Who is where ------------------------------------------------------------------

    def put(self, end: End) -> None:
        """Have the segments of this connection arrive here."""
        self.ends[end.key] = end

    def forget(self, end: End) -> None:
        """Let the segments of this connection be strays."""
        if self.ends.get(end.key) is end:
            del self.ends[end.key]

    def remain(self, end: Remaining) -> float:
        """Have what is over go in a while, the next time that somebody looks.

        There is no timer for that, which would keep the clock jumping in vain.

        Returns:
          Until when, in seconds on Trio's clock.
        """
        now = trio.current_time()
        remaining = self._remaining
        while remaining and remaining[0].until <= now:
            first = remaining.popleft()
            if first.remains:
                self.forget(first)
        remaining.append(end)
        return now + REMAIN_SECONDS
