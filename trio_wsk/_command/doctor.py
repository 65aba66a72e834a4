"""``doctor``: what this machine has for a server, and what would help where it lacks something."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

import attrs

from trio_wsk._vocabulary.verdict import InspectPoint
from trio_wsk.transports._probe import probe

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from trio_wsk.transports._probe import ProbeReport

__all__ = ["add_doctor"]

_DOCTOR: Final = "say what this machine has for a server, and what would help where it lacks it"
_JSON: Final = "print one JSON object, for programs"
_REQUIRE: Final = "end with status 1 if connection requests can't be inspected then"

_MARKS: Final = {True: "yes", False: "no", None: ""}
_INDENT: Final = " " * 5


def add_doctor(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Tell the parser of the command."""
    parser = add_parser("doctor", help=_DOCTOR, description=f"{_DOCTOR.capitalize()}.")
    parser.add_argument("--json", action="store_true", help=_JSON)
    points = [point.value for point in InspectPoint]
    parser.add_argument("--require", choices=points, help=_REQUIRE)
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    report = probe()
    lines = _as_json(report) if options.json else _as_text(report)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    required = None if options.require is None else InspectPoint(options.require)
    return int(required is not None and required not in report.inspect_points)


def _as_text(report: ProbeReport) -> Iterator[str]:
    for finding in report.findings:
        yield f"{_MARKS[finding.available]:<{len(_INDENT)}}{finding.title}: {finding.found}"
        if finding.remedy is not None:
            yield f"{_INDENT}  What would help: {finding.remedy}"
    yield f"Connection requests can be inspected: {', '.join(_points(report))}"


def _as_json(report: ProbeReport) -> Iterator[str]:
    findings = [attrs.asdict(finding) for finding in report.findings]
    whole: dict[str, Any] = {"inspect_points": _points(report), "findings": findings}
    yield json.dumps(whole, indent=2)


def _points(report: ProbeReport) -> list[str]:
    return [point.value for point in InspectPoint if point in report.inspect_points]
