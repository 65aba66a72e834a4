"""`Collector`: what it shows is what `statistics()` says."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from prometheus_client import CollectorRegistry, Counter, generate_latest

from tests.helpers.scraping import (
    check_with_promtool,
    parse_openmetrics,
    registry_of,
    scraped,
    series,
)
from tests.helpers.support import connect_now, read_to_end, reset, until
from trio_wsk import (
    Connection,
    InspectAction,
    InvalidParameterError,
    ListeningStatistics,
    Server,
    ServerStatistics,
    Verdict,
    open_listening_socket,
    open_server,
)
from trio_wsk.metrics import Collector, Durations, worker_samples
from trio_wsk.metrics._families import OF_LISTENING, OF_SERVERS, STATE
from trio_wsk.observers import DrainStarted, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.scraping import Series
    from trio_wsk import ConnectionRequest

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"

NUMBERS: dict[str, Callable[[ServerStatistics], float]] = {
    "accepted_connections_total": lambda it: it.listening.accepted,
    "queued_connections": lambda it: it.listening.parked,
    "queued_connections_most": lambda it: it.listening.parked_most,
    "inspected_connections_total": lambda it: it.listening.inspected,
    "let_on_connections_total": lambda it: it.listening.let_on,
    "approved_connections_total": lambda it: it.listening.approved,
    "pending_inspections": lambda it: it.listening.pending,
    "pending_inspections_most": lambda it: it.listening.pending_most,
    "close_fallbacks_total": lambda it: it.listening.close_fallbacks,
    "straggling_inspectors": lambda it: it.listening.straggling,
    "queued_accepts": lambda it: it.listening.queued_accepts,
    "accept_backoffs_total": lambda it: it.listening.accept_backoffs,
    "shed_connections_total": lambda it: it.listening.shed,
    "backlog_connections": lambda it: it.listening.backlog or 0,
    "backlog_connections_limit": lambda it: it.listening.backlog_limit or 0,
    "active_connections": lambda it: it.open_connections,
    "active_connections_most": lambda it: it.open_most,
    "lingering_connections": lambda it: it.lingering,
    "ended_connections_total": lambda it: it.served,
    "idle_connections_ended_total": lambda it: it.ended_idle,
    "expired_connections_total": lambda it: it.expired,
    "handler_failures_total": lambda it: it.handler_failures,
    "peers_left_total": lambda it: it.peers_left,
}
SUMS: dict[str, Callable[[ServerStatistics], float]] = {
    "delivered_connections_total": lambda it: sum(it.listening.delivered.values()),
    "dropped_connections_total": lambda it: sum(it.listening.dropped.values()),
    "rejected_connections_total": lambda it: sum(it.listening.rejected.values()),
    "aborted_connections_total": lambda it: sum(it.listening.aborted.values()),
    "callback_failures_total": lambda it: sum(it.listening.callback_failures.values()),
    "accept_errors_total": lambda it: sum(it.listening.accept_errors.values()),
    "tls_handshake_failures_total": lambda it: sum(it.handshake_failures.values()),
}


def check_same(statistics: ServerStatistics, found: dict[Series, float]) -> None:
    """See that a scrape shows what `statistics()` says of the listener ``mail``."""
    for name, value in NUMBERS.items():
        assert value(statistics) == found[series(name, listener="mail")], name
    for name, value in SUMS.items():
        shown = [count for (each, _), count in found.items() if each == f"trio_wsk_{name}"]
        assert value(statistics) == sum(shown), name


async def answer(connection: Connection) -> None:
    """Answer each octet."""
    while data := await connection.receive_some():
        if b"crash" in data:
            raise ValueError("as asked")
        await connection.send_all(data)


def decide(request: ConnectionRequest) -> InspectAction | Verdict:
    """Refuse every third port, for two reasons."""
    kind = request.remote_address.port % 6
    if kind in {0, 3}:
        return Verdict(InspectAction.REJECT, "three" if kind else "six")
    return InspectAction.ACCEPT


async def come_and_go(server: Server, number: int) -> None:
    """Be a client of one kind or another."""
    client = connect_now(server.local_addresses[0])
    try:
        await client.send_all(b"crash" if number % 5 == 1 else b"x")
        await client.receive_some()
    except trio.BrokenResourceError:
        pass
    if number % 3:
        await client.aclose()
    else:
        reset(client)


def has_served_more_than(server: Server, count: int) -> bool:
    """Whether that many connections have ended."""
    return server.statistics().served > count


# --- What is shown ----------------------------------------------------------------------------


def test_every_field_of_statistics_is_shown() -> None:
    """Whatever `statistics()` says has a family, and nothing is shown that it doesn't say."""
    of_listening = {family.field for family in (STATE, *OF_LISTENING)}
    of_servers = {family.field for family in OF_SERVERS}

    assert {field.name for field in attrs.fields(ListeningStatistics)} == of_listening
    # The callback failures of a server are those of its listening socket.
    assert {field.name for field in attrs.fields(ServerStatistics)} == {
        *of_servers,
        "listening",
        "callback_failures",
    }


async def test_scrapes_show_what_statistics_say() -> None:
    """
    At every moment of a server's life a scrape has the same numbers as `statistics()`, by reason
    where there are reasons.
    """
    collector = Collector()
    with trio.fail_after(60):
        async with open_server(answer, 0, host=HOST, inspect=decide) as server:
            collector.add("mail", server)
            for number in range(12):
                check_same(server.statistics(), scraped(collector))
                await come_and_go(server, number)
            await until(lambda: not server.connections)
            check_same(server.statistics(), scraped(collector))
            reasons = {
                reason: scraped(collector)[
                    series("rejected_connections_total", listener="mail", reason=reason)
                ]
                for reason in server.statistics().listening.rejected
            }

            assert server.statistics().listening.rejected == reasons
        check_same(
            server.statistics(),
            {
                series("backlog_connections", listener="mail"): 0.0,
                series("backlog_connections_limit", listener="mail"): 0.0,
                **scraped(collector),
            },
        )


@pytest.mark.heavy
async def test_scrapes_under_load_show_what_statistics_say() -> None:
    """
    While clients come and go, fail and are refused, fifty at a time, each of a hundred scrapes
    shows what `statistics()` says; and at the end every verdict and every end is in a histogram.
    """
    collector = Collector()
    durations = Durations()
    rounds = 100
    scrapes = 0

    async def keep_coming(number: int) -> None:
        while scrapes < rounds:
            await come_and_go(server, number)
            number += 50

    with trio.fail_after(120):
        async with open_server(
            answer, 0, host=HOST, inspect=decide, observers=[durations]
        ) as server:
            collector.add("mail", server, durations)
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(keep_coming, number)
                while scrapes < rounds:
                    check_same(server.statistics(), scraped(collector))
                    scrapes += 1
                    await until(partial(has_served_more_than, server, scrapes))
            await until(lambda: not server.connections)
            found = scraped(collector)
            verdicts = found[series("verdict_duration_seconds_count", listener="mail")]
            ended = found[series("connection_duration_seconds_count", listener="mail")]

            assert server.statistics().listening.inspected == verdicts
            assert server.statistics().served == ended


async def test_listening_socket_is_shown_without_what_servers_count() -> None:
    """A listening socket by itself has its own families; there is no series of a server's."""
    collector = Collector()
    async with open_listening_socket(0, host=HOST) as listening:
        collector.add("own", listening)
        irp = listening.queue_accept()
        found = scraped(collector)

        assert 1.0 == found[series("queued_accepts", listener="own")]
        assert series("active_connections", listener="own") not in found
        assert irp.cancel()


async def test_listeners_are_told_apart() -> None:
    """Several listeners have each their label; one that was removed is shown no more."""
    collector = Collector()
    async with (
        open_server(answer, 0, host=HOST) as first,
        open_server(answer, 0, host=HOST) as second,
    ):
        collector.add("first", first)
        collector.add("second", second)
        client = connect_now(first.local_addresses[0])
        await until(lambda: first.connections)
        found = scraped(collector)

        assert 1.0 == found[series("active_connections", listener="first")]
        assert 0.0 == found[series("active_connections", listener="second")]

        collector.remove("first")

        assert series("active_connections", listener="first") not in scraped(collector)
        await client.aclose()


async def test_state_is_one_of_all() -> None:
    """Of the states of a listener, the one that it is in is 1, and the others are 0."""
    collector = Collector()
    async with open_listening_socket(0, host=HOST) as listening:
        collector.add("own", listening)
        listening.pause()
        found = {
            dict(labels)["state"]: value
            for (name, labels), value in scraped(collector).items()
            if name == "trio_wsk_listener_state"
        }

        assert {"paused"} == {state for state, value in found.items() if value == 1}
        assert {"listening", "refusing", "draining", "closed", "failed"} == {
            state for state, value in found.items() if value == 0
        }


# --- What Prometheus says to it ---------------------------------------------------------------


async def test_page_is_clean() -> None:
    """Prometheus' own program finds nothing to say about the text format, nor about the names."""
    durations = Durations()
    collector = Collector()
    async with open_server(answer, 0, host=HOST, inspect=decide, observers=[durations]) as server:
        collector.add("mail", server, durations)
        for number in range(6):
            await come_and_go(server, number)
        page = generate_latest(registry_of(collector))

    check_with_promtool(page)


async def test_page_is_openmetrics() -> None:
    """prometheus_client's own parser of OpenMetrics, which is strict, reads the page."""
    durations = Durations()
    collector = Collector()
    async with open_server(answer, 0, host=HOST, observers=[durations]) as server:
        collector.add('of "mine"\n\\', server, durations)
        page = worker_samples(registry_of(collector))
    [active] = [
        family for family in parse_openmetrics(page) if family.name == "trio_wsk_active_connections"
    ]

    assert [{"listener": 'of "mine"\n\\'}] == [sample.labels for sample in active.samples]


def test_names_of_others_are_kept_apart() -> None:
    """A registry refuses a metric of somebody else's that has one of our names."""
    registry = CollectorRegistry()
    registry.register(Collector())

    for name in ("trio_wsk_accepted_connections", "trio_wsk_verdict_duration_seconds"):
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            Counter(name, "Ours.", registry=registry)


# --- Readiness --------------------------------------------------------------------------------


async def test_unready_says_what_stands_in_the_way() -> None:
    """
    A collector is ready when all its listeners take new peers: not before there is one, nor while
    one is paused, refuses or drains, nor when it has ended.
    """

    async def stay(connection: Connection) -> None:
        await connection.draining.wait()

    def note(record: Record) -> None:
        if isinstance(record, DrainStarted):
            said.append(collector.unready())

    said: list[list[str]] = []
    collector = Collector()

    assert ["nobody listens yet"] == collector.unready()

    async with open_listening_socket(0, host=HOST) as other:
        async with open_server(stay, 0, host=HOST, observers=[note]) as server:
            collector.add("other", other)
            collector.add("mail", server)

            assert [] == collector.unready()

            server.listening.pause()
            other.refuse()

            assert ["other: refusing", "mail: paused"] == collector.unready()

            other.resume()
            server.listening.resume()
            async with connect_now(server.local_addresses[0]) as client:
                await until(lambda: server.connections)
                await server.drain()

                assert b"" == await read_to_end(client)
        assert [["mail: draining"]] == said
        assert ["mail: closed"] == collector.unready()


# --- Mistakes ---------------------------------------------------------------------------------


async def test_mistakes_are_told() -> None:
    """A name that is taken, durations of another listener, and what isn't there are refused."""
    collector = Collector()
    durations = Durations()
    async with open_listening_socket(0, host=HOST) as listening:
        collector.add("mail", listening, durations)
        with pytest.raises(InvalidParameterError, match=r"collector\.remove\('mail'\)"):
            collector.add("mail", listening)
        with pytest.raises(InvalidParameterError, match="a Durations\\(\\) for each"):
            collector.add("other", listening, durations)
        with pytest.raises(InvalidParameterError, match="'other' is not shown"):
            collector.remove("other")

        assert "<Collector of mail>" == repr(collector)
        assert "<Collector of nothing>" == repr(Collector())
