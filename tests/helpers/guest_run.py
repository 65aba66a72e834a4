"""A Trio run whose host loop is a test's: it sees what has come of one thing before the next."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, TypeAlias

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Job: TypeAlias = "Callable[[], Awaitable[None]]"


class GuestRun:
    """A Trio run whose host loop is here: each job runs in it, and then it waits."""

    nursery: trio.Nursery

    def __init__(self, clock: trio.abc.Clock, let_go: Callable[[], object]) -> None:
        self._let_go = let_go
        """What has to be done for tasks to end that don't want to, when the run ends."""
        self._due: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._outcome: outcome.Outcome[None] | None = None
        self._of_job: outcome.Outcome[None] | None = None
        self._jobs: trio.MemorySendChannel[Job] | None = None
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._due.put,
            done_callback=self._done,
            clock=clock,
            host_uses_signal_set_wakeup_fd=True,
            strict_exception_groups=True,
        )
        while self._jobs is None:
            self._due.get()()

    def _done(self, result: outcome.Outcome[None]) -> None:
        self._outcome = result

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        jobs, due = trio.open_memory_channel[Job](1)
        async with trio.open_nursery() as self.nursery:
            self._jobs = jobs
            try:
                async for job in due:
                    self._of_job = await outcome.acapture(job)
                    await trio.lowlevel.checkpoint_if_cancelled()  # some other task has crashed
                self.nursery.cancel_scope.cancel()
            finally:
                self._let_go()

    def do(self, job: Job) -> None:
        """Run one async function to its end; raise what it raises, or any other task."""
        assert self._jobs is not None
        self._of_job = None
        self._token.run_sync_soon(self._jobs.send_nowait, job)
        while self._outcome is None:
            self._due.get()()
            of_job = self._of_job
            if of_job is not None and not _is_cancelled(of_job):
                of_job.unwrap()
                return
        self._outcome.unwrap()

    def end(self) -> None:
        """Cancel what is left, and end the run."""
        assert self._jobs is not None
        if self._outcome is None:
            self._token.run_sync_soon(self._jobs.close)
            while self._outcome is None:
                self._due.get()()
            self._outcome.unwrap()


def _is_cancelled(result: outcome.Outcome[None]) -> bool:
    return isinstance(result, outcome.Error) and isinstance(result.error, trio.Cancelled)
