"""In a worker: answers to what the supervisor asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_wsk.control._protocol import answered

from .messages import Message, answer_of

if TYPE_CHECKING:
    from trio_wsk.control._protocol import Commands

    from .channel import Channel

__all__ = ["answer_question"]


async def answer_question(commands: Commands, channel: Channel, question: Message) -> None:
    """Answer one; others may be answered meanwhile."""
    line = await answered(commands, question.body)
    for message in answer_of(question.number, line):
        await channel.say(message)
