"""What ``top`` shows, made of a `History` for a terminal of any size.

Reasons may be words of a peer's, so nothing is written that a terminal would take as a command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import attrs
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType

    from trio_wsk._looking.history import History, Point

__all__ = ["Picture", "plain", "shares"]

BARS: Final = "▁▂▃▄▅▆▇█"
ASCII_BARS: Final = ".:-=+*%#"

LONGEST_WORD: Final = 32
"""How many characters of a name are shown."""

LABEL: Final = 12
"""Columns in front of a plot."""

NUMBER: Final = 10
"""Columns behind it."""

FIXED: Final = 6
"""Lines that are there whatever the server does."""

RATES: Final = ("accepted", "ended", "rejected", "dropped", "aborted", "handshake", "failed")
"""What is said per second."""


@attrs.frozen
class _Section:
    """A table: its heads, and its rows."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int
    """How many columns from the left are words; the others are numbers."""

    def table(self, most: int) -> Table:
        """Draw it, with as many rows as there is room for."""
        table = Table(box=None, expand=True, padding=(0, 1, 0, 0))
        for position, head in enumerate(self.heads):
            is_word = position < self.words
            table.add_column(head, justify="left" if is_word else "right", no_wrap=True)
        for row in self.rows[:most]:
            table.add_row(*map(Text, row))
        left = len(self.rows) - most
        if left > 0:
            table.add_row(Text(f"and {left} more", style="dim"))
        return table


@final
class Picture:
    """What is shown at one time.

    Args:
      history: What has happened.
      title: What is looked at.
      problem: Why there is nothing newer, if there isn't.
    """

    def __init__(self, history: History, title: str, problem: str | None = None) -> None:
        self._history = history
        self._title = title
        self._problem = problem

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the lines: of tables as many as there is room for."""
        yield Text(f"trio_wsk top  {plain(self._title, 200)}", style="bold", no_wrap=True)
        if self._problem is not None:
            yield Text(f"{plain(self._problem, 200)}; trying again", style="bold red")
        points = self._history.points
        if not points:
            return
        for worker in self._history.silent:
            yield Text(f"worker {worker} gives no answer", style="bold red")
        yield _now(points[-1])
        width, bars = options.max_width, ASCII_BARS if options.ascii_only else BARS
        rates = [each.rate("accepted") for each in points]
        yield _plot("accepted/s", [each for each in rates if each is not None], width, bars)
        yield _plot("open", [each.levels["open"] for each in points], width, bars)
        sections = self._sections()
        lines = options.height or console.height
        room = lines - FIXED - 3 * len(sections)  # a blank line, the head, and what is left out
        for section, most in zip(
            sections, shares([len(each.rows) for each in sections], room), strict=True
        ):
            yield Text()
            yield section.table(most)

    def _sections(self) -> list[_Section]:
        sections = [_places(self._history), _reasons(self._history), _waits(self._history)]
        return [each for each in sections if each.rows]


def shares(wanted: Sequence[int], room: int) -> list[int]:
    """Share lines out among sections, one after the other in turn; each has one in any case."""
    given = [min(1, each) for each in wanted]
    left = room - sum(given)
    while left > 0 and given != list(wanted):
        for position, most in enumerate(wanted):
            if left > 0 and given[position] < most:
                given[position] += 1
                left -= 1
    return given


def plain(text: str, longest: int = LONGEST_WORD) -> str:
    """Return a text without anything that a terminal does not merely show, and not too long."""
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def _now(point: Point) -> Text:
    levels = "  ".join(f"{name} {count}" for name, count in point.levels.items())
    if not point.seconds:
        return Text(levels)
    rates = [(what, point.rate(what)) for what in RATES]
    said = [f"{what} {rate:.1f}/s" for what, rate in rates if rate or what == RATES[0]]
    return Text(f"{levels}   {'  '.join(said)}")


def _plot(label: str, values: Sequence[float], width: int, bars: str) -> Text:
    """Draw a line of bars, the latest on the right, and say the most of them."""
    room = max(width - LABEL - NUMBER, 1)
    shown = values[-room:]
    most = max(shown, default=0.0)
    steps = [round(each / most * (len(bars) - 1)) if most else 0 for each in shown]
    plot = "".join(bars[each] for each in steps)
    return Text.assemble(
        f"{label:<{LABEL}}", (f"{plot:<{room}}", "cyan"), f"{f'max {most:.0f}':>{NUMBER}}"
    )


def _places(history: History) -> _Section:
    heads = ("worker", "process", "listener", "state", "open", "pending", "parked", "accepted/s")
    rows = [
        (
            f"{each.place.worker or '-'}",
            "-" if each.reading.process is None else f"{each.reading.process}",
            plain(each.place.listener),
            plain(each.reading.state),
            *(f"{each.reading.levels[name]}" for name in ("open", "pending", "parked")),
            f"{each.accepted_rate:.1f}",
        )
        for each in history.rows()
    ]
    return _Section(heads, rows, words=4)


def _reasons(history: History) -> _Section:
    heads = ("turned away, failed", "why", "total", "per second")
    rows = [
        (each.what, plain(each.why), f"{each.total:.0f}", f"{each.rate:.1f}")
        for each in history.reasons()
        if each.total
    ]
    return _Section(heads, rows, words=2)


def _waits(history: History) -> _Section:
    heads = ("slowest rules", "waits in a minute", "seconds each")
    rows = [(plain(each.rule), f"{each.waits}", f"{each.mean:.3f}") for each in history.waits()]
    return _Section(heads, rows, words=1)
