"""What every contender shares: the address, the read size, the task, how it starts."""

from __future__ import annotations

import ctypes
import os
import signal
import ssl
import sys
from collections.abc import Mapping
from typing import Final, TypeVar

T = TypeVar("T")

HOST: Final = "127.0.0.1"

READ_SIZE: Final = 65536
"""Octets asked for at once: Trio's own default, and the others read no less."""

BACKLOG: Final = 65535
"""For those whose own is too small for a burst: asyncio's 100 makes the hundred-and-first wait
for its SYN to be sent again, a second later. It is Trio's, and ours; the kernel cuts it.
(asyncio's own loop also accepts that many in one pass: it gets more done, and lags more.)"""

PR_SET_PDEATHSIG: Final = 1
"""From ``<sys/prctl.h>``: the signal this process gets when its parent ends."""


def task() -> str:
    """What the command line says is done with a connection."""
    return sys.argv[1]


SAME_HANDLER: Final = {"lag": "once", "tls": "all", "tls-once": "once"}
"""Tasks whose handlers are another task's."""


def for_task(handlers: Mapping[str, T]) -> T:
    """Choose the handler of the task."""
    return handlers[SAME_HANDLER.get(task(), task())]


def tls_context() -> ssl.SSLContext | None:
    """Make a context that has a certificate, if the task is to speak TLS."""
    if task() not in {"tls", "tls-once"}:
        return None
    import trustme  # noqa: PLC0415 - who doesn't speak TLS is not to wait for it

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("server.test").configure_cert(context)
    return context


def has_sleeper() -> bool:
    """Whether a task is to tell how late it wakes."""
    return task() == "lag"


def announce(port: int) -> None:
    """Print the port that is listening, and never outlive the runner."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was told to watch it
        sys.exit("the runner is gone")
    print(port, flush=True)
