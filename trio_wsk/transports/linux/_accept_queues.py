"""The kernel's accept queues of one transport, in which approved requests end as connections.

A connection stays in its queue while the listening socket takes none (`Transport.takes`), and
while there is no descriptor to be had. The kernel says again and again that it is there; so a queue
that is left alone is not watched meanwhile.

Source: accept(2).
"""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, final

import trio

from trio_wsk.transports._accept_errors import failure_of
from trio_wsk.transports._failures import FAULTS_IN_A_ROW, PeerFaultError, TransportFailedError
from trio_wsk.transports._socket_request import SocketRequest

from ._netlink import KernelRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_wsk.transports._failures import NoDescriptorsError
    from trio_wsk.transports._places import Bound

    from ._gatekeeper import Gatekeeper

__all__ = ["AcceptQueues"]

_BATCH: Final = 64
"""How many connections are accepted from a queue in one turn of the gatekeeper."""

_MOST_FAULTS: Final = 128
"""How many peers' faults wait to be told; of more, the oldest are forgotten."""

_SHORTAGE_SECONDS: Final = 0.1
"""How long accepting waits when there is no descriptor, or nothing but errors, unless the owner
asks earlier."""


class _Transport(Protocol):
    """What a transport is asked, and told to tell."""

    takes: Callable[[], bool]
    edge: Callable[[], None]


@final
class AcceptQueues:
    """The queues of the listening sockets of one transport.

    Args:
      transport: Whether it takes connections decides; and it is told of failures.
      has_come: Called with each connection, and may close from inside the call.
    """

    def __init__(self, transport: _Transport, has_come: Callable[[SocketRequest], object]) -> None:
        self._transport = transport
        self._has_come = has_come
        self._gatekeeper: Gatekeeper  # set by `watch`
        self._bound: Sequence[Bound] = ()
        self._left: list[Bound] = []  # those in which connections wait for `takes`
        self._short: list[Bound] = []  # those for which there was no descriptor
        self._shortage: OSError | None = None
        self._try_again_at = 0.0
        self._faults: deque[OSError] = deque(maxlen=_MOST_FAULTS)
        self._faults_in_a_row = 0
        self._failure: OSError | None = None

    # --- Watching ----------------------------------------------------------------------

    def watch(self, gatekeeper: Gatekeeper, bound: Sequence[Bound]) -> None:
        """Accept what comes from now on, in the turns of the gatekeeper.

        Raises:
          KernelRefusedError: there is no memory to wait for connections.
        """
        self._gatekeeper = gatekeeper
        self._bound = bound
        for each in bound:
            self._watch(each)

    def _watch(self, bound: Bound) -> None:
        self._gatekeeper.watch(bound.socket.fileno(), partial(self._accept_from, bound))

    def _watch_again(self, bound: Bound) -> bool:
        try:
            self._watch(bound)
        except KernelRefusedError as error:  # memory is short
            self._has_failed(bound, OSError(error.code, str(error)))
            return False
        return True

    def _unwatch(self, bound: Bound) -> None:
        self._gatekeeper.unwatch(bound.socket.fileno())

    def fail(self, error: OSError) -> None:
        """Accept no more; `next_failure` says why."""
        self._failure = error
        self.close()

    def close(self) -> None:
        """Accept no more, before the sockets are closed. Idempotent."""
        bound, self._bound = self._bound, ()
        self._left.clear()
        self._short.clear()
        for each in bound:
            self._unwatch(each)

    # --- Accepting ---------------------------------------------------------------------

    def _accept_from(self, bound: Bound) -> None:
        """Accept what is there, a bounded number; the kernel says again if there is more."""
        for _ in range(_BATCH):
            if not self._transport.takes():
                self._left.append(bound)
                self._unwatch(bound)
                break
            try:
                fd, peer = bound.accept()
            except BlockingIOError:
                self._faults_in_a_row = 0
                break
            except OSError as error:
                if not self._has_failed(bound, error):
                    break
            else:
                self._faults_in_a_row = 0
                self._has_come(SocketRequest(bound, fd, peer))
            if not self._bound:
                break  # who was told has closed us

    def take_established(self) -> None:
        """Accept again, in the gatekeeper's next turn. See `Transport.take_established`."""
        left, self._left = self._left, []
        for bound in left:
            self._watch_again(bound)

    def shed(self) -> bool:
        """Reset the oldest connection for which there was no descriptor, now that there is one."""
        for bound in self._short:
            try:
                fd, _ = bound.accept()
            except OSError:
                continue
            SocketRequest(bound, fd, cast("Any", None)).reset()
            return True
        return False

    # --- Failures ----------------------------------------------------------------------

    def _has_failed(self, bound: Bound, error: OSError) -> bool:
        """Do what follows from an error; return whether the next connection may be fine."""
        failure = failure_of(error)
        is_fault = isinstance(failure, PeerFaultError)
        self._faults_in_a_row += is_fault
        goes_on = is_fault and self._faults_in_a_row < FAULTS_IN_A_ROW
        if goes_on:
            self._faults.append(error)
        elif isinstance(failure, TransportFailedError):
            self._failure = error
            self._unwatch(bound)
        else:
            self._shortage = error
            self._short.append(bound)
            self._try_again_at = trio.current_time() + _SHORTAGE_SECONDS
            self._unwatch(bound)
            self._gatekeeper.wake_at(self._try_again_at)
        self._transport.edge()
        return goes_on

    @property
    def has_failures(self) -> bool:
        """Whether `next_failure` has something to say, or something to try."""
        return bool(self._faults or self._short or self._failure)

    def next_failure(self) -> PeerFaultError | NoDescriptorsError | TransportFailedError | None:
        """Return what `Transport.next_request` has to raise; try again after a shortage."""
        if self._failure is not None:
            return TransportFailedError(self._failure)
        if self._faults:
            return PeerFaultError(self._faults.popleft())
        if self._short:
            self._try_again()
            if self._shortage is not None:
                return failure_of(self._shortage)
        return None

    @property
    def next_due(self) -> float:
        """When to try again after a shortage; infinity without one."""
        return self._try_again_at if self._short else math.inf

    def do_due(self, now: float) -> None:
        """Try again after a shortage, if the time has come."""
        if self._short and now >= self._try_again_at:
            self._try_again()

    def _try_again(self) -> None:
        """Accept, and go on watching what works."""
        short, self._short = self._short, []
        self._shortage = None
        for bound in short:
            if self._watch_again(bound):
                self._accept_from(bound)
