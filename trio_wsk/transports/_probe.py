"""What a whole machine has for a server: `probe`, and the report that it gives.

Everything is found out by trying it, never by asking who we are or which version a kernel has:
a capability without its module, or a module in a container that may not use it, is worth nothing.
"""

from __future__ import annotations

import platform
import socket
from typing import Final

import attrs
import trio

from trio_wsk._engine import choice
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.verdict import InspectPoint

from . import _trials
from ._linux_trials import try_inspection
from ._trials import Trial

__all__ = ["Finding", "ProbeReport", "probe"]

_BEFORE: Final = "before-handshake"
_RULES_IPV6: Final = "rules-ipv6"

_TITLES: Final = {
    "python": "Python",
    "trio": "Trio",
    "edge-triggered": "Edge-triggered readiness",
    "ipv4": "Listening over IPv4",
    "ipv6": "Listening over IPv6",
    "unix-sockets": "Unix sockets",
    "reuse-port": "Ports shared between processes",
    "socket-activation": "Sockets from a service manager",
    "backlog": "Connections that may wait for accept",
    "descriptors": "Open descriptors",
    "silence": "Silence after the handshake",
    _BEFORE: "Inspection before the handshake",
    "packet-queue": "Packet queue, which holds SYNs",
    "packet-log": "Packet log, which tells of resets meanwhile",
    "rules-ipv4": "Rules that queue and reject, for IPv4",
    _RULES_IPV6: "Rules that queue and reject, for IPv6",
    "socket-lookup": "Lookup of connections that were approved",
    "saved-syn": "Saved SYNs, which tell connections apart",
}
"""The findings, in the order of the report."""

_NO_EDGES: Final = "only Linux has epoll; Trio's own waits serve, at some cost for each wait"


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """By which programs call it: lower-case words with hyphens."""
    title: str
    """What it is, in words."""
    available: bool | None
    """Whether it can be had; None for what is a plain fact."""
    found: str
    """What there is; or which step failed, and the system's reason."""
    failed_step: str | None = None
    """The step that failed, to be read after "could not"; None if none has."""
    remedy: str | None = None
    """What would help, such as a capability, an option of the kernel, or whom to ask; None if
    nothing is missing, or nobody knows."""


@attrs.frozen(kw_only=True)
class ProbeReport:
    """What `probe` found, and when connection requests can be inspected here."""

    findings: tuple[Finding, ...]
    """What was looked at, always the same and in the same order."""
    inspect_points: frozenset[InspectPoint]
    """When connection requests can be inspected: `InspectPoint.AFTER_HANDSHAKE` always,
    `InspectPoint.BEFORE_HANDSHAKE` only if every step works that it needs."""

    def find(self, name: str) -> Finding:
        """Return the finding of that name.

        Raises:
          InvalidParameterError: there is none. (Yours.)
        """
        for finding in self.findings:
            if finding.name == name:
                return finding
        names = ", ".join(finding.name for finding in self.findings)
        raise InvalidParameterError(f"no finding is called {name!r}; there are {names}")


def probe() -> ProbeReport:
    """Try what a server could use on this machine, and undo it.

    A plain function: it blocks for some milliseconds, or for longer where the kernel has to
    load modules first. It needs no Trio run, and no privileges; what those would add is
    reported as missing. Call it before you serve, or in a thread.

    For inspection before the handshake it takes the steps that a listening socket takes: it
    binds a packet queue and a packet log, has rules for IPv4 and IPv6 checked by the kernel,
    looks up a listening socket of its own on loopback. No rule is ever in force, no traffic is
    touched, and nothing is left behind.

    What is reported holds for the calling thread: the network namespace it is in, and the
    capabilities it has. Others may take the last queue in the next moment.

    Returns:
      What was found. What is missing is a finding and no error.

    Source: capabilities(7), network_namespaces(7).
    """
    trials = _portable_trials()
    inspection = try_inspection()
    trials[_BEFORE] = before = _sum_up(inspection, with_ipv6=bool(trials["ipv6"].available))
    trials |= inspection
    points = {InspectPoint.AFTER_HANDSHAKE}
    if before.available:
        points.add(InspectPoint.BEFORE_HANDSHAKE)
    return ProbeReport(
        findings=tuple(
            Finding(name=name, title=title, **trials[name]._asdict())
            for name, title in _TITLES.items()
        ),
        inspect_points=frozenset(points),
    )


def _portable_trials() -> dict[str, Trial]:
    implementation = platform.python_implementation()
    return {
        "python": Trial(f"{implementation} {platform.python_version()}", available=None),
        "trio": Trial(trio.__version__, available=None),
        "edge-triggered": _try_edges(),
        "ipv4": _trials.try_bind(socket.AF_INET, "0.0.0.0"),  # noqa: S104 - nothing listens
        "ipv6": _trials.try_bind(socket.AF_INET6, "::"),
        "unix-sockets": _trials.try_unix_sockets(),
        "reuse-port": _trials.try_option("SO_REUSEPORT"),
        "socket-activation": _trials.try_socket_activation(),
        "backlog": _trials.try_backlog(),
        "descriptors": _trials.try_descriptors(),
        "silence": _trials.try_silence(),
    }


def _try_edges() -> Trial:
    if choice.HAVE_EPOLL:
        return Trial("epoll")
    return Trial(_NO_EDGES, available=False, failed_step="open an epoll")


def _sum_up(steps: dict[str, Trial], *, with_ipv6: bool) -> Trial:
    """Say whether all that is needed works; if not, what fails first."""
    for name, trial in steps.items():
        if not trial.available and (with_ipv6 or name != _RULES_IPV6):
            return trial
    return Trial("every step that it needs works")
