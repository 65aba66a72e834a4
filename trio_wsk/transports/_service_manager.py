"""The service manager that has started this process, if it wants to be told how that goes.

It is told in datagrams of lines ``NAME=value`` to the Unix socket that NOTIFY_SOCKET names, and
keeps descriptors that are sent with them. WATCHDOG_USEC says within which time it wants to hear
from whom it has started; FDSTORE says how many descriptors it keeps.

Who is not there any more is told nothing, and that is no error: the service goes on.

Source: sd_notify(3), sd_watchdog_enabled(3); systemd.exec(5), "Environment variables set or
propagated by the service manager".
"""

from __future__ import annotations

import os
import socket
from array import array
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from trio_wsk._vocabulary.errors import InvalidParameterError

from ._activation import number_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

__all__ = ["ServiceManager"]

_ADDRESS: Final = "NOTIFY_SOCKET"
_WATCHDOG: Final = "WATCHDOG_USEC"
_WATCHED: Final = "WATCHDOG_PID"
_STORE: Final = "FDSTORE"

_MICROSECOND: Final = 1e-6


@final
@attrs.frozen
class ServiceManager:
    """Who is told; see `found`."""

    address: str
    """Its socket: a path, or ``@`` and an abstract name."""
    watchdog: float | None = None
    """Seconds within which it wants to hear that all is well; None if it doesn't."""
    keeps: int = 0
    """How many descriptors it keeps."""

    @classmethod
    def found(cls) -> Self | None:
        """Find it by the environment, which is left as it is; None if nobody wants to be told.

        Raises:
          InvalidParameterError: a variable makes no sense. (The service manager's.)
        """
        address = os.environ.get(_ADDRESS)
        if not address or not hasattr(socket, "AF_UNIX"):
            return None
        if address[0] not in "/@" or len(address) == 1:
            raise InvalidParameterError(f"{_ADDRESS}={address!r} is no path, and no abstract name")
        return cls(address, _watchdog(), number_in(_STORE) if _STORE in os.environ else 0)

    async def tell(self, *lines: str, descriptors: Sequence[int] = ()) -> None:
        """Tell it something; ``descriptors`` go with that, and stay ours as well.

        What is told is on its way before this waits for anything, unless the manager is so busy
        that its queue is full: then this waits for room. Always a checkpoint; if cancelled
        meanwhile, it was perhaps not told.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0)
            try:
                # Connected, so that the kernel says when there is room in its queue.
                sock.connect(self.address.replace("@", "\0", 1))
                await _send(sock, "\n".join(lines).encode(), descriptors)
            except OSError:
                pass  # there is nobody, or not for us
        await trio.lowlevel.checkpoint()


async def _send(  # noqa: ASYNC910 - whom it sends for has a checkpoint
    sock: socket.socket, text: bytes, descriptors: Sequence[int]
) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
    while True:
        try:
            sock.sendmsg([text], rights if descriptors else [])
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
        else:
            return  # noqa: ASYNC910 - as above


def _watchdog() -> float | None:
    if _WATCHDOG not in os.environ:
        return None
    if _WATCHED in os.environ and number_in(_WATCHED) != os.getpid():
        return None  # that is somebody else's
    return number_in(_WATCHDOG) * _MICROSECOND or None
