"""Everything that is checked, one session per question.

`nox` asks all but `bench`, `model`, `mutants`, `fuzz` and `soak`, which take too long.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
# Nothing says so here because it is nox's default: a Python that can't be found is an error
# where the environment has CI, and elsewhere a skipped session that names it.

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
MEASURED_PYTHON = PYTHONS[-1]  # for what is built in only there, the others have code of theirs
HEAVY_PYTHON = "3.11"  # heavy tests ask the kernel more than they ask Python: once is enough

# Most of what a quick test takes is waiting: six workers keep two cores busy, and four don't. A
# file stays in one piece: the blocks of a page share a namespace, and many a fixture is a module's.
# Who hangs takes its worker with it; another one would hang on the same test.
WORKERS = ("-n", "6", "--max-worker-restart", "0")
SIDE_BY_SIDE = (*WORKERS, "--dist", "loadfile")
QUICK = ("-m", "not heavy")
# What asks the kernel for its answers, over and over, gets the same ones from other Pythons, and
# with other versions of what is installed. Who starts one program after the other mostly waits
# until it is there.
QUICK_EVERYWHERE = ("-m", "not heavy and not kernel and not programs")
QUICK_INSTALLED = ("-m", "not heavy and not kernel")

# These hang on how the package is installed: its metadata, its entry point, the programs that
# import it; and on the pages, whose code comes through every room.
INSTALLED = (
    *("README.md", "docs", "tests/documentation", "tests/test_public_api.py"),
    *("tests/test_doctor.py", "tests/test_anyio.py", "tests/testing/test_pytest_plugin.py"),
    *("tests/serving/test_running.py", "tests/conformance/test_memory.py"),
)
SHIPPED = ("trio_wsk", "tests", "docs", "examples")
NOT_SHIPPED = {"__pycache__", "_build"}

MODEL_EXAMPLES = "6000"  # of about fifty steps each

# What flake8-async finds and ruff does not ...
ASYNC_RULES = "ASYNC102,ASYNC113,ASYNC119,ASYNC120,ASYNC128"
# ... and Trio's checkpoint contract, which binds a library but not its tests.
CHECKPOINT_RULES = "ASYNC910,ASYNC911"


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests and the documentation's code on every Python, on one with branch coverage."""
    session.install("--editable", ".[test]")
    if session.python == MEASURED_PYTHON and not session.posargs:
        run_measured_tests(session)
    elif session.python == PYTHONS[0]:
        run_tests(session, *QUICK)
    else:
        run_tests(session, *QUICK_EVERYWHERE)


@nox.session(python=HEAVY_PYTHON)
def heavy(session: nox.Session) -> None:
    """Run the tests that take seconds or thousands of descriptors, one after the other."""
    session.install("--editable", ".[test]")
    if session.posargs:
        session.run("python", "-m", "pytest", "-m", "heavy", *session.posargs)
        return
    # Each of these has a network of its own, and waits for SYNs that come again.
    waits = "tests/conformance/test_linux.py"
    session.run("python", "-m", "pytest", *WORKERS, "-m", "heavy", waits)
    session.run("python", "-m", "pytest", "-m", "heavy", f"--ignore={waits}")


@nox.session(python=PYTHONS[0])
def minimums(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml admits."""
    session.install("--editable", ".[test]", *lowest_versions())
    run_tests(session, *QUICK_EVERYWHERE)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling, async mistakes, and that what is public has a docstring."""
    install_group(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    run_side_by_side(
        session,
        ("flake8-async", "--enable", ASYNC_RULES, *modules("tests", "examples")),
        ("flake8-async", "--enable", f"{ASYNC_RULES},{CHECKPOINT_RULES}", *modules("trio_wsk")),
    )
    session.run("interrogate", "trio_wsk")
    session.run("codespell")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types, strictly: ours, those that users meet, and that none is missing."""
    session.install("--editable", ".[test]")
    install_group(session, "typing")
    session.run("mypy")
    here = ("--pythonpath", f"{session.bin}/python")  # or it would look into a `.venv` first
    session.run("basedpyright", *here)
    session.run("basedpyright", *here, "--verifytypes", "trio_wsk", "--ignoreexternal")


@nox.session
def layers(session: nox.Session) -> None:
    """Check that imports point down the layers only."""
    session.install("--editable", ".")
    install_group(session, "layers")
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, warnings as errors; the code in it runs in `tests`."""
    session.install("--editable", ".")
    install_group(session, "docs")
    session.run("towncrier", "build", "--draft", "--version", PYPROJECT["project"]["version"])
    session.run(
        "sphinx-build",
        "-E",
        "-W",
        "--keep-going",
        "--nitpicky",
        "--quiet",
        "docs",
        "docs/_build/html",
    )


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the sdist and the wheel: are all files in them, and does what is installed work?

    The tests have passed on these very octets, so only those run again that hang on how the
    package is installed: those of the sdist, against the wheel.
    """
    install_group(session, "wheel")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        session.run("python", "-m", "build", "--outdir", name)
        (built,) = folder.glob("*.whl")
        (sdist,) = folder.glob("*.tar.gz")
        with session.chdir(folder):
            session.install(str(built))
            session.run("python", "-c", "import trio_wsk")  # needs no more than it declares
            session.install(f"{built}[test]")
            shutil.unpack_archive(sdist, folder)
        suite = folder / sdist.name.removesuffix(".tar.gz")
        hold_to_the_tree(session, suite, SHIPPED)
        shutil.unpack_archive(built, folder / "wheel", "zip")
        hold_to_the_tree(session, folder / "wheel", ["trio_wsk"])
        shutil.rmtree(suite / "trio_wsk")  # or it would shadow the installed one
        with session.chdir(suite):
            run_tests(session, *QUICK_INSTALLED, *INSTALLED)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Run the benchmarks, every peer in the same run, and print the ratios; needs a C compiler.

    About a quarter of an hour; for development: `nox -s bench -- --quick --mode echo1`. What
    renews the documentation's page is said in docs/contributing.md.
    """
    session.install("--editable", ".")
    install_group(session, "bench")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session(default=False)
def model(session: nox.Session) -> None:
    """Walk every state of a small world, and run the model for hundreds of thousands of steps."""
    session.install("--editable", ".[test]")
    inspection = "tests/inspection"
    files = session.posargs or [
        f"{inspection}/test_inspection_walk.py",
        f"{inspection}/test_conditional_model.py",
    ]
    examples = os.environ.get("TRIO_WSK_EXAMPLES", MODEL_EXAMPLES)
    # Nothing hangs here that takes its time, so nothing ends it.
    unhurried = ("-s", "-o", "faulthandler_timeout=0")
    session.run("python", "-m", "pytest", *unhurried, *files, env={"TRIO_WSK_EXAMPLES": examples})


@nox.session(default=False, python=HEAVY_PYTHON)
def mutants(session: nox.Session) -> None:
    """Make small faults in what can be tested quickly, and name those that no test notices.

    An hour or so, most of it for the wire and the events of connections, whose tests wait
    for what a mutant never does; for one module: `nox -s mutants -- backoff`.
    """
    session.install("--editable", ".[test]")
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session(default=False, python=HEAVY_PYTHON)
def fuzz(session: nox.Session) -> None:
    """Look for octets that break what has to hold of any octets at all, a minute for each parser.

    For one, and longer: `nox -s fuzz -- hello --seconds 600`. With `--keep`, what goes a new way
    through a parser is kept, and is tried from then on with the quick tests.
    """
    session.install("--editable", ".[test]")
    install_group(session, "fuzz")
    session.run("python", "-m", "tests.fuzzing", *session.posargs)


def run_side_by_side(session: nox.Session, *commands: Sequence[str]) -> None:
    """Run commands that use one core each."""
    with ThreadPoolExecutor(len(commands)) as pool:
        for done in [pool.submit(session.run, *command) for command in commands]:
            done.result()


@nox.session(default=False, python=HEAVY_PYTHON)
def soak(session: nox.Session) -> None:
    """Load a service with workers, replace and kill them: is anything lost, or not given back?

    Ten minutes, or as many as are asked for: `nox -s soak -- --minutes 60`. What it does to the
    service comes again with the seed that it prints: `nox -s soak -- --seed 7`.
    """
    session.install("--editable", ".[test]")
    session.run("python", "-m", "tests.soak", *session.posargs)


def run_tests(session: nox.Session, *chosen: str) -> None:
    """Run what was asked for, in one process so that it can be debugged, or what is chosen."""
    if not session.posargs:
        collect_once(session)
    session.run("python", "-m", "pytest", *(session.posargs or (*SIDE_BY_SIDE, *chosen)))


def run_measured_tests(session: nox.Session) -> None:
    """Run all quick tests under coverage, and judge it."""
    collect_once(session)
    # Programs that tests start somewhere else are measured, too.
    session.env["COVERAGE_FILE"] = str(Path(f".coverage.{session.name}").absolute())
    session.run("coverage", "erase")  # what a run that was broken off has left would count, too
    session.run("coverage", "run", "-m", "pytest", *SIDE_BY_SIDE, *QUICK)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


def collect_once(session: nox.Session) -> None:
    """Have the bytecode made, which otherwise each worker makes of every test by itself.

    The programs that the tests start need it, too: without it they compile the package each time.
    """
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    session.run("python", "-m", "pytest", "--collect-only", "--quiet", "--quiet", silent=True)


def hold_to_the_tree(session: nox.Session, built: Path, folders: Sequence[str]) -> None:
    """Fail if not all that is in these folders was built into another one, octet for octet."""
    for folder in folders:
        ours, theirs = (files_of(root, folder) for root in (Path(), built))
        differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        if differing:
            session.error(f"{built.name} and the tree differ: {', '.join(differing)}")


def files_of(root: Path, folder: str) -> dict[str, bytes]:
    """Read what is in a folder, by its path below the root."""
    paths = {path.relative_to(root): path for path in (root / folder).rglob("*") if path.is_file()}
    return {
        str(name): path.read_bytes()
        for name, path in paths.items()
        if not NOT_SHIPPED.intersection(name.parts)
    }


def install_group(session: nox.Session, group: str) -> None:
    """Install a dependency group, which the session's pip need not know about."""
    session.install(*nox.project.dependency_groups(PYPROJECT, group))


def lowest_versions() -> list[str]:
    """Turn each `name>=version` that the package and its tests declare into `name==version`."""
    project = PYPROJECT["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    return [lowest_version(Requirement(line)) for line in declared]


def lowest_version(requirement: Requirement) -> str:
    """Turn one requirement into its lowest version; it must have exactly one bound, below."""
    (bound,) = requirement.specifier
    if bound.operator != ">=":
        raise ValueError(f"{requirement}: only a lower bound can be tried, as in `trio>=0.31`")
    marker = f"; {requirement.marker}" if requirement.marker else ""
    return f"{requirement.name}=={bound.version}{marker}"


def modules(*folders: str) -> list[str]:
    """List the Python files under some folders."""
    return [str(path) for folder in folders for path in sorted(Path(folder).rglob("*.py"))]
