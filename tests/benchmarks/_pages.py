"""
From a run to the parts of the documentation's page: Markdown and charts. Pure, but for `write`.

The page itself, ``docs/explanation/performance.md``, is written by hand and has no figure; it
includes what is made here. Every mode has its part, also when it was not measured, so that
the page can be the same for every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ._charts import chart, in_words
from ._claims import Finding, findings
from ._contenders import BY_NAME
from ._machine import ABSENT
from ._measure import ROUNDS
from ._modes import MODES, Metric, Mode
from ._outcome import Outcome
from ._report import Row, Spread, figure, rows, with_signs
from ._store import Run, from_json, to_json

MAIN: Final = "results.json"
"""The run that the page is about."""

SECOND: Final = "second.json"
"""A smaller one, on another Python: a table at the page's end."""

TIMES: Final = "\u00d7"
DASH: Final = "\u2013"

NOTHING: Final = "Not measured in this run.\n"


def write(directory: Path, run: Run, *, is_second: bool) -> None:
    """Write a run and all that the page shows of it."""
    directory.mkdir(parents=True, exist_ok=True)
    text = to_json(run)
    files = parts(from_json(text), is_second=is_second)
    if not is_second:
        for mode in MODES:  # a chart of the run before is none of this one
            (directory / f"{mode.name}.svg").unlink(missing_ok=True)
    for name, content in {(SECOND if is_second else MAIN): text, **files}.items():
        (directory / name).write_text(content, encoding="utf-8")


def parts(run: Run, *, is_second: bool) -> dict[str, str]:
    """Make what the page includes, by the files' names."""
    if is_second:
        return {"second.md": f"{_circumstances(run)}\n{_second_table(run.outcomes)}"}
    measured = {outcome.mode.name: outcome for outcome in run.outcomes if outcome.samples}
    return {
        "circumstances.md": _circumstances(run),
        "claims.md": _claims(run.outcomes),
        **{f"{mode.name}.md": _mode(mode, measured.get(mode.name)) for mode in MODES},
        **{f"{name}.svg": chart(outcome) for name, outcome in measured.items()},
    }


# ---- what it was measured on ----


def _circumstances(run: Run) -> str:
    machine = run.machine
    python, *others = (
        f"{name} {version}" for name, version in machine.versions.items() if version != ABSENT
    )
    where = (
        "Servers had one core and their clients another."
        if run.are_cores_separate
        else "**Servers and clients shared the only core**: rates mean nothing here."
    )
    lines = [
        f"Measured on {run.date}, with {python}, {machine.build}; {', '.join(others)}.",
        f"The machine: {machine}.",
        f"{where}",
        f"At most {run.rounds} rounds of {run.seconds:g} s.",
    ]
    if run.rounds < ROUNDS:
        lines.append("**This was a short run, as for development: its figures are no result.**")
    return "\n".join(lines) + "\n"


# ---- what is claimed ----


def _claims(outcomes: Sequence[Outcome]) -> str:
    heading = ("what", "of", "must", "aim", "measured", "")
    return _table(heading, (_claim(found) for found in findings(outcomes)))


def _claim(found: Finding) -> Iterable[str]:
    yield found.claim.what
    yield _title(found.side.contender)
    yield with_signs(found.goal(found.side.must))
    yield with_signs(found.goal(found.side.aim))
    yield with_signs(found.figure)
    yield found.verdict


# ---- one mode ----


def _mode(mode: Mode, outcome: Outcome | None) -> str:
    if outcome is None:
        return f"{_sentence(mode)}\n{NOTHING}"
    mode = outcome.mode
    found = rows(mode, outcome.samples)
    rounds = max(row.rounds for row in found)
    heading = (
        "",
        *(f"{TIMES} {metric.noun}" for metric in mode.compared),
        *(with_signs(metric.heading) for metric in mode.metrics),
        "",
    )
    blocks = [
        _sentence(mode) + f"Ratios to {_title(mode.baseline)} in the same round;"
        f" median of {rounds} rounds (least{DASH}greatest), more is better.\n",
        f"![{in_words(outcome)}]({mode.name}.svg)\n",
        _table(heading, (_row(mode, row) for row in found)),
        *_absent(outcome),
    ]
    return "\n".join(blocks)


def _sentence(mode: Mode) -> str:
    return f"`{mode.name}`: {mode.description}.\n"


def _row(mode: Mode, row: Row) -> Iterable[str]:
    yield _title(row.contender)
    for metric in mode.compared:
        ratio = row.ratios[metric.name]
        yield _spread(ratio) if ratio is not None else DASH
    for metric in mode.metrics:
        yield figure(row.medians[metric.name])
    yield "; ".join(row.notes)


def _absent(outcome: Outcome) -> Iterable[str]:
    """Name who gave no figure; why one failed is a matter between it and its developer."""
    for name, why in outcome.left_out.items():
        yield f"{_title(name)} was left out: {why}.\n"
    for name in outcome.failures:
        yield f"{_title(name)} did not last.\n"


# ---- another Python ----


def _second_table(outcomes: Sequence[Outcome]) -> str:
    """Make one table of some modes: their first metric each."""
    ratios = [
        (outcome.mode, {row.contender: row.ratios for row in rows(outcome.mode, outcome.samples)})
        for outcome in outcomes
        if outcome.samples
    ]
    names = dict.fromkeys(name for _mode, by_name in ratios for name in by_name)
    heading = (
        "",
        *(f"`{mode.name}`: {TIMES} {mode.compared[0].noun}" for mode, _by_name in ratios),
    )
    return _table(
        heading,
        (
            (
                _title(name),
                *(_first_ratio(mode.compared[0], by_name.get(name)) for mode, by_name in ratios),
            )
            for name in names
        ),
    )


def _first_ratio(metric: Metric, ratios: Mapping[str, Spread | None] | None) -> str:
    spread = ratios[metric.name] if ratios is not None else None
    return _spread(spread) if spread is not None else DASH


# ---- how it is printed ----


def _title(name: str) -> str:
    contender = BY_NAME[name]
    return f"**{contender.title}**" if contender.is_ours else contender.title


def _spread(spread: Spread) -> str:
    return with_signs(str(spread).strip())


def _table(heading: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    cells = [list(heading), *map(list, lines)]
    cells.insert(1, ["---"] * len(cells[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
