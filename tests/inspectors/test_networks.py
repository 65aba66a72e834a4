"""Rules about networks, in code and in files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers.ruling import IN, gate
from tests.helpers.scarcity import no_more_descriptors
from tests.helpers.support import until
from trio_wsk import Address, AddressSet, InvalidParameterError
from trio_wsk.inspectors import NetworksFile, Rules, allow_only, deny
from trio_wsk.observers import NetworksRead, NetworksUnreadable

if TYPE_CHECKING:
    from pathlib import Path

A, B = "192.0.2.7", "198.51.100.7"
NETWORKS = ["192.0.2.0/24"]


@pytest.mark.parametrize("given", [NETWORKS, tuple(NETWORKS), {*NETWORKS}, AddressSet(NETWORKS)])
async def test_networks_say_who_is_turned_away(given: Any) -> None:
    """`deny` turns away who comes from them, `allow_only` who doesn't; others are asked on."""
    async with gate(Rules(deny(given))) as at:
        assert ["denied", IN] == await at.come_all(A, B)
    async with gate(Rules(allow_only(given), deny(given, reason="second"))) as at:
        assert ["second", "not-allowed"] == await at.come_all(A, B)


@pytest.mark.parametrize("wrong", [None, 7, "192.0.2.0/24", ["nonsense"], ["192.0.2.1/24"], [7]])
@pytest.mark.parametrize("make", [deny, allow_only])
def test_what_are_no_networks_is_a_mistake(make: Any, wrong: Any) -> None:
    """What is no list of networks is refused when the rule is made, with what to write."""
    with pytest.raises(InvalidParameterError):
        make(wrong)


# --- Files ------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of networks."""
    path = tmp_path / "networks.txt"
    path.write_text("# ours\n192.0.2.0/24  # and so on\n\n2001:db8::/32\n")
    return path


def replace(path: Path, text: str) -> None:
    """Put another file in its place, at once."""
    other = path.with_suffix(".new")
    other.write_bytes(os.fsencode(text))
    other.rename(path)


def remove(path: Path) -> None:
    """Remove the file."""
    path.unlink()


async def test_file_says_who_is_turned_away(path: Path) -> None:
    """One network on each line, with comments."""
    networks = NetworksFile(path)

    assert 2 == len(networks)
    async with gate(Rules(deny(networks))) as at:
        assert ["denied", IN] == await at.come_all(A, B)

        replace(path, B)
        await networks.reload()

        assert [IN, "denied"] == await at.come_all(A, B)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("192.0.2.0/24\nnonsense\n", "line 2: 'nonsense' is no network"),
        ("\n\n192.0.2.1/24", "line 3: '192.0.2.1/24' has bits set"),
        ("\udcff", "line 1"),
    ],
)
async def test_broken_file_leaves_what_was_there(path: Path, text: str, says: str) -> None:
    """Of a file with one wrong line nothing is taken; the error names the line."""
    networks = NetworksFile(path)
    replace(path, text)
    with pytest.raises(InvalidParameterError, match=says):
        await networks.reload()
    with pytest.raises(InvalidParameterError, match=says):
        NetworksFile(path)

    assert Address.tcp(A, 1) in networks


async def test_missing_file_leaves_what_was_there(path: Path) -> None:
    """A file that is gone is an error, and says nothing about anybody."""
    networks = NetworksFile(path)
    remove(path)
    with pytest.raises(FileNotFoundError):
        await networks.reload()
    with pytest.raises(FileNotFoundError):
        NetworksFile(path)

    assert Address.tcp(A, 1) in networks


async def looked(clock: trio.testing.MockClock, told: list[Any], count: int) -> None:
    """Let `NetworksFile.watch` look at its file until it has told so much, and three times more."""
    while len(told) < count:
        clock.jump(1)  # which does nothing while it reads, in a thread
        await trio.lowlevel.checkpoint()
    for _ in range(3):
        clock.jump(1)
        await trio.testing.wait_all_tasks_blocked()


async def test_watched_file_is_read_when_it_changes(
    path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """It is read again when it changes; while it is broken, that is told once for each change."""
    told: list[Any] = []
    networks = NetworksFile(path, observers=[told.append])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(networks.watch)
        await trio.testing.wait_all_tasks_blocked()
        replace(path, B)
        await looked(mock_clock, told, 1)

        assert [NetworksRead(at=told[0].at, path=str(path), networks=1)] == told
        assert Address.tcp(B, 1) in networks

        replace(path, "nonsense")
        await looked(mock_clock, told, 2)

        assert isinstance(told[1], NetworksUnreadable)
        assert Address.tcp(B, 1) in networks

        remove(path)
        await looked(mock_clock, told, 3)

        assert isinstance(told[2].error, FileNotFoundError)

        replace(path, A)
        await looked(mock_clock, told, 4)

        assert isinstance(told[3], NetworksRead)
        assert Address.tcp(A, 1) in networks
        assert 4 == len(told)

        nursery.cancel_scope.cancel()


async def test_watched_file_that_vanishes_is_told_once(
    path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """Also if nothing was wrong with it before."""
    told: list[Any] = []
    networks = NetworksFile(path, observers=[told.append])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(networks.watch)
        await trio.testing.wait_all_tasks_blocked()
        remove(path)
        await looked(mock_clock, told, 1)
        nursery.cancel_scope.cancel()

    assert [NetworksUnreadable] == [type(each) for each in told]
    assert isinstance(told[0].error, FileNotFoundError)


async def test_watched_file_is_read_when_there_are_descriptors_again(
    path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """What has failed for want of one is tried again, and told once."""
    told: list[Any] = []
    networks = NetworksFile(path, observers=[told.append])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(networks.watch)
        await trio.testing.wait_all_tasks_blocked()
        replace(path, B)
        with no_more_descriptors():
            await looked(mock_clock, told, 1)
        await looked(mock_clock, told, 2)
        nursery.cancel_scope.cancel()

    assert [NetworksUnreadable, NetworksRead] == [type(each) for each in told]
    assert Address.tcp(B, 1) in networks


async def test_changes_are_logged_by_default(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without observers the log says that a file was read, and that one can't be used."""
    caplog.set_level("INFO")
    networks = NetworksFile(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: networks.watch(every=0.001))
        replace(path, B)
        await until(lambda: "was read: 1 networks" in caplog.text)
        replace(path, "nonsense")
        await until(lambda: "can't be used, so what it said before still holds" in caplog.text)
        nursery.cancel_scope.cancel()
