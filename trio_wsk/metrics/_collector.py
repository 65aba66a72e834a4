"""`Collector`: ``statistics()`` of servers and listening sockets, as families of metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Final, final

import attrs
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from trio_wsk._listening.listening import ListeningSocket
from trio_wsk._serving.server import Server
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.listening_state import ListeningState

from ._durations import Durations, histograms_of
from ._families import OF_LISTENING, OF_SERVERS, PREFIX, STATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from trio_wsk._vocabulary.statistics import ListeningStatistics, ServerStatistics

    from ._durations import Histogram
    from ._families import Family

    Source = Server | ListeningSocket

__all__ = ["Collector"]


@attrs.frozen
class _Listener:
    """One of those that are shown."""

    name: str
    source: Source
    durations: Durations | None

    def statistics(self) -> ListeningStatistics:
        """Return what its listening socket counts."""
        if isinstance(self.source, Server):
            return self.source.listening.statistics()
        return self.source.statistics()


@final
class Collector:
    """Shows the statistics of servers and listening sockets to Prometheus.

    It is a collector of prometheus_client's::

        collector = Collector()
        prometheus_client.REGISTRY.register(collector)
        async with open_server(handler, 7007) as server:
            collector.add("mail", server)

    Each scrape asks each of them for its ``statistics()`` once, in the thread of the Trio run that
    they live in: that is where `serve_metrics` collects. Between scrapes it costs nothing.
    """

    def __init__(self) -> None:
        self._listeners: dict[str, _Listener] = {}

    def __repr__(self) -> str:
        return f"<Collector of {', '.join(self._listeners) or 'nothing'}>"

    def add(
        self, listener: str, source: Server | ListeningSocket, durations: Durations | None = None
    ) -> None:
        """Show one more, until it is removed, also when it has ended.

        Args:
          listener: What it is called: its label ``listener``.
          source: The server, or the listening socket.
          durations: What observes it, if anything does.

        Raises:
          InvalidParameterError: an argument is wrong, or shown already. (Yours.)
        """
        _check_name(listener)
        given: object = source  # by a caller without a type checker, perhaps
        if not isinstance(given, (Server, ListeningSocket)):
            raise InvalidParameterError(
                f"source is a Server or a ListeningSocket, not {source!r}; write"
                f" collector.add({listener!r}, server)"
            )
        if listener in self._listeners:
            raise InvalidParameterError(
                f"listener {listener!r} is shown already; take it out by"
                f" collector.remove({listener!r}), or give this one another name"
            )
        self._check_durations(durations)
        self._listeners[listener] = _Listener(listener, source, durations)

    def _check_durations(self, durations: object) -> None:
        if durations is not None and not isinstance(durations, Durations):
            raise InvalidParameterError(f"durations is a Durations or None, not {durations!r}")
        if durations is not None and any(
            each.durations is durations for each in self._listeners.values()
        ):
            raise InvalidParameterError(
                "durations observes one listener, and these belong to another one; write"
                " observers=[durations] with a Durations() for each"
            )

    def remove(self, listener: str) -> None:
        """Show one no more.

        Raises:
          InvalidParameterError: none of that name is shown. (Yours.)
        """
        if self._listeners.pop(listener, None) is None:
            raise InvalidParameterError(f"listener {listener!r} is not shown: {self!r}")

    def unready(self) -> list[str]:
        """Say what keeps new peers from being served: nothing, if this is empty.

        That there is no listener, or that one of them is paused, refuses, drains, or is closed.
        It is what `serve_metrics` wants to know.
        """
        if not self._listeners:
            return ["nobody listens yet"]
        states = ((each.name, each.statistics().state) for each in self._listeners.values())
        return [
            f"{name}: {state.value}"
            for name, state in states
            if state is not ListeningState.LISTENING
        ]

    # --- For prometheus_client -----------------------------------------------------------

    def describe(self) -> Iterator[Metric]:
        """Name the families, so that a registry finds out whether others have their names."""
        for family in (STATE, *OF_LISTENING, *OF_SERVERS):
            yield _metric(family)
        for histogram in histograms_of(Durations()):
            yield _histogram_metric(histogram)

    def collect(self) -> Iterator[Metric]:
        """Show everything, as it is now."""
        listeners = list(self._listeners.values())
        servers: list[tuple[str, ServerStatistics]] = []
        listening: list[tuple[str, ListeningStatistics]] = []
        for each in listeners:
            if isinstance(each.source, Server):
                served = each.source.statistics()
                servers.append((each.name, served))
                listening.append((each.name, served.listening))
            else:
                listening.append((each.name, each.source.statistics()))
        yield _states(listening)
        for family in OF_LISTENING:
            yield _shown(family, listening)
        for family in OF_SERVERS:
            yield _shown(family, servers)
        yield from _durations(listeners)


def _check_name(listener: object) -> None:
    if not isinstance(listener, str) or not listener:
        raise InvalidParameterError(
            f"listener is a text to know it by, such as 'mail', not {listener!r}"
        )


def _metric(family: Family) -> CounterMetricFamily | GaugeMetricFamily:
    kind = GaugeMetricFamily if family.is_gauge else CounterMetricFamily
    labels = ["listener", *filter(None, [family.label])]
    return kind(PREFIX + family.name, family.help, labels=labels)


def _shown(
    family: Family, pictures: Iterable[tuple[str, ListeningStatistics | ServerStatistics]]
) -> Metric:
    """Show one field of all the listeners."""
    metric = _metric(family)
    for listener, picture in pictures:
        value: Mapping[str, int] | int | None = getattr(picture, family.field)
        if isinstance(value, Mapping):
            for key, count in value.items():
                metric.add_metric([listener, key], count)
        elif value is not None:
            metric.add_metric([listener], value)
    return metric


def _states(pictures: Iterable[tuple[str, ListeningStatistics]]) -> Metric:
    metric = _metric(STATE)
    for listener, picture in pictures:
        for state in ListeningState:
            metric.add_metric([listener, state.value], state is picture.state)
    return metric


def _durations(listeners: Iterable[_Listener]) -> Iterator[Metric]:
    """Show the histograms of all the listeners, those of a name together."""
    metrics: dict[str, HistogramMetricFamily] = {}
    for each in listeners:
        for histogram in histograms_of(each.durations) if each.durations else ():
            metric = metrics.setdefault(histogram.name, _histogram_metric(histogram))
            buckets = [(_text_of(bound), count) for bound, count in histogram.buckets()]
            metric.add_metric([each.name], buckets, histogram.seconds)
    return chain(metrics.values())


def _text_of(bound: float) -> str:
    return repr(float(bound)) if bound < math.inf else "+Inf"


def _histogram_metric(histogram: Histogram) -> HistogramMetricFamily:
    name: Final = PREFIX + histogram.name
    return HistogramMetricFamily(name, histogram.help, labels=["listener"], unit="seconds")
