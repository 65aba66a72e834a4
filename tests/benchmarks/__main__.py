"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import enum
import json
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Final

import attrs

from ._charts import chart
from ._claims import CLAIMS, summary
from ._contenders import BY_NAME, CONTENDERS, Contender
from ._measure import measure_mode
from ._modes import MODES, Mode
from ._outcome import Outcome
from ._processes import Bench, BenchmarkError, Cores, compile_programs
from ._report import Spread, rows, table

ROUNDS: Final = 7
"""The least of which a median shrugs off three bad rounds; about a minute a mode."""

SECONDS: Final = 0.5
"""Long enough for thousands of connections, short enough that a round is one moment."""

QUICK_ROUNDS: Final = 2
QUICK_SECONDS: Final = 0.15
"""For development: enough to see what a change does to ourselves, not to quote it."""

QUICK_CONTENDERS: Final = frozenset({"uvloop_protocol", "c_epoll"})
"""Beside ours and the baseline."""

INTERRUPTED: Final = 130
"""What a shell reports for a program that Ctrl-C ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks that `argv` asks for; the exit status."""
    options = _parse(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)  # so that children are ended on the way out
    try:
        outcomes, cores = _run(options)
    except BenchmarkError as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        text = json.dumps(_as_json(options, outcomes, cores), indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.svg:
        _draw(options.svg, outcomes)
    return _status(outcomes, chosen=bool(options.only))


def _run(options: argparse.Namespace) -> tuple[list[Outcome], Cores]:
    cores = Cores.choose()
    _print_machine(cores, options)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="trio_wsk-bench-") as directory:
        bench = Bench(compile_programs(Path(directory)), cores, _say)
        for mode in options.mode or MODES:
            outcome = measure_mode(
                bench,
                mode,
                _chosen(mode, options),
                rounds=options.rounds,
                seconds=options.seconds,
            )
            outcomes.append(outcome)
            print(f"\n{table(outcome)}", flush=True)
    if in_short := summary(outcomes):
        print(f"\n{in_short}", flush=True)
    return outcomes, cores


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
        help=f"these modes. Of: {', '.join(mode.name for mode in MODES)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as well")
    parser.add_argument(
        "--svg", type=Path, metavar="DIRECTORY", help="draw a chart per mode there, NAME.svg"
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


def _versions() -> dict[str, str]:
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": f"{platform.system()} {platform.release()}",
        **{name: _version(name) for name in ("trio", "anyio", "uvloop")},
        "node": _node_version(),
    }


def _node_version() -> str:
    node = shutil.which("node")
    if node is None:
        return "absent"
    command = [node, "--version"]
    return subprocess.run(  # noqa: S603 - what will be measured
        command, check=False, capture_output=True, text=True, timeout=10
    ).stdout.strip()


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
        f"{options.rounds} shuffled rounds of {options.seconds:g} s at most; x: ratios to the"
        " baseline in the same round, median (min-max), more is better",
        flush=True,
    )


def _as_json(
    options: argparse.Namespace, outcomes: Sequence[Outcome], cores: Cores
) -> dict[str, object]:
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": _versions(),
        "cores": {"server": sorted(cores.server), "client": sorted(cores.client)},
        "rounds": options.rounds,
        "seconds": options.seconds,
        "claims": [
            {
                **attrs.asdict(claim),
                "figures": [
                    attrs.asdict(figure) if isinstance(figure, Spread) else figure
                    for figure in claim.figures(outcomes)
                ],
            }
            for claim in CLAIMS
        ],
        "modes": [
            {
                **attrs.asdict(outcome.mode, value_serializer=_plain),
                "rows": [attrs.asdict(row) for row in rows(outcome.mode, outcome.samples)],
                "skipped": outcome.failures,
                "left_out": outcome.left_out,
                "samples": [attrs.asdict(sample) for sample in outcome.samples],
            }
            for outcome in outcomes
        ],
    }


def _plain(_owner: object, _field: object, value: object) -> object:
    return value.value if isinstance(value, enum.Enum) else value


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
