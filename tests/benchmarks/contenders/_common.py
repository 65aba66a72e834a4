"""What every contender shares: the address, the read size, how it starts."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

HOST: Final = "127.0.0.1"

READ_SIZE: Final = 65536
"""Octets asked for at once: Trio's own default, and the others read no less."""

_PR_SET_PDEATHSIG: Final = 1
"""From ``<sys/prctl.h>``: the signal this process gets when its parent ends."""


def answers_once() -> bool:
    """Whether the mode on the command line is one answer per connection."""
    return sys.argv[1] == "echo1"


def announce(port: int) -> None:
    """Print the port that is listening, and never outlive the runner."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was told to watch it
        sys.exit("the runner is gone")
    print(port, flush=True)
