"""What measuring gives: one sample per contender and round, and who gave none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from ._contenders import Contender
from ._modes import Mode


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Keep five digits: no clock knows more, and what is stored is what was reckoned with."""
    return {name: float(f"{value:.5g}") for name, value in values.items()}


@attrs.frozen
class Reading:
    """One server, measured once."""

    values: Mapping[str, float] = attrs.field(converter=_rounded)
    """By the names of `Metric`, and what tells how far to trust them: see `_report`."""
    errors: int = 0
    """Exchanges that failed."""
    unfinished: int = 0
    """Exchanges that were still running 0.25 s after the window, or were given up."""
    first_error: str = ""
    """What the first failed one met, or nothing."""


@attrs.frozen
class Sample:
    """One server in one round."""

    contender: str
    """Its name."""
    round: int
    """From 0."""
    reading: Reading


Measures = Mapping[str, Callable[[float], Reading]]
"""By contender: measure it once, in a window of so many seconds."""


@attrs.define
class Outcome:
    """What one mode gave."""

    mode: Mode
    contenders: Sequence[Contender] = ()
    samples: list[Sample] = attrs.Factory(list)
    """In the order in which they were measured."""
    failures: dict[str, str] = attrs.Factory(dict)
    """Contender that could not start, or did not last: why."""
    left_out: dict[str, str] = attrs.Factory(dict)
    """Contender that needs what can't be had here: why."""
