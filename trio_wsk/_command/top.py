"""``top``: what a running server does, live in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

__all__ = ["add_top"]

_TOP: Final = "show what a running server does, live"
_CONTROL: Final = "the server's control socket"
_INTERVAL: Final = "seconds between two looks; 1 by default"
_ONCE: Final = "look twice, print what has happened between, and end; as where nobody looks at it"

SHORTEST: Final = 0.1
"""Seconds between two looks, at least: nobody reads faster."""

WRONG: Final = 2
"""The exit status of who asked for something wrong, as argparse's."""


def add_top(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Tell the parser of the command."""
    parser = add_parser("top", help=_TOP, description=f"{_TOP.capitalize()}.")
    parser.add_argument("--control", metavar="PATH", required=True, help=_CONTROL)
    parser.add_argument("--interval", metavar="SECONDS", type=float, default=1.0, help=_INTERVAL)
    parser.add_argument("--once", action="store_true", help=_ONCE)
    parser.set_defaults(run=_top)


def _top(options: argparse.Namespace) -> int:
    if not SHORTEST <= options.interval < float("inf"):
        sys.stderr.write(
            f"--interval is {SHORTEST:g} or more, in seconds, not {options.interval}\n"
        )
        return WRONG
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra, and who serves needs none

        from .watching import Watch  # noqa: PLC0415 - as above
    except ImportError as missing:
        sys.stderr.write(
            f"top needs {missing.name}, which is not installed: pip install 'trio-wsk[top]'\n"
        )
        return WRONG
    console = Console()
    watch = Watch(options.control, options.interval, console)
    if console.is_terminal and not options.once:
        trio.run(watch.live)
        return 0
    trio.run(watch.once)
    if watch.problem is not None:
        sys.stderr.write(f"{watch.problem}\n")
        return 1
    return 0
