"""The kernel's half of inspection before the handshake, shared by a Trio run's listening sockets.

One `Gatekeeper` has the queue, the rules, the log of resets and one task that reads them; each
listening socket is a `Door` in it. They share because they have to: when any chain with a hook is
removed, the kernel drops whatever is held in the network namespace (`_nftables`), so that hooks
come with the first door and go with the last. (With ``fail_open`` there is another queue, and so
another gatekeeper; what the one drops in the other's the next SYNs repair.)

The task is a system task, and runs no user code but observers, who are told of who has left: it
hands packets to doors, which take note. What it does in one turn is bounded, and has an order that
matters. Packets come first, then resets, then connections, and only then what is due: after a stall
the living have sent their SYNs again, and a look at the clock before those would take the living
for dead.

Verdicts that follow from one turn, or from one batch of requests, are said to the kernel at once.
"""

from __future__ import annotations

import errno
import math
import select
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk.transports._syn import NotASynError, parse, reset_of

from ._entry import Act
from ._messages import NetlinkError
from ._netlink import KernelRefusedError
from ._nflog import PacketLog
from ._nfqueue import PacketVerdict, Queue
from ._nftables import Gatehouse
from ._rules import REJECT_MARK
from ._sock_diag import KernelState, SocketLookup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.transports._syn import Key

    from ._door import Door

__all__ = ["Gatekeeper", "gatekeeper_here"]

_BATCH: Final = 64
"""How many packets are read in one turn, and how many requests that are due are looked at."""

_AHEAD: Final = 16
"""How many such batches are read at once before a listening socket closes."""

_BEHIND: Final = 3.0
"""For how long a queue that is never read to its end keeps back what is due, in seconds."""

_LOOPBACK: Final = 1
"""The index of the loopback interface, in every network namespace (LOOPBACK_IFINDEX)."""

_ANYWHERE: Final = {4: bytes(4), 16: bytes(16)}
"""The unspecified address, by the size of its family's."""

_NAMESPACE: Final = Path("/proc/thread-self/ns/net")

_keepers: Final[trio.lowlevel.RunVar[dict[tuple[int, bool], Gatekeeper]]] = trio.lowlevel.RunVar(
    "trio_wsk: gatekeepers"
)


def gatekeeper_here(*, fail_open: bool, make_queue: Callable[..., Queue] = Queue) -> Gatekeeper:
    """Return the gatekeeper of this Trio run and this thread's network namespace.

    Args:
      fail_open: Have SYNs let through that can't be queued.
      make_queue: If there is none yet, makes its queue.

    Raises:
      KernelRefusedError: there is none yet, and none can be had; the error says which step failed,
        and what would help.
    """
    try:
        keepers = _keepers.get()
    except LookupError:
        keepers = {}
        _keepers.set(keepers)
    try:
        namespace = _NAMESPACE.stat().st_ino
    except OSError:  # no /proc: then nobody has changed it
        namespace = 0
    which = (namespace, fail_open)
    if which not in keepers:
        keepers[which] = Gatekeeper(
            partial(make_queue, fail_open=fail_open), closed=lambda: keepers.pop(which, None)
        )
    return keepers[which]


class Gatekeeper:
    """The queue, the rules and the log of resets, and the task that reads them.

    Args:
      make_queue: Makes the queue, given who is told of verdicts that come too late.
      closed: Called when the last door has gone.

    Raises:
      KernelRefusedError: this kernel lacks something, or we lack the right to it.
    """

    def __init__(self, make_queue: Callable[..., Queue], *, closed: Callable[[], object]) -> None:
        self._closed = closed
        self._doors: dict[tuple[bytes, int], Door] = {}
        self._sources: dict[int, Callable[[], object]] = {}
        self._is_running = False
        self._is_holding_back = False
        self._scope: trio.CancelScope | None = None
        self._behind_since = math.inf
        self._queued_by_others = 0
        self._late: list[int] = []
        self.not_syns = 0
        """Packets that were queued and are no SYNs in good order; they were dropped."""
        self.unclaimed = 0
        """SYNs that came for a listening socket that had just closed; they were dropped."""
        with ExitStack() as on_failure:
            self.queue = make_queue(on_late=self._late.append)
            on_failure.callback(self.queue.close)
            self._epoll = _make_epoll()
            on_failure.callback(self._epoll.close)
            self.log = PacketLog()
            on_failure.callback(self.log.close)
            self._lookup = SocketLookup()
            on_failure.callback(self._lookup.close)
            self.house = Gatehouse(self.queue.number, reset_group=self.log.number)
            on_failure.callback(self.house.close)
            for each in (self.queue, self.log):
                _register(self._epoll, each.fileno())
            on_failure.pop_all()

    def __repr__(self) -> str:
        return f"<Gatekeeper of {self.queue!r}>"

    # --- Doors -------------------------------------------------------------------------

    def add(self, door: Door, places: Sequence[Address], most_per_second: int | None) -> None:
        """Put a gate before a listening socket; its door hears of SYNs from now on.

        Raises:
          KernelRefusedError: the rules can't be made.
        """
        try:
            door.gate = self.house.add(places, most_per_second=most_per_second)
        except BaseException:
            if not self._doors:
                self._close()
            raise
        for place in places:
            self._doors[_where(place)] = door
        if not self._is_running:
            self._is_running = True
            trio.lowlevel.spawn_system_task(self._run, name="trio_wsk: SYNs")

    def is_taken(self, place: Address) -> bool:
        """Whether there is a door for exactly this address already."""
        return _where(place) in self._doors

    def remove(self, door: Door) -> None:
        """Take a listening socket's gate away. Its requests have been answered before."""
        self.flush()
        self._queued_by_others += self._queued_by(door)
        self._doors = {where: each for where, each in self._doors.items() if each is not door}
        if not self._doors:
            self._close()
            return
        try:
            door.gate.close()
        except NetlinkError:
            pass  # its rules vanish with the others; until then, what they hold is dropped

    def watch(self, fileno: int, on_readable: Callable[[], object]) -> None:
        """Have a listening socket's connections accepted, in their turn.

        Raises:
          KernelRefusedError: no memory, or too many are watched.
        """
        _register(self._epoll, fileno)
        self._sources[fileno] = on_readable

    def unwatch(self, fileno: int) -> None:
        """Leave them where they are. Idempotent; before the socket is closed."""
        if self._sources.pop(fileno, None) is not None and not self._epoll.closed:
            self._epoll.unregister(fileno)

    def _close(self) -> None:
        self._closed()
        self.house.close()
        self.queue.close()
        self.log.close()
        self._lookup.close()
        if self._scope is not None:
            self._scope.cancel()
        elif not self._is_running:
            self._epoll.close()

    # --- Answers -----------------------------------------------------------------------

    def answer(self, packet_id: int, mark: int, act: Act) -> None:
        """Have this done with a packet."""
        if act is Act.ACCEPT:
            self.queue.verdict(packet_id, PacketVerdict.ACCEPT)
        elif act is Act.REJECT:
            self.queue.verdict(packet_id, PacketVerdict.ACCEPT, mark | REJECT_MARK)
        else:
            assert act is Act.DROP
            self.queue.verdict(packet_id, PacketVerdict.DROP)
        if not self._is_holding_back:
            self.flush()

    def read_ahead(self) -> None:
        """Hand the SYNs that have come by now to their doors. Never raises; bounded."""
        if not self._doors:
            return  # closed, perhaps with its run
        now = trio.current_time()
        for _ in range(_AHEAD):
            try:
                if self._read_queue(now):
                    break
            except NetlinkError:
                break  # the task will find it, too
        self.wake_at(self._next_due())  # the neighbours have heard SYNs as well

    def hold_back(self) -> None:
        """Keep answers until `flush`."""
        self._is_holding_back = True

    def flush(self) -> None:
        """Say the answers that were held back. Never raises."""
        self._is_holding_back = False
        try:
            self.queue.flush()
        except KernelRefusedError:
            pass  # memory is short, and they are said with the next ones; or it is closed

    def wake_at(self, when: float) -> None:
        """Something is due then that was not before."""
        scope = self._scope
        if scope is not None and when < scope.deadline:
            scope.deadline = when

    def is_there(self, local: Address, remote: Address) -> bool | None:
        """Whether the kernel has a connection between these, or its handshake; None if unknown."""
        try:
            state = self._lookup.state_of(local, remote)
        except NetlinkError:
            return None
        if state is KernelState.GONE:
            # Without a scope a link-local address names no connection: it came by loopback.
            host = remote.host
            return (
                None if host is not None and host.is_link_local and not remote.scope_id else False
            )
        return None if state is KernelState.UNKNOWN else True

    def counters(self, door: Door) -> dict[str, int]:
        """Return what is counted for one door and, of the queue, for all doors together."""
        queue = self.queue
        counted = {
            "queue_lost": self.lost(),
            "queue_overruns": queue.overruns,
            "verdicts_late": queue.late_verdicts,
            "not_syns": self.not_syns,
            "unclaimed": self.unclaimed,
        }
        try:
            gate = door.gate.counters()
        except NetlinkError:
            return counted  # the kernel doesn't tell
        return counted | {
            "limited": gate.limited,
            "resets_unheard": gate.resets_unheard,
            "truncated": gate.truncated,
            "refused_in_kernel": gate.refused,
        }

    def lost(self) -> int:
        """Return how many SYNs the rules have sent to the queue, and it had no room for.

        Those that are on their way at this moment are among them.
        """
        queued = self._queued_by_others + sum(map(self._queued_by, self._each_door()))
        return max(0, queued - self.queue.last_id + self.queue.lost)

    @staticmethod
    def _queued_by(door: Door) -> int:
        try:
            return door.gate.counters().queued
        except NetlinkError:
            return 0  # the kernel doesn't tell

    # --- The task ----------------------------------------------------------------------

    async def _run(self) -> None:  # noqa: ASYNC910 - a task of its own
        try:
            while self._doors:
                with trio.CancelScope(deadline=self._next_due()) as self._scope:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                self._scope = None
                if self._doors:
                    self._turn()
        finally:
            # Either all doors have gone, or the run is ending.
            self._scope = None
            self._is_running = False
            if self._doors:
                self._doors.clear()
                self._close()
            self._epoll.close()

    def _next_due(self) -> float:
        return min((door.next_due for door in self._each_door()), default=math.inf)

    def _each_door(self) -> Iterable[Door]:
        return dict.fromkeys(self._doors.values())

    def _turn(self) -> None:
        """Do what there is to do, of each kind a bounded amount."""
        ready = {fileno for fileno, _ in self._epoll.poll(0)}
        now = trio.current_time()
        self.hold_back()
        try:
            is_drained = self.queue.fileno() not in ready or self._read_queue(now)
            if self.log.fileno() in ready:
                self._read_log(now)
        except NetlinkError as error:
            self._fail(error)
            return
        for fileno in ready & self._sources.keys():
            accept = self._sources.get(fileno)
            if accept is not None:  # what was told meanwhile may have closed it
                accept()
        if self._may_look_at_clock(now, is_drained=is_drained):
            for door in self._each_door():
                door.do_due(now, _BATCH)
        self.flush()

    def _may_look_at_clock(self, now: float, *, is_drained: bool) -> bool:
        """Whether what has come by now has been read, or the queue never gets empty."""
        if is_drained:
            self._behind_since = math.inf
            return True
        self._behind_since = min(self._behind_since, now)
        return now >= self._behind_since + _BEHIND

    def _read_queue(self, now: float) -> bool:
        """Hand SYNs to their doors; return whether there are no more."""
        others = self._others_read()
        packets = self.queue.receive(_BATCH)
        if self._late:
            late = frozenset(self._late)
            self._late.clear()
            for each in self._each_door():
                each.on_late(late, now)
        for packet in packets:
            try:
                syn = parse(packet.payload, scope_id=_scope(packet.interface))
            except NotASynError:
                self.not_syns += 1
                self.queue.verdict(packet.packet_id, PacketVerdict.DROP)
                continue
            door = self._door_of(syn.key)
            if door is None:
                self.unclaimed += 1
                self.queue.verdict(packet.packet_id, PacketVerdict.DROP)
            else:
                door.on_syn(syn, packet, now)
        return len(packets) + self._others_read() - others < _BATCH

    def _others_read(self) -> int:
        """Count what was read from the queue and is no packet."""
        queue = self.queue
        return queue.late_verdicts + queue.malformed + queue.overruns

    def _read_log(self, now: float) -> None:
        for logged in self.log.receive(_BATCH):
            reset = reset_of(logged.payload, scope_id=_scope(logged.interface))
            if reset is not None:
                key, number = reset
                door = self._door_of(key)
                if door is not None:
                    door.on_reset(key, number, now)

    def _door_of(self, key: Key) -> Door | None:
        octets, port = key[0], key[1]
        return self._doors.get((octets, port)) or self._doors.get((_ANYWHERE[len(octets)], port))

    def _fail(self, error: NetlinkError) -> None:
        failure = OSError(getattr(error, "code", 0) or errno.EIO, str(error))
        for each in (self.queue, self.log):  # or it would be readable, in vain, for ever
            self._epoll.unregister(each.fileno())
        self._closed()  # the next listening socket has another gatekeeper
        self._closed = lambda: None
        self.flush()
        for door in self._each_door():
            door.fail(failure)


def _make_epoll() -> select.epoll:
    try:
        return select.epoll()
    except OSError as error:  # there is no descriptor left
        raise KernelRefusedError("wait for packets", error.errno or 0) from error


def _register(epoll: select.epoll, fileno: int) -> None:
    try:
        epoll.register(fileno, select.EPOLLIN)
    except OSError as error:  # no memory, or too many are watched
        raise KernelRefusedError("wait for packets", error.errno or 0) from error


def _where(place: Address) -> tuple[bytes, int]:
    host = place.host
    assert host is not None  # addresses of TCP have hosts
    return host.packed, place.port


def _scope(interface: int) -> int:
    return 0 if interface == _LOOPBACK else interface
