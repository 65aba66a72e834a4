"""The command line: ``python -m trio_wsk doctor`` says what this machine has for a server."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Final

import attrs

from ._vocabulary.verdict import InspectPoint
from .transports._probe import probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .transports._probe import ProbeReport

__all__ = ["main"]

_DOCTOR: Final = "say what this machine has for a server, and what would help where it lacks it"
_JSON: Final = "print one JSON object, for programs"
_REQUIRE: Final = "end with status 1 if connection requests can't be inspected then"

_MARKS: Final = {True: "yes", False: "no", None: ""}
_INDENT: Final = " " * 5

_MISUSED: Final = 2
"""As argparse ends, too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Args:
      arguments: What follows the name of the program; without it, the process's own.

    Returns:
      The exit status: 0; 1 if what was required can't be had; 2 without a command.

    Raises:
      SystemExit: the command line is wrong (2), or asked for help (0).
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.version:
        sys.stdout.write(f"trio_wsk {metadata.version('trio-wsk')}\n")
        return 0
    if options.command is None:
        parser.print_help()
        return _MISUSED
    report = probe()
    lines = _as_json(report) if options.json else _as_text(report)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    required = None if options.require is None else InspectPoint(options.require)
    return int(required is not None and required not in report.inspect_points)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trio_wsk", description="A server toolkit for Trio."
    )
    parser.add_argument("--version", action="store_true", help="print the version of trio_wsk")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    doctor = commands.add_parser("doctor", help=_DOCTOR, description=f"{_DOCTOR.capitalize()}.")
    doctor.add_argument("--json", action="store_true", help=_JSON)
    points = [point.value for point in InspectPoint]
    doctor.add_argument("--require", choices=points, help=_REQUIRE)
    return parser


def _as_text(report: ProbeReport) -> Iterator[str]:
    for finding in report.findings:
        yield f"{_MARKS[finding.available]:<{len(_INDENT)}}{finding.title}: {finding.found}"
        if finding.remedy is not None:
            yield f"{_INDENT}  What would help: {finding.remedy}"
    yield f"Connection requests can be inspected: {', '.join(_points(report))}"


def _as_json(report: ProbeReport) -> Iterator[str]:
    findings = [attrs.asdict(finding) for finding in report.findings]
    whole = {"inspect_points": _points(report), "findings": findings}
    yield json.dumps(whole, indent=2)


def _points(report: ProbeReport) -> list[str]:
    return [point.value for point in InspectPoint if point in report.inspect_points]


if __name__ == "__main__":
    sys.exit(main())
