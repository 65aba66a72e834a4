"""What several workers count, as what one service counts."""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    Info,
    Summary,
    generate_latest,
)
from prometheus_client import Counter as PrometheusCounter

from tests.helpers.scraping import (
    check_with_promtool,
    parse_openmetrics,
    registry_of,
    scraped,
    series,
)
from trio_wsk import InvalidParameterError, open_server
from trio_wsk.metrics import Collector, WorkerMetrics, worker_samples
from trio_wsk.metrics._families import OF_LISTENING, OF_SERVERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.helpers.scraping import Series
    from trio_wsk import Connection
    from trio_wsk.testing import MemoryNetwork


class Worker:
    """A process with metrics of its own, but for the process."""

    def __init__(self, *, buckets: tuple[float, ...] = (1.0, 5.0)) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.counted = PrometheusCounter("requests", "Requests.", ["path"], registry=registry)
        self.open = Gauge("open", "Open now.", registry=registry)
        self.seconds = Histogram(
            "seconds", "How long.", ["path"], buckets=buckets, registry=registry
        )
        self.sizes = Summary("sizes", "How much.", registry=registry)

    def work(self, path: str, seconds: float) -> None:
        """Do one piece of work."""
        self.counted.labels(path).inc()
        self.seconds.labels(path).observe(seconds)
        self.sizes.observe(seconds)
        self.open.inc()

    def samples(self) -> bytes:
        """Return what it sends."""
        return worker_samples(self.registry)


def labelled(name: str, **labels: str) -> Series:
    """Name a series of anybody's."""
    return name, frozenset(labels.items())


def merged(workers: Mapping[str, Worker]) -> dict[Series, float]:
    """Scrape a supervisor of these workers."""
    metrics = WorkerMetrics()
    for name, worker in workers.items():
        metrics.update(name, worker.samples())
    return scraped(metrics)


# --- Sums -------------------------------------------------------------------------------------


def test_what_grows_is_added_up_and_the_rest_is_told_apart() -> None:
    """Counters, histograms and summaries are sums; a gauge is there for each worker."""
    workers = {"0": Worker(), "1": Worker()}
    workers["0"].work("/", 0.5)
    workers["1"].work("/", 3)
    workers["1"].work("/other", 70)
    found = merged(workers)

    assert 2 == found[labelled("requests_total", path="/")]
    assert 1 == found[labelled("requests_total", path="/other")]
    assert 1 == found[labelled("open", worker="0")]
    assert 2 == found[labelled("open", worker="1")]
    assert (1, 2, 2) == tuple(
        found[labelled("seconds_bucket", path="/", le=le)] for le in ("1.0", "5.0", "+Inf")
    )
    assert (3.5, 2) == (
        found[labelled("seconds_sum", path="/")],
        found[labelled("seconds_count", path="/")],
    )
    assert (73.5, 3) == (found[labelled("sizes_sum")], found[labelled("sizes_count")])


def test_buckets_of_two_generations_go_together() -> None:
    """
    A worker that has other buckets than the others counts in all of them: as many as in its own
    next smaller one, so that they never go down.
    """
    old, new = Worker(buckets=(1.0, 5.0)), Worker(buckets=(0.5, 2.0, 5.0))
    for seconds in (0.7, 1.5, 3.0, 9.0):
        old.work("/", seconds)
        new.work("/", seconds)
    found = merged({"old": old, "new": new})
    bounds = ("0.5", "1.0", "2.0", "5.0", "+Inf")

    assert [0 + 0, 1 + 0, 1 + 2, 3 + 3, 4 + 4] == [
        found[labelled("seconds_bucket", path="/", le=le)] for le in bounds
    ]


def test_created_is_when_the_first_one_was() -> None:
    """Of the times at which counters were made, the earliest is that of the sum."""
    metrics = WorkerMetrics()
    for name, created in (("0", "200.0"), ("1", "100.0")):
        text = f"# TYPE x counter\nx_total 1.0\nx_created {created}\n# EOF\n"
        metrics.update(name, text.encode())
    [family] = metrics.collect()

    assert {"x_total": 2.0, "x_created": 100.0} == {
        sample.name: sample.value for sample in family.samples
    }


def test_label_of_the_workers_own_is_kept() -> None:
    """A gauge that has a label ``worker`` keeps it under another name, as in Prometheus."""
    metrics = WorkerMetrics()
    metrics.update("7", b'# TYPE x gauge\nx{worker="theirs"} 1.0\n# EOF\n')
    [family] = metrics.collect()

    assert [{"worker": "7", "exported_worker": "theirs"}] == [
        sample.labels for sample in family.samples
    ]


def test_families_of_another_type_are_left_out() -> None:
    """A name that two generations use for different things means what the first one says."""
    metrics = WorkerMetrics()
    metrics.update("0", b"# TYPE x gauge\nx 1.0\n# EOF\n")
    metrics.update("1", b"# TYPE x counter\nx_total 9.0\n# EOF\n")

    [family] = metrics.collect()

    assert ("gauge", ["x"]) == (family.type, [sample.name for sample in family.samples])


def test_quantiles_are_left_out() -> None:
    """The quantiles of several summaries have no sum; their counts have."""
    metrics = WorkerMetrics()
    text = b'# TYPE x summary\nx{quantile="0.5"} 3.0\nx_count 2.0\nx_sum 6.0\n# EOF\n'
    metrics.update("0", text)
    metrics.update("1", text)
    [family] = metrics.collect()

    assert {"x_count": 4.0, "x_sum": 12.0} == {
        sample.name: sample.value for sample in family.samples
    }


def test_merged_page_is_clean() -> None:
    """Both of Prometheus' formats, of several workers, are read by its parsers."""
    metrics = WorkerMetrics()
    for name in ("0", "1"):
        worker = Worker()
        worker.work("/", 2)
        info = Info("build", "What runs.", registry=worker.registry)
        info.info({"version": name})
        metrics.update(name, worker.samples())
    registry = registry_of(metrics)
    names = {family.name for family in parse_openmetrics(worker_samples(registry))}

    assert {"requests", "open", "seconds", "sizes", "build"} <= names

    check_with_promtool(generate_latest(registry))


# --- Workers that come and go -----------------------------------------------------------------


class Service(RuleBasedStateMachine):
    """A supervisor whose workers count, send what they have counted, end, and are replaced."""

    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.metrics = WorkerMetrics()
        self.names = map(str, itertools.count())
        self.running: dict[str, Worker] = {}
        self.sent: dict[str, Counter[str]] = {}
        self.counted: dict[str, Counter[str]] = {}
        self.highest: dict[Series, float] = {}

    @rule(target=workers, buckets=st.sampled_from([(1.0, 5.0), (0.5, 2.0, 5.0), (3.0,)]))
    def start(self, buckets: tuple[float, ...]) -> str:
        """Start a worker, of one generation or another."""
        name = next(self.names)
        self.running[name] = Worker(buckets=buckets)
        self.counted[name] = Counter()
        return name

    @rule(worker=workers, path=st.sampled_from("ab"), seconds=st.floats(0, 9))
    def work(self, worker: str, path: str, seconds: float) -> None:
        """Have a worker count something."""
        self.running[worker].work(path, seconds)
        self.counted[worker][path] += 1

    @rule(worker=workers)
    def send(self, worker: str) -> None:
        """Have a worker send what it has counted."""
        self.metrics.update(worker, self.running[worker].samples())
        self.sent[worker] = Counter(self.counted[worker])

    @rule(worker=workers)
    def send_nonsense(self, worker: str) -> None:
        """Have a worker send what can't be read: it changes nothing."""
        with pytest.raises(InvalidParameterError, match="can't be read"):
            self.metrics.update(worker, b"nonsense {")

    @rule(worker=consumes(workers))
    def end(self, worker: str) -> None:
        """End a worker; what it had not sent is lost."""
        self.metrics.end(worker)
        del self.running[worker]

    @invariant()
    def shows_what_was_sent(self) -> None:
        """At each moment a scrape shows what was sent, and no more."""
        found = scraped(self.metrics)
        self.sums_are_what_was_sent(found)
        self.gauges_are_of_those_that_run(found)
        self.nothing_goes_down(found)

    def sums_are_what_was_sent(self, found: Mapping[Series, float]) -> None:
        """Every counter is the sum of what was sent, by those that have ended as well."""
        for path in "ab":
            total = sum(each[path] for each in self.sent.values())
            assert total == found.get(labelled("requests_total", path=path), 0)
            assert total == found.get(labelled("seconds_count", path=path), 0)

    def gauges_are_of_those_that_run(self, found: Mapping[Series, float]) -> None:
        """Gauges are those of the workers that run, as they were sent."""
        assert {
            labelled("open", worker=name): sum(self.sent[name].values())
            for name in self.running
            if name in self.sent
        } == {series: value for series, value in found.items() if series[0] == "open"}

    def nothing_goes_down(self, found: Mapping[Series, float]) -> None:
        """In a histogram no bucket has less than the one below; in time, no series goes down."""
        for path in "ab":
            buckets = [
                (float(dict(labels)["le"]), value)
                for (name, labels), value in found.items()
                if name == "seconds_bucket" and dict(labels)["path"] == path
            ]
            values = [value for _, value in sorted(buckets)]
            assert sorted(values) == values
        growing = {each: value for each, value in found.items() if each[0].endswith("_total")}
        for each, value in self.highest.items():
            assert growing[each] >= value
        self.highest = growing


TestService = Service.TestCase
TestService.settings = settings(deadline=None, max_examples=40, stateful_step_count=25)


async def test_sums_of_servers_are_those_of_their_statistics(memory_network: MemoryNetwork) -> None:
    """Three workers with a server each: what a supervisor shows is the sum of `statistics()`."""

    async def once(connection: Connection) -> None:
        if await connection.receive_some() == b"crash":
            raise ValueError("as asked")

    async def come(port: int, said: bytes) -> None:
        client = memory_network.host("192.0.2.2")
        async with await client.connect(("192.0.2.1", port)) as stream:
            await stream.send_all(said)
            with suppress(trio.BrokenResourceError):
                await stream.receive_some()

    host = memory_network.host("192.0.2.1")
    metrics = WorkerMetrics()
    async with AsyncExitStack() as stack:
        servers = []
        for port in (1, 2, 3):
            server = await stack.enter_async_context(
                open_server(once, transport=host.transport(port))
            )
            servers.append(server)
            for number in range(port * 2):
                await come(port, b"crash" if number % 2 else b"x")
            await trio.testing.wait_all_tasks_blocked()
            collector = Collector()
            collector.add("mail", server)
            metrics.update(str(port), worker_samples(registry_of(collector)))
        pictures = [server.statistics() for server in servers]
        found = scraped(metrics)

        assert 12 == sum(each.served for each in pictures)
        assert 6 == sum(each.handler_failures for each in pictures)
        for family in OF_SERVERS:
            if not family.is_gauge and not family.label:
                total = sum(getattr(each, family.field) for each in pictures)
                assert total == found[series(f"{family.name}_total", listener="mail")]
        for family in OF_LISTENING:
            if not family.is_gauge and not family.label:
                total = sum(getattr(each.listening, family.field) for each in pictures)
                assert total == found[series(f"{family.name}_total", listener="mail")]
        assert {"1", "2", "3"} == {
            dict(labels)["worker"]
            for name, labels in found
            if name == "trio_wsk_active_connections"
        }


@pytest.mark.parametrize("samples", [b"\xff\xfe", b"x 1.0\n", b"", "# EOF\n", None])
def test_what_is_no_samples_is_refused(samples: Any) -> None:
    """What is no OpenMetrics changes nothing, and the error says whose it was."""
    metrics = WorkerMetrics()
    metrics.update("3", b"# TYPE x gauge\nx 1.0\n# EOF\n")
    with pytest.raises(InvalidParameterError, match=r"worker '3'|worker_samples\(\)"):
        metrics.update("3", samples)

    assert 1 == len(list(metrics.collect()))
    assert "<WorkerMetrics of 3>" == repr(metrics)


def test_worker_that_sent_nothing_ends_without_a_trace() -> None:
    """The end of a worker that nobody has heard of is no error: it may have died at once."""
    metrics = WorkerMetrics()
    metrics.end("0")

    assert [] == list(metrics.collect())
    assert "<WorkerMetrics of nobody>" == repr(metrics)
