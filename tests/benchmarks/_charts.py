"""
From an outcome to a bar chart: SVG, written by hand. Pure: no clock, no process, no file.

A bar is a ratio to the mode's baseline, the line across its end is from where to where the
rounds went, and the figure itself stands behind it. The colours can be read on white and on
black, since a page may be either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final
from xml.sax.saxutils import escape

from ._contenders import BY_NAME
from ._modes import Metric
from ._outcome import Outcome
from ._report import Row, Spread, figure, rows

WIDTH: Final = 760
LEFT: Final = 190
"""Where bars begin: names stand before."""
RIGHT: Final = 190
"""What is left for figures."""
TOP: Final = 86
STEP: Final = 26
BAR: Final = 16
BOTTOM: Final = 14

INK: Final = "#7a7a7a"
"""Between white and black, and 4:1 away from both."""
OURS: Final = "#3d85c6"
THEIRS: Final = "#a0a0a0"
SPREAD: Final = "#c27a1a"


def chart(outcome: Outcome) -> str:
    """Draw the first metric that the mode compares; the worst at the top."""
    mode = outcome.mode
    metric = mode.compared[0]
    drawn = [
        (row, spread)
        for row in rows(mode, outcome.samples)
        if (spread := row.ratios[metric.name]) is not None
    ]
    height = TOP + STEP * len(drawn) + BOTTOM
    title = f"{mode.name}: {mode.description}"
    claim = f"{metric.heading}, how many times better than {mode.baseline}; longer is better"
    most = max((spread.greatest for _row, spread in drawn), default=1.0) or 1.0
    lines = [
        _open(height),
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(_in_words(metric, drawn))}</desc>",
        _text(0, 20, mode.name, size=15),
        _text(0, 42, mode.description),
        _text(0, 62, claim),
        *_bars(metric, drawn, (WIDTH - LEFT - RIGHT) / most),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _open(height: int) -> str:
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    font = 'font-family="sans-serif" font-size="13"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {font}>'


def _bars(metric: Metric, drawn: Sequence[tuple[Row, Spread]], scale: float) -> Iterable[str]:
    for number, (row, spread) in enumerate(drawn):
        y = TOP + STEP * number
        middle = y + BAR / 2
        colour = OURS if BY_NAME[row.contender].is_ours else THEIRS
        end, least, greatest = (
            LEFT + value * scale for value in (spread.median, spread.least, spread.greatest)
        )
        yield _text(LEFT - 8, y + 13, row.contender, anchor="end")
        yield f'<rect x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="{BAR}" fill="{colour}"/>'
        yield (
            f'<path d="M{least:.1f} {middle}H{greatest:.1f}M{least:.1f} {middle - 4}v8'
            f'M{greatest:.1f} {middle - 4}v8" stroke="{SPREAD}" fill="none"/>'
        )
        label = f"{spread.median:.2f}\u00d7  ({figure(row.medians[metric.name])} {metric.heading})"
        yield _text(math.ceil(max(end, greatest)) + 8, y + 13, label)
    baseline = LEFT + scale
    bottom = TOP + STEP * len(drawn)
    yield (
        f'<path d="M{baseline:.1f} {TOP - 6}V{bottom}" stroke="{INK}"'
        ' stroke-dasharray="3 3" fill="none"/>'
    )


def _text(x: float, y: float, text: str, *, size: int | None = None, anchor: str = "start") -> str:
    font = "" if size is None else f' font-size="{size}" font-weight="bold"'
    return f'<text x="{x}" y="{y}" fill="{INK}" text-anchor="{anchor}"{font}>{escape(text)}</text>'


def _in_words(metric: Metric, drawn: Sequence[tuple[Row, Spread]]) -> str:
    bars = (f"{row.contender} {spread.median:.2f}" for row, spread in drawn)
    return f"{metric.heading}, times better: {', '.join(bars)}"
