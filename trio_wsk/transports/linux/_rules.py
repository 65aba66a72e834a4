"""The rules that have SYNs held, as changes to tables of nftables; nothing here has a socket.

A `Gatehouse` has one table for each address family, with a `Gate` for each listening socket::

    table ip trio_wsk_<process>_<port id> {              # flags owner
        chain gate {                                     # hook input priority 60
            jump gate_1
        }
        chain verdict {                                  # hook input priority 61
            jump verdict_1
        }
        chain inspect_1 {
            jump known_1
            limit rate over N/second burst N packets counter drop              # if asked for
            meta mark set meta mark & ~REJECT_MARK, counter queue num Q
        }
        chain known_1 {                                                        # see _known
            ip saddr != @exempt_1, ip saddr @sources_1, jump reset_1
            ip saddr @networks_1, jump silence_1
        }
        chain reset_1 {
            counter reject with tcp reset
        }
        chain silence_1 {
            counter drop
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

Nothing here matches on connection tracking, which would switch it on for the whole host.

A link-local address matches on every link that has it; the packet says which one it came by. Of
an IPv6 packet in fragments, which are put together only later, the first fragment is queued: the
kernel sees to it that all of TCP's header is in there. It does not if that fragment ends among the
extension headers; then nobody can tell that it is TCP, and it is dropped, as RFC 7112 (section 5)
asks of hosts.

Source: net/netfilter/nf_tables_api.c, ``linux/netfilter/nf_tables.h``; nft(8).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

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
    reset,
    segment_to,
    verdict,
)
from ._messages import APPEND, CREATE, EXCLUSIVE, Change, be32, nested, text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_wsk._vocabulary.addresses import Address

__all__ = [
    "GATE_PRIORITY",
    "HOLD",
    "IPV4",
    "IPV6",
    "REJECT_MARK",
    "RESETS_PER_SECOND",
    "VERDICT_PRIORITY",
    "Table",
]

IPV4: Final = 2
IPV6: Final = 10  # NFPROTO_IPV6; that socket.AF_INET6 is 10 too holds for Linux only

GATE_PRIORITY: Final = 60
"""After every filter of the host's, in the input hook, since among equals the newest goes first:
nft's own name ``filter`` is 0, and there are those of iptables and so of ufw; firewalld has its
chains at 10 (``filter + 10``); the table ``security`` of iptables is at 50. Before source NAT,
at 100, so that a packet is judged as it came."""
VERDICT_PRIORITY: Final = 61
"""Right after it: a packet goes on from where it was queued, to the next chain."""

REJECT_MARK: Final = 0x40000000
"""The bit of a packet's mark that has a SYN answered with a reset; cleared before it is queued."""

_NEW_TABLE: Final = 0
_DELETE_TABLE: Final = 2
_NEW_CHAIN: Final = 3
_DELETE_CHAIN: Final = 5
_NEW_RULE: Final = 6
_DELETE_RULE: Final = 8
_OWNER: Final = 2

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

HOLD: Final = "have SYNs queued by a rule"
"""The step that fails where a kernel lacks this way to queue."""


class Table:
    """One family's table: writes changes to it."""

    def __init__(self, name: str, family: int) -> None:
        self._name = text(1, name)
        self._family = family

    def create(self) -> Change:
        """Make the table."""
        attributes = self._name + be32(2, _OWNER)
        hints = {errno.EINVAL: _NO_OWNER, errno.EOPNOTSUPP: _NO_OWNER}
        step = "make a table with an owner"
        return Change(step, _NEW_TABLE, CREATE | EXCLUSIVE, self._family, attributes, hints)

    def delete(self) -> Change:
        """Take the table away, with all that is in it."""
        return Change("delete a table", _DELETE_TABLE, 0, self._family, self._name)

    def make(self) -> list[Change]:
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
    ) -> list[Change]:
        """Make a gate's chains, which nothing jumps to yet."""
        inspect, gate, refuse = f"inspect_{serial}", f"gate_{serial}", f"verdict_{serial}"
        resets, fragments = f"resets_{serial}", f"fragments_{serial}"
        changes = [self.chain(inspect), self.chain(gate), self.chain(refuse)]
        changes += self.make_known(serial)
        changes.append(self.jump(inspect, f"known_{serial}"))
        if most_per_second is not None:
            changes.append(self.limit(inspect, most_per_second))
        changes.append(self.hold(inspect, hold))
        if reset_group is not None:
            changes += (self.chain(resets), *self.log_some(resets, reset_group))
        if self._family == IPV6:
            changes += (self.chain(fragments), *self.drop_truncated(fragments))
        for place in places:
            syn = [*segment_to(place, of_flags=FIN | SYN | RST | ACK, flags=SYN)]
            changes += (self.jump(gate, inspect, *syn), self.reject(refuse, *syn))
            if reset_group is not None:
                reset = segment_to(place, of_flags=SYN | RST, flags=RST)
                changes.append(self.jump(gate, resets, *reset))
            if self._family == IPV6:
                changes.append(self.jump(gate, fragments, *first_fragment_to(place)))
        return changes

    def delete_gate(self, serial: int, *, has_resets: bool) -> list[Change]:
        """Take a gate's chains away, which nothing jumps to any more."""
        chains = ["gate", "verdict", "inspect", "known", "reset", "silence"]
        if has_resets:
            chains.append("resets")
        if self._family == IPV6:
            chains.append("fragments")
        return [
            Change(
                "delete a gate",
                _DELETE_CHAIN,
                0,
                self._family,
                self._name + text(3, f"{chain}_{serial}"),
            )
            for chain in chains
        ]

    def make_known(self, serial: int) -> list[Change]:
        """Make the chains of those whom the kernel refuses by itself; it knows nobody yet."""
        known, resets, silence = f"known_{serial}", f"reset_{serial}", f"silence_{serial}"
        return [
            *(self.chain(name) for name in (known, resets, silence)),
            self._rule("reject SYNs by a rule", resets, (count(), reset()), _NO_REJECT),
            self._rule("drop SYNs by a rule", silence, (count(), verdict(DROP))),
        ]

    def chain(self, name: str, priority: int | None = None) -> Change:
        """Make a chain; with a priority, have incoming packets go through it."""
        attributes = self._name + text(3, name)
        if priority is not None:
            attributes += nested(4, be32(1, _INPUT_HOOK), be32(2, priority))
            attributes += be32(5, ACCEPT) + text(7, "filter")
        return Change(f"make the chain {name!r}", _NEW_CHAIN, CREATE, self._family, attributes)

    def clear(self, chain: str) -> Change:
        """Take all rules out of a chain."""
        attributes = self._name + text(2, chain)
        return Change(f"clear the chain {chain!r}", _DELETE_RULE, 0, self._family, attributes)

    def limit(self, chain: str, most_per_second: int) -> Change:
        """Add a rule that drops what exceeds a limit."""
        drop = (exceeds(most_per_second), count(), verdict(DROP))
        return self._rule("limit SYNs by a rule", chain, drop, _NO_LIMIT)

    def hold(self, chain: str, way: bytes) -> Change:
        """Add a rule that queues."""
        return self._rule(HOLD, chain, (*clear_mark(REJECT_MARK), count(), way), _NO_QUEUE)

    def drop_truncated(self, chain: str) -> list[Change]:
        """Add rules that drop what has not all headers."""
        return [
            self._rule("let whole headers through", chain, (has_all_headers(), verdict(RETURN))),
            self._rule("drop others", chain, (count(), verdict(DROP))),
        ]

    def jump(self, chain: str, to: str, *condition: bytes) -> Change:
        """Add a rule that goes through another chain."""
        return self._rule(f"jump to the chain {to!r} by a rule", chain, (*condition, jump(to)))

    def reject(self, chain: str, *condition: bytes) -> Change:
        """Add a rule that resets what is marked."""
        refuse = (*is_marked(REJECT_MARK), *(condition or is_tcp()), reset())
        return self._rule("reject SYNs by a rule", chain, refuse, _NO_REJECT)

    def log_some(self, chain: str, group: int) -> list[Change]:
        """Add rules that copy to a log, no more than `RESETS_PER_SECOND`."""
        leave = (exceeds(RESETS_PER_SECOND), count(), verdict(RETURN))
        copy = [log(group, _SNAP_LENGTH)]
        return [
            self._rule("limit resets by a rule", chain, leave, _NO_LIMIT),
            self._rule("have resets logged by a rule", chain, copy, _NO_LOG),
        ]

    def _rule(
        self, step: str, chain: str, expressions: Iterable[bytes], missing: str = ""
    ) -> Change:
        attributes = self._name + text(2, chain) + nested(4, *expressions)
        flags, hints = CREATE | APPEND, {errno.ENOENT: missing}
        return Change(step, _NEW_RULE, flags, self._family, attributes, hints)
