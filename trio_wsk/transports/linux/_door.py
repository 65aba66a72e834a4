"""What the gatekeeper tells a listening socket whose SYNs it has held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from trio_wsk.transports._syn import Key, Syn

    from ._nfqueue import Packet
    from ._nftables import Gate

__all__ = ["Door"]


class Door(Protocol):
    """One listening socket, as its gatekeeper sees it. Nothing here awaits or raises."""

    gate: Gate

    @property
    def next_due(self) -> float:
        """When `do_due` has something to do, on Trio's clock; infinity if never."""

    def on_syn(self, syn: Syn, packet: Packet, now: float) -> None:
        """A SYN has come: `Gatekeeper.answer` it, now or later."""

    def on_reset(self, key: Key, sequence_number: int, now: float) -> None:
        """A reset has come."""

    def on_late(self, packet_ids: Collection[int], now: float) -> None:
        """The kernel had dropped these packets, of whichever doors, before it heard the answers."""

    def do_due(self, now: float, most: int) -> None:
        """Do what is due, for at most so many requests."""

    def fail(self, error: OSError) -> None:
        """The kernel doesn't tell anything any more."""
