"""Connection requests that are answered before the handshake: listening sockets on Linux.

A transport is the face: it binds and closes, and `Arrivals` has the requests meanwhile.

Source: tcp(7); accept(2).
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._vocabulary.arguments import check_flag, whole_number
from trio_wsk._vocabulary.errors import InspectPointError, InvalidParameterError
from trio_wsk._vocabulary.verdict import CloseStyle, InspectPoint
from trio_wsk.transports._adopting import AdoptedPlace
from trio_wsk.transports._binding import TcpPlace
from trio_wsk.transports._contract import (
    TransportRequest,
)
from trio_wsk.transports._places import checked_backlog
from trio_wsk.transports._socket_transport import SocketTransport
from trio_wsk.transports._spare import SpareDescriptor

from ._arrivals import Arrivals
from ._entry import Act
from ._gatekeeper import gatekeeper_here
from ._known import KnownSources
from ._messages import NetlinkError
from ._netlink import KernelRefusedError
from ._suitable import have_syns_saved, places_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_wsk._engine.readiness import Readiness
    from trio_wsk._vocabulary.refused import RefusedNetworks, RefusedSources
    from trio_wsk.transports._places import Place


__all__: list[str] = []  # LinuxTransport's home is trio_wsk.transports

_DEFAULT_BACKLOG: Final = 4096
"""SYNs that may wait to be inspected: what most kernels allow themselves, too."""


@final
class LinuxTransport(SocketTransport):
    """TCP listening sockets whose requests are inspected before the handshake: Linux.

    Make one with `tcp` or `adopt`, and say so, or it is refused: ``inspect_point=
    InspectPoint.BEFORE_HANDSHAKE``. It takes CAP_NET_ADMIN in the network namespace,
    and a kernel with nftables, their owners (5.12) and packet queues; `trio_wsk.probe` tells what
    is missing.

    The SYN of each request is held by the kernel until there is an answer, and all other listening
    sockets of the Trio run share what holds them. Nobody gets in unasked: a connection that was not
    inspected before its handshake (SYN cookies) is a request after it. All rules in the kernel
    vanish with the process, however it ends, and with the children that it has forked and that
    run no other program.

    ``listening.statistics().transport`` counts:

    ``held``
      SYNs that became requests.
    ``overflowed``
      SYNs dropped because too many waited; their senders try again.
    ``limited``
      SYNs dropped by the kernel because of ``most_syns_per_second``.
    ``resets_unheard``
      Resets beyond a thousand per second, for each address family, of which the kernel has told
      nothing: a client that resets while its SYN is held is then missed some seconds later.
    ``truncated``
      First fragments of IPv6 packets to our addresses that ended before all headers were there: the
      kernel drops them, whatever they were of (RFC 7112).
    ``refused_in_kernel``
      SYNs, each one that is sent again, too, that the kernel has refused by itself because a rule
      knows their source (`Transport.refuse_sources`). They are in no other count.
    ``networks_in_kernel``, ``sources_left_out``
      Where rules say so: how many networks of lists the kernel has now, none of a list that has
      more than 262,144 or is not all there yet; and how many sources it could not take when they
      were to be refused for a time, beyond 65,536 at once of one rule. Those the rules refuse.
    ``strangers``, ``strangers_reset``
      Connections that were asked about after their handshake, and those that were reset unasked:
      too many at once, or their request had been turned away.
    ``queue_lost``, ``queue_overruns``, ``verdicts_late``, ``not_syns``, ``unclaimed``
      Of the queue that all listening sockets of the run share: SYNs that the queue or its buffer
      had no room for; how often the buffer was full; verdicts whose packet had gone; packets in
      bad order; SYNs for a listening socket that had just closed.
    """

    inspect_point: InspectPoint = InspectPoint.BEFORE_HANDSHAKE
    """Before the handshake, and nowhere else."""

    def __init__(
        self,
        place: Place,
        *,
        backlog: int,
        most_syns_per_second: int | None,
        fail_open: bool,
    ) -> None:
        """Made by `tcp` and `adopt`."""
        super().__init__(place)
        self._most_per_second = _checked_limit(most_syns_per_second)
        check_flag("fail_open", fail_open)
        self._fail_open = fail_open
        self._arrivals = Arrivals(self, backlog=max(1, backlog))
        self._known: KnownSources | None = None
        self._spare = SpareDescriptor()
        self._keeps_spare = False
        self._is_leaving = False

    @classmethod
    def tcp(
        cls,
        port: int,
        *,
        host: str | Sequence[str] | None = None,
        backlog: int | None = None,
        reuse_port: bool = False,
        socket_options: Sequence[tuple[int, int, int | bytes]] = (),
        most_syns_per_second: int | None = None,
        fail_open: bool = False,
    ) -> LinuxTransport:
        """Listen on a TCP port.

        Args:
          port: As for `PortableTransport.tcp`, and so for ``host`` and ``socket_options``.
          host: A name or an IP address, or several; None takes all of this machine.
          backlog: How many SYNs may wait to be inspected, 4096 by default, and how many
            connections for accept in the kernel, by default as many as it allows.
          reuse_port: Can't be had: the SYNs of a port go to one process.
          socket_options: What ``setsockopt()`` is to be called with before the socket is bound.
          most_syns_per_second: What exceeds so many SYNs per second, for each address
            family, the kernel drops before they cost us anything. As many may come at once.
          fail_open: Have the kernel answer SYNs that it can't hold, because the queue or its
            buffer is full, instead of dropping them. Their connections are asked about after the
            handshake.

        Raises:
          InvalidParameterError: An argument is wrong. (Yours.)
        """
        check_flag("reuse_port", reuse_port)
        if reuse_port:
            raise InvalidParameterError(
                "reuse_port=True doesn't go with inspection before the handshake: each of the"
                " processes would be asked about every SYN; have one process inspect, or inspect"
                " after the handshake"
            )
        place = TcpPlace(
            port, host, backlog=backlog, reuse_port=False, socket_options=socket_options
        )
        return cls(
            place,
            backlog=_DEFAULT_BACKLOG if backlog is None else checked_backlog(backlog),
            most_syns_per_second=most_syns_per_second,
            fail_open=fail_open,
        )

    @classmethod
    def adopt(
        cls,
        sockets: Sequence[socket.socket | trio.socket.SocketType | int],
        *,
        backlog: int | None = None,
        most_syns_per_second: int | None = None,
        fail_open: bool = False,
    ) -> LinuxTransport:
        """Listen on sockets that exist, bound or listening already.

        As with `PortableTransport.adopt` they are the transport's from here on. Connections that
        one of them has accepted by then are asked about after their handshake.

        Args:
          sockets: Sockets, Trio sockets, or numbers of descriptors, such as `listen_fds` gives.
          backlog: As for `tcp`; the kernel's part of it for sockets that don't listen yet.
          most_syns_per_second: As for `tcp`.
          fail_open: As for `tcp`.

        Raises:
          InvalidParameterError: One is no bound stream socket; the message says which. (Yours.)
        """
        place = AdoptedPlace(sockets, backlog=backlog)
        try:
            return cls(
                place,
                backlog=_DEFAULT_BACKLOG if backlog is None else checked_backlog(backlog),
                most_syns_per_second=most_syns_per_second,
                fail_open=fail_open,
            )
        except BaseException:
            place.close()
            raise

    # --- Binding and listening ---------------------------------------------------------

    def inspect_at(self, point: InspectPoint) -> None:
        """See that it is asked for what it does.

        Raises:
          InspectPointError: it is not, or this is no Linux.
        """
        if point is not InspectPoint.BEFORE_HANDSHAKE:
            raise InspectPointError(
                "LinuxTransport inspects before the handshake and nowhere else: give"
                " inspect_point=InspectPoint.BEFORE_HANDSHAKE, or take PortableTransport"
            )
        if sys.platform != "linux":
            raise InspectPointError(
                f"inspection before the handshake takes Linux, and this is {sys.platform}"
            )

    def close_styles(self) -> frozenset[CloseStyle]:
        """Return reset and silence: before the handshake there is nothing that could be ended."""
        return frozenset({CloseStyle.RESET, CloseStyle.SILENT})

    def _prepare(self) -> None:
        """Have SYNs held, before anything listens."""
        for bound in self._bound:
            have_syns_saved(bound)
        places = [place for bound in self._bound for place in places_of(bound)]
        try:
            gatekeeper = gatekeeper_here(fail_open=self._fail_open)
            self._arrivals.have_syns_held(gatekeeper, places, self._most_per_second)
        except NetlinkError as error:
            raise InspectPointError(
                f"requests can't be inspected before the handshake: {error};"
                " `python -m trio_wsk doctor` tells what this machine has"
            ) from error

    def refuse_sources(self, refused: Sequence[RefusedNetworks | RefusedSources]) -> None:
        """Have the kernel refuse them, as far as it can. See `Transport.refuse_sources`."""
        if refused:
            self._known = KnownSources(self._arrivals.gate, refused)
            self._known.open()

    def listen(self, readiness: Readiness) -> None:  # noqa: ARG002 - the gatekeeper reads for us
        """From now on requests appear.

        Raises:
          BindError: Somebody else was faster, between bind and here.
          InspectPointError: There is no memory left to wait for connections.
        """
        self._start_listening()
        try:
            self._arrivals.listen(self._bound)
        except KernelRefusedError as error:
            self.close()
            raise InspectPointError(str(error)) from error

    def leave(self) -> bool:
        """Leave the queue to those who share the sockets, or have them after us.

        SYNs that are held are dropped, as are those that still come: their clients ask again, and
        others answer. Handshakes go on, and end with the others. What was accepted and not asked
        about stays here.
        """
        self._is_leaving = self._place.is_shared
        has_left = super().leave()
        self._is_leaving = False
        return has_left

    def close(self) -> None:
        """Stop listening; every request without an answer is rejected. Never raises, idempotent."""
        arrivals = self._arrivals
        if self._known is not None:
            self._known.close()
        arrivals.stop(Act.DROP if self._is_leaving else Act.REJECT)
        super().close()
        arrivals.close()
        if not self._is_leaving:
            arrivals.reset_strangers()
        self._spare.give_up()
        self._keeps_spare = False

    # --- Requests ----------------------------------------------------------------------

    def next_request(self) -> TransportRequest | None:
        """Return the next request: of a connection that came uninspected, or the oldest SYN."""
        return self._arrivals.next_request()

    def has_more(self) -> bool:
        """Whether `next_request` has something to return or to raise."""
        return self._arrivals.has_more()

    def flush(self) -> None:
        """Say the answers of a batch of requests to the kernel at once."""
        self._arrivals.flush()

    def take_established(self) -> None:
        """Accept again, in the gatekeeper's next turn. See `Transport.take_established`."""
        self._arrivals.take_established()

    def keep_spare(self) -> bool:
        """Set a descriptor aside for `shed`; False if there is none to be had."""
        self._keeps_spare = True
        return self._spare.keep()

    def shed(self) -> bool:
        """Reset the oldest connection that waits for accept, or refuse the oldest SYN.

        A connection is accepted for it in the room of the spare descriptor; its request, which
        was approved, has then left by itself. A SYN needs no descriptor. See `Transport.shed`.
        """
        if not self._keeps_spare or not self._spare.keep():
            return False
        self._spare.give_up()
        try:
            if self._arrivals.shed_connection():
                return True
        finally:
            self._spare.keep()
        return self._arrivals.shed_syn()

    def queue_depth(self) -> tuple[int, int] | None:
        """How many SYNs and strangers wait to be inspected, and how many SYNs may."""
        if not self._is_listening:
            return None
        return self._arrivals.waiting(), self._arrivals.backlog

    def counters(self) -> Mapping[str, int]:
        """What is counted here and, for all listening sockets of the run, by the queue."""
        counted = self._arrivals.counters()
        return counted if self._known is None else counted | self._known.counters()


def _checked_limit(most_syns_per_second: object) -> int | None:
    if most_syns_per_second is None:
        return None
    if not whole_number(most_syns_per_second) or not 1 <= most_syns_per_second < 1 << 32:
        raise InvalidParameterError(
            f"most_syns_per_second={most_syns_per_second!r} is no rate; write"
            " most_syns_per_second=1000, or leave it out for no limit"
        )
    return most_syns_per_second
