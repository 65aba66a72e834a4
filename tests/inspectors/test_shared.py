"""`Shared`: rules that several processes share over a Redis server, which comes and goes."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.helpers.redis_server import HOST, RedisServer, running_cluster, running_redis
from tests.helpers.ruling import IN, UNDECIDED, Gate, Visitor, gate
from tests.helpers.support import PATIENCE, until
from trio_wsk import Address, InvalidDeviceStateError, InvalidParameterError
from trio_wsk.inspectors import (
    ConnectionLimit,
    Penalties,
    ProxyProtocol,
    RateLimit,
    Rules,
    Shared,
    SourceLimit,
    SourceRateLimit,
    dry_run,
)
from trio_wsk.observers import Record, SharedBack, SharedLost

if "CI" in os.environ:
    importlib.import_module("coredis")
else:
    pytest.importorskip("coredis", reason="coredis is not installed: pip install 'trio-wsk[redis]'")

import coredis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# coredis leaves the streams of a connection to the collector that could not be established.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")

FULL, FULL_BY_SOURCE = "too-many-connections", "too-many-from-source"
FAST, FAST_BY_SOURCE = "too-fast", "source-too-fast"
A, B = "192.0.2.7", "192.0.2.8"


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests here, which begin it anew."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(module_server: RedisServer) -> Iterator[RedisServer]:
    """A server that knows nothing."""
    module_server.ask("FLUSHALL")
    module_server.ask("CONFIG", "RESETSTAT")
    yield module_server
    gc.collect()  # while the filter above holds


@asynccontextmanager
async def sharing(server: RedisServer, rule: Any, **options: Any) -> AsyncIterator[Shared]:
    """Be one of those that share this: with a client of its own, and patient."""
    client = coredis.Redis(HOST, server.port)
    async with client, Shared(client, rule, **{"timeout": PATIENCE, **options}) as shared:
        yield shared


class Fleet:
    """Gates whose rules share something."""

    def __init__(self, shared: list[Shared], gates: list[Gate]) -> None:
        self.shared = shared
        self.gates = gates

    async def come(self, number: int, *hosts: str) -> list[str]:
        """Have visitors come to one gate in the same moment; return their fates, sorted.

        Whose turn it is first in such a moment is Trio's choice.
        """
        return sorted(each.fate for each in await self.visitors(number, *hosts))

    async def visitors(self, number: int, *hosts: str) -> list[Visitor]:
        """Have visitors come to one gate in the same moment, until all is decided."""
        gate = self.gates[number]
        return await decided(gate, await gate.come_together(*hosts))


async def decided(at: Gate, visitors: list[Visitor]) -> list[Visitor]:
    """Wait for what becomes of these."""
    with trio.fail_after(PATIENCE):
        while any(each.fate == UNDECIDED for each in visitors):
            await at.look()
            await trio.sleep(0.001)
    return visitors


@asynccontextmanager
async def fleet(server: RedisServer, *rules: Any, **options: Any) -> AsyncIterator[Fleet]:
    """Be as many as there are rules, which are alike."""
    async with AsyncExitStack() as stack:
        shared = [
            await stack.enter_async_context(sharing(server, rule, **options)) for rule in rules
        ]
        gates = [await stack.enter_async_context(gate(Rules(each))) for each in shared]
        yield Fleet(shared, gates)


def places(server: RedisServer) -> list[int]:
    """Return how many places the server knows of, by process and source."""
    counts = []
    for key in server.ask("KEYS", "trio_wsk:connections*"):
        values = server.ask("HVALS", key)
        counts += [int(value.partition(b" ")[0]) for value in values]
    return sorted(counts)


# --- Limits -----------------------------------------------------------------------------------


async def test_limit_of_a_source_is_for_all_together(server: RedisServer) -> None:
    """What one has let in counts for the other, and so does what has left there."""
    async with fleet(server, SourceLimit(3), SourceLimit(3)) as those:
        ours = await those.visitors(0, A, A)

        assert [IN, FULL_BY_SOURCE] == await those.come(1, A, A)
        assert [IN, IN] == await those.come(1, B, B)

        await ours[0].leave()
        await until(lambda: places(server) == [1, 1, 2])

        assert [IN, FULL_BY_SOURCE] == await those.come(1, A, A)


async def test_limit_in_all_is_for_all_together(server: RedisServer) -> None:
    """Wherever they come from, and wherever to."""
    async with fleet(server, ConnectionLimit(3), ConnectionLimit(3)) as those:
        ours = await those.visitors(0, A, B)

        assert [IN, FULL] == await those.come(1, A, B)

        await ours[0].leave()
        await until(lambda: places(server) == [1, 1])

        assert [IN, FULL] == await those.come(0, A, B)


async def test_nobody_is_asked_who_has_too_many_by_itself(server: RedisServer) -> None:
    """A source that is at the limit here is turned away at once, and without a task."""
    async with fleet(server, SourceLimit(1)) as those:
        assert [IN] == await those.come(0, A)
        asked = server.calls("evalsha")

        assert [FULL_BY_SOURCE] * 3 == await those.come(0, A, A, A)
        assert asked == server.calls("evalsha")


async def test_all_that_wait_are_one_round_trip(server: RedisServer) -> None:
    """Those that come while one is asked about wait for it, and are asked about together."""
    async with fleet(server, SourceLimit(2)) as those:
        assert [IN] == await those.come(0, "198.51.100.1")
        asked = server.calls("evalsha")
        at = those.gates[0]
        server.stop()
        first = await at.come_together(A)
        others = await at.come_together(*[f"192.0.2.{number % 40}" for number in range(120)])

        assert UNDECIDED == first[0].fate

        server.go_on()
        fates = [each.fate for each in await decided(at, others)]

        assert asked + 2 == server.calls("evalsha")
        assert fates.count(IN) == 80 - (first[0].fate == IN)


async def test_peer_that_does_not_wait_takes_no_place(server: RedisServer) -> None:
    """Who leaves while the server is asked has no place, here or there, whatever it says."""
    limit = SourceLimit(2)
    async with fleet(server, limit, SourceLimit(2)) as those:
        at = those.gates[0]
        server.stop()
        leaving, staying = await at.come_together(A, A)
        await leaving.stream.aclose()
        await at.look()
        server.go_on()
        await decided(at, [staying])

        assert IN == staying.fate
        await until(lambda: places(server) == [1])
        assert 1 == limit.open_from(Address.tcp(A, 1))
        assert [IN, FULL_BY_SOURCE] == await those.come(1, A, A)


async def test_place_moves_to_whom_a_proxy_speaks_for(server: RedisServer) -> None:
    """What was counted for the balancer is its client's, for the others as well."""
    async with (
        sharing(server, SourceLimit(1)) as shared,
        gate(Rules(shared, ProxyProtocol(required=[A]))) as at,
        fleet(server, SourceLimit(1)) as those,
    ):
        (visitor,) = await at.come_together(A)
        await visitor.stream.send_all(b"PROXY TCP4 192.0.2.8 192.0.2.1 1 2\r\n")
        await decided(at, [visitor])
        await until(lambda: [b"8"] == [key[-1:] for key in server.ask("KEYS", "*")])

        assert [FULL_BY_SOURCE] == await those.come(0, B)
        assert [IN] == await those.come(0, A)


async def test_body_s_exceptions_come_out_bare(server: RedisServer) -> None:
    """Who catches an exception of the body gets it, and no group around it."""
    client = coredis.Redis(HOST, server.port)
    async with client:
        with pytest.raises(KeyError):
            async with Shared(client, SourceLimit(1)):
                raise KeyError


async def test_lease_of_who_is_gone_ends_by_itself(server: RedisServer) -> None:
    """Who does not say good-bye holds its places for one lease, and no longer."""

    async def be_one(*, task_status: trio.TaskStatus[None]) -> None:
        async with sharing(server, SourceLimit(1), lease=0.5) as shared, gate(Rules(shared)) as at:
            await decided(at, await at.come_together(A))
            task_status.started()
            await trio.sleep_forever()

    async with fleet(server, SourceLimit(1)) as those, trio.open_nursery() as nursery:
        await nursery.start(be_one)

        assert [FULL_BY_SOURCE] == await those.come(0, A)

        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await until(lambda: not server.ask("KEYS", "*"))

            assert [IN] == await those.come(0, A)


async def test_lease_is_renewed_as_long_as_somebody_runs(server: RedisServer) -> None:
    """A connection that is open for much longer than a lease still counts."""
    async with fleet(server, SourceLimit(1), SourceLimit(1), lease=0.3) as those:
        assert [IN] == await those.come(0, A)
        (key,) = server.ask("KEYS", "*")
        ends: list[object] = []
        for _ in range(6):
            await until(lambda: server.ask("HVALS", key) not in ends)
            ends.append(server.ask("HVALS", key))

        assert [FULL_BY_SOURCE] == await those.come(1, A)


async def test_what_is_said_last_is_that_all_is_given_back(server: RedisServer) -> None:
    """When the block is left after the server's, nothing is left on the server."""
    async with sharing(server, SourceLimit(5)) as shared, gate(Rules(shared)) as at:
        for visitor in await decided(at, await at.come_together(A, A, B)):
            assert visitor.connection is not None
            visitor.connection.close()

    assert [] == server.ask("KEYS", "*")


# --- Rates and penalties ----------------------------------------------------------------------


@pytest.mark.parametrize("make", [RateLimit, SourceRateLimit])
async def test_rate_is_for_all_together(make: Any, server: RedisServer) -> None:
    """What was let through there is not let through here."""
    async with fleet(server, *(make(1, per=3600, burst=4) for _ in range(2))) as those:
        assert [IN, IN, IN] == await those.come(0, A, A, A)

        fates = await those.come(1, A, A, A)

        assert IN == fates[0]
        assert {FAST if make is RateLimit else FAST_BY_SOURCE} == {*fates[1:]}


async def test_penalties_go_to_all(server: RedisServer) -> None:
    """Those that are added here and there add up; who is forgiven here is forgiven there."""
    here, there = Penalties(threshold=100), Penalties(threshold=100)
    peer = Address.tcp(A, 1)
    async with fleet(server, here, there) as those:
        here.add(peer, 60, "login-failed")
        assert [IN] == await those.come(0, A)
        assert [IN] == await those.come(1, A)
        there.add(peer, 60, "login-failed")
        assert [IN, "penalized"] == await those.come(1, A, B)
        assert [IN, "penalized"] == await those.come(0, A, B)
        assert here.remaining(peer) > 100

        there.forgive(peer)
        assert [IN] == await those.come(1, A)
        assert [IN] == await those.come(0, A)
        assert 0 == here.remaining(peer)


async def test_penalties_of_bad_times_are_told_later(server: RedisServer) -> None:
    """What is added while the server is lost counts here at once, and there when it is back."""
    here, there = Penalties(threshold=100), Penalties(threshold=100)
    peer = Address.tcp(A, 1)
    async with fleet(server, here, there, timeout=0.1) as those:
        await lose(server, those)
        here.add(peer, 60, "login-failed")
        here.add(peer, 60, "login-failed")
        assert ["penalized"] == await those.come(0, A)
        server.go_on()
        await until(lambda: not any(each.is_lost for each in those.shared))

        await until(lambda: server.ask("KEYS", "*"))
        assert ["penalized"] == await those.come(1, A)
        assert 100 < there.remaining(peer) <= 120


# --- A server that comes and goes --------------------------------------------------------------


async def lose(server: RedisServer, those: Fleet) -> None:
    """Stop the server, and have all take note."""
    server.stop()
    for number, each in enumerate(those.shared):
        await those.come(number, "198.51.100.99")
        assert each.is_lost


@pytest.mark.parametrize(
    ("when_lost", "fates"),
    [
        ("local", [IN, FULL_BY_SOURCE]),
        ("pass", [IN, IN]),
        ("reject", ["shared-lost", "shared-lost"]),
    ],
)
async def test_without_the_server_the_fallback_decides(
    when_lost: Any, fates: list[str], server: RedisServer
) -> None:
    """
    Who waits when the server stands still has the fallback's answer, and whoever comes then has
    it at once. When the server is back it decides, and knows who was let in meanwhile.
    """
    records: list[Record] = []
    options: Any = {"when_lost": when_lost, "timeout": 0.1, "observers": [records.append]}
    async with fleet(server, SourceLimit(1), SourceLimit(1), **options) as those:
        await lose(server, those)
        at = those.gates[0]
        visitors = await at.come_together(A, A)  # which waits for no answer

        assert fates == sorted(each.fate for each in visitors)
        assert those.shared[0].fallbacks >= 2

        server.go_on()
        await until(lambda: not any(each.is_lost for each in those.shared))
        await until(lambda: sum(places(server)) == at_both(those))

        expected = IN if when_lost == "reject" else FULL_BY_SOURCE
        assert [expected] == await those.come(1, A)

    lost = [record for record in records if isinstance(record, SharedLost)]
    back = [record for record in records if isinstance(record, SharedBack)]
    assert [("source-limit", None)] * 2 == [(each.name, each.error) for each in lost]
    assert 2 == len(back)
    assert all(each.seconds > 0 for each in back)


def at_both(those: Fleet) -> int:
    """Return how many connections are open."""
    return sum(each.fate == IN for at in those.gates for each in at.visitors)


@pytest.mark.parametrize("rule", [RateLimit(1, per=3600), Penalties()], ids=["rate", "penalties"])
@pytest.mark.parametrize("when_lost", ["local", "pass", "reject"])
async def test_without_the_server_other_rules_fall_back_as_well(
    rule: Any, when_lost: Any, server: RedisServer
) -> None:
    """By the rule alone, by letting all in, or by turning all away."""
    async with fleet(server, rule, when_lost=when_lost, timeout=0.1) as those:
        server.stop()
        first = await those.come(0, A)
        second = await those.come(0, A)
        server.go_on()

        if when_lost == "reject":
            assert ["shared-lost"] == first == second
        elif when_lost == "local" and isinstance(rule, RateLimit):
            assert ([IN], [FAST]) == (first, second)
        else:
            assert [IN] == first == second


async def test_server_that_was_killed_is_found_again(server: RedisServer) -> None:
    """
    Who is told says by which error. A server that begins anew knows no script and no place: it
    has both again with the first words.
    """
    records: list[Record] = []
    options: Any = {"observers": [records.append]}
    async with fleet(server, SourceLimit(2), SourceLimit(2), **options) as those:
        assert [IN, IN] == [*await those.come(0, A), *await those.come(1, A)]

        server.kill()
        assert [IN] == await those.come(0, B)
        server.start()
        await until(lambda: not those.shared[0].is_lost)
        await until(lambda: sum(places(server)) >= 2)
        assert [IN] == await those.come(1, "198.51.100.1")  # by which it notices, too
        await until(lambda: sum(places(server)) == at_both(those))

        assert [FULL_BY_SOURCE] == await those.come(0, A)
        assert [IN, FULL_BY_SOURCE] == await those.come(1, B, B)

    assert isinstance(records[0], SharedLost)
    assert isinstance(records[0].error, coredis.exceptions.ConnectionError)
    assert any(isinstance(record, SharedBack) for record in records)


async def test_server_that_was_flushed_has_all_again_with_the_next_renewal(
    server: RedisServer,
) -> None:
    """What is held is said again and again."""
    async with fleet(server, SourceLimit(2), SourceLimit(2), lease=0.3) as those:
        assert [IN, IN] == [*await those.come(0, A), *await those.come(1, A)]

        server.ask("FLUSHALL")
        server.ask("SCRIPT", "FLUSH")
        await until(lambda: places(server) == [1, 1])

        assert [FULL_BY_SOURCE] * 2 == [*await those.come(0, A), *await those.come(1, A)]


async def test_server_that_was_lost_hundreds_of_times_is_found_again(server: RedisServer) -> None:
    """Connections that broke are no loss: the client's pool has 64 places, and none gets lost."""
    async with fleet(server, SourceLimit(100_000)) as those:
        for _ in range(70):
            assert [IN] == await those.come(0, A)
            server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        assert [IN] == await those.come(0, A)


async def test_server_that_answers_with_an_error_is_lost(server: RedisServer) -> None:
    """The error is told; the listener goes on, and the server is back when it is repaired."""
    records: list[Record] = []
    async with fleet(server, SourceLimit(1), observers=[records.append]) as those:
        server.ask("SET", "trio_wsk:connections-by-source:source-limit{7}:4-c0000207", "nonsense")

        assert [IN, FULL_BY_SOURCE] == [*await those.come(0, A), *await those.come(0, A)]
        assert isinstance(records[0], SharedLost)
        assert isinstance(records[0].error, coredis.exceptions.WrongTypeError)

        server.ask("FLUSHALL")
        await until(lambda: not those.shared[0].is_lost)
        await until(lambda: places(server) == [1])


async def test_answer_that_waits_for_us_is_in_time(server: RedisServer) -> None:
    """A process that did something else for too long does not blame the server."""
    async with fleet(server, SourceLimit(1), timeout=0.2) as those:
        assert [IN] == await those.come(0, B)
        asked = server.calls("evalsha")
        at = those.gates[0]
        visitors = await at.come_together(A)
        deadline = time.monotonic() + PATIENCE
        while server.calls("evalsha") == asked:
            assert time.monotonic() < deadline
        time.sleep(0.3)  # noqa: ASYNC251 - which is what it is about
        await decided(at, visitors)

        assert not those.shared[0].is_lost
        assert 0 == those.shared[0].fallbacks


# --- Clusters, and primaries that change -------------------------------------------------------


async def test_cluster_is_shared_by_as_well(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Sources are spread over its nodes; one that is gone is enough to fall back."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        location = coredis.connection.TCPLocation(HOST, nodes[0].port)
        async with AsyncExitStack() as stack:
            gates, shared = [], []
            for _ in range(2):
                client = await stack.enter_async_context(
                    coredis.RedisCluster(startup_nodes=[location])
                )
                shared.append(
                    await stack.enter_async_context(
                        Shared(client, SourceLimit(3), timeout=PATIENCE)
                    )
                )
                gates.append(await stack.enter_async_context(gate(Rules(shared[-1]))))
            those = Fleet(shared, gates)
            hosts = [f"192.0.2.{number}" for number in range(48)]

            assert [IN] * 96 == await those.come(0, *hosts, *hosts)
            assert 48 == (await those.come(1, *hosts, *hosts)).count(IN)
            assert all(node.ask("DBSIZE") for node in nodes)

            nodes[1].kill()
            assert [IN] * 48 == await those.come(0, *[f"198.51.100.{n}" for n in range(48)])
            assert shared[0].is_lost
    gc.collect()


# --- How it is used ---------------------------------------------------------------------------


async def test_it_is_entered_inside_of_the_clients_block(server: RedisServer) -> None:
    """Whoever enters things in another order is told which is right."""
    client = coredis.Redis(HOST, server.port)
    shared = Shared(client, SourceLimit(1))
    with pytest.raises(InvalidDeviceStateError, match="async with client, Shared"):
        await shared.__aenter__()
    async with client, shared:
        with pytest.raises(InvalidDeviceStateError, match="entered already"):
            await shared.__aenter__()
        async with gate(Rules(shared)) as at:
            assert [IN] == [each.fate for each in await decided(at, [await at.come(A)])]
    async with client, shared:  # and once more
        assert not shared.is_lost


async def test_who_asks_outside_of_its_block_is_told(server: RedisServer) -> None:
    """The request is turned away, as with any rule that fails."""
    shared = Shared(coredis.Redis(HOST, server.port), SourceLimit(1))
    async with gate(Rules(shared)) as at:
        assert ["inspector-failed"] == await at.come_all(A)

    (failed,) = (record.error for record in at.records if hasattr(record, "error"))
    assert "outside of its block" in str(failed)


async def test_penalties_are_shared_once(server: RedisServer) -> None:
    """Penalties tell one Shared what was added, and not two."""
    penalties = Penalties()
    client = coredis.Redis(HOST, server.port)
    async with client, Shared(client, penalties):
        another = Shared(client, penalties, name="another")
        with pytest.raises(InvalidDeviceStateError, match="shared already"):
            await another.__aenter__()


async def test_names_tell_apart_what_is_shared(server: RedisServer) -> None:
    """Another name is another limit, and so is another prefix."""
    async with AsyncExitStack() as stack:
        fates = []
        for options in ({}, {"name": "smtp"}, {"prefix": "test"}, {}):
            enter = partial(sharing, server, SourceLimit(1), **options)
            shared = await stack.enter_async_context(enter())
            at = await stack.enter_async_context(gate(Rules(shared)))
            fates += [each.fate for each in await decided(at, await at.come_together(A))]

        assert [IN, IN, IN, FULL_BY_SOURCE] == fates


async def test_dry_run_asks_the_server(server: RedisServer) -> None:
    """What it would have turned away is counted."""
    async with sharing(server, SourceLimit(1)) as shared:
        rules = Rules(dry_run(shared))
        async with gate(rules) as at:
            assert [IN, IN] == [
                each.fate for each in await decided(at, await at.come_together(A, A))
            ]

    assert {FULL_BY_SOURCE: 1} == rules.statistics()["source-limit"].would_reject


def test_missing_coredis_is_named() -> None:
    """Without coredis, making one says what brings it; nothing imports it before."""
    program = (
        "import sys\nfrom trio_wsk.inspectors import Shared, SourceLimit\n"
        "assert 'coredis' not in sys.modules\nsys.modules['coredis'] = None\n"
        "try:\n    Shared(None, SourceLimit(1))\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=60
    )

    assert "pip install 'trio-wsk[redis]'" in done.stdout


@pytest.mark.parametrize("rule", [None, 7, SourceLimit, lambda request: None])
def test_only_limits_rates_and_penalties_are_shared(rule: Any) -> None:
    """Of others there is nothing that could be."""
    with pytest.raises(InvalidParameterError, match="rule is a ConnectionLimit"):
        Shared(coredis.Redis(), rule)
