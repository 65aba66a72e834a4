"""Penalties: they add up, pass with time, and turn away who has too many."""

from __future__ import annotations

import ssl
from ipaddress import ip_network
from typing import Any

import pytest
import trio
import trio.lowlevel
import trustme

from tests.helpers.inspecting import PEND, REJECT
from tests.helpers.ruling import IN, gate
from tests.helpers.support import connect_now, until
from trio_wsk import Address, InvalidParameterError, Verdict, open_server
from trio_wsk.inspectors import Penalties, Rules

A, B = "192.0.2.7", "192.0.2.8"
PENALIZED = "penalized"


def at_port(host: str) -> Address:
    """Return an address there."""
    return Address.tcp(host, 1)


async def test_who_has_too_many_is_turned_away_until_they_have_passed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Penalties add up; below the threshold they are no reason; they pass with time."""
    penalties = Penalties(threshold=15)
    async with gate(Rules(penalties)) as at:
        visitor = await at.come(A)
        assert visitor.connection is not None
        for _ in range(3):
            penalties.add(visitor.connection, 5, "login-failed")

        assert [IN, IN] == await at.come_all(A, B)

        penalties.add(visitor.connection, 5, "login-failed")

        assert [PENALIZED, PENALIZED, IN] == await at.come_all(A, A, B)
        assert 20 == penalties.remaining(at_port(A))
        assert {"login-failed": 4} == penalties.added

        await trio.sleep(5)

        assert [IN] == await at.come_all(A)

        await trio.sleep(15)

        assert 0 == penalties.remaining(at_port(A))


async def test_penalties_have_a_maximum(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody is turned away for longer than that."""
    penalties = Penalties(threshold=1, most_seconds=60)
    async with gate(Rules(penalties)) as at:
        for _ in range(100):
            penalties.add(at_port(A), 50, "bad")

        assert 60 == penalties.remaining(at_port(A))

        await trio.sleep(59)

        assert [IN] == await at.come_all(A)


async def test_sources_are_listed_as_networks(autojump_clock: trio.testing.MockClock) -> None:
    """penalized() has the networks that have any penalty left, each with its seconds."""
    penalties = Penalties(ipv4_prefix=24, ipv6_prefix=48)
    penalties.add(at_port(A), 50, "bad")
    penalties.add(at_port("2001:db8:1:2::3"), 10, "bad")

    assert {ip_network("192.0.2.0/24"): 50, ip_network("2001:db8:1::/48"): 10} == (
        penalties.penalized()
    )

    await trio.sleep(20)

    assert {ip_network("192.0.2.0/24"): 30} == penalties.penalized()


async def test_who_is_forgiven_has_none() -> None:
    """A login that succeeds may take all of them away."""
    penalties = Penalties()
    async with gate(Rules(penalties)) as at:
        penalties.add(at_port(A), 100, "bad")

        assert [PENALIZED] == await at.come_all(A)

        penalties.forgive(at_port(A))
        penalties.forgive(at_port(B))

        assert [IN] == await at.come_all(A)


async def test_who_is_exempt_gets_none() -> None:
    """Networks that are exempt, and Unix peers, get no penalties."""
    penalties = Penalties(exempt=["192.0.2.0/24"])
    for address in (at_port(A), Address.unix("")):
        penalties.add(address, 100, "bad")

        assert 0 == penalties.remaining(address)
    assert 0 == len(penalties)
    assert {} == penalties.added


@pytest.mark.parametrize(("when_full", "fate"), [("pass", IN), ("reject", PENALIZED)])
async def test_table_has_a_bound(
    when_full: Any, fate: str, autojump_clock: trio.testing.MockClock
) -> None:
    """
    When there is no room, one more source gets no penalty, or all that are not known are turned
    away, until the first penalties have passed.
    """
    penalties = Penalties(threshold=1, most_sources=2, when_full=when_full)
    async with gate(Rules(penalties)) as at:
        for last in range(1, 5):
            penalties.add(at_port(f"192.0.2.{last}"), 10, "bad")

        assert 2 == len(penalties)
        assert 2 == penalties.overflowed
        assert [PENALIZED, PENALIZED, fate] == await at.come_all("192.0.2.1", "192.0.2.2", B)

        await trio.sleep(10.5)

        assert [IN] == await at.come_all(B)


async def test_long_penalty_holds_no_place_of_those_behind_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whose penalties are over makes room, also behind one who has many still."""
    penalties = Penalties(threshold=1, most_sources=2, when_full="reject")
    async with gate(Rules(penalties)) as at:
        penalties.add(at_port("192.0.2.1"), 500, "bad")
        penalties.add(at_port("192.0.2.2"), 5, "bad")

        assert [PENALIZED] == await at.come_all(B)

        await trio.sleep(6)

        assert [IN, PENALIZED] == await at.come_all(B, "192.0.2.1")


async def test_observer_penalizes_by_itself(autojump_clock: trio.testing.MockClock) -> None:
    """
    Requests that other rules turn away, and those without a verdict in time, are penalized; being
    turned away for one's penalties adds none.
    """
    penalties = Penalties(threshold=2)
    answers: dict[str, Any] = {A: Verdict(REJECT, "not-listed"), B: PEND}
    rules = Rules(penalties, lambda request: answers[str(request.remote_address.host)])
    async with gate(rules, observers=[penalties.observer(rejected=3, timed_out=4)]) as at:
        assert ["not-listed", PENALIZED] == await at.come_all(A, A)

        await at.come(B)
        await trio.sleep(10)
        await at.look()

        assert {"rejected": 1, "timed-out": 1} == penalties.added
        assert 4 == penalties.remaining(at_port(B))


async def _wait(_: object) -> None:
    await trio.sleep_forever()


async def test_failed_handshakes_are_penalized() -> None:
    """Who sends no TLS where there should be some is penalized, if the observer is the server's."""
    penalties = Penalties(threshold=2)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("server.test").configure_cert(context)
    async with open_server(
        _wait,
        0,
        host="127.0.0.1",
        ssl_context=context,
        observers=[penalties.observer(handshake_failed=5)],
    ) as server:
        client = connect_now(server.local_addresses[0])
        await client.send_all(b"no TLS at all, but long enough to be seen\r\n")
        await until(lambda: penalties.added)

        assert {"handshake-failed": 1} == penalties.added
        assert 0 < penalties.remaining(Address.tcp("127.0.0.1", 1))

        await client.aclose()


@pytest.mark.parametrize("who", [None, "192.0.2.7", 7])
async def test_who_is_penalized_has_an_address(who: Any) -> None:
    """A penalty is for a connection, a request, or an address."""
    with pytest.raises(InvalidParameterError, match="a connection, a request or an Address"):
        Penalties().add(who, 5, "bad")


def test_maximum_is_more_than_the_threshold() -> None:
    """Else nobody could ever have enough."""
    with pytest.raises(InvalidParameterError, match="more than threshold"):
        Penalties(threshold=60, most_seconds=60)
