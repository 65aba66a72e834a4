"""
A supervisor with workers whose handler takes a while of a processor's time.

    python -m tests.benchmarks.contenders.wsk_workers TASK WORKERS [--shared-queue]

It tells how evenly the workers were used, as `_lag` tells lags: from ``start`` to ``tell``, the
time of the one that had least to do, in percent of an even share. Each connection is the same work,
so that is its share of the connections.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import trio_wsk

from ._common import HOST, PR_SET_PDEATHSIG, announce

ROUNDS: Final = 1000
"""Of hashing: a millisecond or two, of which a connection costs little."""


async def work(connection: trio_wsk.Connection) -> None:
    """Echo once, after some work."""
    data = await connection.receive_some()
    hashlib.pbkdf2_hmac("sha256", b"octets", b"salt", ROUNDS)
    await connection.send_all(data)


def main() -> None:
    """Run the supervisor, and answer questions, until killed."""
    workers, *more = sys.argv[2:]
    module = f"{__spec__.name}:work"
    options = ["--host", HOST, "--port", "0", "--workers", workers, *more]
    supervisor = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "trio_wsk", "serve", module, *options],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_us,  # noqa: PLW1509 - it calls nothing that could hold a lock
    )
    assert supervisor.stderr is not None
    line = supervisor.stderr.readline()
    before, _, where = line.partition(f"listening on {HOST}:")
    if before:
        sys.exit(line)  # which says why it does not
    announce(int(where.partition(",")[0]))
    answer(supervisor.pid)


def end_with_us() -> None:
    """In the supervisor: end when this program does, which is killed; its workers end then, too."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def answer(supervisor: int) -> None:
    """Answer each question."""
    before: list[int] = []
    for line in sys.stdin:
        now = times_of(supervisor)
        if line == "start\n":
            before = now
        else:
            print(json.dumps({"even": evenness(before, now)}), flush=True)


def times_of(supervisor: int) -> list[int]:
    """Return how many nanoseconds each worker has had, whichever thread has started it."""
    threads = Path(f"/proc/{supervisor}/task").glob("*/children")
    workers = [pid for each in threads for pid in each.read_text("ascii").split()]
    return [int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0]) for pid in workers]


def evenness(before: list[int], now: list[int]) -> float:
    """Return the least busy one's time in percent of what would be even."""
    times = [late - early for early, late in zip(before, now, strict=True)]
    return 100 * len(times) * min(times) / max(sum(times), 1)


if __name__ == "__main__":
    main()
