"""WSK's vocabulary of completion: `Status`, and `EventMask` for what a socket indicates.

Every operation completes with exactly one `Status`. The operating system's errors are
mapped onto it in one table, at the end of this file, and nowhere else.

The values are those of ``ntstatus.h``: a number in somebody's Windows trace means the
same thing here.
"""

from __future__ import annotations

import errno
import socket
from enum import IntEnum, IntFlag
from typing import Final

__all__ = ["EventMask", "Status", "status_of"]

_SEVERITY_SHIFT: Final = 30
_SEVERITY_ERROR: Final = 3


class Status(IntEnum):
    """How an operation ended, or that it has not ended yet: WSK's NTSTATUS values.

    The two highest bits of the number are its severity, which `is_success` and
    `is_error` read. The truth value is no help, since `SUCCESS` is 0.

    Source: [MS-ERREF] 2.3, NTSTATUS; the pages of WSK's functions and events.
    """

    SUCCESS = 0x00000000
    """Done; also a callback's answer "taken"."""

    PENDING = 0x00000103
    """Not done yet: the operation is queued and will complete later."""

    EVENT_PENDING = 0x40000013
    """The event is being disabled, and one of its callbacks is still running."""

    UNSUCCESSFUL = 0xC0000001
    """Failed, and no other status says why: the operating system's error tells more."""

    INVALID_PARAMETER = 0xC000000D
    """An argument is wrong, whatever the state of the socket."""

    INVALID_DEVICE_REQUEST = 0xC0000010
    """This kind of socket can never do that."""

    ACCESS_DENIED = 0xC0000022
    """The operating system does not permit it, as with a port below 1024."""

    INSUFFICIENT_RESOURCES = 0xC000009A
    """Out of memory, of descriptors, or of something else that the kernel counts."""

    DEVICE_NOT_READY = 0xC00000A3
    """It cannot be done now without waiting, or its owner is not running."""

    IO_TIMEOUT = 0xC00000B5
    """The time for it was over first."""

    FILE_FORCED_CLOSED = 0xC00000B6
    """The socket is no longer functional; closing it is all that is left to do."""

    NOT_SUPPORTED = 0xC00000BB
    """This system or this transport has no such thing."""

    REQUEST_NOT_ACCEPTED = 0xC00000D0
    """An accept callback's answer "I do not want this connection"."""

    CANCELLED = 0xC0000120
    """Cancelled by its owner, or by closing the socket."""

    INVALID_DEVICE_STATE = 0xC0000184
    """A right call at the wrong time: not bound yet, not connected, already closing."""

    INVALID_ADDRESS_COMPONENT = 0xC0000207
    """The address is well formed, and this machine does not have it."""

    ADDRESS_ALREADY_EXISTS = 0xC000020A
    """Somebody else is bound to the address."""

    CONNECTION_DISCONNECTED = 0xC000020C
    """The connection had already ended."""

    CONNECTION_RESET = 0xC000020D
    """The peer reset the connection."""

    DATA_NOT_ACCEPTED = 0xC000021B
    """A receive callback's answer "keep it for me"."""

    NOT_FOUND = 0xC0000225
    """There is nothing of that name: no such inspection, host or path."""

    CONNECTION_REFUSED = 0xC0000236
    """Nobody listens there."""

    NETWORK_UNREACHABLE = 0xC000023C
    """There is no route to the network, or the network is down."""

    HOST_UNREACHABLE = 0xC000023D
    """The network was reached and the host was not."""

    CONNECTION_ABORTED = 0xC0000241
    """The connection, or the request for one, died before it could be used."""

    @property
    def is_success(self) -> bool:
        """Whether nothing has failed (``NT_SUCCESS``); true of `PENDING` as well."""
        return self < 1 << 31

    @property
    def is_error(self) -> bool:
        """Whether it has failed (``NT_ERROR``)."""
        return self >> _SEVERITY_SHIFT == _SEVERITY_ERROR

    def __str__(self) -> str:
        return f"{self.name} (0x{self.value:08X})"

    def __repr__(self) -> str:
        return f"<Status.{self.name}: 0x{self.value:08X}>"

    def __format__(self, format_spec: str) -> str:
        # What enum does with an f-string has changed twice since Python 3.10.
        return int.__format__(self, format_spec)


class EventMask(IntFlag):
    """The events that a socket can be told to indicate, with WSK's values.

    WSK's ``WSK_EVENT_DISABLE`` (0x80000000) is no member: disabling an event is a
    method of its own. Inspection is no member either; in WSK, too, having an inspector
    is what switches it on.

    Source: SO_WSK_EVENT_CALLBACK; ``wsk.h``.
    """

    SEND_BACKLOG = 0x10
    """The ideal amount of outstanding data has changed (a connection)."""

    RECEIVE = 0x40
    """Data has come (a connection)."""

    DISCONNECT = 0x80
    """The peer has ended or reset the connection (a connection)."""

    ACCEPT = 0x200
    """A connection is established (a listening socket)."""


# The same bits as plain ints, for what is done for each connection and each indication:
# one operation on flags takes as long as a system call.
SEND_BACKLOG: Final = int(EventMask.SEND_BACKLOG)
RECEIVE: Final = int(EventMask.RECEIVE)
DISCONNECT: Final = int(EventMask.DISCONNECT)
ACCEPT: Final = int(EventMask.ACCEPT)


def status_of(error: OSError) -> Status:
    """Translate the operating system's error; the result is always an error.

    An error without a number, such as a fake's ``ConnectionResetError()``, is looked up
    by its class. What is unknown is `Status.UNSUCCESSFUL`.

    Not for `ssl.SSLError`, whose numbers are OpenSSL's.
    """
    if error.errno is None:
        return _BY_CLASS.get(type(error), Status.UNSUCCESSFUL)
    table = _BY_RESOLVER_CODE if isinstance(error, socket.gaierror) else _BY_ERRNO
    return table.get(error.errno, Status.UNSUCCESSFUL)


# The table. It has what socket(2), bind(2), listen(2), accept(2), send(2), recv(2),
# shutdown(2), setsockopt(2) and getaddrinfo(3) may give; a name that this platform lacks
# is skipped, and Winsock's WSA... twin of each name counts as well. Where Windows
# has a pair of its own (SockNtStatusToSocketError), the row follows it.
_STATUS_BY_NAME: Final[dict[str, Status]] = {
    # The caller's.
    "EINVAL": Status.INVALID_PARAMETER,
    "EFAULT": Status.INVALID_PARAMETER,
    "EDESTADDRREQ": Status.INVALID_PARAMETER,
    "EDOM": Status.INVALID_PARAMETER,  # setsockopt(2): an option's value is out of range
    "ENAMETOOLONG": Status.INVALID_PARAMETER,
    "ELOOP": Status.INVALID_PARAMETER,
    "EISCONN": Status.INVALID_DEVICE_STATE,
    # A descriptor that is none any more was closed behind our back: to WSK that socket is
    # "no longer functional", which is what FILE_FORCED_CLOSED says.
    "EBADF": Status.FILE_FORCED_CLOSED,
    "ENOTSOCK": Status.FILE_FORCED_CLOSED,
    # The machine's.
    "EACCES": Status.ACCESS_DENIED,
    "EPERM": Status.ACCESS_DENIED,  # accept(2): a firewall rule forbids the connection
    "EROFS": Status.ACCESS_DENIED,  # a Unix socket is a file that has to be made
    "EADDRINUSE": Status.ADDRESS_ALREADY_EXISTS,
    "EEXIST": Status.ADDRESS_ALREADY_EXISTS,
    "EADDRNOTAVAIL": Status.INVALID_ADDRESS_COMPONENT,
    "ENODEV": Status.INVALID_ADDRESS_COMPONENT,  # bind(2): there is no interface of that scope id
    "ENOENT": Status.NOT_FOUND,
    "ENOTDIR": Status.NOT_FOUND,
    "EMFILE": Status.INSUFFICIENT_RESOURCES,  # the only one of its kind that WSK's pages name
    "ENFILE": Status.INSUFFICIENT_RESOURCES,
    "ENOBUFS": Status.INSUFFICIENT_RESOURCES,
    "ENOMEM": Status.INSUFFICIENT_RESOURCES,
    "ENOSR": Status.INSUFFICIENT_RESOURCES,
    "ENOSPC": Status.INSUFFICIENT_RESOURCES,  # epoll_ctl(2): max_user_watches is reached
    "EDQUOT": Status.INSUFFICIENT_RESOURCES,
    "EAFNOSUPPORT": Status.NOT_SUPPORTED,
    "ENOPROTOOPT": Status.NOT_SUPPORTED,
    "ENOSYS": Status.NOT_SUPPORTED,
    "ENOTSUP": Status.NOT_SUPPORTED,
    "EOPNOTSUPP": Status.NOT_SUPPORTED,
    "EPFNOSUPPORT": Status.NOT_SUPPORTED,
    "EPROTONOSUPPORT": Status.NOT_SUPPORTED,
    "ESOCKTNOSUPPORT": Status.NOT_SUPPORTED,
    "ENETDOWN": Status.NETWORK_UNREACHABLE,
    "ENETUNREACH": Status.NETWORK_UNREACHABLE,
    "ENONET": Status.NETWORK_UNREACHABLE,
    "EHOSTDOWN": Status.HOST_UNREACHABLE,
    "EHOSTUNREACH": Status.HOST_UNREACHABLE,
    # The peer's.
    "ECONNRESET": Status.CONNECTION_RESET,
    "ENETRESET": Status.CONNECTION_RESET,
    # macOS gives EPROTOTYPE to a send that races with the peer's reset (libuv retries it).
    "EPROTOTYPE": Status.CONNECTION_RESET,
    "ECONNABORTED": Status.CONNECTION_ABORTED,
    "EPROTO": Status.CONNECTION_ABORTED,  # what SVR4's accept says for ECONNABORTED
    "ECONNREFUSED": Status.CONNECTION_REFUSED,
    # Our connections were connected once, so "not connected" means "no longer". Linux also
    # gives EPIPE for a reset after the peer's FIN (tcp_reset, TCP_CLOSE_WAIT), and for a Unix
    # peer that has closed: an end that was told before, where ECONNRESET is one that was not.
    "ENOTCONN": Status.CONNECTION_DISCONNECTED,
    "EPIPE": Status.CONNECTION_DISCONNECTED,
    "ESHUTDOWN": Status.CONNECTION_DISCONNECTED,
    "ETIMEDOUT": Status.IO_TIMEOUT,  # and not STATUS_TIMEOUT (0x102), whose severity is success
    # Nobody's. "It would block" is no end of anything, so it must not be taken for PENDING,
    # which promises one; WSAEWOULDBLOCK is DEVICE_NOT_READY on Windows.
    "EAGAIN": Status.DEVICE_NOT_READY,
    "EWOULDBLOCK": Status.DEVICE_NOT_READY,
    "EINPROGRESS": Status.DEVICE_NOT_READY,
    "EALREADY": Status.DEVICE_NOT_READY,
    "ECANCELED": Status.CANCELLED,
    "EINTR": Status.CANCELLED,  # WSAEINTR; elsewhere Python itself tries again (PEP 475)
    # The resolver's, which are numbers of another kind: EAI_NONAME is ENOEXEC on macOS.
    "EAI_ADDRFAMILY": Status.NOT_FOUND,
    "EAI_NODATA": Status.NOT_FOUND,
    "EAI_NONAME": Status.NOT_FOUND,
    "EAI_SERVICE": Status.NOT_FOUND,
    "EAI_FAMILY": Status.NOT_SUPPORTED,
    "EAI_SOCKTYPE": Status.NOT_SUPPORTED,
    "EAI_BADFLAGS": Status.INVALID_PARAMETER,
    "EAI_MEMORY": Status.INSUFFICIENT_RESOURCES,
    "EAI_AGAIN": Status.IO_TIMEOUT,  # no name server has answered in time
}

_BY_RESOLVER_CODE: Final[dict[int, Status]] = {
    getattr(socket, name): status
    for name, status in _STATUS_BY_NAME.items()
    if name.startswith("EAI_") and hasattr(socket, name)
}

_BY_ERRNO: Final[dict[int, Status]] = {
    getattr(errno, known): status
    for name, status in _STATUS_BY_NAME.items()
    for known in (name, f"WSA{name}")
    if hasattr(errno, known)
}

# Python has a class of its own for some numbers (PEP 3151). Those of one class agree.
_BY_CLASS: Final[dict[type[OSError], Status]] = {
    error_class: status
    for code, status in _BY_ERRNO.items()
    if (error_class := type(OSError(code, ""))) is not OSError
}
