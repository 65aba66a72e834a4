"""The server's part in a handshake: from the first SYN to the acknowledgement of its answer.

As in Linux, what has asked for a connection is not one yet, and has little of one: a `Handshake` is
what there is a request_sock for. When it succeeds, an `Endpoint` takes its place in the table.

Source: RFC 9293, 3.10.7.4, for SYN-RECEIVED; RFC 9293, 3.5. The numbers of seconds and of tries
are Linux's, from tcp(7) and Documentation/networking/ip-sysctl.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, Protocol

import trio

from trio_wsk.transports._contract import PeerEnd
from trio_wsk.transports._heartbeat import Heartbeat

from ._endpoint import Endpoint
from ._live_end import EndWatcher, LiveEnd
from ._remains import Aftermath, Remains
from ._segments import ACK, RECEIVE_BUFFER, RST, SYN, SYN_ACK, Key, Packet

if TYPE_CHECKING:
    from ._carrier import Carrier
    from ._segments import SegmentKind

__all__ = ["Handshake", "HandshakeHome", "HandshakeWatcher"]

_SYN_ACK_GAPS: Final = (1, 2, 4, 8, 16, 32)
"""Seconds from one SYN-ACK to the next, the last to giving up: 63 s (tcp_synack_retries=5)."""


class HandshakeHome(Protocol):
    """A listening socket that answers SYNs by itself, as its handshakes see it."""

    def has_room(self) -> bool:
        """Whether one more connection can wait to be taken."""

    def on_established(self, handshake: Handshake, endpoint: Endpoint) -> None:
        """A handshake is over, and there is a connection."""

    def on_lost(self, handshake: Handshake) -> None:
        """A handshake has failed."""


class HandshakeWatcher(EndWatcher, Protocol):
    """A request before its handshake, as that sees it."""

    def on_established(self, endpoint: Endpoint) -> None:
        """The handshake is over, and there is a connection."""


class _Stage(enum.Enum):
    HELD = "held"
    """The answer is withheld."""
    ANSWERED = "answered"
    """SYN-RECEIVED: the answer is not acknowledged."""
    OVER = "over"


_HELD: Final = _Stage.HELD
_ANSWERED: Final = _Stage.ANSWERED
_OVER: Final = _Stage.OVER


class Handshake(LiveEnd):
    """What has become of a SYN, until there is a connection or none.

    Args:
      carrier: The network.
      key: Its own address and its peer's.
      irs: The sequence number of the SYN.
      home: The listening socket that has answered, unless the answer is withheld.
    """

    __slots__ = ("_home", "_iss", "_stage", "heartbeat", "watcher")

    def __init__(
        self, carrier: Carrier, key: Key, irs: int, *, home: HandshakeHome | None = None
    ) -> None:
        super().__init__(carrier, key, irs)
        self.watcher: HandshakeWatcher | None = None
        """The request, where the answer is withheld."""
        self.heartbeat: Heartbeat = Heartbeat(trio.current_time())
        """When its SYN has come."""
        self._home = home
        self._iss = carrier.next_isn()
        self._stage = _HELD

    def __repr__(self) -> str:
        stage = self._stage.value
        return f"<Handshake {stage} {self.local_address} with {self.remote_address}>"

    @property
    def is_held(self) -> bool:
        """Whether the answer is withheld."""
        return self._stage is _HELD

    # --- What the server does ----------------------------------------------------------

    def answer(self) -> None:
        """Send SYN-ACK. Flush afterwards."""
        self._stage = _ANSWERED
        self._emit(SYN_ACK, self._iss)
        self._unsettle()

    def _emit(self, kind: SegmentKind, seq: int) -> None:
        nxt = self.irs + 1
        self.carrier.outbox.append((self.peer_key, kind, seq, nxt, nxt + RECEIVE_BUFFER, b""))

    def reset(self) -> None:
        """Send RST, and be done with it. Flush afterwards."""
        if self._stage is _ANSWERED:
            self._emit(RST, self._iss + 1)
        elif self._stage is _HELD:
            self.carrier.outbox.append((self.peer_key, RST, 0, self.irs + 1, 0, b""))
        self.abandon()

    def abandon(self) -> None:
        """Forget it, and let whatever comes for it be answered as if it had never been."""
        if self._stage is not _OVER:
            aftermath = Aftermath.REFUSED if self._stage is _HELD else Aftermath.ENDED
            self._end(aftermath)

    def vanish(self) -> None:
        """Forget it, and have nothing that comes for it answered."""
        if self._stage is not _OVER:
            # A client that was never answered comes again, or it doesn't; that is soon known.
            aftermath = Aftermath.SILENT if self._stage is _HELD else Aftermath.VANISHED
            self._end(None)
            self.carrier.put(Remains(self.carrier, self.key, self.irs, aftermath))

    def miss(self) -> None:
        """Say that the peer has stopped asking."""
        self._lost(PeerEnd.SILENT)

    # --- What the peer does ------------------------------------------------------------

    def arrive(self, packet: Packet) -> None:
        """A segment has come for this end."""
        _, kind, seq, _, _, _ = packet
        if kind is SYN:
            self._arrive_syn(packet)
        elif self._stage is _HELD:
            if kind is RST and seq == self.irs + 1:
                self._was_reset()
        elif self._stage is _ANSWERED:
            if kind is not RST:
                self._arrive_ack(packet)
            elif self.irs < seq <= self.irs + 1 + RECEIVE_BUFFER:
                self._was_reset()

    def _arrive_syn(self, packet: Packet) -> None:
        seq = packet[2]
        if self._stage is _HELD:
            if seq == self.irs:
                self.heartbeat.beat(trio.current_time())
            # Else somebody asks anew from the same port, and waits: see `Heartbeat`.
        elif seq == self.irs:
            self._emit(SYN_ACK, self._iss)
        elif seq > self.irs and self._home is not None:
            # The peer has forgotten that it asked, and asks anew from the same port. Where requests
            # are inspected the new SYN waits, which may be anybody's, until the peer has reset our
            # next SYN-ACK.
            self._lost(PeerEnd.SILENT)
            self.carrier.arrive_stray(packet)

    def _arrive_ack(self, packet: Packet) -> None:
        _, kind, _, ack, edge, _ = packet
        if ack != self._iss + 1:
            self.carrier.outbox.append((self.peer_key, RST, ack, 0, 0, b""))
        elif self._home is None or self._home.has_room():
            endpoint = self._establish(ack, edge)
            if kind is not ACK:
                endpoint.arrive(packet)
        # Else the acknowledgement is ignored; the next SYN-ACK asks for another one
        # (tcp_v4_syn_recv_sock with a full queue, and tcp_abort_on_overflow=0).

    def _establish(self, ack: int, edge: int) -> Endpoint:
        self._stage = _OVER
        self._stop_timer()
        endpoint = Endpoint(self.carrier, self.key, self._iss)
        endpoint.open(self.irs, ack, edge, was_held=self._home is None)
        self.carrier.put(endpoint)
        if self._home is not None:
            self._home.on_established(self, endpoint)
        elif self.watcher is not None:
            self.watcher.on_established(endpoint)
        return endpoint

    # --- The end -----------------------------------------------------------------------

    def _was_reset(self) -> None:
        self.was_reset = True
        self._lost(PeerEnd.RESET)

    def _lost(self, how: PeerEnd) -> None:
        """The peer has left in this way."""
        self._end(None if how is PeerEnd.SILENT else Aftermath.ENDED)
        if self.watcher is not None:
            self.watcher.peer_left(how)

    def _end(self, aftermath: Aftermath | None) -> None:
        """There will be no connection.

        Args:
          aftermath: What comes of a SYN that comes late, where it had to wait for its answer.
        """
        self._stage = _OVER
        self._stop_timer()
        if self._home is None and aftermath is not None and not self.carrier.is_instant:
            self.carrier.put(Remains(self.carrier, self.key, self.irs, aftermath))
        else:
            self.carrier.forget(self)
        if self._home is not None:
            self._home.on_lost(self)

    # --- The timer ---------------------------------------------------------------------

    def _patience(self) -> float | None:
        return _SYN_ACK_GAPS[self._tries] if self._stage is _ANSWERED else None

    def _timed_out(self) -> None:
        if self._tries < len(_SYN_ACK_GAPS):
            self.answer()
        else:
            self._lost(PeerEnd.SILENT)
