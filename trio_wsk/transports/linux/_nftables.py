"""Tables of nftables that belong to one netlink socket, and with them the rules that hold SYNs.

One `Gatehouse` has the tables, and a `Gate` for each listening socket; what stands in them,
`_rules` says.

The owner flag (Linux 5.12) makes the tables vanish with the socket, also if the process is
killed, and keeps everybody else, root with ``nft flush ruleset`` too, from removing them.

Whenever anybody removes a chain with a hook, the kernel drops all packets that are held in the
network namespace, by whichever queue (``nf_queue_nf_hook_drop``); their senders try again. So
gates come and go without touching chains with hooks; a batch that might fail, which would remove
what it has made, has none either; and they are removed last of all, with the tables. Other
processes remove theirs when they like.

Where the kernel lacks the native ``queue`` expression, the target of iptables does the same
through nft_compat. Both were tried: the native one on Debian 12 and 13 (Linux 6.1 and 6.12), the
other one there with the module nft_queue forbidden, and on a kernel that is built without it.

Source: net/netfilter/nf_tables_api.c, ``linux/netfilter/nf_tables.h``; nft(8).
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from ._expressions import queue, queue_target
from ._messages import (
    DUMP,
    NETFILTER_HEADER_SIZE,
    Change,
    NetlinkError,
    netfilter_header,
    parse_attribute_list,
    parse_attributes,
    parse_number,
    text,
)
from ._netlink import NETFILTER, KernelRefusedError, NetlinkSocket
from ._rules import HOLD, IPV4, IPV6, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from trio_wsk._vocabulary.addresses import Address

    from ._sets import KernelSet

    Way: TypeAlias = Callable[[int, bool], bytes]

__all__ = ["Gate", "GateCounters", "Gatehouse"]

_SUBSYSTEM: Final = 10
_GET_RULE: Final = 7
_NO_NFTABLES: Final = "this kernel has no nftables (CONFIG_NF_TABLES, module nf_tables)"


class GateCounters(NamedTuple):
    """What a gate has counted, in all its families."""

    queued: int
    """SYNs that were sent to the queue. What all gates of a queue have sent there, and no id
    was given to (`Queue.last_id`), was dropped because the queue was full."""
    limited: int
    """SYNs that were dropped because of ``most_per_second``."""
    resets_unheard: int
    """Resets that were not copied, because there were more than `RESETS_PER_SECOND`."""
    truncated: int
    """First fragments that were dropped because they did not have all headers."""
    refused: int
    """SYNs of sources that the kernel knows, and refused by itself."""


class Gatehouse:
    """The rules for one queue; they last until it is closed.

    Args:
      queue_number: Where to send SYNs. Bind it first: until somebody reads it, nobody gets in.
      bypass: Let SYNs in *uninspected* while nobody has bound the queue.
      reset_group: Also copy resets to this group of NFLOG, without holding them.
      ways: How a rule may queue, the best first; a kernel may lack any of them.

    Raises:
      KernelRefusedError: this kernel lacks something, or we lack the right to it; the error says
        which step failed, and what would help.
    """

    __slots__ = (
        "_bypass",
        "_gates",
        "_holds",
        "_made",
        "_queue_number",
        "_reset_group",
        "_serial",
        "_socket",
        "_ways",
        "table",
    )

    table: str
    """The name of its tables, which no others have: a port id has one owner in a namespace."""

    def __init__(
        self,
        queue_number: int,
        *,
        bypass: bool = False,
        reset_group: int | None = None,
        ways: Sequence[Way] = (queue, queue_target),
    ) -> None:
        self._queue_number = queue_number
        self._bypass = bypass
        self._reset_group = reset_group
        self._ways = ways
        self._holds: dict[int, bytes] = {}  # what queues, for families that were tried
        self._made: set[int] = set()  # families that have a table
        self._gates: list[Gate] = []
        self._serial = 0
        self._socket = NetlinkSocket(NETFILTER)
        self.table = f"trio_wsk_{os.getpid()}_{self._socket.port_id}"
        try:
            self._prepare(IPV4)
        except BaseException:
            self._socket.close()
            raise

    def __repr__(self) -> str:
        return f"<Gatehouse {self.table}>"

    def try_out(self, family: int) -> None:
        """See whether rules can be made for an address family. None is ever in force.

        For IPv4 this has been done when the house was made, for others `add` does it too.

        Args:
          family: ``socket.AF_INET`` or ``socket.AF_INET6``.

        Raises:
          KernelRefusedError: they can't be made.
        """
        self._prepare(IPV4 if family == socket.AF_INET else IPV6)

    def add(self, addresses: Iterable[Address], *, most_per_second: int | None = None) -> Gate:
        """Put a gate before some addresses: from now on SYNs for them are held.

        Args:
          addresses: Where a listening socket is or will be. An unspecified address
            (``0.0.0.0``, ``::``) stands for all of its family; a socket for both takes both.
          most_per_second: Drop what exceeds this many SYNs per second, for each address
            family, before it costs anything; as many may come at once. None: no limit.

        Raises:
          KernelRefusedError: the rules can't be made. Nothing has changed.
        """
        places: dict[int, list[Address]] = {}
        for place in addresses:
            family = IPV4 if place.family == socket.AF_INET else IPV6
            places.setdefault(family, []).append(place)
        self._serial += 1
        gate = Gate(self, self._serial, [*places])
        changes: list[Change] = []
        for family, own in places.items():
            self._prepare(family)
            table = Table(self.table, family)
            if most_per_second is not None:
                attempt = self._attempt_at(family)
                self._attempt(attempt, [attempt.limit("attempt", most_per_second)])
            if family not in self._made:
                changes += table.make()
            changes += table.make_gate(
                gate.serial, own, self._holds[family], most_per_second, self._reset_group
            )
            changes += self._jumps(family, [*self._gates, gate])
        self._socket.batch(_SUBSYSTEM, changes)
        self._made |= places.keys()
        self._gates.append(gate)
        return gate

    def close(self) -> None:
        """Take all rules away; from now on SYNs come through uninspected. Idempotent.

        What any queue in the network namespace holds is dropped.
        """
        if self._socket.fileno() < 0:
            return
        # Closing would do, were it not for a forked child that has the descriptor as well.
        changes = [Table(self.table, family).delete() for family in self._made]
        try:
            self._socket.batch(_SUBSYSTEM, changes)
        except NetlinkError:
            pass  # it is closed next, which does the same
        self._socket.close()

    def remove(self, gate: Gate) -> None:
        """Do what `Gate.close` says."""
        if gate not in self._gates:
            return
        self._gates.remove(gate)
        if self._socket.fileno() < 0:
            return
        changes: list[Change] = []
        for family in gate.families:
            changes += self._jumps(family, self._gates)
            changes += Table(self.table, family).delete_gate(
                gate.serial, has_resets=self._reset_group is not None
            )
        changes += [each.take_away() for each in gate.sets]
        self._socket.batch(_SUBSYSTEM, changes)

    def change(self, changes: Sequence[Change]) -> None:
        """Do what `Gate.change` says."""
        self._socket.batch(_SUBSYSTEM, changes)

    def count(self, gate: Gate) -> GateCounters:
        """Do what `Gate.counters` says."""
        queued = limited = unheard = truncated = refused = 0
        for family in gate.families:
            passed, exceeded = self._count_in_chain(family, f"inspect_{gate.serial}")
            queued += passed
            limited += exceeded
            for chain in ("reset", "silence"):
                refused += self._count_in_chain(family, f"{chain}_{gate.serial}")[0]
            if self._reset_group is not None:
                unheard += self._count_in_chain(family, f"resets_{gate.serial}")[1]
            if family == IPV6:
                truncated += self._count_in_chain(family, f"fragments_{gate.serial}")[0]
        return GateCounters(queued, limited, unheard, truncated, refused)

    def _count_in_chain(self, family: int, chain: str) -> tuple[int, int]:
        """Return what a chain's rules have counted, those without a limit and those with one."""
        passed = exceeded = 0
        for rule in self._socket.request(
            _SUBSYSTEM << 8 | _GET_RULE,
            netfilter_header(family) + text(1, self.table) + text(2, chain),
            flags=DUMP,
            step="read how many packets the rules have counted",
        ):
            is_limit, counted = _count_in(rule.body)
            if is_limit:
                exceeded += counted
            else:
                passed += counted
        return passed, exceeded

    def _prepare(self, family: int) -> None:
        """Find out how to queue, and see that the kernel can do the rest too."""
        if family in self._holds:
            return
        attempt = self._attempt_at(family)
        others = [attempt.reject("attempt")]
        if self._reset_group is not None:
            others += attempt.log_some("attempt", self._reset_group)
        for way in self._ways:
            hold = way(self._queue_number, self._bypass)
            try:
                self._attempt(attempt, [attempt.hold("attempt", hold), *others])
            except KernelRefusedError as error:
                is_missing = (error.step, error.code) == (HOLD, errno.ENOENT)
                if not is_missing or way is self._ways[-1]:
                    raise
            else:
                self._holds[family] = hold
                return

    def _attempt_at(self, family: int) -> Table:
        return Table(f"{self.table}_attempt", family)

    def _attempt(self, table: Table, rules: Iterable[Change]) -> None:
        """Make rules that are never in force, and take them away in the same batch."""
        self._socket.batch(
            _SUBSYSTEM,
            [table.create(), table.chain("attempt"), *rules, table.delete()],
            hints={errno.EOPNOTSUPP: _NO_NFTABLES},
        )

    def _jumps(self, family: int, gates: Iterable[Gate]) -> list[Change]:
        """Have the chains with hooks jump to these gates, and to no others."""
        table = Table(self.table, family)
        serials = [gate.serial for gate in gates if family in gate.families]
        return [
            change
            for chain in ("gate", "verdict")
            for change in (
                table.clear(chain),
                *(table.jump(chain, f"{chain}_{serial}") for serial in serials),
            )
        ]


class Gate:
    """The rules before one listening socket; `Gatehouse.add` makes them."""

    __slots__ = ("_house", "families", "serial", "sets")

    families: Sequence[int]
    """Address families, as netfilter calls them."""
    serial: int
    """By which its house calls it."""
    sets: list[KernelSet]
    """What is taken away with it, after all rules that name it."""

    def __init__(self, house: Gatehouse, serial: int, families: Sequence[int]) -> None:
        self._house = house
        self.serial = serial
        self.families = families
        self.sets = []

    def __repr__(self) -> str:
        return f"<Gate {self.serial} of {self._house.table}>"

    @property
    def table(self) -> str:
        """The name of the tables that it is in, one for each family."""
        return self._house.table

    def change(self, changes: Sequence[Change]) -> None:
        """Change something behind it, which must have nothing to do with chains with hooks.

        Raises:
          KernelRefusedError: the kernel refuses; nothing has changed. Or the house is closed.
          NetlinkError: the kernel's answer can't be read.
        """
        self._house.change(changes)

    def counters(self) -> GateCounters:
        """Return what the rules have counted since they were made.

        Raises:
          KernelRefusedError: the gate is closed.
          NetlinkError: the kernel's answer can't be read.
        """
        return self._house.count(self)

    def close(self) -> None:
        """Take the rules away; from now on SYNs come through uninspected. Idempotent.

        What is held stays held. A SYN with the mark would come through too: have what is to
        be rejected answered first.

        Raises:
          KernelRefusedError: the rules are still there; they vanish with the house.
        """
        self._house.remove(self)


def _count_in(rule: bytes) -> tuple[bool, int]:
    """Return whether a rule is a limit, and what its counter has counted."""
    expressions = parse_attributes(rule, NETFILTER_HEADER_SIZE).get(4, b"")
    is_limit, counted = False, 0
    for _, expression in parse_attribute_list(expressions):
        parts = parse_attributes(expression)
        if parts.get(1) == b"counter\0":
            counted = parse_number(parse_attributes(parts.get(2, b"")).get(2, b""), 8)
        is_limit = is_limit or parts.get(1) == b"limit\0"
    return is_limit, counted
