"""
Draws the rooms of the package, from the contracts in `pyproject.toml` that hold the imports.

`python -m tests.documentation.rooms` renews the picture, from Python 3.11 on;
`test_architecture.py` holds it to the contracts. What is in parentheses there isn't built yet, and
isn't drawn.
"""

from __future__ import annotations

import ast
import importlib
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import attrs

from tests.helpers.places import DOCS, PACKAGE, ROOT

PICTURE: Final = DOCS / "rooms.svg"
WAY: Final = ("transports", "_intake", "_inspection", "_delivery", "_connection")
"""The rooms that a connection passes, in its order; they get a number."""

WIDTH: Final = 760
GAP: Final = 8
PADDING: Final = 12
LINE: Final = 18
TOP: Final = 34
NAMES: Final = 118
"""How much of a box is for the room's name, where the box is as wide as the picture."""
LETTER: Final = 6.3
"""How wide a letter is on average; text in SVG doesn't wrap by itself."""

INK: Final = "#767676"
"""Between white and black, and 4.5:1 away from both, as in the charts of the benchmarks."""
ACCENT: Final = "#3d85c6"


@attrs.frozen
class Room:
    """A room, or a module that has no room, and what the picture says of it."""

    name: str
    charter: str
    modules: tuple[tuple[str, ...], ...]
    """From the top down; those beside each other don't import each other."""

    @property
    def way(self) -> int | None:
        """Which station of a connection's way the room is."""
        return WAY.index(self.name) + 1 if self.name in WAY else None


def rows(pyproject: Mapping[str, Any]) -> list[list[Room]]:
    """Read the contracts: rooms from the top down, those on one line beside each other."""
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    layers = {each["containers"][0]: each["layers"] for each in contracts if "containers" in each}
    modules = {
        container.partition(".")[2]: tuple(map(on_one_line, lines))
        for container, lines in layers.items()
    }
    built = filter(None, map(on_one_line, layers["trio_wsk"]))
    return [[Room(name, charter(name), modules.get(name, ())) for name in line] for line in built]


def on_one_line(line: str) -> tuple[str, ...]:
    """Split a line of a contract into the names on it that are built."""
    names = (name.strip() for name in line.replace("|", ":").split(":"))
    return tuple(name for name in names if not name.startswith("("))


def charter(name: str) -> str:
    """Take the first sentence of a room's docstring."""
    room = PACKAGE / name / "__init__.py"
    source = room if room.exists() else PACKAGE / f"{name}.py"
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].replace("`", "").split())


def picture(drawn: list[list[Room]]) -> str:
    """Draw the rooms, the topmost first."""
    y, lines = TOP, list[str]()
    for row in drawn:
        width = (WIDTH - GAP * (len(row) - 1)) / len(row)
        texts = [list(text_in(room, width)) for room in row]
        height = LINE * max(map(len, texts)) + 2 * PADDING - 6
        for column, (room, text) in enumerate(zip(row, texts, strict=True)):
            lines += box(room, text, column * (width + GAP), y, width, height)
        y += height + GAP
    said = "; ".join(" and ".join(room.name for room in row) for row in drawn)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}"'
        f' height="{y}" role="img" font-family="sans-serif" font-size="13">'
    )
    legend = "Imports point down, and from left to right. The numbers are the way of a connection."
    return "\n".join(
        [
            head,
            "<title>The rooms of trio_wsk</title>",
            f"<desc>From the top down: {escape(said)}.</desc>",
            write(0, 18, legend),
            *lines,
            "</svg>\n",
        ]
    )


def text_in(room: Room, width: float) -> Iterator[str]:
    """Yield the lines of text of a box, the charter first, then the modules."""
    beside = NAMES + 2 * PADDING if width == WIDTH else 0
    letters = int((width - 2 * PADDING - beside) / LETTER)
    if not beside:
        yield ""  # the room's name has a line of its own
    yield from textwrap.wrap(room.charter, letters)
    modules = " > ".join("\N{NO-BREAK SPACE}· ".join(line) for line in room.modules)
    yield from textwrap.wrap(modules, letters, break_on_hyphens=False)


def box(
    room: Room, text: list[str], x: float, y: float, width: float, height: float
) -> Iterator[str]:
    """Draw one room."""
    colour = ACCENT if room.way else INK
    yield (
        f'<rect x="{x + 0.5:.1f}" y="{y + 0.5}" width="{width - 1:.1f}" height="{height - 1}"'
        f' rx="5" fill="{colour}" fill-opacity="0.08" stroke="{colour}"/>'
    )
    left, baseline = x + PADDING, y + PADDING + 10
    yield write(left, baseline, room.name, "bold")
    for number, line in enumerate(text):
        indent = NAMES if width == WIDTH else 0
        yield write(left + indent, baseline + LINE * number, line)
    if room.way:
        middle = x + width - 2 * PADDING
        yield f'<circle cx="{middle:.1f}" cy="{baseline - 4}" r="10" fill="{ACCENT}"/>'
        yield (
            f'<text x="{middle:.1f}" y="{baseline + 0.5}" fill="#fff" text-anchor="middle"'
            f' font-weight="bold">{room.way}</text>'
        )


def write(x: float, y: float, text: str, weight: str = "normal") -> str:
    """Write one line."""
    return f'<text x="{x:.1f}" y="{y}" fill="{INK}" font-weight="{weight}">{escape(text)}</text>'


def as_it_should_be() -> str:
    """Draw the picture from the contracts as they are now."""
    tomllib = importlib.import_module("tomllib")  # which Python 3.10 doesn't have
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return picture(rows(tomllib.loads(text)))


if __name__ == "__main__":
    Path(PICTURE).write_text(as_it_should_be(), encoding="utf-8")
