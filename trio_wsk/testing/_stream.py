"""The client's end of a connection in memory."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, final

import trio

from trio_wsk._engine.readiness import READ, WRITE
from trio_wsk._vocabulary.arguments import whole_number

from ._endpoint import Phase
from ._memory_readiness import MemoryWatch

if TYPE_CHECKING:
    from trio_wsk._vocabulary.addresses import Address

    from ._endpoint import Endpoint
    from ._segments import TcpState
    from ._sending import Octets

__all__ = ["MemoryStream"]

_DEFAULT_RECEIVE_SIZE = 65536
"""What ``receive_some()`` asks for, in octets: as `trio.SocketStream`."""


@final
class MemoryStream(trio.abc.HalfCloseableStream):
    """A client's connection on a `MemoryNetwork`: a Trio stream, and what clients do besides.

    You get one from `MemoryHost.connect` or `MemoryHost.open_connection`. It behaves as
    `trio.SocketStream` does: octets that were received before a reset can still be read, and
    closing with octets unread resets. Up to 64 KiB wait for their reader, and as many for being
    acknowledged; beyond that ``send_all`` waits.

    One task may receive while another one sends.
    """

    __slots__ = ("_endpoint", "_is_receiving", "_is_sending", "_watch")

    def __init__(self, endpoint: Endpoint) -> None:
        """Made by a `MemoryHost`, never by you."""
        self._endpoint = endpoint
        self._watch = MemoryWatch(endpoint, endpoint.carrier.readiness)
        self._is_receiving = False
        self._is_sending = False

    def __repr__(self) -> str:
        return f"<MemoryStream {self.state.value} with {self.remote_address}>"

    @property
    def local_address(self) -> Address:
        """This end."""
        return self._endpoint.local_address

    @property
    def remote_address(self) -> Address:
        """The other end."""
        return self._endpoint.remote_address

    @property
    def state(self) -> TcpState:
        """Where this end is in its life, also when it is closed."""
        return self._endpoint.state

    async def established(self) -> None:
        """Wait until the connection is there.

        Raises:
          ConnectionRefusedError: it was refused: RST came for its SYN (ECONNREFUSED).
          TimeoutError: nobody has answered any of its SYNs for 131 s (ETIMEDOUT).
          trio.ClosedResourceError: this end was closed, before or meanwhile.
          trio.BusyResourceError: another task is waiting for this, or sending.

        Always a checkpoint. If cancelled, the connection goes on as it was.

        Source: connect(2); tcp(7), tcp_syn_retries.
        """
        endpoint = self._endpoint
        await self._begin_sending("established")
        try:
            if endpoint.phase is Phase.SYN_SENT:
                await self._wait(WRITE)
            else:
                await trio.lowlevel.checkpoint()
        finally:
            self._is_sending = False
        self._check_not_closed()
        if not endpoint.established:
            raise OSError(endpoint.error, os.strerror(endpoint.error))

    # --- Receiving ---------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive up to ``max_bytes`` octets, 65536 by default; ``b""`` after the peer's FIN.

        Raises:
          trio.BrokenResourceError: the connection was reset, refused or timed out; the
            `OSError` is its cause. What had been received comes first.
          trio.ClosedResourceError: this end was closed, before or meanwhile.
          trio.BusyResourceError: another task is receiving.

        Always a checkpoint. If cancelled, nothing was received.
        """
        size = _DEFAULT_RECEIVE_SIZE if max_bytes is None else _checked_size(max_bytes)
        if self._is_receiving:
            await trio.lowlevel.checkpoint()
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._is_receiving = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            data = self._receive_now(size)
            if data is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data
            while data is None:
                await self._wait(READ)
                data = self._receive_now(size)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Who goes on after each error must not stop the run.
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            self._is_receiving = False
        return data

    def _receive_now(self, size: int) -> bytes | None:
        self._check_not_closed()
        endpoint = self._endpoint
        data = endpoint.take(size)
        if data is None:
            self._check_not_broken()
        elif endpoint.carrier.outbox:
            endpoint.carrier.flush()
        return data

    # --- Sending -----------------------------------------------------------------------

    async def send_all(self, data: Octets) -> None:
        """Send all of ``data``; returns when it is on its way, which is not: there.

        Raises:
          trio.BrokenResourceError: the connection was reset, refused or timed out.
          trio.ClosedResourceError: this end was closed or has sent FIN, before or meanwhile.
          trio.BusyResourceError: another task is sending.

        Always a checkpoint. If cancelled, any part of ``data`` may have been sent.
        """
        await self._begin_sending("send_all")
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            with memoryview(data).cast("B") as view:
                await self._send_all(view)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            self._is_sending = False

    async def _send_all(self, view: memoryview) -> None:  # noqa: ASYNC910 - one of the two
        sent = self._send_now(view)
        if sent == len(view):
            await trio.lowlevel.cancel_shielded_checkpoint()
        while sent < len(view):
            with view[sent:] as rest:
                taken = self._send_now(rest)
            sent += taken
            if not taken:
                await self._wait(WRITE)

    def _send_now(self, data: Octets) -> int:
        self._check_can_send()
        taken = self._endpoint.put(data)
        if taken:  # else what comes now would be no news to who waits next
            self._endpoint.carrier.flush()
        return taken

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until ``send_all`` might go through without waiting.

        Raises, checkpoint: as for `send_all`. Cancelling it changes nothing.
        """
        await self._begin_sending("wait_send_all_might_not_block")
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_not_closed()
            await self._wait(WRITE, passed=True)
            self._check_can_send()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            self._is_sending = False

    async def send_eof(self) -> None:
        """Send FIN after everything that was sent before; receiving goes on.

        Does nothing if it has been sent already.

        Raises:
          trio.BrokenResourceError: the connection was reset, refused or timed out.
          trio.ClosedResourceError: this end was closed.
          trio.BusyResourceError: another task is sending.

        Always a checkpoint. If cancelled, FIN has not been sent.
        """
        await self._begin_sending("send_eof")
        try:
            await trio.lowlevel.checkpoint()
            while self._endpoint.phase is Phase.SYN_SENT:
                await self._wait(WRITE)
            self._check_not_closed()
            if not self._endpoint.sending.fin_wanted:
                self._check_not_broken()
                self._endpoint.finish_sending()
                self._endpoint.carrier.flush()
        finally:
            self._is_sending = False

    async def _begin_sending(self, call: str) -> None:  # noqa: ASYNC910 - for who calls it
        if self._is_sending:
            await trio.lowlevel.checkpoint()
            raise trio.BusyResourceError(f"{call}() while another task is sending to this stream")
        self._is_sending = True

    # --- Ending ------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close this end: FIN after everything that was sent, RST if something is unread.

        A connection that was not yet answered is abandoned. Idempotent; calls of other tasks
        raise `trio.ClosedResourceError`.

        Always a checkpoint. If cancelled, it is closed all the same.

        Source: RFC 9293, 3.10.4; RFC 2525, 2.17; close(2).
        """
        self._leave()
        await trio.lowlevel.checkpoint()

    def _leave(self) -> None:
        if not self._endpoint.closed:
            self._endpoint.let_go()
            self._endpoint.carrier.flush()

    def reset(self) -> None:
        """Close this end with RST, in whatever state it is; also while SYN is unanswered.

        Its peer forgets at once what it has not sent. Does nothing if it is closed.

        Source: RFC 9293, 3.10.5 (ABORT), which sends none in SYN-SENT; those who guard a server
        see one all the same.
        """
        if not self._endpoint.closed:
            self._endpoint.reset()
            self._endpoint.carrier.flush()

    def abandon(self) -> None:
        """Close this end as a program does that has given up connecting: nothing is sent.

        A SYN-ACK that comes later is answered with RST, as anything is that belongs to no
        connection. If the connection is there already, this is ``aclose()`` for plain functions.

        Source: RFC 9293, 3.10.4, for SYN-SENT.
        """
        self._leave()

    def vanish(self) -> None:
        """Go without a word, as a machine does that loses its power.

        No segment goes out any more, no SYN either, and what comes in is ignored, so that the
        peer finds out by its timers, if at all. For you this end is closed.
        """
        if not self._endpoint.closed:
            self._endpoint.vanish()

    # --- Helpers -----------------------------------------------------------------------

    async def _wait(self, edge: int, *, passed: bool = False) -> None:
        watch = self._watch
        assert watch.home is not None
        await watch.home.wait(watch, edge, passed=passed)

    def _check_not_closed(self) -> None:
        if self._endpoint.closed:
            raise trio.ClosedResourceError("this side has closed the stream")

    def _check_can_send(self) -> None:
        self._check_not_closed()
        if self._endpoint.sending.fin_wanted:
            raise trio.ClosedResourceError("this side has finished sending (send_eof)")
        self._check_not_broken()

    def _check_not_broken(self) -> None:
        endpoint = self._endpoint
        if endpoint.phase is Phase.OVER:
            number = endpoint.error or errno.EPIPE
            error = OSError(number, os.strerror(number))
            raise trio.BrokenResourceError(
                f"the connection with {endpoint.remote_address} is broken: {error}"
            ) from error


def _checked_size(max_bytes: int) -> int:
    if not whole_number(max_bytes):
        raise TypeError(f"max_bytes takes an int, not {max_bytes!r}")
    if max_bytes < 1:
        raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
    return max_bytes
