"""`Reader`: lines, and what else a protocol is made of, from a stream that knows octets only.

How an awaited call keeps Trio's contract: it first looks for a cancellation, then takes what was
asked for out of what has been received, if it is there; then it lets other tasks run, and
can't be cancelled any more. Else it receives, which is a checkpoint by itself. So a call that is
cancelled has taken nothing, and neither has one that raises: what has come is there for the next.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NoReturn, final

import trio

from trio_wsk._connection import control
from trio_wsk._connection.between import receive_in_time
from trio_wsk._connection.connection import Connection
from trio_wsk._vocabulary.arguments import checked_count, checked_seconds
from trio_wsk._vocabulary.errors import (
    EndOfStreamError,
    IncompleteReadError,
    InvalidParameterError,
    ReadLimitError,
    SocketBusyError,
)
from trio_wsk._vocabulary.more import More

from .buffer import Buffer
from .loops import NO_TURN, Batches, Lines
from .portions import Ended, Exactly, Line, Portion, Some, Until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

__all__ = ["Reader"]

MAX_OCTETS: Final = 65536
"""How long a line may be by default: as in asyncio, and eight times what HTTP servers allow."""

SOME_OCTETS: Final = 98304
"""How much `Reader.read_some` returns at most by default: as much as a connection receives."""


@final
class Reader:
    """Lines, and what else a protocol is made of, out of a stream of octets.

    Whatever is read comes whole. If it can't, an error says why: `EndOfStreamError` if the peer
    had finished before, `IncompleteReadError` if it has finished in the middle,
    `ReadLimitError` if it is longer than it may be. A read that raises, or is cancelled, has
    taken nothing.

    One task at a time reads. While there is a reader, nothing else receives from the stream:
    what the reader has received ahead is in `unread`.

    Args:
      stream: A `Connection`, a ``trio.SSLStream`` over one, or any receive stream of Trio's. The
        reader doesn't own it: closing it, and sending on it, are as they were.
      max_octets: How long a line may be, or what stands before a delimiter, unless the call says
        otherwise; without what ends it.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """

    __slots__ = (
        "_buffer",
        "_connection",
        "_direct",
        "_draining",
        "_ended",
        "_has_ended",
        "_is_reading",
        "_last",
        "_line",
        "_stream",
        "_turns",
    )

    def __init__(self, stream: trio.abc.ReceiveStream, *, max_octets: int = MAX_OCTETS) -> None:
        if not callable(getattr(stream, "receive_some", None)):
            raise InvalidParameterError(
                "a reader reads from a stream: Reader(connection), or whatever has receive_some(),"
                f" not {stream!r}"
            )
        self._stream = stream
        connection = _connection_below(stream)
        self._connection = connection
        self._direct = connection if connection is stream else None  # nothing is between
        self._draining = None if connection is None else connection.draining
        self._ended: More | None = None
        self._last: int | None = None  # how many octets had come in all when the server drained
        self._line = Line(checked_count("max_octets", max_octets, least=1))
        self._buffer = Buffer()
        self._is_reading = False
        self._has_ended = False
        self._turns = NO_TURN  # at which a loop was last given a line

    def __repr__(self) -> str:
        return f"<Reader of {self._stream!r}, {self._buffer.size} octets unread>"

    @property
    def unread(self) -> bytes:
        """What was received and not yet read, which stays there: a copy.

        Whoever goes on with the stream by other means, after an upgrade to another protocol,
        begins with it.
        """
        return self._buffer.show()

    # --- Reading -----------------------------------------------------------------------

    async def read_line(self, *, max_octets: int | None = None) -> bytes:
        r"""Read a line, which LF ends, or CR LF; it is returned without either.

        Take `read_until` (``b"\r\n"``) where a protocol knows CR LF alone. In SMTP, whoever takes
        a bare LF for the end of a line can be made to see a message in the middle of another one.

        Args:
          max_octets: How long it may be, without its end; by default what the reader was made
            with.

        Raises:
          EndOfStreamError: the peer had finished before. (Nobody's.)
          IncompleteReadError: the peer has finished in the middle of the line. (The peer's.)
          ReadLimitError: it is longer than it may be. (The peer's.)
          SocketBusyError: another task is reading. (Yours.)
          ConnectionBrokenError: or whatever else the stream raises.

        Always a checkpoint. If it is cancelled, or raises, nothing was taken.
        """
        return await self._read_all(self._line_of(max_octets))

    async def read_until(self, delimiter: bytes, *, max_octets: int | None = None) -> bytes:
        r"""Read what stands before a delimiter, and the delimiter, which is not returned.

        Args:
          delimiter: At least one octet, such as ``b"\r\n"`` or ``b"\0"``.
          max_octets: How much may stand before it; by default what the reader was made with.

        Raises, checkpoint, cancellation: as for `read_line`.
        """
        return await self._read_all(self._until(delimiter, max_octets))

    async def read_exactly(self, count: int) -> bytes:
        """Read so many octets.

        There is no limit but ``count``: one that the peer has named wants to be looked at first.

        Args:
          count: How many; 0 gives ``b""``, also at the end.

        Raises, checkpoint, cancellation: as for `read_line`, without the limit.
        """
        if checked_count("count", count, least=0):
            return await self._read_all(Exactly(count))
        await trio.lowlevel.checkpoint()
        return b""

    async def read_some(self, max_octets: int | None = None) -> bytes:
        """Read whatever is there, and wait if nothing is; ``b""`` when the peer has finished.

        This is ``receive_some`` of the stream, less what the reader has received ahead.

        Args:
          max_octets: At least 1; by default 98304.

        Raises, checkpoint, cancellation: as for `read_line`, without an error for the end, or for
        the limit.
        """
        most = SOME_OCTETS if max_octets is None else _checked_limit(max_octets)
        return await self._read(Some(most)) or b""

    # --- Waiting for the next ----------------------------------------------------------

    async def more(self, *, idle: float = math.inf) -> More:
        """Wait for the next request, and learn whether there will be one.

        ``while await reader.more(idle=60): ...`` is the loop of a handler that drains well, and
        reads each request by other calls. The wait ends when the peer has finished, when it has
        said nothing for ``idle`` seconds, and when the server drains; no answer is cut short, since
        nothing is covered but the waiting. What the reader holds already is a request that has
        begun.

        Whatever has come when a drain begins is still answered: each request of which the first
        octet has. From a connection that was never heard of, one is waited for for a second.

        That a server drains is known of connections, and of TLS over them.

        Args:
          idle: Seconds on Trio's clock; 0 looks, and does not wait.

        Returns:
          `More.THERE`, which is true, or else why there is none.

        Raises, checkpoint: as for `read_some`. If cancelled, nothing is lost.
        """
        return await self._wait(_checked_idle(idle))

    @property
    def ended(self) -> More | None:
        """Why there is no next request: what `more`, or a loop, has ended with; None before."""
        return self._ended

    def lines(
        self,
        delimiter: bytes | None = None,
        *,
        max_octets: int | None = None,
        idle: float = math.inf,
    ) -> AsyncIterator[bytes]:
        r"""Go through the lines as long as there are `more`: ``async for line in reader.lines()``.

        The loop ends when the peer has finished, when it has said nothing for ``idle`` seconds, and
        when the server drains: between two lines, as `more` does. `ended` says which.

        Args:
          delimiter: What ends a line: ``b"\r\n"``, say, and nothing else then; by default LF, or
            CR LF, as for `read_line`.
          max_octets: As for `read_line`.
          idle: Seconds on Trio's clock. They are for the waiting between two lines: a peer that
            stops in the middle of one is not waited for by this loop, but by the line.

        Raises, checkpoint, cancellation: each line as for `read_line`, without an error for the
        end.
        """
        return Lines(self, self._line_or_until(delimiter, max_octets), _checked_idle(idle))

    def batches(
        self,
        delimiter: bytes | None = None,
        *,
        max_octets: int | None = None,
        idle: float = math.inf,
    ) -> AsyncIterator[list[bytes]]:
        """Go through the lines as they come: each time all that are there, at least one.

        For clients that send many requests and then wait for the answers (pipelining): the answers
        to a batch go out in one ``send_all``. A batch is bounded by what is received at once.

        Args:
          delimiter: As for `lines`.
          max_octets: As for `lines`, for each line.
          idle: As for `lines`.

        Raises, checkpoint, cancellation: as for `lines`. What comes before a line that is too
        long, or is not finished, is given first.
        """
        return Batches(self, self._line_or_until(delimiter, max_octets), _checked_idle(idle))

    # --- How ---------------------------------------------------------------------------

    def _line_of(self, max_octets: int | None) -> Line:
        return self._line if max_octets is None else Line(_checked_limit(max_octets))

    def _line_or_until(self, delimiter: bytes | None, max_octets: int | None) -> Ended:
        if delimiter is None:
            return self._line_of(max_octets)
        return self._until(delimiter, max_octets)

    def _until(self, delimiter: bytes, max_octets: int | None) -> Until:
        given: object = delimiter  # by a caller without a type checker, perhaps
        if not isinstance(given, bytes) or not given:
            raise InvalidParameterError(
                rf'delimiter is what octets end with, such as b"\r\n", not {delimiter!r}'
            )
        limit = self._line.limit if max_octets is None else _checked_limit(max_octets)
        return Until(delimiter, limit)

    async def _read_all(self, portion: Portion) -> bytes:
        """Read all of something; that the peer has finished before is an error."""
        data = await self._read(portion)
        if data is None:
            raise EndOfStreamError(
                f"the peer has finished, and {portion} was to be read; go through lines() for a"
                " loop that ends then",
                connection=self._connection,
            )
        return data

    async def _read(self, portion: Portion) -> bytes | None:
        """Read something; None if the peer had finished before."""
        if self._is_reading:
            await trio.lowlevel.checkpoint()
            raise _busy()
        self._is_reading = True
        try:
            buffer = self._buffer
            data: bytes | None = None
            if buffer.size or self._has_ended:
                await trio.lowlevel.checkpoint_if_cancelled()
                data = portion.take(buffer)
                if data is not None or self._has_ended:
                    await trio.lowlevel.cancel_shielded_checkpoint()
            while data is None and not self._has_ended:
                if buffer.size:
                    buffer.settle()
                received = await self._stream.receive_some()
                if received:
                    buffer.add(bytes(received))  # which copies a bytearray only
                    data = portion.take(buffer)
                else:
                    self._has_ended = True
        except ReadLimitError:
            # Who goes on after each error must not stop the run.
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            self._is_reading = False
        if data is None and buffer.size:
            self._raise_incomplete(portion)
        return data  # noqa: ASYNC910 - as the module says

    async def _wait(self, idle: float) -> More:
        """Wait for the next request, unless it is there already; see `more`."""
        if self._is_reading:
            await trio.lowlevel.checkpoint()
            raise _busy()
        is_known = self._has_ended or self._last is not None
        if is_known or (self._buffer.size and not self._is_draining):
            await trio.lowlevel.checkpoint()
            return self._there_or(More.FINISHED if self._has_ended else More.DRAINING)
        self._is_reading = True
        try:
            received = await self._receive_next(idle)
        finally:
            self._is_reading = False
        return self._take_in(received)

    def _take_in(self, received: bytes | bytearray | More) -> More:
        """Take note of what has come, or why nothing has; say whether there is a next request."""
        why = More.DRAINING
        if isinstance(received, More):
            why = received
            self._has_ended = why is More.FINISHED
        else:
            self._buffer.add(bytes(received))
        if self._is_draining:
            self._last = self._buffer.taken + self._buffer.size
        return self._there_or(why)

    def _there_or(self, why: More) -> More:
        """Say that there is a next request, or else why there is none."""
        buffer = self._buffer
        if buffer.size and (self._last is None or buffer.taken < self._last):
            why = More.THERE
        self._ended = None if why else why
        return why

    @property
    def _is_draining(self) -> bool:
        return self._draining is not None and self._draining.is_set()

    def _receive_next(self, idle: float) -> Awaitable[bytes | bytearray | More]:
        """Receive what comes next, if it does in time, and not while the server drains."""
        connection, stream, buffer = self._connection, self._stream, self._buffer
        if self._direct is not None:
            return control.receive_next(self._direct, idle)
        if connection is None:
            return receive_in_time(stream.receive_some, idle)
        is_heard = bool(buffer.size or buffer.taken)
        if not is_heard and isinstance(stream, trio.SSLStream):
            return self._receive_after_handshake(stream, connection, idle)
        between = control.between(connection)
        return between.receive(connection, stream.receive_some, idle, is_heard=is_heard)

    async def _receive_after_handshake(
        self, stream: trio.SSLStream[trio.abc.Stream], connection: Connection, idle: float
    ) -> bytes | bytearray | More:
        """Receive the first request over TLS; a handshake that is cut off breaks the stream."""
        await stream.do_handshake()
        between = control.between(connection)
        return await between.receive(connection, stream.receive_some, idle, is_heard=False)

    def _raise_incomplete(self, portion: Portion) -> NoReturn:
        raise IncompleteReadError(
            f"the peer has finished in the middle of {portion}, after {self._buffer.size} octets",
            partial=self._buffer.show(),
            connection=self._connection,
        )


def _busy() -> SocketBusyError:
    return SocketBusyError(
        "a read while another task is reading; let one task do it, or share a trio.Lock"
    )


def _checked_idle(idle: float) -> float:
    return checked_seconds("idle", idle, endless="as long as it takes")


def _checked_limit(max_octets: int) -> int:
    return checked_count("max_octets", max_octets, least=1)


def _connection_below(stream: object) -> Connection | None:
    """Return the connection that a stream is, or is over; None if it is another one's."""
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream if isinstance(stream, Connection) else None
