"""Arguments that can't be meant, of metrics; rows for `tests.test_wrong_arguments`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tests.helpers.wrong_values import NO_INSPECTORS, Row, work
from trio_wsk import open_listening_socket
from trio_wsk.metrics import Collector, WorkerMetrics, serve_metrics, worker_samples

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

NO_NAMES: tuple[Any, ...] = (None, 7, "", b"mail")
NO_BUCKETS: tuple[Any, ...] = (7, (), [-1.0], [1, 1], [2, 1], ["1"], [math.inf], [math.nan], [True])

METRICS: Mapping[str, Mapping[str, Row]] = {
    "Collector.add": {
        "listener": Row(NO_NAMES, "listener is a text to know it by"),
        "source": Row((None, 7, work, Collector()), "collector.add('mail', server)"),
        "durations": Row((7, work, []), "durations is a Durations or None"),
    },
    "Collector.remove": {"listener": Row(("other", 7), "is not shown")},
    "Durations": {
        name: Row(NO_BUCKETS, f"write {name}=[0.01, 0.1, 1.0]")
        for name in ("verdict", "queued", "connection")
    },
    "WorkerMetrics.update": {
        "worker": Row(NO_NAMES, "worker is a text to know it by"),
        "samples": Row((None, 7, "# EOF\n", b"nonsense"), "sample"),
    },
    "serve_metrics": {
        "port": Row((True, 1.5, "80", -1, 70000, math.nan), "port"),
        "task_status": Row((None, 7, work), "nursery.start(trio_wsk.serve"),
        "unready": Row(NO_INSPECTORS, "unready takes a"),
        "refresh": Row((7, "work", work), "refresh is an async function"),
        "registry": Row((None, 7, work), "registry is a CollectorRegistry"),
    },
    "worker_samples": {"registry": Row((None, 7, work), "registry is a CollectorRegistry")},
}


async def _add(**argument: Any) -> None:
    async with open_listening_socket(0, host="127.0.0.1") as listening:
        Collector().add(**{"listener": "mail", "source": listening, **argument})


async def _remove(listener: Any) -> None:
    Collector().remove(listener)


async def _update(**argument: Any) -> None:
    WorkerMetrics().update(**{"worker": "0", "samples": b"# EOF\n", **argument})


async def _serve_metrics(**argument: Any) -> None:
    await serve_metrics(**{"port": 0, "host": "127.0.0.1", "unready": list, **argument})


async def _samples(registry: Any) -> None:
    worker_samples(registry)


METRICS_CALLS: Mapping[str, Callable[..., Awaitable[None]]] = {
    "Collector.add": _add,
    "Collector.remove": _remove,
    "WorkerMetrics.update": _update,
    "serve_metrics": _serve_metrics,
    "worker_samples": _samples,
}
