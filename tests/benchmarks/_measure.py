"""
Rounds of all servers of a mode.

Each round measures each of them once, in an order of its own. A neighbour that takes the
machine for a second then hits all alike, and what drifts over minutes cancels out of a ratio
taken within one round. How one server is measured once is the mode's procedure.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from ._contenders import Contender
from ._idle import fresh_servers_idle
from ._load import servers_under_load
from ._modes import Mode, Procedure
from ._outcome import Measures, Outcome, Sample
from ._pended import fresh_servers_pending
from ._processes import Bench, BenchmarkError, NotHereError, take_descriptors

ROUNDS: Final = 7
"""The least of which a median shrugs off three bad rounds; about a minute a mode."""

WARM_UP_SECONDS: Final = 0.2
"""Thousands of connections: imports, caches and specialised bytecode are in place."""

Start = Callable[[Bench, Outcome], AbstractContextManager[Measures]]

PROCEDURES: Final[dict[Procedure, Start]] = {
    Procedure.LOAD: servers_under_load,
    Procedure.IDLE: fresh_servers_idle,
    Procedure.PENDED: fresh_servers_pending,
}


def measure_mode(
    bench: Bench, mode: Mode, contenders: Sequence[Contender], *, rounds: int, seconds: float
) -> Outcome:
    """Measure `rounds` shuffled rounds of `contenders`, after one that warms them up.

    A contender that fails is left out from there on and named in the outcome.
    """
    outcome = Outcome(mode, contenders)
    try:
        check_needs(bench, mode)
    except NotHereError as exc:
        outcome.left_out.update({contender.name: str(exc) for contender in contenders})
        return outcome
    rounds = min(rounds, mode.most_rounds)
    with PROCEDURES[mode.procedure](bench, outcome) as measures:
        if mode.procedure is Procedure.LOAD:  # else the servers are fresh each time
            bench.say(f"{mode.name}: warm-up")
            warm_up = min(WARM_UP_SECONDS, seconds) if mode.seconds is None else mode.seconds
            _measure_round(outcome, measures, None, warm_up)
        for number in range(rounds):
            bench.say(f"{mode.name}: round {number + 1} of {rounds}")
            _measure_round(outcome, measures, number, mode.seconds or seconds)
    return outcome


def check_needs(bench: Bench, mode: Mode) -> None:
    """Take what a mode needs.

    Raises:
      NotHereError: it can't be had on this machine.
    """
    take_descriptors(mode.connections + mode.busy)
    if mode.has_tls and not bench.programs.speaks_tls:
        raise NotHereError("the load generator needs OpenSSL for it; on Debian: libssl-dev")


def _measure_round(
    outcome: Outcome, measures: Measures, number: int | None, seconds: float
) -> None:
    names = [name for name in measures if name not in outcome.failures]
    for name in random.sample(names, len(names)):
        try:
            reading = measures[name](seconds)
        except BenchmarkError as exc:
            when = "in the warm-up" if number is None else f"in round {number + 1}"
            outcome.failures[name] = f"{exc} ({when})"
        else:
            if number is not None:
                outcome.samples.append(Sample(name, number, reading))
