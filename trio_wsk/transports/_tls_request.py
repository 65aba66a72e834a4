"""The request of a connection that speaks TLS: the one below, for a channel over its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ._tls_channel import TLSChannel
from ._transport_request import TransportRequest

if TYPE_CHECKING:
    import trio

    from trio_wsk._engine.readiness import Readiness, Watch
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.credentials import PeerCredentials

    from ._tls_info import TLSInfo
    from ._transport_request import Channel, RequestKeeper

__all__ = ["TLSRequest"]


class TLSRequest(TransportRequest):
    """A request that was accepted, and whose channel is a `TLSChannel` from now on.

    Args:
      inner: The request, as its transport has made it.
      channel: Goes over its channel.
    """

    __slots__ = ("_channel", "_inner")

    def __init__(self, inner: TransportRequest, channel: TLSChannel) -> None:
        self._inner = inner
        self._channel = channel

    # --- Who and where, and how its channel is heard of ----------------------------------

    @property
    def tls(self) -> TLSInfo | None:
        """What was agreed on; None until then."""
        return self._channel.info

    @property
    def serial_number(self) -> int:
        """The inner one's."""
        return self._inner.serial_number

    @property
    def local_address(self) -> Address:
        """The inner one's."""
        return self._inner.local_address

    @property
    def remote_address(self) -> Address:
        """The inner one's."""
        return self._inner.remote_address

    @property
    def short_read_is_all(self) -> bool:
        """The inner one's: a short read of TLS ends with one below."""
        return self._inner.short_read_is_all

    # --- What becomes of it -------------------------------------------------------------

    def accept(self) -> TLSChannel:
        """Return the channel over the one that was accepted."""
        return self._channel

    def reset(self) -> None:
        """Reset it."""
        self._inner.reset()

    def was_reset(self) -> bool:
        """Ask the inner one."""
        return self._inner.was_reset()

    def watch_end(self, readiness: Readiness, keeper: RequestKeeper) -> None:
        """Have the inner one tell."""
        self._inner.watch_end(readiness, keeper)

    def unwatch_end(self) -> None:
        """Have the inner one tell no more."""
        self._inner.unwatch_end()

    def peer_credentials(self) -> PeerCredentials | None:
        """Ask the inner one."""
        return self._inner.peer_credentials()

    # --- For its channel ----------------------------------------------------------------

    def watch(self, channel: Channel) -> Watch:
        """Make the watch of what is below."""
        return self._inner.watch(cast("TLSChannel", channel).inner)

    def is_halfway(self, channel: Channel) -> bool:
        """Ask the channel."""
        return cast("TLSChannel", channel).is_halfway

    def give_up(self, channel: Channel) -> None:
        """Tell the channel."""
        cast("TLSChannel", channel).give_up()

    def abort(self, channel: Channel) -> None:
        """Reset the connection, without a good-bye."""
        self._inner.abort(cast("TLSChannel", channel).inner)

    def has_part(self, channel: Channel) -> bool:
        """Ask the channel."""
        return cast("TLSChannel", channel).has_part

    def lowest(self, channel: Channel) -> Channel:
        """Return what it goes over."""
        return cast("TLSChannel", channel).inner

    def private_channel(self, channel: Channel) -> Channel:
        """Return what it goes over, out of its public socket: TLS has had its last word."""
        return self._inner.private_channel(cast("TLSChannel", channel).inner)

    def say_good_bye(self, channel: Channel) -> bool:
        """Have the channel say close_notify."""
        return cast("TLSChannel", channel).say_good_bye()

    def waive_good_bye(self, channel: Channel) -> None:
        """Tell the channel."""
        cast("TLSChannel", channel).waive_good_bye()

    def traffic(self, channel: Channel) -> tuple[int, float] | None:
        """Ask the inner one: what passes there is this connection's."""
        return self._inner.traffic(cast("TLSChannel", channel).inner)

    def ideal_send_backlog(self, channel: Channel) -> int:
        """Ask the inner one; what TLS adds is not worth counting."""
        return self._inner.ideal_send_backlog(cast("TLSChannel", channel).inner)

    def public_socket(self, channel: Channel) -> tuple[Channel, trio.socket.SocketType]:
        """Move what is below into a public socket, whose octets are TLS's."""
        ours = cast("TLSChannel", channel)
        ours.inner, public = self._inner.public_socket(ours.inner)
        return ours, public
