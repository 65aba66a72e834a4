"""
HAProxy, on one thread, by a rule, before an echo server of ours.

    python -m tests.benchmarks.contenders.haproxy TASK RULE PROGRAM

RULE is one of `wsk_ruled`, or none of them: ``none``, ``unread``. PROGRAM is the server behind it.
It is a process of its own, whose CPU is on no account here: a connection costs HAProxy two, the
client's and that one. So it is compared with itself, with a rule and without; who is turned away
has only the one.

This process becomes HAProxy, so that the runner reads the clock of that.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import Final

from ._common import BACKLOG, HOST, announce
from ._listed import addresses

CONFIG: Final = """
global
  nbthread 1
  maxconn 1000
defaults
  mode tcp
  timeout connect 10s
  timeout client 10s
  timeout server 10s
listen it
  bind fd@{listener} {accepts}
  option nolinger
{rules}
  server behind {host}:{port}
"""

RULES: Final = {
    "listed": "  tcp-request connection reject if {{ src -f {list} }}",
    "denied": "  tcp-request connection reject if {{ src -f {list} }}",
    "limited": """
  stick-table type ip size 100k expire 60s store conn_cur,conn_rate(1s)
  tcp-request connection track-sc0 src
  tcp-request connection reject if {{ sc0_conn_cur gt 1000 }} || {{ sc0_conn_rate gt 1000 }}""",
    "hello": """
  tcp-request inspect-delay 10s
  tcp-request content accept if {{ req.ssl_sni -i example.com }}
  tcp-request content reject if WAIT_END""",
}


def given(name: str, lines: Iterable[str]) -> str:
    """Keep a file in memory for the program that this process becomes; return its path."""
    descriptor = os.memfd_create(name, 0)
    with os.fdopen(os.dup(descriptor), "w") as file:
        file.writelines(f"{line}\n" for line in lines)
    return f"/proc/self/fd/{descriptor}"


def port_behind(task: str, program: str) -> int:
    """Start the server behind, which ends with us."""
    behind = subprocess.Popen([program, task], stdout=subprocess.PIPE)  # noqa: S603 - our own
    assert behind.stdout is not None
    return int(behind.stdout.readline())


def main(task: str, rule: str, program: str) -> None:
    """Serve until killed."""
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    os.set_inheritable(listener.fileno(), True)  # noqa: FBT003 - its only argument
    is_listed = rule in {"listed", "denied"}
    listed = given("list", addresses(clients=rule == "denied")) if is_listed else ""
    config = CONFIG.format(
        listener=listener.fileno(),
        accepts="accept-proxy" if rule == "proxied" else "",
        rules=RULES.get(rule, "").format(list=listed),
        host=HOST,
        port=port_behind(task, program),
    )
    haproxy = shutil.which("haproxy")
    assert haproxy is not None
    announce(listener.getsockname()[1])
    os.execv(haproxy, [haproxy, "-q", "-db", "-f", given("config", [config])])  # noqa: S606 - meant


if __name__ == "__main__":
    main(*sys.argv[1:])
