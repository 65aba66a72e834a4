"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Final

from ._charts import chart
from ._claims import summary
from ._contenders import BY_NAME, CONTENDERS, Contender
from ._estimate import estimate
from ._machine import Machine
from ._measure import ROUNDS, WARM_UP_SECONDS, measure_mode
from ._modes import MODES, Mode
from ._outcome import Outcome
from ._pages import write
from ._processes import Bench, BenchmarkError, Cores, compile_programs
from ._report import table
from ._store import Run, from_json, to_json

SECONDS: Final = 0.5
"""Long enough for thousands of connections, short enough that a round is one moment."""

QUICK_ROUNDS: Final = 2
QUICK_SECONDS: Final = 0.15
"""For development: enough to see what a change does to ourselves, not to quote it."""

QUICK_CONTENDERS: Final = frozenset({"uvloop_protocol", "c_epoll"})
"""Beside ours and the baseline."""

SECOND_MODES: Final = ("echo1", "pingpong", "busy")
"""What is measured on another Python: a connection's cost, an octet's, and fairness."""

INTERRUPTED: Final = 130
"""What a shell reports for a program that Ctrl-C ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks that `argv` asks for; the exit status."""
    options = _parse(argv)
    try:
        run = _stored(options.from_json) if options.from_json else _run(options)
    except BenchmarkError as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        options.json.write_text(to_json(run), encoding="utf-8")
    if options.svg:
        _draw(options.svg, run.outcomes)
    if options.docs:
        write(options.docs, run, is_second=options.second)
    return _status(run.outcomes, chosen=bool(options.only))


def _run(options: argparse.Namespace) -> Run:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)  # so that children are ended on the way out
    cores = Cores.choose()
    machine = Machine.look()
    modes = _modes_asked_for(options)
    _print_heading(machine, cores, options)
    _print_estimate(modes, options)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="trio_wsk-bench-") as directory:
        bench = Bench(compile_programs(Path(directory)), cores, _say)
        for mode in modes:
            outcome = measure_mode(
                bench,
                mode,
                _chosen(mode, options),
                rounds=options.rounds,
                seconds=options.seconds,
            )
            outcomes.append(outcome)
            print(f"\n{table(outcome)}", flush=True)
    _print_summary(outcomes)
    return Run(
        date=datetime.now(timezone.utc).date().isoformat(),
        machine=machine,
        are_cores_separate=cores.are_separate,
        rounds=options.rounds,
        seconds=options.seconds,
        outcomes=outcomes,
    )


def _stored(file: Path) -> Run:
    """Read a run, and print it as if it had just been measured."""
    try:
        run = from_json(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BenchmarkError(f"{file}: {exc.strerror}") from exc
    print(f"{run.machine}; {run.date}")
    for outcome in run.outcomes:
        print(f"\n{table(outcome)}")
    _print_summary(run.outcomes)
    return run


def _modes_asked_for(options: argparse.Namespace) -> list[Mode]:
    if options.mode:
        return list(dict.fromkeys(options.mode))
    return [mode for mode in MODES if not options.second or mode.name in SECOND_MODES]


def _chosen(mode: Mode, options: argparse.Namespace) -> list[Contender]:
    """Of those the mode takes, the ones that are asked for, and the baseline."""

    def is_asked_for(contender: Contender) -> bool:
        if options.only:
            return contender in options.only
        return not options.quick or contender.is_ours or contender.name in QUICK_CONTENDERS

    return [
        BY_NAME[name]
        for name in mode.contenders
        if name == mode.baseline or is_asked_for(BY_NAME[name])
    ]


def _draw(directory: Path, outcomes: Sequence[Outcome]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for outcome in outcomes:
        (directory / f"{outcome.mode.name}.svg").write_text(chart(outcome), encoding="utf-8")


def _status(outcomes: Sequence[Outcome], *, chosen: bool) -> int:
    """Fail for a baseline or one of ours that did not run; never for a figure."""
    failed = {name for outcome in outcomes for name in outcome.failures}
    baselines = {outcome.mode.baseline for outcome in outcomes}
    ours = {contender.name for contender in CONTENDERS if contender.is_ours}
    missing = failed & (baselines if chosen else ours | baselines)
    if missing:
        print(f"benchmarks: did not run: {', '.join(sorted(missing))}", file=sys.stderr)
    return 1 if missing else 0


# ---- what is asked for ----


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure servers against a baseline, all in the same run.",
    )
    parser.add_argument(
        "--rounds",
        type=_count,
        help=f"per mode, at most (default: {ROUNDS}; with --quick: {QUICK_ROUNDS})",
    )
    parser.add_argument(
        "--seconds",
        type=_duration,
        help=f"one server is measured in one round, where the mode does not say itself"
        f" (default: {SECONDS}; with --quick: {QUICK_SECONDS})",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"for development: short, and beside ours and the baseline only"
        f" {' and '.join(sorted(QUICK_CONTENDERS))}",
    )
    parser.add_argument(
        "--only",
        action="extend",
        type=_contenders,
        default=[],
        metavar="NAME,...",
        help=f"these contenders; may be said again; a mode's baseline is always there. "
        f"One of ours that cannot start is then no error. Of: "
        f"{', '.join(contender.name for contender in CONTENDERS)}",
    )
    parser.add_argument(
        "--mode",
        action="extend",
        type=_modes,
        default=[],
        metavar="NAME,...",
        help=f"these modes; may be said again. Of: {', '.join(mode.name for mode in MODES)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as well")
    parser.add_argument(
        "--svg", type=Path, metavar="DIRECTORY", help="draw a chart per mode there, NAME.svg"
    )
    parser.add_argument(
        "--docs", type=Path, metavar="DIRECTORY", help="write there what the documentation shows"
    )
    parser.add_argument(
        "--second",
        action="store_true",
        help=f"the smaller run, on another Python, for the end of the documentation's page; if no"
        f" --mode is said, of {', '.join(SECOND_MODES)}",
    )
    parser.add_argument(
        "--from-json",
        type=Path,
        metavar="FILE",
        help="measure nothing: print, draw and write what is in this file, which --json wrote",
    )
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    return options


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _duration(text: str) -> float:
    value = float(text)
    if not 0.01 <= value <= 600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.01 and 600 seconds")
    return value


def _contenders(text: str) -> list[Contender]:
    return [BY_NAME[name] for name in _names(text, BY_NAME)]


def _modes(text: str) -> list[Mode]:
    known = {mode.name: mode for mode in MODES}
    return [known[name] for name in _names(text, known)]


def _names(text: str, known: Collection[str]) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{', '.join(map(repr, unknown))} not among {', '.join(known)}"
        )
    return names


# ---- what is said ----


def _say(text: str) -> None:
    """Show progress to a person; a log has no use for it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="\r", file=sys.stderr, flush=True)


def _print_heading(machine: Machine, cores: Cores, options: argparse.Namespace) -> None:
    versions = ", ".join(f"{name} {text}" for name, text in machine.versions.items())
    where = (
        f"servers on core {min(cores.server)}, client on core {min(cores.client)}"
        if cores.are_separate
        else "servers and client SHARE the only core: rates mean nothing, xCPU little"
    )
    print(f"{machine}\n{versions}; {machine.build}\n{where}")
    print(
        f"{options.rounds} shuffled rounds of {options.seconds:g} s at most; x: ratios to the"
        " baseline in the same round, median (min-max), more is better",
        flush=True,
    )


def _print_estimate(modes: Sequence[Mode], options: argparse.Namespace) -> None:
    chosen = [(mode, len(_chosen(mode, options))) for mode in modes]
    seconds = estimate(
        chosen, rounds=options.rounds, seconds=options.seconds, warm_up=WARM_UP_SECONDS
    )
    number = sum(count for _mode, count in chosen)
    print(
        f"{len(modes)} modes, {number} servers in them: about {seconds / 60:.1f} minutes",
        flush=True,
    )


def _print_summary(outcomes: Sequence[Outcome]) -> None:
    if in_short := summary(outcomes):
        print(f"\n{in_short}", flush=True)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
