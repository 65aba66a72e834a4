"""`DnsLists`: what lists in DNS say of a peer, asked of a DNS server of our own on loopback."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.helpers.ruling import IN, UNDECIDED, Gate, Visitor, gate
from tests.helpers.support import PATIENCE, connect, fate_of
from trio_wsk import Connection, InvalidParameterError, open_server
from trio_wsk.inspectors import DnsListing, DnsLists, DnsZone, ProxyProtocol, Rules

if "CI" in os.environ:
    importlib.import_module("dns")
else:
    pytest.importorskip("dns", reason="dnspython is not installed: pip install 'trio-wsk[dns]'")

from tests.helpers.dns_server import (
    HOST,
    DnsServer,
    addresses,
    dns_server,
    failure,
    garbage,
    not_listed,
    of_another_question,
    silence,
    truncated,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    Reply = Any

A, B = "9.9.9.9", "8.8.4.4"
"""Addresses of the Internet; nothing is sent there."""
A_IN_BAD, B_IN_BAD = "9.9.9.9.bad.test", "4.4.8.8.bad.test"
A_IN_GOOD, A_IN_WORSE = "9.9.9.9.good.test", "9.9.9.9.worse.test"
GOOD = DnsZone("good.test", -2)


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    """A DNS server."""
    async with dns_server() as server:
        yield server


def lists_of(server: DnsServer, *lists: str | DnsZone, **more: Any) -> DnsLists:
    """Make the rule that asks that server."""
    return DnsLists(*lists, nameservers=[HOST], port=server.port, timeout=PATIENCE, **more)


async def decided(at: Gate, *visitors: Visitor) -> list[str]:
    """Wait for what becomes of these, whichever clock there is."""
    while any(each.fate == UNDECIDED for each in visitors):
        await at.look()
    return [each.fate for each in visitors]


async def fates(at: Gate, *hosts: str) -> list[str]:
    """Have visitors come one after the other; return what became of them."""
    return [(await decided(at, await at.come(host)))[0] for host in hosts]


def listing_of(visitor: Visitor) -> DnsListing:
    """Return the fact of one that was let in."""
    assert visitor.connection is not None
    return visitor.connection.facts[DnsListing]


# --- What is asked, and what answers mean -----------------------------------------------------


async def test_who_is_listed_is_turned_away(server: DnsServer) -> None:
    """An answer in 127.0.0.0/8 is a listing, and no such name is none."""
    server.says[A_IN_BAD] = addresses("127.0.0.2")
    rules = Rules(lists_of(server, "bad.test"))
    async with gate(rules) as at:
        assert ["dns-listed", IN] == await fates(at, A, B)

    assert [A_IN_BAD, B_IN_BAD] == server.asked
    assert {"dns-listed": 1} == rules.statistics()["dns-lists"].rejected


@pytest.mark.parametrize("host", ["10.0.0.1", "127.0.0.1", "100.64.0.1", "192.0.2.1"])
async def test_nobody_is_asked_about_private_addresses(host: str, server: DnsServer) -> None:
    """Who does not come from the Internet is let on at once."""
    async with gate(Rules(lists_of(server, "bad.test"))) as at:
        assert [IN] == await at.come_all(host)
    assert not server.asked


async def test_all_lists_are_asked_at_once(server: DnsServer) -> None:
    """All questions have come before any is answered."""
    server.hold()
    async with gate(Rules(lists_of(server, "bad.test", "worse.test", GOOD))) as at:
        visitor = await at.come(A)
        with trio.fail_after(PATIENCE):
            await server.asked_about(3)

        assert UNDECIDED == visitor.fate
        assert {A_IN_BAD, A_IN_WORSE, A_IN_GOOD} == {*server.asked}

        server.may_answer.set()

        assert [IN] == await decided(at, visitor)


@pytest.mark.parametrize(
    ("listed_in", "threshold", "fate"),
    [
        ([A_IN_BAD], 1, "dns-listed"),
        ([A_IN_BAD], 1.5, IN),
        ([A_IN_BAD, A_IN_WORSE], 1.5, "dns-listed"),
        ([A_IN_BAD, A_IN_GOOD], 1, IN),
        ([A_IN_BAD, A_IN_WORSE, A_IN_GOOD], 1, IN),
        ([A_IN_BAD, A_IN_WORSE, A_IN_GOOD], 0.5, "dns-listed"),
        ([A_IN_GOOD], 0.5, IN),
    ],
)
async def test_weights_are_added_up(
    listed_in: list[str], threshold: float, fate: str, server: DnsServer
) -> None:
    """The sum decides, and an allow list outweighs what others say."""
    server.says.update(dict.fromkeys(listed_in, addresses("127.0.0.2")))
    lists = lists_of(server, "bad.test", DnsZone("worse.test", 1.5), GOOD, threshold=threshold)
    async with gate(Rules(lists)) as at:
        assert [fate] == await fates(at, A)


async def test_what_lists_say_is_a_fact(server: DnsServer) -> None:
    """
    The connection has the zones, the answers that count, and the score; from the cache, too.
    One outside of 127.0.0.0/8 never counts.
    """
    server.says[A_IN_BAD] = addresses("127.0.0.2", "127.0.0.9", "192.0.2.1")
    server.says[A_IN_WORSE] = failure
    lists = lists_of(
        server,
        DnsZone("bad.test", 3, answers=["127.0.0.0/29", "192.0.2.0/24"]),
        "worse.test",
        threshold=5,
    )
    async with gate(Rules(lists)) as at:
        assert [IN, IN] == await fates(at, A, A)

        expected = DnsListing({"bad.test": (IPv4Address("127.0.0.2"),)}, ("worse.test",), 3)
        assert [expected] * 2 == [listing_of(each) for each in at.visitors]


@pytest.mark.parametrize(
    ("answer", "fate"),
    [
        (addresses("127.255.0.1"), "dns-listed"),
        (addresses("192.0.2.80"), IN),
        (addresses("192.0.2.80", "127.0.0.4"), "dns-listed"),
        (truncated(addresses("127.0.0.2")), "dns-listed"),
        (truncated(not_listed()), IN),
        (garbage(addresses("127.0.0.2")), "dns-listed"),
        (garbage(not_listed()), IN),
        (addresses("127.255.255.254"), "dns-failed"),
        (addresses("127.0.0.2", "127.255.255.252"), "dns-failed"),
        (failure, "dns-failed"),
        (truncated(failure), "dns-failed"),
    ],
    ids=[
        *("listed", "outside", "outside and listed", "truncated", "truncated, not listed"),
        *("garbage", "garbage, not listed", "refused", "listed and refused", "failure"),
        "failure over TCP",
    ],
)
@pytest.mark.parametrize("when_failed", ["pass", "reject"])
async def test_answer_is_a_listing_or_a_failure_or_neither(
    answer: Reply, fate: str, when_failed: Any, server: DnsServer
) -> None:
    """
    Answers outside of 127.0.0.0/8 are none, 127.255.255.x and SERVFAIL are failures, one that
    is too long comes over TCP, and what is no message is not looked at.
    """
    server.says[A_IN_BAD] = answer
    lists = lists_of(server, "bad.test", when_failed=when_failed)
    async with gate(Rules(lists)) as at:
        expected = IN if (fate, when_failed) == ("dns-failed", "pass") else fate
        assert [expected] == await fates(at, A)

    assert ({"bad.test": 1} if fate == "dns-failed" else {}) == lists.failed


# --- Failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when_failed", "failed", "listed_in", "fate"),
    [
        ("pass", A_IN_BAD, A_IN_WORSE, "dns-listed"),
        ("reject", A_IN_BAD, A_IN_WORSE, "dns-listed"),
        ("pass", A_IN_BAD, "", IN),
        ("reject", A_IN_BAD, "", "dns-failed"),
        ("reject", A_IN_BAD, A_IN_GOOD, IN),
        ("pass", A_IN_GOOD, A_IN_BAD, IN),
        ("reject", A_IN_GOOD, A_IN_BAD, "dns-failed"),
        ("reject", A_IN_GOOD, "", IN),
    ],
)
async def test_failed_list_counts_for_or_against_who_comes(
    when_failed: Any, failed: str, listed_in: str, fate: str, server: DnsServer
) -> None:
    """Only where the failed one might have made the difference does it matter."""
    server.says[failed] = failure
    server.says[listed_in] = addresses("127.0.0.2")
    lists = lists_of(server, "bad.test", "worse.test", GOOD, when_failed=when_failed)
    async with gate(Rules(lists)) as at:
        assert [fate] == await fates(at, A)


@pytest.mark.parametrize("says", [silence, of_another_question(addresses("127.0.0.2"))])
@pytest.mark.parametrize(("when_failed", "fate"), [("pass", IN), ("reject", "dns-failed")])
async def test_silence_ends_at_the_deadline(
    when_failed: Any,
    fate: str,
    says: Reply,
    server: DnsServer,
    mock_clock: trio.testing.MockClock,
) -> None:
    """Who is waited for no longer has failed; an answer that is not to our question is none."""
    server.says[A_IN_BAD] = says
    server.says[A_IN_WORSE] = addresses("127.0.0.2")
    lists = DnsLists(
        *("bad.test", "worse.test"),
        threshold=2,
        when_failed=when_failed,
        nameservers=[HOST],
        port=server.port,
        timeout=3,
    )
    async with gate(Rules(lists)) as at:
        visitor = await at.come(A)
        await server.asked_about(2)
        mock_clock.jump(2.9)
        await at.look()

        assert UNDECIDED == visitor.fate

        mock_clock.jump(0.1)

        assert [fate] == await decided(at, visitor)
        assert {"bad.test": 1} == lists.failed


async def test_nobody_there_is_a_failure(server: DnsServer) -> None:
    """A nameserver that refuses datagrams fails before the deadline."""
    async with dns_server() as other:
        port = other.port
    lists = DnsLists("bad.test", nameservers=[HOST], port=port, timeout=0.2, when_failed="reject")
    async with gate(Rules(lists)) as at:
        assert ["dns-failed"] == await fates(at, A)


# --- What is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "seconds"),
    [
        ((addresses("127.0.0.2", ttl=60), addresses("127.0.0.2", ttl=300)), 60),
        ((not_listed(90), addresses("127.0.0.2", ttl=300)), 90),
        ((not_listed(7), not_listed(9)), 7),
        ((addresses("127.0.0.2", ttl=0), not_listed(9)), 1),
        ((failure, addresses("127.0.0.2", ttl=60)), 30),
        ((failure, failure), 30),
        ((addresses("127.255.255.255", ttl=900), not_listed(900)), 30),
    ],
)
async def test_answers_are_kept_as_long_as_all_allow(
    answers: tuple[Reply, Reply],
    seconds: float,
    server: DnsServer,
    mock_clock: trio.testing.MockClock,
) -> None:
    """The shortest TTL counts, for absence the SOA record's minimum, for failures 30 seconds."""
    server.says[A_IN_BAD], server.says[A_IN_WORSE] = answers
    lists = lists_of(server, "bad.test", "worse.test", threshold=5)
    async with gate(Rules(lists)) as at:
        await fates(at, A)
        first = len(server.asked)
        mock_clock.jump(seconds - 0.5)
        await fates(at, A)

        assert first == len(server.asked)

        mock_clock.jump(0.5)
        await fates(at, A)

        assert first < len(server.asked)


async def test_absence_without_an_soa_record_is_not_kept_for_long(
    server: DnsServer, mock_clock: trio.testing.MockClock
) -> None:
    """Without it nobody has said for how long (RFC 2308, section 5)."""
    server.says[A_IN_BAD] = not_listed(None)
    async with gate(Rules(lists_of(server, "bad.test"))) as at:
        await fates(at, A, A)

        assert 1 == len(server.asked)

        mock_clock.jump(3600)
        await fates(at, A)

        assert 2 == len(server.asked)


async def test_so_many_answers_are_kept(server: DnsServer) -> None:
    """Beyond that the one goes that was asked about first."""
    lists = lists_of(server, "bad.test", most=2)
    async with gate(Rules(lists)) as at:
        await fates(at, A, B, "8.8.8.8")

        assert 2 == len(lists)

        await fates(at, "8.8.8.8", B)

        assert 3 == len(server.asked)

        await fates(at, A)

        assert 4 == len(server.asked)


@pytest.mark.parametrize("ttl", [0, 300])
async def test_those_who_come_meanwhile_wait_for_one_look_up(ttl: int, server: DnsServer) -> None:
    """Of one address there is one look-up at a time, and all have its answer, whatever its TTL."""
    server.hold()
    server.says[A_IN_BAD] = addresses("127.0.0.2", ttl=ttl)
    async with gate(Rules(lists_of(server, "bad.test"))) as at:
        visitors = [await at.come(host) for host in (A, A, B, A)]
        with trio.fail_after(PATIENCE):
            await server.asked_about(2)
        server.may_answer.set()

        assert [*["dns-listed"] * 2, IN, "dns-listed"] == await decided(at, *visitors)
        assert 2 == len(server.asked)


async def test_those_who_come_in_the_same_moment_wait_for_one_look_up(server: DnsServer) -> None:
    """Also if the pump has taken both before the look-up has begun."""
    async with gate(Rules(lists_of(server, "bad.test"))) as at:
        visitors = await at.come_together(A, A, A)

        assert [IN] * 3 == await decided(at, *visitors)
        assert 1 == len(server.asked)


async def test_peer_that_leaves_ends_its_look_up(server: DnsServer) -> None:
    """Nothing is kept of it, and the next one who waits asks."""
    server.hold()
    lists = lists_of(server, "bad.test")
    async with gate(Rules(lists)) as at:
        first, second = await at.come(A), await at.come(A)
        with trio.fail_after(PATIENCE):
            await server.asked_about(1)
            await first.leave()
            await server.asked_about(2)

            assert 0 == len(lists)

            await second.leave()
        server.may_answer.set()

        assert [IN] == await fates(at, B)
        assert 1 == len(lists)


# --- Over sockets ------------------------------------------------------------------------------


NIBBLES = "8.8.8.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.8.4.0.6.8.4.1.0.0.2"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"PROXY TCP4 {A} {B} 1 2\r\n", A_IN_BAD),
        ("PROXY TCP6 2001:4860:4860::8888 2001:db8::1 1 2\r\n", f"{NIBBLES}.bad.test"),
    ],
    ids=["IPv4", "IPv6"],
)
@pytest.mark.parametrize("is_listed", [False, True])
async def test_client_of_a_proxy_is_looked_up(
    line: str,
    name: str,
    is_listed: bool,  # noqa: FBT001 - by name
    server: DnsServer,
) -> None:
    """
    Over TCP, whom a proxy speaks for is asked about, by octets or nibbles in reverse (RFC 5782,
    section 2.4), and let in or reset.
    """
    server.says[name] = addresses("127.0.0.2") if is_listed else not_listed()

    async def greet(connection: Connection) -> None:
        await connection.send_all(str(connection.facts[DnsListing].score).encode())

    rules = Rules(ProxyProtocol(required=["127.0.0.0/8"]), lists_of(server, "bad.test"))
    async with open_server(greet, 0, host=HOST, inspect=rules) as opened:
        client = await connect(opened.local_addresses[0])
        await client.send_all(line.encode())
        with trio.fail_after(PATIENCE):
            if is_listed:
                assert "reset" == await fate_of(client)
            else:
                assert b"0.0" == await client.receive_some()
        await trio.aclose_forcefully(client)

        assert ({"dns-listed": 1} if is_listed else {}) == opened.statistics().listening.rejected
    assert [name] == server.asked


@pytest.mark.parametrize("place", [{"host": "::1"}, {"path": "socket"}], ids=["IPv6", "Unix"])
async def test_nobody_is_asked_about_a_peer_on_this_machine(
    place: dict[str, str], server: DnsServer, tmp_path: Path
) -> None:
    """Over ::1 and over a Unix socket a peer is let in at once, and no fact is added."""

    async def greet(connection: Connection) -> None:
        await connection.send_all(b"no fact" if DnsListing not in connection.facts else b"fact")

    at: Any = {"path": str(tmp_path / "socket")} if "path" in place else {"port": 0, **place}
    async with open_server(greet, inspect=Rules(lists_of(server, "bad.test")), **at) as opened:
        client = await connect(opened.local_addresses[0])
        with trio.fail_after(PATIENCE):
            assert b"no fact" == await client.receive_some()
        await trio.aclose_forcefully(client)
    assert not server.asked


# --- Making one ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lists",
    [(), ("bad.test", "Bad.Test"), ("bad.test.",), ("a b.test",), ("x" * 64 + ".test",), (7,)],
)
def test_what_are_no_lists_is_a_mistake(lists: Any) -> None:
    """No list, one twice, and what is no zone are refused, with what to write."""
    with pytest.raises(InvalidParameterError, match="such as"):
        DnsLists(*lists)


def test_resolver_of_the_machine_is_asked_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without nameservers, resolv.conf says whom to ask; where there is none, an error says so."""
    resolver = importlib.import_module("dns.resolver").BaseResolver
    read = resolver.read_resolv_conf
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(resolver, "read_resolv_conf", lambda self, _: read(self, str(path)))

    with pytest.raises(InvalidParameterError, match="write nameservers="):
        DnsLists("bad.test")

    path.write_text("nameserver 127.0.0.1\n")

    assert "DnsLists(bad.test)" == repr(DnsLists("bad.test"))


def test_missing_dnspython_is_named() -> None:
    """Without dnspython, making one says what brings it; nothing imports it before."""
    program = (
        "import sys\nfrom trio_wsk.inspectors import DnsLists\n"
        "assert 'dns' not in sys.modules\nsys.modules['dns'] = None\n"
        "try:\n    DnsLists('bad.test')\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=60
    )

    assert "pip install 'trio-wsk[dns]'" in done.stdout
