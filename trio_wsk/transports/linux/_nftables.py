"""The rules that have SYNs held: tables of nftables that belong to one netlink socket.

One `Gatehouse` has one for each address family, with a `Gate` for each listening socket::

    table ip trio_wsk_<process>_<port id> {              # flags owner
        chain gate {                                     # hook input priority 60
            jump gate_1
        }
        chain verdict {                                  # hook input priority 61
            jump verdict_1
        }
        chain inspect_1 {
            limit rate over N/second burst N packets counter drop              # if asked for
            meta mark set meta mark & ~REJECT_MARK, counter queue num Q
        }
        chain gate_1 {                                   # for each address A and port P
            meta l4proto tcp, tcp dport P, tcp flags & (fin|syn|rst|ack) == syn,
                ip daddr A, jump inspect_1
            frag frag-off 0, ip6 daddr A, jump fragments_1                      # IPv6
            the same with tcp flags & (syn|rst) == rst, jump resets_1          # if asked for
        }
        chain resets_1 {                                                       # so, too
            limit rate over 1000/second burst 1000 packets counter return
            log group G
        }
        chain fragments_1 {                                                    # IPv6
            meta l4proto 0-255 return
            counter drop
        }
        chain verdict_1 {
            meta mark & REJECT_MARK != 0, and the same as in gate_1, reject with tcp reset
        }
    }

Host firewalls filter before (`GATE_PRIORITY`): what they drop is never queued. A packet that has
had its verdict goes on after the chain that has queued it; so a SYN that was refused (accepted,
marked) meets the reset in the next chain.

The owner flag (Linux 5.12) makes the tables vanish with the socket, also if the process is
killed, and keeps everybody else, root with ``nft flush ruleset`` too, from removing them.

Whenever anybody removes a chain with a hook, the kernel drops all packets that are held in the
network namespace, by whichever queue (``nf_queue_nf_hook_drop``); their senders try again. So
gates come and go without touching chains with hooks; a batch that might fail, which would remove
what it has made, has none either; and they are removed last of all, with the tables. Other
processes remove theirs when they like.

Nothing here matches on connection tracking, which would switch it on for the whole host.

A link-local address matches on every link that has it; the packet says which one it came by. Of
an IPv6 packet in fragments, which are put together only later, the first fragment is queued: the
kernel sees to it that all of TCP's header is in there. It does not if that fragment ends among the
extension headers; then nobody can tell that it is TCP, and it is dropped, as RFC 7112 (section 5)
asks of hosts.

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

from ._expressions import (
    ACCEPT,
    ACK,
    DROP,
    FIN,
    RETURN,
    RST,
    SYN,
    clear_mark,
    count,
    exceeds,
    first_fragment_to,
    has_all_headers,
    is_marked,
    is_tcp,
    jump,
    log,
    queue,
    queue_target,
    reset,
    segment_to,
    verdict,
)
from ._netlink import (
    APPEND,
    CREATE,
    DUMP,
    EXCLUSIVE,
    NETFILTER,
    KernelRefusedError,
    NetlinkError,
    NetlinkSocket,
    Step,
    be32,
    nested,
    netfilter_header,
    parse_attribute_list,
    parse_attributes,
    parse_number,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from trio_wsk._vocabulary.addresses import Address

    Way: TypeAlias = Callable[[int, bool], bytes]

__all__ = [
    "GATE_PRIORITY",
    "REJECT_MARK",
    "VERDICT_PRIORITY",
    "Gate",
    "GateCounters",
    "Gatehouse",
]

GATE_PRIORITY: Final = 60
"""After every filter of the host's, in the input hook, since among equals the newest goes first:
nft's own name ``filter`` is 0, and there are those of iptables and so of ufw; firewalld has its
chains at 10 (``filter + 10``); the table ``security`` of iptables is at 50. Before source NAT,
at 100, so that a packet is judged as it came."""
VERDICT_PRIORITY: Final = 61
"""Right after it: a packet goes on from where it was queued, to the next chain."""

REJECT_MARK: Final = 0x40000000
"""The bit of a packet's mark that has a SYN answered with a reset; cleared before it is queued."""

_SUBSYSTEM: Final = 10
_NEW_TABLE: Final = 0
_DELETE_TABLE: Final = 2
_NEW_CHAIN: Final = 3
_DELETE_CHAIN: Final = 5
_NEW_RULE: Final = 6
_GET_RULE: Final = 7
_DELETE_RULE: Final = 8
_NETFILTER_HEADER_SIZE: Final = 4
_OWNER: Final = 2

_IPV4: Final = 2
_IPV6: Final = 10  # NFPROTO_IPV6; that socket.AF_INET6 is 10 too holds for Linux only

_INPUT_HOOK: Final = 1

RESETS_PER_SECOND: Final = 1000
"""So many resets are copied, for each gate and address family. Anybody can write one, and each
costs a turn of Python; who pays attention to one that is not copied hears by its heartbeat."""

_SNAP_LENGTH: Final = 128
"""Octets of a logged packet: an IPv6 header, some of its extensions, and TCP's."""

_NO_QUEUE: Final = (
    "this kernel has neither the queue expression of nftables (CONFIG_NFT_QUEUE, module "
    "nft_queue) nor the NFQUEUE target for it (CONFIG_NFT_COMPAT and "
    "CONFIG_NETFILTER_XT_TARGET_NFQUEUE)"
)
_NO_OWNER: Final = "tables with an owner take Linux 5.12"
_NO_REJECT: Final = (
    "this kernel can't reject (CONFIG_NFT_REJECT, modules nft_reject_ipv4 and nft_reject_ipv6)"
)
_NO_LIMIT: Final = "this kernel can't limit (CONFIG_NFT_LIMIT, module nft_limit)"
_NO_LOG: Final = "this kernel can't log to a process (CONFIG_NFT_LOG, CONFIG_NETFILTER_NETLINK_LOG)"
_NO_NFTABLES: Final = "this kernel has no nftables (CONFIG_NF_TABLES, module nf_tables)"

_HOLD: Final = "have SYNs queued by a rule"


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
            self._prepare(_IPV4)
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
        self._prepare(_IPV4 if family == socket.AF_INET else _IPV6)

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
            family = _IPV4 if place.family == socket.AF_INET else _IPV6
            places.setdefault(family, []).append(place)
        self._serial += 1
        gate = Gate(self, self._serial, [*places])
        steps: list[Step] = []
        for family, own in places.items():
            self._prepare(family)
            table = _Table(self.table, family)
            if most_per_second is not None:
                attempt = self._attempt_at(family)
                self._attempt(attempt, [attempt.limit("attempt", most_per_second)])
            if family not in self._made:
                steps += table.make()
            steps += table.make_gate(
                gate.serial, own, self._holds[family], most_per_second, self._reset_group
            )
            steps += self._jumps(family, [*self._gates, gate])
        self._socket.batch(_SUBSYSTEM, steps)
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
        steps = [_Table(self.table, family).delete() for family in self._made]
        try:
            self._socket.batch(_SUBSYSTEM, steps)
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
        steps: list[Step] = []
        for family in gate.families:
            steps += self._jumps(family, self._gates)
            steps += _Table(self.table, family).delete_gate(
                gate.serial, has_resets=self._reset_group is not None
            )
        self._socket.batch(_SUBSYSTEM, steps)

    def count(self, gate: Gate) -> GateCounters:
        """Do what `Gate.counters` says."""
        queued = limited = unheard = truncated = 0
        for family in gate.families:
            passed, exceeded = self._count_in_chain(family, f"inspect_{gate.serial}")
            queued += passed
            limited += exceeded
            if self._reset_group is not None:
                unheard += self._count_in_chain(family, f"resets_{gate.serial}")[1]
            if family == _IPV6:
                truncated += self._count_in_chain(family, f"fragments_{gate.serial}")[0]
        return GateCounters(queued, limited, unheard, truncated)

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
                is_missing = (error.step, error.code) == (_HOLD, errno.ENOENT)
                if not is_missing or way is self._ways[-1]:
                    raise
            else:
                self._holds[family] = hold
                return

    def _attempt_at(self, family: int) -> _Table:
        return _Table(f"{self.table}_attempt", family)

    def _attempt(self, table: _Table, rules: Iterable[Step]) -> None:
        """Make rules that are never in force, and take them away in the same batch."""
        self._socket.batch(
            _SUBSYSTEM,
            [table.create(), table.chain("attempt"), *rules, table.delete()],
            hints={errno.EOPNOTSUPP: _NO_NFTABLES},
        )

    def _jumps(self, family: int, gates: Iterable[Gate]) -> list[Step]:
        """Have the chains with hooks jump to these gates, and to no others."""
        table = _Table(self.table, family)
        serials = [gate.serial for gate in gates if family in gate.families]
        return [
            step
            for chain in ("gate", "verdict")
            for step in (
                table.clear(chain),
                *(table.jump(chain, f"{chain}_{serial}") for serial in serials),
            )
        ]


class Gate:
    """The rules before one listening socket; `Gatehouse.add` makes them."""

    __slots__ = ("_house", "families", "serial")

    families: Sequence[int]
    """Address families, as netfilter calls them."""
    serial: int
    """By which its house calls it."""

    def __init__(self, house: Gatehouse, serial: int, families: Sequence[int]) -> None:
        self._house = house
        self.serial = serial
        self.families = families

    def __repr__(self) -> str:
        return f"<Gate {self.serial} of {self._house.table}>"

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
    expressions = parse_attributes(rule, _NETFILTER_HEADER_SIZE).get(4, b"")
    is_limit, counted = False, 0
    for _, expression in parse_attribute_list(expressions):
        parts = parse_attributes(expression)
        if parts.get(1) == b"counter\0":
            counted = parse_number(parse_attributes(parts.get(2, b"")).get(2, b""), 8)
        is_limit = is_limit or parts.get(1) == b"limit\0"
    return is_limit, counted


class _Table:
    """One family's table: writes the steps of a batch that change it."""

    def __init__(self, name: str, family: int) -> None:
        self._name = text(1, name)
        self._family = family

    def create(self) -> Step:
        """Make the table."""
        attributes = self._name + be32(2, _OWNER)
        hints = {errno.EINVAL: _NO_OWNER, errno.EOPNOTSUPP: _NO_OWNER}
        step = "make a table with an owner"
        return Step(step, _NEW_TABLE, CREATE | EXCLUSIVE, self._family, attributes, hints)

    def delete(self) -> Step:
        """Take the table away, with all that is in it."""
        return Step("delete a table", _DELETE_TABLE, 0, self._family, self._name)

    def make(self) -> list[Step]:
        """Make the table and its chains with hooks."""
        return [
            self.create(),
            self.chain("gate", GATE_PRIORITY),
            self.chain("verdict", VERDICT_PRIORITY),
        ]

    def make_gate(
        self,
        serial: int,
        places: Iterable[Address],
        hold: bytes,
        most_per_second: int | None,
        reset_group: int | None,
    ) -> list[Step]:
        """Make a gate's chains, which nothing jumps to yet."""
        inspect, gate, refuse = f"inspect_{serial}", f"gate_{serial}", f"verdict_{serial}"
        resets, fragments = f"resets_{serial}", f"fragments_{serial}"
        steps = [self.chain(inspect), self.chain(gate), self.chain(refuse)]
        if most_per_second is not None:
            steps.append(self.limit(inspect, most_per_second))
        steps.append(self.hold(inspect, hold))
        if reset_group is not None:
            steps += (self.chain(resets), *self.log_some(resets, reset_group))
        if self._family == _IPV6:
            steps += (self.chain(fragments), *self.drop_truncated(fragments))
        for place in places:
            syn = [*segment_to(place, of_flags=FIN | SYN | RST | ACK, flags=SYN)]
            steps += (self.jump(gate, inspect, *syn), self.reject(refuse, *syn))
            if reset_group is not None:
                reset = segment_to(place, of_flags=SYN | RST, flags=RST)
                steps.append(self.jump(gate, resets, *reset))
            if self._family == _IPV6:
                steps.append(self.jump(gate, fragments, *first_fragment_to(place)))
        return steps

    def delete_gate(self, serial: int, *, has_resets: bool) -> list[Step]:
        """Take a gate's chains away, which nothing jumps to any more."""
        chains = ["gate", "verdict", "inspect"]
        if has_resets:
            chains.append("resets")
        if self._family == _IPV6:
            chains.append("fragments")
        return [
            Step(
                "delete a gate",
                _DELETE_CHAIN,
                0,
                self._family,
                self._name + text(3, f"{chain}_{serial}"),
            )
            for chain in chains
        ]

    def chain(self, name: str, priority: int | None = None) -> Step:
        """Make a chain; with a priority, have incoming packets go through it."""
        attributes = self._name + text(3, name)
        if priority is not None:
            attributes += nested(4, be32(1, _INPUT_HOOK), be32(2, priority))
            attributes += be32(5, ACCEPT) + text(7, "filter")
        return Step(f"make the chain {name!r}", _NEW_CHAIN, CREATE, self._family, attributes)

    def clear(self, chain: str) -> Step:
        """Take all rules out of a chain."""
        attributes = self._name + text(2, chain)
        return Step(f"clear the chain {chain!r}", _DELETE_RULE, 0, self._family, attributes)

    def limit(self, chain: str, most_per_second: int) -> Step:
        """Add a rule that drops what exceeds a limit."""
        drop = (exceeds(most_per_second), count(), verdict(DROP))
        return self._rule("limit SYNs by a rule", chain, drop, _NO_LIMIT)

    def hold(self, chain: str, way: bytes) -> Step:
        """Add a rule that queues."""
        return self._rule(_HOLD, chain, (*clear_mark(REJECT_MARK), count(), way), _NO_QUEUE)

    def drop_truncated(self, chain: str) -> list[Step]:
        """Add rules that drop what has not all headers."""
        return [
            self._rule("let whole headers through", chain, (has_all_headers(), verdict(RETURN))),
            self._rule("drop others", chain, (count(), verdict(DROP))),
        ]

    def jump(self, chain: str, to: str, *condition: bytes) -> Step:
        """Add a rule that goes through another chain."""
        return self._rule(f"jump to the chain {to!r} by a rule", chain, (*condition, jump(to)))

    def reject(self, chain: str, *condition: bytes) -> Step:
        """Add a rule that resets what is marked."""
        refuse = (*is_marked(REJECT_MARK), *(condition or is_tcp()), reset())
        return self._rule("reject SYNs by a rule", chain, refuse, _NO_REJECT)

    def log_some(self, chain: str, group: int) -> list[Step]:
        """Add rules that copy to a log, no more than `RESETS_PER_SECOND`."""
        leave = (exceeds(RESETS_PER_SECOND), count(), verdict(RETURN))
        copy = [log(group, _SNAP_LENGTH)]
        return [
            self._rule("limit resets by a rule", chain, leave, _NO_LIMIT),
            self._rule("have resets logged by a rule", chain, copy, _NO_LOG),
        ]

    def _rule(
        self, doing: str, chain: str, expressions: Iterable[bytes], missing: str = ""
    ) -> Step:
        attributes = self._name + text(2, chain) + nested(4, *expressions)
        flags, hints = CREATE | APPEND, {errno.ENOENT: missing}
        return Step(doing, _NEW_RULE, flags, self._family, attributes, hints)
