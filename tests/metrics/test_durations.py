"""`Durations`: histograms of how long things take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.scraping import scraped, series
from trio_wsk import InspectAction, open_listening_socket, open_server
from trio_wsk.metrics import Collector, Durations
from trio_wsk.metrics._durations import Histogram, histograms_of
from trio_wsk.observers import (
    ConnectionEnded,
    ConnectionUnparked,
    RequestApproved,
    RequestRejected,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio.testing import MockClock

    from tests.helpers.scraping import Series
    from trio_wsk import Connection, ConnectionRequest
    from trio_wsk.testing import MemoryHost, MemoryNetwork

SECONDS = st.floats(0, 1000, allow_nan=False)


def histogram(found: Mapping[Series, float], name: str) -> tuple[dict[str, float], float, float]:
    """Return the buckets, the count and the sum of a histogram of the listener ``mail``."""
    buckets = {
        dict(labels)["le"]: value
        for (each, labels), value in found.items()
        if each == f"trio_wsk_{name}_seconds_bucket"
    }
    return (
        buckets,
        found[series(f"{name}_seconds_count", listener="mail")],
        found[series(f"{name}_seconds_sum", listener="mail")],
    )


@given(st.lists(SECONDS, min_size=1, unique=True).map(sorted), st.lists(SECONDS))
def test_each_duration_is_in_every_bucket_that_goes_so_far(
    bounds: list[float], noted: list[float]
) -> None:
    """A bucket counts the durations that are no longer than it says, and the last one all."""
    counted = Histogram("x", "X.", bounds)
    for seconds in noted:
        counted.note(seconds)

    assert [
        (bound, sum(seconds <= bound for seconds in noted)) for bound in (*bounds, math.inf)
    ] == list(counted.buckets())
    assert math.isclose(sum(noted), counted.seconds)


async def test_time_to_verdict_and_time_open(
    memory_network: MemoryNetwork, memory_server: MemoryHost, autojump_clock: MockClock
) -> None:
    """
    A server's histograms have each verdict, with the time since the request came, and each
    connection, with the time for which it was open.
    """

    async def decide(request: ConnectionRequest) -> InspectAction:
        asked.append(request)
        await trio.sleep(3)
        return InspectAction.ACCEPT if request is asked[0] else InspectAction.REJECT

    async def stay(connection: Connection) -> None:
        await trio.sleep(40)

    asked: list[ConnectionRequest] = []
    durations = Durations(verdict=[1, 5], connection=[39, 41, 50])
    collector = Collector()
    async with open_server(
        stay, transport=memory_server.transport(80), inspect=decide, observers=[durations]
    ) as server:
        collector.add("mail", server, durations)
        await trio.sleep(1)
        client = memory_network.host("192.0.2.2")
        streams = [await client.connect(("192.0.2.1", 80)) for _ in range(2)]
        await trio.sleep(60)
        found = scraped(collector)
        for stream in streams:
            await stream.aclose()

        assert ({"1.0": 0, "5.0": 2, "+Inf": 2}, 2, 6) == histogram(found, "verdict_duration")
        assert ({"39.0": 0, "41.0": 1, "50.0": 1, "+Inf": 1}, 1, 40) == histogram(
            found, "connection_duration"
        )
        assert (0, 0) == histogram(found, "queued_duration")[1:]


async def test_time_queued(
    memory_network: MemoryNetwork, memory_server: MemoryHost, autojump_clock: MockClock
) -> None:
    """What was parked is in the histogram with the time until somebody took it."""
    durations = Durations(verdict=None, queued=[10, 100], connection=None)
    collector = Collector()
    async with open_listening_socket(
        transport=memory_server.transport(80),
        inspect=lambda _: InspectAction.ACCEPT,
        observers=[durations],
    ) as listening:
        collector.add("mail", listening, durations)
        await trio.sleep(1)
        client = await memory_network.host("192.0.2.2").connect(("192.0.2.1", 80))
        await trio.sleep(20)
        await (await listening.accept()).aclose()
        await client.aclose()

        assert ({"10.0": 0, "100.0": 1, "+Inf": 1}, 1, 20) == histogram(
            scraped(collector), "queued_duration"
        )


def test_what_nobody_wants_is_not_told() -> None:
    """A histogram that is left out is no reason for a record to be made."""
    none = Durations(verdict=None, queued=None, connection=None)

    assert frozenset() == none.records
    assert [] == histograms_of(none)
    assert {RequestApproved, RequestRejected} == Durations(queued=None, connection=None).records
    assert {ConnectionUnparked} == Durations(verdict=None, connection=None).records
    assert {ConnectionEnded} == Durations(verdict=None, queued=None).records


@pytest.mark.parametrize("bounds", [(1.0,), [0.5, 1], (0, 3)])
def test_buckets_are_what_was_given(bounds: list[float]) -> None:
    """Buckets are the user's choice; one without end is always there."""
    [histogram] = histograms_of(Durations(verdict=bounds, queued=None, connection=None))

    assert [*bounds, math.inf] == [bound for bound, _ in histogram.buckets()]
