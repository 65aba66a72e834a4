"""Fuzz one parser, in a process of its own: ``python -m tests.fuzzing.one NAME [OPTION ...]``.

The options are those of libFuzzer, which never returns.
"""

from __future__ import annotations

import sys
from importlib import import_module


def main() -> None:
    """Have atheris see which way the package goes, and begin."""
    atheris = import_module("atheris")  # has no types, and is not there where types are checked
    with atheris.instrument_imports(include=["trio_wsk"]):
        claims = import_module("tests.fuzzing.claims")
    name, *options = sys.argv[1:]
    itself = f"{sys.executable} -m tests.fuzzing.one {name}"  # which it starts anew, to merge
    atheris.Setup([itself, *options], claims.CLAIMS[name].check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
