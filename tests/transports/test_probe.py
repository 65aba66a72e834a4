"""What is found out about a machine, and that nobody notices."""

from __future__ import annotations

import os
import re
import resource
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers.gated import LOOPBACK, Gated, answer_to, queues, tables_of
from tests.helpers.namespaces import as_ordinary_user, in_own_namespace, set_sysctl
from tests.helpers.places import DOCS
from trio_wsk import (
    InspectAction,
    InspectPoint,
    InspectPointError,
    InvalidParameterError,
    ProbeReport,
    open_listening_socket,
    probe,
)
from trio_wsk._engine import choice as _choice
from trio_wsk._vocabulary.addresses import Address
from trio_wsk.transports import _trials
from trio_wsk.transports._linux_trials import find_listening, try_inspection
from trio_wsk.transports._probe import _sum_up
from trio_wsk.transports._trials import Trial
from trio_wsk.transports.linux._expressions import expression, queue_target
from trio_wsk.transports.linux._messages import be32
from trio_wsk.transports.linux._netlink import KernelRefusedError
from trio_wsk.transports.linux._nflog import PacketLog
from trio_wsk.transports.linux._nfqueue import PacketVerdict, Queue
from trio_wsk.transports.linux._sock_diag import SocketLookup

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from trio_wsk import ListeningSocket

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="what is expected is what Linux has"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

REFERENCE = DOCS / "reference" / "probe.md"
ALL = 0
EVERY_POINT = frozenset(InspectPoint)
AFTER_ONLY = frozenset({InspectPoint.AFTER_HANDSHAKE})
STEPS = ["packet-queue", "packet-log", "rules-ipv4", "rules-ipv6", "socket-lookup", "saved-syn"]


def missing(report: ProbeReport) -> list[str]:
    """Name what is not available."""
    return [finding.name for finding in report.findings if finding.available is False]


def failed(trials: Mapping[str, Trial]) -> list[str]:
    """Name the steps that have failed."""
    return [name for name, trial in trials.items() if not trial.available]


# ---------------------------------------------------------------------------- the report


@in_own_namespace
def test_nothing_is_missing_and_nothing_is_left_behind() -> None:
    """
    Whoever has the capability has everything, and afterwards there are no tables, no queues
    and no logs.
    """
    report = probe()

    assert ([], EVERY_POINT) == (missing(report), report.inspect_points)
    assert [] == tables_of(ALL)
    assert ("", "") == (queues(), Path("/proc/thread-self/net/netfilter/nfnetlink_log").read_text())


@as_ordinary_user
def test_ordinary_user_has_everything_in_a_namespace_of_its_own() -> None:
    """It takes no rights outside of the network namespace that is served."""
    report = probe()

    assert ([], EVERY_POINT) == (missing(report), report.inspect_points)
    assert [] == tables_of(ALL)


@pytest.mark.parametrize("host", LOOPBACK)
@in_own_namespace
def test_what_others_hold_stays_held(host: str) -> None:
    """While a server holds SYNs the machine can be probed, and the verdict still counts."""
    with Gated(host) as gated:
        client = gated.client()
        packet = gated.packet()

        report = probe()

        assert EVERY_POINT == report.inspect_points
        assert [gated.house.table] == tables_of(ALL)

        gated.queue.verdict(packet.packet_id, PacketVerdict.ACCEPT)
        gated.queue.flush()

        assert "" == answer_to(client)
        assert ([], 0) == (gated.queue.receive(), gated.queue.late_verdicts)


def test_ordinary_user_misses_the_capability(ordinary_user: None) -> None:
    """
    Without the capability there is inspection after the handshake only; the step that fails
    first is the queue's, and what would help is the capability.
    """
    report = probe()
    before = report.find("before-handshake")
    if before.available:
        pytest.skip("this user has CAP_NET_ADMIN")

    assert AFTER_ONLY == report.inspect_points
    assert "use the kernel's packet queues" == before.failed_step
    assert (
        "could not use the kernel's packet queues: Operation not permitted (EPERM)" == before.found
    )
    for name in ("silence", "before-handshake", "packet-queue", "packet-log", "rules-ipv4"):
        finding = report.find(name)

        assert "CAP_NET_ADMIN" in str(finding.remedy)
        assert "other processes" not in str(finding.remedy)

    assert ["silence", "before-handshake", *STEPS[:4]] == missing(report)


async def test_probe_works_inside_a_trio_run() -> None:
    """It is a plain function, for a task and for a thread."""
    here = probe()
    there = await trio.to_thread.run_sync(probe)

    assert (here.inspect_points, missing(here)) == (there.inspect_points, missing(there))


@in_own_namespace
async def test_listening_socket_can_do_what_the_report_promises() -> None:
    """Where the report says so, a listening socket inspects before the handshake."""
    assert InspectPoint.BEFORE_HANDSHAKE in probe().inspect_points

    async with inspecting():
        pass


async def test_listening_socket_fails_as_the_report_predicts(ordinary_user: None) -> None:
    """Where the report says no, a listening socket fails at the same step, and says the same."""
    before = probe().find("before-handshake")
    if before.available:
        pytest.skip("this user has CAP_NET_ADMIN")

    with pytest.raises(InspectPointError, match=re.escape(f"{before.found}; {before.remedy}")):
        async with inspecting():
            pass


def inspecting() -> AbstractAsyncContextManager[ListeningSocket]:
    """Open a listening socket that lets everybody in, before the handshake."""
    return open_listening_socket(
        0,
        host="127.0.0.1",
        inspect=lambda _: InspectAction.ACCEPT,
        inspect_point=InspectPoint.BEFORE_HANDSHAKE,
    )


def test_findings_are_those_of_the_reference() -> None:
    """The reference has a line for each finding, in the same order."""
    _, _, below = REFERENCE.read_text(encoding="utf-8").partition("## Findings\n")
    section, _, _ = below.partition("\n## ")
    names = [finding.name for finding in probe().findings]

    assert re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE) == names


def test_finding_is_found_by_its_name() -> None:
    """A program asks for a finding by its name, and hears which there are."""
    report = probe()

    assert report.findings[1] == report.find("trio")
    with pytest.raises(InvalidParameterError, match=r"'ipv5'; there are python, trio, .*ipv6"):
        report.find("ipv5")


def test_versions_are_facts() -> None:
    """The versions are there to be read, and are neither available nor missing."""
    report = probe()
    version = ".".join(map(str, sys.version_info[:3]))

    assert (None, f"CPython {version}") == (
        report.find("python").available,
        report.find("python").found.rstrip("+"),
    )
    assert (None, trio.__version__) == (report.find("trio").available, report.find("trio").found)


@pytest.mark.usefixtures("readiness")
def test_edges_are_told_from_waits() -> None:
    """Without epoll the report says what serves instead, and misses nothing for that."""
    finding = probe().find("edge-triggered")

    assert _choice.HAVE_EPOLL is finding.available
    assert ("epoll" == finding.found) is finding.available
    assert _choice.HAVE_EPOLL or "Trio's own waits serve" in finding.found


# ------------------------------------------------------------ before the handshake, by step


@in_own_namespace
def test_numbers_of_another_owner_are_refused() -> None:
    """
    A queue and a log that others own are missing, and the report says where to see who; the
    other steps are tried all the same.
    """
    with closing(Queue()) as queue, closing(PacketLog()) as log:
        trials = try_inspection(queue_numbers=[queue.number], log_numbers=[log.number])

        assert ["packet-queue", "packet-log"] == failed(trials)
        for name, number in (("queue", queue.number), ("log", log.number)):
            trial = trials[f"packet-{name}"]

            assert f"bind packet {name} {number}" == trial.failed_step
            assert "EPERM" in trial.found
            assert f"nfnetlink_{name}" in str(trial.remedy)


def absent(number: int, bypass: bool) -> bytes:  # noqa: FBT001 - as the real ones
    """Queue in a way that no kernel knows."""
    return expression("no-such", be32(1, number), be32(2, bypass))


@in_own_namespace
def test_missing_option_of_the_kernel_is_named() -> None:
    """Where the kernel can't queue by a rule, the remedy is its options."""
    trials = try_inspection(ways=[absent])

    assert ["rules-ipv4", "rules-ipv6"] == failed(trials)
    assert "have SYNs queued by a rule" == trials["rules-ipv4"].failed_step
    assert "CONFIG_NFT_QUEUE" in str(trials["rules-ipv4"].remedy)
    assert "not tried" in trials["rules-ipv6"].found
    assert trials["rules-ipv4"] == _sum_up(trials, with_ipv6=True)
    assert [] == tables_of(ALL)


@in_own_namespace
def test_rules_for_ipv6_are_needed_only_with_ipv6() -> None:
    """A kernel without rules for IPv6 will do where there is no IPv6."""
    asked = 0

    def once(number: int, bypass: bool) -> bytes:  # noqa: FBT001 - as the real ones
        nonlocal asked
        asked += 1
        return queue_target(number, bypass) if asked == 1 else absent(number, bypass)

    trials = try_inspection(ways=[once])

    assert ["rules-ipv6"] == failed(trials)
    assert trials["rules-ipv6"] == _sum_up(trials, with_ipv6=True)
    assert _sum_up(trials, with_ipv6=False).available


def test_lookup_that_finds_nothing_is_refused() -> None:
    """A kernel that does not tell about TCP's sockets is found out."""
    with socket.socket() as sock, closing(SocketLookup()) as lookup:
        sock.bind(("127.0.0.1", 0))
        address = Address.from_sockaddr(socket.AF_INET, sock.getsockname())
        with pytest.raises(KernelRefusedError, match=r"find the socket.*ENOENT.*tcp_diag"):
            find_listening(lookup, address)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_have_no_inspection_before_the_handshake(platform: str) -> None:
    """Elsewhere than on Linux nothing is tried, and the report says what to do instead."""
    trials = try_inspection(platform=platform)

    assert STEPS == failed(trials) == [*trials]
    for trial in trials.values():
        assert ("only Linux can", True) == (trial.found, trial.failed_step is not None)
        assert "after the handshake" in str(trial.remedy)


# ------------------------------------------------------------------------- everything else


def test_address_that_can_not_be_bound_is_missing() -> None:
    """A family counts as missing if its address can't be bound, and the reason is told."""
    trial = _trials.try_bind(socket.AF_INET, "192.0.2.1")

    assert trial == Trial(
        "could not bind a socket to 192.0.2.1: Cannot assign requested address (EADDRNOTAVAIL)",
        available=False,
        failed_step="bind a socket to 192.0.2.1",
        remedy="IPv4 is switched off here",
    )


def test_systems_differ_in_options_and_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this system, or this Python, has no name for is missing, and nothing would help."""
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    monkeypatch.delattr(socket, "AF_UNIX")
    report = probe()

    assert {"reuse-port", "unix-sockets"} <= {*missing(report)}
    assert "this system has no SO_REUSEPORT" == report.find("reuse-port").found
    assert "make a Unix socket" == report.find("unix-sockets").failed_step
    assert None is report.find("unix-sockets").remedy


@in_own_namespace
def test_limit_of_the_backlog_is_the_kernels() -> None:
    """The limit is that of the network namespace."""
    set_sysctl("net.core.somaxconn", 77)

    assert "77 (net.core.somaxconn)" == probe().find("backlog").found


def test_limit_of_the_backlog_has_a_substitute(tmp_path: Path) -> None:
    """Where the kernel doesn't tell, the limit is the one that the system was built with."""
    assert f"{socket.SOMAXCONN} (SOMAXCONN)" == _trials.try_backlog(tmp_path / "none").found


def test_limit_of_descriptors_tells_both() -> None:
    """What may be raised is told; what is at its ceiling is one number."""
    most, ceiling = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling - 1, ceiling))
    try:
        below = probe().find("descriptors").found
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, ceiling))
        at_it = probe().find("descriptors").found
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, ceiling))

    assert f"{ceiling - 1} (RLIMIT_NOFILE); it may raise that to {ceiling}" == below
    assert f"{ceiling} (RLIMIT_NOFILE)" == at_it


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (None, "no sockets were passed to this process")),
        ({"LISTEN_FDS": "2"}, (None, "2 passed to this process")),
        (
            {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:https"},
            (None, "2 passed to this process: http, https"),
        ),
        ({"LISTEN_FDS": "two"}, (False, "LISTEN_FDS='two' is no number")),
    ],
)
def test_sockets_of_a_service_manager_are_counted_and_left(
    variables: dict[str, str], expected: tuple[object, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was passed is told, and is still there for whoever takes it."""
    for name in ("LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    finding = probe().find("socket-activation")

    assert expected == (finding.available, finding.found)
    assert variables == {name: os.environ[name] for name in variables}
    assert (expected[0] is None) is (finding.failed_step is None) is (finding.remedy is None)
