"""Tests of `trio_wsk._vocabulary.address_sets`."""

from __future__ import annotations

import ipaddress
import pickle
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.helpers.strategies import (
    IPAddress,
    IPNetwork,
    hosts,
    hosts_near,
    mapped,
    networks,
    scope_ids,
    unix_addresses,
)
from trio_wsk._vocabulary.address_sets import AddressSet, ranges_of
from trio_wsk._vocabulary.addresses import Address

if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST_MAPPED = IPv6Address("::ffff:0:0")


def plain(host: IPAddress) -> IPAddress:
    """Unmap a host, as `ipaddress` sees it."""
    return (host.ipv4_mapped or host) if isinstance(host, IPv6Address) else host


def plain_network(network: IPNetwork) -> IPNetwork:
    """Unmap a network, as `ipaddress` sees it."""
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        first = network.network_address.ipv4_mapped
        return network if first is None else IPv4Network((first, network.prefixlen - 96))
    return network


def has_mapped_and_more(network: IPNetwork) -> bool:
    """Tell whether a network has all IPv4-mapped addresses, and others."""
    return isinstance(network, IPv6Network) and network.prefixlen < 96 and FIRST_MAPPED in network


def expected_in(host: IPAddress, given: Iterable[IPNetwork]) -> bool:
    """Decide membership by asking `ipaddress` about one network after the other."""
    return any(plain(host) in plain_network(network) for network in given)


@given(given_networks=st.lists(networks(), max_size=8), data=st.data())
def test_membership_is_that_of_ipaddress(
    given_networks: list[IPNetwork], data: st.DataObject
) -> None:
    """
    A host is in the set when it is in one of the networks, whether it is asked for as an
    address with a port, as an `ipaddress` object or as text, mapped or not, with a scope or not.
    """
    near = [hosts_near(network) for network in given_networks]
    host = data.draw(st.one_of(hosts(), *near))
    scope_id = data.draw(scope_ids()) if isinstance(host, IPv6Address) else 0
    addresses = AddressSet(given_networks)
    expected = expected_in(host, given_networks)

    assert expected is (host in addresses)
    assert expected is (str(host) in addresses)
    assert expected is (Address.tcp(host, 80, scope_id) in addresses)
    if isinstance(host, IPv4Address):
        assert expected is (mapped(host) in addresses)
    else:
        assert expected is (f"{host}%{scope_id}" in addresses)


@given(given_networks=st.lists(networks(), max_size=8))
def test_every_given_and_every_collapsed_network_is_in_the_set(
    given_networks: list[IPNetwork],
) -> None:
    """What a set was made of, and what it yields, is in it."""
    addresses = AddressSet(given_networks)

    assert [] == [network for network in given_networks if network not in addresses]
    assert [] == [network for network in addresses if network not in addresses]


@given(given_networks=st.lists(networks(), max_size=4), data=st.data())
def test_network_is_in_the_set_when_adding_it_changes_nothing(
    given_networks: list[IPNetwork], data: st.DataObject
) -> None:
    """A network is in the set when all of it is, and a part is not enough."""
    larger = [st.just(network.supernet()) for network in given_networks]
    smaller = [st.just(next(network.subnets())) for network in given_networks]
    network = data.draw(st.one_of(networks(), *larger, *smaller))
    addresses = AddressSet(given_networks)

    assert (network in addresses) is (addresses | AddressSet([network]) == addresses)
    assert (str(network) in addresses) is (network in addresses)


@given(address=unix_addresses())
def test_unix_address_is_in_no_set(address: Address) -> None:
    """Not even in the set of everything."""
    assert address not in AddressSet(["0.0.0.0/0", "::/0"])


def test_all_of_ipv6_holds_no_ipv4_however_it_arrived() -> None:
    """A mapped peer counts as IPv4, so only a network of IPv4 lets it in."""
    peer = Address.tcp("::ffff:192.0.2.1", 80)

    assert peer not in AddressSet(["::/0"])
    assert peer in AddressSet(["192.0.2.0/24"])
    assert Address.tcp("192.0.2.1", 80) in AddressSet(["::ffff:192.0.2.0/120"])


@given(given_networks=st.lists(networks(), max_size=8), data=st.data())
def test_sets_with_the_same_addresses_are_equal(
    given_networks: list[IPNetwork], data: st.DataObject
) -> None:
    """Order, repetition and splitting into halves make no difference to set or hash."""
    # Half of a network around ::ffff:0:0/96 may be that network, which is IPv4.
    assume(not any(has_mapped_and_more(network) for network in given_networks))
    halves = [half for network in given_networks for half in network.subnets()]
    shuffled = data.draw(st.permutations([*halves, *halves]))
    addresses, others = AddressSet(given_networks), AddressSet(shuffled)

    assert addresses == others
    assert hash(addresses) == hash(others)
    assert list(addresses) == list(others)


@given(first=st.lists(networks(), max_size=4), second=st.lists(networks(), max_size=4))
def test_union_has_the_addresses_of_both(first: list[IPNetwork], second: list[IPNetwork]) -> None:
    """Joining two sets is the same as making one of all their networks."""
    assert AddressSet([*first, *second]) == AddressSet(first) | AddressSet(second)


@given(given_networks=st.lists(networks(), max_size=8))
def test_repr_of_a_set_evaluates_to_it(given_networks: list[IPNetwork]) -> None:
    """What `repr` shows can be pasted into a program, and what is pickled arrives."""
    addresses = AddressSet(given_networks)

    assert addresses == eval(repr(addresses), {"AddressSet": AddressSet})  # noqa: S307 -- the claim
    assert addresses == pickle.loads(pickle.dumps(addresses))  # noqa: S301 -- our own


def test_set_yields_the_fewest_networks_in_order() -> None:
    """Neighbours are joined and repetitions dropped; IPv4 comes first, then the address counts."""
    addresses = AddressSet(
        ["2001:db8::/32", "10.0.0.128/25", "192.0.2.1", "10.0.0.0/25", "10.0.0.7"],
    )

    expected = [
        IPv4Network("10.0.0.0/24"),
        IPv4Network("192.0.2.1/32"),
        IPv6Network("2001:db8::/32"),
    ]
    assert expected == list(addresses)
    assert 3 == len(addresses)
    assert "AddressSet(['10.0.0.0/24', '192.0.2.1', '2001:db8::/32'])" == repr(addresses)


def test_set_is_made_of_text_and_objects_alike() -> None:
    """Addresses and networks of `ipaddress` are as good as text; a scope says nothing."""
    texts = ["10.0.0.0/8", "192.0.2.1", "fe80::1%3", "fe80::%3/64"]
    objects: list[IPAddress | IPNetwork] = [
        IPv4Network("10.0.0.0/8"),
        IPv4Address("192.0.2.1"),
        IPv6Address("fe80::1%eth0"),
        IPv6Network("fe80::/64"),
    ]

    assert AddressSet(objects) == AddressSet(texts)
    assert "AddressSet(['10.0.0.0/8', '192.0.2.1', 'fe80::/64'])" == repr(AddressSet(texts))


def test_empty_set_is_false_and_has_nothing() -> None:
    """A set without networks holds no address, and says so as other containers do."""
    assert not AddressSet()
    assert "127.0.0.1" not in AddressSet([])


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("10.0.0.1/8", "write '10.0.0.0/8', or '10.0.0.1' for the one address"),
        ("2001:db8::1/32", "write '2001:db8::/32', or '2001:db8::1' for"),
        ("10.0.0.0/33", "'10.0.0.0/33' is no network; write one like '10.0.0.0/8'"),
        ("10.0.0.1:80", "is no network; write one like"),
        ("localhost", "'localhost' is no network"),
        ("", "'' is no network"),
    ],
)
def test_what_is_no_network_is_shown_beside_a_right_one(network: str, message: str) -> None:
    """Making a set of it, and asking a set for it, says what was meant."""
    with pytest.raises(ValueError, match=message):
        AddressSet(["192.0.2.0/24", network])
    with pytest.raises(ValueError, match=message):
        assert network in AddressSet()


def test_single_text_is_no_list_of_networks() -> None:
    """A forgotten pair of brackets is told from a list of one-letter networks."""
    with pytest.raises(TypeError, match=r"write AddressSet\(\['10.0.0.0/8'\]\)"):
        AddressSet("10.0.0.0/8")


@pytest.mark.parametrize("thing", [None, 2130706433, b"\x7f\0\0\1", ("127.0.0.1", 80)])
def test_other_things_are_no_question_to_a_set(thing: object) -> None:
    """Asking for what is neither address, network nor text is a mistake, not a "no"."""
    with pytest.raises(TypeError, match="is no text, nor an address"):
        assert thing in AddressSet(["0.0.0.0/0"])  # type: ignore[operator]  # the mistake


def test_set_is_frozen_and_joins_only_its_like() -> None:
    """Sets are shared between listeners, so nothing about them changes."""
    addresses = AddressSet(["10.0.0.0/8"])

    with pytest.raises(AttributeError):
        addresses.networks = []  # type: ignore[attr-defined]  # the mistake
    with pytest.raises(TypeError):
        assert addresses | ["192.0.2.1"]  # type: ignore[operator]  # the mistake
    assert addresses != ["10.0.0.0/8"]


def test_asking_costs_the_same_however_many_networks_there_are() -> None:
    """A set looks once per prefix length, so ten thousand networks of one length are one look."""
    many = AddressSet(IPv4Network((index << 9, 24)) for index in range(10_000))

    assert 10_000 == len(many)
    assert [1, 0] == [len(found) for found in many._by_length]  # noqa: SLF001 -- the cost is the claim


def test_set_is_final() -> None:
    """Equality holds between sets of one class, so there are no subclasses."""
    with pytest.raises(TypeError, match="is final"):
        type("Sub", (AddressSet,), {})


@given(
    pieces=st.lists(
        st.tuples(st.integers(0, 255), st.integers(24, 32)).map(
            lambda piece: IPv4Network((piece[0] >> (32 - piece[1]) << (32 - piece[1]), piece[1]))
        )
    )
)
def test_networks_are_the_fewest_that_say_it(pieces: list[IPv4Network]) -> None:
    """Halves are made one, and what lies in another is left out, as `ipaddress` does it."""
    expected = list(ipaddress.collapse_addresses(pieces))

    assert expected == list(AddressSet(pieces))
    assert expected == list(AddressSet([str(piece) for piece in pieces]))


def test_ranges_are_the_fewest_that_say_it() -> None:
    """What lies side by side is one range, of either family, up to the last address."""
    several = AddressSet(["10.0.0.0/24", "10.0.1.0", "10.0.1.2", "255.255.255.254/31", "::/0"])

    assert [(0x0A000000, 0x0A000101), (0x0A000102, 0x0A000103), (0xFFFFFFFE, 1 << 32)] == [
        *ranges_of(several, 4)
    ]
    assert [(0, 1 << 128)] == [*ranges_of(several, 16)]
    assert [] == [*ranges_of(AddressSet(["::1"]), 4)]


@given(given_networks=st.lists(networks(), max_size=8))
def test_ranges_say_what_the_set_says(given_networks: list[IPNetwork]) -> None:
    """No two touch, each begins with a network, and all have as many addresses as the networks."""
    several = AddressSet(given_networks)
    for octets, version in ((4, 4), (16, 6)):
        ranges = [*ranges_of(several, octets)]
        said = [each for each in several if each.version == version]

        assert all(end < start for (_, end), (start, _) in pairwise(ranges))
        assert {start for start, _ in ranges} <= {int(each.network_address) for each in said}
        assert sum(each.num_addresses for each in said) == sum(end - start for start, end in ranges)
