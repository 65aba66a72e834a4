"""What arrives for one listening socket: SYNs that are held, and the connections they become.

A request appears with its SYN, which the kernel holds. Approved, the SYN goes on its way, the
kernel shakes hands, and the connection that accept(2) gives is found to be the request's by its
addresses and, with TCP_SAVE_SYN, by its sequence number. A connection that belongs to no approved
request is a stranger, whatever let it in: it is a request of its own, after the handshake.

`SynTable` decides what becomes of a SYN, `Gatekeeper` what is read and when. Here each is told what
the other has found.

Source: tcp(7), TCP_SAVE_SYN.
"""

from __future__ import annotations

import socket
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final, Protocol, final

import trio

from trio_wsk._vocabulary.errors import InspectPointError
from trio_wsk.transports._syn import NotASynError, parse

from ._accept_queues import AcceptQueues
from ._entry import Act, Stranger
from ._request import LinuxRequest
from ._suitable import TCP_SAVED_SYN
from ._syn_table import SynTable, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.transports._places import Bound
    from trio_wsk.transports._socket_request import SocketRequest
    from trio_wsk.transports._syn import Key, Syn

    from ._entry import Over
    from ._gatekeeper import Gatekeeper
    from ._nfqueue import Packet
    from ._nftables import Gate

__all__ = ["Arrivals"]

_SAVED_MOST: Final = 256
"""Octets: the longest headers of IPv6 with some extensions, and of TCP."""

_MOST_HELD: Final = 65536
"""SYNs that are held for one listening socket at most: as many as the queue holds."""

_MOST_STRANGERS: Final = 128
"""How many uninspected connections may wait to be asked about; the next ones are reset."""


class _Transport(Protocol):
    """What a transport is told to tell."""

    takes: Callable[[], bool]
    edge: Callable[[], None]


@final
class Arrivals:
    """The requests of one listening socket, from their SYN to `next_request`: a `Door`.

    Args:
      transport: Who is told that there is something.
      backlog: How many SYNs may wait for `next_request`.
    """

    gate: Gate  # set by the gatekeeper

    def __init__(self, transport: _Transport, *, backlog: int) -> None:
        self._transport = transport
        self.backlog = backlog
        self._gatekeeper: Gatekeeper | None = None
        self._is_listening = False
        self._table: SynTable[LinuxRequest] = SynTable(max_undecided=_MOST_HELD)
        self._arrived: OrderedDict[LinuxRequest, None] = OrderedDict()
        self._strangers: deque[SocketRequest] = deque()
        self._queues = AcceptQueues(transport, self._has_come)
        self._held = self._strangers_seen = self._strangers_reset = 0
        self._last_counters: Mapping[str, int] = {}

    # --- From bind to close ------------------------------------------------------------

    def have_syns_held(
        self, gatekeeper: Gatekeeper, places: Sequence[Address], most_per_second: int | None
    ) -> None:
        """Have SYNs for these places held from now on. Until `listen` they are dropped.

        Raises:
          InspectPointError: another listening socket has SYNs for one of them held.
          KernelRefusedError: the rules can't be made.
        """
        for place in places:
            if gatekeeper.is_taken(place):
                raise InspectPointError(
                    f"another listening socket of this process inspects {place} already"
                )
        gatekeeper.add(self, places, most_per_second)
        self._gatekeeper = gatekeeper

    def listen(self, bound: Sequence[Bound]) -> None:
        """Make requests of what comes from now on: the sockets listen.

        Raises:
          KernelRefusedError: there is no memory to wait for connections.
        """
        assert self._gatekeeper is not None
        self._is_listening = True
        self._queues.watch(self._gatekeeper, bound)

    def stop(self, act: Act) -> None:
        """Give every request without an answer this one, before the sockets are closed."""
        gatekeeper = self._gatekeeper
        if gatekeeper is None:
            return
        self._last_counters = self.counters()
        self._queues.close()
        gatekeeper.hold_back()
        for entry in self._table.close(act):
            assert entry.owner is not None
            gatekeeper.answer(entry.packet_id, entry.owner.mark, act)
        gatekeeper.read_ahead()
        self._arrived.clear()

    def close(self) -> None:
        """Take the gate away, after the sockets were closed: a socket without lets all in."""
        gatekeeper, self._gatekeeper = self._gatekeeper, None
        if gatekeeper is not None:
            gatekeeper.remove(self)

    def reset_strangers(self) -> None:
        """Reset the connections that wait to be asked about."""
        for stranger in self._strangers:
            stranger.reset()
        self._strangers.clear()

    # --- For the gatekeeper ------------------------------------------------------------

    @property
    def next_due(self) -> float:
        """When there is something to do, on Trio's clock."""
        return min(self._table.next_due, self._queues.next_due)

    def on_syn(self, syn: Syn, packet: Packet, now: float) -> None:
        """A SYN has come, to be held, or answered as one like it was before."""
        gatekeeper = self._gatekeeper
        assert gatekeeper is not None
        if not self._is_listening:
            gatekeeper.answer(packet.packet_id, packet.mark, Act.DROP)
            return
        decision = self._table.syn(
            syn.key,
            syn.sequence_number,
            packet.packet_id,
            now,
            has_room=len(self._arrived) < self.backlog,
        )
        if decision.entry is None:
            gatekeeper.answer(packet.packet_id, packet.mark, decision.act)
            return
        self._held += 1
        request = LinuxRequest(self._table, gatekeeper, decision.entry, syn, packet.mark)
        self._arrived[request] = None
        if len(self._arrived) == 1:
            self._transport.edge()

    def on_reset(self, key: Key, sequence_number: int, now: float) -> None:
        """A reset has come, perhaps of a request."""
        over = self._table.rst(key, sequence_number, now)
        if over is not None:
            self._is_over(over)

    def on_late(self, packet_ids: Collection[int], now: float) -> None:
        """The kernel had dropped packets, perhaps ours, before it heard the answers."""
        self._table.dropped(packet_ids, now)

    def do_due(self, now: float, most: int) -> None:
        """Tell of peers that have fallen silent; accept again after a shortage."""
        due = self._table.due(now, most=most)
        for over in due.over:
            self._is_over(over)
        for entry in due.look_up:
            gatekeeper, request = self._gatekeeper, entry.owner
            if gatekeeper is None:
                return  # closed by who was told
            assert request is not None
            is_there = gatekeeper.is_there(request.local_address, request.remote_address)
            gone = self._table.looked_up(entry, is_there, now)
            if gone is not None:
                self._is_over(gone)
        self._queues.do_due(now)

    def _is_over(self, over: Over[LinuxRequest]) -> None:
        """A peer has left."""
        request = over.entry.owner
        assert request is not None
        if over.act is not None and self._gatekeeper is not None:
            self._gatekeeper.answer(over.entry.packet_id, request.mark, over.act)
        self._arrived.pop(request, None)
        request.peer_left(over.end)

    def fail(self, error: OSError) -> None:
        """The kernel doesn't tell of SYNs any more."""
        self._queues.fail(error)
        if self._is_listening:
            self._transport.edge()

    # --- Connections -------------------------------------------------------------------

    def _has_come(self, connection: SocketRequest) -> None:
        """A connection was accepted: find out whose it is."""
        key, isn = _identity(connection)
        found = self._table.correlate(key, isn, trio.current_time())
        if found is Stranger.UNINSPECTED and len(self._strangers) < _MOST_STRANGERS:
            self._strangers_seen += 1
            self._strangers.append(connection)
            self._transport.edge()
        elif isinstance(found, Stranger):
            self._strangers_reset += 1
            connection.reset()
        else:
            assert found.owner is not None
            found.owner.has_become(connection)

    def take_established(self) -> None:
        """Accept again what was left in the kernel, in the gatekeeper's next turn."""
        self._queues.take_established()

    # --- For the transport -------------------------------------------------------------

    def next_request(self) -> SocketRequest | LinuxRequest | None:
        """Return the next request: of a connection that came uninspected, or the oldest SYN.

        Raises:
          PeerFaultError, NoDescriptorsError, TransportFailedError: see `Transport.next_request`.
        """
        failure = self._queues.next_failure()
        if failure is not None:
            raise failure from failure.error
        if self._strangers:
            return self._strangers.popleft()
        if not self._arrived:
            return None
        request, _ = self._arrived.popitem(last=False)
        if self._gatekeeper is not None:
            self._gatekeeper.hold_back()
        return request

    def has_more(self) -> bool:
        """Whether `next_request` has something to return or to raise."""
        return bool(self._arrived or self._strangers or self._queues.has_failures)

    def waiting(self) -> int:
        """Count the SYNs and strangers that wait for `next_request`."""
        return len(self._arrived) + len(self._strangers)

    def flush(self) -> None:
        """Say the answers of a batch of requests to the kernel at once."""
        if self._gatekeeper is not None:
            self._gatekeeper.flush()

    def shed_connection(self) -> bool:
        """Reset the oldest connection for which there was no descriptor, if there is one now."""
        return self._queues.shed()

    def shed_syn(self) -> bool:
        """Refuse the oldest SYN that waits, which needs no descriptor."""
        if not self._arrived:
            return False
        request, _ = self._arrived.popitem(last=False)
        request.reset()
        return True

    def counters(self) -> dict[str, int]:
        """What is counted here and, for all listening sockets of the run, by the queue."""
        counted = {
            **self._last_counters,
            "held": self._held,
            "overflowed": self._table.overflowed,
            "strangers": self._strangers_seen,
            "strangers_reset": self._strangers_reset,
        }
        if self._gatekeeper is not None:
            counted |= self._gatekeeper.counters(self)
        return counted


def _identity(connection: SocketRequest) -> tuple[Key, int | None]:
    """Return which connection one is, and its SYN's sequence number if the kernel has kept that."""
    try:
        saved = connection.accept().getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, _SAVED_MOST)
        syn = parse(saved, scope_id=connection.scope_id)
    except (OSError, NotASynError):  # SYN cookies: there is nothing to save
        return key_of(connection.local_address, connection.remote_address), None
    return syn.key, syn.sequence_number
