"""One end of a TCP connection in memory.

Theory of operation
-------------------
An `Endpoint` is what a kernel keeps for a connection; a `MemoryChannel` or a `MemoryStream` is how
its owner uses it. It stays in the carrier's table for as long as segments may come for it, so it
outlives the channel. A client's is there from its SYN on; a server's is made by a `Handshake`
that has succeeded. The octets are kept by its two halves, `Sending` and `Receiving`.

Nothing here awaits, and nothing here delivers: a segment to be sent is put into
`Carrier.outbox`, and each call from outside ends with `Carrier.flush`. So each segment is dealt
with to its end before the next one is looked at, however long the conversation that it starts.
Timers are settled after a flush: what was answered within it, which is everything on a network
without latency and loss, has never had one.

What is TCP here, and what is not:

* Sequence numbers, cumulative acknowledgements, a receive window that is advertised and kept,
  retransmission with back-off, probes of a closed window, and all states of RFC 9293 are.
* Numbers never wrap, and those of two connections never overlap, so that no segment of
  an old connection is taken for a new one's. Segments are acknowledged one by one and are sent
  again as they were. There is no congestion window, no delayed acknowledgement, no option.
* Two clients that call each other (simultaneous open, RFC 9293 3.5) don't get connected.
* Numbers of seconds and of tries are Linux's, from tcp(7) and Documentation/networking/ip-sysctl.
"""

from __future__ import annotations

import enum
import errno
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._engine.readiness import ENDED, READ, WRITE
from trio_wsk.transports._contract import PeerEnd

from ._live_end import LiveEnd
from ._receiving import Receiving
from ._remains import Aftermath, Remains, TimeWait
from ._segments import (
    ACK,
    DATA,
    RST,
    SYN,
    SYN_ACK,
    Key,
    Packet,
    SegmentKind,
    TcpState,
)
from ._sending import Sending

if TYPE_CHECKING:
    from ._carrier import Carrier
    from ._live_end import EndWatcher
    from ._memory_readiness import MemoryWatch
    from ._sending import Octets

__all__ = ["Endpoint", "Phase"]

_SYN_GAPS: Final = (1, 1, 1, 1, 1, 2, 4, 8, 16, 32, 64)
"""Seconds from one SYN to the next, the last to giving up: 131 s in all (tcp_syn_retries=6,
tcp_syn_linear_timeouts=4)."""

_RTO_MIN: Final = 0.2
_RTO_MAX: Final = 120.0
_TRIES: Final = 15
"""How often the oldest segment is sent again before the peer is given up (tcp_retries2)."""
_TRIES_OF_ORPHANS: Final = 8
"""The same for a connection that its owner has closed (tcp_orphan_retries)."""


class Phase(enum.Enum):
    """The kind of segments that an endpoint waits for."""

    SYN_SENT = "syn-sent"
    OPEN = "open"
    """Anything from ESTABLISHED to LAST-ACK."""
    OVER = "over"


_SYN_SENT: Final = Phase.SYN_SENT
_OPEN: Final = Phase.OPEN
_OVER: Final = Phase.OVER


class Endpoint(LiveEnd):
    """One end of a connection.

    Args:
      carrier: The network.
      key: Its own address and its peer's.
      iss: The sequence number of its SYN.
    """

    __slots__ = (
        "_time_wait",
        "_was_held",
        "closed",
        "error",
        "established",
        "passed_at",
        "phase",
        "receiving",
        "sending",
        "watch",
        "watcher",
    )

    def __init__(self, carrier: Carrier, key: Key, iss: int) -> None:
        super().__init__(carrier, key)
        self.phase: Phase = _SYN_SENT
        self.established: bool = False
        """Whether there ever was a connection."""
        self.error: int = 0
        """The system's last word: an errno, told once to the user of the channel."""
        self.closed: bool = False
        """Whether its owner is done with it."""
        self.passed_at: float = 0.0
        """When an octet last passed either way or, if none has, when it was established."""
        self.watch: MemoryWatch | None = None
        self.watcher: EndWatcher | None = None
        """The request that it belongs to, until that is accepted."""
        self.sending: Final = Sending(iss)
        self.receiving: Final = Receiving()
        self._time_wait: TimeWait | None = None
        self._was_held = False  # its SYN has had to wait for its answer

    def __repr__(self) -> str:
        return f"<Endpoint {self.state.value} {self.local_address} with {self.remote_address}>"

    @property
    def state(self) -> TcpState:
        """Its state in the words of RFC 9293."""
        if self.phase is _SYN_SENT:
            return TcpState.SYN_SENT
        if self.phase is _OVER:
            is_waiting = self._time_wait is not None and self._time_wait.remains
            return TcpState.TIME_WAIT if is_waiting else TcpState.CLOSED
        is_finished = self.receiving.is_finished
        if not self.sending.fin_wanted:
            return TcpState.CLOSE_WAIT if is_finished else TcpState.ESTABLISHED
        if is_finished:
            return TcpState.LAST_ACK if self.sending.fin_answers else TcpState.CLOSING
        return TcpState.FIN_WAIT_2 if self.sending.fin_acked else TcpState.FIN_WAIT_1

    # --- Sending segments --------------------------------------------------------------

    def _emit(self, kind: SegmentKind, seq: int, data: bytes = b"") -> None:
        receiving = self.receiving
        edge = receiving.advertise()
        self.carrier.outbox.append((self.peer_key, kind, seq, receiving.nxt, edge, data))

    def _ack(self) -> None:
        self._emit(ACK, self.sending.nxt)

    def _output(self) -> None:
        """Send what the peer has room for, and then FIN."""
        while (segment := self.sending.next_segment()) is not None:
            self._emit(*segment)
        self._unsettle()

    # --- The connection begins ---------------------------------------------------------

    def call(self) -> None:
        """As a client: send SYN. Flush afterwards."""
        self._emit(SYN, self.sending.una)
        self._unsettle()

    def _arrive_syn_sent(self, packet: Packet) -> None:
        """RFC 9293, 3.10.7.3."""
        _, kind, seq, ack, edge, _ = packet
        if kind is RST:
            if ack == self.sending.nxt:
                self._end(errno.ECONNREFUSED)
        elif kind is SYN_ACK and ack == self.sending.nxt:
            self.open(seq, ack, edge)
            self._ack()
            self._tell(WRITE)
        elif kind is not SYN:
            # It answers somebody who had this address before us.
            self.carrier.outbox.append((self.peer_key, RST, ack, 0, 0, b""))

    def open(self, irs: int, ack: int, edge: int, *, was_held: bool = False) -> None:
        """SYN has come, and ours is acknowledged: there is a connection."""
        self.irs = irs
        self.receiving.opened(irs)
        self.sending.opened(ack, edge)
        self._was_held = was_held
        self.phase = _OPEN
        self.established = True
        self.passed_at = trio.current_time()
        self._tries = 0
        self._stop_timer()

    # --- Segments that come ------------------------------------------------------------

    def arrive(self, packet: Packet) -> None:
        """A segment has come for this end."""
        if self.phase is _OPEN:
            self._arrive_open(packet)
        elif self.phase is _SYN_SENT:
            self._arrive_syn_sent(packet)

    def _arrive_open(self, packet: Packet) -> None:
        """RFC 9293, 3.10.7.4, from ESTABLISHED on."""
        _, kind, seq, ack, edge, data = packet
        receiving, sending = self.receiving, self.sending
        if kind is RST:
            if receiving.expects(seq):
                # As tcp_reset() in Linux: what has come can still be read, what is unsent is gone.
                self.was_reset = True
                self._end(errno.EPIPE if receiving.is_finished else errno.ECONNRESET, PeerEnd.RESET)
            return
        if kind is SYN or kind is SYN_ACK:
            self._ack()
            return
        if ack > sending.una:
            self._acknowledged(ack)
        sending.widen(edge)
        if sending.has_unsent:
            self._output()
        if kind is not ACK:
            self._arrive_octets(seq, data if kind is DATA else None)
        elif seq < receiving.nxt:
            self._ack()  # it asks how much room there is
        if receiving.is_finished and sending.fin_acked and self.phase is _OPEN:
            self._end(0)

    def _acknowledged(self, ack: int) -> None:
        sending = self.sending
        had_room = sending.has_room
        lost_as_well = sending.acknowledge(ack)
        self.passed_at = trio.current_time()
        self._tries = 0
        self._stop_timer()
        if lost_as_well is not None:
            self._emit(*lost_as_well)
        if sending.has_unacked:
            self._unsettle()
        if sending.has_room and not had_room:
            self._tell(WRITE)

    def _arrive_octets(self, seq: int, data: bytes | None) -> None:
        """Octets have come, or FIN (None)."""
        receiving = self.receiving
        if data is not None and self.closed and seq == receiving.nxt:
            # Data that will never be read: the peer must know (RFC 9293, 3.6.1; Linux).
            self._emit(RST, self.sending.nxt)
            self._end(0)
            return
        is_news = receiving.put(seq, data)
        self._ack()
        if is_news:
            self.passed_at = trio.current_time()
            is_finished = receiving.is_finished
            if data is not None:
                self._tell(READ)
            if is_finished:  # the last thing to be told: the connection may be reset because of it
                self._tell(READ | ENDED)
                if self.watcher is not None:
                    sent_nothing = receiving.nxt == self.irs + 2
                    end = PeerEnd.FIN if sent_nothing else PeerEnd.FIN_AFTER_DATA
                    self.watcher.peer_left(end)

    # --- The end -----------------------------------------------------------------------

    def _end(self, error: int, told: PeerEnd | None = None) -> None:
        """There is no connection any more.

        Args:
          error: What the owner gets to hear; 0 if both sides have finished, or we have reset.
          told: How the peer has left, for the keeper of the request.
        """
        self.phase = _OVER
        self.error = error
        self._stop_timer()
        self._leave_the_table(is_in_order=not error)
        self.sending.drop()
        self.receiving.drop_early()
        if error:
            self._tell(READ | WRITE | ENDED)
        if self.watcher is not None and told is not None:
            self.watcher.peer_left(told)

    def _leave_the_table(self, *, is_in_order: bool) -> None:
        carrier, sending = self.carrier, self.sending
        is_in_order = is_in_order and self.receiving.is_finished
        if carrier.is_instant:
            carrier.forget(self)
        elif is_in_order and sending.fin_acked and not sending.fin_answers:
            # Its last ACK may be lost, and the peer's FIN come again.
            self._time_wait = TimeWait(carrier, self.key, sending.nxt, self.receiving.nxt)
            carrier.put(self._time_wait)
        elif self._was_held:
            # Its SYN has had its answer, and may still come again.
            carrier.put(Remains(carrier, self.key, self.irs, Aftermath.ENDED))
        else:
            carrier.forget(self)

    def reset(self) -> None:
        """Reset it, whatever its state, and be done with it. Flush afterwards."""
        if self.phase is not _OVER:
            self._emit(RST, self.sending.nxt)
        self.abandon()

    def abandon(self) -> None:
        """Forget it, and let whatever comes for it be answered as if it had never been."""
        self._close_handle()
        if self.phase is not _OVER:
            self._end(0)

    def vanish(self) -> None:
        """Forget it, and have nothing that comes for it answered, ever."""
        if self.state is not TcpState.CLOSED:
            self.abandon()
            self._time_wait = None
            self.carrier.put(Remains(self.carrier, self.key, self.irs, Aftermath.VANISHED))
        self._close_handle()

    def _close_handle(self) -> None:
        self.closed = True
        self.receiving.discard()
        self._tell(READ | WRITE | ENDED)
        watch, self.watch = self.watch, None
        if watch is not None:
            watch.endpoint = None

    # --- The timer ---------------------------------------------------------------------

    def _patience(self) -> float | None:
        if self.phase is _SYN_SENT:
            return _SYN_GAPS[self._tries]
        sending = self.sending
        if self.phase is _OPEN and (
            # On a network that loses nothing, the news of room can't be lost either.
            sending.has_unacked or (sending.has_unsent and self.carrier.is_lossy)
        ):
            rto = max(_RTO_MIN, 4 * self.carrier.latency)
            return min(rto * 2.0**self._tries, _RTO_MAX)
        return None

    def _timed_out(self) -> None:
        sending = self.sending
        if self._tries > self._most_tries:
            self._end(errno.ETIMEDOUT, PeerEnd.RESET)
        elif self.phase is _SYN_SENT:
            self.call()
        else:
            if sending.was_heard and not sending.has_unacked:
                # It lives, and has no room: that may last (RFC 1122, 4.2.2.17).
                self._tries = min(self._tries, _TRIES_OF_ORPHANS)
            # Without data, what is old must be answered: with the window.
            self._emit(*(sending.oldest() or (ACK, sending.una - 1, b"")))
            self._unsettle()

    @property
    def _most_tries(self) -> int:
        if self.phase is _SYN_SENT:
            return len(_SYN_GAPS) - 1
        return _TRIES_OF_ORPHANS if self.closed else _TRIES

    # --- For its owner -----------------------------------------------------------------

    @property
    def passed(self) -> int:
        """A number that grows by whatever has passed: what has come, and what is acknowledged."""
        return self.receiving.nxt + self.sending.una

    def edges(self) -> int:
        """Return what is true now, as epoll would."""
        if self.phase is _OVER:
            return READ | WRITE | ENDED
        if self.phase is not _OPEN:
            return 0
        edges = WRITE if self.sending.has_room else 0
        if self.receiving.is_finished:
            edges |= READ | ENDED
        elif self.receiving.unread:
            edges |= READ
        return edges

    def _tell(self, edges: int) -> None:
        """These edges have come."""
        watch = self.watch
        if watch is not None:
            edges &= watch.interest | ENDED
            if watch.interest and edges:
                watch.on_edges(edges)
        elif self.watcher is not None:
            self.watcher.more()

    def take(self, size: int) -> bytes | None:
        """Take up to so many octets; ``b""`` after the peer's FIN, None if there are none.

        Flush afterwards.
        """
        receiving = self.receiving
        data = receiving.take(size)
        is_open = self.phase is _OPEN and not receiving.is_finished
        if data and is_open and receiving.has_room_to_tell:
            self._ack()
        return data

    def put(self, data: Octets) -> int:
        """Take what there is room for; return how many octets. Flush afterwards."""
        taken = self.sending.put(data) if self.phase is _OPEN else 0
        if taken:
            self._output()
        return taken

    def finish_sending(self) -> None:
        """Send FIN after all that was taken. Flush afterwards."""
        if not self.sending.fin_wanted and self.phase is _OPEN:
            self.sending.finish(in_answer=self.receiving.is_finished)
            self._output()

    def let_go(self) -> None:
        """Close it as close(2) does: FIN, or RST if something is unread. Flush afterwards."""
        if self.phase is _OPEN:
            if self.receiving.unread:
                self.reset()
            else:
                self._close_handle()
                self.finish_sending()
        else:
            self.abandon()
