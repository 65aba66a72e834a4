"""`WorkerMetrics`: in a supervisor, what its workers count, as if they were one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from prometheus_client import REGISTRY
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from trio_wsk._vocabulary.arguments import shown
from trio_wsk._vocabulary.errors import InvalidParameterError

from ._merging import added_up, merged
from ._registry import check_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import CollectorRegistry

__all__ = ["WorkerMetrics", "worker_samples"]


def worker_samples(registry: CollectorRegistry = REGISTRY) -> bytes:
    """In a worker: return all that its registry has, for the supervisor's `WorkerMetrics`.

    It is OpenMetrics, in UTF-8: how it gets there, by a pipe or a socket, is the caller's affair.

    Raises:
      InvalidParameterError: it is no registry. (Yours.)

    Source: the OpenMetrics specification, 1.0.
    """
    check_registry(registry)
    samples: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]  # prometheus_client's
    return samples


@final
class WorkerMetrics:
    """In a supervisor: a collector of what its workers count, as if they were one process.

    Counters, histograms and summaries are added up, and go on when a worker is replaced: what one
    that has ended had counted stays in the sums. Everything else is shown for each worker, with the
    label ``worker``; so the sum of a gauge is ``sum without (worker) (...)``.

    No file is needed: each worker sends its `worker_samples` when it is asked to, and
    `serve_metrics` has a hook for that (``refresh``).
    """

    def __init__(self) -> None:
        self._workers: dict[str, list[Metric]] = {}
        self._ended: list[Metric] = []

    def __repr__(self) -> str:
        return f"<WorkerMetrics of {', '.join(self._workers) or 'nobody'}>"

    def update(self, worker: str, samples: bytes) -> None:
        """Take what a worker has counted so far, in the place of what it had sent before.

        Args:
          worker: Its label. Names that come back, as numbers from 0 on do, keep the series few; but
            two that run at once need two.
          samples: Its `worker_samples`.

        Raises:
          InvalidParameterError: that is no OpenMetrics; what it had sent before stays. (The
            worker's.)
        """
        given: object = worker  # by a caller without a type checker, perhaps
        if not isinstance(given, str) or not given:
            raise InvalidParameterError(
                f"worker is a text to know it by, such as '0', not {worker!r}"
            )
        self._workers[worker] = _parsed(worker, samples)

    def end(self, worker: str) -> None:
        """Take note: this worker has ended. What it had counted last stays in the sums.

        Nothing happens if it had sent nothing.
        """
        last = self._workers.pop(worker, None)
        if last is not None:
            self._ended = added_up(self._ended, last)

    def collect(self) -> Iterator[Metric]:
        """Show what all of them have counted."""
        yield from merged(self._workers, self._ended)


def _parsed(worker: str, samples: object) -> list[Metric]:
    try:
        if isinstance(samples, bytes):
            text = samples.decode()
            return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]  # as above
    except Exception as error:  # the parser raises whatever it stumbles over
        raise InvalidParameterError(
            f"worker {worker!r} has sent samples that can't be read: {error}"
        ) from error
    raise InvalidParameterError(f"samples are worker_samples(), not {shown(samples)}")
