"""The awaited side of a connection: a half-closeable Trio stream.

How an awaited call keeps Trio's contract: it first looks for a cancellation (a cancel
point that costs almost nothing), then does the I/O, and then lets other tasks run if it
did not have to wait. A cancelled call has therefore taken no byte.
"""

from __future__ import annotations

from threading import get_ident
from typing import Final

import trio

from trio_wsk._engine.callers import check_caller, check_ending_caller
from trio_wsk._engine.readiness import READ, WRITE
from trio_wsk._engine.traps import let_others_run
from trio_wsk._vocabulary.arguments import whole_number
from trio_wsk._vocabulary.end_reason import EndReason
from trio_wsk._vocabulary.errors import (
    ConnectionBrokenError,
    InvalidParameterError,
    SocketBusyError,
    SocketClosedError,
)

from .between import Interrupted
from .events import EventSide
from .farewell import FINISHED
from .state import ACTIVE, FIN_SENT, HALFWAY, IDLE, INTERRUPTED, OVER_IDLE, RESTED, WAITING
from .wire import RECEIVE_SIZE

Octets = bytes | bytearray | memoryview

__all__ = ["Stream", "octets_of"]

STOPPED: Final = INTERRUPTED | OVER_IDLE
"""Among the marks: whoever would wait to receive does not."""


class Stream(EventSide):
    """A connection as what a task awaits."""

    __slots__ = ()

    # --- Receiving ---------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive up to ``max_bytes`` octets; ``b""`` after the peer's FIN.

        Args:
          max_bytes: At least 1; by default 98304.

        Raises:
          ConnectionBrokenError: the peer reset the connection, or the network did.
          SocketClosedError: this side closed it, before or meanwhile.
          SocketBusyError: another task is receiving, or waits for `socket` itself to be readable.

        Always a checkpoint. If cancelled, nothing was received. What an event callback
        has refused comes first.
        """
        size = RECEIVE_SIZE if max_bytes is None else _checked_size(max_bytes)
        if get_ident() != self._block.home.thread:
            check_caller(self._block.home, "connection.receive_some")
        if self._receiving:
            await trio.lowlevel.checkpoint()
            raise _busy("receive_some")
        self._receiving = True
        try:
            data = None
            watch = self._watch
            # If nothing is known to be there, waiting comes first, which is a cancel point, too.
            if watch is None or not watch.empty or self._rare is not None:
                await trio.lowlevel.checkpoint_if_cancelled()
                data = self._receive_now(size)
                if data is not None:
                    await let_others_run()
            while data is None:
                if self._marks & STOPPED:
                    self._check_not_interrupted()
                    await trio.lowlevel.checkpoint()
                    data = b""
                else:
                    await self._wait(READ)
                    data = self._receive_now(size)
        except (ConnectionBrokenError, SocketClosedError):
            # Who goes on after each error must not stop the run.
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            self._receiving = False
            if self._enabled:
                self._task_received()
        return data  # noqa: ASYNC910 - received and let others run, or waited

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Receive into ``buffer``, as much as is there and fits.

        Returns:
          How many octets; 0 after the peer's FIN.

        Raises, checkpoint, cancellation: as for `receive_some`; a `TypeError` if ``buffer`` can't
        be written to.
        """
        try:
            view = memoryview(buffer).cast("B")
        except TypeError:
            raise _not_writable(buffer) from None
        with view:  # a traceback that outlives this call does not hold the buffer
            if view.readonly:
                raise _not_writable(buffer)
            if not view.nbytes:
                raise InvalidParameterError(
                    f"receive_into({buffer!r}): a buffer without room; write bytearray(65536)"
                )
            return await self._receive_into(view)

    async def _receive_into(self, view: memoryview) -> int:
        # As in `receive_some`, and not in one place with it: that would be one coroutine more in
        # each connection that waits to receive.
        if get_ident() != self._block.home.thread:
            check_caller(self._block.home, "connection.receive_into")
        if self._receiving:
            await trio.lowlevel.checkpoint()
            raise _busy("receive_into")
        self._receiving = True
        try:
            count = None
            watch = self._watch
            if watch is None or not watch.empty or self._rare is not None:
                await trio.lowlevel.checkpoint_if_cancelled()
                count = self._receive_into_now(view)
                if count is not None:
                    await let_others_run()
            while count is None:
                if self._marks & STOPPED:
                    self._check_not_interrupted()
                    await trio.lowlevel.checkpoint()
                    count = 0
                else:
                    await self._wait(READ)
                    count = self._receive_into_now(view)
        except (ConnectionBrokenError, SocketClosedError):
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            self._receiving = False
            if self._enabled:
                self._task_received()
        return count  # noqa: ASYNC910 - as in `receive_some`

    def _check_not_interrupted(self) -> None:
        """Nothing is here, and nothing more is waited for: say so, if an end of file would not do.

        Who waits for a next request below a `trio.SSLStream` is left as by a cancellation: that
        takes an end of file for an attack.
        """
        if self._marks & INTERRUPTED:
            raise Interrupted

    # --- Sending -----------------------------------------------------------------------

    async def send_all(self, data: Octets) -> None:
        """Send all of ``data``, after whatever was queued before it.

        Returns when the kernel has taken the last octet, which says nothing about the
        peer (WskSend completes later than that).

        Raises:
          ConnectionBrokenError: the peer or the network reset the connection.
          SocketClosedError: this side closed it, or has sent FIN.
          SocketBusyError: another task is sending, or waits for `socket` itself to be writable.

        Always a checkpoint. If cancelled, any part of ``data`` may have been sent: the
        only thing to do with the connection then is to close it. If a part was, ending it in any
        way with nothing sent since resets it, so that the peer can't take the part for all of it.
        So does closing it while this is sending.
        """
        if get_ident() != self._block.home.thread:
            check_caller(self._block.home, "connection.send_all")
        if self._sending:
            await trio.lowlevel.checkpoint()
            raise _busy("send_all")
        view = None
        if type(data) is not bytes:
            data = view = octets_of(data)
        self._sending = WAITING
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._channel is None or self._rare is not None or self._marks & FIN_SENT:
                self._open_for_sending()  # or why not
                if self._unsent:
                    await self._wait_turn()
            self._sending = ACTIVE
            sent = self._send_now(data)
            if sent == len(data):
                await let_others_run()
            else:
                with memoryview(data) as octets:
                    await self._send_rest(octets, sent)
            self._marks |= RESTED
        except (ConnectionBrokenError, SocketClosedError):
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            if view is not None:
                view.release()
            self._sending = IDLE
            if self._rare is not None:
                self._task_sent()

    async def _send_rest(self, view: memoryview, sent: int) -> None:  # noqa: ASYNC910 - one of the two
        # A short send is followed by another try: only a refused one makes the kernel
        # promise an edge.
        blocked = waited = False
        try:
            while sent < view.nbytes:
                if blocked:
                    if sent or self._is_halfway:
                        self._sending = HALFWAY
                    await self._wait(WRITE)
                    waited = True
                with view[sent:] as rest:
                    taken = self._send_now(rest)
                blocked = taken == 0
                sent += taken
        except BaseException:
            if sent or self._is_halfway:
                self._rare_state().cut_at = self._octets_out
                self._give_up()
            raise
        finally:
            self._sending = ACTIVE
        if not waited:
            await let_others_run()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until ``send_all`` might go through without waiting.

        Raises, checkpoint: as for `send_all`. Cancelling it changes nothing.
        """
        check_caller(self._block.home, "connection.wait_send_all_might_not_block")
        if self._sending:
            await trio.lowlevel.checkpoint()
            raise _busy("wait_send_all_might_not_block")
        self._sending = WAITING
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._open_for_sending()
            if self._unsent:
                await self._wait_sent()
                self._open_for_sending()  # it may have ended meanwhile
            self._sending = ACTIVE
            await self._wait(WRITE, passed=True)
            self._open_for_sending()
        except (ConnectionBrokenError, SocketClosedError):
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            self._sending = IDLE
            if self._rare is not None:
                self._task_sent()

    async def send_eof(self) -> None:
        """Send FIN after everything that was sent before; receiving goes on.

        Does nothing if it has been sent already. A connection that an accept event has taken is
        then bounded as after `disconnect`; another one is yours to close.

        Raises:
          ConnectionBrokenError: the peer or the network reset the connection.
          SocketClosedError: this side closed it; or a `send_all` was cut short with nothing sent
            since, for which the connection is reset now.
          SocketBusyError: another task is sending.

        Always a checkpoint. If cancelled, FIN has not been sent.
        """
        check_caller(self._block.home, "connection.send_eof")
        if self._sending:
            await trio.lowlevel.checkpoint()
            raise _busy("send_eof")
        self._sending = WAITING
        try:
            await trio.lowlevel.checkpoint()
            self._open_channel()
            if self._unsent:
                await self._wait_sent()
                self._open_channel()
            if not self._fin_sent and self._is_cut_short:
                self._abort(EndReason.ABORTED)
                raise SocketClosedError(
                    f"a send_all to {self.remote_address} was cut short, and FIN would say that"
                    " the part was all: the connection has been reset"
                )
            while not self._shut_down_sending():
                await self._wait(WRITE)
            self._has_half_closed()
        finally:
            self._sending = IDLE
            if self._rare is not None:
                self._task_sent()

    # --- Ending ------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the connection, after what was queued has been sent.

        The peer sees FIN; it sees a reset if input was left unread (RFC 1122 4.2.2.13:
        it must learn that data was lost), but not from a handler of `serve`, where what it
        still sends is thrown away, after this has returned. It is reset, too, if it has not
        taken what was queued, for 30 seconds, or if another task's `send_all` is under way and
        has sent a part. Idempotent; other tasks' calls on this connection raise
        `SocketClosedError`.

        That ends it for everybody who has a copy of its descriptor, a child process or another
        socket. ``connection.socket.detach()`` closes it here alone.

        Always a checkpoint. If cancelled, the connection is closed all the same; it is
        reset if something queued was not sent.
        """
        check_ending_caller(self._block.home, "connection.aclose")
        try:
            if self._channel is not None:
                await self._wait_to_part()
        finally:
            self._part()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close the connection at once, without waiting: `aclose` for plain functions.

        The peer sees what it sees after `aclose`, but the connection is reset if something was
        not sent to its end, so that the peer can't take part of it for all of it: queued data, or
        that of a `send_all` that is under way, or was cut short if nothing was sent since.
        Idempotent.
        """
        check_ending_caller(self._block.home, "connection.close")
        self._part()

    def _part(self) -> None:
        """Close without waiting; a peer that has not finished is let do so in nobody's time."""
        farewells = self._block.farewells
        channel = self._channel
        if farewells is None or self._is_cut_short or self._peer_ended or self._block.ended:
            self._close()
        elif channel is not None:
            # What a task has left unread is thrown away, too: it must not turn FIN into a reset.
            # Nor need it be decrypted for that.
            discarded = self._discard_now(self._request.lowest(channel), farewells)
            if discarded[1] != FINISHED and self._finish_sending():
                watch, self._watch = self._watch, None  # it goes with the channel
                if watch is not None:
                    watch.release()
                self._let_go(EndReason.CLOSED)
                private = self._request.private_channel(channel)
                farewells.part(private, self._request, watch, self._block.readiness, discarded)
            else:
                self._close()

    def _finish_sending(self) -> bool:
        try:
            return self._shut_down_sending()
        except (ConnectionBrokenError, SocketClosedError):
            return False


def _checked_size(max_bytes: int) -> int:
    if not whole_number(max_bytes):  # a TypeError is what Trio's streams raise
        raise TypeError(f"max_bytes takes an int, not {max_bytes!r}")
    if max_bytes < 1:
        raise InvalidParameterError(f"max_bytes must be at least 1, not {max_bytes}")
    return max_bytes


def _not_writable(buffer: object) -> TypeError:
    return TypeError(
        f"receive_into takes a buffer to write to, not {buffer!r}; write bytearray(65536)"
    )


def octets_of(data: Octets) -> memoryview:
    """Return a view whose len() counts octets; release it on every path.

    A traceback that outlives the call would else hold the caller's buffer: a ``bytearray`` that is
    looked at can't be emptied.
    """
    try:
        return memoryview(data).cast("B")
    except TypeError:  # Python's word for it, and Trio's
        given: object = data
        right = "; write data.encode()" if isinstance(given, str) else ""
        raise TypeError(
            f"data to send is octets: bytes, bytearray or a memoryview, not {data!r}{right}"
        ) from None


def _busy(call: str) -> SocketBusyError:
    direction = "receiving from" if call.startswith("receive") else "sending to"
    return SocketBusyError(
        f"{call}() while another task is {direction} this connection; let one task do it,"
        " or share a trio.Lock"
    )
