"""The loops over a reader: its lines one after the other, or all that are there at once."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

import trio
from trio.lowlevel import current_task

from trio_wsk._connection import control
from trio_wsk._vocabulary.errors import ReadLimitError
from trio_wsk._vocabulary.more import More

if TYPE_CHECKING:
    from .portions import Ended
    from .reader import Reader

__all__ = ["NO_TURN", "Batches", "Lines"]

GivenT = TypeVar("GivenT")

NO_TURN: Final = -1
"""No count of turns, `_turns`."""


class Loop(Generic[GivenT]):
    """What the loops over a reader share: how they get a line.

    Trio's contract asks for a checkpoint in each iteration of a loop. Each line is a cancel point;
    where the loop's body has let other tasks run since the line before, and most do by sending
    an answer, nobody has to wait for the scheduler a second time.
    """

    __slots__ = ("_idle", "_portion", "_reader")

    def __init__(self, reader: Reader, portion: Ended, idle: float) -> None:
        self._reader = reader
        self._portion = portion
        self._idle = idle

    def __aiter__(self) -> Loop[GivenT]:
        """Return the loop itself."""
        return self

    async def __anext__(self) -> GivenT:
        """Wait for the next line, and give it. One coroutine, since it is kept while it waits."""
        reader = self._reader
        buffer = reader._buffer
        draining = reader._draining
        direct = reader._direct
        line: bytes | None = None
        if reader._is_reading:
            line = await self._waited_for()
        elif buffer.size:
            if draining is not None and draining.is_set():
                line = await self._waited_for()
            elif reader._turns != NO_TURN and reader._turns != _turns():
                await trio.lowlevel.checkpoint_if_cancelled()
                line = self._portion.take(buffer)
        elif direct is None or draining is None or reader._has_ended or reader._last is not None:
            line = await self._waited_for()
        else:  # the same in fewer steps, for where most lines come from
            reader._is_reading = True
            try:
                received = await control.receive_next(direct, self._idle, in_loop=True)
            finally:
                reader._is_reading = False
            if type(received) is bytes and not draining.is_set():
                line = self._portion.whole(received)
                if line is not None:
                    buffer.taken += len(received)
                    reader._ended = None
                    return self._given(line)  # noqa: ASYNC910 - received
            if reader._take_in(received) is not More.THERE:
                raise StopAsyncIteration
            line = self._portion.take(buffer)
        if line is None:
            line = await reader._read_all(self._portion)
        given = self._given(line)
        # Only a line that is there already can be given without a wait.
        reader._turns = _turns() if buffer.size else NO_TURN
        return given  # noqa: ASYNC910 - the body has, or what was awaited

    async def _waited_for(self) -> bytes | None:
        """Wait for the next line; None if it has only begun."""
        if await self._reader._wait(self._idle) is not More.THERE:
            raise StopAsyncIteration
        return self._portion.take(self._reader._buffer)

    @abstractmethod
    def _given(self, line: bytes) -> GivenT:
        """Make what the loop gives of the next line."""


@final
class Lines(Loop[bytes]):
    """The lines of a reader, one after the other."""

    __slots__ = ()

    def _given(self, line: bytes) -> bytes:
        return line


@final
class Batches(Loop["list[bytes]"]):
    """The lines of a reader, all that are there at once."""

    __slots__ = ()

    def _given(self, line: bytes) -> list[bytes]:
        lines = [line]
        buffer = self._reader._buffer
        take = self._portion.take
        try:
            while buffer.size and (further := take(buffer)) is not None:
                lines.append(further)
        except ReadLimitError:
            pass  # of the one after them, which raises it when it is first
        return lines


def _turns() -> int:
    """Return how many turns the current task has had: each time that it lets others run is one.

    Trio shows it nowhere in public. If it has another name one day this is `NO_TURN`, and each line
    lets others run by itself.
    """
    turns: int = getattr(current_task(), "_schedule_points", NO_TURN)
    return turns
