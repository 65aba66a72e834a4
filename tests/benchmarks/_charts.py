"""
From an outcome to a bar chart: SVG, written by hand. Pure: no clock, no process, no file.

A bar is a ratio to the mode's baseline, the line across its end is from where to where the
rounds went, and the figure itself stands behind it. The colours can be read on white and on
black alike, since a page may be either, and a picture in it isn't told which.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final
from xml.sax.saxutils import escape

from ._contenders import BY_NAME
from ._modes import Metric
from ._outcome import Outcome
from ._report import Row, Spread, figure, rows, with_signs

WIDTH: Final = 760
LEFT: Final = 215
"""Where bars begin: names stand before."""
RIGHT: Final = 205
"""What is left for figures."""
TOP: Final = 86
STEP: Final = 26
BAR: Final = 16
BOTTOM: Final = 14

INK: Final = "#767676"
"""Between white and black, and 4.5:1 away from both, which is what text needs."""
OURS: Final = "#3d85c6"
THEIRS: Final = "#8f8f8f"
SPREAD: Final = "#c27a1a"
"""These are 3:1 away from both, which is enough for shapes."""


def chart(outcome: Outcome) -> str:
    """Draw the first metric that the mode compares; the worst at the top."""
    mode = outcome.mode
    metric = mode.compared[0]
    drawn = _drawn(outcome)
    height = TOP + STEP * len(drawn) + BOTTOM
    title = f"{mode.name}: {mode.description}"
    baseline = BY_NAME[mode.baseline].title
    claim = f"{metric.noun}, how many times better than {baseline}; longer is better"
    most = max((spread.greatest for _row, spread in drawn), default=1.0) or 1.0
    lines = [
        _open(height),
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(in_words(outcome))}</desc>",
        _text(0, 20, mode.name, size=15),
        _text(0, 42, mode.description),
        _text(0, 62, claim),
        *_bars(metric, drawn, (WIDTH - LEFT - RIGHT) / most),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _drawn(outcome: Outcome) -> list[tuple[Row, Spread]]:
    name = outcome.mode.compared[0].name
    return [
        (row, spread)
        for row in rows(outcome.mode, outcome.samples)
        if (spread := row.ratios[name]) is not None
    ]


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
        yield _text(LEFT - 8, y + 13, BY_NAME[row.contender].title, anchor="end")
        yield f'<rect x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="{BAR}" fill="{colour}"/>'
        yield (
            f'<path d="M{least:.1f} {middle}H{greatest:.1f}M{least:.1f} {middle - 4}v8'
            f'M{greatest:.1f} {middle - 4}v8" stroke="{SPREAD}" fill="none"/>'
        )
        label = f"{spread.median:.2f}x  ({figure(row.medians[metric.name])} {metric.heading})"
        yield _text(math.ceil(max(end, greatest)) + 8, y + 13, with_signs(label))
    baseline = LEFT + scale
    bottom = TOP + STEP * len(drawn)
    yield (
        f'<path d="M{baseline:.1f} {TOP - 6}V{bottom}" stroke="{INK}"'
        ' stroke-dasharray="3 3" fill="none"/>'
    )


def _text(x: float, y: float, text: str, *, size: int | None = None, anchor: str = "start") -> str:
    font = "" if size is None else f' font-size="{size}" font-weight="bold"'
    return f'<text x="{x}" y="{y}" fill="{INK}" text-anchor="{anchor}"{font}>{escape(text)}</text>'


def in_words(outcome: Outcome) -> str:
    """Say what the chart shows, to who doesn't see it."""
    bars = (
        f"{BY_NAME[row.contender].title} {spread.median:.2f}" for row, spread in _drawn(outcome)
    )
    mode = outcome.mode
    baseline = BY_NAME[mode.baseline].title
    return f"{mode.compared[0].noun}, times better than {baseline}: {'; '.join(bars)}"
