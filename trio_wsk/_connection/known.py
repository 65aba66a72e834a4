"""What is known of a connection: who it is with, since when, and how much has passed.

Nothing here awaits, and nothing changes the connection. What costs something is asked for when
somebody wants to know it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .stream import Stream

if TYPE_CHECKING:
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.credentials import PeerCredentials
    from trio_wsk._vocabulary.verdict import InspectId

__all__ = ["Known"]


class Known(Stream):
    """A connection as what one knows of it."""

    __slots__ = ()

    @property
    def local_address(self) -> Address:
        """The address that the peer connected to."""
        return self._request.local_address

    @property
    def inspect_id(self) -> InspectId | None:
        """What its request was inspected by; None if nobody has inspected it.

        So it is without an inspector, and for a connection that this side has opened.

        Source: SIO_WSK_QUERY_INSPECT_ID.
        """
        return self._inspect_id()

    @property
    def peer_credentials(self) -> PeerCredentials | None:
        """The peer's process, user and group, on a Unix socket; on Linux, as long as it is open.

        None where there are none: over TCP, in memory, elsewhere, and when this side has closed it.

        Source: SO_PEERCRED, unix(7).
        """
        return None if self._channel is None else self._request.peer_credentials()

    @property
    def opened_at(self) -> float:
        """When it was handed over, in seconds on Trio's clock: ``trio.current_time()`` of then."""
        return self._opened

    @property
    def octets_received(self) -> int:
        """How many octets were taken from the kernel so far, before any TLS.

        What goes through `socket` isn't counted, here and in `octets_sent`.
        """
        return self._octets_in

    @property
    def octets_sent(self) -> int:
        """How many octets the kernel has taken so far, after any TLS; the peer may have fewer."""
        return self._octets_out
