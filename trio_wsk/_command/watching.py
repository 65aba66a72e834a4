"""A live view of a running server, asked over its control socket again and again.

Each time it is asked anew, so a server that is gone, and comes back, needs no more than patience.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

import trio
from rich.live import Live

from trio_wsk._looking.history import History
from trio_wsk._looking.readings import readings_of, silent_of
from trio_wsk._vocabulary.errors import WskError
from trio_wsk.control import ask_control

from .drawing import Picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

__all__ = ["Watch"]

PATIENCE: Final = 15.0
"""Seconds that an answer may take: three times what a supervisor gives its workers."""

QUIT: Final = {b"q", b"Q"}
"""What ends the view beside Ctrl-C."""

REDRAW: Final = getattr(signal, "SIGWINCH", None)
"""What says that the terminal has another size."""


@final
class Watch:
    """Somebody watches a server.

    Args:
      path: The control socket.
      interval: Seconds between two questions.
      console: The terminal, or the file.
    """

    def __init__(self, path: str, interval: float, console: Console) -> None:
        self.problem: str | None = None
        """Why there was no answer the last time; None if there was one."""
        self._path = path
        self._interval = interval
        self._console = console
        self._history = History()

    async def once(self) -> None:
        """Ask twice, and print what has happened between: nothing if there was no answer."""
        await self._ask()
        if self.problem is None:
            await trio.sleep(self._interval)
            await self._ask()
        if self.problem is None:
            self._console.print(self._picture())

    async def live(self) -> None:
        """Show it until a key or a signal asks for the end."""
        with Live(console=self._console, screen=True, auto_refresh=False) as live, _keys_at_once():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_asking, live)
                nursery.start_soon(self._obey_signals, live, nursery.cancel_scope)
                if sys.stdin.isatty():
                    nursery.start_soon(_obey_keys, nursery.cancel_scope)

    async def _keep_asking(self, live: Live) -> None:
        while True:
            asked = trio.current_time()
            await self._ask()
            live.update(self._picture(), refresh=True)
            await trio.sleep_until(asked + self._interval)

    async def _obey_signals(self, live: Live, body: trio.CancelScope) -> None:
        numbers = {signal.SIGINT, signal.SIGTERM, *filter(None, [REDRAW])}
        with trio.open_signal_receiver(*numbers) as signals:
            async for number in signals:
                if number != REDRAW:
                    body.cancel(reason="a signal")
                live.update(self._picture(), refresh=True)

    def _picture(self) -> Picture:
        return Picture(self._history, self._path, self.problem)

    async def _ask(self) -> None:  # noqa: ASYNC910 - it is asked, or the time was up
        """Ask once; what stands in the way is no reason to end."""
        self.problem = f"no answer within {PATIENCE:g} s"
        with trio.move_on_after(PATIENCE):
            try:
                workers = await ask_control(self._path, "workers")
                readings, silent = readings_of(workers), silent_of(workers)
            except (WskError, ValueError, LookupError, AttributeError, TypeError) as error:
                self.problem = f"no answer: {error}"
            else:
                self._history.add(trio.current_time(), readings, silent)
                self.problem = None


async def _obey_keys(body: trio.CancelScope) -> None:
    """End the view when a key says so, or the terminal is gone."""
    keyboard = sys.stdin.fileno()
    while True:
        await trio.lowlevel.wait_readable(keyboard)
        typed = os.read(keyboard, 64)
        if not typed or typed in QUIT:
            body.cancel(reason="a key")


@contextmanager
def _keys_at_once() -> Iterator[None]:
    """Have each key heard when it is pressed, and not shown."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
