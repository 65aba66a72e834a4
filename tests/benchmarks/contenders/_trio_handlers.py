"""The handlers of `trio_serve_tcp` and `wsk_serve`, and the sleeper of all that run on Trio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ._common import READ_SIZE, for_task, has_sleeper
from ._lag import sleep_for_ever

Handler = Callable[[trio.abc.Stream], Awaitable[None]]


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


async def answer_lines(stream: trio.abc.Stream) -> None:
    """Answer each line by itself until end of file: the loop that everybody writes once."""
    buffer = bytearray()
    try:
        while data := await stream.receive_some(READ_SIZE):
            buffer += data
            while (end := buffer.find(b"\n") + 1) > 0:
                line = bytes(buffer[:end])
                del buffer[:end]
                await stream.send_all(line)
    except trio.BrokenResourceError:
        pass


async def leave(_stream: trio.abc.Stream) -> None:
    """Return; whoever serves closes."""


HANDLERS: Final[dict[str, Handler]] = {
    "once": answer_once,
    "all": answer_all,
    "close": leave,
    "lines": answer_lines,
}


def handler() -> Handler:
    """Choose by the task."""
    return for_task(HANDLERS)


def start_sleeper(nursery: trio.Nursery) -> None:
    """Have a task tell how late it wakes, if the task is that."""
    if has_sleeper():
        nursery.start_soon(sleep_for_ever, trio.sleep)
