"""One connection's channel, and what is known of it: what both sides of a connection share.

Nothing here awaits, and nothing calls user code.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._engine.choice import task_readiness
from trio_wsk._engine.readiness import READ
from trio_wsk._vocabulary.errors import ConnectionBrokenError, SocketClosedError
from trio_wsk._vocabulary.status import status_of

from .farewell import FINISHED
from .state import FIN_RECEIVED, FIN_SENT, FLOWING, HALFWAY, INTERRUPTED, LOST, OVER_IDLE, RareState

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from trio_wsk._engine.readiness import Readiness, Sink, Watch
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.transports._contract import Channel, TransportRequest

    from .block import Block
    from .carried import Carried
    from .farewell import Farewells
    from .state import Owner

    Octets = bytes | bytearray | memoryview

__all__ = ["RECEIVE_SIZE", "Wire"]

RECEIVE_SIZE: Final = 98304
"""How much is asked for at once, in octets. More than the 64 KiB that so many send at a time,
because only a read that got less than it asked for may say that nothing is left. Not much more:
from 128 KiB on the allocator maps and unmaps memory for each call."""


class Wire(trio.abc.HalfCloseableStream):
    """The channel of one connection, and what is known of it."""

    __slots__ = (
        "_block",
        "_channel",
        "_marks",
        "_octets_in",
        "_octets_out",
        "_opened",
        "_owner",
        "_rare",
        "_receiving",
        "_request",
        "_sending",
        "_watch",
    )

    # Set in one place, `Connection.__init__`: calls of further constructors add up.
    _channel: Channel | None
    _request: TransportRequest
    _block: Block
    _watch: Watch | None
    _rare: RareState | None
    _owner: Owner | None
    _marks: int
    _receiving: bool
    _sending: int
    _octets_in: int
    _octets_out: int
    _opened: float

    @property
    def remote_address(self) -> Address:
        """The peer, as accept gave it: right even when the peer has gone.

        When a `~trio_wsk.inspectors.ProxyProtocol` has read whom a proxy speaks for, that one.
        """
        carried = self._carries
        if carried is not None and carried.recovered is not None:
            return carried.recovered.remote_address
        return self._request.remote_address

    @property
    def _carries(self) -> Carried | None:
        """What its request has carried, if anything."""
        carried = self._block.carried.get(self._request.serial_number)
        if carried is None and self._rare is not None:
            return self._rare.carried
        return carried

    @property
    def closed(self) -> bool:
        """Whether this side has closed the connection."""
        return self._channel is None

    # --- Receiving and sending ---------------------------------------------------------

    def _receive_now(self, size: int, *, quietly: bool = False) -> bytes | None:
        """Receive what is there; None if nothing is. What a callback has refused comes first.

        Quietly, that the connection is broken is only noted, and nothing is there: for the pump,
        which tells of it. An error that nobody is to see would cost as much as half a connection.
        """
        rare = self._rare
        if rare is not None and rare.held:
            return self._take_held(rare, size)
        watch = self._watch
        if watch is not None:
            if watch.empty:
                return None
            watch.news = False
        if self._channel is None:
            raise self._closed_here()
        try:
            data = self._channel.recv(size)
        except BlockingIOError:
            return None
        except OSError as error:
            if quietly and error.errno not in _CLOSED_ELSEWHERE:
                self._rare_state().broken = error.with_traceback(None)
                return None
            raise self._translated(error) from error
        if not data:
            self._end_of_input()
            return data
        count = len(data)
        self._octets_in += count
        if watch is not None and count < size:
            watch.read_short()
        return data

    def _receive_into_now(self, view: memoryview) -> int | None:
        """Receive what is there into the buffer; None if nothing is."""
        rare = self._rare
        if rare is not None and rare.held:
            data = self._take_held(rare, view.nbytes)
            view[: len(data)] = data
            return len(data)
        watch = self._watch
        if watch is not None:
            if watch.empty:
                return None
            watch.news = False
        channel = self._open_channel()
        try:
            count = channel.recv_into(view)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._translated(error) from error
        if not count:
            self._end_of_input()
            return count
        self._octets_in += count
        if watch is not None and count < view.nbytes:
            watch.read_short()
        return count

    def _look_ahead(self) -> None:
        """Have what is there now held for who receives next."""
        self._look_twice()
        data = self._receive_now(RECEIVE_SIZE)
        if data:
            self._rare_state().held = data

    def _look_twice(self) -> None:
        """Have the next receive look, whatever is known: an edge may be on its way."""
        if self._watch is not None:
            self._watch.empty = False

    def _interrupt(self) -> None:
        """End the receive of who waits for a next request."""
        self._marks |= INTERRUPTED
        if self._watch is not None:
            self._watch.look_again()

    def _end_input(self) -> None:
        """Have whoever waits to receive hear of an end, and whoever does from now on."""
        self._marks |= OVER_IDLE
        if self._watch is not None:
            self._watch.empty = False  # one more look
        if self._block.between.is_waiting(self):
            self._interrupt()
        elif self._watch is not None:
            self._watch.look_again()
        rare = self._rare
        if rare is not None and rare.socket is not None and self._request.tls is None:
            with suppress(OSError):  # its owner has closed it, or the peer is gone
                rare.socket.shutdown(socket.SHUT_RD)

    def _take_held(self, rare: RareState, size: int) -> bytes:
        data, rare.held = rare.held[:size], rare.held[size:]
        rare.flow = FLOWING
        return data

    def _end_of_input(self) -> None:
        """The kernel has nothing more: after FIN, or after an error that it tells only once.

        EPIPE is what the first send fails with when the peer has reset after its FIN (Linux,
        tcp_reset), or a Unix peer has closed: then nothing is missing.
        """
        broken = self._broken
        is_whole = self._marks & FIN_RECEIVED or broken is None or broken.errno == errno.EPIPE
        if not is_whole:
            assert broken is not None
            raise self._translated(broken)
        self._marks |= FIN_RECEIVED

    def _peek_now(self) -> bytes | None:
        """Look at the next octet without taking it; None if there is none, b"" after FIN."""
        channel = self._open_channel()
        try:
            return channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._translated(error) from error

    def _discard_now(self, channel: Channel, farewells: Farewells) -> tuple[int, int]:
        """Throw away what is there; return how much and what is next, as `Farewells.discard` does.

        Of a connection that turns out to be broken, nothing and `FINISHED`.
        """
        try:
            discarded = farewells.discard(channel)
        except OSError as error:
            self._note_broken(error)
            return 0, FINISHED
        if discarded[1] == FINISHED:
            self._marks |= FIN_RECEIVED
        return discarded

    def _send_now(self, data: Octets, flags: int = 0) -> int:
        """Have the kernel take what it can; 0 if it can't take anything now."""
        channel = self._channel
        if channel is None or self._rare is not None or self._marks & FIN_SENT:
            channel = self._open_for_sending()  # or why not
            broken = self._broken
            if broken is not None:
                raise self._translated(broken)
        try:
            sent = channel.send(data, flags)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._translated(error) from error
        self._octets_out += sent
        return sent

    def _shut_down_sending(self) -> bool:
        """Send FIN, if it was not sent; False if something before it has no room now (TLS)."""
        if not self._fin_sent:
            channel = self._open_channel()
            try:
                channel.shutdown(socket.SHUT_WR)
            except BlockingIOError:
                return False
            except OSError as error:
                raise self._translated(error) from error
            self._marks |= FIN_SENT
            if self._rare is not None and self._rare.socket is not None:
                self._share_fin(self._rare.socket)
        return True

    def _says_good_bye(self, channel: Channel) -> bool:
        """Say TLS's good-bye; return whether it has room, or nobody would hear it."""
        try:
            return self._request.say_good_bye(channel)
        except OSError as error:
            self._note_broken(error)
            return True

    def _share_fin(self, public: trio.socket.SocketType) -> None:
        """Have the public socket know of FIN that was sent before there was one."""
        if self._marks & FIN_SENT:
            try:
                public.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the peer has finished, too (ENOTCONN)

    # --- What is known -----------------------------------------------------------------

    def _rare_state(self) -> RareState:
        """Return the rare state, made when it is first needed."""
        if self._rare is None:
            self._rare = RareState()
        return self._rare

    @property
    def _broken(self) -> OSError | None:
        return None if self._rare is None else self._rare.broken

    @property
    def _is_halfway(self) -> bool:
        """Whether some of what `_send_now` has sent nothing of may have left all the same (TLS)."""
        channel = self._channel
        return channel is not None and self._request.is_halfway(channel)

    @property
    def _has_part(self) -> bool:
        """Whether a part has come of what can only be received whole (TLS)."""
        channel = self._channel
        return channel is not None and self._request.has_part(channel)

    def _give_up(self) -> None:
        """What `_send_now` was given last is not gone on with."""
        if self._channel is not None:
            self._request.give_up(self._channel)

    @property
    def _is_cut_short(self) -> bool:
        """Whether something was not sent to its end, and nothing else since."""
        if self._sending == HALFWAY:
            return True
        rare = self._rare
        return rare is not None and (bool(self._unsent) or rare.cut_at == self._octets_out)

    @property
    def _fin_sent(self) -> bool:
        """Whether we have sent FIN, here or through the public socket."""
        public = None if self._rare is None else self._rare.socket
        if public is not None and public.did_shutdown_SHUT_WR:
            self._marks |= FIN_SENT
        return bool(self._marks & FIN_SENT)

    @property
    def _unsent(self) -> int:
        """How many octets are queued for sending."""
        rare = self._rare
        return 0 if rare is None or rare.queue is None else rare.queue.octets

    @property
    def _peer_ended(self) -> bool:
        """Whether the peer is known to have finished, or to be gone."""
        return bool(self._marks & FIN_RECEIVED) or self._broken is not None

    def _watched(self) -> Watch:
        """The watch of this channel, made when somebody first has to wait."""
        if self._watch is None:
            self._watch = self._request.watch(self._open_channel())
            self._watch.in_doubt = not self._request.short_read_is_all
        return self._watch

    def _wait(self, edge: int, *, passed: bool = False) -> Awaitable[None]:
        """Have the current task woken when there is something to try; see `Readiness.wait`."""
        watch = self._watch or self._watched()
        if watch.interest & edge and not passed:
            return watch.park(edge)  # as nearly always: it is told of this edge already
        home = watch.home or task_readiness()
        try:
            return home.wait(watch, edge, passed=passed)
        except OSError as error:  # no room for one more in epoll (ENOSPC, ENOMEM)
            raise self._translated(error) from error

    def _arm(self, readiness: Readiness, watch: Watch, edges: int) -> None:
        """Be told of these edges through a watch."""
        try:
            readiness.arm(watch, edges)
        except OSError as error:
            raise self._translated(error) from error

    def _be_told(self, readiness: Readiness, fd: int, sink: Sink) -> None:
        """Have the sink told of what comes, without a watch."""
        try:
            readiness.tell(fd, READ, sink)
        except OSError as error:
            raise self._translated(error) from error

    def _has_broken(self) -> None:
        """Take note: the connection has just turned out to be broken."""

    # --- Errors ------------------------------------------------------------------------

    def _open_channel(self) -> Channel:
        if self._channel is None:
            raise self._closed_here()
        return self._channel

    def _open_for_sending(self) -> Channel:
        if self._fin_sent:
            raise SocketClosedError(
                f"this side has finished sending to {self.remote_address} (send_eof or disconnect)"
            )
        return self._open_channel()

    def _closed_here(self) -> SocketClosedError | ConnectionBrokenError:
        if self._marks & LOST:
            broken = self._broken
            assert broken is not None
            return self._translated(broken)
        return SocketClosedError(f"this side has closed the connection with {self.remote_address}")

    def _closed_elsewhere(self) -> SocketClosedError:
        return SocketClosedError(
            f"the socket of the connection with {self.remote_address} is closed"
        )

    def _note_broken(self, error: OSError) -> None:
        """Remember that it is broken, and why first."""
        rare = self._rare_state()
        if rare.broken is None:
            rare.broken = OSError(*error.args)  # without its traceback
            self._has_broken()

    def _translated(self, error: OSError) -> SocketClosedError | ConnectionBrokenError:
        """Say an error of the channel in our words, and remember that it is broken."""
        if error.errno in _CLOSED_ELSEWHERE:
            return self._closed_elsewhere()
        self._note_broken(error)
        broken = ConnectionBrokenError(
            f"the connection with {self.remote_address} is broken: {error}",
            status=status_of(error),
            connection=self,
        )
        broken.__cause__ = OSError(*error.args)
        return broken


_CLOSED_ELSEWHERE = frozenset({errno.EBADF, errno.ENOTSOCK})
"""The descriptor was closed under us, and not by its public socket, which would have told us."""
