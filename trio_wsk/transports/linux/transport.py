"""Connection requests that are answered before the handshake: listening sockets on Linux.

A request appears with its SYN, which the kernel holds. Approved, the SYN goes on its way, the
kernel shakes hands, and the connection that accept(2) gives is found to be the request's by its
addresses and, with TCP_SAVE_SYN, by its sequence number. A connection that belongs to no approved
request is a stranger, whatever let it in: it is a request of its own, after the handshake.

What becomes of a SYN is decided by `SynTable`, what is read and when by `Gatekeeper`. Here
one is told what the other found, and the owner what follows.

Source: tcp(7), TCP_SAVE_SYN; accept(2).
"""

from __future__ import annotations

import socket
import sys
from collections import OrderedDict, deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast, final

import trio

from trio_wsk._vocabulary.addresses import Address
from trio_wsk._vocabulary.arguments import check_flag, whole_number
from trio_wsk._vocabulary.errors import InspectPointError, InvalidParameterError
from trio_wsk._vocabulary.verdict import CloseStyle, InspectPoint
from trio_wsk.transports._accept_errors import failure_of
from trio_wsk.transports._adopting import AdoptedPlace
from trio_wsk.transports._binding import TcpPlace
from trio_wsk.transports._contract import (
    FAULTS_IN_A_ROW,
    PeerFaultError,
    TransportFailedError,
    TransportRequest,
)
from trio_wsk.transports._places import checked_backlog
from trio_wsk.transports._socket_request import PortableRequest
from trio_wsk.transports._socket_transport import SocketTransport
from trio_wsk.transports._spare import SpareDescriptor
from trio_wsk.transports._syn import NotASynError, parse

from ._entry import Act, Stranger
from ._gatekeeper import gatekeeper_here
from ._messages import NetlinkError
from ._netlink import KernelRefusedError
from ._request import LinuxRequest
from ._syn_table import SynTable, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from trio_wsk._engine.readiness import Readiness
    from trio_wsk.transports._places import Bound, Place
    from trio_wsk.transports._syn import Key, Syn

    from ._entry import Over
    from ._gatekeeper import Gatekeeper
    from ._nfqueue import Packet
    from ._nftables import Gate

__all__: list[str] = []  # LinuxTransport's home is trio_wsk.transports

# Linux 4.3, ``linux/tcp.h``; `socket` has no names for them.
TCP_SAVE_SYN: Final = 27
_TCP_SAVED_SYN: Final = 28
_SAVED_MOST: Final = 256
"""Octets: the longest headers of IPv6 with some extensions, and of TCP."""

_DEVICE_NAME: Final = 16  # octets, IFNAMSIZ

_DEFAULT_BACKLOG: Final = 4096
"""SYNs that may wait to be inspected: what most kernels allow themselves, too."""

_MOST_HELD: Final = 65536
"""SYNs that are held for one listening socket at most: as many as the queue holds."""

_MOST_STRANGERS: Final = 128
"""How many uninspected connections may wait to be asked about; the next ones are reset."""

_ACCEPT_BATCH: Final = 64
"""How many connections are accepted in one turn of the gatekeeper."""

_SHORTAGE_SECONDS: Final = 0.1
"""How long accepting waits when there is no descriptor, or nothing but errors, unless the owner
asks earlier."""


@final
class LinuxTransport(SocketTransport):
    """TCP listening sockets whose requests are inspected before the handshake: Linux.

    Make one with `tcp` or `adopt`, and say so, or it is refused: ``inspect_point=
    InspectPoint.BEFORE_HANDSHAKE``. It takes CAP_NET_ADMIN in the network namespace,
    and a kernel with nftables, their owners (5.12) and packet queues; `trio_wsk.probe` tells what
    is missing.

    The SYN of each request is held by the kernel until there is an answer, and all other listening
    sockets of the Trio run share what holds them. Nobody gets in unasked: a connection that was not
    inspected before its handshake (SYN cookies) is a request after it. All rules in the kernel
    vanish with the process, however it ends, and with the children that it has forked and that
    run no other program.

    ``listening.statistics().transport`` counts:

    ``held``
      SYNs that became requests.
    ``overflowed``
      SYNs dropped because too many waited; their senders try again.
    ``limited``
      SYNs dropped by the kernel because of ``most_syns_per_second``.
    ``resets_unheard``
      Resets beyond a thousand per second, for each address family, of which the kernel has told
      nothing: a client that resets while its SYN is held is then missed some seconds later.
    ``truncated``
      First fragments of IPv6 packets to our addresses that ended before all headers were there: the
      kernel drops them, whatever they were of (RFC 7112).
    ``strangers``, ``strangers_reset``
      Connections that were asked about after their handshake, and those that were reset unasked:
      too many at once, or their request had been turned away.
    ``queue_lost``, ``queue_overruns``, ``verdicts_late``, ``not_syns``, ``unclaimed``
      Of the queue that all listening sockets of the run share: SYNs that the queue or its buffer
      had no room for; how often the buffer was full; verdicts whose packet had gone; packets in
      bad order; SYNs for a listening socket that had just closed.
    """

    inspect_point: InspectPoint = InspectPoint.BEFORE_HANDSHAKE
    """Before the handshake, and nowhere else."""

    def __init__(
        self,
        place: Place,
        *,
        backlog: int,
        most_syns_per_second: int | None,
        fail_open: bool,
    ) -> None:
        """Made by `tcp` and `adopt`."""
        super().__init__(place)
        self._backlog = max(1, backlog)
        self._most_per_second = _checked_limit(most_syns_per_second)
        check_flag("fail_open", fail_open)
        self._fail_open = fail_open
        self._gatekeeper: Gatekeeper
        self._has_gate = False
        self.gate: Gate  # set by the gatekeeper
        self._table: SynTable[LinuxRequest] = SynTable(max_undecided=_MOST_HELD)
        self._arrived: OrderedDict[LinuxRequest, None] = OrderedDict()
        self._strangers: deque[PortableRequest] = deque()
        self._faults: deque[OSError] = deque(maxlen=_MOST_STRANGERS)
        self._faults_in_a_row = 0
        self._failure: OSError | None = None
        self._shortage: OSError | None = None
        self._try_again_at = 0.0
        self._short: list[Bound] = []
        self._left: list[Bound] = []
        self._spare = SpareDescriptor()
        self._keeps_spare = False
        self._is_leaving = False
        self._held = 0
        self._strangers_seen = 0
        self._strangers_reset = 0
        self._last_counters: Mapping[str, int] = {}

    @classmethod
    def tcp(
        cls,
        port: int,
        *,
        host: str | Sequence[str] | None = None,
        backlog: int | None = None,
        reuse_port: bool = False,
        socket_options: Sequence[tuple[int, int, int | bytes]] = (),
        most_syns_per_second: int | None = None,
        fail_open: bool = False,
    ) -> LinuxTransport:
        """Listen on a TCP port.

        Args:
          port: As for `PortableTransport.tcp`, and so for ``host`` and ``socket_options``.
          host: A name or an IP address, or several; None takes all of this machine.
          backlog: How many SYNs may wait to be inspected, 4096 by default, and how many
            connections for accept in the kernel, by default as many as it allows.
          reuse_port: Can't be had: the SYNs of a port go to one process.
          socket_options: What ``setsockopt()`` is to be called with before the socket is bound.
          most_syns_per_second: What exceeds so many SYNs per second, for each address
            family, the kernel drops before they cost us anything. As many may come at once.
          fail_open: Have the kernel answer SYNs that it can't hold, because the queue or its
            buffer is full, instead of dropping them. Their connections are asked about after the
            handshake.

        Raises:
          InvalidParameterError: An argument is wrong. (Yours.)
        """
        check_flag("reuse_port", reuse_port)
        if reuse_port:
            raise InvalidParameterError(
                "reuse_port=True doesn't go with inspection before the handshake: each of the"
                " processes would be asked about every SYN; have one process inspect, or inspect"
                " after the handshake"
            )
        place = TcpPlace(
            port, host, backlog=backlog, reuse_port=False, socket_options=socket_options
        )
        return cls(
            place,
            backlog=_DEFAULT_BACKLOG if backlog is None else checked_backlog(backlog),
            most_syns_per_second=most_syns_per_second,
            fail_open=fail_open,
        )

    @classmethod
    def adopt(
        cls,
        sockets: Sequence[socket.socket | trio.socket.SocketType | int],
        *,
        backlog: int | None = None,
        most_syns_per_second: int | None = None,
        fail_open: bool = False,
    ) -> LinuxTransport:
        """Listen on sockets that exist, bound or listening already.

        As with `PortableTransport.adopt` they are the transport's from here on. Connections that
        one of them has accepted by then are asked about after their handshake.

        Args:
          sockets: Sockets, Trio sockets, or numbers of descriptors, such as `listen_fds` gives.
          backlog: As for `tcp`; the kernel's part of it for sockets that don't listen yet.
          most_syns_per_second: As for `tcp`.
          fail_open: As for `tcp`.

        Raises:
          InvalidParameterError: One is no bound stream socket; the message says which. (Yours.)
        """
        place = AdoptedPlace(sockets, backlog=backlog)
        try:
            return cls(
                place,
                backlog=_DEFAULT_BACKLOG if backlog is None else checked_backlog(backlog),
                most_syns_per_second=most_syns_per_second,
                fail_open=fail_open,
            )
        except BaseException:
            place.close()
            raise

    # --- Binding and listening ---------------------------------------------------------

    def inspect_at(self, point: InspectPoint) -> None:
        """See that it is asked for what it does.

        Raises:
          InspectPointError: it is not, or this is no Linux.
        """
        if point is not InspectPoint.BEFORE_HANDSHAKE:
            raise InspectPointError(
                "LinuxTransport inspects before the handshake and nowhere else: give"
                " inspect_point=InspectPoint.BEFORE_HANDSHAKE, or take PortableTransport"
            )
        if sys.platform != "linux":
            raise InspectPointError(
                f"inspection before the handshake takes Linux, and this is {sys.platform}"
            )

    def close_styles(self) -> frozenset[CloseStyle]:
        """Return reset and silence: before the handshake there is nothing that could be ended."""
        return frozenset({CloseStyle.RESET, CloseStyle.SILENT})

    def _prepare(self) -> None:
        """Have SYNs held, before anything listens."""
        for bound in self._bound:
            if bound.address.is_unix:
                raise InspectPointError(
                    f"{bound.address} is a Unix socket: it has no handshake to inspect before"
                )
            _check_alone(bound)
            try:
                bound.socket.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
            except OSError as error:  # ENOPROTOOPT: adopted, and no TCP but MPTCP, say
                raise InspectPointError(
                    f"the SYNs for {bound.address} can't be saved (TCP_SAVE_SYN): {error.strerror}"
                ) from error
        places = [place for bound in self._bound for place in _places_of(bound)]
        try:
            gatekeeper = gatekeeper_here(fail_open=self._fail_open)
            for place in places:
                if gatekeeper.is_taken(place):
                    raise InspectPointError(
                        f"another listening socket of this process inspects {place} already"
                    )
            gatekeeper.add(self, places, self._most_per_second)
        except NetlinkError as error:
            raise InspectPointError(
                f"requests can't be inspected before the handshake: {error};"
                " `python -m trio_wsk doctor` tells what this machine has"
            ) from error
        self._gatekeeper = gatekeeper
        self._has_gate = True

    def listen(self, readiness: Readiness) -> None:  # noqa: ARG002 - the gatekeeper reads for us
        """From now on requests appear.

        Raises:
          BindError: Somebody else was faster, between bind and here.
          InspectPointError: There is no memory left to wait for connections.
        """
        self._start_listening()
        try:
            for bound in self._bound:
                self._watch(bound)
        except KernelRefusedError as error:
            self.close()
            raise InspectPointError(str(error)) from error

    def _watch(self, bound: Bound) -> None:
        self._gatekeeper.watch(bound.socket.fileno(), partial(self._accept_from, bound))

    def leave(self) -> bool:
        """Leave the queue to whoever shares the sockets, or has them after us.

        SYNs that are held are dropped, as are those that still come: their clients ask again, and
        others answer. Who is in the handshake is theirs when it is over. What was accepted and not
        asked about stays here.
        """
        self._is_leaving = self._place.is_shared
        has_left = super().leave()
        self._is_leaving = False
        return has_left

    def close(self) -> None:
        """Stop listening; every request without an answer is rejected. Never raises, idempotent."""
        has_gate = self._has_gate
        if has_gate:
            self._last_counters = self.counters()
            self._has_gate = False
            gatekeeper = self._gatekeeper
            self._left.clear()
            for bound in self._bound:
                gatekeeper.unwatch(bound.socket.fileno())
            gatekeeper.hold_back()
            act = Act.DROP if self._is_leaving else Act.REJECT
            for entry in self._table.close(act):
                assert entry.owner is not None
                gatekeeper.answer(entry.packet_id, entry.owner._mark, act)
            gatekeeper.read_ahead()
            self._arrived.clear()
        super().close()
        if has_gate:
            # After the sockets: without its gate a socket that listens lets everybody in.
            self._gatekeeper.remove(self)
        if not self._is_leaving:
            for stranger in self._strangers:
                stranger.reset()
            self._strangers.clear()
        self._spare.give_up()
        self._keeps_spare = False

    # --- For the gatekeeper ------------------------------------------------------------

    @property
    def next_due(self) -> float:
        """When there is something to do, on Trio's clock."""
        due = self._table.next_due
        return min(due, self._try_again_at) if self._short else due

    def on_syn(self, syn: Syn, packet: Packet, now: float) -> None:
        """A SYN has come: it is held, or answered as one like it was before."""
        if not self._is_listening:
            self._gatekeeper.answer(packet.packet_id, packet.mark, Act.DROP)
            return
        decision = self._table.syn(
            syn.key,
            syn.sequence_number,
            packet.packet_id,
            now,
            has_room=len(self._arrived) < self._backlog,
        )
        if decision.act is Act.HOLD:
            assert decision.entry is not None
            self._held += 1
            request = LinuxRequest(self, decision.entry, syn, packet.mark)
            self._arrived[request] = None
            if len(self._arrived) == 1:
                self.edge()
        else:
            self._gatekeeper.answer(packet.packet_id, packet.mark, decision.act)

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
            request = entry.owner
            assert request is not None
            is_there = self._gatekeeper.is_there(request.local_address, request.remote_address)
            gone = self._table.looked_up(entry, is_there, now)
            if gone is not None:
                self._is_over(gone)
        if self._short and now >= self._try_again_at:
            self._accept_again()

    def _is_over(self, over: Over[LinuxRequest]) -> None:
        """A peer has left."""
        request = over.entry.owner
        assert request is not None
        if over.act is not None:
            self._gatekeeper.answer(over.entry.packet_id, request._mark, over.act)
        self._arrived.pop(request, None)
        request.peer_left(over.end)

    def fail(self, error: OSError) -> None:
        """The kernel doesn't tell of SYNs any more."""
        self._failure = error
        self._left.clear()
        for bound in self._bound:
            self._gatekeeper.unwatch(bound.socket.fileno())
        if self._is_listening:
            self.edge()

    # --- Connections -------------------------------------------------------------------

    def _accept_from(self, bound: Bound) -> None:
        """Accept what is there, a bounded number; the kernel says again if there is more."""
        # See PortableTransport on `_accept`.
        accept: Callable[[], tuple[int, Any]] = bound.socket._accept  # type: ignore[attr-defined]
        for _ in range(_ACCEPT_BATCH):
            if not self.takes():
                self._left.append(bound)
                self._gatekeeper.unwatch(bound.socket.fileno())
                break
            try:
                fd, peer = accept()
            except BlockingIOError:
                self._faults_in_a_row = 0
                break
            except OSError as error:
                if not self._accept_failed(bound, error):
                    break
            else:
                self._faults_in_a_row = 0
                self._has_come(PortableRequest(bound, fd, peer))
            if self._is_closed:
                break  # whoever was told has closed us

    def take_established(self) -> None:
        """Accept again, in the gatekeeper's next turn. See `Transport.take_established`."""
        left, self._left = self._left, []
        for bound in left:
            self._watch_again(bound)

    def _watch_again(self, bound: Bound) -> bool:
        try:
            self._watch(bound)
        except KernelRefusedError as error:  # memory is short
            self._accept_failed(bound, OSError(error.code, str(error)))
            return False
        return True

    def _accept_failed(self, bound: Bound, error: OSError) -> bool:
        """Do what follows from an error; return whether the next connection may be fine."""
        failure = failure_of(error)
        is_fault = isinstance(failure, PeerFaultError)
        self._faults_in_a_row += is_fault
        goes_on = is_fault and self._faults_in_a_row < FAULTS_IN_A_ROW
        if goes_on:
            self._faults.append(error)
        elif isinstance(failure, TransportFailedError):
            self._failure = error
            self._gatekeeper.unwatch(bound.socket.fileno())
        else:
            self._shortage = error
            self._short.append(bound)
            self._try_again_at = trio.current_time() + _SHORTAGE_SECONDS
            self._gatekeeper.unwatch(bound.socket.fileno())
            self._gatekeeper.wake_at(self._try_again_at)
        self.edge()
        return goes_on

    def _accept_again(self) -> None:
        """After a shortage: try, and go on watching what works."""
        short, self._short = self._short, []
        self._shortage = None
        for bound in short:
            if self._watch_again(bound):
                self._accept_from(bound)

    def _has_come(self, connection: PortableRequest) -> None:
        """A connection was accepted: find out whose it is."""
        key, isn = _identity(connection)
        found = self._table.correlate(key, isn, trio.current_time())
        if found is Stranger.UNINSPECTED and len(self._strangers) < _MOST_STRANGERS:
            self._strangers_seen += 1
            self._strangers.append(connection)
            self.edge()
        elif isinstance(found, Stranger):
            self._strangers_reset += 1
            connection.reset()
        else:
            assert found.owner is not None
            found.owner.has_become(connection)

    # --- Requests ----------------------------------------------------------------------

    def next_request(self) -> TransportRequest | None:
        """Return the next request: of a connection that came uninspected, or the oldest SYN."""
        if self._failure is not None:
            raise TransportFailedError(self._failure) from self._failure
        if self._faults:
            fault = self._faults.popleft()
            raise PeerFaultError(fault) from fault
        if self._short:
            self._accept_again()
            if self._shortage is not None:
                raise failure_of(self._shortage) from self._shortage
        if self._strangers:
            return self._strangers.popleft()
        if not self._arrived:
            return None
        request, _ = self._arrived.popitem(last=False)
        self._gatekeeper.hold_back()
        return request

    def has_more(self) -> bool:
        """Whether `next_request` has something to return or to raise."""
        return bool(
            self._arrived or self._strangers or self._faults or self._short or self._failure
        )

    def flush(self) -> None:
        """Say the answers of a batch of requests to the kernel at once."""
        if self._has_gate:
            self._gatekeeper.flush()

    def keep_spare(self) -> bool:
        """Set a descriptor aside for `shed`; False if there is none to be had."""
        self._keeps_spare = True
        return self._spare.keep()

    def shed(self) -> bool:
        """Reset the oldest connection that waits for accept, or refuse the oldest SYN.

        A connection is accepted for it in the room of the spare descriptor; its request, which
        was approved, has then left by itself. A SYN needs no descriptor. See `Transport.shed`.
        """
        if not self._keeps_spare or not self._spare.keep():
            return False
        self._spare.give_up()
        try:
            for bound in self._short:
                try:
                    fd, _ = bound.socket._accept()  # type: ignore[attr-defined]
                except OSError:
                    continue
                PortableRequest(bound, fd, cast("Any", None)).reset()
                return True
        finally:
            self._spare.keep()
        if not self._arrived:
            return False
        request, _ = self._arrived.popitem(last=False)
        request.reset()
        return True

    def queue_depth(self) -> tuple[int, int] | None:
        """How many SYNs and strangers wait to be inspected, and how many SYNs may."""
        if not self._is_listening:
            return None
        return len(self._arrived) + len(self._strangers), self._backlog

    def counters(self) -> Mapping[str, int]:
        """What is counted here and, for all listening sockets of the run, by the queue."""
        counted = {
            **self._last_counters,
            "held": self._held,
            "overflowed": self._table.overflowed,
            "strangers": self._strangers_seen,
            "strangers_reset": self._strangers_reset,
        }
        if self._has_gate:
            gatekeeper = self._gatekeeper
            queue = gatekeeper.queue
            counted |= {
                "queue_overruns": queue.overruns,
                "verdicts_late": queue.late_verdicts,
                "not_syns": gatekeeper.not_syns,
                "unclaimed": gatekeeper.unclaimed,
            }
            try:
                gate = self.gate.counters()
            except NetlinkError:
                pass  # the kernel doesn't tell
            else:
                counted |= {
                    "limited": gate.limited,
                    "resets_unheard": gate.resets_unheard,
                    "truncated": gate.truncated,
                }
            counted["queue_lost"] = gatekeeper.lost()
        return counted


def _identity(connection: PortableRequest) -> tuple[Key, int | None]:
    """Return which connection one is, and its SYN's sequence number if the kernel has kept that."""
    try:
        saved = connection.accept().getsockopt(socket.IPPROTO_TCP, _TCP_SAVED_SYN, _SAVED_MOST)
        syn = parse(saved, scope_id=connection.scope_id)
    except (OSError, NotASynError):  # SYN cookies: there is nothing to save
        return key_of(connection.local_address, connection.remote_address), None
    return syn.key, syn.sequence_number


def _checked_limit(most_syns_per_second: object) -> int | None:
    if most_syns_per_second is None:
        return None
    if not whole_number(most_syns_per_second) or not 1 <= most_syns_per_second < 1 << 32:
        raise InvalidParameterError(
            f"most_syns_per_second={most_syns_per_second!r} is no rate; write"
            " most_syns_per_second=1000, or leave it out for no limit"
        )
    return most_syns_per_second


def _check_alone(bound: Bound) -> None:
    """See that what comes to an address comes to this socket: it may have been adopted."""
    sock = bound.socket
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        raise InspectPointError(
            f"{bound.address} may be shared (SO_REUSEPORT): each of its processes would be asked"
            " about every SYN; have one process inspect, or inspect after the handshake"
        )
    assert bound.address.host is not None  # it is no Unix socket
    device = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _DEVICE_NAME)
    if device.strip(b"\0") and not bound.address.host.is_link_local:  # which always are
        raise InspectPointError(
            f"{bound.address} is bound to one device (SO_BINDTODEVICE), which can't be told from"
            " others there: listen on that device's address instead"
        )


def _places_of(bound: Bound) -> list[Address]:
    """Return where SYNs for a listening socket go: one for ``::`` may be for both families."""
    address = bound.address
    assert address.host is not None  # it is no Unix socket
    if (
        bound.family == socket.AF_INET6
        and address.host.is_unspecified
        and not bound.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    ):
        return [address, Address.tcp("0.0.0.0", address.port)]  # noqa: S104 - it is bound so
    return [address]
