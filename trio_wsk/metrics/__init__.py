"""Numbers for Prometheus, and whether we are well for Kubernetes.

It needs prometheus_client and h11, which ``pip install 'trio-wsk[prometheus]'`` brings.

A `Collector` shows the ``statistics()`` of servers; `Durations` observes how long things take;
`serve_metrics` serves both, and health. A supervisor shows its workers as one, by `WorkerMetrics`.

Lives above the servers, and knows them as users do. Nothing in them knows it.
"""

from __future__ import annotations

try:
    import h11 as _h11  # noqa: F401 - what is below needs both
    import prometheus_client as _prometheus_client  # noqa: F401
except ImportError as _missing:
    raise ImportError(
        f"trio_wsk.metrics needs {_missing.name}, which is not installed:"
        " pip install 'trio-wsk[prometheus]'"
    ) from _missing

from ._collector import Collector
from ._durations import Durations
from ._serving import serve_metrics
from ._workers import WorkerMetrics, worker_samples

__all__ = ["Collector", "Durations", "WorkerMetrics", "serve_metrics", "worker_samples"]

# So that tracebacks and documentation name the place to import them from.
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
