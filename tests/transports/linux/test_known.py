"""Whom the kernel refuses by itself before the handshake, because rules know them."""

from __future__ import annotations

import socket
import sys
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.gated import SYN_SENT, Gated, state_of
from tests.helpers.inspecting import Silent
from tests.helpers.kernel_sets import come, elements_of, fate_of, sets_here
from tests.helpers.namespaces import (
    HERE,
    THERE,
    as_ordinary_user,
    cabled_namespaces,
    in_own_namespace,
)
from tests.helpers.programs import LONG
from tests.helpers.support import until
from trio_wsk import (
    Address,
    AddressSet,
    CloseStyle,
    InspectPoint,
    ListeningSocket,
    open_listening_socket,
)
from trio_wsk.inspectors import (
    Need,
    NetworksFile,
    Penalties,
    Rules,
    SourceLimit,
    allow_only,
    deny,
    needs,
)
from trio_wsk.transports import LinuxTransport, NetworkList, RefusedNetworks
from trio_wsk.transports.linux import _known
from trio_wsk.transports.linux._known import KnownSources
from trio_wsk.transports.linux._rules import IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio_wsk import ConnectionRequest
    from trio_wsk.inspectors import Rule

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

PEER = Address.tcp("127.0.5.1", 1)


@asynccontextmanager
async def inspecting(
    *rules: Rule, host: str | None = "127.0.0.1", transport: LinuxTransport | None = None
) -> AsyncIterator[ListeningSocket]:
    """Open a listening socket with rules before the handshake."""
    async with open_listening_socket(
        transport=transport or LinuxTransport.tcp(0, host=host),
        inspect=Rules(*rules),
        inspect_point=InspectPoint.BEFORE_HANDSHAKE,
        observers=[Silent()],
    ) as listening:
        yield listening


async def fates(listening: ListeningSocket, *sources: str) -> list[str]:
    """Have clients come from there, one after the other; return what became of them."""
    return [await come(listening.local_addresses[0], source) for source in sources]


def counted(listening: ListeningSocket, name: str) -> int:
    """Return what the transport has counted."""
    return listening.statistics().transport[name]


# ----------------------------------------------------------------------------------- networks


async def refuse_the_listed() -> None:
    """Have a list refused, up to its edges."""
    denied = ["127.0.1.0/24", "127.0.2.0/24", "127.0.4.4", "127.255.255.128/25"]
    async with inspecting(deny(denied)) as listening:
        inside = ["127.0.1.0", "127.0.2.255", "127.0.4.4", "127.255.255.128", "127.255.255.254"]
        outside = ["127.0.0.255", "127.0.3.0", "127.0.4.3", "127.0.4.5", "127.255.255.127"]

        assert ["refused"] * 5 == await fates(listening, *inside)
        assert 0 == listening.statistics().inspected
        assert ["in"] * 5 == await fates(listening, *outside)
        assert 5 == listening.statistics().inspected
        assert (5, 4) == (
            counted(listening, "refused_in_kernel"),
            counted(listening, "networks_in_kernel"),
        )

    assert 5 == counted(listening, "refused_in_kernel")
    assert [] == sets_here()


@in_own_namespace
async def test_listed_are_refused_unasked() -> None:
    """
    Who comes from a network that the first rule denies is refused without a request, and counted;
    who comes from beside it is asked about. The sets go with the listening socket.
    """
    await refuse_the_listed()


@as_ordinary_user
async def test_listed_are_refused_in_an_ordinary_users_network() -> None:
    """So it is in a network that a user without rights has made."""
    await refuse_the_listed()


@in_own_namespace
async def test_silence_is_kept_as_the_rule_would() -> None:
    """Where the rule turns away in silence the kernel says nothing either."""
    async with inspecting(deny(["127.0.1.0/24"], close=CloseStyle.SILENT)) as listening:
        with socket.socket() as client:
            client.bind(("127.0.1.1", 0))
            client.settimeout(0)
            client.connect_ex(listening.local_addresses[0].sockaddr)
            await until(lambda: counted(listening, "refused_in_kernel"))

            assert (SYN_SENT, 0) == (state_of(client), listening.statistics().inspected)


@in_own_namespace
async def test_others_than_the_allowed_are_refused() -> None:
    """A rule that lets some networks through has the kernel refuse all others."""
    async with inspecting(allow_only(["127.0.1.0/24"])) as listening:
        assert ["in", "refused"] == await fates(listening, "127.0.1.1", "127.0.2.1")
        assert (1, 1) == (
            listening.statistics().inspected,
            counted(listening, "refused_in_kernel"),
        )


@in_own_namespace
async def test_nobody_is_allowed_by_an_empty_list() -> None:
    """Of an empty list all are the others, and none is in it."""
    async with inspecting(deny([]), allow_only([])) as listening:
        assert ["refused"] == await fates(listening, "127.0.1.1")
        assert 1 == counted(listening, "refused_in_kernel")


@pytest.mark.parametrize("host", [HERE[0], HERE[1]], ids=["IPv4", "IPv6"])
@in_own_namespace
async def test_listed_are_refused_over_a_cable(host: str) -> None:
    """
    In either family whoever is listed is refused, by the one address or by the prefix that makes
    the source, also at a socket that has both.
    """
    peer = THERE[HERE.index(host)]
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    penalties = Penalties(threshold=1, ipv4_prefix=24)
    denied = NetworkList(AddressSet([peer]))
    with cabled_namespaces() as (_, there):

        async def _come() -> str:
            place = Address.tcp(host, listening.local_addresses[0].port)
            with there.socket(family) as client:
                client.settimeout(0)
                client.connect_ex(place.sockaddr)
                return await fate_of(client)

        async with inspecting(deny(Listed(denied)), penalties, host=None) as listening:
            assert "refused" == await _come()

            denied.replace(AddressSet())
            await wait_all_tasks_blocked()

            assert "in" == await _come()

            neighbour = "2001:db8::ffff" if ":" in peer else "192.0.2.99"
            penalties.add(Address.tcp(neighbour, 1), 100, "x")
            await wait_all_tasks_blocked()

            assert "refused" == await _come()
            assert (2, 1) == (
                counted(listening, "refused_in_kernel"),
                listening.statistics().inspected,
            )


class Listed:
    """Networks of somebody's own, which can be listed."""

    def __init__(self, listed: NetworkList) -> None:
        self.listed = listed

    def __contains__(self, address: Address) -> bool:
        return address in self.listed.networks


@in_own_namespace
async def test_file_that_was_read_again_takes_the_place_of_what_it_said(tmp_path: Path) -> None:
    """When a file was read again the kernel refuses who is in it now, and nobody else."""
    path = tmp_path / "networks"
    path.write_text("127.0.1.0/24\n127.0.2.0/24\n", encoding="ascii")
    networks = NetworksFile(path)
    async with inspecting(deny(networks)) as listening:
        assert ["refused", "refused", "in"] == await fates(
            listening, "127.0.1.1", "127.0.2.1", "127.0.3.1"
        )

        path.write_text("127.0.2.0/24\n127.0.3.0/24\n", encoding="ascii")
        await networks.reload()
        await wait_all_tasks_blocked()

        assert ["in", "refused", "refused"] == await fates(
            listening, "127.0.1.1", "127.0.2.1", "127.0.3.1"
        )
        assert (2, 4) == (
            listening.statistics().inspected,
            counted(listening, "refused_in_kernel"),
        )
        assert 1 == len(sets_here())


@in_own_namespace
async def test_list_may_be_replaced_from_a_thread() -> None:
    """The kernel is told in the thread of the listening socket, whoever replaces a list."""
    networks = NetworkList(AddressSet())
    async with inspecting(deny(Listed(networks))) as listening:
        await trio.to_thread.run_sync(networks.replace, AddressSet(["127.0.1.0/24"]))
        await until(lambda: counted(listening, "networks_in_kernel"))

        assert ["refused"] == await fates(listening, "127.0.1.1")
        assert 0 == listening.statistics().inspected
    networks.replace(AddressSet())  # nobody hears of it any more


def many(count: int, second: int = 1) -> AddressSet:
    """Return so many networks, of which no two are one."""
    return AddressSet(f"127.{second}.{number // 128}.{number % 128 * 2}" for number in range(count))


@in_own_namespace
async def test_long_list_is_told_in_many_turns() -> None:
    """
    A list that takes many turns of the loop is in force when the kernel has all of it; until then
    the rule is asked. Replaced meanwhile, only what took its place is ever in force.
    """
    count = 20 * _known.AT_ONCE
    networks = NetworkList(many(count))
    async with inspecting(deny(Listed(networks))) as listening:
        assert 0 == counted(listening, "networks_in_kernel")
        assert ["refused"] == await fates(listening, "127.1.0.0")
        assert (1, 0) == (
            listening.statistics().inspected,
            counted(listening, "refused_in_kernel"),
        )

        networks.replace(many(count, 2))
        seen: set[int] = set()

        def _is_there() -> bool:
            seen.add(counted(listening, "networks_in_kernel"))
            return seen != {0}

        await until(_is_there)

        assert {0, count} == seen
        assert ["in", "refused"] == await fates(listening, "127.1.0.0", "127.2.0.0")
        assert 1 == counted(listening, "refused_in_kernel")
        assert 1 == len(sets_here())
        assert 2 * count == len(elements_of("networks"))


@pytest.mark.heavy
@in_own_namespace
async def test_two_hundred_thousand_networks_are_refused_unasked() -> None:
    """A list as long as those that are published is in force to its edges, and goes as it came."""
    count = 200_000
    first = IPv4Address("127.1.0.0")
    networks = AddressSet(first + 2 * number for number in range(count))
    async with inspecting(deny(networks)) as listening:
        with trio.fail_after(LONG):
            while not counted(listening, "networks_in_kernel"):  # noqa: ASYNC110 - nobody says it
                await trio.sleep(0.01)
        inside = [str(first + offset) for offset in (0, 2 * count - 2)]
        outside = [str(first + offset) for offset in (1, 2 * count)]

        assert count == counted(listening, "networks_in_kernel")
        assert ["refused"] * 2 == await fates(listening, *inside)
        assert ["in"] * 2 == await fates(listening, *outside)
        assert (2, 2) == (
            listening.statistics().inspected,
            counted(listening, "refused_in_kernel"),
        )

    assert [] == sets_here()


@in_own_namespace
async def test_listed_are_refused_unasked_where_there_are_two_stages() -> None:
    """
    What stands before the first rule that needs octets is the kernel's; who is not on the list is
    let on to his handshake, and asked about his octets.
    """
    asked: list[InspectPoint] = []

    @needs(Need.OCTETS)
    def second(request: ConnectionRequest) -> None:
        asked.append(request.stage)

    async with inspecting(deny(["127.0.1.0/24"]), second) as listening:
        assert ["refused"] == await fates(listening, "127.0.1.1")
        assert (0, 1) == (
            listening.statistics().inspected,
            counted(listening, "refused_in_kernel"),
        )

        with socket.socket() as client:
            client.bind(("127.0.3.1", 0))
            client.settimeout(0)
            client.connect_ex(listening.local_addresses[0].sockaddr)

            assert await fate_of(client) == "in"

            await until(lambda: asked)

        assert [InspectPoint.AFTER_HANDSHAKE] == asked
        assert (1, 1, 1) == (
            listening.statistics().inspected,
            listening.statistics().let_on,
            counted(listening, "refused_in_kernel"),
        )


@in_own_namespace
async def test_listening_socket_may_close_while_the_kernel_is_told() -> None:
    """What was begun goes with the listening socket, and nothing more is told."""
    async with inspecting(deny(many(20 * _known.AT_ONCE))):
        assert [] != sets_here()
    await wait_all_tasks_blocked()

    assert [] == sets_here()


@in_own_namespace
async def test_list_that_is_too_long_is_left_to_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it or nothing: then nothing of what it said before is in force in the kernel."""
    monkeypatch.setattr(_known, "MOST_NETWORKS", 2)
    networks = NetworkList(AddressSet(["127.0.9.0/24"]))
    async with inspecting(deny(Listed(networks))) as listening:
        networks.replace(AddressSet(["127.0.1.1", "127.0.2.1", "127.0.3.1"]))
        await wait_all_tasks_blocked()

        assert ["refused", "in"] == await fates(listening, "127.0.1.1", "127.0.9.1")
        assert (0, 0, []) == (
            counted(listening, "networks_in_kernel"),
            counted(listening, "refused_in_kernel"),
            sets_here(),
        )
        assert {"denied": 1} == listening.statistics().rejected


# ---------------------------------------------------------------------------------- penalties


@in_own_namespace
async def test_penalized_are_refused_unasked_until_it_is_over() -> None:
    """Who has too many is refused without a request, and let in when they are over."""
    penalties = Penalties(threshold=1)
    async with inspecting(penalties) as listening:
        penalties.add(PEER, 3, "x")
        await wait_all_tasks_blocked()

        assert ["refused", "in"] == await fates(listening, "127.0.5.1", "127.0.5.2")
        assert 1 == counted(listening, "refused_in_kernel")

        before = penalties.remaining(PEER)
        while await come(listening.local_addresses[0], "127.0.5.1") == "refused":
            assert 1 < before

            before = penalties.remaining(PEER)

        assert 1 >= penalties.remaining(PEER)


@in_own_namespace
async def test_penalties_of_before_are_known() -> None:
    """A listening socket that opens later refuses those that have penalties by then."""
    penalties = Penalties(threshold=1)
    penalties.add(PEER, 100, "x")
    penalties.add(Address.tcp("127.0.5.2", 1), 1, "x")
    async with inspecting(penalties) as one, inspecting(penalties) as other:
        for listening in (one, other):
            assert ["refused", "in"] == await fates(listening, "127.0.5.1", "127.0.5.2")
            assert 1 == counted(listening, "refused_in_kernel")


@in_own_namespace
async def test_penalty_is_taken_back_and_made_longer() -> None:
    """Who is forgiven gets in; who gets more is refused for longer, and as often as it happens."""
    penalties = Penalties(threshold=10)
    async with inspecting(penalties) as listening:
        for seconds in (100, 200, 400):
            penalties.add(PEER, seconds, "x")
            await wait_all_tasks_blocked()
            (element,) = elements_of("sources")

            assert penalties.remaining(PEER) - 11 < element.seconds
            assert element.seconds <= penalties.remaining(PEER) - 9

        assert ["refused"] == await fates(listening, "127.0.5.1")

        for _ in range(2):
            penalties.forgive(PEER)
            await wait_all_tasks_blocked()

            assert ["in"] == await fates(listening, "127.0.5.1")

            penalties.add(PEER, 100, "x")
            await wait_all_tasks_blocked()

            assert ["refused"] == await fates(listening, "127.0.5.1")

        penalties.add(PEER, 100, "x")
        penalties.forgive(PEER)
        await wait_all_tasks_blocked()

        assert ["in"] == await fates(listening, "127.0.5.1")
        assert [] == elements_of("sources")


@in_own_namespace
async def test_exempt_are_never_refused() -> None:
    """Of a source that is a network those who are exempt come in, also when they are others."""
    exempt = NetworkList(AddressSet(["127.0.5.9"]))
    penalties = Penalties(threshold=1, ipv4_prefix=24, exempt=Listed(exempt))
    async with inspecting(penalties) as listening:
        penalties.add(PEER, 100, "x")
        await wait_all_tasks_blocked()

        assert ["refused", "refused", "in", "in"] == await fates(
            listening, "127.0.5.1", "127.0.5.8", "127.0.5.9", "127.0.6.1"
        )

        exempt.replace(AddressSet(["127.0.5.8"]))
        await wait_all_tasks_blocked()

        assert ["refused", "in", "refused"] == await fates(
            listening, "127.0.5.1", "127.0.5.8", "127.0.5.9"
        )
        assert 4 == counted(listening, "refused_in_kernel")
        assert 0 == counted(listening, "networks_in_kernel")


@in_own_namespace
async def test_source_for_which_there_is_no_room_is_left_to_the_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full set takes no more, which is counted; who is in it can still be forgiven."""
    monkeypatch.setattr(_known, "MOST_SOURCES", 2)
    penalties = Penalties(threshold=1)
    async with inspecting(penalties) as listening:
        for last in range(1, 4):
            penalties.add(Address.tcp(f"127.0.5.{last}", 1), 100, "x")
            await wait_all_tasks_blocked()

        assert ["refused"] * 3 == await fates(listening, *(f"127.0.5.{n}" for n in range(1, 4)))
        assert (2, 1) == (
            counted(listening, "refused_in_kernel"),
            counted(listening, "sources_left_out"),
        )

        penalties.forgive(PEER)
        penalties.forgive(Address.tcp("127.0.5.3", 1))
        await wait_all_tasks_blocked()

        assert ["in", "refused", "in"] == await fates(
            listening, *(f"127.0.5.{n}" for n in range(1, 4))
        )


# ------------------------------------------------------------------------------- which rules


@in_own_namespace
async def test_rule_behind_one_that_does_more_is_asked() -> None:
    """What stands behind a limit is not done before it."""
    async with inspecting(
        deny(["127.0.1.0/24"]), SourceLimit(5), deny(["127.0.2.0/24"])
    ) as listening:
        assert ["refused", "refused"] == await fates(listening, "127.0.1.1", "127.0.2.1")
        assert (1, {"denied": 1}, 1) == (
            listening.statistics().inspected,
            listening.statistics().rejected,
            counted(listening, "refused_in_kernel"),
        )


@in_own_namespace
async def test_first_of_two_rules_says_how() -> None:
    """Who is in two lists is told as the first one says."""
    async with inspecting(
        deny(["127.0.1.0/24"]), deny(["127.0.0.0/16"], close=CloseStyle.SILENT)
    ) as listening:
        assert ["refused"] == await fates(listening, "127.0.1.1")
        assert 1 == counted(listening, "refused_in_kernel")


@in_own_namespace
async def test_known_sources_use_up_no_rate_of_the_others() -> None:
    """A flood of those who are refused leaves ``most_syns_per_second`` to whoever else comes."""
    transport = LinuxTransport.tcp(0, host="127.0.0.1", most_syns_per_second=1)
    async with inspecting(deny(["127.0.1.0/24"]), transport=transport) as listening:
        assert ["refused"] * 20 == await fates(listening, *["127.0.1.1"] * 20)
        assert ["in"] == await fates(listening, "127.0.2.1")
        assert 0 == counted(listening, "limited")


@in_own_namespace
async def test_sets_of_one_socket_go_without_those_of_another() -> None:
    """Each listening socket has sets of its own, in both families if it has."""
    async with inspecting(deny(["127.0.1.0/24"])) as one:
        async with inspecting(deny(["127.0.2.0/24"]), host=None):
            assert [IPV4, IPV4, IPV6] == [family for family, _, _ in sets_here()]
        await wait_all_tasks_blocked()

        assert [IPV4] == [family for family, _, _ in sets_here()]
        assert ["refused", "in"] == await fates(one, "127.0.1.1", "127.0.2.1")


@in_own_namespace
async def test_kernel_that_will_not_leaves_all_to_the_rules() -> None:
    """Whatever the kernel refuses to do, at the beginning or later, is nobody's error."""
    networks = NetworkList(AddressSet(["127.0.1.0/24"]))
    penalties = Penalties(threshold=1)
    refused = (RefusedNetworks(listed=networks, close=CloseStyle.RESET), *penalties.refuses)
    with Gated("127.0.0.1") as gated:
        known = KnownSources(gated.gate, refused)
        known.open()
        await wait_all_tasks_blocked()

        assert 1 == known.counters()["networks_in_kernel"]

        gated.house.close()
        networks.replace(AddressSet(["127.0.2.0/24"]))
        penalties.add(PEER, 100, "x")
        await wait_all_tasks_blocked()
        late = KnownSources(gated.gate, refused)
        late.open()
        await wait_all_tasks_blocked()

        assert {"networks_in_kernel": 0, "sources_left_out": 1} == known.counters()
        assert {"networks_in_kernel": 0, "sources_left_out": 0} == late.counters()

        known.close()
        late.close()
        known.close()
        penalties.forgive(PEER)
