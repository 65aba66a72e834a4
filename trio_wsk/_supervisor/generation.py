"""A number of workers that run one configuration, from their start to their end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from .messages import Job, Kind
from .process import start_worker
from .restarts import Restarts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trio_wsk._configuration.configuration import Configuration

    from .process import Worker

__all__ = ["LATE", "Generation", "StartFailedError", "jobs_of"]

LATE: Final = 5.0
"""Seconds beyond the grace after which a worker that was told to end is killed: it hangs."""

_LEAVE: Final = 10.0
"""Seconds in which a worker leaves its queues, unless its loop stands still: it need not finish
anything for that."""

_START: Final = 60.0
"""Seconds that a worker may take until it serves: a program that needs longer to be imported needs
a look at that."""


class StartFailedError(Exception):
    """A generation could not start: why."""


def jobs_of(
    configuration: Configuration, dealt: Sequence[list[int]], *, is_last: bool
) -> list[Job]:
    """Say what each worker is to do; the limit of connections is that of all together.

    Args:
      configuration: What to serve.
      dealt: The descriptors for each.
      is_last: Whether nobody else holds them.
    """
    return [
        Job(_share(configuration, number, len(dealt)), descriptors, is_last)
        for number, descriptors in enumerate(dealt)
    ]


def _share(configuration: Configuration, number: int, workers: int) -> Configuration:
    limit = configuration.max_connections
    if limit is None:
        return configuration
    share = limit // workers + (number < limit % workers)
    return attrs.evolve(configuration, max_connections=share)


@final
class Generation:
    """Workers that have started together, and will end together.

    Args:
      jobs: What each is to do, by its number.
      grace: Seconds that they give connections to finish.
      say: Is given what an operator should know.
      ended: Is called with the number of each worker that has ended, and the worker.
      gave_up: Is called with the reason when one of them crashes again and again.
    """

    def __init__(
        self,
        jobs: Mapping[int, Job],
        *,
        grace: float,
        say: Callable[[str], object],
        ended: Callable[[int, Worker], object],
        gave_up: Callable[[str], object],
    ) -> None:
        self._grace = grace
        self._say = say
        self.ended: Final = ended
        """For the slots: takes note of one that has ended."""
        self._gave_up = gave_up
        self._slots = [_Slot(self, number, job) for number, job in jobs.items()]
        self._scope = trio.CancelScope()
        self._ending: Kind | None = None
        self._told_to_end = trio.Event()
        self._failure: str | None = None
        self.may_serve: Final = trio.Event()
        """Set when all workers are prepared, for them to serve."""

    @property
    def numbers(self) -> list[int]:
        """What its workers are called."""
        return [slot.number for slot in self._slots]

    @property
    def serving(self) -> dict[int, Worker]:
        """Those that serve, by number: all of them, but for those that have crashed or ended."""
        return {slot.number: slot.worker for slot in self._slots if slot.worker is not None}

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Start the workers, and keep them running until they are told to end.

        None of them touches a socket before all are prepared: one that served, and ended because
        another one can't, would take with it who had come to it.

        Raises:
          StartFailedError: one of them could not start, so that none runs; instead of
            ``task_status.started()``.
        """
        has_started = False
        with self._scope:
            async with trio.open_nursery() as nursery:
                for slot in self._slots:
                    nursery.start_soon(slot.run)
                for slot in self._slots:
                    await slot.is_prepared.wait()
                self.may_serve.set()
                for slot in self._slots:
                    await slot.serves.wait()
                task_status.started()
                has_started = True
        if self._failure is not None:
            raise StartFailedError(self._failure)
        if not has_started:  # it was told to end before
            task_status.started()

    def end(self, how: Kind) -> None:
        """Have the workers end, in their grace; what hangs is killed then."""
        if self._ending is None:
            self._ending = how
            self._told_to_end.set()
            self._scope.deadline = trio.current_time() + self._grace + LATE
            self._tell(how)

    async def wait_left(self) -> list[int]:
        """Wait until workers that were told to leave take nobody any more, or have ended.

        Returns:
          The numbers of those that have not said so in time.
        """
        with trio.move_on_after(_LEAVE):
            for slot in self._slots:
                await slot.left.wait()
        return [each.number for each in self._slots if not each.left.is_set()]  # noqa: ASYNC910 - there is a slot

    def abort(self) -> None:
        """Have the workers end at once."""
        self._ending = Kind.ABORT
        self._told_to_end.set()
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + LATE)
        self._tell(Kind.ABORT)

    def _tell(self, word: Kind) -> None:
        for slot in self._slots:
            slot.tell(word)

    # What follows is for the slots.

    @property
    def is_ending(self) -> bool:
        """Whether the workers were told to end."""
        return self._ending is not None

    def start_failed(self, reason: str) -> None:
        """One could not start: none shall run."""
        if not self.is_ending:
            self._failure = self._failure or reason
        self._scope.cancel(reason="a worker could not start")

    def crashes(self, number: int, how: str, *, first: bool) -> None:
        """One has crashed, and is started again."""
        if first:
            self._say(f"worker {number} {how}; it is started again")

    def is_back(self, number: int, tries: int) -> None:
        """One that had crashed more than once serves again."""
        if tries > 1:
            self._say(f"worker {number} serves again, at try {tries}")

    def greet(self, worker: Worker) -> None:
        """One serves that was being started when all were told to end."""
        if self._ending is not None:
            worker.tell(self._ending)

    def gives_up(self, number: int, how: str, crashes: int) -> None:
        """One has crashed too often."""
        self._gave_up(f"worker {number} has crashed {crashes} times in a row: the last one {how}")

    async def wait(self, seconds: float) -> None:
        """Wait, for as long as nobody is told to end."""
        with trio.move_on_after(seconds):
            await self._told_to_end.wait()


@final
class _Slot:
    """The place of one worker, and of its successors."""

    def __init__(self, generation: Generation, number: int, job: Job) -> None:
        self._generation = generation
        self.number: Final = number
        self.left: Final = trio.Event()
        """Set when its worker was told to leave, and takes nobody any more; or there is none."""
        self.is_prepared: Final = trio.Event()
        """Set when its first worker may serve at any time."""
        self.serves: Final = trio.Event()
        """Set when its first worker serves."""
        self._job = job
        self._restarts = Restarts()
        self.worker: Worker | None = None
        """The one that serves, if one does."""

    def tell(self, word: Kind) -> None:
        """Say something to the worker that serves; one that does not serve yet need not."""
        if self.worker is not None:
            self.worker.tell(word)

    async def run(self) -> None:
        """Keep a worker running."""
        try:
            await self._keep_running()
        finally:
            self.left.set()

    async def _keep_running(self) -> None:
        generation = self._generation
        served, how = await self._one()
        if served is None:
            generation.start_failed(how)
            return
        while not generation.is_ending:
            wait = self._restarts.crashed(served or 0.0)
            crashes = self._restarts.crashes
            if wait is None:
                generation.gives_up(self.number, how, crashes)
                return
            generation.crashes(self.number, how, first=crashes == 1)
            await generation.wait(wait)
            if not generation.is_ending:
                served, how = await self._one()

    async def _one(self) -> tuple[float | None, str]:
        """Run one process; return for how long it has served, if at all, and how it has ended."""
        try:
            worker = await start_worker(self._job)
        except OSError as error:
            return None, f"can't be started: {error.strerror}"  # noqa: ASYNC910 - it has tried
        try:
            failure = await _failure_of(worker)
            if failure is None:
                self.is_prepared.set()
                await self._generation.may_serve.wait()
                worker.tell(Kind.SERVE)
                failure = await _failure_of(worker)
            if failure is not None:
                return None, failure
            return await self._serving(worker)
        finally:
            self.worker = None
            self._generation.ended(self.number, worker)
            with trio.move_on_after(LATE, shield=True):
                await worker.kill()

    async def _serving(self, worker: Worker) -> tuple[float, str]:
        began = trio.current_time()
        self._generation.is_back(self.number, self._restarts.crashes)
        self.worker = worker
        self.serves.set()
        self._generation.greet(worker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.hear, self.left)
            how = await worker.wait()
            with trio.move_on_after(LATE):  # a process of its own may hold its end
                await worker.has_said_all.wait()
            nursery.cancel_scope.cancel(reason="the worker has ended")
        return trio.current_time() - began, f"(process {worker.pid}) {how}"


async def _failure_of(worker: Worker) -> str | None:
    """Wait for a worker's next step towards its service; return None, or why it doesn't come."""
    with trio.move_on_after(_START):
        return await worker.failure()
    return f"did not serve within {_START:g} s"  # noqa: ASYNC910 - it was waited for
