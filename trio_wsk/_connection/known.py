"""What is known of a connection: who it is with, since when, and how much has passed.

Nothing here awaits, and nothing changes the connection. What costs something is asked for when
somebody wants to know it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_wsk._vocabulary.connection_state import ConnectionState

from .next_request import NextRequest
from .state import FIN_RECEIVED, SHAKING_HANDS

if TYPE_CHECKING:
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.credentials import PeerCredentials
    from trio_wsk._vocabulary.verdict import InspectId
    from trio_wsk.transports._tls_info import TLSInfo

__all__ = ["Known"]


class Known(NextRequest):
    """A connection as what one knows of it."""

    __slots__ = ()

    @property
    def local_address(self) -> Address:
        """The address that the peer connected to; at a proxy, as that says."""
        carried = self._carries
        if carried is not None and carried.recovered is not None:
            return carried.recovered.local_address
        return self._request.local_address

    @property
    def transport_remote_address(self) -> Address:
        """The peer, as the kernel says: a proxy perhaps."""
        return self._request.remote_address

    @property
    def transport_local_address(self) -> Address:
        """The address of this machine that was connected to, as the kernel says."""
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
    def tls(self) -> TLSInfo | None:
        """What TLS has agreed on, in a server that speaks it (``ssl_context``); None without.

        None, too, where a ``trio.SSLStream`` was put over the connection by hand.
        """
        return self._request.tls

    @property
    def opened_at(self) -> float:
        """When it was handed over, in seconds on Trio's clock: ``trio.current_time()`` of then."""
        return self._opened

    @property
    def octets_received(self) -> int:
        """How many octets were taken from the kernel so far.

        Where the connection speaks TLS (`tls`), how many plain ones, without what TLS adds.
        What goes through `socket` isn't counted, here and in `octets_sent`.
        """
        return self._octets_in

    @property
    def octets_sent(self) -> int:
        """How many octets the kernel has taken so far; the peer may have fewer.

        What counts is as for `octets_received`.
        """
        return self._octets_out

    @property
    def idle_seconds(self) -> float | None:
        """How many seconds ago the last octet passed, either way.

        If none has, the connection was established then. What is sent again because the peer says
        nothing counts for nothing.

        None where the system can't tell: on Unix sockets, elsewhere than on Linux, over Multipath
        TCP, and when this side has closed it. Asking costs a system call (TCP_INFO, tcp(7)).
        """
        channel = self._channel
        traffic = None if channel is None else self._request.traffic(channel)
        return None if traffic is None else traffic[1]

    @property
    def octets_unsent(self) -> int:
        """How many octets stand in the send queue, which the kernel has not taken yet."""
        return self._unsent

    @property
    def state(self) -> ConnectionState:
        """How far the connection is in its life, as far as this side has seen."""
        if self._channel is None:
            return ConnectionState.CLOSED
        rare = self._rare
        if rare is not None and rare.broken is not None:
            return ConnectionState.BROKEN
        if self._fin_sent or (rare is not None and rare.fin_wanted):
            return ConnectionState.FINISHED
        return self._state_of_input()

    def _state_of_input(self) -> ConnectionState:
        if self._marks & FIN_RECEIVED:
            return ConnectionState.PEER_FINISHED
        if self._marks & SHAKING_HANDS:
            return ConnectionState.HANDSHAKE
        is_waiting = self._block.between.is_waiting(self)
        return ConnectionState.WAITING if is_waiting else ConnectionState.OPEN
