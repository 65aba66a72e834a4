"""What the benchmarks make of what they measured; the measuring itself is not a test's business."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import attrs
import pytest

from .benchmarks import __file__ as package
from .benchmarks._charts import chart
from .benchmarks._claims import CLAIMS, Claim, summary
from .benchmarks._contenders import BY_NAME, CONTENDERS, Language
from .benchmarks._load import CpuClock, read_result
from .benchmarks._modes import CPU, MEMORY, MODES, RATE, Mode, Procedure
from .benchmarks._outcome import Outcome, Reading, Sample
from .benchmarks._report import Spread, ratio, rows, table
from .benchmarks.contenders._lag import summary as lag_summary

FOLDER = Path(package).parent
LOAD = (FOLDER / "load.c").read_text(encoding="utf-8")

ECHO1 = next(mode for mode in MODES if mode.name == "echo1")


def reading(**values: float) -> Reading:
    """A reading with all that `echo1` shows."""
    usual = {"utilisation": 1.0, "waited": 0.0, "client_busy": 0.5, "p50_ms": 1.0, "p99_ms": 2.0}
    return Reading({**usual, **values})


def two_rounds() -> list[Sample]:
    """The machine is half as fast in the second round, for the baseline and for us."""
    return [
        Sample("trio_serve_tcp", 0, reading(cpu_us=100.0, rate=10.0)),
        Sample("wsk_serve", 0, reading(cpu_us=20.0, rate=40.0)),
        Sample("wsk_serve", 1, reading(cpu_us=50.0, rate=20.0)),
        Sample("trio_serve_tcp", 1, reading(cpu_us=200.0, rate=5.0)),
    ]


def test_ratio_is_taken_within_a_round() -> None:
    """A ratio compares what was measured in the same round, so that drift cancels out."""
    samples = two_rounds()

    assert Spread(4.5, 4.0, 5.0) == ratio(samples, CPU, "wsk_serve", "trio_serve_tcp")


def test_more_is_better_in_every_ratio() -> None:
    """The ratio of a rate has its own on top, that of a cost the baseline's."""
    assert 4.0 == RATE.ratio(40.0, 10.0)
    assert 5.0 == CPU.ratio(20.0, 100.0)


def test_ratio_of_nothing_measured_is_none() -> None:
    """Without the baseline there is no ratio, and nothing fails."""
    samples = [sample for sample in two_rounds() if sample.contender == "wsk_serve"]

    (row,) = rows(ECHO1, samples)

    assert {"cpu_us": None, "rate": None} == row.ratios


def test_costliest_row_comes_first() -> None:
    """Rows are in the order of the first metric that the mode compares."""
    names = [row.contender for row in rows(ECHO1, two_rounds())]

    assert ["trio_serve_tcp", "wsk_serve"] == names


def test_what_the_client_counted_becomes_figures() -> None:
    """CPU per exchange counts the drained ones as well, a rate those of the window only."""
    result: dict[str, Any] = {
        "completed": 100,
        "drained": 25,
        "unfinished": 1,
        "missed": 2,
        "background": 50,
        "errors": 0,
        "first_error": "",
        "window_seconds": 0.5,
        "elapsed_seconds": 0.625,
        "client_cpu_seconds": 0.25,
        "latency_ms": {"p50": 1.0, "p90": 2.0, "p99": 3.0, "max": 4.0},
    }

    read = read_result(result, {"lag_p99_ms": 7.0}, CpuClock(run_ns=500_000_000, wait_ns=0))

    assert 200.0 == read.values["rate"]
    assert 4000.0 == read.values["cpu_us"]
    assert 6000.0 == read.values["both_cpu_us"]
    assert 100.0 == read.values["background_rate"]
    assert 3.0 == read.values["p99_ms"]
    assert 7.0 == read.values["lag_p99_ms"]
    assert 3 == read.unfinished


def test_lags_are_summed_up_in_milliseconds() -> None:
    """A median and a 99th percentile, and zeros where the sleeper never woke."""
    lags = [second / 1000 for second in range(101)]

    assert {"lag_count": 101, "lag_p50_ms": 50.0, "lag_p99_ms": 99.0} == lag_summary(lags[::-1])
    assert {"lag_count": 0, "lag_p50_ms": 0.0, "lag_p99_ms": 0.0} == lag_summary([])


def test_table_names_who_did_not_run() -> None:
    """Who was skipped or left out has a line, with the reason."""
    outcome = Outcome(
        ECHO1, samples=two_rounds(), failures={"asyncio_streams": "ended"}, left_out={"node": "no"}
    )

    text = table(outcome)

    assert "4.50 (4.00-5.00)" in text
    assert "asyncio_streams        SKIPPED: ended" in text
    assert "node                   LEFT OUT: no" in text


@pytest.mark.parametrize("samples", [two_rounds(), []], ids=["measured", "nothing"])
def test_chart_is_well_formed(samples: list[Sample]) -> None:
    """A chart is XML with a title, and a bar per row, whatever the mode's description says."""
    mode = attrs.evolve(ECHO1, description="1 < 2 & 3")

    root = ET.fromstring(chart(Outcome(mode, samples=samples)))  # noqa: S314 - our own

    svg = "{http://www.w3.org/2000/svg}"
    bars = root.findall(f"{svg}rect")
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert "echo1: 1 < 2 & 3" == root.findtext(f"{svg}title")
    assert len({sample.contender for sample in samples}) == len(bars)
    assert sorted(widths) == widths


def test_claim_is_drawn_from_its_mode() -> None:
    """A ratio where it is against somebody, the figure itself where it is not, or nothing."""
    outcomes = [
        Outcome(ECHO1, samples=two_rounds()),
        Outcome(
            next(mode for mode in MODES if mode.name == "idle"),
            samples=[Sample("wsk_serve", 0, Reading({"kib": 2.0}))],
        ),
    ]

    assert (Spread(4.5, 4.0, 5.0), None) == Claim("", "echo1", CPU).figures(outcomes)
    assert (2.0, None) == Claim("", "idle", MEMORY, None).figures(outcomes)
    assert (None, None) == Claim("", "burst", CPU).figures(outcomes)
    assert "idle connection: KiB" in summary(outcomes)
    assert "burst" not in summary(outcomes)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: str(claim.what))
def test_claim_can_be_measured(claim: Claim) -> None:
    """Whom a claim names takes part in its mode, which reads what the claim is about."""
    (mode,) = (mode for mode in MODES if mode.name == claim.mode)
    named = {claim.against, claim.awaited, claim.events} - {None}

    assert set() == named - set(mode.contenders)
    assert claim.metric in mode.metrics


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode.name))
def test_mode_can_be_run(mode: Mode) -> None:
    """A mode names contenders that exist, with its baseline, and a row that ``load.c`` has."""
    loads = {BY_NAME[name].load or mode.load for name in mode.contenders}

    assert mode.baseline in mode.contenders
    if mode.procedure is not Procedure.PENDED:
        assert all(f'{{.name = "{load}"' in LOAD for load in loads)


def test_contenders_are_files() -> None:
    """Every contender is a file, has a name of its own, and takes part in something."""
    missing = [
        contender.name
        for contender in CONTENDERS
        if not (FOLDER / contender.folder / (contender.program + contender.language.value)).exists()
    ]

    assert [] == missing
    assert len(CONTENDERS) == len(BY_NAME)
    assert set(BY_NAME) == {name for mode in MODES for name in mode.contenders}
    assert {Language.C, Language.NODE} <= {contender.language for contender in CONTENDERS}
