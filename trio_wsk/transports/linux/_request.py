"""One request for a connection before the handshake, as its owner sees it.

Until there is a verdict a request is a SYN that the kernel holds. Then the handshake goes on, and
in the end a connection takes the place of the SYN: to that goes what is said to the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from trio_wsk._vocabulary.errors import InvalidDeviceStateError
from trio_wsk._vocabulary.verdict import InspectPoint
from trio_wsk.transports._contract import PeerEnd, TransportRequest, next_serial_number

from ._entry import Stage

if TYPE_CHECKING:
    from trio_wsk._engine.readiness import Readiness, Watch
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.transports._contract import Channel, RequestKeeper
    from trio_wsk.transports._socket_request import SocketRequest
    from trio_wsk.transports._syn import Syn

    from ._entry import Act, Entry
    from ._gatekeeper import Gatekeeper
    from ._syn_table import SynTable

__all__ = ["LinuxRequest"]


@final
class LinuxRequest(TransportRequest):
    """One request for a connection: a SYN that is held, and later the connection."""

    __slots__ = (
        "_connection",
        "_end",
        "_entry",
        "_gatekeeper",
        "_is_established_untold",
        "_keeper",
        "_readiness",
        "_syn",
        "_table",
        "mark",
        "serial_number",
    )

    serial_number: int

    def __init__(
        self,
        table: SynTable[LinuxRequest],
        gatekeeper: Gatekeeper,
        entry: Entry[LinuxRequest],
        syn: Syn,
        mark: int,
    ) -> None:
        self._table = table
        self._gatekeeper = gatekeeper
        self._entry = entry
        self._syn = syn
        self.mark = mark
        self._keeper: RequestKeeper | None = None
        self._connection: SocketRequest | None = None
        self._end: PeerEnd | None = None
        self._is_established_untold = False
        self.serial_number = next_serial_number()
        entry.owner = self

    def __repr__(self) -> str:
        return f"<LinuxRequest {self.serial_number} from {self.remote_address}>"

    @property
    def local_address(self) -> Address:
        """Where the peer wants to connect to, as its SYN says."""
        return self._syn.destination

    @property
    def remote_address(self) -> Address:
        """Where the peer is at, as its SYN says; proven only when the handshake is over."""
        return self._syn.source

    @property
    def inspect_point(self) -> InspectPoint:
        """Before the handshake."""
        return InspectPoint.BEFORE_HANDSHAKE

    @property
    def syn(self) -> Syn:
        """What the peer's SYN says."""
        return self._syn

    # --- Answers -----------------------------------------------------------------------

    def approve(self) -> bool:
        """Let the SYN go on: the kernel answers with SYN-ACK.

        Returns:
          Whether the handshake is over, as it is when this is said again; it goes on now, if not.
          See `TransportRequest.approve`.
        """
        if self._connection is not None:
            return True
        table = self._table
        self._answer(table.approve(self._entry, trio.current_time()))
        self._gatekeeper.wake_at(table.next_due)
        return False

    def accept(self) -> Channel:
        """Return the connection, which is the caller's from now on.

        Raises:
          InvalidDeviceStateError: the handshake is not over. (The caller's.)
        """
        return self._established.accept()

    @property
    def _established(self) -> SocketRequest:
        if self._connection is None:
            raise InvalidDeviceStateError("the handshake is not over: approve() comes first")
        return self._connection

    def reset(self) -> None:
        """Answer with RST, so that ``connect()`` is refused; reset the connection if there is one.

        Approved and not established, it is reset as soon as its connection comes.
        """
        self._keeper = None
        if self._connection is not None:
            self._connection.reset()
        else:
            self._answer(self._table.reject(self._entry, trio.current_time()))

    def finish(self) -> None:
        """Send FIN, if the handshake is over; before it, reset."""
        if self._connection is not None:
            self._keeper = None
            self._connection.finish()
        else:
            self.reset()

    def silence(self) -> bool:
        """Drop the SYN and its repetitions: the peer asks on, and in the end times out."""
        self._keeper = None
        if self._connection is not None:
            return self._connection.silence()
        was_held = self._entry.stage is Stage.HELD
        self._answer(self._table.silence(self._entry, trio.current_time()))
        return was_held or self._entry.stage is Stage.GONE

    def _answer(self, act: Act | None) -> None:
        if act is not None:
            self._gatekeeper.answer(self._entry.packet_id, self.mark, act)

    # --- The peer ----------------------------------------------------------------------

    def was_reset(self) -> bool:
        """Whether the peer has reset the request, or the connection."""
        if self._connection is not None:
            return self._connection.was_reset()
        return self._end is PeerEnd.RESET

    def watch_end(self, readiness: Readiness, keeper: RequestKeeper) -> None:
        """Tell ``keeper`` when the peer leaves; what is true already, a moment later."""
        self._keeper = keeper
        self._readiness = readiness
        if self._connection is not None and not self._is_established_untold:
            self._connection.watch_end(readiness, self)
        elif self._end is not None or self._is_established_untold:
            trio.lowlevel.current_trio_token().run_sync_soon(self._tell_what_is_true)

    def unwatch_end(self) -> None:
        """Tell nothing more."""
        self._keeper = None
        if self._connection is not None:
            self._connection.unwatch_end()

    def _tell_what_is_true(self) -> None:
        if self._is_established_untold:
            self._tell_established()
        elif self._keeper is not None and self._end is not None:
            self._keeper.peer_ended(self, self._end)

    def _tell_established(self) -> None:
        self._is_established_untold = self._keeper is None
        if self._keeper is not None:
            self._keeper.established(self)
        if self._keeper is not None:  # and nobody has taken it from inside the call
            self._established.watch_end(self._readiness, self)

    def peer_ended(self, request: TransportRequest, end: PeerEnd) -> None:  # noqa: ARG002 - it is ours
        """From the connection, which is watched for its end: the peer has left."""
        if self._keeper is not None:
            self._keeper.peer_ended(self, end)

    def established(self, request: TransportRequest) -> None:
        """Not told by a connection that is there."""

    def peer_left(self, end: PeerEnd) -> None:
        """From the transport: the peer has left before its connection was there."""
        self._end = end
        if self._keeper is not None:
            self._keeper.peer_ended(self, end)

    def has_become(self, connection: SocketRequest) -> None:
        """From the transport: the handshake is over."""
        self._connection = connection
        self._tell_established()

    # --- First octets ------------------------------------------------------------------

    def peek(self, count: int) -> tuple[bytes, bool]:
        """Look at what has come on the connection, if there is one."""
        if self._connection is None:
            return super().peek(count)  # which says why not
        return self._connection.peek(count)

    async def wait_for_more(self) -> None:
        """Wait for the next edge of the connection."""
        if self._connection is None:
            await super().wait_for_more()  # which says why not
        else:
            await self._connection.wait_for_more()

    def consume(self, count: int) -> None:
        """Take octets that were looked at."""
        if self._connection is None:
            super().consume(count)  # which says why not
        else:
            self._connection.consume(count)

    # --- What was accepted -------------------------------------------------------------

    is_watched_by_descriptor = True

    @property
    def short_read_is_all(self) -> bool:
        """Before the handshake there is TCP only."""
        return True

    def watch(self, channel: Channel) -> Watch:
        """Make the watch of this channel's descriptor."""
        return self._established.watch(channel)

    def abort(self, channel: Channel) -> None:
        """Reset the connection, dropping what is not yet sent."""
        self._established.abort(channel)

    def traffic(self, channel: Channel) -> tuple[int, float] | None:
        """What has passed on the connection, and how long ago, as the kernel says."""
        return self._established.traffic(channel)

    def ideal_send_backlog(self, channel: Channel) -> int:
        """Return the congestion window, where the kernel tells it."""
        return self._established.ideal_send_backlog(channel)

    def public_socket(self, channel: Channel) -> tuple[Channel, trio.socket.SocketType]:
        """Move the descriptor into a `socket.socket`, and wrap that for Trio."""
        return self._established.public_socket(channel)

    def private_channel(self, channel: Channel) -> Channel:
        """Move the descriptor out of its public socket."""
        return self._established.private_channel(channel)
