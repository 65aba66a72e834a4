"""What the benchmarks make of what they measured; the measuring itself is not a test's business."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import attrs
import pytest

from trio_wsk._protocols.client_hello import ClientHello, parse_client_hello
from trio_wsk._protocols.proxy_header import ProxyHeader, parse_proxy_header

from .benchmarks import __file__ as package
from .benchmarks.__main__ import SECOND_MODES, _parse, main
from .benchmarks._charts import INK, OURS, SPREAD, THEIRS, chart
from .benchmarks._claims import CLAIMS, Claim, Finding, Kind, Side, findings, summary
from .benchmarks._contenders import BY_NAME, CONTENDERS, Language
from .benchmarks._estimate import estimate
from .benchmarks._load import CpuClock, read_result
from .benchmarks._machine import Machine, kernel_name, processor_name
from .benchmarks._measure import check_needs
from .benchmarks._modes import CPU, MODES, RATE, Mode, Procedure
from .benchmarks._outcome import Outcome, Reading, Sample
from .benchmarks._pages import MAIN, SECOND, parts, write
from .benchmarks._processes import (
    Bench,
    BenchmarkError,
    Cores,
    NotHereError,
    Programs,
    server_command,
)
from .benchmarks._report import Spread, ratio, rows, table
from .benchmarks._store import Run, from_json, to_json
from .benchmarks.contenders._lag import summary as lag_summary

FOLDER = Path(package).parent
LOAD = (FOLDER / "load.c").read_text(encoding="utf-8")

DOCS = FOLDER.parent.parent / "docs"
SHOWN = DOCS / "performance"
PAGE = (DOCS / "explanation" / "performance.md").read_text(encoding="utf-8")

ECHO1 = next(mode for mode in MODES if mode.name == "echo1")
IDLE = next(mode for mode in MODES if mode.name == "idle")


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
    """A ratio where it is against somebody, the reading itself where it is not, or nothing."""
    outcomes = [
        Outcome(ECHO1, samples=two_rounds()),
        Outcome(IDLE, samples=[Sample("wsk_serve", 0, Reading({"kib": 2.5}))]),
    ]

    found = {
        (each.claim.what, each.side.contender, each.side.against): each.measured
        for each in findings(outcomes)
    }
    compared = "echo1: CPU, against trio.serve_tcp"
    assert Spread(4.5, 4.0, 5.0) == found[compared, "wsk_serve", "trio_serve_tcp"]
    assert found[compared, "wsk_events", "trio_serve_tcp"] is None
    assert Spread(2.5, 2.5, 2.5) == found["an idle connection", "wsk_serve", "trio_serve_tcp"]
    assert "an idle connection" in summary(outcomes)
    assert "burst" not in summary(outcomes)
    assert not summary([])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(Kind.TIMES_BETTER, 0.8), (Kind.TIMES_AS_MUCH, 1.25), (Kind.MORE, 25.0)],
)
def test_kinds_of_a_ratio(kind: Kind, expected: float) -> None:
    """Who needs 125 where another needs 100 is 0.8 times as good, and needs 25 % more."""
    assert expected == pytest.approx(kind.of(CPU.ratio(125.0, 100.0)))


@pytest.mark.parametrize(
    ("kind", "must", "aim", "median", "verdict"),
    [
        (Kind.TIMES_BETTER, 4, 6, 6.0, "aim reached"),
        (Kind.TIMES_BETTER, 4, 6, 5.9, "reached"),
        (Kind.TIMES_BETTER, 4, 6, 3.996, "reached"),
        (Kind.TIMES_BETTER, 4, 6, 3.0, "missed by 25%"),
        (Kind.TIMES_BETTER, None, 1, 0.9, "aim missed"),
        (Kind.TIMES_BETTER, None, None, 9.0, ""),
        (Kind.TIMES_AS_MUCH, 1.4, 1, 1.2, "reached"),
        (Kind.TIMES_AS_MUCH, 1.4, 1, 0.9, "aim reached"),
        (Kind.MORE, 20, None, 31.0, "missed by 11 points"),
        (Kind.KIB, 2.0, None, 3.0, "missed by 50%"),
        (Kind.KIB, 2.0, None, None, ""),
    ],
)
def test_verdict(
    kind: Kind, must: float | None, aim: float | None, median: float | None, verdict: str
) -> None:
    """A median is judged as it is printed, in the direction of its kind, and never fails."""
    side = Side("wsk_serve", must, aim)
    claim = Claim("", "echo1", CPU, awaited=side, kind=kind)
    measured = None if median is None else Spread(median, median, median)

    assert verdict == Finding(claim, side, measured).verdict


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: str(claim.what))
def test_claim_can_be_measured(claim: Claim) -> None:
    """Whom a claim names takes part in its mode, which reads what the claim is about."""
    (mode,) = (mode for mode in MODES if mode.name == claim.mode)
    named = {side.contender for side in claim.sides}
    if not claim.kind.is_a_reading:
        named |= {side.against for side in claim.sides}

    assert claim.sides
    assert set() == named - set(mode.contenders)
    assert claim.metric in mode.metrics


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode.name))
def test_mode_can_be_run(mode: Mode) -> None:
    """A mode names contenders that exist, with its baseline, and a row that ``load.c`` has."""
    loads = {BY_NAME[name].load or mode.load for name in mode.contenders}

    assert mode.baseline in mode.contenders
    if mode.procedure is not Procedure.PENDED:
        assert all(f'{{.name = "{load}"' in LOAD for load in loads)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode.name))
def test_what_a_mode_needs_is_said(mode: Mode) -> None:
    """A mode with TLS says what to install, where the load generator speaks none."""
    programs = Programs(FOLDER / "load", speaks_tls=False, servers={})
    bench = Bench(programs, Cores.choose(), print)
    if mode.has_tls:
        with pytest.raises(NotHereError, match="libssl-dev"):
            check_needs(bench, attrs.evolve(mode, connections=1))
    else:
        check_needs(bench, attrs.evolve(mode, connections=1, busy=0))


def test_lines_end_with_the_message() -> None:
    """What is sent in the modes of lines is whole lines: as many as their description says."""
    rows = dict(re.findall(r'\{\.name = "(lines\d+)", \.size = (\d+), \.line = 64,', LOAD))

    assert {"lines1": "64", "lines16": str(16 * 64)} == rows


def sent_by_load(name: str) -> bytes:
    """Return what ``load.c`` has under a name, which is written there as Python has it, too."""
    found = re.search(rf"^#define {name} (.*?[^\\])$", LOAD, re.MULTILINE | re.DOTALL)
    assert found is not None
    texts = re.findall(r'"[^"]*"', found[1])
    return b"".join(ast.literal_eval(f"b{text}") for text in texts)


def test_what_rules_read_is_in_order() -> None:
    """What is sent in the mode of rules is a PROXY header, and a ClientHello with a name."""
    header = parse_proxy_header(sent_by_load("PROXY_V2"))
    hello = parse_client_hello(sent_by_load("HELLO"))

    assert isinstance(header, ProxyHeader)
    assert "203.0.113.9:4711" == str(header.source)
    assert isinstance(hello, ClientHello)
    assert "example.com" == hello.server_name


def test_contender_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of a contender is named that can't be found, and nothing fails."""
    monkeypatch.setenv("PATH", "")
    programs = Programs(FOLDER / "load", speaks_tls=False, servers={})

    with pytest.raises(NotHereError, match="`haproxy`"):
        server_command(BY_NAME["haproxy_none"], "once", programs)


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


def test_all_of_it_stays_under_twenty_minutes() -> None:
    """A full run, as it is without options, is one that somebody waits for."""
    options = _parse([])
    chosen = [(mode, len(mode.contenders)) for mode in MODES]

    seconds = estimate(chosen, rounds=options.rounds, seconds=options.seconds, warm_up=0.2)

    assert seconds < 20 * 60


def test_modes_and_contenders_can_be_listed_and_repeated() -> None:
    """Names after a comma, and after another option of that name, come to the same."""
    options = _parse(["--mode", "echo1,late", "--mode", "busy", "--only", "node", "--only=c_epoll"])

    assert ["echo1", "late", "busy"] == [mode.name for mode in options.mode]
    assert ["node", "c_epoll"] == [contender.name for contender in options.only]


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor\t: 0\nmodel name\t: Intel(R) Core(TM) i7 CPU @ 2.80GHz\n", "Intel Core i7"),
        ("model name\t: AMD EPYC 7B13\n", "AMD EPYC 7B13"),
        ("processor\t: 0\n\nModel\t\t: Raspberry Pi 4\n", "Raspberry Pi 4"),
        ("cpu\t\t: POWER9\n", "POWER9"),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", "aarch64 processor"),
        ("", "aarch64 processor"),
    ],
)
def test_processor_has_a_name(cpuinfo: str, expected: str) -> None:
    """Whatever the kernel says about a processor gives a name, its architecture's at least."""
    assert expected == processor_name(cpuinfo, "aarch64")


def test_kernel_is_a_number() -> None:
    """What a distribution, or who compiled it, adds to a kernel's version is left out."""
    assert "Linux 6.1.0" == kernel_name("Linux", "6.1.0-18-our-machine")
    assert "Linux" == kernel_name("Linux", "mine")


def test_machine_is_described() -> None:
    """This very machine can be described, whatever it is."""
    machine = Machine.look()

    assert machine.processor in str(machine)
    assert machine.versions["trio"] != "absent"


def run_of(*outcomes: Outcome) -> Run:
    """A run on some machine."""
    machine = Machine(
        processor="Z80",
        cores=1,
        is_virtual=False,
        kernel="Linux 6.1",
        versions={"CPython": "3.13.0", "uvloop": "absent"},
        build="built by hand",
    )
    return Run(
        date="2026-01-31",
        machine=machine,
        are_cores_separate=True,
        rounds=2,
        seconds=0.5,
        outcomes=outcomes,
    )


def test_run_survives_being_stored() -> None:
    """What is read back is what was written, and gives the same figures and the same text."""
    outcome = Outcome(ECHO1, samples=two_rounds(), failures={"node": "ended"}, left_out={"x": "y"})

    text = to_json(run_of(outcome))
    again = from_json(text)

    assert text == to_json(again)
    assert run_of().machine == again.machine
    assert table(outcome) == table(again.outcomes[0])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"modes": {}, "claims": []}'])
def test_anything_else_is_no_run(text: str) -> None:
    """A file that is something else is refused, and in words."""
    with pytest.raises(BenchmarkError, match="not a run"):
        from_json(text)


def test_page_has_a_part_for_each_mode(tmp_path: Path) -> None:
    """A mode that was not measured says so; a chart of an earlier run does not stay."""
    (tmp_path / "late.svg").touch()

    write(tmp_path, run_of(Outcome(ECHO1, samples=two_rounds())), is_second=False)

    assert {f"{mode.name}.md" for mode in MODES} <= {path.name for path in tmp_path.iterdir()}
    assert ["echo1.svg"] == [path.name for path in tmp_path.glob("*.svg")]
    assert "| **serve** | 4.50 (4.00\u20135.00) |" in (tmp_path / "echo1.md").read_text("utf-8")
    assert "Not measured" in (tmp_path / "late.md").read_text("utf-8")
    assert "short run" in (tmp_path / "circumstances.md").read_text("utf-8")


@pytest.mark.parametrize("name", [MAIN, SECOND])
def test_documentation_shows_what_was_measured(name: str) -> None:
    """What the page includes is what its run gives: nobody has edited it by hand."""
    text = (SHOWN / name).read_text(encoding="utf-8")
    run = from_json(text)
    made = parts(run, is_second=name == SECOND)

    assert text == to_json(run)
    assert made == {part: (SHOWN / part).read_text(encoding="utf-8") for part in made}


@pytest.mark.parametrize(("name", "options"), [(MAIN, []), (SECOND, ["--second"])])
def test_documentation_is_written_again_without_measuring(
    name: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a run that was kept the command line prints its claims and writes the same files."""
    status = main(["--from-json", str(SHOWN / name), "--docs", str(tmp_path), *options])

    assert 0 == status
    assert "echo1: CPU, against trio.serve_tcp" in capsys.readouterr().out
    assert {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()} == {
        path.name: (SHOWN / path.name).read_text("utf-8") for path in tmp_path.iterdir()
    }


def test_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name of a file ends the program with the name, and no traceback."""
    assert 1 == main(["--from-json", "nowhere.json"])
    assert "nowhere.json: No such file" in capsys.readouterr().err


def test_nothing_else_lies_beside_it() -> None:
    """What the page could include is what the two runs gave."""
    made = {MAIN, SECOND}
    for name in (MAIN, SECOND):
        run = from_json((SHOWN / name).read_text(encoding="utf-8"))
        made |= set(parts(run, is_second=name == SECOND))

    assert made == {path.name for path in SHOWN.iterdir()}


def test_page_includes_all_of_it() -> None:
    """The page has every mode, what is claimed, both machines, and the other Python."""
    included = re.findall(r"^```\{include\} \.\./performance/(\S+)\.md$", PAGE, re.MULTILINE)
    expected = ["circumstances", "claims", *(mode.name for mode in MODES), "second"]

    assert expected == included


def test_page_has_no_figure_of_its_own() -> None:
    """Whatever is a number comes from a run; names of modes may have one."""
    by_hand = re.sub(r"^```\{include\}.*$|`[^`\n]*`", "", PAGE, flags=re.MULTILINE)
    by_hand = re.sub(r"\bp(50|99)\b|^nox .*$", "", by_hand, flags=re.MULTILINE)

    assert [] == re.findall(r".*\d.*", by_hand)


def test_second_run_is_of_some_modes() -> None:
    """The table of the other Python has the modes that it is meant to have."""
    run = from_json((SHOWN / SECOND).read_text(encoding="utf-8"))

    assert set(SECOND_MODES) == {outcome.mode.name for outcome in run.outcomes}


def test_runs_do_not_tell_whose_they_are() -> None:
    """No path of a machine gets into the documentation with a run."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in SHOWN.glob("*.[jm]*")}

    assert {} == {
        name: found
        for name, text in texts.items()
        if (found := re.findall(r"(?<![\w.])/(?:home|root|tmp|usr|opt|work)/\S+", text))
    }


@pytest.mark.parametrize(
    ("colour", "least"), [(INK, 4.5), (OURS, 3.0), (THEIRS, 3.0), (SPREAD, 3.0)]
)
def test_chart_can_be_read_on_white_and_on_black(colour: str, least: float) -> None:
    """Text and shapes have the contrast that WCAG asks for, whichever the page's theme is."""
    light = luminance(colour)

    assert least <= 1.05 / (light + 0.05)
    assert least <= (light + 0.05) / 0.05


def luminance(colour: str) -> float:
    """WCAG's relative luminance of ``#rrggbb``, none of which is next to black."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (((channel + 0.055) / 1.055) ** 2.4 for channel in channels)
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)
