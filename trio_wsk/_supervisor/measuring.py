"""What a supervisor shows to Prometheus: all workers, as if they were one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import trio
from prometheus_client import CollectorRegistry

from trio_wsk.metrics import WorkerMetrics, serve_metrics

from .steering import ask_all

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from trio_wsk._serving.server import Server

    from .crew import Crew
    from .process import Worker

__all__ = ["Measuring"]


@final
class Measuring:
    """Has the workers say what they count, and adds that up.

    Args:
      crew: The workers.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._metrics = WorkerMetrics()
        self._registry = CollectorRegistry()
        self._registry.register(self._metrics)
        self._one_at_a_time = trio.Lock()  # what comes later must not be replaced by earlier

    def ended(self, number: int, worker: Worker) -> None:
        """Take what a worker has counted up to its end, as far as it could say it."""
        last = worker.questions.last
        if last is not None:
            self._metrics.update(str(number), last)
        self._metrics.end(str(number))

    async def serve(  # noqa: ASYNC128 - whom it hands the status to calls it
        self, sockets: Sequence[socket.socket], *, task_status: trio.TaskStatus[Server]
    ) -> None:
        """Serve the pages."""
        await serve_metrics(
            sockets=sockets,
            registry=self._registry,
            unready=self._unready,
            refresh=self._refresh,
            task_status=task_status,
        )

    async def _refresh(self) -> None:
        """Ask all; of one that does not answer, what it has said before has to do."""
        async with self._one_at_a_time:
            asked = self._crew.all()
            answers = await ask_all(asked, "samples", {})
            there = self._crew.all()
            for number, samples in answers.items():
                # One that has ended meanwhile has said more than that.
                if isinstance(samples, str) and there.get(number) is asked[number]:
                    self._metrics.update(str(number), samples.encode())

    async def _unready(self) -> list[str]:
        """Say what stands in the way: that one does not serve, or what each says of itself."""
        if self._crew.is_ending():
            await trio.lowlevel.checkpoint()
            return ["the service drains"]
        missing = [f"worker {number}: does not serve" for number in self._crew.missing()]
        answers = await ask_all(self._crew.taking(), "unready", {})
        return missing + [
            f"worker {number}: {line}" for number, each in answers.items() for line in _lines(each)
        ]


def _lines(answer: Any) -> list[str]:  # noqa: ANN401 - see `ask_all`
    return [str(answer)] if isinstance(answer, Exception) else answer
