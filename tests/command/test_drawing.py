"""What ``top`` draws, in terminals of any size."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from trio_wsk._command.drawing import Picture, plain, shares
from trio_wsk._looking.history import History
from trio_wsk._looking.readings import LEVELS, Place, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_wsk._looking.readings import Count


def reading(is_open: int, counts: Mapping[Count, float], process: int | None = None) -> Reading:
    """Make a reading."""
    levels = {**dict.fromkeys(LEVELS, 0), "open": is_open}
    return Reading(state="listening", process=process, levels=levels, counts=counts)


def busy() -> History:
    """Make the history of two workers that have looked at many reasons."""
    history = History()
    places = {1: 4711, 2: 4712}
    for second in range(90):
        counts: dict[Count, float] = {("accepted", ""): 100 * second, ("waits", "dns"): second}
        counts |= {("waited", "dns"): second * 0.25, ("rejected", "over-quota"): 3 * second}
        counts |= {("aborted", f"reason-{number}"): 7 for number in range(30)}
        history.add(
            float(second),
            {
                Place(name, "serve"): reading(second, counts, process)
                for name, process in places.items()
            },
        )
    return history


def drawn(
    picture: Picture, width: int = 80, height: int = 24, encoding: str = "utf-8"
) -> list[str]:
    """Draw it; return the lines."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(width=width, height=height, file=file, record=True)
    console.print(picture)
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 140])
def test_busy_server_is_drawn(width: int) -> None:
    """
    What there is to see stands in lines that fit: levels, rates, a plot of the last minutes, each
    worker, why peers were turned away, and the slowest rules.
    """
    lines = drawn(Picture(busy(), "/run/mail.sock"), width)
    text = "\n".join(lines)

    assert "trio_wsk top  /run/mail.sock" == lines[0].rstrip()
    assert "open 178  pending 0  parked 0  lingering 0   accepted 200.0/s" in text
    assert "rejected 6.0/s" in text
    assert "max 200" in text
    assert ["1", "4711", "serve", "listening", "89", "0", "0", "100.0"] in words(lines)
    assert ["rejected", "over-quota", "534", "6.0"] in words(lines)
    assert ["dns", "120", "0.250"] in words(lines)
    assert all(cell_len(line) <= width for line in lines)


def words(lines: Sequence[str]) -> list[list[str]]:
    """Split lines."""
    return [line.split() for line in lines]


@pytest.mark.parametrize("height", [24, 40])
def test_lines_fit_into_the_terminal(height: int) -> None:
    """Of tables as much is shown as there is room for, and of each how much is not."""
    lines = drawn(Picture(busy(), "x"), height=height)

    assert height >= len(lines) > height - 6
    assert any(line.strip().startswith("and ") and "more" in line for line in lines)


def test_plot_is_the_last_values() -> None:
    """The plot ends with the latest values, as many as fit; the highest is a full bar."""
    history = History()
    for second, is_open in enumerate([1, 0, 4, 8]):
        history.add(float(second), {Place(0, "a"): reading(is_open, {})})
    wide, narrow = (
        next(each for each in drawn(Picture(history, "x"), width) if each.startswith("open   "))
        for width in (80, 24)
    )

    assert ["open", "▂▁▅█", "max", "8"] == wide.split()
    assert ["open", "▅█", "max", "8"] == narrow.split()


def test_terminal_without_unicode() -> None:
    """Where the terminal knows ASCII only, nothing else is written."""
    assert all(line.isascii() for line in drawn(Picture(busy(), "x"), encoding="ascii"))


def test_problem_is_said_beside_the_last_numbers() -> None:
    """When there is no answer, that is said, and the numbers from before stay."""
    lines = drawn(Picture(busy(), "x", "no answer: refused"))

    assert "no answer: refused; trying again" == lines[1].rstrip()
    assert "open 178" in lines[2]
    assert 2 == len(drawn(Picture(History(), "x", "no answer: refused")))


def test_who_is_silent_is_named() -> None:
    """A worker that gives no answer is named."""
    history = History()
    history.add(0.0, {Place(1, "a"): reading(0, {})}, silent=[2])

    assert "worker 2 gives no answer" in [each.rstrip() for each in drawn(Picture(history, "x"))]


@given(st.text())
def test_nothing_is_written_that_is_a_command(text: str) -> None:
    """
    Whatever a name has in it, no control character or invisible one reaches the terminal, nor is
    it taken for markup; and it has its length.
    """
    history = History()
    history.add(0.0, {Place(0, text): reading(0, {("rejected", text): 1})})
    lines = drawn(Picture(history, text, text), width=200)

    assert all(line.isprintable() for line in lines)
    assert len(plain(text)) <= 32
    assert plain(text) == text or not text.isprintable() or len(text) > 32


def test_markup_is_text() -> None:
    """What rich would take for a colour is shown as it is."""
    history = History()
    history.add(0.0, {Place(0, "[red]x[/red]"): reading(0, {})})

    assert any("[red]x[/red]" in line for line in drawn(Picture(history, "x")))


@given(st.lists(st.integers(0, 50), max_size=5), st.integers(-5, 60))
def test_lines_are_shared_out(wanted: list[int], room: int) -> None:
    """
    Each has as many lines as it wants if there is room for all; else nobody has two more than who
    wants more. One line each has in any case.
    """
    given_lines = shares(wanted, room)

    assert sum(given_lines) <= max(room, sum(1 for each in wanted if each))
    assert all(
        min(1, most) <= lines <= most for lines, most in zip(given_lines, wanted, strict=True)
    )
    unsatisfied = [lines for lines, most in zip(given_lines, wanted, strict=True) if lines < most]
    if unsatisfied:
        assert max(given_lines) <= min(unsatisfied) + 1
        assert sum(given_lines) >= min(room, sum(wanted))
