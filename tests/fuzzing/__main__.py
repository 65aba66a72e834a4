"""Fuzz the parsers: ``python -m tests.fuzzing [WORD ...] [--seconds NUMBER] [--keep]``.

Words choose the parsers with such a word in their name; without any it is all of them, one after
the other. Octets that break a claim are printed, and then the exit code is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final

from tests.fuzzing.claims import CLAIMS, Claim
from tests.fuzzing.corpus import read_corpus, write_corpus

SLOW: Final = 10
"""Seconds after which octets take too long."""


def fuzz(name: str, claim: Claim, seconds: int, *, keeps: bool) -> bool:
    """Fuzz one parser; whether its claim has held."""
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as folder:
        found, start, best = (Path(folder) / each for each in ("found", "start", "best"))
        lay_out(found, [])
        lay_out(start, [*claim.start, *read_corpus(name)])
        print(f"--- {name}", flush=True)
        limits = (f"-max_total_time={seconds}", f"-max_len={claim.longest}", f"-timeout={SLOW}")
        broken = f"-artifact_prefix={folder}/broken-"
        has_held = run(name, *limits, broken, "-print_final_stats=1", found, start)
        for path in Path(folder).glob("broken-*"):
            print(f"{name}: {path.name}: {path.read_bytes().hex()}", flush=True)
        if keeps and has_held:
            lay_out(best, claim.start)
            run(name, "-merge=1", best, start, found)
            write_corpus(name, {path.read_bytes() for path in best.iterdir()} - {*claim.start})
    return has_held


def lay_out(folder: Path, octets: Iterable[bytes]) -> None:
    """Write each into a file, as libFuzzer reads them."""
    folder.mkdir()
    for each in octets:
        (folder / sha256(each).hexdigest()).write_bytes(each)


def run(name: str, *options: str | Path) -> bool:
    """Run libFuzzer; whether it has found nothing."""
    command = [sys.executable, "-m", "tests.fuzzing.one", name, *map(str, options)]
    return subprocess.run(command, check=False).returncode == 0  # noqa: S603 - our own program


def main() -> None:
    """Fuzz the parsers that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--seconds", type=int, default=60, help="for each parser")
    parser.add_argument("--keep", action="store_true", help="what goes a new way, in the corpus")
    options = parser.parse_args()
    chosen = {
        name: claim
        for name, claim in CLAIMS.items()
        if not options.words or any(word in name for word in options.words)
    }
    broken = [
        name
        for name, claim in chosen.items()
        if not fuzz(name, claim, options.seconds, keeps=options.keep)
    ]
    sys.exit(f"a claim is broken: {', '.join(broken)}" if broken else 0)


if __name__ == "__main__":
    main()
