"""The handlers of `trio_serve_tcp` and `wsk_serve`: the same code for both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from ._common import READ_SIZE, answers_once


async def answer_once(stream: trio.abc.Stream) -> None:
    """Answer one read and return; whoever serves closes."""
    try:
        data = await stream.receive_some(READ_SIZE)
        await stream.send_all(data)
    except trio.BrokenResourceError:  # would end all of serve_tcp
        pass


async def answer_all(stream: trio.abc.Stream) -> None:
    """Answer every read until end of file."""
    try:
        while data := await stream.receive_some(READ_SIZE):
            await stream.send_all(data)
    except trio.BrokenResourceError:
        pass


def handler() -> Callable[[trio.abc.Stream], Awaitable[None]]:
    """Choose by the mode on the command line."""
    return answer_once if answers_once() else answer_all
