"""Inspection before the handshake, on Linux: the kernel's half and the decisions about it.

A SYN for an inspected port is held in a queue of the kernel's (NFQUEUE) by rules of our own
(nftables), until a verdict lets it pass, has it answered with a reset, or drops it. Everything
goes over netlink sockets and takes CAP_NET_ADMIN in the network namespace, but no program and
no library beside Python's own.

Each file is one idea. What the kernel is told and tells: `_messages` are netlink's, `_netlink` a
socket for them, and `_numbered` one that owns a number. Such are `_nfqueue`, the queue, and
`_nflog`, which tells of resets meanwhile. `_expressions` make the rules of `_rules`, which
`_nftables` puts before listening sockets, and `_known` has them refuse who is in the sets of
`_sets`; `_sock_diag` tells what became of a connection after its
SYN was let through.

What is decided, without a socket and a clock: `_syn_table` decides about SYNs, in the words of
`_entry` and with the alarms of `_alarms`.

Who does it: `_gatekeeper` has all of the kernel's half, once for each Trio run, and a `_door` for
each listening socket. That is `_arrivals`, with the connections that come of SYNs from its
`_accept_queues`; `_request` is one request, `_suitable` says which sockets will do, and `transport`
is the face of it all.
"""

__all__: list[str] = []  # what is public has its home in trio_wsk.transports
