"""The requests of one listening socket before the handshake, as a table.

::

    a SYN ──▶ HELD ──approve──▶ APPROVED ──its connection is there──▶ ESTABLISHED
               │ ╲                │   │
               │  reject, silence─┴─▶ REJECTED, SILENCED
               │                      │
               └──the peer leaves─────┴─▶ GONE

A peer that hears nothing sends its SYN again and again, which is a nuisance and the only sign of
life there is. The first SYN of a request is held until there is a verdict; repeats, known by
connection and sequence number, are dropped meanwhile, and counted as a heartbeat. After
the verdict a repeat means that the answer was lost: it gets the same one again, as long as that
is remembered. When the connection is there, the answer was not lost, and a repeat is dropped.

A SYN with another number for a connection that is asked for already comes from a client that has
started anew, or from anybody who knows the addresses. Whoever asked first has the place as long as
he may be there: else a forged SYN would end his inspection, and his own next one the forged one's.

Three rules for this file. Nothing here knows a socket, a clock or a task: time and facts are
arguments, and what is returned says what has to be done with a packet and whom to tell. Anybody
can write a SYN, so each costs the same small effort however many there are, and memory has a
bound; for those that are approved the owner has one, who can take it back. And only what was
approved is ever taken for approved.

Times are seconds on one clock, which never goes back.

Source: RFC 9293, section 3.10.7; tcp(7), ``tcp_syn_retries`` and ``tcp_synack_retries``.
"""

from __future__ import annotations

import enum
import heapq
import math
from collections import OrderedDict
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

import attrs

from trio_wsk._vocabulary.addresses import tcp_parts
from trio_wsk.transports._contract import PeerEnd

if TYPE_CHECKING:
    from collections.abc import Collection

    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.transports._syn import Key

__all__ = ["Act", "Answer", "Due", "Over", "Request", "RequestTable", "Stage", "Stranger", "key_of"]

OwnerT = TypeVar("OwnerT")

FIRST_REPEAT: Final = 3.5
"""Within these seconds a client that is there has sent its first SYN again: Linux and Windows
after 1 s, others after 3 s (RFC 6298, section 2, and before that RFC 1122)."""

LOOKS: Final = (0.2, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 72.0)
"""When an approved request is looked for in the kernel, in seconds after its approval: soon, since
who has left answers a SYN-ACK with RST at once; then whenever a SYN-ACK was sent again."""

LATER_LOOKS: Final = 32.0
"""Seconds between looks after the last of `LOOKS`, when only the accept queue can still have it."""

REMEMBERED_FOR: Final = 80.0
"""Seconds for which a verdict is remembered after it was last needed. Linux gives
a handshake up after 65 s, so for so long the connection of a request may come that was approved and
then dropped."""

_FEW: Final = 64
"""So many alarms that were called off are not worth cleaning up after."""

_TWO_TO_THE_32: Final = 1 << 32
_SCOPE_ID: Final = 4  # its place in a key


def key_of(local: Address, remote: Address) -> Key:
    """Return which connection an accepted one is, given its two addresses."""
    octets, port, _ = tcp_parts(local)
    peer, peer_port, scope_id = tcp_parts(remote)
    return octets, port, peer, peer_port, scope_id


class Stage(enum.Enum):
    """Where a request is in its life."""

    HELD = "held"
    """Its SYN waits in the queue, without a verdict."""
    APPROVED = "approved"
    """Its SYN was let through; its connection has not been seen."""
    ESTABLISHED = "established"
    """Its connection is there, and was taken."""
    REJECTED = "rejected"
    """It was turned away with a reset."""
    SILENCED = "silenced"
    """It was turned away without an answer."""
    GONE = "gone"
    """Its peer has left."""

    # Members are singletons; the inherited hash is a Python function, which is too slow here.
    __hash__ = object.__hash__


class Act(enum.Enum):
    """What has to be done."""

    HOLD = "hold"
    """Leave the packet in the queue: it is a new request."""
    ACCEPT = "accept"
    """Let the packet through: the kernel answers with SYN-ACK."""
    REJECT = "reject"
    """Have the packet answered with RST."""
    DROP = "drop"
    """Drop the packet: its sender hears nothing."""
    __hash__ = object.__hash__


class Stranger(enum.Enum):
    """A connection that is no approved request's: it is never to be taken for one."""

    UNINSPECTED = "uninspected"
    """Nobody has been asked about it: ask now, or reset it."""
    TURNED_AWAY = "turned away"
    """Its request was turned away, or given up as lost: reset it."""


@final
class Request(Generic[OwnerT]):
    """One request for a connection, from its first SYN on."""

    __slots__ = (
        "_alarm",
        "_gap",
        "_last",
        "_since",
        "isn",
        "key",
        "owner",
        "packet_id",
        "stage",
    )

    def __init__(self, key: Key, isn: int, packet_id: int, now: float) -> None:
        """Made by the table."""
        self.key: Final = key
        self.isn: Final = isn
        """The sequence number of its SYN."""
        self.packet_id: Final = packet_id
        """The packet that is held, until there is a verdict."""
        self.stage: Stage = Stage.HELD
        self.owner: OwnerT | None = None
        """Whatever the transport made of it; the table doesn't look."""
        # Of one that is held: when it came first and last, and the longest time between two.
        # Of one that is approved: when that was, and when the kernel was last asked for it.
        self._since = self._last = now
        self._gap = 0.0
        self._alarm = 0

    def __repr__(self) -> str:
        return f"<Request {self.stage.value}, {self.isn} of {self.key}>"

    @property
    def _asks_again_until(self) -> float:
        """Until when a client that is still there has sent its SYN again.

        A client doubles the time between two at most; one second is for the way. The longest time
        counts and not the last, because networks duplicate packets.
        """
        return max(self._since + FIRST_REPEAT, self._last + 2 * self._gap + 1)

    def _asked_again(self, now: float) -> None:
        self._gap = max(self._gap, now - self._last)
        self._last = now


@final
@attrs.frozen
class Over(Generic[OwnerT]):
    """A request that is over because its peer has left: something to do, and somebody to tell."""

    request: Request[OwnerT]
    end: PeerEnd
    """What its keeper is told."""
    act: Act | None
    """What has to be done with its packet; None if it has none any more."""


@final
@attrs.frozen
class Answer(Generic[OwnerT]):
    """What follows from a SYN."""

    act: Act
    """What has to be done with this packet."""
    request: Request[OwnerT] | None = None
    """The new request, if it is one (`Act.HOLD`)."""


@final
@attrs.frozen
class Due(Generic[OwnerT]):
    """What is due."""

    over: list[Over[OwnerT]]
    """Requests whose peers have fallen silent."""
    look_up: list[Request[OwnerT]]
    """Requests to look for in the kernel; `RequestTable.looked_up` is told what was found."""


_ACCEPT: Final[Answer[Any]] = Answer(Act.ACCEPT)
_REJECT: Final[Answer[Any]] = Answer(Act.REJECT)
_DROP: Final[Answer[Any]] = Answer(Act.DROP)

_ANSWER_AGAIN: Final = {
    Stage.HELD: _DROP,
    Stage.APPROVED: _ACCEPT,
    # A late one, or a forged one; let through, it might open a connection anew that nobody is asked
    # about. The memory of it ends in its time, whoever asks.
    Stage.ESTABLISHED: _DROP,
    Stage.REJECTED: _REJECT,
    Stage.SILENCED: _DROP,
}
"""What a repeated SYN is answered, by the stage of its request. From who is GONE it is a new
request: its sender has only been slow, or out of reach."""


@final
class RequestTable(Generic[OwnerT]):
    """The requests of one listening socket.

    A request that it returns is the caller's to answer, once, with `approve`, `reject` or
    `silence`; of a request that is over by then, because its peer has left, nothing follows.

    Args:
      max_undecided: So many SYNs are held at most. The next ones are dropped: their
        senders try again.
      max_remembered: So many verdicts are remembered at most, for `REMEMBERED_FOR` seconds; the
        oldest are forgotten first. A repeat of what was forgotten is a new request.
    """

    def __init__(self, *, max_undecided: int, max_remembered: int = 16384) -> None:
        self._max_undecided = max_undecided
        self._max_remembered = max_remembered
        self._live: dict[Key, Request[OwnerT]] = {}  # HELD or APPROVED
        self._remembered: OrderedDict[Key, tuple[int, Stage, float]] = OrderedDict()
        self._alarms: _Alarms[OwnerT] = _Alarms()
        self._when_closed: Answer[OwnerT] | None = None
        self.undecided = 0
        """How many are held."""
        self.overflowed = 0
        """How many SYNs were dropped for want of room."""

    @property
    def approved(self) -> int:
        """How many are approved and not established."""
        return len(self._live) - self.undecided

    # --- Packets -----------------------------------------------------------------------

    def syn(
        self, key: Key, isn: int, packet_id: int, now: float, *, has_room: bool = True
    ) -> Answer[OwnerT]:
        """A SYN has come.

        Args:
          key: Which connection it asks for.
          isn: Its sequence number.
          packet_id: By which a verdict names it.
          now: The time.
          has_room: Whether there is room for one more request; if not, a new one is dropped.
        """
        live = self._live.get(key)
        if live is not None and live.isn == isn:
            if live.stage is Stage.HELD:
                live._asked_again(now)
            return _ANSWER_AGAIN[live.stage]
        stage = self._recall(key, isn, now)
        if stage in _ANSWER_AGAIN:
            if stage is not Stage.ESTABLISHED:
                self._remember(key, isn, stage, now)
            return _ANSWER_AGAIN[stage]
        if live is not None:
            if live.stage is Stage.APPROVED:
                # Has its client started anew? The kernel knows: what the client doesn't want any
                # more it loses, and then the next SYN is welcome.
                self._alarms.set(live, max(now, live._last + LOOKS[0]))
            return _DROP
        if self._when_closed is not None:
            return self._when_closed
        if not has_room or self.undecided >= self._max_undecided:
            self.overflowed += 1
            return _DROP
        return Answer(Act.HOLD, self._hold(key, isn, packet_id, now))

    def rst(self, key: Key, sequence_number: int, now: float) -> Over[OwnerT] | None:
        """A reset has come. It counts only with the sequence number that follows the SYN's.

        Returns:
          The request that is over.
        """
        live = self._live.get(key)
        if live is None or sequence_number != (live.isn + 1) % _TWO_TO_THE_32:
            return None
        return self._gone(live, PeerEnd.RESET, now)

    def _hold(self, key: Key, isn: int, packet_id: int, now: float) -> Request[OwnerT]:
        request: Request[OwnerT] = Request(key, isn, packet_id, now)
        self._live[key] = request
        self.undecided += 1
        self._alarms.set(request, now + FIRST_REPEAT)
        return request

    # --- Verdicts ----------------------------------------------------------------------

    def approve(self, request: Request[OwnerT], now: float) -> Act | None:
        """Say yes.

        Returns:
          What has to be done with its packet; None if the request is over.
        """
        if request.stage is not Stage.HELD:
            return None
        self.undecided -= 1
        request.stage = Stage.APPROVED
        request._since = request._last = now
        self._alarms.set(request, now + LOOKS[0])
        return Act.ACCEPT

    def reject(self, request: Request[OwnerT], now: float) -> Act | None:
        """Say no, with a reset; also after `approve`.

        Returns:
          What has to be done with its packet; None if it has none any more. If its connection
          comes all the same, it is a stranger that was turned away.
        """
        return self._turn_away(request, Stage.REJECTED, Act.REJECT, now)

    def silence(self, request: Request[OwnerT], now: float) -> Act | None:
        """Say nothing, now and later; also after `approve`, when SYN-ACK has been said.

        Returns:
          What has to be done with its packet, as for `reject`.
        """
        return self._turn_away(request, Stage.SILENCED, Act.DROP, now)

    def _turn_away(
        self, request: Request[OwnerT], stage: Stage, act: Act, now: float
    ) -> Act | None:
        is_held = request.stage is Stage.HELD
        if not is_held and request.stage is not Stage.APPROVED:
            return None
        self._end(request, stage)
        self._remember(request.key, request.isn, stage, now)
        return act if is_held else None

    def close(self, act: Act = Act.REJECT) -> list[Request[OwnerT]]:
        """The listening socket closes: from now on each newcomer's SYN is answered like this.

        Args:
          act: `Act.REJECT`; or `Act.DROP`, if somebody else has the socket and answers the next.

        Returns:
          The requests whose packets have to be answered so. Those that were approved the kernel
          resets with the listening socket, if nobody else has it.
        """
        self._when_closed = Answer(act)
        held = [request for request in self._live.values() if request.stage is Stage.HELD]
        for request in list(self._live.values()):
            self._end(request, Stage.REJECTED)
        return held

    def dropped(self, packet_ids: Collection[int], now: float) -> None:
        """The kernel has dropped these packets before it heard what was to be done with them.

        It does so when anybody removes a chain with a hook. Whose SYN was to be let through hears
        the answer to the next one, so he is not looked for before he has sent that. The others'
        answers are remembered, as always.
        """
        for request in self._live.values():
            if request.stage is Stage.APPROVED and request.packet_id in packet_ids:
                next_syn = max(request._since + FIRST_REPEAT, request._since + 2 * request._gap + 1)
                self._alarms.set(request, max(now, next_syn))

    # --- Connections -------------------------------------------------------------------

    def correlate(self, key: Key, isn: int | None, now: float) -> Request[OwnerT] | Stranger:
        """A connection has been accepted: say whose it is.

        Args:
          key: `key_of` its addresses.
          isn: The sequence number of its SYN, if the kernel has kept that; it has not for a
            connection that came back with a SYN cookie.
          now: The time.

        Returns:
          The approved request, which is established now; or what else it is. The connection of a
          link-local address has a scope, which its SYN has not if it came by the loopback
          interface: that is the scope of no address.
        """
        found = self._correlate(key, isn, now)
        if found is Stranger.UNINSPECTED and key[_SCOPE_ID]:
            return self._correlate((*key[:_SCOPE_ID], 0), isn, now)
        return found

    def _correlate(self, key: Key, isn: int | None, now: float) -> Request[OwnerT] | Stranger:
        live = self._live.get(key)
        if live is not None and live.stage is Stage.APPROVED and isn in {None, live.isn}:
            self._end(live, Stage.ESTABLISHED)
            self._remember(key, live.isn, Stage.ESTABLISHED, now)
            return live
        stage = self._recall(key, isn, now)
        # One that was given up as lost, and has no ISN to know it by, may be a slow peer's that
        # came back with a cookie: it deserves to be asked about once more.
        was_lost = stage is Stage.GONE and isn is not None
        if was_lost or stage in {Stage.REJECTED, Stage.SILENCED}:
            return Stranger.TURNED_AWAY
        return Stranger.UNINSPECTED

    # --- Time --------------------------------------------------------------------------

    @property
    def next_due(self) -> float:
        """When to call `due`; infinity while nothing is."""
        return self._alarms.next

    def due(self, now: float, *, most: int | None = None) -> Due[OwnerT]:
        """Say what is due. Read the packets that have come first, or the living seem silent.

        Args:
          now: The time.
          most: Stop after so many requests; what is left over is still due.
        """
        due: Due[OwnerT] = Due([], [])
        looked_at = 0
        while looked_at != most and (request := self._alarms.ring(now)) is not None:
            looked_at += 1
            if request.stage is Stage.APPROVED:
                due.look_up.append(request)
                request._last = now
                self._alarms.set(request, _next_look(request._since, now))
            elif request._asks_again_until <= now:
                due.over.append(self._gone(request, PeerEnd.SILENT, now))
            else:
                self._alarms.set(request, request._asks_again_until)
        return due

    def looked_up(
        self,
        request: Request[OwnerT],
        is_there: bool | None,  # noqa: FBT001 - what was found
        now: float,
    ) -> Over[OwnerT] | None:
        """The kernel was asked for an approved request. Accept what is to be accepted first.

        Args:
          request: One of `Due.look_up`.
          is_there: Whether the kernel has a connection between its addresses that is in the
            handshake, or that nobody has accepted yet; None if it doesn't tell. Anything else
            that it finds is not there: the listening socket, an older connection in TIME-WAIT, a
            dead one, one that somebody has.
          now: The time.

        Returns:
          The request, if it is over: the kernel has lost it, or nobody can tell and its
          handshake should have been over long ago.
        """
        if is_there is None:
            is_there = now < request._since + LOOKS[-1]
        if is_there or request.stage is not Stage.APPROVED:
            return None
        return self._gone(request, PeerEnd.SILENT, now)

    # --- What is over ------------------------------------------------------------------

    def _gone(self, request: Request[OwnerT], end: PeerEnd, now: float) -> Over[OwnerT]:
        """The peer has left."""
        if request.stage is Stage.HELD:
            # Nothing has come of it, and nothing can: there is nothing to remember.
            act: Act | None = Act.DROP
        else:
            act = None
            self._remember(request.key, request.isn, Stage.GONE, now)
        self._end(request, Stage.GONE)
        return Over(request, end, act)

    def _end(self, request: Request[OwnerT], stage: Stage) -> None:
        if request.stage is Stage.HELD:
            self.undecided -= 1
        request.stage = stage
        self._alarms.call_off(request)
        del self._live[request.key]

    def _remember(self, key: Key, isn: int, stage: Stage, now: float) -> None:
        remembered = self._remembered
        remembered[key] = (isn, stage, now + REMEMBERED_FOR)
        remembered.move_to_end(key)
        if len(remembered) > self._max_remembered:
            remembered.popitem(last=False)
        while remembered and next(iter(remembered.values()))[2] <= now:
            remembered.popitem(last=False)

    def _recall(self, key: Key, isn: int | None, now: float) -> Stage | None:
        known = self._remembered.get(key)
        if known is None or known[2] <= now or isn not in {None, known[0]}:
            return None
        return known[1]


@final
class _Alarms(Generic[OwnerT]):
    """When to look at which request: one alarm for each."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request[OwnerT]]] = []
        self._numbers = count(1)
        self._set = 0

    def set(self, request: Request[OwnerT], when: float) -> None:
        """Have it ring then, and not when it would have."""
        self.call_off(request)
        request._alarm = next(self._numbers)
        self._set += 1
        # Most ring later than those before them, and then this costs the same however many.
        heapq.heappush(self._heap, (when, request._alarm, request))

    def call_off(self, request: Request[OwnerT]) -> None:
        """Have it not ring."""
        if request._alarm:
            request._alarm = 0
            self._set -= 1
            heap = self._heap
            if len(heap) > _FEW + 2 * self._set:
                heap[:] = [each for each in heap if each[1] == each[2]._alarm]
                heapq.heapify(heap)

    def ring(self, now: float) -> Request[OwnerT] | None:
        """Return one whose time has come, which then has no alarm any more."""
        if self.next > now:
            return None
        _, _, request = heapq.heappop(self._heap)
        request._alarm = 0
        self._set -= 1
        return request

    @property
    def next(self) -> float:
        """When the next one rings."""
        heap = self._heap
        while heap and heap[0][1] != heap[0][2]._alarm:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf


def _next_look(approved_at: float, now: float) -> float:
    later = (approved_at + seconds for seconds in LOOKS if approved_at + seconds > now)
    return next(later, now + LATER_LOOKS)
