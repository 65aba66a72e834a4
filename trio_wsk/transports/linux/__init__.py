"""Inspection before the handshake, on Linux: the kernel's half and the decisions about it.

A SYN for an inspected port is held in a queue of the kernel's (NFQUEUE) by rules of our own
(nftables), until a verdict lets it pass, has it answered with a reset, or drops it. Everything
goes over netlink sockets and takes CAP_NET_ADMIN in the network namespace, but no program and
no library beside Python's own.

Each file is one idea: `_netlink` frames what is said to the kernel, `_nfqueue` is one queue,
`_nftables` the rules that fill it, made of `_expressions`, `_nflog` what tells of resets
meanwhile, `_sock_diag` what became of a connection after its SYN was let through. `_syn` reads
SYNs, and `_syn_table` decides, knowing no socket and no clock. `_gatekeeper` has all of the
kernel's half, once for each Trio run; `_request` is a request, and `transport` where they come
from.
"""

__all__: list[str] = []  # what is public has its home in trio_wsk.transports
