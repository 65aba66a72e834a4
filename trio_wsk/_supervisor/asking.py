"""Questions to a worker: many at once, each with a time for its answer.

A worker that hangs, or has ended, leaves questions open; nobody waits for longer than they want to.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, final

import trio

from .messages import LAST, Kind, Message

if TYPE_CHECKING:
    from .channel import Channel

__all__ = ["NoAnswerError", "Questions"]


class NoAnswerError(Exception):
    """A worker has not answered: why."""


@final
class Questions:
    """Those to one worker.

    Args:
      channel: Where they are asked; whoever hears there calls `heard`.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._last = _Question()
        self._open: dict[int, _Question] = {LAST: self._last}
        self._is_over = False

    async def ask(self, line: bytes, seconds: float) -> bytes:
        """Ask, and return the answer.

        Args:
          line: A request, as for the control socket.
          seconds: How long the answer may take.

        Raises:
          NoAnswerError: it has taken longer, or the worker has ended.

        Always a checkpoint. If cancelled, the worker does what it was asked for all the same.
        """
        question, number = _Question(), next(self._numbers)
        self._open[number] = question
        try:
            if not self._is_over:
                self._channel.tell(Message(Kind.QUESTION, line, number))
                with trio.move_on_after(seconds):
                    await question.over.wait()
        finally:
            del self._open[number]
        await trio.lowlevel.checkpoint()
        if question.is_answered:
            return bytes(question.answer)
        raise NoAnswerError(
            "has ended" if self._is_over else f"has not answered within {seconds:g} s"
        )

    @property
    def last(self) -> bytes | None:
        """What the worker has said at its end; None if it was not to say anything, or has not."""
        return bytes(self._last.answer) if self._last.is_answered else None

    def heard(self, message: Message) -> None:
        """The worker has answered something, or begun to: perhaps what nobody waits for now."""
        question = self._open.get(message.number)
        if question is not None:
            question.answer.extend(message.body)
            if message.kind is Kind.ANSWER:
                question.is_answered = True
                question.over.set()

    def close(self) -> None:
        """No answer comes any more."""
        self._is_over = True
        for question in self._open.values():
            question.over.set()


class _Question:
    """One that is open."""

    def __init__(self) -> None:
        self.answer: Final = bytearray()
        self.is_answered = False
        self.over: Final = trio.Event()
