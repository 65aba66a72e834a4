"""In a worker: answers to what the supervisor asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from trio_wsk._configuration.operators import collector_of, control_of, opened
from trio_wsk.control._protocol import answered

from .messages import LAST, Message, answer_of

if TYPE_CHECKING:
    from trio_wsk._configuration.ready import Ready
    from trio_wsk._serving.server import Server
    from trio_wsk.control._protocol import Request

    from .channel import Channel

__all__ = ["Answering"]


@final
class Answering:
    """What a worker answers: the commands of a control socket, and what it has to show.

    Args:
      ready: What is served.
      server: The server.
      channel: Where the supervisor hears the answers.
    """

    def __init__(self, ready: Ready, server: Server, channel: Channel) -> None:
        self._control = control_of(ready)
        self._collector = collector_of(ready)
        self._channel = channel
        opened(self._control, self._collector, ready, server)

    async def answer(self, question: Message) -> None:
        """Answer a question; others may be answered meanwhile."""
        await self._say(question.number, await answered(self, question.body))

    async def say_last(self) -> None:  # noqa: ASYNC910 - the last of all
        """Say without being asked what has been counted up to the end."""
        if self._collector is not None:
            await self._say(LAST, self._samples())

    async def _say(  # noqa: ASYNC910 - there is one message at least
        self, number: int, body: bytes
    ) -> None:
        for message in answer_of(number, body):
            await self._channel.say(message)

    async def do(self, request: Request) -> object:
        """Do what was asked for.

        Raises:
          RefusedError: it can't be done.
        """
        if self._collector is not None and request.command == "samples":
            await trio.lowlevel.checkpoint()
            return self._samples().decode()
        if self._collector is not None and request.command == "unready":
            await trio.lowlevel.checkpoint()
            return self._collector.unready()
        return await self._control.do(request)

    def _samples(self) -> bytes:
        from trio_wsk.metrics import worker_samples  # noqa: PLC0415 - an extra

        return worker_samples()
