"""What this machine has for a server, found out by trying it.

A trial does the step that a server would do, and undoes it at once: an option is there if it can
be set, an address family if a socket can be bound. What fails keeps the system's reason,
which is read somewhere else, and later.
"""

from __future__ import annotations

import operator
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from trio_wsk._vocabulary.errors import InvalidParameterError

from ._activation import names_of_descriptors
from ._socket_request import can_be_silent
from .linux._messages import NetlinkError
from .linux._netlink import KernelRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Trial",
    "try_backlog",
    "try_bind",
    "try_descriptors",
    "try_option",
    "try_silence",
    "try_socket_activation",
    "try_step",
    "try_unix_sockets",
]

_SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")

_SILENCE: Final = "switch a TCP socket to repair mode (TCP_REPAIR)"
_SILENCE_REMEDY: Final = (
    "this takes Linux, and CAP_NET_ADMIN in the network namespace; without it such peers are reset"
)
_ACTIVATION: Final = "read LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES"


class Trial(NamedTuple):
    """What came of trying one thing."""

    found: str
    """What there is, or how the step failed."""
    available: bool | None = True
    """None: there was nothing to try, only something to read."""
    failed_step: str | None = None
    """What could not be done, to be read after "could not"."""
    remedy: str | None = None
    """What would help, if that is known."""


def try_step(step: str, attempt: Callable[[], str], remedy: str | None = None) -> Trial:
    """Try one step.

    Args:
      step: What it does, to be read after "could not".
      attempt: Does it and undoes it; returns what there is. May raise `OSError` and
        `NetlinkError`.
      remedy: What would help, where the error does not say so.
    """
    try:
        return Trial(attempt())
    except KernelRefusedError as error:
        refused = error
    except NetlinkError as error:
        return Trial(str(error), available=False, failed_step=step, remedy=remedy)
    except OSError as error:
        refused = KernelRefusedError(step, error.errno or 0)
    without_hint = KernelRefusedError(refused.step, refused.code, refused.words)
    return Trial(
        str(without_hint),
        available=False,
        failed_step=refused.step,
        remedy=refused.hint or remedy,
    )


def try_bind(family: int, host: str) -> Trial:
    """Try to bind a socket, to any port."""

    def _bind() -> str:
        with socket.socket(family) as sock:
            sock.bind((host, 0))
        return f"a socket can be bound to {host}"

    version = "IPv6" if ":" in host else "IPv4"
    return try_step(f"bind a socket to {host}", _bind, f"{version} is switched off here")


def try_option(name: str) -> Trial:
    """Try to set an option of sockets to 1; a system may not even have its name."""
    step = f"set {name}"
    number: int | None = getattr(socket, name, None)
    if number is None:
        return Trial(f"this system has no {name}", available=False, failed_step=step)

    def _set() -> str:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, number, 1)
        return f"{name} can be set"

    return try_step(step, _set)


def try_unix_sockets() -> Trial:
    """Try to make a Unix socket."""
    step = "make a Unix socket"
    family: int | None = getattr(socket, "AF_UNIX", None)
    if family is None:
        return Trial("this Python has none", available=False, failed_step=step)

    def _make() -> str:
        socket.socket(family).close()
        return "one can be made"

    return try_step(step, _make)


def try_silence() -> Trial:
    """Try whether established connections can be forgotten without a word."""
    if can_be_silent():
        return Trial("rejected peers can be left without an answer (CloseStyle.SILENT)")
    return Trial(
        f"could not {_SILENCE}", available=False, failed_step=_SILENCE, remedy=_SILENCE_REMEDY
    )


def try_socket_activation() -> Trial:
    """Look for sockets of a service manager, and leave them where they are."""
    try:
        names = names_of_descriptors()
    except InvalidParameterError as error:
        return Trial(
            str(error),
            available=False,
            failed_step=_ACTIVATION,
            remedy="whoever has started this process has to set them right",
        )
    count = operator.length_hint(names)
    if not count:
        return Trial("no sockets were passed to this process", available=None)
    called = f": {', '.join(names)}" if isinstance(names, list) else ""
    return Trial(f"{count} passed to this process{called}", available=None)


def try_backlog(path: Path = _SOMAXCONN) -> Trial:
    """Read how many connections may wait for accept."""
    try:
        limit = path.read_text(encoding="ascii").strip()
    except OSError:
        return Trial(f"{socket.SOMAXCONN} (SOMAXCONN)", available=None)
    return Trial(f"{limit} (net.core.somaxconn)", available=None)


def try_descriptors() -> Trial:
    """Read how many descriptors this process may have open."""
    if sys.platform == "win32":
        return Trial("this system limits them by its memory only", available=None)
    import resource  # noqa: PLC0415 - Windows has none

    most, ceiling = (
        "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    raised = "" if most == ceiling else f"; it may raise that to {ceiling}"
    return Trial(f"{most} (RLIMIT_NOFILE){raised}", available=None)
