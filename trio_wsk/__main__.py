"""The command line: ``python -m trio_wsk serve package.module:handler --port 7007``."""

from __future__ import annotations

import argparse
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ._command.ctl import add_ctl
from ._command.doctor import add_doctor
from ._command.serve import add_check, add_serve
from ._command.top import add_top

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]

_MISUSED: Final = 2
"""As argparse ends, too."""

_SCRIPT: Final = "trio-wsk"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Args:
      arguments: What follows the name of the program; without it, the process's own.

    Returns:
      The exit status: 0; 1 if what was asked about is not so; 2 without a command, or for a
      configuration that is wrong.

    Raises:
      SystemExit: the command line is wrong (2), or asked for help (0); or as for `run`.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.version:
        sys.stdout.write(f"trio_wsk {metadata.version('trio-wsk')}\n")
        return 0
    if options.command is None:
        parser.print_help()
        return _MISUSED
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def _parser() -> argparse.ArgumentParser:
    called = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(
        prog=_SCRIPT if called == _SCRIPT else "python -m trio_wsk",
        description="A server toolkit for Trio.",
    )
    parser.add_argument("--version", action="store_true", help="print the version of trio_wsk")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    add_serve(commands.add_parser)
    add_check(commands.add_parser)
    add_doctor(commands.add_parser)
    add_top(commands.add_parser)
    add_ctl(commands.add_parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
