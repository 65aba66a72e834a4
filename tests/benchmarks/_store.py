"""
A run as JSON, and back. Pure: no clock, no process, no file.

What was read is a table per contender, a list per figure, so that a run of thousands of
readings can be kept beside the documentation. Ratios and claims are there for whoever reads
the file with something else; reading it back makes them anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from ._claims import findings
from ._contenders import BY_NAME
from ._machine import Machine
from ._modes import MODES
from ._outcome import Outcome, Reading, Sample
from ._processes import BenchmarkError
from ._report import Spread, rows

DEPTH: Final = 4
"""Down to which JSON has a line per item: a contender of a mode has one."""


@attrs.frozen
class Run:
    """All that was measured together, and on what."""

    date: str
    """As in 2026-01-31."""
    machine: Machine
    are_cores_separate: bool
    """Whether servers and clients had a core each."""
    rounds: int
    """Of each mode, at most."""
    seconds: float
    """Of one server in one round, where the mode doesn't say itself."""
    outcomes: Sequence[Outcome]


def to_json(run: Run) -> str:
    """Write a run down."""
    content = {
        **attrs.asdict(run, filter=attrs.filters.exclude("outcomes")),
        "claims": [
            {
                "claim": found.claim.what,
                "of": found.side.contender,
                "must": found.side.must,
                "aim": found.side.aim,
                "measured": found.measured and _spread(found.measured),
                "unit": found.claim.kind.value,
                "verdict": found.verdict,
            }
            for found in findings(run.outcomes)
        ],
        "modes": {outcome.mode.name: _outcome_as_json(outcome) for outcome in run.outcomes},
    }
    return _dumps(content, DEPTH) + "\n"


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    mode = outcome.mode
    return {
        "description": mode.description,
        "baseline": mode.baseline,
        "failures": outcome.failures,
        "left_out": outcome.left_out,
        "ratios": {
            row.contender: {name: each and _spread(each) for name, each in row.ratios.items()}
            for row in rows(mode, outcome.samples)
        },
        "readings": {
            name: _columns([each for each in outcome.samples if each.contender == name])
            for name in dict.fromkeys(sample.contender for sample in outcome.samples)
        },
    }


def _spread(spread: Spread) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in attrs.asdict(spread).items()}


def _columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """Make a table of one contender's readings, a list per column, an item per round."""
    readings = [sample.reading for sample in samples]
    return {
        "round": [sample.round for sample in samples],
        "errors": [reading.errors for reading in readings],
        "unfinished": [reading.unfinished for reading in readings],
        "first_error": [reading.first_error for reading in readings],
        **{name: [each.values[name] for each in readings] for name in readings[0].values},
    }


def _dumps(value: object, depth: int, indent: str = "") -> str:
    """Write JSON with a line per item down to `depth`, and what is below on the item's line."""
    if not value or not depth or not isinstance(value, (Mapping, list)):
        return json.dumps(value)
    inner = indent + " "
    if isinstance(value, Mapping):
        items: Iterable[str] = (
            f"{json.dumps(key)}: {_dumps(item, depth - 1, inner)}" for key, item in value.items()
        )
        opening, closing = "{}"
    else:
        items = (_dumps(item, depth - 1, inner) for item in value)
        opening, closing = "[]"
    lines = f",\n{inner}".join(items)
    return f"{opening}\n{inner}{lines}\n{indent}{closing}"


def from_json(text: str) -> Run:
    """Read a run that `to_json` wrote.

    Raises:
      BenchmarkError: it is no such thing, or has a mode or a contender that is no more.
    """
    try:
        content = json.loads(text)
        modes, _claims = content.pop("modes"), content.pop("claims")
        machine = Machine(**content.pop("machine"))
        outcomes = [_outcome_from_json(name, stored) for name, stored in modes.items()]
        return Run(**content, machine=machine, outcomes=outcomes)
    except (ValueError, LookupError, TypeError) as exc:
        raise BenchmarkError(f"not a run of these benchmarks: {exc!r}") from exc


def _outcome_from_json(name: str, stored: Mapping[str, Any]) -> Outcome:
    (mode,) = (mode for mode in MODES if mode.name == name)
    # In the words of the run: a mode of that name may have become another one since.
    mode = attrs.evolve(mode, description=stored["description"], baseline=stored["baseline"])
    samples = [
        sample
        for contender, columns in stored["readings"].items()
        for sample in _samples(BY_NAME[contender].name, columns)
    ]
    return Outcome(mode, samples=samples, failures=stored["failures"], left_out=stored["left_out"])


def _samples(contender: str, columns: Mapping[str, list[Any]]) -> list[Sample]:
    about = ("errors", "unfinished", "first_error")
    return [
        Sample(
            contender,
            number,
            Reading(
                values={
                    name: values[index]
                    for name, values in columns.items()
                    if name not in {"round", *about}
                },
                **{name: columns[name][index] for name in about},
            ),
        )
        for index, number in enumerate(columns["round"])
    ]
