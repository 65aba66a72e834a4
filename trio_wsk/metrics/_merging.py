"""How the families of several workers become those of one service. Pure: nothing is kept here.

What only grows is added up, so that one series goes on whichever worker counts. What goes down as
well is shown for each worker, with its label ``worker``; the sum is a query away, and one worker
that is worse off than the others can be seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["WORKER", "added_up", "merged"]

WORKER: Final = "worker"
"""The label of what is shown for each worker."""

ADDED_UP: Final = frozenset({"counter", "histogram", "summary"})
"""The types of families that only grow."""

Labels: TypeAlias = "tuple[tuple[str, str], ...]"
Series: TypeAlias = "tuple[str, Labels]"
"""What tells one series of a family from the others: the name of its samples, and the labels."""


def merged(workers: Mapping[str, Iterable[Metric]], ended: Iterable[Metric] = ()) -> list[Metric]:
    """Merge the families of several workers into those of one service.

    Args:
      workers: The families of each worker, by its name.
      ended: What workers that have ended had counted, as `added_up` gives it.

    Returns:
      Each family once, in the order in which they are met. Where workers disagree on the type of
      a family, those count that are of the type that is met first.
    """
    labelled = [(name, metric) for name, metrics in workers.items() for metric in metrics]
    together = _by_name([("", each) for each in ended] + labelled)
    return [
        _sum([metric for _, metric in parts])
        if parts[0][1].type in ADDED_UP
        else _side_by_side(parts)
        for parts in together
    ]


def added_up(*parts: Iterable[Metric]) -> list[Metric]:
    """Add up what only grows, and leave out the rest: what is left of workers that have ended."""
    growing = [("", each) for part in parts for each in part if each.type in ADDED_UP]
    return [_sum([metric for _, metric in same]) for same in _by_name(growing)]


def _by_name(metrics: Iterable[tuple[str, Metric]]) -> list[list[tuple[str, Metric]]]:
    """Put families of one name, and of one type, together."""
    found: dict[str, list[tuple[str, Metric]]] = {}
    for worker, metric in metrics:
        same = found.setdefault(metric.name, [])
        if not same or same[0][1].type == metric.type:
            same.append((worker, metric))
    return list(found.values())


def _empty(like: Metric) -> Metric:
    return Metric(like.name, like.documentation, like.type, like.unit)


def _side_by_side(parts: Iterable[tuple[str, Metric]]) -> Metric:
    """Show a family of each worker, with its label."""
    parts = list(parts)
    metric = _empty(parts[0][1])
    for worker, part in parts:
        for sample in part.samples:
            metric.add_sample(sample.name, _labelled(sample.labels, worker), sample.value)
    return metric


def _labelled(labels: Mapping[str, str], worker: str) -> dict[str, str]:
    """Add the worker to labels; one of that name becomes ``exported_worker``, as in Prometheus."""
    theirs = {f"exported_{key}" if key == WORKER else key: text for key, text in labels.items()}
    return {WORKER: worker, **theirs}


# ------------------------------------------------------------------------------ adding up


def _sum(parts: list[Metric]) -> Metric:
    """Add up one family of several workers."""
    metric = _empty(parts[0])
    if metric.type == "histogram":
        parts = _with_the_same_buckets(parts)
    groups: dict[Labels, dict[Series, float]] = {}  # what belongs together has to stand together
    for part in parts:
        for sample in part.samples:
            if "quantile" not in sample.labels or metric.type != "summary":
                _add(groups.setdefault(_without_bucket(sample), {}), sample)
    for sums in groups.values():
        for (name, labels), value in sums.items():
            metric.add_sample(name, dict(labels), value)
    return metric


def _add(sums: dict[Series, float], sample: Sample) -> None:
    series = sample.name, tuple(sorted(sample.labels.items()))
    before = sums.get(series)
    if before is None:
        sums[series] = sample.value
    elif sample.name.endswith("_created"):
        sums[series] = min(before, sample.value)
    else:
        sums[series] = before + sample.value


def _with_the_same_buckets(parts: list[Metric]) -> list[Metric]:
    """Have all histograms of a family the same buckets: those that any of them has.

    A generation of workers with other buckets than the one before it may run beside that. What one
    doesn't know of a bucket is at least what is in the one below, since buckets are cumulative.
    """
    bounds = sorted({bound for part in parts for bound in _bounds(part)}, key=float)
    return [part if _bounds(part) == bounds else _with_buckets(part, bounds) for part in parts]


def _bounds(metric: Metric) -> list[str]:
    """Return the buckets of a family, in the order in which they stand there."""
    return list(dict.fromkeys(each.labels["le"] for each in metric.samples if "le" in each.labels))


def _with_buckets(metric: Metric, bounds: Iterable[str]) -> Metric:
    """Give each histogram of a family these buckets, which are in order."""
    filled = _empty(metric)
    known: dict[Labels, dict[float, float]] = {}
    for sample in metric.samples:
        if "le" in sample.labels:
            counts = known.setdefault(_without_bucket(sample), {})
            counts[float(sample.labels["le"])] = sample.value
    for labels, counts in known.items():
        for bound, count in _filled(counts, bounds):
            filled.add_sample(f"{metric.name}_bucket", {**dict(labels), "le": bound}, count)
    filled.samples += [each for each in metric.samples if "le" not in each.labels]
    return filled


def _without_bucket(sample: Sample) -> Labels:
    return tuple(sorted((key, text) for key, text in sample.labels.items() if key != "le"))


def _filled(counts: Mapping[float, float], bounds: Iterable[str]) -> Iterator[tuple[str, float]]:
    so_far = 0.0
    for bound in bounds:
        so_far = counts.get(float(bound), so_far)
        yield bound, so_far
