"""Everything that is checked, one session per question.

`nox` asks all but `bench`, `model` and `mutants`, which take too long.
"""

from __future__ import annotations

import os
import shutil
import tempfile
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

# Most of what a quick test takes is waiting, so two cores are not busy with two workers. A file
# stays in one piece: the blocks of a page share a namespace, and many a fixture is a module's.
# Who hangs takes its worker with it; another one would hang on the same test.
SIDE_BY_SIDE = ("-n", "4", "--dist", "loadfile", "--max-worker-restart", "0")
QUICK = (*SIDE_BY_SIDE, "-m", "not heavy")
# What asks the kernel for its answers, over and over, gets the same ones in between.
QUICK_IN_BETWEEN = (*SIDE_BY_SIDE, "-m", "not heavy and not kernel")

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
    else:
        run_tests(session)


@nox.session(python=HEAVY_PYTHON)
def heavy(session: nox.Session) -> None:
    """Run the tests that take seconds or thousands of descriptors, one after the other."""
    session.install("--editable", ".[test]")
    session.run("python", "-m", "pytest", "-m", "heavy", *session.posargs)


@nox.session(python=PYTHONS[0])
def minimums(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml admits."""
    session.install("--editable", ".[test]", *lowest_versions())
    run_tests(session)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling, async mistakes, and that what is public has a docstring."""
    install_group(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("flake8-async", "--enable", ASYNC_RULES, *modules("trio_wsk", "tests", "examples"))
    session.run("flake8-async", "--enable", CHECKPOINT_RULES, *modules("trio_wsk"))
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
    """Build the sdist and the wheel; install one, run the other's tests against it."""
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
        shutil.rmtree(suite / "trio_wsk")  # or it would shadow the installed one
        with session.chdir(suite):
            run_tests(session)


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

    A quarter of an hour; for one module: `nox -s mutants -- backoff`.
    """
    session.install("--editable", ".[test]")
    session.run("python", "-m", "tests.mutants", *session.posargs)


def run_tests(session: nox.Session) -> None:
    """Run what was asked for, in one process so that it can be debugged, or all quick tests."""
    is_in_between = session.python in PYTHONS[1:-1]
    quick = QUICK_IN_BETWEEN if is_in_between else QUICK
    session.run("python", "-m", "pytest", *(session.posargs or quick))


def run_measured_tests(session: nox.Session) -> None:
    """Run all quick tests under coverage, and judge it."""
    session.env["COVERAGE_FILE"] = f".coverage.{session.name}"
    session.run("coverage", "erase")  # what a run that was broken off has left would count, too
    session.run("coverage", "run", "-m", "pytest", *QUICK)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


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
