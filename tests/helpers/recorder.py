"""Callbacks of a connection that keep what they are called with."""

from __future__ import annotations

from collections import deque
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.support import PATIENCE
from trio_wsk import Connection, ConnectionDispatch
from trio_wsk._vocabulary import records

LARGE = bytes(range(256)) * (1 << 16)
"""16 MiB: more than the kernel's buffers hold on both sides together."""


class Recorder:
    """Callbacks that keep what they are called with, and answer what they are told to."""

    def __init__(self, *answers: Any, disconnect: bool = True) -> None:
        self.calls: list[object] = []
        """Data as it came, and how the connection ended."""
        self.answers = deque(answers)
        """What the next indications are answered with: a value, or a function to ask."""
        self.backlogs: list[int] = []
        self._changed = trio.Event()
        self.dispatch = ConnectionDispatch(
            receive=self._receive,
            disconnect=self._disconnect if disconnect else None,
            send_backlog=self._send_backlog,
        )

    def _note(self, call: object) -> None:
        self.calls.append(call)
        self._changed.set()

    def _receive(self, connection: Connection, data: bytes) -> Any:
        self._note(data)
        answer = self.answers.popleft() if self.answers else None
        return answer(connection, data) if callable(answer) else answer

    def _disconnect(self, connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - WSK's
        self._note(abortive)

    def _send_backlog(self, connection: Connection, ideal: int) -> None:
        self.backlogs.append(ideal)

    async def called(self, *calls: object) -> None:
        """Wait until the callbacks have been called like this; and no more than this."""
        with trio.fail_after(PATIENCE):
            while len(self.calls) < len(calls):
                await self._changed.wait()
                self._changed = trio.Event()
        await wait_all_tasks_blocked()

        assert list(calls) == self.calls


class Failures:
    """An observer of callbacks that failed."""

    records = frozenset({records.CallbackFailed})

    def __init__(self) -> None:
        self.seen: list[records.CallbackFailed] = []

    def __call__(self, record: object) -> None:
        """Keep the record."""
        assert isinstance(record, records.CallbackFailed)
        self.seen.append(record)


async def clog(connection: Connection) -> int:
    """Send until something is queued; return how much was sent."""
    sent = 0
    while not connection.send_nowait(bytes(1 << 20)):
        sent += 1 << 20
    await wait_all_tasks_blocked()
    return sent + (1 << 20)
