"""The requests of one listening socket before the handshake, as a table.

::

    a SYN ──▶ HELD ──approve──▶ APPROVED ──its connection is there──▶ ESTABLISHED
               │ ╲                │   │
               │  reject, silence─┴─▶ REJECTED, SILENCED
               │                      │
               └──the peer leaves─────┴─▶ GONE

A peer that hears nothing sends its SYN again and again, which is a nuisance and the only sign of
life there is (`_heartbeat`). The first SYN of a request is held until there is a verdict; repeats,
known by connection and sequence number, are dropped meanwhile. After the verdict a repeat means
that the answer was lost: the same one is given again, as long as that is remembered. When the
connection is there, the answer was not lost, and a repeat is dropped.

A SYN with another number for a connection that is asked for already comes from a client that has
started anew, or from anybody who knows the addresses. The request that came first has the place
for as long as its client may be there (`_heartbeat` says why).

Three rules for this file. Nothing here knows a socket, a clock or a task: time and facts are
arguments, and what is returned says what has to be done with a packet and whom to tell. Anybody
can write a SYN, so each costs the same small effort however many there are, and memory has a
bound; for those that are approved the owner has one, who can take it back. And only what was
approved is ever taken for approved.

Times are seconds on one clock, which never goes back.

Source: RFC 9293, section 3.10.7; tcp(7), ``tcp_syn_retries`` and ``tcp_synack_retries``.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Generic, final

from trio_wsk._vocabulary.addresses import tcp_parts
from trio_wsk.transports._heartbeat import FIRST_REPEAT
from trio_wsk.transports._transport_request import PeerEnd

from ._alarms import Alarms
from ._entry import Act, Decision, Due, Entry, Over, OwnerT, Stage, Stranger

if TYPE_CHECKING:
    from collections.abc import Collection

    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.transports._syn import Key

__all__ = ["SynTable", "key_of"]

LOOKS: Final = (0.2, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 72.0)
"""When an approved request is looked for in the kernel, in seconds after its approval: soon, since
who has left answers a SYN-ACK with RST at once; then whenever a SYN-ACK was sent again."""

LATER_LOOKS: Final = 32.0
"""Seconds between looks after the last of `LOOKS`, when only the accept queue can still have it."""

REMEMBERED_FOR: Final = 80.0
"""Seconds for which a verdict is remembered after it was last needed. Linux gives
a handshake up after 65 s, so for so long the connection of a request may come that was approved and
then dropped."""

_TWO_TO_THE_32: Final = 1 << 32
_SCOPE_ID: Final = 4  # its place in a key


def key_of(local: Address, remote: Address) -> Key:
    """Return which connection an accepted one is, given its two addresses."""
    octets, port, _ = tcp_parts(local)
    peer, peer_port, scope_id = tcp_parts(remote)
    return octets, port, peer, peer_port, scope_id


_ACCEPT: Final[Decision[Any]] = Decision(Act.ACCEPT)
_REJECT: Final[Decision[Any]] = Decision(Act.REJECT)
_DROP: Final[Decision[Any]] = Decision(Act.DROP)

_ANSWER_AGAIN: Final = {
    Stage.HELD: _DROP,
    Stage.APPROVED: _ACCEPT,
    # A late one, or a forged one. Let through, such a SYN might open a connection anew about which
    # no inspector is asked. No repeat prolongs the memory of it.
    Stage.ESTABLISHED: _DROP,
    Stage.REJECTED: _REJECT,
    Stage.SILENCED: _DROP,
}
"""What a repeated SYN is answered, by the stage of its request. After GONE the SYN is a new
request: the sender has only been slow, or out of reach."""


@final
class SynTable(Generic[OwnerT]):
    """The requests of one listening socket.

    A new request is the caller's to answer, once, with `approve`, `reject` or `silence`; of a
    request that is over by then, because its peer has left, nothing follows.

    Args:
      max_undecided: So many SYNs are held at most. The next ones are dropped: their
        senders try again.
      max_remembered: So many verdicts are remembered at most, for `REMEMBERED_FOR` seconds; the
        oldest are forgotten first. A repeat of what was forgotten is a new request.
    """

    def __init__(self, *, max_undecided: int, max_remembered: int = 16384) -> None:
        self._max_undecided = max_undecided
        self._max_remembered = max_remembered
        self._live: dict[Key, Entry[OwnerT]] = {}  # HELD or APPROVED
        self._remembered: OrderedDict[Key, tuple[int, Stage, float]] = OrderedDict()
        self._alarms: Alarms[Entry[OwnerT]] = Alarms()
        self._when_closed: Decision[OwnerT] | None = None
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
    ) -> Decision[OwnerT]:
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
                live.beat(now)
            return _ANSWER_AGAIN[live.stage]
        stage = self._recall(key, isn, now)
        if stage in _ANSWER_AGAIN:
            if stage is not Stage.ESTABLISHED:
                self._remember(key, isn, stage, now)
            return _ANSWER_AGAIN[stage]
        if live is not None:
            if live.stage is Stage.APPROVED:
                # Has the client started anew? The kernel knows, because it loses what the client
                # doesn't want any more; and then the next SYN is welcome.
                self._alarms.set(live, max(now, live.looked_at + LOOKS[0]))
            return _DROP
        if self._when_closed is not None:
            return self._when_closed
        if not has_room or self.undecided >= self._max_undecided:
            self.overflowed += 1
            return _DROP
        return Decision(Act.HOLD, self._hold(key, isn, packet_id, now))

    def rst(self, key: Key, sequence_number: int, now: float) -> Over[OwnerT] | None:
        """A reset has come. It counts only with the sequence number that follows the SYN's.

        Returns:
          The request that is over.
        """
        live = self._live.get(key)
        if live is None or sequence_number != (live.isn + 1) % _TWO_TO_THE_32:
            return None
        return self._gone(live, PeerEnd.RESET, now)

    def _hold(self, key: Key, isn: int, packet_id: int, now: float) -> Entry[OwnerT]:
        entry: Entry[OwnerT] = Entry(key, isn, packet_id, now)
        self._live[key] = entry
        self.undecided += 1
        self._alarms.set(entry, now + FIRST_REPEAT)
        return entry

    # --- Verdicts ----------------------------------------------------------------------

    def approve(self, entry: Entry[OwnerT], now: float) -> Act | None:
        """Say yes.

        Returns:
          What has to be done with its packet; None if the request is over.
        """
        if entry.stage is not Stage.HELD:
            return None
        self.undecided -= 1
        entry.stage = Stage.APPROVED
        entry.approved_at = entry.looked_at = now
        self._alarms.set(entry, now + LOOKS[0])
        return Act.ACCEPT

    def reject(self, entry: Entry[OwnerT], now: float) -> Act | None:
        """Say no, with a reset; also after `approve`.

        Returns:
          What has to be done with its packet; None if it has none any more. If its connection
          comes all the same, it is a stranger that was turned away.
        """
        return self._turn_away(entry, Stage.REJECTED, Act.REJECT, now)

    def silence(self, entry: Entry[OwnerT], now: float) -> Act | None:
        """Say nothing, now and later; also after `approve`, when SYN-ACK has been said.

        Returns:
          What has to be done with its packet, as for `reject`.
        """
        return self._turn_away(entry, Stage.SILENCED, Act.DROP, now)

    def _turn_away(self, entry: Entry[OwnerT], stage: Stage, act: Act, now: float) -> Act | None:
        is_held = entry.stage is Stage.HELD
        if not is_held and entry.stage is not Stage.APPROVED:
            return None
        self._end(entry, stage)
        self._remember(entry.key, entry.isn, stage, now)
        return act if is_held else None

    def close(self, act: Act = Act.REJECT) -> list[Entry[OwnerT]]:
        """The listening socket closes: from now on each newcomer's SYN is answered like this.

        Args:
          act: `Act.REJECT`; or `Act.DROP`, if somebody else has the socket and answers the next.

        Returns:
          The requests whose packets have to be answered so. Those that were approved the kernel
          resets with the listening socket, if nobody else has it.
        """
        self._when_closed = Decision(act)
        held = [entry for entry in self._live.values() if entry.stage is Stage.HELD]
        for entry in list(self._live.values()):
            self._end(entry, Stage.REJECTED)
        return held

    def dropped(self, packet_ids: Collection[int], now: float) -> None:
        """The kernel has dropped these packets before it heard what was to be done with them.

        The kernel does so when anybody removes a chain with a hook. A client whose SYN was to be
        let through hears the answer to its next one, and is not looked for before that is sent.
        All other answers are remembered, as always.
        """
        for entry in self._live.values():
            if entry.stage is Stage.APPROVED and entry.packet_id in packet_ids:
                self._alarms.set(entry, max(now, entry.repeats_until(entry.approved_at)))

    # --- Connections -------------------------------------------------------------------

    def correlate(self, key: Key, isn: int | None, now: float) -> Entry[OwnerT] | Stranger:
        """A connection has been accepted: say whose it is.

        Args:
          key: `key_of` its addresses.
          isn: The sequence number of its SYN, if the kernel has kept that, as for all connections
            but those that came back with a SYN cookie.
          now: The time.

        Returns:
          The approved request, which is established now; or what kind of stranger this is. The
          connection of a link-local address has a scope, and its SYN has none if the loopback
          interface has brought it: that is the scope of no address.
        """
        found = self._correlate(key, isn, now)
        if found is Stranger.UNINSPECTED and key[_SCOPE_ID]:
            return self._correlate((*key[:_SCOPE_ID], 0), isn, now)
        return found

    def _correlate(self, key: Key, isn: int | None, now: float) -> Entry[OwnerT] | Stranger:
        live = self._live.get(key)
        if live is not None and live.stage is Stage.APPROVED and isn in {None, live.isn}:
            self._end(live, Stage.ESTABLISHED)
            self._remember(key, live.isn, Stage.ESTABLISHED, now)
            return live
        stage = self._recall(key, isn, now)
        # A connection that was given up as lost, and has no ISN to be known by, may have come back
        # with a cookie, from a slow peer: an inspector is asked once more.
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
        while looked_at != most and (entry := self._alarms.ring(now)) is not None:
            looked_at += 1
            if entry.stage is Stage.APPROVED:
                due.look_up.append(entry)
                entry.looked_at = now
                self._alarms.set(entry, _next_look(entry.approved_at, now))
            elif entry.asks_again_until <= now:
                due.over.append(self._gone(entry, PeerEnd.SILENT, now))
            else:
                self._alarms.set(entry, entry.asks_again_until)
        return due

    def looked_up(
        self,
        entry: Entry[OwnerT],
        is_there: bool | None,  # noqa: FBT001 - what was found
        now: float,
    ) -> Over[OwnerT] | None:
        """The kernel was asked for an approved request. Accept what is to be accepted first.

        Args:
          entry: One of `Due.look_up`.
          is_there: Whether the kernel has a connection between its addresses that is in the
            handshake, or still waits for accept; None if the kernel doesn't tell. What else the
            kernel may find does not count: the listening socket, an older connection in TIME-WAIT,
            a dead one, one that was accepted.
          now: The time.

        Returns:
          The request, if it is over: the kernel has lost it, or can't tell, and the handshake
          should have been over long ago.
        """
        if entry.stage is not Stage.APPROVED:
            return None
        if is_there is None:
            is_there = now < entry.approved_at + LOOKS[-1]
        if is_there:
            return None
        return self._gone(entry, PeerEnd.SILENT, now)

    # --- What is over ------------------------------------------------------------------

    def _gone(self, entry: Entry[OwnerT], end: PeerEnd, now: float) -> Over[OwnerT]:
        """The peer has left."""
        if entry.stage is Stage.HELD:
            # No connection can come of a SYN that was dropped: there is nothing to remember.
            act: Act | None = Act.DROP
        else:
            act = None
            self._remember(entry.key, entry.isn, Stage.GONE, now)
        self._end(entry, Stage.GONE)
        return Over(entry, end, act)

    def _end(self, entry: Entry[OwnerT], stage: Stage) -> None:
        if entry.stage is Stage.HELD:
            self.undecided -= 1
        entry.stage = stage
        self._alarms.call_off(entry)
        del self._live[entry.key]

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


def _next_look(approved_at: float, now: float) -> float:
    later = (approved_at + seconds for seconds in LOOKS if approved_at + seconds > now)
    return next(later, now + LATER_LOOKS)
