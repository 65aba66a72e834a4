"""The loops over a reader: its lines one after the other, or all that are there at once."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._vocabulary.errors import ReadLimitError

if TYPE_CHECKING:
    from .portions import Portion
    from .reader import Reader

__all__ = ["NO_TURN", "Batches", "Lines"]

NO_TURN: Final = -1
"""No count of turns, `_turns`."""


class Loop:
    """What the loops over a reader share: how they get a line.

    Trio's contract asks for a checkpoint in each iteration of a loop. Each line is a cancel point;
    where the loop's body has let other tasks run since the line before, and most do by sending
    an answer, nobody has to wait for the scheduler a second time.
    """

    __slots__ = ("_idle", "_portion", "_reader")

    def __init__(self, reader: Reader, portion: Portion, idle: float) -> None:
        self._reader = reader
        self._portion = portion
        self._idle = idle

    async def _next(self) -> bytes:
        reader = self._reader
        line: bytes | None = None
        turns = _turns()
        draining = reader._draining
        if (
            reader._is_reading
            or not reader._buffer.size
            or (draining is not None and draining.is_set())
        ):
            if not await reader.more(idle=self._idle):
                raise StopAsyncIteration
            line = self._portion.take(reader._buffer)
        elif reader._turns not in {NO_TURN, turns}:
            reader._turns = turns
            await trio.lowlevel.checkpoint_if_cancelled()
            line = self._portion.take(reader._buffer)
        if line is None:
            line = await reader._read_all(self._portion)
        reader._turns = _turns()
        return line  # noqa: ASYNC910 - the body has, or what was awaited


class Lines(Loop):
    """The lines of a reader, one after the other."""

    __slots__ = ()

    def __aiter__(self) -> Lines:
        """Return the loop itself."""
        return self

    __anext__ = Loop._next  # which spares a coroutine


class Batches(Loop):
    """The lines of a reader, all that are there at once."""

    __slots__ = ()

    def __aiter__(self) -> Batches:
        return self

    async def __anext__(self) -> list[bytes]:
        lines = [await self._next()]
        with suppress(ReadLimitError):  # of the one after them, which raises it when it is first
            while (line := self._portion.take(self._reader._buffer)) is not None:
                lines.append(line)
        return lines


def _turns() -> int:
    """Return how many turns the current task has had: each time that it lets others run is one.

    Trio shows it nowhere in public. If it has another name one day this is `NO_TURN`, and each line
    lets others run by itself.
    """
    turns: int = getattr(trio.lowlevel.current_task(), "_schedule_points", NO_TURN)
    return turns
