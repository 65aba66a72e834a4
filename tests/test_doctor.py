"""The command line, ``python -m trio_wsk``."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from importlib import metadata
from typing import Any

import pytest

from tests.helpers.namespaces import in_own_namespace
from tests.helpers.seccomp import knows_this_machine
from trio_wsk import probe
from trio_wsk.__main__ import main

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="what is expected is what Linux has"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

PATIENCE = 60
"""Seconds that a process is given."""

POINTS = "Connection requests can be inspected: "

# What is imported late could be where root only may read.
ORDINARY_USER = """
import codecs, os, resource, sys
from trio_wsk.__main__ import main
codecs.lookup("ascii")
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
sys.exit(main(sys.argv[1:]))
"""

# What systemd's `RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6` does.
WITHOUT_NETLINK = """
import errno, socket, sys
from tests.helpers.seccomp import refuse
from trio_wsk.__main__ import main
refuse("socket", errno.EAFNOSUPPORT, first_argument=socket.AF_NETLINK)
sys.exit(main(sys.argv[1:]))
"""


def output_of(*arguments: str) -> tuple[int, str]:
    """Run the program in this process; return its exit status, and what it prints."""
    with redirect_stdout(io.StringIO()) as output:
        status = main(arguments)
    return status, output.getvalue()


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run Python, with warnings as errors."""
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-W", "error", *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        encoding="utf-8",
    )


def as_ordinary_user(*arguments: str) -> tuple[int, str]:
    """Run the program as somebody without rights; return its exit status, and what it prints."""
    done = run("-c", ORDINARY_USER, *arguments)

    assert "" == done.stderr

    return done.returncode, done.stdout


def needs_root_or_no_rights() -> None:
    """Skip where nobody without rights can be had."""
    if os.geteuid() != 0 and probe().find("packet-queue").available:
        pytest.skip("this user has CAP_NET_ADMIN, and can't become another")


@in_own_namespace
def test_report_has_a_line_for_each_finding() -> None:
    """Where nothing is missing, each finding has one line, in the order of the report."""
    status, output = output_of("doctor")
    *lines, last = output.splitlines()
    marks = {True: "yes  ", False: "no   ", None: "     "}

    assert 0 == status
    assert f"{POINTS}before-handshake, after-handshake" == last
    assert len(lines) == len(probe().findings)
    for line, finding in zip(lines, probe().findings, strict=True):
        assert line.startswith(f"{marks[finding.available]}{finding.title}: ")


def test_what_would_help_stands_beneath() -> None:
    """What an ordinary user misses is marked, with the reason, and what would help beneath it."""
    needs_root_or_no_rights()
    status, output = as_ordinary_user("doctor")
    lines = output.splitlines()
    line = (
        "no   Inspection before the handshake: could not use the kernel's packet queues: "
        "Operation not permitted (EPERM)"
    )

    assert 0 == status
    assert line in lines
    assert lines[lines.index(line) + 1].startswith("       What would help: ")
    assert "CAP_NET_ADMIN" in lines[lines.index(line) + 1]
    assert f"{POINTS}after-handshake" == lines[-1]


def test_json_is_the_report() -> None:
    """With ``--json`` programs read which step failed, why, and what would help."""
    needs_root_or_no_rights()
    status, output = as_ordinary_user("doctor", "--json")
    whole: dict[str, Any] = json.loads(output)
    findings = {finding["name"]: finding for finding in whole["findings"]}

    assert (0, ["after-handshake"]) == (status, whole["inspect_points"])
    assert [finding.name for finding in probe().findings] == [*findings]

    queue = findings["packet-queue"]

    assert (False, "use the kernel's packet queues") == (queue["available"], queue["failed_step"])
    assert "EPERM" in queue["found"]
    assert "CAP_NET_ADMIN" in queue["remedy"]
    assert {"name", "title", "available", "found", "failed_step", "remedy"} == queue.keys()


def test_what_is_required_and_missing_fails() -> None:
    """Whoever requires what is not there ends with status 1, after the same report."""
    needs_root_or_no_rights()
    status, output = as_ordinary_user("doctor", "--require", "before-handshake")

    assert (1, f"{POINTS}after-handshake") == (status, output.splitlines()[-1])
    assert 0 == as_ordinary_user("doctor", "--require", "after-handshake")[0]


@in_own_namespace
def test_what_is_required_and_there_does_not_fail() -> None:
    """Whoever requires what is there ends with status 0; also in JSON."""
    assert 0 == output_of("doctor", "--require", "before-handshake")[0]

    status, output = output_of("doctor", "--json", "--require", "before-handshake")

    assert 0 == status
    assert ["before-handshake", "after-handshake"] == json.loads(output)["inspect_points"]


def test_missing_requirement_fails_in_this_process(ordinary_user: None) -> None:
    """The exit status is that of `main`, too."""
    if probe().find("before-handshake").available:
        pytest.skip("this user has CAP_NET_ADMIN")

    assert 1 == output_of("doctor", "--require", "before-handshake")[0]
    assert "What would help" in output_of("doctor")[1]


def test_module_runs_as_a_program() -> None:
    """``python -m trio_wsk doctor`` is the same program."""
    done = run("-m", "trio_wsk", "doctor", "--json")

    assert (0, "") == (done.returncode, done.stderr)
    assert {"inspect_points", "findings"} == json.loads(done.stdout).keys()


def test_no_command_prints_help() -> None:
    """Without a command there is help, and status 2."""
    status, output = output_of()

    assert 2 == status
    assert output.startswith("usage: python -m trio_wsk ")
    assert "doctor" in output


@pytest.mark.parametrize(
    "arguments",
    [["surgeon"], ["doctor", "--require", "now"], ["doctor", "--yaml"]],
    ids=" ".join,
)
def test_wrong_command_line_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A command or an option that there is not ends with status 2, and says so."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert 2 == ended.value.code
    assert "error: " in capsys.readouterr().err


def test_version_is_that_of_the_package() -> None:
    """``--version`` prints what pip would say."""
    assert (0, f"trio_wsk {metadata.version('trio-wsk')}\n") == output_of("--version")


@pytest.mark.skipif(not knows_this_machine(), reason="its system calls have other numbers")
def test_service_without_netlink_is_told_which_setting_forbids_it() -> None:
    """
    Where a filter of system calls leaves out AF_NETLINK, the remedy is its setting, and not a
    kernel that has been built otherwise.
    """
    done = run("-c", WITHOUT_NETLINK, "doctor")

    assert "" == done.stderr
    assert "RestrictAddressFamilies= has to name AF_NETLINK" in " ".join(done.stdout.split())
    assert "has not been built" not in done.stdout
