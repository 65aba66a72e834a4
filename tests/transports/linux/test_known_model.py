"""Whatever happens to lists and penalties, the kernel refuses whom the rules refuse."""

from __future__ import annotations

import ipaddress
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.helpers.gated import Gated
from tests.helpers.kernel_sets import elements_of, is_in
from tests.helpers.namespaces import in_own_namespace
from trio_wsk import Address, AddressSet, CloseStyle
from trio_wsk.inspectors import Penalties
from trio_wsk.transports import NetworkList, RefusedNetworks
from trio_wsk.transports.linux import _known
from trio_wsk.transports.linux._known import KnownSources
from trio_wsk.transports.linux._rules import IPV4, IPV6

if TYPE_CHECKING:
    from trio_wsk.inspectors import HasAddresses

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN")

THRESHOLD = 1000
"""Seconds: much more than an example takes, and so is what is above it."""

LAST = range(16)
"""The hosts, four of which make a source."""

FIRST = {IPV4: "127.0.5.0", IPV6: "2001:db8::"}
HOST = {IPV4: "127.0.0.1", IPV6: "::1"}
BITS = {IPV4: 32, IPV6: 128}


def address(family: int, last: int) -> Any:
    """Return a host's address."""
    return ipaddress.ip_address(FIRST[family]) + last


hosts = st.sampled_from(LAST)
prefixes = st.sampled_from([0, 1, 2, 3]).flatmap(
    lambda bits: st.tuples(st.sampled_from(range(0, 16, 1 << bits)), st.just(bits))
)
steps = st.one_of(
    st.tuples(st.just("add"), hosts, st.sampled_from([1, THRESHOLD, 3 * THRESHOLD])),
    st.tuples(st.just("forgive"), hosts),
    st.tuples(st.just("deny"), st.lists(prefixes, max_size=8)),
    st.tuples(st.just("exempt"), st.lists(prefixes, max_size=3)),
    st.tuples(st.just("turn")),
    st.tuples(st.just("rest")),
)


class Exempt:
    """Networks that are exempt, and may be replaced."""

    def __init__(self) -> None:
        self.listed = NetworkList(AddressSet())

    def __contains__(self, peer: Address) -> bool:
        return peer in self.listed.networks


class World:
    """Rules, and a gate that knows what they say."""

    def __init__(self, gated: Gated, family: int) -> None:
        self.family = family
        self.denied = NetworkList(AddressSet())
        self.exempt = Exempt()
        exempt: HasAddresses = self.exempt
        self.penalties = Penalties(
            threshold=THRESHOLD,
            most_seconds=100 * THRESHOLD,
            ipv4_prefix=30,
            ipv6_prefix=126,
            exempt=exempt,
        )
        refused = RefusedNetworks(listed=self.denied, close=CloseStyle.RESET)
        self.known = KnownSources(gated.gate, [refused, *self.penalties.refuses])

    async def do(self, what: str, *arguments: Any) -> None:
        """Have something happen."""
        if what == "add":
            self.penalties.add(self.peer(arguments[0]), arguments[1], "x")
        elif what == "forgive":
            self.penalties.forgive(self.peer(arguments[0]))
        elif what in {"deny", "exempt"}:
            changing = self.denied if what == "deny" else self.exempt.listed
            changing.replace(self.networks(arguments[0]))
        elif what == "turn":
            await trio.lowlevel.checkpoint()
        else:
            await wait_all_tasks_blocked()

    def peer(self, last: int) -> Address:
        """Return a host."""
        return Address.tcp(str(address(self.family, last)), 1)

    def networks(self, several: list[tuple[int, int]]) -> AddressSet:
        """Return networks of these hosts, which may overlap."""
        whole = BITS[self.family]
        return AddressSet(f"{address(self.family, last)}/{whole - bits}" for last, bits in several)

    def refused_by_rules(self) -> list[int]:
        """Return whom the rules refuse now."""
        return [
            last
            for last in LAST
            if self.peer(last) in self.denied.networks
            or self.penalties.remaining(self.peer(last)) > THRESHOLD
        ]

    def refused_by_kernel(self) -> list[int]:
        """Return whom the kernel refuses now."""
        denied, exempt, sources = (
            elements_of(kind, self.family) for kind in ("networks", "exempt", "sources")
        )
        keys = {each.key for each in sources}
        found = []
        for last in LAST:
            number = int(address(self.family, last))
            is_penalized = number >> 2 << 2 in keys and not is_in(number, exempt)
            if is_in(number, denied) or is_penalized:
                found.append(last)
        return found


@pytest.mark.parametrize("at_once", [1, 100])
@pytest.mark.parametrize("family", [IPV4, IPV6], ids=["IPv4", "IPv6"])
@in_own_namespace
def test_kernel_refuses_whom_the_rules_do(family: int, at_once: int) -> None:
    """
    After any order of penalties that are added, raised and forgiven, of lists that are replaced,
    and of turns of the loop in between, the kernel's sets say what the rules say: of each host
    whether it is refused. That is so whatever is told in one message, and nothing is left over.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_known, "AT_ONCE", at_once)

        @settings(max_examples=50)  # each has tables of its own
        @given(st.lists(steps, max_size=25))
        def _check(happens: list[tuple[Any, ...]]) -> None:
            trio.run(live, family, happens)

        _check()


async def live(family: int, happens: list[tuple[Any, ...]]) -> None:
    """Be one example."""
    with Gated(HOST[family]) as gated:
        world = World(gated, family)
        world.known.open()
        for each in happens:
            await world.do(*each)
        await wait_all_tasks_blocked()

        assert world.refused_by_rules() == world.refused_by_kernel()
        assert 3 == len(gated.gate.sets)
        assert 0 == world.known.counters()["sources_left_out"]

        world.known.close()
