"""Connections that nobody gets, and that no inspector has rejected: reset, counted, told."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from trio_wsk._vocabulary import records

if TYPE_CHECKING:
    from trio_wsk._engine.pump import Pump
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.statistics import ListeningCounters
    from trio_wsk.transports._contract import TransportRequest

__all__ = ["Dropping"]


@final
class Dropping:
    """The account of one listening socket's dropped connections."""

    def __init__(self, pump: Pump, counters: ListeningCounters) -> None:
        self._pump = pump
        self._counters = counters

    def drop(self, request: TransportRequest, reason: str) -> None:
        """Reset a request's connection, and count it."""
        request.reset()
        self.dropped(request.remote_address, reason)

    def dropped(self, remote_address: Address, reason: str) -> None:
        """Count a connection that has been reset."""
        self._counters.dropped[reason] += 1
        self._pump.tell(records.ConnectionDropped, remote_address=remote_address, reason=reason)
