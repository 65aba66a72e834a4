"""The farewell: channels whose connections are closed here, and whose peers have not finished.

A channel that is closed while its peer still sends answers with a reset, and a reset makes the
peer fail in the middle of its sending, and forget what it has not read: our last answer. Whether
a peer still sends can't be seen at one instant. So whoever closes sends FIN and leaves the
channel here, where what comes is thrown away until the peer has finished, too. Nobody waits for
it: the connection is closed, its task and its permit are free.

Nothing here awaits, and nothing calls user code.

Source: RFC 9112, section 9.6; ``lingering_close`` of nginx.
"""

from __future__ import annotations

import _socket
import math
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._engine.deadlines import Deadlines
from trio_wsk._engine.readiness import READ
from trio_wsk.transports._tcp_info import retransmission_timeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._engine.readiness import Readiness, Watch
    from trio_wsk.transports._contract import Channel, TransportRequest

__all__ = [
    "FINISHED",
    "HEARD_SECONDS",
    "PARTING_MOST",
    "PARTING_OCTETS",
    "SILENT_SECONDS",
    "TOTAL_SECONDS",
    "Farewells",
]

SILENT_SECONDS: Final = 5.0
"""How long a peer may be silent after our FIN, in seconds on Trio's clock: nginx's default for
the same thing (``lingering_timeout``)."""

TOTAL_SECONDS: Final = 30.0
"""How long a peer may go on sending after our FIN: nginx's ``lingering_time``. Nearly every upload
that is still under way has been given up by then, or is done."""

HEARD_SECONDS: Final = 1.0
"""How long after our FIN a peer that sends may still look silent, at most, and where the kernel has
no measure of its path: what TCP itself begins with (RFC 6298, section 2). Nearly every round trip
is shorter (its appendix A)."""

PARTING_OCTETS: Final = 1 << 28
"""How much a peer may go on sending, in octets: more than it gets through in that time over the
Internet, and what takes a tenth of a second of our time to throw away."""

PARTING_MOST: Final = 1024
"""How many channels may linger at once, each with a descriptor and nothing else. Beyond it the one
that has had the longest is closed."""

MORE: Final = 0
"""There may be more to throw away."""
NO_MORE: Final = 1
"""There is no more now."""
FINISHED: Final = 2
"""The peer has finished."""

_DISCARD_OCTETS: Final = 1 << 16
_DISCARD_READS: Final = 16
"""How often one channel is read before others have their turn: 1 MiB in all."""


class Farewells:
    """The channels of one listening block that linger.

    Args:
      call_at: Has something called at a time, in seconds on Trio's clock.
      post: Has something called soon, after what was posted before it.
    """

    def __init__(
        self,
        call_at: Callable[[float, Callable[[], object]], object],
        post: Callable[[Callable[[], object]], object],
    ) -> None:
        self.post: Final = post
        self._buffer = bytearray(_DISCARD_OCTETS)
        self._parting: dict[_Parting, None] = {}  # the oldest first
        self.silent: Deadlines[_Parting] = Deadlines(call_at, SILENT_SECONDS, _Parting.close)
        self._sending: Deadlines[_Parting] = Deadlines(call_at, TOTAL_SECONDS, _Parting.close)
        self._one_less: trio.Event | None = None

    def __len__(self) -> int:
        """How many there are."""
        return len(self._parting)

    def discard(self, channel: Channel) -> tuple[int, int]:
        """Throw away what has come, bounded.

        Returns:
          How many octets, and what is next: `MORE`, `NO_MORE` for now, or `FINISHED` for ever.

        Raises:
          OSError: the connection is broken.
        """
        octets = 0
        try:
            for _ in range(_DISCARD_READS):
                count = channel.recv_into(self._buffer)
                if not count:
                    return octets, FINISHED
                octets += count
        except BlockingIOError:
            return octets, NO_MORE
        return octets, MORE

    def part(
        self,
        channel: Channel,
        request: TransportRequest,
        watch: Watch | None,
        home: Readiness,
        discarded: tuple[int, int],
    ) -> None:
        """Let a channel linger that has sent FIN. Never raises.

        Args:
          channel: What lingers; its connection has let go of it.
          request: Where it came from.
          watch: Its watch, if it has one.
          home: Where its edges are to come from, unless its watch knows better.
          discarded: What `discard` has said of it.
        """
        octets, what_next = discarded
        if len(self._parting) >= PARTING_MOST:
            next(iter(self._parting)).close()
        parting = _Parting(self, channel, request, watch, home)
        self._parting[parting] = None
        if octets:
            self.still_sends(parting)
        else:
            self.silent.start(parting)
        if what_next == MORE:
            self.post(parting.look)
        else:
            parting.hear_of_more(channel)

    def still_sends(self, parting: _Parting) -> None:
        """Take note: it has sent something that nobody has read."""
        self.silent.start(parting)
        if parting not in self._sending:
            self._sending.start(parting)

    def forget(self, parting: _Parting) -> None:
        """It is closed."""
        del self._parting[parting]
        self.silent.forget(parting)
        self._sending.forget(parting)
        if self._one_less is not None:
            self._one_less.set()
            self._one_less = None

    async def wait_none_sends(self) -> None:  # noqa: ASYNC910 - a drain has other checkpoints
        """Wait until no peer is left that sends, or that might, and could not be heard yet.

        For when nobody parts any more.
        """
        with trio.move_on_at(max((each.heard_by for each in self._parting), default=-math.inf)):
            while self._parting:
                await self._wait_one_less()
        while self._sending:
            await self._wait_one_less()

    async def _wait_one_less(self) -> None:
        if self._one_less is None:
            self._one_less = trio.Event()
        await self._one_less.wait()

    def make_room(self) -> bool:
        """Give up the channel that has lingered the longest, for its descriptor; False if none."""
        for oldest in self._parting:
            oldest.close()
            return True
        return False

    def close(self) -> None:
        """Close them all; the kernel goes on alone."""
        for parting in list(self._parting):
            parting.close()


class _Parting:
    """One channel that lingers."""

    __slots__ = (
        "_channel",
        "_farewells",
        "_home",
        "_is_told",
        "_left",
        "_request",
        "_since",
        "_watch",
    )

    def __init__(
        self,
        farewells: Farewells,
        channel: Channel,
        request: TransportRequest,
        watch: Watch | None,
        home: Readiness,
    ) -> None:
        self._farewells = farewells
        self._channel: Channel | None = channel
        self._request = request
        self._watch = watch
        self._home = home
        self._is_told = False
        self._left = PARTING_OCTETS
        self._since = trio.current_time()
        if watch is not None:
            watch.sink = self

    @property
    def heard_by(self) -> float:
        """When it would have been heard of, if its peer sent, on Trio's clock.

        What it had sent before our FIN reached it is here a round trip after that.
        """
        channel = self._channel
        measured = retransmission_timeout(channel) if isinstance(channel, _socket.socket) else None
        if measured is None:
            measured = HEARD_SECONDS
        return self._since + min(measured, HEARD_SECONDS)

    def on_edges(self, edges: int) -> None:  # noqa: ARG002 - whatever it is, it is looked at
        """Something has come."""
        self.look()

    def look(self) -> None:
        """Throw away what has come; close if the peer has finished, or is gone."""
        channel = self._channel
        if channel is None:
            return
        try:
            octets, what_next = self._farewells.discard(channel)
        except OSError:
            self.close()
            return
        self._left -= octets
        if what_next == FINISHED or self._left < 0:
            self.close()
            return
        if octets:
            self._farewells.still_sends(self)
        if what_next == NO_MORE:
            self.hear_of_more(channel)
        else:
            self._farewells.post(self.look)

    def hear_of_more(self, channel: Channel) -> None:
        """Be told when there is something to look at."""
        try:
            self._arm(channel)
        except OSError:  # no room for one more in epoll (ENOSPC, ENOMEM)
            self.close()

    def _arm(self, channel: Channel) -> None:
        home, watch = self._home, self._watch
        if watch is None:
            if self._request.is_watched_by_descriptor:
                if not (self._is_told and home.edge_triggered):
                    home.tell(channel.fileno(), READ, self)
                    self._is_told = True
                return
            watch = self._watch = self._request.watch(channel)
            watch.sink = self
        (watch.home or home).arm(watch, READ)

    def close(self) -> None:
        """Close the channel: what the kernel has still to send it sends by itself."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        if self._watch is not None:
            self._watch.close()
        elif self._is_told:
            self._home.tell_no_more(channel.fileno(), self)
        channel.close()
        self._farewells.forget(self)
