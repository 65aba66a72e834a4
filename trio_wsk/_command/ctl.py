"""``ctl``: ask a running server, or have it do something, over its control socket."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_wsk._vocabulary.errors import WskError
from trio_wsk.control import ask_control

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

__all__ = ["add_ctl"]

_CTL: Final = "ask a running server, or have it do something"
_CONTROL: Final = "the server's control socket"
_WHAT: Final = (
    "statistics, connections, rules, workers, penalties; pause, resume, refuse, drain, abort,"
    " forgive, log-level"
)
_ARGUMENTS: Final = "what the command takes: most=10, id=7, worker=2, level=DEBUG"

WRONG: Final = 2
"""The exit status of who asked for something wrong, as argparse's."""

INTERRUPTED: Final = 130
"""That of who has waited for no answer any more, by Ctrl-C, as a shell has it."""

_TAKEN: Final = {"path", "command"}
"""What no command takes, since it says where, and which one, it is."""


def add_ctl(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Tell the parser of the command."""
    parser = add_parser("ctl", help=_CTL, description=f"{_CTL.capitalize()}.")
    parser.add_argument("--control", metavar="PATH", required=True, help=_CONTROL)
    parser.add_argument("what", metavar="COMMAND", help=_WHAT)
    parser.add_argument("arguments", metavar="NAME=VALUE", nargs="*", help=_ARGUMENTS)
    parser.set_defaults(run=_ctl)


def _ctl(options: argparse.Namespace) -> int:
    arguments: dict[str, object] = {}
    for text in options.arguments:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or name in _TAKEN:
            sys.stderr.write(f"a command takes NAME=VALUE, such as most=10, not {text!r}\n")
            return WRONG
        arguments[name] = _value(value)
    try:
        result: Any = trio.run(partial(ask_control, options.control, options.what, **arguments))
    except WskError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    if result is not None:
        sys.stdout.write(f"{json.dumps(result, indent=2)}\n")
    return 0


def _value(text: str) -> object:
    """Read what looks like JSON, such as a number, or a text in quotes; all else is a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
