"""Whom rules refuse by their address alone: what they say of it, for a kernel that can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.inspecting import ACCEPT
from trio_wsk import Address, AddressSet, CloseStyle
from trio_wsk.inspectors import (
    NetworksFile,
    Penalties,
    Rules,
    SourceLimit,
    all_of,
    allow_only,
    any_of,
    deny,
    dry_run,
    from_networks,
    unless,
    when,
)
from trio_wsk.transports import RefusedNetworks, RefusedSources

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = deny(["192.0.2.0/24"]), deny(["198.51.100.0/24"], close=CloseStyle.SILENT)
PENALTIES = Penalties()
FROM_VPN = from_networks(["10.0.0.0/8"])


class Anywhere:
    """Networks that can only say who is in them."""

    def __contains__(self, _address: Address) -> bool:
        return True


def refused(*rules: Any) -> list[Any]:
    """Return what rules say, one after the other."""
    return [each for rule in rules for each in rule.refuses]


@pytest.mark.parametrize(
    ("rules", "first"),
    [
        ([ONE, TWO, PENALTIES], [ONE, TWO, PENALTIES]),
        ([all_of(ONE, all_of(TWO)), PENALTIES], [ONE, TWO, PENALTIES]),
        ([ONE, Rules(TWO)], [ONE, TWO]),
        ([ONE, SourceLimit(1), TWO], [ONE]),
        ([all_of(ONE, SourceLimit(1)), TWO], [ONE]),
        ([lambda _: None, ONE], []),
        ([when(FROM_VPN, lambda _: ACCEPT), ONE], []),
        ([dry_run(ONE), TWO], []),
        ([any_of(ONE, TWO)], []),
        ([unless(FROM_VPN, ONE)], []),
        ([ONE, deny(Anywhere()), TWO], [ONE]),
        ([Penalties(exempt=Anywhere()), ONE], []),
        ([], []),
    ],
)
def test_first_rules_say_whom_they_refuse(rules: list[Any], first: list[Any]) -> None:
    """
    Rules say it up to the first one that does anything else: lets in, counts, only tries, or
    can't list whom it means. What stands behind such a one is not known before it was asked.
    """
    assert refused(*first) == [*Rules(*rules).refuses]


def test_lists_say_how_they_refuse() -> None:
    """What a list turns away, and whether it is those in it or the others."""
    networks = AddressSet(["192.0.2.0/24"])
    (denied,) = refused(deny(networks, close=CloseStyle.SILENT))
    (allowed,) = refused(allow_only(networks))

    assert isinstance(denied, RefusedNetworks)
    assert (networks, CloseStyle.SILENT, False) == (
        denied.listed.networks,
        denied.close,
        denied.others,
    )
    assert (networks, CloseStyle.RESET, True) == (
        allowed.listed.networks,
        allowed.close,
        allowed.others,
    )


async def test_file_says_when_it_was_read_again(tmp_path: Path) -> None:
    """Whoever watches the networks of a file is called when others took their place."""
    path = tmp_path / "networks"
    path.write_text("192.0.2.0/24\n", encoding="ascii")
    networks = NetworksFile(path)
    (denied,) = refused(deny(networks))
    seen: list[AddressSet] = []
    unwatch = denied.listed.watch(lambda: seen.append(denied.listed.networks))
    path.write_text("198.51.100.0/24\n", encoding="ascii")
    await networks.reload()
    unwatch()
    await networks.reload()

    assert [AddressSet(["198.51.100.0/24"])] == seen


async def test_penalties_say_who_has_too_many_and_until_when(autojump_clock: Any) -> None:
    """
    Told is who has more than the threshold, and until when it has; who is forgiven, if it had any;
    nobody else.
    """
    penalties = Penalties(threshold=10, most_seconds=100, ipv4_prefix=24, exempt=["192.0.2.9"])
    (known,) = refused(penalties)
    told: list[tuple[Any, float]] = []

    assert isinstance(known, RefusedSources)

    unwatch = known.watch(lambda source, until: told.append((source, until)))
    now = autojump_clock.current_time()
    peer, source = Address.tcp("192.0.2.7", 1), (4, 0xC00002)
    penalties.add(peer, 10, "x")
    penalties.forgive(Address.tcp("198.51.100.7", 1))
    penalties.add(Address.tcp("192.0.2.9", 1), 50, "x")

    assert [] == told == [*known.current()]

    penalties.add(peer, 20, "x")
    penalties.add(peer, 1000, "x")

    assert [(source, now + 20), (source, now + 90)] == told
    assert [(source, now + 90)] == [*known.current()]
    assert {4: 24, 16: 64} == known.prefixes
    assert AddressSet(["192.0.2.9"]) == known.exempt.networks

    penalties.forgive(peer)
    unwatch()
    penalties.add(peer, 50, "x")

    assert [(source, -float("inf"))] == told[2:]
