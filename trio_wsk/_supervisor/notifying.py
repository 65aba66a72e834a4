"""What a supervisor tells the service manager that has started it: ``Type=notify``.

It is told that all workers serve, that they are replaced, that all ends, and who is the supervisor
after this one; each with a line for the operator. The supervisor says so where it happens, and
waits for nothing: a task of its own tells one thing after the other, and in between what has
changed.

Source: sd_notify(3).
"""

from __future__ import annotations

import math
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from trio_wsk._serving.notifying import period_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from trio_wsk.transports._service_manager import ServiceManager

__all__ = ["Notifying"]

_LAST: Final = 5.0
"""Seconds that a manager may take at the end, until it has room for what it is still to be told."""


@attrs.frozen
class _Message:
    lines: Sequence[str]
    descriptors: Sequence[int] = ()


@final
class Notifying:
    """Who tells the service manager; nothing, if there is none.

    Args:
      manager: The manager, if there is one.
      status: Returns the line for the operator.
      pulse: Asks all workers; returns whether all is well, and what is so lately, for the operator.
      begins: Whether the manager listens to us already, and not to a supervisor before us.
    """

    def __init__(
        self,
        manager: ServiceManager | None,
        status: Callable[[], str],
        pulse: Callable[[], Awaitable[tuple[bool, str]]],
        *,
        begins: bool,
    ) -> None:
        self._manager = manager
        self._status = status
        self._pulse = pulse
        self._lately: str | None = None
        self._told = ""
        self._ready = trio.Event()
        self._is_heard = begins and manager is not None
        send, receive = trio.open_memory_channel[_Message](math.inf)
        self._send, self._receive = send, receive

    def takes_over(self) -> None:
        """The manager listens to us from now on."""
        self._is_heard = self._manager is not None

    def ready(self) -> None:
        """All workers serve; from now on it is told how that goes."""
        self._ready.set()
        self._tell("READY=1")

    def reloading(self) -> None:
        """New workers are being started; `ready` ends that."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """All workers end, and nothing else will be told."""
        self._tell("STOPPING=1")
        self._is_heard = False

    async def succeeded_by(self, pid: int) -> None:
        """Another process is the supervisor from now on, and tells the rest.

        It need not be a child of the manager's: that is told as the unit's main process will do.
        """
        self._is_heard = False
        if self._manager is not None:
            await self._manager.tell(f"MAINPID={pid}")
        await trio.lowlevel.checkpoint()

    def keep(self, name: str, descriptors: Sequence[int]) -> None:
        """Have descriptors kept for whoever is started after us; they must be open until the end.

        Nobody looks whether something happens on them: that is no reason to forget them.
        """
        self._put("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptors=descriptors)

    def _tell(self, *lines: str) -> None:
        self._put(*lines, f"STATUS={self._line()}")

    def _put(self, *lines: str, descriptors: Sequence[int] = ()) -> None:
        if self._is_heard:
            self._send.send_nowait(_Message(lines, descriptors))

    def _line(self) -> str:
        lines = [*self._status().splitlines(), *filter(None, [self._lately])]
        self._told = "; ".join(lines)
        return self._told

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Tell the manager, for as long as the block lasts; leaving it, all that is left."""
        manager = self._manager
        if manager is None:
            yield
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run, manager)
            async with trio.open_nursery() as beating:
                beating.start_soon(self._beat, manager)
                yield
                beating.cancel_scope.cancel(reason="nothing more is to be told")
            self._send.close()
            nursery.cancel_scope.deadline = trio.current_time() + _LAST

    async def _run(self, manager: ServiceManager) -> None:
        """Tell one thing after the other."""
        async for message in self._receive:
            await manager.tell(*message.lines, descriptors=message.descriptors)

    async def _beat(self, manager: ServiceManager) -> None:
        """Tell again and again how it goes, and that all is well for as long as it is."""
        await self._ready.wait()
        while True:
            await trio.sleep(period_of(manager))
            if self._is_heard:
                is_well, self._lately = await self._pulse()
                self._tell_again(is_watched=is_well and manager.watchdog is not None)

    def _tell_again(self, *, is_watched: bool) -> None:
        if not self._is_heard:
            return  # it has ended meanwhile, or another supervisor speaks
        told = self._told
        lines = ["WATCHDOG=1"] if is_watched else []
        if self._line() != told:
            lines.append(f"STATUS={self._told}")
        if lines:
            self._put(*lines)
