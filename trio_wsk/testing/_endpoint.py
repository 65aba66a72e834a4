"""One end of a TCP connection in memory.

Theory of operation
-------------------
An `Endpoint` is what a kernel keeps for a connection, and the channel through which its owner
uses it. It stays in the network's table for as long as segments may come for it, so it
outlives `Endpoint.close`, which only ends its owner's part.

Nothing here awaits, and nothing here delivers: a segment to be sent is put into
`Carrier.outbox`, and whoever was called from outside ends with `Carrier.flush`. So
each segment is dealt with to its end before the next one is looked at, however long
the conversation that it starts. Timers are settled after a flush: what was answered within it,
which is everything on a network without latency and loss, has never had one.

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
import math
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._engine.readiness import ENDED, READ, WRITE
from trio_wsk.transports._contract import PeerEnd

from ._segments import (
    ACK,
    DATA,
    FIN,
    RST,
    SYN,
    SYN_ACK,
    Key,
    Packet,
    SegmentKind,
    TcpState,
    address_of,
)

if TYPE_CHECKING:
    from trio_wsk._vocabulary.addresses import Address

    from ._carrier import Carrier
    from ._memory_readiness import MemoryWatch
    from ._memory_transport import MemoryRequest, MemoryTransport
    from ._timers import Timer

    Octets = bytes | bytearray | memoryview

__all__ = [
    "RECEIVE_BUFFER",
    "REMAIN_SECONDS",
    "SEND_BUFFER",
    "Endpoint",
    "Fate",
    "Phase",
    "Remains",
]

RECEIVE_BUFFER: Final = 65536
"""How many octets wait for their reader at most: the window of TCP without scaling."""

SEND_BUFFER: Final = 65536
"""How many octets that are not acknowledged are kept at most."""

_WRITABLE: Final = SEND_BUFFER * 2 // 3
"""There is "room again" when a third of the buffer is free (sk_stream_is_writeable)."""

SEGMENT_OCTETS: Final = 1460
"""How many octets travel in one segment: what Ethernet leaves to TCP over IPv4."""

_SYN_GAPS: Final = (1, 1, 1, 1, 1, 2, 4, 8, 16, 32, 64)
"""Seconds from one SYN to the next, the last to giving up: 131 s in all (tcp_syn_retries=6,
tcp_syn_linear_timeouts=4)."""

_SYN_ACK_GAPS: Final = (1, 2, 4, 8, 16, 32)
"""Seconds from one SYN-ACK to the next, the last to giving up: 63 s (tcp_synack_retries=5)."""

_RTO_MIN: Final = 0.2
_RTO_MAX: Final = 120.0
_TRIES: Final = 15
"""How often the oldest segment is sent again before the peer is given up (tcp_retries2)."""
_TRIES_OF_ORPHANS: Final = 8
"""The same for a connection that its owner has closed (tcp_orphan_retries)."""

REMAIN_SECONDS: Final = 60.0
"""How long what is over still answers what may be on its way: Linux's TIME-WAIT."""

_EBADF: Final = errno.EBADF
_PEEK: Final = int(socket.MSG_PEEK)


class Phase(enum.Enum):
    """What kind of segments an endpoint waits for."""

    SYN_SENT = "syn-sent"
    HELD = "held"
    """It has been asked, and its answer is withheld."""
    SYN_RECEIVED = "syn-received"
    OPEN = "open"
    """Anything from ESTABLISHED to LAST-ACK."""
    OVER = "over"


_SYN_SENT: Final = Phase.SYN_SENT
_HELD: Final = Phase.HELD
_SYN_RECEIVED: Final = Phase.SYN_RECEIVED
_OPEN: Final = Phase.OPEN
_OVER: Final = Phase.OVER


class Endpoint:
    """One end of a connection; as a channel, what a non-blocking socket is.

    Args:
      carrier: What it is on.
      key: Its own address and its peer's.
      iss: The sequence number of its SYN.
    """

    __slots__ = (
        "_early",
        "_eof",
        "_fin_acked",
        "_fin_wanted",
        "_heard",
        "_inbox",
        "_inspected",
        "_irs",
        "_is_unsettled",
        "_passive",
        "_queued",
        "_rcv_adv",
        "_rcv_nxt",
        "_recover",
        "_snd_edge",
        "_snd_nxt",
        "_snd_una",
        "_timer",
        "_tries",
        "_unacked",
        "_unsent",
        "carrier",
        "closed",
        "error",
        "established",
        "key",
        "listener",
        "peer_key",
        "phase",
        "remains",
        "request",
        "until",
        "was_reset",
        "watch",
    )

    def __init__(self, carrier: Carrier, key: Key, iss: int) -> None:
        self.carrier: Carrier = carrier
        self.key: Key = key
        self.peer_key: Key = (key[2], key[3], key[0], key[1])
        self.phase: Phase = _SYN_SENT
        self.established: bool = False
        """Whether there ever was a connection."""
        self.error: int = 0
        """What the system has to say about it: an errno, told once to whoever uses the channel."""
        self.was_reset: bool = False
        """Whether the peer has reset it."""
        self.closed: bool = False
        """Whether its owner is done with it."""
        self.watch: MemoryWatch | None = None
        self.request: MemoryRequest | None = None
        """The request that it belongs to, until somebody has accepted it."""
        self.listener: MemoryTransport | None = None
        """Which listening socket answers it, until the handshake is over."""
        self.remains: bool = False
        """Whether it is over and stays until ``until``: TIME-WAIT."""
        self.until: float = 0.0
        # Sending: SYN is the octet before the first, FIN the one after the last.
        self._snd_una = iss
        self._snd_nxt = iss + 1
        self._snd_edge = iss + 1 + RECEIVE_BUFFER
        self._unacked: deque[tuple[int, SegmentKind, bytes]] = deque()
        self._unsent: deque[bytes] = deque()
        self._queued = 0  # octets in both
        self._fin_wanted = False
        self._fin_acked = False
        self._recover = 0
        self._heard = False
        # Receiving.
        self._inspected = False
        self._irs = 0
        self._rcv_nxt = 0
        self._rcv_adv = 0
        self._inbox = bytearray()
        self._early: dict[int, bytes | None] | None = None
        self._eof = False
        self._passive = False
        # The one timer that an endpoint has: whatever it waits for, it waits for one thing.
        self._timer: Timer | None = None
        self._tries = 0
        self._is_unsettled = False

    def __repr__(self) -> str:
        return f"<Endpoint {self.state.value} {self.local_address} with {self.remote_address}>"

    @property
    def local_address(self) -> Address:
        """Where it is."""
        return address_of(self.key[0], self.key[1])

    @property
    def remote_address(self) -> Address:
        """Where its peer is."""
        return address_of(self.key[2], self.key[3])

    @property
    def state(self) -> TcpState:
        """Its state in the words of RFC 9293."""
        if self.phase is _OPEN:
            if not self._fin_wanted:
                return TcpState.CLOSE_WAIT if self._eof else TcpState.ESTABLISHED
            if self._eof:
                return TcpState.LAST_ACK if self._passive else TcpState.CLOSING
            return TcpState.FIN_WAIT_2 if self._fin_acked else TcpState.FIN_WAIT_1
        if self.phase is _OVER:
            return TcpState.TIME_WAIT if self.remains else TcpState.CLOSED
        return TcpState.SYN_SENT if self.phase is _SYN_SENT else TcpState.SYN_RECEIVED

    # --- Sending segments --------------------------------------------------------------

    def _emit(self, kind: SegmentKind, seq: int, data: bytes = b"") -> None:
        self._rcv_adv = self._rcv_nxt + RECEIVE_BUFFER - len(self._inbox)
        self.carrier.outbox.append((self.peer_key, kind, seq, self._rcv_nxt, self._rcv_adv, data))

    def _ack(self) -> None:
        self._emit(ACK, self._snd_nxt)

    def _unsettle(self) -> None:
        """Have `settle` called after this flush."""
        if not self._is_unsettled:
            self._is_unsettled = True
            self.carrier.unsettled.append(self)

    def _output(self) -> None:
        """Send what the peer has room for, and then FIN."""
        unsent = self._unsent
        while unsent:
            data = unsent[0]
            if self._snd_nxt + len(data) > self._snd_edge:
                break
            unsent.popleft()
            self._send(DATA, data, len(data))
        if not unsent and self._fin_wanted and not self._fin_sent:
            self._send(FIN, b"", 1)
        self._unsettle()

    @property
    def _fin_sent(self) -> bool:
        return self._fin_acked or (bool(self._unacked) and self._unacked[-1][1] is FIN)

    def _send(self, kind: SegmentKind, data: bytes, length: int) -> None:
        seq = self._snd_nxt
        self._snd_nxt = seq + length
        self._unacked.append((seq, kind, data))
        self._emit(kind, seq, data)

    # --- The handshake -----------------------------------------------------------------

    def call(self) -> None:
        """As a client: send the first SYN."""
        self._emit(SYN, self._snd_una)
        self._unsettle()

    def be_called(self, isn: int, *, held: bool) -> None:
        """As a server: a first SYN has come; answer it, or withhold the answer."""
        self._irs = isn
        self._rcv_nxt = isn + 1
        if held:
            self.phase = _HELD
            self._inspected = True
        else:
            self.answer()

    def answer(self) -> None:
        """As a server: send SYN-ACK."""
        self.phase = _SYN_RECEIVED
        self._emit(SYN_ACK, self._snd_una)
        self._unsettle()

    # --- Segments that come ------------------------------------------------------------

    def arrive(self, packet: Packet) -> None:
        """A segment has come for this end."""
        if self.phase is _OPEN:
            self._arrive_open(packet)
        elif self.phase is _SYN_SENT:
            self._arrive_syn_sent(packet)
        elif self.phase is _SYN_RECEIVED:
            self._arrive_syn_received(packet)
        elif self.phase is _HELD:
            self._arrive_held(packet)
        elif self.remains:
            self._arrive_time_wait(packet)

    def _arrive_syn_sent(self, packet: Packet) -> None:
        """RFC 9293, 3.10.7.3."""
        _, kind, seq, ack, edge, _ = packet
        if kind is RST:
            if ack == self._snd_nxt:
                self._end(errno.ECONNREFUSED)
        elif kind is SYN_ACK and ack == self._snd_nxt:
            self._irs = seq
            self._rcv_nxt = seq + 1
            self._snd_una = ack
            self._snd_edge = edge
            self._establish()
            self._ack()
            self._tell(WRITE)
        elif kind is not SYN:
            # It answers somebody who had this address before us.
            self.carrier.outbox.append((self.peer_key, RST, ack, 0, 0, b""))

    def _arrive_held(self, packet: Packet) -> None:
        _, kind, seq, _, _, _ = packet
        if kind is SYN:
            if seq == self._irs:
                assert self.request is not None
                self.request.asked_again()
            elif seq > self._irs:
                self._replaced(packet)
        elif kind is RST and seq == self._rcv_nxt:
            self.was_reset = True
            self._end(errno.ECONNRESET, PeerEnd.RESET)

    def _arrive_syn_received(self, packet: Packet) -> None:
        """RFC 9293, 3.10.7.4, for SYN-RECEIVED."""
        _, kind, seq, ack, edge, _ = packet
        if kind is SYN:
            if seq == self._irs:
                self._emit(SYN_ACK, self._snd_una)
            elif seq > self._irs:
                self._replaced(packet)
        elif kind is RST:
            if self._rcv_nxt <= seq <= self._rcv_adv:
                self.was_reset = True
                self._end(errno.ECONNRESET, PeerEnd.RESET)
        elif ack != self._snd_nxt:
            self.carrier.outbox.append((self.peer_key, RST, ack, 0, 0, b""))
        elif self.listener is None or self.listener._has_room(self):
            self._snd_una = ack
            self._snd_edge = edge
            self._establish()
            if kind is not ACK and self.phase is _OPEN:  # who was told may have reset it
                self._arrive_open(packet)
        # Else the acknowledgement is ignored; the next SYN-ACK asks for another one
        # (tcp_v4_syn_recv_sock with a full queue, and tcp_abort_on_overflow=0).

    def _replaced(self, packet: Packet) -> None:
        """The peer has forgotten that it asked, and asks anew from the same port."""
        self._end(errno.ETIMEDOUT, PeerEnd.SILENT)
        self.carrier.arrive_stray(packet)

    def _establish(self) -> None:
        self.phase = _OPEN
        self.established = True
        self._tries = 0
        self._stop_timer()
        if self.listener is not None:
            listener, self.listener = self.listener, None
            listener._on_established(self)
        elif self.request is not None:
            self.request.on_established()

    def _arrive_open(self, packet: Packet) -> None:
        """RFC 9293, 3.10.7.4, from ESTABLISHED on."""
        _, kind, seq, ack, edge, data = packet
        if kind is RST:
            if self._rcv_nxt <= seq <= self._rcv_adv:
                self._peer_reset()
            return
        if kind is SYN or kind is SYN_ACK:
            self._ack()
            return
        if ack > self._snd_una:
            self._acknowledged(ack)
        self._snd_edge = max(self._snd_edge, edge)
        self._heard = True
        if self._unsent:
            self._output()
        if kind is DATA:
            self._arrive_data(seq, data)
        elif kind is FIN:
            self._arrive_fin(seq)
        elif seq < self._rcv_nxt:
            self._ack()  # it asks how much room there is
        if self._eof and self._fin_acked and self.phase is _OPEN:
            self._end(0)

    def _acknowledged(self, ack: int) -> None:
        unacked = self._unacked
        before = self._queued
        while unacked and unacked[0][0] < ack:
            _, kind, data = unacked.popleft()
            if kind is FIN:
                self._fin_acked = True
            self._queued -= len(data)
        self._snd_una = ack
        self._tries = 0
        self._stop_timer()
        if unacked:
            if ack < self._recover:
                # The rest of what was lost together (RFC 6582, "partial acknowledgment").
                self._emit(unacked[0][1], unacked[0][0], unacked[0][2])
            self._unsettle()
        if before > _WRITABLE >= self._queued:
            self._tell(WRITE)

    def _arrive_data(self, seq: int, data: bytes) -> None:
        if seq > self._rcv_nxt:
            self._came_early(seq, data)
            self._ack()
        elif seq < self._rcv_nxt:
            self._ack()  # ours was lost
        elif self.closed:
            # Nobody will read it, and the peer must know (RFC 9293, 3.6.1; Linux).
            self._emit(RST, self._snd_nxt)
            self._end(0)
        else:
            self._rcv_nxt = seq + len(data)
            self._inbox += data
            is_finished = self._early is not None and self._pull_early()
            self._ack()
            self._tell(READ)
            if is_finished:
                self._tell_finished()

    def _arrive_fin(self, seq: int) -> None:
        if seq > self._rcv_nxt:
            self._came_early(seq, None)
        elif seq == self._rcv_nxt:
            self._rcv_nxt += 1
            self._eof = True
            self._ack()
            self._tell_finished()
            return
        self._ack()

    def _tell_finished(self) -> None:
        """The last thing to be done: who is told may reset the connection at once."""
        self._tell(READ | ENDED)
        if self.request is not None:
            sent_nothing = self._rcv_nxt == self._irs + 2
            self.request.peer_left(PeerEnd.FIN if sent_nothing else PeerEnd.FIN_AFTER_DATA)

    def _came_early(self, seq: int, data: bytes | None) -> None:
        """Keep what something lost should have come before; None is FIN."""
        if self._early is None:
            self._early = {}
        self._early[seq] = data

    def _pull_early(self) -> bool:
        """Go on with what has come early; return whether FIN was among it."""
        early = self._early
        assert early is not None
        while self._rcv_nxt in early:
            data = early.pop(self._rcv_nxt)
            if data is None:
                self._rcv_nxt += 1
                self._eof = True
            else:
                self._rcv_nxt += len(data)
                self._inbox += data
        return self._eof

    def _peer_reset(self) -> None:
        """As tcp_reset() in Linux: what has come can still be read, what was not sent is gone."""
        self.was_reset = True
        self._end(errno.EPIPE if self._eof else errno.ECONNRESET, PeerEnd.RESET)

    # --- The end -----------------------------------------------------------------------

    def _end(self, error: int, told: PeerEnd | None = None) -> None:
        """There is no connection any more.

        Args:
          error: What the owner gets to hear; 0 if both sides have finished, or we have reset.
          told: How the peer has left, for whoever keeps the request.
        """
        is_refused = self.phase is _HELD and told is None
        self.phase = _OVER
        self.error = error
        self._stop_timer()
        self._unacked.clear()
        self._unsent.clear()
        self._queued = 0
        self._early = None
        if self.carrier.is_instant:
            self.carrier.forget(self)
        elif self._eof and self._fin_acked and not self._passive and not error:
            # Its last ACK may be lost, and the peer's FIN come again.
            self.remains = True
            self.until = self.carrier.remain(self)
        elif self._inspected and told is not PeerEnd.SILENT:
            # Its SYN has had its answer, and may still come again.
            fate = Fate.REFUSED if is_refused else Fate.ENDED
            self.carrier.put(Remains(self.carrier, self.key, self._irs, fate))
        else:
            self.carrier.forget(self)
        if self.listener is not None:
            listener, self.listener = self.listener, None
            listener._on_lost(self)
        if error:
            self._tell(READ | WRITE | ENDED)
        if self.request is not None and told is not None:
            self.request.peer_left(told)

    def _arrive_time_wait(self, packet: Packet) -> None:
        """RFC 9293, 3.10.7.4, for TIME-WAIT; RFC 6191 for a SYN."""
        _, kind, seq, _, _, _ = packet
        if kind is RST:
            self._forget()
        elif kind is SYN and seq > self._rcv_nxt:
            self._forget()
            self.carrier.arrive_stray(packet)
        elif kind is not ACK:
            self._ack()

    def _forget(self) -> None:
        self.remains = False
        self.carrier.forget(self)

    def reset(self) -> None:
        """Reset it, whatever its state, and be done with it. Flush afterwards."""
        phase = self.phase
        if phase is _OPEN or phase is _SYN_RECEIVED or phase is _SYN_SENT:
            self._emit(RST, self._snd_nxt)
        elif phase is _HELD:
            self.carrier.outbox.append((self.peer_key, RST, 0, self._rcv_nxt, 0, b""))
        self.abandon()

    def miss(self) -> None:
        """As a server: whoever has asked has stopped asking."""
        self._end(errno.ETIMEDOUT, PeerEnd.SILENT)

    def abandon(self) -> None:
        """Forget it, and let whatever comes for it be answered as if it had never been."""
        self._close_handle()
        if self.phase is not _OVER:
            self._end(0)

    def vanish(self) -> None:
        """Forget it, and have nothing that comes for it answered, ever."""
        if self.phase is not _OVER or self.remains:
            # A client that was never answered comes again, or it doesn't; that is soon known.
            fate = Fate.SILENT if self.phase is _HELD else Fate.VANISHED
            self.abandon()
            self.remains = False
            self.carrier.put(Remains(self.carrier, self.key, self._irs, fate))
        self._close_handle()

    def _close_handle(self) -> None:
        self.closed = True
        self._inbox.clear()
        self._tell(READ | WRITE | ENDED)
        watch, self.watch = self.watch, None
        if watch is not None:
            watch.endpoint = None

    # --- The timer ---------------------------------------------------------------------

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self.carrier.timers.call_off(self._timer)
            self._timer = None

    def settle(self) -> None:
        """After a flush: see that something happens if nothing comes."""
        self._is_unsettled = False
        if self._timer is None:
            seconds = self._patience()
            if seconds is not None:
                self._timer = self.carrier.timers.after(seconds, self._timed_out)

    def _patience(self) -> float | None:
        """Return how long what was sent may stay unanswered, in seconds; None: for ever."""
        if self.phase is _SYN_SENT:
            return _SYN_GAPS[self._tries]
        if self.phase is _SYN_RECEIVED:
            return _SYN_ACK_GAPS[self._tries]
        if self.phase is _OPEN and (
            # On a network that loses nothing, the news of room can't be lost either.
            self._unacked or (self._unsent and self.carrier.is_lossy)
        ):
            rto = max(_RTO_MIN, 4 * self.carrier.latency)
            return min(rto * 2.0**self._tries, _RTO_MAX)
        return None

    def _timed_out(self) -> None:
        self._timer = None
        self._tries += 1
        if self.phase is _SYN_SENT:
            if self._tries < len(_SYN_GAPS):
                self.call()
            else:
                self._end(errno.ETIMEDOUT)
        elif self.phase is _SYN_RECEIVED:
            if self._tries < len(_SYN_ACK_GAPS):
                self.answer()
            else:
                self._end(errno.ETIMEDOUT, PeerEnd.SILENT)
        elif self._tries > (_TRIES_OF_ORPHANS if self.closed else _TRIES):
            self._end(errno.ETIMEDOUT, PeerEnd.RESET)
        else:
            if self._heard and not self._unacked:
                # It lives, and has no room: that may last (RFC 1122, 4.2.2.17).
                self._tries = min(self._tries, _TRIES_OF_ORPHANS)
            self._heard = False
            self._send_again()
        self.carrier.flush()

    def _send_again(self) -> None:
        if self._unacked:
            seq, kind, data = self._unacked[0]
            self._recover = self._snd_nxt
            self._emit(kind, seq, data)
        else:
            self._emit(ACK, self._snd_una - 1)  # what is old must be answered: with the window
        self._unsettle()

    # --- For its owner -----------------------------------------------------------------

    def edges(self) -> int:
        """Return what is true now, as epoll would."""
        if self.phase is _OVER:
            return READ | WRITE | ENDED
        if self.phase is not _OPEN:
            return 0
        edges = WRITE if self._queued <= _WRITABLE else 0
        if self._eof:
            edges |= READ | ENDED
        elif self._inbox:
            edges |= READ
        return edges

    def _tell(self, edges: int) -> None:
        """These edges have come."""
        watch = self.watch
        if watch is not None:
            edges &= watch.interest | ENDED
            if watch.interest and edges:
                watch.on_edges(edges)
        elif self.request is not None:
            self.request.more()

    @property
    def unread(self) -> int:
        """How many octets wait to be read."""
        return len(self._inbox)

    @property
    def at_end(self) -> bool:
        """Whether the peer has finished, and all that it sent is here."""
        return self._eof

    def look(self, size: int) -> bytes:
        """Return up to so many of the octets that wait to be read, and leave them."""
        return bytes(self._inbox[:size])

    def take(self, size: int) -> bytes | None:
        """Take up to so many octets; ``b""`` after the peer's FIN, None if there are none.

        Flush afterwards.
        """
        inbox = self._inbox
        if not inbox:
            return b"" if self._eof else None
        if len(inbox) <= size:
            data = bytes(inbox)
            inbox.clear()
        else:
            data = bytes(inbox[:size])
            del inbox[:size]
        if self.phase is _OPEN and not self._eof:
            # As __tcp_select_window and tcp_cleanup_rbuf do: when there is twice the room that
            # the peer knows of, and it can't know of much.
            known = self._rcv_adv - self._rcv_nxt
            if known < RECEIVE_BUFFER // 2 and RECEIVE_BUFFER - len(inbox) >= 2 * known:
                self._ack()
        return data

    def put(self, data: Octets) -> int:
        """Take what there is room for; return how many octets. Flush afterwards."""
        if self.phase is not _OPEN:
            return 0
        size = len(data)
        taken = min(size, SEND_BUFFER - self._queued)
        if taken <= 0:
            return 0
        unsent = self._unsent
        if unsent:
            # Small pieces that have to wait travel together.
            room = SEGMENT_OCTETS - len(unsent[-1])
            if room > 0:
                unsent[-1] += bytes(data[: min(room, taken)])
                start = min(room, taken)
            else:
                start = 0
        else:
            start = 0
        if taken == size <= SEGMENT_OCTETS and not start:
            unsent.append(bytes(data))
        else:
            for at in range(start, taken, SEGMENT_OCTETS):
                unsent.append(bytes(data[at : min(at + SEGMENT_OCTETS, taken)]))
        self._queued += taken
        self._output()
        return taken

    def finish_sending(self) -> None:
        """Send FIN after all that was taken. Flush afterwards."""
        if not self._fin_wanted and self.phase is _OPEN:
            self._fin_wanted = True
            self._passive = self._eof
            self._output()

    @property
    def finished_sending(self) -> bool:
        """Whether FIN was sent, or will be."""
        return self._fin_wanted

    def let_go(self) -> None:
        """Close it as close(2) does: FIN, or RST if something is unread. Flush afterwards."""
        if self.phase is _OPEN:
            if self._inbox:
                self.reset()
            else:
                self._close_handle()
                self.finish_sending()
        else:
            self.abandon()

    def discard_unread(self) -> None:
        """Throw away what waits to be read, so that closing doesn't reset."""
        self._inbox.clear()

    # --- As a channel ------------------------------------------------------------------

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return up to ``bufsize`` octets; ``b""`` after the peer's FIN, or a reset once told.

        ``MSG_PEEK`` is the one flag that means something here.
        """
        if self.closed:
            raise _os_error(_EBADF)
        if flags & _PEEK and self._inbox:
            return self.look(bufsize)
        data = self.take(bufsize)
        if data is None:
            return self._nothing_to_read()
        if self.carrier.outbox:
            self.carrier.flush()
        return data

    def _nothing_to_read(self) -> bytes:
        if self.error:
            raise self._told_once()
        if self.phase is _OVER:
            return b""
        raise _os_error(errno.EAGAIN)

    def _told_once(self) -> OSError:
        error, self.error = self.error, 0
        return _os_error(error)

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        """Receive into ``buffer``; return how many octets, 0 after the peer's FIN."""
        with memoryview(buffer).cast("B") as view:
            data = self.recv(nbytes or view.nbytes, flags)
            view[: len(data)] = data
        return len(data)

    def send(self, data: Octets, flags: int = 0, /) -> int:  # noqa: ARG002 - MSG_MORE is a hint
        """Take some of ``data``; return how many octets."""
        if self.closed:
            raise _os_error(_EBADF)
        if self.error:
            raise self._told_once()
        if self._fin_wanted or self.phase is _OVER:
            raise _os_error(errno.EPIPE)
        if type(data) is not bytes:
            data = memoryview(data).cast("B")
        taken = self.put(data)
        if taken:
            self.carrier.flush()
        elif len(data):
            raise _os_error(errno.EAGAIN)
        return taken

    def shutdown(self, how: int, /) -> None:
        """``SHUT_WR``: send FIN after what was taken."""
        if self.closed:
            raise _os_error(_EBADF)
        if self.phase is not _OPEN:
            raise _os_error(errno.ENOTCONN)
        if how != socket.SHUT_RD:
            self.finish_sending()
            self.carrier.flush()

    def close(self) -> None:
        """Send FIN, or RST if something is unread, and be done with it."""
        if not self.closed:
            self.let_go()
            self.carrier.flush()

    def fileno(self) -> int:
        """Return -1: there is no descriptor."""
        return -1


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Fate(enum.Enum):
    """What those get to hear who still write to a connection that is no more."""

    VANISHED = "vanished"
    """Nothing, whatever they write, for ever."""
    SILENT = "silent"
    """To their SYN, nothing."""
    REFUSED = "refused"
    """To their SYN, RST again."""
    ENDED = "ended"
    """To their SYN, nothing: it was answered, and the connection has been."""


_VANISHED: Final = Fate.VANISHED
_SILENT: Final = Fate.SILENT
_REFUSED: Final = Fate.REFUSED


class Remains:
    """Stands where an endpoint was, so that a late SYN is not taken for a new one.

    Args:
      carrier: What it is on.
      key: Whose it was.
      isn: The SYN that was answered; a later one is somebody's who asks anew.
      fate: What comes of those that come late.
    """

    __slots__ = ("_carrier", "_fate", "_isn", "key", "remains", "until")

    def __init__(self, carrier: Carrier, key: Key, isn: int, fate: Fate) -> None:
        self._carrier = carrier
        self.key = key
        self._isn = isn
        self._fate = fate
        self.remains = True
        self.until = math.inf if fate is _VANISHED else carrier.remain(self)

    def arrive(self, packet: Packet) -> None:
        """A segment has come for what is no more."""
        kind, seq = packet[1], packet[2]
        if kind is SYN and seq > self._isn:
            self._carrier.forget(self)
            self._carrier.arrive_stray(packet)
        elif kind is SYN:
            if self._fate is _REFUSED:
                self._carrier.refuse(packet)
            if self._fate is not _VANISHED:
                self.until = trio.current_time() + REMAIN_SECONDS
        elif self._fate is not _VANISHED and self._fate is not _SILENT:
            self._carrier.arrive_stray(packet)

    def settle(self) -> None:
        """It waits for nothing."""
