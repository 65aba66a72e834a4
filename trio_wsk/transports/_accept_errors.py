"""Whose fault it is when accept(2) fails: one table for every transport over sockets.

accept(2) has three kinds of errors, and each wants something else done.

*The peer's.* The connection died between its handshake and our accept, or a firewall
forbids it. It has left the queue, and the next one may be fine: go on. Linux passes
errors that were pending on the new socket through accept; its man page lists them and says
"treat them like EAGAIN by retrying". "Going on" must mean that one queued connection
is used up each time, or the loop never ends; so a row here claims that, too. It may be wrong (EPERM
is also what a security module answers that forbids the call itself): `FAULTS_IN_A_ROW`.

*The machine's.* No descriptor or no memory is left. The connection stays in the queue,
the queue stays readable, and retrying at once is a hot loop: wait, or shed.

*Ours, or unknown.* The descriptor is closed, is no socket, or doesn't listen any more.
Retrying never helps. What is not in the table counts as this: an error that nobody has
thought of shall be seen, not spun on.

Trio's ``_highlevel_socket.py`` compares what Twisted, Tornado, libuv and asyncio do, and
is where this table starts from. It differs in ENOSR, which is a lack of memory and not the
peer's doing, and in Windows' names, which Trio lacks (its #492).

Source: accept(2), POSIX and Linux, "Error handling"; Winsock's accept(), WSAAccept().
"""

from __future__ import annotations

import errno
from typing import Final

from ._failures import NoDescriptorsError, PeerFaultError, TransportFailedError

__all__ = ["failure_of"]

_FAILURE_BY_NAME: Final[dict[str, type[PeerFaultError | NoDescriptorsError]]] = {
    # The peer's: it left before it was accepted.
    "ECONNABORTED": PeerFaultError,  # POSIX, BSD, macOS; Linux hands the dead connection over
    "EPROTO": PeerFaultError,  # SVR4's word for ECONNABORTED
    "ECONNRESET": PeerFaultError,  # Windows' word for it
    "ENETRESET": PeerFaultError,
    "ETIMEDOUT": PeerFaultError,  # "various Linux kernels"
    # The peer's, or of nobody on this machine: the network between.
    "ENETDOWN": PeerFaultError,
    "ENETUNREACH": PeerFaultError,
    "EHOSTDOWN": PeerFaultError,
    "EHOSTUNREACH": PeerFaultError,
    "ENONET": PeerFaultError,
    # Pending on the new socket (Linux). For our socket EOPNOTSUPP would say "no stream
    # socket", but then it would never have come to listen.
    "ENOPROTOOPT": PeerFaultError,
    "EOPNOTSUPP": PeerFaultError,
    "EPROTONOSUPPORT": PeerFaultError,  # "various Linux kernels"
    "ESOCKTNOSUPPORT": PeerFaultError,  # the same
    "EPERM": PeerFaultError,  # "firewall rules forbid connection": this one, not all
    # The machine's.
    "EMFILE": NoDescriptorsError,  # this process' limit
    "ENFILE": NoDescriptorsError,  # the machine's limit
    "ENOBUFS": NoDescriptorsError,  # often the limit of socket buffers, not of memory
    "ENOMEM": NoDescriptorsError,
    "ENOSR": NoDescriptorsError,  # no STREAMS memory: ENOBUFS, as SVR4 says it
}
# Not here on purpose. EAGAIN is no failure; EINTR never comes out of Python (PEP 475).
# EBADF, ENOTSOCK, EINVAL and EFAULT are ours.

_FAILURE_BY_ERRNO: Final = {
    getattr(errno, known): failure
    for name, failure in _FAILURE_BY_NAME.items()
    # On Windows Python gives the POSIX number for some and Winsock's for others.
    for known in (name, f"WSA{name}")
    if hasattr(errno, known)
}


def failure_of(error: OSError) -> PeerFaultError | NoDescriptorsError | TransportFailedError:
    """Return what to raise ``from error``."""
    return _FAILURE_BY_ERRNO.get(error.errno or 0, TransportFailedError)(error)
