"""What has been found so far, one file for each parser: octets as hexadecimal digits, by line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["CORPUS", "read_corpus", "write_corpus"]

CORPUS: Final = Path(__file__).with_name("corpus")


def read_corpus(name: str) -> list[bytes]:
    """Return what was found for one parser."""
    path = CORPUS / f"{name}.txt"
    return [bytes.fromhex(line) for line in path.read_text("ascii").splitlines()]


def write_corpus(name: str, found: Iterable[bytes]) -> None:
    """Keep what was found for one parser, the shortest first."""
    lines = [octets.hex() for octets in sorted(set(found), key=lambda each: (len(each), each))]
    (CORPUS / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), "ascii")
