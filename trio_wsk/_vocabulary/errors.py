"""What is raised here, named by who acted.

::

    WskError
    │
    ├── the caller's
    │   ├── InvalidParameterError     + ValueError                the argument is wrong
    │   ├── InvalidDeviceStateError   + RuntimeError              right call, wrong time
    │   ├── SocketBusyError           + trio.BusyResourceError    another task is at it
    │   └── SocketClosedError         + trio.ClosedResourceError  closed on our side
    │       └── NoSocketError         + AttributeError            so it has no .socket
    │
    ├── the peer's
    │   ├── ConnectionBrokenError     + trio.BrokenResourceError  the peer cut it off
    │   ├── ConnectError              + OSError                   there is no connection
    │   ├── EndOfStreamError          + EOFError                  the peer has said all
    │   ├── IncompleteReadError       + EOFError                  ... in the middle of something
    │   └── ReadLimitError                                        the peer says too much at once
    │
    ├── the machine's
    │   ├── ForcedClosedError         + trio.BrokenResourceError  the listening socket failed
    │   ├── InspectPointError                                     no inspecting at that point
    │   └── BindError                 + OSError                   there can be no listening
    │
    └── nobody's
        ├── WouldBlockError           + trio.WouldBlock           nothing there right now
        └── OperationCancelledError                               an Irp was cancelled

Whatever Trio or Python has a word for inherits from that word, so either ``except`` works.
Each error has a `Status`, which is what an Irp of the same fate completes with.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, ClassVar

import trio

from .status import Status, status_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "BindError",
    "ConnectError",
    "ConnectionBrokenError",
    "EndOfStreamError",
    "ForcedClosedError",
    "IncompleteReadError",
    "InspectPointError",
    "InvalidDeviceStateError",
    "InvalidParameterError",
    "NoSocketError",
    "OperationCancelledError",
    "ReadLimitError",
    "SocketBusyError",
    "SocketClosedError",
    "WouldBlockError",
    "WskError",
]


class WskError(Exception):
    """Whatever this package raises on purpose; its subclasses say whose fault it is.

    Every one can be pickled.

    Args:
      message: What happened, with the value that it happened to.
      status: What an Irp would have completed with; without it, that of the class.
    """

    status: Status = Status.UNSUCCESSFUL
    """How the operation ended: always an error (`Status.is_error`)."""

    def __init__(self, message: str, *, status: Status | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status


# ---------------------------------------------------------------------------- the caller's


class InvalidParameterError(WskError, ValueError):
    """An argument is wrong, and would be at any time; the message shows a right one.

    Yours. An argument that is right at another time gives `InvalidDeviceStateError`; one that
    only this machine refuses, such as an address it does not have, gives `BindError`.
    """

    status = Status.INVALID_PARAMETER


class InvalidDeviceStateError(WskError, RuntimeError):
    """A right call at the wrong time: not yet, not twice, or not from here.

    Yours. After closing you get `SocketClosedError`, and while another task is at it
    `SocketBusyError`. What is wrong at any time is an `InvalidParameterError`.
    """

    status = Status.INVALID_DEVICE_STATE


class SocketBusyError(WskError, trio.BusyResourceError):
    """Another task is already doing what only one task at a time can do.

    Yours. Nothing has happened, and the other task goes on. A call that would be wrong with
    no other task in sight gives `InvalidDeviceStateError`. Accepting never gives this:
    several tasks may wait in ``accept()``.
    """

    status = Status.INVALID_DEVICE_STATE


class SocketClosedError(WskError, trio.ClosedResourceError):
    """The socket was closed on our side, before the call or during it.

    Yours. If the peer ended the connection you get `ConnectionBrokenError`, and if the
    listening socket failed by itself `ForcedClosedError`.
    """

    status = Status.CANCELLED


class NoSocketError(SocketClosedError, AttributeError):
    """There is no ``.socket`` any more: the connection, or the listening socket, is closed.

    Yours. It is an AttributeError as well, so that ``hasattr`` and ``getattr`` with a default
    take it for what it says. Its ``__cause__`` says why it is closed: a `SocketClosedError`, a
    `ConnectionBrokenError` or a `ForcedClosedError`.
    """


class _SystemError(WskError, OSError):
    """An error of the operating system's about an address, which the message names.

    Args:
      message: What could not be done, on which address, and why.
      status: What the operating system's error means.
      code: The operating system's number, for ``errno``.
      reason: The operating system's words, for ``strerror``.
    """

    _failed: ClassVar[str]
    """What could not be done, before the address."""

    def __init__(
        self,
        message: str,
        *,
        status: Status | None = None,
        code: int | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, status=status)
        self.errno = code
        self.strerror = reason

    @classmethod
    def from_oserror(cls, error: OSError, address: str, hint: str = "") -> Self:
        """Say which address it was; raise the result ``from error``.

        Args:
          error: What the operating system or the resolver gave.
          address: The address as its owner would write it, such as ``127.0.0.1:80``.
          hint: What to do about it, if that is known.
        """
        advice = f"; {hint}" if hint else ""
        return cls(
            f"{cls._failed} {address}: {error.strerror or error}{_symbol_of(error)}{advice}",
            status=status_of(error),
            code=error.errno,
            reason=error.strerror,
        )

    def __str__(self) -> str:
        # OSError would print "[Errno 98] Address already in use", and no address.
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        # An OSError keeps these two outside its __dict__ and would lose them.
        state = {**self.__dict__, "errno": self.errno, "strerror": self.strerror}
        return type(self), self.args, state


def _symbol_of(error: OSError) -> str:
    """Return ``" (EADDRINUSE)"`` or the like, if the error has such a name."""
    if error.errno is None or isinstance(error, socket.gaierror):  # its numbers are EAI_...
        return ""
    name = errno.errorcode.get(error.errno)
    return f" ({name})" if name else ""


# ------------------------------------------------------------------------------ the peer's


class ConnectionBrokenError(WskError, trio.BrokenResourceError):
    """The peer, or the network between, ended the connection while we were using it.

    The peer's: peers go away, and no code of yours prevents it. The operating system's error is
    the ``__cause__``, which is not pickled. What you closed yourself
    gives `SocketClosedError`. A peer that has finished sending is no error at all: receiving
    gives ``b""``.

    Args:
      message: What happened, to whom.
      status: `Status.CONNECTION_RESET` (the default): it was cut off;
        `Status.CONNECTION_DISCONNECTED`: it had ended before; `Status.CONNECTION_ABORTED`:
        it died before it could be used; or whatever else the operating system's error means.
      connection: The connection that broke. This is how a server tells the going of a
        handler's own peer, which is no crash, from that of another connection's. It does
        not travel in a pickle.
    """

    status = Status.CONNECTION_RESET

    connection: object | None
    """The connection that broke, if the error is about one; compare with ``is``."""

    def __init__(
        self,
        message: str,
        *,
        status: Status | None = None,
        connection: object | None = None,
    ) -> None:
        super().__init__(message, status=status)
        self.connection = connection

    def __reduce__(self) -> tuple[Any, ...]:
        # A connection is a descriptor and tasks: it is of no use in another process.
        return type(self), self.args, {**self.__dict__, "connection": None}


class ConnectError(_SystemError):
    """There is no connection to that address: nobody listens, or there is no way to it.

    The peer's: it, or the network before it, refuses us or is silent. ``errno`` and ``strerror``
    are the operating system's, of the first address that was tried; the cause has all of them. A
    connection that breaks later gives `ConnectionBrokenError`.
    """

    _failed = "cannot connect to"


class EndOfStreamError(WskError, EOFError):
    """The peer has finished, and nothing of what was to be read has come.

    The peer's: it has said all, which is no fault. `Reader.lines` ends then, and raises nothing. If
    something had come you would get `IncompleteReadError`; if the
    connection had been cut off, `ConnectionBrokenError`.

    Or nothing has passed for the server's ``idle_timeout``, and it receives nothing more over TLS.

    Args:
      message: What was to be read.
      status: `Status.CONNECTION_DISCONNECTED` (the default).
      connection: The connection that was read from, if it was one. It does not travel in a
        pickle.
    """

    status = Status.CONNECTION_DISCONNECTED

    connection: object | None
    """The connection that was read from, if it was one; compare with ``is``."""

    def __init__(
        self, message: str, *, status: Status | None = None, connection: object | None = None
    ) -> None:
        super().__init__(message, status=status)
        self.connection = connection

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {**self.__dict__, "connection": None}


class IncompleteReadError(WskError, EOFError):
    """The peer has finished in the middle of what was to be read.

    The peer's: it has given up, or counts otherwise than we do. If nothing at all had come you
    would get `EndOfStreamError`, which is no fault.

    Args:
      message: What was to be read, and how much has come.
      status: `Status.CONNECTION_DISCONNECTED` (the default).
      partial: What has come.
      connection: The connection that was read from, if it was one. It does not travel in a
        pickle.
    """

    status = Status.CONNECTION_DISCONNECTED

    partial: bytes
    """What has come of it, which is also still in `Reader.unread`."""
    connection: object | None
    """The connection that was read from, if it was one; compare with ``is``."""

    def __init__(
        self,
        message: str,
        *,
        status: Status | None = None,
        partial: bytes = b"",
        connection: object | None = None,
    ) -> None:
        super().__init__(message, status=status)
        self.partial = partial
        self.connection = connection

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {**self.__dict__, "connection": None}


class ReadLimitError(WskError):
    """The peer says more than it may before the end of a line, or before a delimiter.

    The peer's: or the limit is too low for what it is right to say. Nothing was taken: what has
    come is in `Reader.unread`. The next read with the same limit gives the same error, so say
    good-bye, or read with a higher limit. If the peer had finished before it had said too much,
    you would get `IncompleteReadError`.

    Args:
      message: What was to be read, and the limit.
      status: `Status.DATA_NOT_ACCEPTED` (the default).
      limit: The limit, in octets.
    """

    status = Status.DATA_NOT_ACCEPTED

    limit: int
    """The limit that was passed, in octets: ``max_octets``."""

    def __init__(self, message: str, *, status: Status | None = None, limit: int = 0) -> None:
        super().__init__(message, status=status)
        self.limit = limit


# --------------------------------------------------------------------------- the machine's


class ForcedClosedError(WskError, trio.BrokenResourceError):
    """The listening socket itself has failed, and accepts nothing any more.

    The machine's. Close it, and listen anew if you like. The operating system's error, where
    there is one, is the ``__cause__``. If you had closed it yourself you would get
    `SocketClosedError`; if it had never come to listen, `BindError`.
    """

    status = Status.FILE_FORCED_CLOSED


class InspectPointError(WskError):
    """Connection requests can't be inspected at the point that was asked for.

    The machine's. The message says what is missing, and what would help; it is never replaced
    by another point without a word. What is no point at all gives `InvalidParameterError`.
    """

    status = Status.NOT_SUPPORTED


class BindError(_SystemError):
    """There can be no listening on that address: resolve, bind or listen failed.

    The machine's. ``errno`` and ``strerror`` are the operating system's, as with any
    `OSError`; the message names the address. A malformed address gives
    `InvalidParameterError` instead, and a socket that fails after it has listened
    `ForcedClosedError`.
    """

    _failed = "cannot listen on"


# ------------------------------------------------------------------------------- nobody's


class WouldBlockError(WskError, trio.WouldBlock):
    """Nothing is there right now, and a ``..._nowait`` call does not wait for it.

    Nobody's fault. The same call without ``_nowait`` would have waited. If nothing could
    ever come, you would get `SocketClosedError` or `ForcedClosedError`. Nothing was queued, so its
    status is none that promises a completion.
    """

    status = Status.DEVICE_NOT_READY


class OperationCancelledError(WskError):
    """An Irp was cancelled: by ``Irp.cancel()``, or by closing its socket.

    Nobody's fault. Not to be confused with `trio.Cancelled`, which ends a task and is never
    an outcome. A call that you were awaiting when its socket was closed raises
    `SocketClosedError`.
    """

    status = Status.CANCELLED
