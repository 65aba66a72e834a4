"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import tempfile
from collections.abc import Collection, Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Final

import attrs

from ._contenders import CONTENDERS, MODES, Contender, Mode
from ._measure import Bench, Outcome, measure_mode
from ._pended import NAME as PENDED
from ._pended import Samples, measure_pended
from ._pended import table as pended_table
from ._processes import BenchmarkError, Cores, compile_programs
from ._report import rows, table

ROUNDS: Final = 7
"""The least of which a median shrugs off three bad rounds; about 40 s a mode."""

SECONDS: Final = 0.5
"""Long enough for thousands of connections, short enough that a round is one moment."""

INTERRUPTED: Final = 130
"""What a shell reports for a program that Ctrl-C ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks that `argv` asks for; the exit status."""
    options = _parse(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)  # so that children are ended on the way out
    try:
        outcomes, pended, cores = _run(options)
    except BenchmarkError as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        text = json.dumps(_as_json(options, outcomes, pended, cores), indent=1)
        options.json.write_text(text + "\n")
    return _status(outcomes, chosen=bool(options.only))


def _run(options: argparse.Namespace) -> tuple[list[Outcome], Samples, Cores]:
    cores = Cores.choose()
    _print_machine(cores, options)
    outcomes = []
    pended: Samples = {}
    chosen = options.mode or [*MODES, PENDED]
    with tempfile.TemporaryDirectory(prefix="trio_wsk-bench-") as directory:
        bench = Bench(compile_programs(Path(directory)), cores, _say)
        for mode in chosen:
            if not isinstance(mode, Mode):
                pended = measure_pended(bench, options.rounds)
                print(f"\n{pended_table(pended)}", flush=True)
                continue
            outcome = measure_mode(
                bench,
                mode,
                _chosen(mode, options.only),
                rounds=options.rounds,
                seconds=options.seconds,
            )
            outcomes.append(outcome)
            print(f"\n{table(outcome)}", flush=True)
    return outcomes, pended, cores


def _chosen(mode: Mode, only: Sequence[Contender]) -> list[Contender]:
    return [
        contender
        for contender in CONTENDERS
        if mode.name in contender.modes
        and (not only or contender in only or contender.name == mode.baseline)
    ]


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
        "--rounds", type=_count, default=ROUNDS, help="per mode (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=_duration,
        default=SECONDS,
        help="one server is measured in one round (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        type=_contenders,
        default=[],
        metavar="NAME,...",
        help=f"these contenders; a mode's baseline is always there. "
        f"One of ours that cannot start is then no error. Of: "
        f"{', '.join(contender.name for contender in CONTENDERS)}",
    )
    parser.add_argument(
        "--mode",
        type=_modes,
        default=[],
        metavar="NAME,...",
        help=f"these modes. Of: {', '.join([*(mode.name for mode in MODES), PENDED])}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as well")
    return parser.parse_args(argv)


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
    known = {contender.name: contender for contender in CONTENDERS}
    return [known[name] for name in _names(text, known)]


def _modes(text: str) -> list[Mode | str]:
    known: dict[str, Mode | str] = {mode.name: mode for mode in MODES}
    known[PENDED] = PENDED
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


def _versions() -> dict[str, str]:
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "trio": _version("trio"),
        "uvloop": _version("uvloop"),
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def _print_machine(cores: Cores, options: argparse.Namespace) -> None:
    versions = ", ".join(f"{name} {text}" for name, text in _versions().items())
    where = (
        f"servers on core {min(cores.server)}, client on core {min(cores.client)}"
        if cores.are_separate
        else "servers and client SHARE the only core: rates mean nothing, xCPU little"
    )
    print(f"{versions}\n{where}")
    print(
        f"{options.rounds} shuffled rounds of {options.seconds:g} s; ratios to the"
        " baseline in the same round, median (min-max), more is better",
        flush=True,
    )


def _as_json(
    options: argparse.Namespace, outcomes: Sequence[Outcome], pended: Samples, cores: Cores
) -> dict[str, object]:
    return {
        "versions": _versions(),
        "cores": {"server": sorted(cores.server), "client": sorted(cores.client)},
        "rounds": options.rounds,
        "seconds": options.seconds,
        PENDED: pended,
        "modes": [
            {
                **attrs.asdict(outcome.mode),
                "rows": [attrs.asdict(r) for r in rows(outcome.samples, outcome.mode.baseline)],
                "skipped": outcome.failures,
                "left_out": outcome.left_out,
                "samples": [
                    {**attrs.asdict(sample), "utilisation": sample.utilisation}
                    for sample in outcome.samples
                ],
            }
            for outcome in outcomes
        ],
    }


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
