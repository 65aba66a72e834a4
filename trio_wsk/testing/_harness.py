"""What the conformance suite has to know of a transport."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from trio_wsk._vocabulary.verdict import InspectPoint

if TYPE_CHECKING:
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.transports._contract import Transport

__all__ = ["AnyHarness", "ClientT", "TransportHarness"]

ClientT = TypeVar("ClientT", bound=trio.abc.HalfCloseableStream)
"""The clients of a harness: half-closeable streams."""


class TransportHarness(ABC, Generic[ClientT]):
    """How `check_transport` gets hold of a transport, and of clients for it.

    Subclass it. The attributes say what a transport can't do for reasons that are not its own;
    the checks that would ask for it are left out, or ask for less.
    """

    inspect_point: InspectPoint = InspectPoint.AFTER_HANDSHAKE
    """When the requests appear. A transport that can do both has two harnesses."""

    has_reset: bool = True
    """Whether either side can tell a reset from an end in good order. Unix sockets can't."""

    tells_end_behind_data: bool = True
    """Whether an end behind unread data is told. Trio's own waits can't see it."""

    can_fail_accept: bool = False
    """Whether `fail_accept` is there."""

    can_come_again: bool = False
    """Whether `connect_from` is there. It is of use before the handshake only."""

    patience: float = 10.0
    """Seconds on Trio's clock: what has not happened by then has failed to happen."""

    quiet_seconds: float = 0.05
    """Seconds on Trio's clock: what has not happened by then will not happen."""

    @abstractmethod
    def transport(self) -> Transport:
        """Make a transport, not bound, on an address that is free."""

    @abstractmethod
    async def connect(self, address: Address) -> ClientT:
        """Connect a client to one of the transport's addresses.

        Raises:
          OSError: it was refused, or nobody answered.

        If cancelled, the client gives up.
        """

    async def connect_from(self, source: Address, address: Address) -> ClientT:
        """Connect a client from an address that another client had, and has given up.

        As `connect` does; only that the kernel doesn't choose where the client is at.
        """
        raise NotImplementedError

    @abstractmethod
    def reset(self, client: ClientT) -> None:
        """Close a client with a reset."""

    def address_of(self, client: ClientT) -> Address | None:  # noqa: ARG002 - others know it
        """Return the client's own address, if the transport is to know it by that; else None."""
        return None

    def fail_accept(self, transport: Transport, error: OSError) -> None:
        """Have the transport meet this error of the system when it takes its next request.

        It is called while the transport listens, and `Transport.next_request` right after it.
        """
        raise NotImplementedError


AnyHarness = TransportHarness[trio.abc.HalfCloseableStream]
"""A harness of which only attributes are looked at."""
