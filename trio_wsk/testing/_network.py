"""The network in memory as its users see it, and the hosts on it."""

from __future__ import annotations

import errno
import os
from ipaddress import ip_address
from typing import TYPE_CHECKING, final

from trio_wsk._vocabulary.addresses import Address, tcp_parts
from trio_wsk._vocabulary.arguments import check_plain_function, checked_seconds, whole_number
from trio_wsk._vocabulary.errors import InvalidParameterError

from ._carrier import Carrier
from ._endpoint import Endpoint
from ._memory_transport import MemoryTransport
from ._ports import Ports, checked_port
from ._segments import Segment
from ._stream import MemoryStream

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MemoryHost", "MemoryNetwork"]


@final
class MemoryNetwork:
    """A network in memory: hosts, and TCP between them, on Trio's clock.

    ::

        network = MemoryNetwork()
        transport = network.host("192.0.2.1").transport(80)
        async with open_listening_socket(transport=transport) as listening:
            client = await network.host("192.0.2.2").connect(("192.0.2.1", 80))

    There is no socket, descriptor or thread in it, and no real time: with
    ``trio.testing.MockClock(autojump_threshold=0)`` a connection attempt that takes two minutes
    to time out does so at once. Without latency and loss, every segment arrives within the
    call that has sent it.

    What happens follows from ``seed`` and the order of the calls. Mind that Trio shuffles the
    tasks that could run at the same moment.

    It belongs to one Trio run at a time, and to one thread.

    Args:
      latency: Seconds from one host to the other, either way.
      loss: How likely a segment is lost, 0 to 1.
      seed: Where chance starts from: the same seed loses the same segments.

    Raises:
      InvalidParameterError: an argument is out of range. (Yours.)
    """

    def __init__(self, *, latency: float = 0.0, loss: float = 0.0, seed: int = 0) -> None:
        if not whole_number(seed):
            raise InvalidParameterError(f"seed is a whole number, not {seed!r}; write seed=1")
        self._carrier = Carrier(seed)
        self._hosts: dict[bytes, MemoryHost] = {}
        self.latency = latency
        self.loss = loss

    def __repr__(self) -> str:
        return f"<MemoryNetwork of {len(self._hosts)} hosts>"

    @property
    def latency(self) -> float:
        """Seconds from one host to the other. Setting it concerns what is sent from then on."""
        return self._carrier.latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        self._carrier.latency = checked_seconds("latency", seconds)
        self._carrier.changed()

    @property
    def loss(self) -> float:
        """How likely a segment is lost, 0 to 1. Setting it concerns what is sent from then on."""
        return self._carrier.loss

    @loss.setter
    def loss(self, probability: float) -> None:
        given: object = probability  # by a caller without a type checker, perhaps
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given <= 1:
            raise InvalidParameterError(
                f"loss is a probability, 0 to 1, not {probability!r}; write loss=0.1"
            )
        self._carrier.loss = probability
        self._carrier.changed()

    @property
    def on_segment(self) -> Callable[[Segment], object] | None:
        """Called with each `Segment` as it is sent, lost or not; None, at first, for nobody.

        ``network.on_segment = trace.append`` is what it is for: it is called in the middle of
        things, so it must neither raise nor use the network.
        """
        return self._carrier.observer

    @on_segment.setter
    def on_segment(self, observer: Callable[[Segment], object] | None) -> None:
        if observer is not None:
            check_plain_function("on_segment", observer)
        self._carrier.observer = observer
        self._carrier.changed()

    def host(self, address: str) -> MemoryHost:
        """Return the host that has this address; it is there from the first time on.

        Args:
          address: An IPv4 or IPv6 address. Names are not looked up.

        Raises:
          InvalidParameterError: it is none. (Yours.)
        """
        octets = _octets_of(address)
        host = self._hosts.get(octets)
        if host is None:
            host = self._hosts[octets] = MemoryHost(self._carrier, octets)
        return host


@final
class MemoryHost:
    """A machine on a `MemoryNetwork`, with one address; `MemoryNetwork.host` makes it."""

    __slots__ = ("_carrier", "_octets", "_ports", "address")

    def __init__(self, carrier: Carrier, octets: bytes) -> None:
        """Made by `MemoryNetwork.host`, never by you."""
        self._carrier = carrier
        self._octets = octets
        carrier.hosts.add(octets)
        self._ports = Ports(carrier, octets)
        self.address: str = str(ip_address(octets))
        """Its address, as text."""

    def __repr__(self) -> str:
        return f"<MemoryHost {self.address}>"

    def transport(self, port: int = 0, *, backlog: int = 128) -> MemoryTransport:
        """Make a transport that listens here, for ``open_listening_socket(transport=...)``.

        Args:
          port: 0 takes any that is free, when the transport is bound.
          backlog: How many connections may wait to be taken, at least 1. A SYN that comes
            while they do is dropped, as Linux drops it, and its sender tries again.

        Raises:
          InvalidParameterError: an argument is out of range. (Yours.)
        """
        return MemoryTransport(self._ports, port, backlog=backlog)

    async def connect(self, address: Address | tuple[str, int]) -> MemoryStream:
        """Connect to an address, and wait until the connection is there.

        Args:
          address: An `Address`, such as one of ``listening.local_addresses``, or a pair of
            host and port.

        Raises:
          ConnectionRefusedError: nobody listens there, or they don't want to (ECONNREFUSED).
          TimeoutError: nobody has answered for 131 s, or there is no such host (ETIMEDOUT).
          OSError: all ports of this host are taken (EADDRNOTAVAIL), or the address is of the
            other family (ENETUNREACH).
          InvalidParameterError: the address is none. (Yours.)

        Always a checkpoint. If cancelled, the attempt is abandoned as `MemoryStream.abandon` does.
        """
        stream = self.open_connection(address)
        try:
            await stream.established()
        except BaseException:
            stream.abandon()
            raise
        return stream

    def open_connection(self, address: Address | tuple[str, int]) -> MemoryStream:
        """Send SYN and return at once; `MemoryStream.established` waits for the rest.

        Raises: as for `connect`, but for what an answer would tell.
        """
        octets, port = _place_of(address)
        if len(octets) != len(self._octets):
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        carrier = self._carrier
        endpoint = Endpoint(carrier, self._ports.key_to(octets, port), carrier.next_isn())
        carrier.put(endpoint)
        stream = MemoryStream(endpoint)
        endpoint.call()
        carrier.flush()
        return stream

    def unplug(self) -> None:
        """Let nothing go out or come in any more, so that peers get no word. Idempotent.

        What is on its way to this host is lost, too. Timers here go on, as they do in a
        machine whose cable is pulled.
        """
        self._carrier.unplugged.add(self._octets)
        self._carrier.changed()

    def plug_in(self) -> None:
        """Undo `unplug`; what was lost meanwhile is sent again in its time. Idempotent."""
        self._carrier.unplugged.discard(self._octets)
        self._carrier.changed()


def _place_of(address: Address | tuple[str, int]) -> tuple[bytes, int]:
    if not isinstance(address, Address):
        given: object = address  # by a caller without a type checker, perhaps
        if not isinstance(given, tuple) or len(given) < 2:  # noqa: PLR2004 - a host and a port
            raise InvalidParameterError(
                f"{address!r} is no address; write ('192.0.2.1', 80), or take one of"
                " listening.local_addresses"
            )
        return _octets_of(given[0]), checked_port(given[1])
    if address.is_unix:
        raise InvalidParameterError(f"{address} is no address on this network; it has TCP only")
    octets, port, _ = tcp_parts(address)
    return octets, port


def _octets_of(host: str) -> bytes:
    try:
        return ip_address(str(host)).packed  # of a number it would make an address, too
    except ValueError:
        raise InvalidParameterError(
            f"{host!r} is no IP address (names are not looked up);"
            " write '192.0.2.1' or '2001:db8::1'"
        ) from None
