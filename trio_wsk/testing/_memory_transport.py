"""Listening on the network in memory."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._vocabulary.arguments import checked_count, whole_number
from trio_wsk._vocabulary.errors import (
    InvalidDeviceStateError,
    InvalidParameterError,
    SocketClosedError,
)
from trio_wsk._vocabulary.verdict import CloseStyle, InspectPoint
from trio_wsk.transports._accept_errors import failure_of
from trio_wsk.transports._contract import PeerFaultError, Transport, TransportFailedError

from ._backlog import Backlog
from ._ports import checked_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_wsk._engine.readiness import Readiness, Watch
    from trio_wsk._vocabulary.addresses import Address

    from ._memory_readiness import MemoryReadiness
    from ._memory_request import MemoryRequest
    from ._ports import Ports

__all__ = ["MemoryTransport"]

_HIGHEST_ERRNO: Final = 4095
"""What the kernel can return as an error (Linux, MAX_ERRNO)."""


@final
class MemoryTransport(Transport):
    """A listening socket of a `MemoryHost`; `MemoryHost.transport` makes it.

    After the handshake, a SYN is answered at once as long as there is room in the backlog,
    and a request appears when the handshake is over. Before the handshake (`inspect_at`) a request
    appears with the first SYN, which is answered by nothing but `TransportRequest.approve`,
    ``reset()`` and ``silence()``; when its sender repeats it, that is the same request.

    Closing resets what waits in the backlog and, before the handshake, every request that has no
    answer yet. Requests that were handed out after the handshake belong to who took them.
    """

    def __init__(self, ports: Ports, port: int, *, backlog: int) -> None:
        """Made by `MemoryHost.transport`, never by you."""
        self._ports = ports
        self._port = checked_port(port)
        self._backlog = Backlog(
            ports.carrier,
            checked_count("backlog", backlog, least=1),
            edge=lambda: self.edge(),  # noqa: PLW0108 - the owner sets it later
            takes=lambda: self.takes(),  # noqa: PLW0108 - the owner may set it later
        )
        self._failures: deque[OSError] = deque()
        self._failure: OSError | None = None
        self._address: Address | None = None
        self._is_closed = False
        self._keeps_spare = False

    def __repr__(self) -> str:
        return f"<MemoryTransport on {self._address or 'nothing yet'}>"

    # --- Binding and closing -----------------------------------------------------------

    def inspect_at(self, point: InspectPoint) -> None:
        """Have requests appear at this point, before the handshake or after it."""
        if self._backlog.is_listening:
            raise InvalidDeviceStateError("a transport that listens stays at its inspect point")
        self.inspect_point = point

    def close_styles(self) -> frozenset[CloseStyle]:
        """All there are after the handshake; before it, RESET and SILENT."""
        if self.inspect_point is InspectPoint.AFTER_HANDSHAKE:
            return self.close_styles_when_established()
        return frozenset({CloseStyle.RESET, CloseStyle.SILENT})

    def close_styles_when_established(self) -> frozenset[CloseStyle]:
        """All there are."""
        return frozenset(CloseStyle)

    async def bind(self) -> None:
        """Take the port.

        Raises:
          BindError: another transport of this host has it (EADDRINUSE).

        Always a checkpoint. If it fails or is cancelled, the transport is closed.
        """
        self._check_open()
        if self._address is not None:
            raise InvalidDeviceStateError("this transport is bound already")
        try:
            await trio.lowlevel.checkpoint()
            self._check_open()
            self._address = self._ports.bind(self._backlog, self._port)
        except BaseException:
            self.close()
            raise

    def listen(self, readiness: Readiness) -> None:
        """From now on requests appear."""
        self._check_open()
        if self._backlog.is_listening or self._address is None:
            raise InvalidDeviceStateError("a transport listens once, after it is bound")
        self._backlog.listen(readiness, self.inspect_point)

    def pump_readiness(
        self,
        start_soon: Callable[[Callable[..., Awaitable[object]], Watch, int], object],  # noqa: ARG002 - nothing has to be waited for
    ) -> MemoryReadiness:
        """Return the readiness of this transport's channels, which keep it to the end."""
        return self._backlog.readiness

    def _check_open(self) -> None:
        if self._is_closed:
            raise SocketClosedError("this transport is closed")

    @property
    def local_addresses(self) -> Sequence[Address]:
        """The address that is bound; none before `bind`."""
        return [] if self._address is None else [self._address]

    def close(self) -> None:
        """Stop listening, and reset what nobody has taken or answered. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._keeps_spare = False
        if self._address is not None:
            self._ports.release(self._backlog, self._address.port)
        self._backlog.close()
        self._ports.carrier.flush()

    # --- Requests ----------------------------------------------------------------------

    def next_request(self) -> MemoryRequest | None:
        """Return the oldest request that nobody has taken. See `Transport.next_request`."""
        if self._failures or self._failure is not None:
            self._fail()
        requests = self._backlog.requests
        return requests.popleft() if requests else None

    def fail_next(self, *errors: OSError | int) -> None:
        """Have the next calls of `next_request` fail, as accept(2) would have.

        An error that is the peer's fault (ECONNABORTED, …) takes the oldest connection that
        waits with it, if one does; its peer is reset. If no descriptor or no memory is left
        (EMFILE, …), peers stay in the backlog. All others (EBADF, …) mean that the
        transport has failed, for good.

        Args:
          errors: One for each call, in order: errors of the system, or their numbers.

        Raises:
          InvalidParameterError: an argument is neither. (Yours.)

        Nothing is announced: the first call is the one that would have been made anyway.

        Source: accept(2), "Error handling".
        """
        self._failures += [_as_oserror(error) for error in errors]

    def _fail(self) -> None:
        error = self._failure or self._failures.popleft()
        failure = failure_of(error)
        requests = self._backlog.requests
        if isinstance(failure, PeerFaultError) and requests:
            requests.popleft().reset()
        elif isinstance(failure, TransportFailedError):
            self._failure = error
        raise failure from error

    def take_established(self) -> None:
        """Tell once more of those that nobody took. See `Transport.take_established`."""
        self._backlog.offer_again()

    def has_more(self) -> bool:
        """Whether a request waits."""
        return bool(self._backlog.requests)

    def keep_spare(self) -> bool:
        """Set aside what `shed` needs: here, there always is a descriptor to be had."""
        self._keeps_spare = True
        return True

    def shed(self) -> bool:
        """Reset the oldest request that waits. See `Transport.shed`."""
        requests = self._backlog.requests
        if not self._keeps_spare or not requests or self._failure is not None:
            return False
        requests.popleft().reset()
        return True

    def queue_depth(self) -> tuple[int, int] | None:
        """How many requests wait to be taken, and how many may."""
        backlog = self._backlog
        return (len(backlog.requests), backlog.most) if backlog.is_listening else None


def _as_oserror(error: object) -> OSError:
    if isinstance(error, OSError):
        return error
    if not whole_number(error) or not 0 < error <= _HIGHEST_ERRNO:
        raise InvalidParameterError(
            f"fail_next takes errors of the system, or their numbers, such as errno.EMFILE, not"
            f" {error!r}"
        )
    return OSError(error, os.strerror(error))
